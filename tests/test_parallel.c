/*
 * test_parallel.c - passes of the collector that stopped threads take part in.  The stack of a worker is in test_parallel_stack.c.
 */

#include "parallel.h"

#include "base/os.h"

#include <ouro/finalize.h>
#include <ouro/fork.h>
#include <ouro/weak.h>

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

TestSuite(parallel, .init = enter_shared, .fini = leave_shared);

/* --- shapes ------------------------------------------------------------------------------------------ */

static struct array *tree_with_parents(struct array *parent, unsigned depth)
{
    struct array *array = array_new(3);

    array->items[2] = parent ? ouro_incref(OURO_OF(parent)) : NULL;
    for (int i = 0; depth > 0 && i < 2; i++)
        array->items[i] = OURO_OF(tree_with_parents(array, depth - 1));
    return array;
}

static void a_tree(ouro_gc_kind kind)
{
    unsigned depth = SCALE(15, 12);

    assert_is_one(tree_with_parents(NULL, depth), ((size_t)2 << depth) - 1, kind);
}

Test(parallel, a_tree_deep)
{
    a_tree(OURO_GC_DEEP);
}

Test(parallel, a_tree_full)
{
    a_tree(OURO_GC_FULL);
}

/* Who waits for work gets some, if the system lets them wait at all before all is done. */
Test(parallel, work_is_handed_over)
{
    struct array *tree = tree_with_parents(NULL, SCALE(15, 12));
    uint64_t pieces = event_total(EVENT_HELP_PIECE);

    for (int round = 0; round < 200 && event_total(EVENT_HELP_PIECE) == pieces; round++)
        cr_assert_eq(shared(OURO_GC_FULL), 0);
    cr_assert_gt(event_total(EVENT_HELP_PIECE), pieces, "nothing was handed over");
    ouro_decref(tree);
}

Test(parallel, a_list)
{
    size_t count = SCALE(80000, 20000);

    assert_is_one(ring_new(count), count, OURO_GC_DEEP);
    assert_is_one(ring_new(count), count, OURO_GC_FULL);
}

static struct array *hub_new(size_t count)
{
    struct array *hub = array_new(count);

    for (size_t i = 0; i < count; i++)
        hub->items[i] = OURO_OF(node_new((struct node *)(void *)ouro_incref(hub), NULL));
    return hub;
}

static void a_hub(ouro_gc_kind kind)
{
    size_t count = SCALE(1000000, 50000);
    uint64_t pieces = event_total(EVENT_HELP_PIECE), rescans = event_total(EVENT_RESCAN);

    assert_is_one(hub_new(count), count + 1, kind);
    cr_assert_gt(event_total(EVENT_HELP_PIECE) - pieces, count / 256,
                 "its references were not handed over piece by piece");
    cr_assert_eq(event_total(EVENT_RESCAN), rescans, "and so no stack was ever full");
}

Test(parallel, a_hub_deep)
{
    a_hub(OURO_GC_DEEP);
}

Test(parallel, a_hub_full)
{
    a_hub(OURO_GC_FULL);
}

Test(parallel, a_hub_that_only_a_child_holds)
{
    size_t count = SCALE(100000, 20000);
    struct array *hub = hub_new(count);
    ouro_object *child = ouro_incref(hub->items[count / 2]);

    ouro_decref(hub);
    assert_is_one(child, count + 1, OURO_GC_DEEP);
}

Test(parallel, many_small_ones)
{
    size_t count = SCALE(20000, 5000);

    for (size_t i = 0; i < count; i++)
        ouro_decref(ring_new(2));
    cr_assert_eq(shared(OURO_GC_DEEP), 2 * count);
    for (size_t i = 0; i < count; i++)
        ouro_decref(ring_new(2));
    cr_assert_eq(shared(OURO_GC_FULL), 2 * count);
}

/* Nodes with random fields and values by their number; most roots are dropped. Returns those that are held. */
enum { GRAPH = 20000, HELD = 50 };

