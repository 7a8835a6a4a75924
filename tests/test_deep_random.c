/*
 * test_deep_random.c - deep collections in slices beside an executable model, with so much garbage in so small stops that it is proved in pieces.
 *
 * Clusters of objects that refer to each other, at random, and some to other clusters, become old.  Most are dropped, and a
 * deep collection is made in slices of a random limit; in between the program does what it likes with what it can reach.  That
 * is never destroyed; afterwards a few more collections leave nothing else.  The graphs of test_model.c are too small for more
 * than a few pieces.
 */

#include "deep.h"

#include <ouro/finalize.h>
#include <ouro/weak.h>

#include <stdio.h>

TestSuite(deep_random, .init = begin_deep, .fini = leave, .timeout = 120);

enum { OBJECTS = 600, BUILT = 400, ITEMS = 3, ROUNDS = 12, NOBODY = -1 };

struct numbered {
    ouro_header ouro;
    int64_t number;
    ouro_object *items[ITEMS];
};

static struct {
    uint64_t seed, chance;
    ouro_object *objects[OBJECTS];
    bool exists[OBJECTS];
    atomic_bool destroyed[OBJECTS]; /* by another thread, perhaps */
    int refers[OBJECTS][ITEMS];
    unsigned roots[OBJECTS]; /* references that the test holds */
    bool reachable[OBJECTS];
    ouro_weakref *weak[OBJECTS];
} model;

static const ouro_type *plain_type, *phoenix_type;

static size_t pieces_found; /* garbage of slices that were not the last */

static uint32_t below(uint32_t limit)
{
    return random_below(&model.chance, limit);
}

static bool one_in(uint32_t number)
{
    return below(number) == 0;
}

static struct numbered *at(int i)
{
    return (struct numbered *)(void *)model.objects[i];
}

/* --- what can be reached ------------------------------------------------------------------------------- */

static void reach_from(int i, bool *reached)
{
    model_reach(&model.refers[0][0], OBJECTS, ITEMS, i, reached);
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
            fprintf(stderr, "deep_random: seed %llu, object %d\n", (unsigned long long)model.seed,
                    i);
            CHECK(!"an object that can be reached was destroyed");
        }
    }
}

static size_t garbage(void)
{
    size_t count = 0;

    check_alive();
    for (int i = 0; i < OBJECTS; i++)
        count += model.exists[i] && !model.destroyed[i] && !model.reachable[i];
    return count;
}

/* --- types --------------------------------------------------------------------------------------------- */

static void note_destroy(void *self)
{
    struct numbered *o = self;

    for (int i = 0; i < ITEMS; i++)
        CHECK(!o->items[i]);
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
    if (one_in(2)) {
        ouro_incref(o);
        model.roots[o->number]++;
    }
}

static void register_types(void)
{
    static const uint16_t fields[] = {OURO_FIELD(struct numbered, items[0]),
                                      OURO_FIELD(struct numbered, items[1]),
                                      OURO_FIELD(struct numbered, items[2])};
    ouro_type_spec spec = {.name = "plain",
                           .size = sizeof(struct numbered),
                           .fields = fields,
                           .field_count = ITEMS,
                           .destroy = note_destroy};

    CHECK(ouro_type_register(&spec, &plain_type) == OURO_OK);
    spec.name = "phoenix";
    spec.finalize = come_back;
    CHECK(ouro_type_register(&spec, &phoenix_type) == OURO_OK);
    CHECK(ouro_finalizer_set_mode(OURO_FINALIZE_ON_REQUEST) == OURO_OK);
}

/* --- objects and references ----------------------------------------------------------------------------- */

/* A new one, which the caller has a reference to; its number, or NOBODY: there is none left. */
static int make(void)
{
    for (int i = 0; i < OBJECTS; i++) {
        if ((model.exists[i] && !model.destroyed[i]) || model.weak[i])
            continue;
        struct numbered *o = ouro_new(one_in(40) ? phoenix_type : plain_type);

        CHECK(o);
        o->number = i;
        model.objects[i] = OURO_OF(o);
        model.exists[i] = true;
        model.destroyed[i] = false;
        model.roots[i] = 1;
        for (int r = 0; r < ITEMS; r++)
            model.refers[i][r] = NOBODY;
        return i;
    }
    return NOBODY;
}

static void store(int from, int r, int to)
{
    ouro_object *old = at(from)->items[r];

    model.refers[from][r] = to;
    at(from)->items[r] = to == NOBODY ? NULL : ouro_incref(model.objects[to]);
    ouro_decref_or_null(old);
}

static void drop(int i)
{
    model.roots[i]--;
    ouro_decref(model.objects[i]);
}

static void decref_it(void *o)
{
    (ouro_decref)((ouro_object *)o);
}

static void drop_elsewhere(int i)
{
    model.roots[i]--;
    run_in_thread(decref_it, model.objects[i]);
}

/* A ring with more references inside, and some to what was made before, or from there. The test keeps a reference to its first. */
static void make_cluster(void)
{
    int size = 1 + (int)below(one_in(10) ? 90 : 12), first = make(), before = first;

    for (int i = 1; i < size; i++) {
        int o = make();

        CHECK(o == first + i);
        store(before, 0, o);
        before = o;
    }
    store(before, 0, first);
    for (int i = 0; i < size; i++)
        store(first + (int)below((uint32_t)size), 1, first + (int)below((uint32_t)size));
    if (first > 0 && one_in(5))
        store(first + (int)below((uint32_t)size), 2, (int)below((uint32_t)first));
    if (first > 0 && one_in(12))
        store((int)below((uint32_t)first), 2, first + (int)below((uint32_t)size));
    if (one_in(2)) {
        int target = first + (int)below((uint32_t)size);

        model.weak[target] = (ouro_weakref_new)(model.objects[target]);
        CHECK(model.weak[target]);
    }
    for (int i = 1; i < size; i++)
        drop(first + i);
}

