/*
 * test_model.c - the collector beside an executable model: small random graphs, every kind of collection, cut at any point.
 *
 * Two threads take turns; each step is made by one of them, and the other waits detached, passing safepoints, or without.  A step
 * changes objects and model alike: counted and moved references, slots, weak references, disowning, freezing, finalizers
 * that bring objects back, collections with limits of a few objects.  What the model can reach is never destroyed.
 * At the end all else has to be, and by what it takes:
 *
 *    CUT        limits of 1 to 20 objects, caps of 1 to 8; in the end a deep collection
 *    GENEROUS   no limits, never a deep one: young and old ones find everything, since the graphs are smaller than the cap
 *    SLICED     the same with limits of 1 to 20 objects and no cap: it takes more of them
 *    GUESSED    deep collections in slices of 1 to 20 objects, and young and old ones that cut nearly all
 */

#include "support.h"

#include "gc/collect.h"
#include "gc/sets.h"

#include <sched.h>
#include <stdio.h>

TestSuite(model, .init = enter, .fini = leave);

enum { OBJECTS = 20, ITEMS = 3, REFERENCES = ITEMS + 1, NOBODY = -1 };
enum way { CUT, GENEROUS, SLICED, GUESSED };

struct numbered {
    ouro_header ouro;
    int64_t number;
    ouro_object *items[ITEMS];
    ouro_slot slot; /* the last reference */
};

static struct model {
    uint64_t seed, chance;
    enum way way;
    ouro_object *objects[OBJECTS];
    bool exists[OBJECTS];
    atomic_bool destroyed[OBJECTS]; /* who waits may drain a hint, and destroy */
    int refers[OBJECTS][REFERENCES];
    unsigned roots[OBJECTS]; /* references that the test holds */
    bool reachable[OBJECTS];
    ouro_weakref *weak[OBJECTS];
} model;

static const ouro_type *plain_type, *phoenix_type;

static uint32_t below(uint32_t limit)
{
    return random_below(&model.chance, limit);
}

static struct numbered *at(int i)
{
    return (struct numbered *)(void *)model.objects[i];
}

/* --- what can be reached ----------------------------------------------------------------------------- */

static void reach_from(int i, bool *reached)
{
    model_reach(&model.refers[0][0], OBJECTS, REFERENCES, i, reached);
}

static void check_alive(void)
{
    memset(model.reachable, 0, sizeof model.reachable);
    for (int i = 0; i < OBJECTS; i++) {
        if (model.roots[i] > 0)
            reach_from(i, model.reachable);
    }
    for (int i = 0; i < OBJECTS; i++) {
        if (model.reachable[i] && model.destroyed[i]) {
            fprintf(stderr, "model: seed %llu, object %d\n", (unsigned long long)model.seed, i);
            CHECK(!"an object that can be reached was destroyed");
        }
    }
}

/* --- types --------------------------------------------------------------------------------------------- */

static void note_destroy(void *self)
{
    struct numbered *o = self;

    for (int i = 0; i < ITEMS; i++)
        CHECK(!o->items[i]);
    CHECK(!o->slot.value);
    CHECK(!model.destroyed[o->number]);
    model.destroyed[o->number] = true;
}

static void come_back(void *self)
{
    struct numbered *o = self;
    bool reached[OBJECTS] = {false};

    reach_from((int)o->number, reached);
    for (int i = 0; i < OBJECTS; i++)
        CHECK(!(reached[i] && model.destroyed[i]));
    if (below(2) == 0) {
        ouro_incref(o);
        model.roots[o->number]++;
    }
}

static void register_model_types(void)
{
    static const uint16_t fields[] = {OURO_FIELD(struct numbered, items[0]),
                                      OURO_FIELD(struct numbered, items[1]),
                                      OURO_FIELD(struct numbered, items[2]),
                                      OURO_SLOT_FIELD(struct numbered, slot)};
    ouro_type_spec spec = {.name = "plain",
                           .size = sizeof(struct numbered),
                           .fields = fields,
                           .field_count = REFERENCES,
                           .destroy = note_destroy};

    CHECK(ouro_type_register(&spec, &plain_type) == OURO_OK);
    spec.name = "phoenix";
    spec.finalize = come_back;
    CHECK(ouro_type_register(&spec, &phoenix_type) == OURO_OK);
    CHECK(ouro_finalizer_set_mode(OURO_FINALIZE_ON_REQUEST) == OURO_OK);
}

/* --- steps ---------------------------------------------------------------------------------------------- */

/* One that can be reached, or NOBODY. */
static int pick(void)
{
    int start = (int)below(OBJECTS);

    for (int i = 0; i < OBJECTS; i++) {
        if (model.reachable[(start + i) % OBJECTS])
            return (start + i) % OBJECTS;
    }
    return NOBODY;
}