static void graph_new(uint64_t seed, struct node **held)
{
    struct node **nodes = malloc(GRAPH * sizeof(struct node *));

    CHECK(nodes);
    for (size_t i = 0; i < GRAPH; i++) {
        nodes[i] = node_new(NULL, NULL);
        nodes[i]->value = (int64_t)i;
    }
    for (size_t i = 0; i < GRAPH; i++) {
        if (random_below(&seed, 4))
            node_set_left(nodes[i], ouro_incref(nodes[random_below(&seed, GRAPH)]));
        if (random_below(&seed, 3) == 0)
            node_set_right(nodes[i], ouro_incref(nodes[random_below(&seed, GRAPH)]));
    }
    for (size_t i = 0; i < HELD; i++)
        held[i] = ouro_incref(nodes[random_below(&seed, GRAPH)]);
    for (size_t i = 0; i < GRAPH; i++)
        ouro_decref(nodes[i]);
    free(nodes);
}

static bool alive[2][GRAPH];
static bool (*filled)[GRAPH];

static bool note_alive(ouro_object *o, void *unused)
{
    (void)unused;
    if (ouro_type_of(o) == node_type)
        (*filled)[((struct node *)(void *)o)->value] = true;
    return true;
}

Test(parallel, finds_what_one_alone_finds)
{
    for (int kind = OURO_GC_DEEP; kind <= OURO_GC_FULL; kind++) {
        for (uint64_t seed = 1; seed <= SCALE(10, 3); seed++) {
            size_t collected[2];

            for (unsigned help = 0; help < 2; help++) {
                struct node *held[HELD];

                graph_new(seed, held);
                ouro_gc_set_helpers(help ? BYSTANDERS : 0);
                collected[help] =
                    help ? shared((ouro_gc_kind)kind) : collect_kind((ouro_gc_kind)kind);
                memset(alive[help], 0, sizeof alive[help]);
                filled = &alive[help];
                ouro_each_object(note_alive, NULL);
                for (size_t i = 0; i < HELD; i++)
                    ouro_decref(held[i]);
                ouro_gc_set_helpers(0);
                ouro_collect_kind(OURO_GC_FULL);
            }
            cr_assert_eq(collected[0], collected[1], "%zu alone, %zu shared", collected[0],
                         collected[1]);
            cr_assert_gt(collected[0], 0);
            cr_assert_eq(memcmp(alive[0], alive[1], sizeof alive[0]), 0, "other ones are alive");
        }
    }
}

/* --- what has to be done with some of the garbage ------------------------------------------------------ */

static atomic_size_t finalized;

static void count_finalized(void *self)
{
    (void)self;
    atomic_fetch_add(&finalized, 1);
}

static const ouro_type *finalized_type(void)
{
    static const uint16_t fields[] = {OURO_FIELD(struct node, left),
                                      OURO_FIELD(struct node, right)};
    const ouro_type_spec spec = {.name = "finalized",
                                 .size = sizeof(struct node),
                                 .fields = fields,
                                 .field_count = 2,
                                 .finalize = count_finalized};
    const ouro_type *type;

    cr_assert_eq(ouro_type_register(&spec, &type), OURO_OK);
    return type;
}

Test(parallel, finalizers_and_weak_references)
{
    enum { COUNT = 200 };
    const ouro_type *type = finalized_type();
    ouro_weakref *refs[COUNT];

    for (int i = 0; i < COUNT; i++) {
        struct node *node = ouro_new(type), *ring = ring_new(50);

        cr_assert_not_null(node);
        ring->right = node;
        node->left = ouro_incref(ring->left);
        refs[i] = ouro_weakref_new(i % 2 ? ring : node);
        cr_assert_not_null(refs[i]);
        ouro_decref(ring);
    }
    cr_assert_eq(shared(OURO_GC_DEEP), 0);
    cr_assert_eq(last_info.finalizers, COUNT);
    for (int i = 0; i < COUNT; i++) {
        cr_assert_null(ouro_weakref_get(refs[i]));
        ouro_decref(refs[i]);
    }
    ouro_run_finalizers();
    cr_assert_eq(finalized, COUNT);
    cr_assert_eq(shared(OURO_GC_DEEP), COUNT * 51);
}

