/*
 * test_graph.c - random graphs beside a model in plain C: what can be reached lives, the rest dies.
 *
 * The model knows each object's references and how many references the test holds.  Each step changes
 * object and model alike: makes an object, stores, moves or clears a reference, takes or drops one.  No
 * object that the model can reach may be destroyed, ever; after a collection exactly those are alive.
 */

#include "support.h"

#include <sched.h>

TestSuite(graph, .init = enter, .fini = leave);

enum { OBJECTS = 48, ITEMS = 5, NOBODY = -1 };

struct model {
    uint64_t seed;
    ouro_object *objects[OBJECTS]; /* valid while reachable */
    bool exists[OBJECTS];
    int items[OBJECTS][ITEMS]; /* what it refers to */
    unsigned roots[OBJECTS];   /* references that the test holds */
    bool reachable[OBJECTS];
};

/* Where the destruction of an object is noted; its number is in the object. */
static atomic_bool destroyed[OBJECTS];

/* Like an array of the test support, with its number behind the items. */
struct numbered {
    ouro_header ouro;
    int64_t number;
    ouro_object *items[ITEMS];
};

static void forget_destroyed(void)
{
    for (int i = 0; i < OBJECTS; i++)
        destroyed[i] = false;
}

static const ouro_type *numbered_type, *tabled_type;

static void numbered_visit(void *self, ouro_visitor *visitor)
{
    struct numbered *numbered = self;

    ouro_visit(visitor, &numbered->items[0]);
    ouro_visit_array(visitor, &numbered->items[1], ITEMS - 1);
}

static void numbered_destroy(void *self)
{
    struct numbered *numbered = self;

    for (int i = 0; i < ITEMS; i++)
        CHECK(!numbered->items[i]);
    CHECK(!destroyed[numbered->number]);
    destroyed[numbered->number] = true;
}

static void register_numbered(void)
{
    static uint16_t fields[ITEMS];
    ouro_type_spec spec = {.name = "numbered",
                           .size = sizeof(struct numbered),
                           .destroy = numbered_destroy};

    spec.visit = numbered_visit;
    CHECK(ouro_type_register(&spec, &numbered_type) == OURO_OK);
    for (size_t i = 0; i < ITEMS; i++)
        fields[i] = (uint16_t)(offsetof(struct numbered, items) + i * sizeof(ouro_object *));
    spec.visit = NULL;
    spec.fields = fields;
    spec.field_count = ITEMS;
    CHECK(ouro_type_register(&spec, &tabled_type) == OURO_OK);
}

static struct numbered *at(struct model *model, int i)
{
    return (struct numbered *)(void *)model->objects[i];
}

static void reach(struct model *model)
{
    int stack[OBJECTS], depth = 0;

    memset(model->reachable, 0, sizeof model->reachable);
    for (int i = 0; i < OBJECTS; i++) {
        if (model->roots[i] > 0) {
            model->reachable[i] = true;
            stack[depth++] = i;
        }
    }
    while (depth > 0) {
        int from = stack[--depth];

        for (int i = 0; i < ITEMS; i++) {
            int to = model->items[from][i];

            if (to != NOBODY && !model->reachable[to]) {
                model->reachable[to] = true;
                stack[depth++] = to;
            }
        }
    }
}

static void check_alive(struct model *model, const char *when)
{
    reach(model);
    for (int i = 0; i < OBJECTS; i++)
        cr_assert(!model->reachable[i] || !destroyed[i], "seed %#llx: object %d is dead, %s",
                  (unsigned long long)model->seed, i, when);
}

static void check_exact(struct model *model)
{
    size_t count = 0;

    check_alive(model, "after a collection");
    for (int i = 0; i < OBJECTS; i++) {
        cr_assert(!model->exists[i] || model->reachable[i] || destroyed[i],
                  "seed %#llx: object %d is garbage and alive", (unsigned long long)model->seed, i);
        count += model->reachable[i];
        /* Numbers of the dead can be given again. */
        model->exists[i] &= model->reachable[i];
    }
    cr_assert_eq(live_objects(), count, "seed %#llx", (unsigned long long)model->seed);
    for (int i = 0; i < OBJECTS; i++) {
        uint32_t references = model->roots[i];

        if (!model->exists[i])
            continue;
        for (int from = 0; from < OBJECTS; from++) {
            for (int item = 0; model->exists[from] && item < ITEMS; item++)
                references += model->items[from][item] == i;
        }
        cr_assert_eq(ouro_refcount(model->objects[i]), references, "seed %#llx: object %d",
                     (unsigned long long)model->seed, i);
    }
}

static void make(struct model *model, uint64_t *chance)
{
    for (int i = 0; i < OBJECTS; i++) {
        /* A number that is free: never used, or of an object that is known to be dead. */
        if (model->exists[i] && !destroyed[i])
            continue;
        struct numbered *o = ouro_new(random_below(chance, 2) ? numbered_type : tabled_type);

        CHECK(o);
        o->number = i;
        destroyed[i] = false;
        model->objects[i] = OURO_OF(o);
        model->exists[i] = true;
        model->roots[i] = 1;
        for (int item = 0; item < ITEMS; item++)
            model->items[i][item] = NOBODY;
        return;
    }
}