/* --- what the program does between two slices ------------------------------------------------------------- */

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

/* Garbage, perhaps, which is none any more then. */
static void take_back(void)
{
    int i = (int)below(OBJECTS);

    for (int tries = 0; tries < OBJECTS && (!model.weak[i] || model.reachable[i]); tries++)
        i = (i + 1) % OBJECTS;
    ouro_object *o = model.weak[i] ? ouro_weakref_get(model.weak[i]) : NULL;
    if (!o)
        return;
    CHECK(o == model.objects[i] && !model.destroyed[i]);
    model.roots[i]++;
}

static void move(int from, int r, int to)
{
    model.roots[to]--;
    model.refers[from][r] = to;
    ouro_move(at(from), &at(from)->items[r], model.objects[to]);
}

static void change(void)
{
    int from = pick(), to = pick(), r = (int)below(ITEMS), o;
    uint32_t what = below(100);

    if (from == NOBODY || what < 14) {
        take_back();
    } else if (what < 20) {
        if ((o = make()) != NOBODY) {
            store(o, r, to);
            store(from, r, o);
        }
    } else if (what < 40) {
        store(from, r, to);
    } else if (what < 55) {
        store(from, r, NOBODY);
    } else if (what < 60) {
        model.roots[from]++;
        ouro_incref(model.objects[from]);
    } else if (model.roots[to] == 0) {
        return;
    } else if (what < 75) {
        move(from, r, to);
    } else if (what < 78) {
        (void)ouro_disown(model.objects[to]);
    } else if (what < 80) {
        drop_elsewhere(to);
    } else {
        drop(to);
    }
}

/* What may stop the world, too. A collection is ended a few times at most, or it would never come far. */
static void interfere(unsigned *ends)
{
    struct seat *self = seat_attached_self;
    uint32_t what = below(60);

    if (what < 2 && (*ends)++ >= 2)
        return;
    switch (what) {
    case 0:
        collect_claim_wait(self);
        deep_end(self);
        collect_claim_release();
        break;
    case 1:
        ouro_freeze(0);
        change();
        ouro_unfreeze();
        break;
    case 2:
        ouro_run_finalizers();
        break;
    case 3:
        ouro_gc_set_debug(OURO_GC_SAVE);
        break;
    case 4:
        ouro_gc_set_debug(0);
        ouro_gc_drop_saved();
        break;
    case 5:
    case 6:
    case 7:
    case 8:
        young();
        break;
    default:
        break;
    }
}

static void collect_in_slices(bool changing)
{
    size_t limit = below(4) ? 30 + below(100) : 5 + below(15);
    unsigned ends = 0;

    forget();
    check_alive();
    do {
        for (uint32_t changes = changing ? below(3) : 0; changes > 0; changes--) {
            change();
            check_alive();
        }
        if (changing && sum.found > 0) { /* it is at the pieces */
            for (int i = 0; i < 3; i++)
                take_back();
        }
        if (changing)
            interfere(&ends);
        check_alive();
        sum.found = 0;
        if (!slice(limit))
            break;
        check_alive();
        pieces_found += sum.found;
    } while (true);
}

/* --- the end ---------------------------------------------------------------------------------------------- */

/* Each round may find what one finalizer more has let go. */
static void clean_up(void)
{
    for (int round = 0; round < ROUNDS && (round < 2 || garbage() > 0); round++) {
        ouro_synchronize();
        ouro_run_finalizers();
        check_alive();
        young();
        collect_in_slices(false);
        check_nothing_left();
    }
    cr_assert_eq(garbage(), 0, "seed %llu: %zu objects are garbage, and alive",
                 (unsigned long long)model.seed, garbage());
}

static void drop_roots(uint32_t keep_one_in)
{
    for (int i = 0; i < OBJECTS; i++) {
        while (model.roots[i] > 0 && !(keep_one_in && one_in(keep_one_in)))
            drop(i);
    }
}

static void play(void)
{
    for (int i = 0; i < OBJECTS; i++)
        model.exists[i] = false;
    while (live_objects() < BUILT)
        make_cluster();
    settle();
    for (int times = 0; times < 2; times++) {
        drop_roots(5);
        collect_in_slices(true);
    }
    ouro_gc_set_debug(0);
    ouro_gc_drop_saved();
    clean_up();
    for (int i = 0; i < OBJECTS; i++) {
        ouro_decref_or_null(model.weak[i]);
        model.weak[i] = NULL;
    }
    for (int times = 0; times < 3; times++) { /* some come back, but once */
        drop_roots(0);
        clean_up();
    }
    cr_assert_eq(live_objects(), 0, "seed %llu", (unsigned long long)model.seed);
}

Test(deep_random, beside_a_model)
{
    uint64_t seeds = SCALE(8, 3);

    register_types();
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        model.seed = seed;
        model.chance = seed * 7 + 3;
        play();
    }
    cr_assert_gt(pieces_found, seeds * 20);
}