Test(parallel, saved_garbage)
{
    size_t count = SCALE(20000, 5000);

    ouro_gc_set_debug(OURO_GC_SAVE);
    ouro_decref(ring_new(count));
    cr_assert_eq(shared(OURO_GC_FULL), 0);
    cr_assert_eq(last_info.uncollectable, count);
    ouro_gc_set_debug(0);
    cr_assert_eq(ouro_gc_drop_saved(), count);
    cr_assert_eq(shared(OURO_GC_FULL), count);
}

/* --- counts that are not what they should be ------------------------------------------------------------ */

/* All from outside is hidden by what is reported too often: it must look held, not garbage. */
Test(parallel, references_that_are_reported_too_often_keep_alive)
{
    enum { HOLDERS = 64, TARGETS = 100 };
    struct wide *holders[HOLDERS];
    ouro_object *targets[TARGETS];

    setenv("OURO_VERIFY", "0", 1); /* which would end the program */
    for (int i = 0; i < TARGETS; i++)
        targets[i] = OURO_OF(node_new(NULL, NULL));
    for (int i = 0; i < HOLDERS; i++) {
        holders[i] = wide_new(TARGETS, 8);
        for (int k = 0; k < TARGETS; k++) {
            ouro_decref(holders[i]->items[k]);
            holders[i]->items[k] = ouro_incref(targets[k]);
        }
    }
    for (int round = 0; round < SCALE(50, 10); round++)
        cr_assert_eq(shared(OURO_GC_FULL), 0);
    for (int i = 0; i < TARGETS; i++) {
        cr_assert_eq(ouro_refcount(targets[i]), HOLDERS + 1);
        ouro_decref(targets[i]);
    }
    for (int i = 0; i < HOLDERS; i++)
        ouro_decref(holders[i]);
}

Test(parallel, immortal_objects)
{
    struct node *node = node_new(ring_new(500), NULL);

    ouro_immortalize(node);
    ouro_decref(node);
    cr_assert_eq(shared(OURO_GC_FULL), 0);
    cr_assert_eq(shared(OURO_GC_FULL), 0);
    expect_left(501);
}

static void incref_all(void *argument)
{
    struct array *array = argument;

    for (size_t i = 0; i < array->count; i++)
        ouro_incref(array->items[i]);
}

enum { HOLDERS = 8, CONTENDED = 1000 };

/* Each of them refers to all; they do not hold what is immortal. */
static void refer_to_all(struct array **holders, struct array *all, bool immortal)
{
    for (size_t i = 0; i < HOLDERS; i++) {
        holders[i] = array_new(CONTENDED);
        for (size_t k = 0; k < CONTENDED; k++)
            holders[i]->items[k] = immortal ? all->items[k] : ouro_incref(all->items[k]);
    }
}

/* Whoever is counted twice hides that there is garbage. */
static void find_one_again_and_again(struct array **holders)
{
    for (int round = 0; round < SCALE(100, 50); round++) {
        ouro_decref(ring_new(1));
        cr_assert_eq(shared(OURO_GC_FULL), 1, "round %d", round);
    }
    for (size_t i = 0; i < HOLDERS; i++)
        ouro_decref(holders[i]);
}

static struct array *nodes_new(size_t count)
{
    struct array *array = array_new(count);

    for (size_t i = 0; i < count; i++)
        array->items[i] = OURO_OF(node_new(NULL, NULL));
    return array;
}

Test(parallel, objects_that_all_come_to_at_the_same_time)
{
    struct array *holders[HOLDERS], *all = nodes_new(CONTENDED);

    refer_to_all(holders, all, false);
    ouro_decref(all);
    find_one_again_and_again(holders);
}

/* There are several references to each, and its count is one for ever: who marks it is not the only one who comes. */
Test(parallel, immortal_objects_that_look_as_if_one_held_them)
{
    struct array *holders[HOLDERS], *immortal = nodes_new(CONTENDED);

    run_in_thread(incref_all, immortal);
    for (size_t i = 0; i < CONTENDED; i++)
        ouro_immortalize(immortal->items[i]);
    refer_to_all(holders, immortal, true);
    find_one_again_and_again(holders);
    ouro_decref(immortal);
    expect_left(CONTENDED);
}