/* A new one, which the caller has a reference to; its number, or NOBODY: there is none left. */
static int make(void)
{
    for (int i = 0; i < OBJECTS; i++) {
        if ((model.exists[i] && !model.destroyed[i]) || model.weak[i])
            continue;
        struct numbered *o = ouro_new(below(6) ? plain_type : phoenix_type);

        CHECK(o);
        o->number = i;
        model.objects[i] = OURO_OF(o);
        model.exists[i] = true;
        model.destroyed[i] = false;
        for (int r = 0; r < REFERENCES; r++)
            model.refers[i][r] = NOBODY;
        return i;
    }
    return NOBODY;
}

/* By counting; in the slot, too. */
static void store(int from, int r, int to)
{
    ouro_object *o = to == NOBODY ? NULL : model.objects[to];

    model.refers[from][r] = to;
    if (r == ITEMS) {
        CHECK((ouro_slot_store)(&at(from)->slot, o) == OURO_OK);
        return;
    }
    ouro_object *old = at(from)->items[r];
    at(from)->items[r] = o ? ouro_incref(o) : NULL;
    ouro_decref_or_null(old);
}

/* Moves a reference of the test into an object. */
static void move(int from, int r, int to)
{
    ouro_object *old;

    model.roots[to]--;
    model.refers[from][r] = to;
    if (r < ITEMS)
        ouro_move(at(from), &at(from)->items[r], model.objects[to]);
    else if (below(2))
        CHECK((ouro_slot_store_steal)(&at(from)->slot, model.objects[to]) == OURO_OK);
    else
        CHECK((ouro_slot_exchange)(&at(from)->slot, model.objects[to], &old) == OURO_OK);
}

static void drop(int i)
{
    model.roots[i]--;
    ouro_decref(model.objects[i]);
}

static void weak(int i)
{
    if (!model.weak[i]) {
        model.weak[i] = (ouro_weakref_new)(model.objects[i]);
        CHECK(model.weak[i]);
        return;
    }
    int any = (int)below(OBJECTS); /* garbage, perhaps: then it is none any more */
    ouro_object *o = model.weak[any] ? ouro_weakref_get(model.weak[any]) : NULL;
    if (o) {
        CHECK(o == model.objects[any] && !model.destroyed[any]);
        model.roots[any]++;
    }
    if (model.weak[any] && (below(2) || ouro_weakref_is_cleared(model.weak[any]))) {
        ouro_decref(model.weak[any]);
        model.weak[any] = NULL;
    }
}

static void change(void)
{
    int from = pick(), to = pick(), r = (int)below(REFERENCES);
    uint32_t what = below(100);

    if (from == NOBODY || what < 20) {
        int i = make();
        if (i != NOBODY)
            model.roots[i] = 1;
    } else if (what < 27 && r < ITEMS) { /* as it came from ouro_new() */
        int i = make();
        if (i == NOBODY)
            return;
        ouro_object *old = at(from)->items[r];
        at(from)->items[r] = model.objects[i];
        model.refers[from][r] = i;
        ouro_decref_or_null(old);
    } else if (what < 50) {
        store(from, r, to);
    } else if (what < 55) {
        store(from, r, NOBODY);
    } else if (what < 60) {
        model.roots[from]++;
        ouro_incref(model.objects[from]);
    } else if (what < 75) {
        if (model.roots[to] > 0)
            move(from, r, to);
    } else if (what < 78) {
        if (model.roots[from] > 0)
            (void)ouro_disown(model.objects[from]);
    } else if (what < 82) {
        weak(from);
    } else if (model.roots[from] > 0) {
        drop(from);
    }
}

static void set_limits(void)
{
    static const uint32_t caps[] = {[CUT] = 8, [GUESSED] = 2};
    uint32_t cap = model.way == CUT || model.way == GUESSED ? 1 + below(caps[model.way]) : 256;
    struct sets_limit limit = {1 + below(20), cap, 0};

    collect_set_limits(model.way == GENEROUS || below(8) == 0 ? NULL : &limit);
}

/* What may stop the world. */
static void collect(void)
{
    uint32_t what = below(20);

    set_limits();
    if (model.way == GUESSED && below(2))
        collect_slice();
    else if (what < 8)
        ouro_collect_kind(OURO_GC_YOUNG);
    else if (what < 15)
        ouro_collect_kind(OURO_GC_OLD);
    else if (what < 16)
        ouro_freeze(0);
    else if (what < 17)
        ouro_unfreeze();
    else if (what < 18)
        ouro_synchronize();
    else if (what < 19)
        ouro_run_finalizers();
    else if (model.way == CUT || model.way == GUESSED)
        ouro_collect_kind(below(2) ? OURO_GC_DEEP : OURO_GC_FULL);
}