/* One of the objects that can be reached, or NOBODY. */
static int pick(struct model *model, uint64_t *chance)
{
    int start = (int)random_below(chance, OBJECTS);

    for (int i = 0; i < OBJECTS; i++) {
        if (model->reachable[(start + i) % OBJECTS])
            return (start + i) % OBJECTS;
    }
    return NOBODY;
}

static void store(struct model *model, int from, int item, int to)
{
    ouro_object *old = at(model, from)->items[item];

    at(model, from)->items[item] = to == NOBODY ? NULL : ouro_incref(model->objects[to]);
    model->items[from][item] = to;
    ouro_decref_or_null(old);
}

/* Moves a reference of the test into an object. */
static void hand_over(struct model *model, int from, int item, int to)
{
    ouro_move(at(model, from), &at(model, from)->items[item], model->objects[to]);
    model->items[from][item] = to;
    model->roots[to]--;
}

static void step(struct model *model, uint64_t *chance)
{
    reach(model);
    int from = pick(model, chance), to = pick(model, chance);
    int item = (int)random_below(chance, ITEMS);
    uint32_t what = random_below(chance, 100);

    if (from == NOBODY || what < 25) {
        make(model, chance);
    } else if (what < 55) {
        store(model, from, item, to);
    } else if (what < 62) {
        store(model, from, item, NOBODY);
    } else if (what < 70) {
        model->roots[from]++;
        ouro_incref(model->objects[from]);
    } else if (what < 75 && model->roots[to] > 0) {
        hand_over(model, from, item, to);
    } else if (model->roots[from] > 0) {
        model->roots[from]--;
        ouro_decref(model->objects[from]);
    }
    check_alive(model, "after a step");
}

static void run_steps(void *argument)
{
    struct model *model = argument;
    uint64_t chance = model->seed * 3 + 1;
    int count = 20 + (int)random_below(&chance, 80);

    for (int i = 0; i < count; i++) {
        step(model, &chance);
        if (random_below(&chance, 20) == 0) {
            ouro_collect();
            check_exact(model);
        }
    }
    model->seed += UINT64_C(1) << 32;
}

static void drop_all(struct model *model)
{
    for (int i = 0; i < OBJECTS; i++) {
        while (model->roots[i] > 0) {
            model->roots[i]--;
            ouro_decref(model->objects[i]);
        }
    }
    ouro_collect();
    check_exact(model);
    cr_assert_eq(live_objects(), 0);
}

Test(graph, in_one_thread)
{
    register_numbered();
    for (uint64_t seed = 1; seed <= SCALE(1500, 150); seed++) {
        struct model model = {.seed = seed};

        forget_destroyed();
        for (int part = 0; part < 3; part++)
            run_steps(&model);
        drop_all(&model);
    }
}

/* The same model goes from thread to thread, so that objects belong to seats of others, taken or not. */
Test(graph, in_changing_threads)
{
    register_numbered();
    for (uint64_t seed = 1; seed <= SCALE(200, 30); seed++) {
        struct model model = {.seed = seed << 16};

        forget_destroyed();
        for (int part = 0; part < 6; part++) {
            if (part % 2)
                run_steps(&model);
            else
                run_in_thread(run_steps, &model);
        }
        drop_all(&model);
    }
}

struct player {
    struct worker worker;
    struct model *model;
    atomic_int *turn;
    int number;
};

enum { PLAYERS = 4, ROUNDS = 12 };

/* The threads live on and take turns; who waits runs, sleeps detached, or makes and drops objects. */
static void play(void *argument)
{
    struct player *player = argument;
    uint64_t chance = (uint64_t)player->number;

    for (int round = player->number; round < ROUNDS; round += PLAYERS) {
        while (atomic_load(player->turn) != round) {
            if (random_below(&chance, 3) == 0) {
                OURO_DETACHED sched_yield();
            } else {
                ouro_decref(node_new(NULL, NULL));
                ouro_safepoint();
                sched_yield();
            }
        }
        /* Others make objects meanwhile, so the number of the living is not exact here. */
        uint64_t steps = player->model->seed + (uint64_t)round;
        for (int i = 0; i < 40; i++)
            step(player->model, &steps);
        ouro_collect();
        check_alive(player->model, "after a collection beside others");
        atomic_store(player->turn, round + 1);
    }
}

Test(graph, in_turns)
{
    register_numbered();
    for (uint64_t seed = 1; seed <= SCALE(60, 10); seed++) {
        struct model model = {.seed = seed << 8};
        struct player players[PLAYERS];
        atomic_int turn = 0;

        forget_destroyed();
        for (int i = 0; i < PLAYERS; i++) {
            players[i] = (struct player){.model = &model, .turn = &turn, .number = i};
            worker_start(&players[i].worker, play, &players[i]);
        }
        for (int i = 0; i < PLAYERS; i++)
            worker_join(&players[i].worker);
        drop_all(&model);
    }
}