Test(parallel, visit_runs_on_other_threads)
{
    enum { COUNT = 2000 };
    static struct wide *kept[COUNT];

    for (int i = 0; i < COUNT; i++)
        kept[i] = wide_new(5, 1);
    for (int round = 0; round < 100 && visited_elsewhere == 0; round++)
        cr_assert_eq(shared(OURO_GC_FULL), 0);
    cr_assert_gt(visited_elsewhere, 0);
    for (int i = 0; i < COUNT; i++)
        ouro_decref(kept[i]);
}

/* --- who takes part ------------------------------------------------------------------------------------- */

Test(parallel, none_are_wanted)
{
    uint64_t helped = event_total(EVENT_HELP);
    struct node *ring = ring_new(5000);

    ouro_gc_set_helpers(0);
    cr_assert_eq(ouro_gc_get_helpers(), 0);
    cr_assert_eq(collect_kind(OURO_GC_DEEP), 0);
    cr_assert_eq(collect_kind(OURO_GC_FULL), 0);
    cr_assert_eq(last_info.helpers, 0);
    ouro_decref(ring);
    cr_assert_eq(collect_kind(OURO_GC_DEEP), 5000);
    cr_assert_eq(event_total(EVENT_HELP), helped);
}

Test(parallel, small_sets_and_other_kinds_are_not_shared)
{
    uint64_t helped = event_total(EVENT_HELP);
    struct node *ring = ring_new(5000);

    collect_kind(OURO_GC_YOUNG);
    collect_kind(OURO_GC_OLD);
    parallel_set_least(0);
    collect_kind(OURO_GC_DEEP);
    collect_kind(OURO_GC_FULL);
    cr_assert_eq(last_info.helpers, 0);
    cr_assert_eq(event_total(EVENT_HELP), helped);
    ouro_decref(ring);
}

Test(parallel, one_of_two_is_wanted)
{
    struct array *tree = tree_with_parents(NULL, 10);

    parallel_set_hooks(NULL, NULL);
    ouro_gc_set_helpers(1);
    for (int round = 0; round < 20; round++) {
        cr_assert_eq(collect_kind(OURO_GC_FULL), 0);
        cr_assert_leq(last_info.helpers, 1);
    }
    ouro_decref(tree);
}

/* Who has not seen it before the stop is over was not invited to anything. */
Test(parallel, no_invitation_outlives_a_stop)
{
    struct node *ring = ring_new(10);

    parallel_set_hooks(NULL, NULL);
    for (int round = 0; round < 200; round++) {
        collect_kind(OURO_GC_FULL);
        for (uint32_t id = seat_count(); id > 0; id--)
            cr_assert_not(load_relaxed(&seat_by_id(id)->word) & SEAT_HELP, "round %d", round);
    }
    ouro_decref(ring);
}

static void wait_to_attach(void *flag)
{
    atomic_store((atomic_bool *)flag, true);
    OURO_DETACHED
    {
        while (!atomic_load(&may_come))
            sched_yield();
    }
}

/* A thread that has been detached and waits to attach is stopped, too; one that stays detached is not asked. */
Test(parallel, who_waits_to_attach_helps)
{
    static atomic_bool there;
    struct worker worker;

    worker_start(&worker, wait_to_attach, &there);
    while (!atomic_load(&there))
        sleep_ms(1);
    sleep_ms(10);
    ouro_gc_set_helpers(HELPERS_MAX);
    ouro_world_stop();
    cr_assert_eq(parallel_ready(seat_attached_self, 1), BYSTANDERS);
    atomic_store(&may_come, true);
    while (parallel_ready(seat_attached_self, 1) != BYSTANDERS + 1)
        sched_yield();
    ouro_world_start();
    worker_join(&worker);
}