/* --- turns ------------------------------------------------------------------------------------------------ */

enum { WAIT_DETACHED, WAIT_RUNNING, WAIT_STILL, WAYS_TO_WAIT };

static struct {
    atomic_int turn; /* 0: main, 1: the partner, 2: the partner may end */
    int wait;        /* how who has no turn waits; written by who has it */
    bool collects;
} game;

static void await_turn(int mine, int wait)
{
    while (atomic_load(&game.turn) < mine || (mine == 0 && atomic_load(&game.turn) != 0)) {
        if (wait == WAIT_DETACHED)
            OURO_DETACHED sched_yield();
        else if (wait == WAIT_RUNNING)
            ouro_safepoint();
        sched_yield();
    }
}

static void step(void)
{
    if (game.collects)
        collect();
    else
        change();
    check_alive();
}

static void partner(void *argument)
{
    (void)argument;
    for (;;) {
        await_turn(1, WAIT_DETACHED);
        if (atomic_load(&game.turn) == 2)
            return;
        step();
        atomic_store(&game.turn, 0);
    }
}

static void run_model(void)
{
    uint32_t steps = 20 + below(100);

    for (uint32_t i = 0; i < steps; i++) {
        game.collects = below(5) == 0;
        game.wait = (int)below(game.collects ? WAIT_STILL : WAYS_TO_WAIT);
        if (below(4)) {
            step();
        } else {
            int wait = game.wait;
            atomic_store(&game.turn, 1);
            await_turn(0, wait);
        }
        if (below(4) == 0)
            ouro_safepoint();
    }
}

/* --- the end ---------------------------------------------------------------------------------------------- */

static size_t garbage(void)
{
    size_t count = 0;

    check_alive();
    for (int i = 0; i < OBJECTS; i++)
        count += model.exists[i] && !model.destroyed[i] && !model.reachable[i];
    return count;
}

/* Collections of the kinds that have to do, until nothing is left to do; each round may find what one finalizer more has let go. */
static void clean_up(void)
{
    ouro_unfreeze();
    for (int round = 0; round < 3 * OBJECTS && (round < 3 || garbage() > 0); round++) {
        ouro_synchronize();
        ouro_run_finalizers();
        if (model.way == SLICED || model.way == GUESSED)
            set_limits();
        else
            collect_set_limits(NULL);
        if (model.way == GUESSED) {
            ouro_collect_kind(OURO_GC_YOUNG);
            while (collect_slice()) {
                if (below(4) == 0)
                    ouro_collect_kind(OURO_GC_YOUNG);
            }
            continue;
        }
        ouro_collect_kind(OURO_GC_YOUNG);
        ouro_collect_kind(OURO_GC_OLD);
        if (model.way == CUT)
            ouro_collect_kind(OURO_GC_DEEP);
    }
    cr_assert_eq(garbage(), 0, "seed %llu: %zu objects are garbage, and alive",
                 (unsigned long long)model.seed, garbage());
}

static void drop_all(void)
{
    for (int i = 0; i < OBJECTS; i++) {
        if (model.weak[i])
            ouro_decref(model.weak[i]);
        model.weak[i] = NULL;
        while (model.roots[i] > 0)
            drop(i);
    }
    for (int round = 0; round < 3; round++) { /* some come back, but once */
        clean_up();
        for (int i = 0; i < OBJECTS; i++) {
            while (model.roots[i] > 0)
                drop(i);
        }
    }
    clean_up();
    cr_assert_eq(live_objects(), 0, "seed %llu", (unsigned long long)model.seed);
}

static void forget(void)
{
    for (int i = 0; i < OBJECTS; i++)
        model.exists[i] = false;
}

static void play(enum way way)
{
    struct worker worker;

    register_model_types();
    worker_start(&worker, partner, NULL);
    uint64_t runs = way == GUESSED ? SCALE(1500, 100) : SCALE(3000, 150);

    for (uint64_t seed = 1; seed <= runs; seed++) {
        forget();
        model.seed = seed;
        model.chance = seed * 7 + way;
        model.way = way;
        run_model();
        clean_up();
        drop_all();
    }
    collect_set_limits(NULL);
    atomic_store(&game.turn, 2);
    worker_join(&worker);
}

Test(model, cut)
{
    play(CUT);
}

Test(model, generous)
{
    play(GENEROUS);
}

Test(model, sliced)
{
    play(SLICED);
}

Test(model, guessed)
{
    play(GUESSED);
}