Test(parallel, a_child_has_no_helpers)
{
    struct array *tree = tree_with_parents(NULL, 10);

    cr_assert_eq(shared(OURO_GC_FULL), 0);
    cr_assert_eq(ouro_fork_install(), OURO_OK);
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        bool right = collect_kind(OURO_GC_FULL) == 0 && last_info.helpers == 0 &&
                     ouro_gc_get_helpers() == BYSTANDERS;

        _exit(right ? 0 : 1);
    }
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the child ended with %x", status);
    cr_assert_eq(shared(OURO_GC_FULL), 0);
    ouro_decref(tree);
}

Test(parallel_setting, how_many, .init = enter, .fini = leave)
{
    unsigned first = os_processors() - 1;

    cr_assert_eq(ouro_gc_get_helpers(), first < 3 ? first : 3);
    for (unsigned most = 0; most <= 15; most++) {
        ouro_gc_set_helpers(most);
        cr_assert_eq(ouro_gc_get_helpers(), most);
    }
    ouro_gc_set_helpers(1000);
    cr_assert_eq(ouro_gc_get_helpers(), 15);
}

/* --- whether it is worth it ------------------------------------------------------------------------------- */

enum { OBJECTS = 1000000, FAST = 10000000, SLOW = 30000000 };

static bool may_help(bool everything)
{
    parallel_choose(everything);
    return parallel_ready(seat_attached_self, OBJECTS) > 0;
}

/* In how many of 64 collections helpers may take part, if one takes so long without and with them. */
static unsigned of_64(bool everything, uint64_t alone_ns, uint64_t helped_ns)
{
    unsigned helped = 0;

    for (int i = 0; i < 64; i++) {
        bool help = may_help(everything);

        helped += help;
        parallel_learn(everything, OBJECTS, help ? helped_ns : alone_ns, help);
    }
    return helped;
}

/* If the program says nothing it is tried alone, then with help, then what was faster; and now and then the other way. */
Test(parallel_setting, what_was_faster_lately, .init = enter, .fini = leave)
{
    struct worker sleeper;

    if (ouro_gc_get_helpers() == 0)
        return; /* one processor */
    worker_start(&sleeper, stand_by, NULL);
    for (bool parked = false; !parked; sleep_ms(1)) {
        ouro_world_stop();
        parked = parallel_ready(seat_attached_self, OBJECTS) == 1;
        if (!parked)
            ouro_world_start();
    }
    cr_assert_not(may_help(true));
    parallel_learn(true, OBJECTS, FAST, 0);
    cr_assert(may_help(true));
    parallel_learn(true, OBJECTS, SLOW, 1);
    cr_assert_eq(of_64(true, FAST, SLOW), 64 / 16);
    cr_assert_not(may_help(false), "it knows nothing of these yet");
    of_64(true, SLOW, FAST); /* it has to notice */
    cr_assert_eq(of_64(true, SLOW, FAST), 64 - 64 / 16);
    parallel_learn(true, 1000, 1000000 * (uint64_t)SLOW, 1); /* too few to say anything */
    cr_assert(may_help(true));
    ouro_gc_set_helpers(1); /* who says so gets it */
    cr_assert_eq(of_64(true, FAST, SLOW), 64);
    ouro_gc_set_helpers(0);
    cr_assert_eq(of_64(true, FAST, SLOW), 0);
    ouro_world_start();
    gate_open(&end);
    worker_join(&sleeper);
}

/* A collection asks, and learns. */
Test(parallel_setting, collections_learn, .init = enter, .fini = leave)
{
    struct array *tree = tree_with_parents(NULL, 10);
    struct worker sleeper;
    unsigned helped = 0;

    if (ouro_gc_get_helpers() == 0)
        return; /* one processor */
    parallel_set_least(1);
    worker_start(&sleeper, stand_by, NULL);
    collect_kind(OURO_GC_FULL);
    cr_assert_eq(last_info.helpers, 0, "the first one is made alone");
    for (int i = 0; i < 1000 && !helped; i++) {
        sleep_ms(1);
        collect_kind(OURO_GC_FULL);
        helped = last_info.helpers;
    }
    cr_assert_eq(helped, 1);
    parallel_set_least(0);
    ouro_decref(tree);
    gate_open(&end);
    worker_join(&sleeper);
}
