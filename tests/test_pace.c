/*
 * test_pace.c - how much automatic collections look at, and what they leave: limits, policies, budgets, memory.
 *
 * Nothing here measures time: what counts is the number of objects that were examined, made, or left.
 */

#include "support.h"

#include "base/os.h"

#include <stdlib.h>

static void begin(void);

TestSuite(pace, .init = begin, .fini = leave, .timeout = 100);

/* Of all collections since begin(). */
static struct {
    size_t stops, of_kind[4], examined, most_examined, collected;
    size_t deep; /* at their end; of_kind counts their slices */
    ouro_gc_info last;
} sum;

static void add_up(const ouro_gc_info *info, void *argument)
{
    (void)argument;
    if (info->phase != OURO_GC_STOP)
        return;
    sum.stops++;
    sum.of_kind[info->kind]++;
    sum.deep += info->kind == OURO_GC_DEEP && !info->under_way;
    sum.examined += info->candidates;
    sum.collected += info->collected;
    if (info->candidates > sum.most_examined)
        sum.most_examined = info->candidates;
    sum.last = *info;
}

static void begin(void)
{
    enter();
    CHECK(ouro_gc_add_callback(add_up, NULL) == OURO_OK);
}

static void forget(void)
{
    memset(&sum, 0, sizeof sum);
}

/* What one stop looks at, at most: the least of a limit, and a page of nodes. */
enum { STOP_MOST = 500 + (64 << 10) / sizeof(struct node) };

/* --- figures ------------------------------------------------------------------------------------------ */

Test(pace, figures_by_kind)
{
    ouro_gc_stats before = stats_now();

    for (ouro_gc_kind kind = OURO_GC_YOUNG; kind <= OURO_GC_FULL; kind++) {
        for (unsigned i = 0; i <= kind; i++)
            ouro_collect_kind(kind);
        cr_assert_eq(sum.last.kind, kind);
        cr_assert_eq(sum.last.generation, kind < 2 ? kind : 2u);
        cr_assert_eq(sum.last.reason, OURO_GC_REQUESTED);
    }
    ouro_gc_stats after = stats_now();
    for (unsigned kind = OURO_GC_YOUNG; kind <= OURO_GC_FULL; kind++)
        cr_assert_eq(after.of_kind[kind] - before.of_kind[kind], kind + 1);
    cr_assert_eq(after.collections - before.collections, 10);
    cr_assert_eq(after.automatic, before.automatic);
}

Test(pace, figures_of_objects)
{
    struct node *tree = tree_new(12);
    size_t count = ((size_t)2 << 12) - 1;

    cr_assert(stats_now().tracked >= count && stats_now().tracked <= count + 256);
    cr_assert(stats_now().net_new >= count && stats_now().net_new <= count + 256);
    ouro_collect();
    cr_assert_lt(stats_now().net_new, 256);
    cr_assert_geq(stats_now().tracked, count);
    ouro_decref(tree);
    ouro_collect();
    cr_assert_lt(stats_now().tracked, 256);
}

Test(pace, figures_of_candidates)
{
    enum { COUNT = 2560 };
    struct array *array = array_new(COUNT);

    for (int i = 0; i < COUNT; i++)
        array->items[i] = OURO_OF(node_new(NULL, NULL));
    ouro_collect();
    cr_assert_eq(stats_now().noted, 0);
    for (int i = 0; i < COUNT; i++)
        (ouro_decref)((ouro_incref)(array->items[i]));
    cr_assert_eq(stats_now().noted, COUNT);
    ouro_collect();
    cr_assert_eq(sum.last.noted, COUNT);
    cr_assert_eq(stats_now().noted, 0);
    ouro_decref(array);
}

/* --- settings ------------------------------------------------------------------------------------------- */

Test(pace, policy_and_budget_are_settings)
{
    cr_assert_eq(ouro_gc_get_policy(), OURO_GC_BALANCED);
    cr_assert_eq(ouro_gc_get_pause_budget(), 500000);
    cr_assert_eq(ouro_gc_set_policy((ouro_gc_policy)3), OURO_INVALID);
    cr_assert_eq(ouro_gc_get_policy(), OURO_GC_BALANCED);
    cr_assert_eq(ouro_gc_set_policy(OURO_GC_LOW_PAUSE), OURO_OK);
    cr_assert_eq(ouro_gc_get_policy(), OURO_GC_LOW_PAUSE);
    cr_assert_eq(ouro_gc_set_pause_budget(0), OURO_INVALID);
    cr_assert_eq(ouro_gc_get_pause_budget(), 500000);
    cr_assert_eq(ouro_gc_set_pause_budget(123456), OURO_OK);
    cr_assert_eq(ouro_gc_get_pause_budget(), 123456);
}

Test(pace, the_budget_limits_a_stop)
{
    struct node *chain = chain_new(20000);

    cr_assert_eq(ouro_gc_set_pause_budget(1), OURO_OK);
    ouro_collect_kind(OURO_GC_YOUNG);
    cr_assert(sum.last.candidates > 0 && sum.last.candidates <= STOP_MOST);
    cr_assert_eq(ouro_gc_set_pause_budget(UINT64_C(1) << 40), OURO_OK);
    ouro_collect_kind(OURO_GC_YOUNG);
    cr_assert_gt(sum.last.candidates, 15000);
    ouro_decref(chain);
}

Test(pace, throughput_has_no_limit)
{
    struct node *chain = chain_new(20000);

    cr_assert_eq(ouro_gc_set_pause_budget(1), OURO_OK);
    cr_assert_eq(ouro_gc_set_policy(OURO_GC_THROUGHPUT), OURO_OK);
    ouro_collect_kind(OURO_GC_YOUNG);
    cr_assert_eq(sum.last.candidates, 20000);
    ouro_decref(chain);
}

Test(pace, low_pause_takes_a_quarter)
{
    struct node *chain = chain_new(100000);
    size_t low;

    cr_assert_eq(ouro_gc_set_pause_budget(400000), OURO_OK); /* 10000 objects at first */
    cr_assert_eq(ouro_gc_set_policy(OURO_GC_LOW_PAUSE), OURO_OK);
    ouro_collect_kind(OURO_GC_YOUNG);
    low = sum.last.candidates;
    cr_assert(low >= 2000 && low <= 2000 + STOP_MOST, "%zu", low);
    ouro_decref(chain);
}

/* --- a step at a time ------------------------------------------------------------------------------------- */

Test(pace, steps_get_everything_done)
{
    enum { PAIRS = 5000 };
    struct node *tree = tree_new(13), **pairs = calloc(PAIRS, sizeof *pairs);
    size_t steps = 0;

    cr_assert(pairs);
    for (int i = 0; i < PAIRS; i++)
        pairs[i] = ring_new(2);
    ouro_collect();
    for (int i = 0; i < PAIRS; i++)
        ouro_decref(pairs[i]); /* old garbage, and */
    for (int i = 0; i < PAIRS; i++)
        ouro_decref(ring_new(2)); /* new garbage */
    cr_assert_eq(ouro_gc_set_pause_budget(1), OURO_OK);
    forget();
    while (ouro_collect_step(0)) {
        steps++;
        cr_assert_lt(steps, 10000);
    }
    cr_assert_gt(steps, 10);
    cr_assert_leq(sum.most_examined, STOP_MOST);
    cr_assert_eq(sum.of_kind[OURO_GC_DEEP] + sum.of_kind[OURO_GC_FULL], 0);
    cr_assert_eq(sum.collected, 4 * PAIRS);
    forget();
    cr_assert_not(ouro_collect_step(0));
    cr_assert_eq(sum.examined, 0);
    cr_assert_eq(live_objects(), ((size_t)2 << 13) - 1);
    ouro_decref(tree);
    free(pairs);
}

Test(pace, one_long_step_does_it_all)
{
    for (int i = 0; i < 3000; i++)
        ouro_decref(ring_new(2));
    cr_assert_not(ouro_collect_step(UINT64_C(60000000000)));
    cr_assert_eq(sum.collected, 6000);
}

/* --- memory ----------------------------------------------------------------------------------------------- */

Test(pace, external_bytes_make_collections_due)
{
    struct node *node = node_new(NULL, NULL);

    ouro_collect();
    ouro_gc_enable();
    forget();
    ouro_adjust_external_bytes(1 << 20);
    ouro_safepoint();
    cr_assert_eq(sum.stops, 0);
    ouro_adjust_external_bytes(64 << 20);
    ouro_safepoint();
    cr_assert_geq(sum.stops, 1);
    cr_assert_eq(sum.last.reason, OURO_GC_AUTOMATIC);
    forget();
    ouro_adjust_external_bytes(-(65 << 20));
    ouro_safepoint();
    cr_assert_eq(sum.stops, 0);
    ouro_gc_disable();
    ouro_decref(node);
}

static void make_pairs(size_t count)
{
    for (size_t i = 0; i < count; i++)
        ouro_decref(ring_new(2));
}

/* --- what automatic collections leave, and what they cost ------------------------------------------------ */

/* Pairs that refer to each other, made, kept for long, and dropped: only old collections find them. */
Test(pace, old_garbage_goes_by_itself)
{
    enum { PAIRS = 10000 };
    struct node **pairs = calloc(PAIRS, sizeof *pairs);

    cr_assert(pairs);
    for (int i = 0; i < PAIRS; i++)
        pairs[i] = ring_new(2);
    ouro_collect();
    ouro_gc_enable();
    forget();
    for (int i = 0; i < PAIRS; i++) {
        ouro_decref(pairs[i]);
        ouro_safepoint();
    }
    for (int i = 0; i < 1000 && stats_now().noted > 2000; i++) {
        sleep_ms(1);
        ouro_decref(node_new(NULL, NULL));
        ouro_safepoint();
    }
    cr_assert_gt(sum.of_kind[OURO_GC_OLD], 0);
    cr_assert_leq(live_objects(), 2 * 2500, "%zu are left", live_objects());
    ouro_gc_disable();
    free(pairs);
}

/* A cache: what is dropped was kept for a while. */
Test(pace, garbage_of_middle_age_does_not_pile_up)
{
    enum { KEPT = 5000 };
    struct node **pairs = calloc(KEPT, sizeof *pairs);
    size_t most = 0, made = SCALE(200000, 40000);

    cr_assert(pairs);
    ouro_gc_enable();
    for (size_t i = 0; i < made; i++) {
        ouro_decref_or_null(pairs[i % KEPT]);
        pairs[i % KEPT] = ring_new(2);
        ouro_safepoint();
        if (i % 1000 == 0) {
            size_t live = live_objects();
            most = live > most ? live : most;
        }
    }
    cr_assert_leq(most, 16 * KEPT, "at most %zu objects, of which %d lived", most, 2 * KEPT);
    cr_assert_leq(sum.examined, 20 * made, "%zu examined", sum.examined);
    ouro_gc_disable();
    for (int i = 0; i < KEPT; i++)
        ouro_decref(pairs[i]);
    free(pairs);
}

/* A heap that only grows: each object is looked at a few times, however many there are. */
Test(pace, growth_is_not_quadratic)
{
    struct node *chain = NULL;
    size_t made = SCALE_MEMORY(500000, 50000);

    ouro_gc_enable();
    for (size_t i = 0; i < made; i++) {
        chain = node_new(chain, NULL);
        ouro_safepoint();
    }
    cr_assert_gt(sum.of_kind[OURO_GC_YOUNG], 0);
    cr_assert_leq(sum.examined, 2 * made, "%zu were examined, %zu made", sum.examined, made);
    ouro_gc_disable();
    ouro_decref(chain);
}

/* The same with objects that lose references all the time, and reach all the others. */
Test(pace, growth_with_candidates_is_not_quadratic)
{
    struct node *chain = NULL;
    size_t made = SCALE_MEMORY(500000, 50000);

    ouro_gc_enable();
    for (size_t i = 0; i < made; i++) {
        chain = node_new(chain, NULL);
        ouro_decref(ouro_incref(chain));
        ouro_safepoint();
    }
    /* Each is new once, is explored from once, 256 deep at most; and each deep collection comes after a growth by 25 %. */
    cr_assert_leq(sum.examined, (256 + 8) * made, "%zu were examined, %zu made", sum.examined,
                  made);
    cr_assert_leq(sum.deep, 40, "%zu", sum.deep);
    ouro_gc_disable();
    ouro_decref(chain);
}

struct dropper {
    struct node **pairs;
    size_t count;
};

static void drop_all(void *argument)
{
    struct dropper *dropper = argument;

    for (size_t i = 0; i < dropper->count; i++) {
        ouro_decref(dropper->pairs[i]);
        ouro_safepoint();
    }
    for (int i = 0; i < 1000 && stats_now().noted > 2000; i++) {
        sleep_ms(1);
        ouro_gc_disable();
        ouro_gc_enable(); /* asks again */
        ouro_safepoint();
    }
}

/* It makes nothing, so no growth reminds it of collecting. */
Test(pace, a_thread_that_only_drops)
{
    struct dropper dropper = {calloc(10000, sizeof(struct node *)), 10000};

    cr_assert(dropper.pairs);
    for (size_t i = 0; i < dropper.count; i++)
        dropper.pairs[i] = ring_new(2);
    ouro_collect();
    ouro_gc_enable();
    forget();
    run_in_thread(drop_all, &dropper);
    cr_assert_gt(sum.of_kind[OURO_GC_OLD], 0);
    cr_assert_gt(sum.collected, 0);
    cr_assert_leq(live_objects(), 20000 / 2);
    ouro_gc_disable();
    free(dropper.pairs);
}

/* Big cyclic things, one after the other, each kept until it is old: few candidates, much garbage. */
Test(pace, big_old_garbage_does_not_pile_up)
{
    enum { RINGS = 40, LENGTH = 20000 };
    size_t most = 0;

    ouro_gc_enable();
    for (int i = 0; i < SCALE_MEMORY(RINGS, 10); i++) {
        struct node *ring = ring_new(LENGTH);

        for (int j = 0; j < 20; j++) {
            sleep_ms(1);
            ouro_decref(node_new(NULL, NULL));
            ouro_safepoint();
        }
        ouro_decref(ring);
        size_t live = live_objects();
        most = live > most ? live : most;
    }
    /* It begins when the heap has doubled and 50,000 more, and makes a slice in a millisecond. */
    cr_assert_leq(most, 15 * LENGTH, "%zu objects, of which %d lived", most, LENGTH);
    ouro_gc_disable();
}

/* Much is made between two safepoints, and then nothing: no growth reminds anybody of what a stop had no room for. */
Test(pace, garbage_is_found_though_nothing_is_made_any_more)
{
    enum { RINGS = 10, LENGTH = 20000 };

    CHECK(ouro_gc_set_pause_budget(200000) == OURO_OK);
    for (int i = 0; i < RINGS; i++)
        ouro_decref(ring_new(LENGTH));
    ouro_gc_enable();
    for (int i = 0; i < 5000 && live_objects() > 2 * 50000; i++) {
        sleep_ms(1);
        ouro_safepoint();
    }
    cr_assert_leq(live_objects(), 2 * 50000);
    ouro_gc_disable();
}

/* A page of new objects is more than a small budget has room for: those that a limit left over get their turn all the same. */
Test(pace, what_waits_gets_its_turn_though_the_budget_is_small)
{
    struct node *before = chain_new(5000);

    ouro_decref(ring_new(2));
    struct node *kept = chain_new(5000);
    CHECK(ouro_gc_set_pause_budget(1) == OURO_OK);
    for (int i = 0; i < 40 && sum.collected == 0; i++) {
        ouro_collect_kind(OURO_GC_YOUNG);
        for (int j = 0; j < 1820; j++) /* leaves them nothing, each time */
            kept = node_new(kept, NULL);
    }
    cr_assert_eq(sum.collected, 2);
    ouro_decref(before);
    ouro_decref(kept);
}

/* While garbage piles up and is found there is no rest. */
Test(pace, no_rest_while_garbage_piles_up)
{
    make_pairs(100000);
    cr_assert_eq(ouro_gc_set_pause_budget(2000000), OURO_OK);
    ouro_gc_enable();
    forget();
    while (stats_now().tracked > 80000) {
        size_t before = sum.stops;

        ouro_safepoint();
        cr_assert_eq(sum.stops, before + 1, "%zu objects wait", stats_now().tracked);
    }
    cr_assert_gt(sum.stops, 1);
    ouro_gc_disable();
}

/* A long rest after one that found nothing ends when the heap has doubled. */
Test(pace, a_rest_ends_when_much_is_made)
{
    enum { COUNT = SCALE_MEMORY(300000, 60000) };
    struct node *chain = chain_new(COUNT);
    size_t most = 2 * COUNT + 50000 + 1000;

    cr_assert_eq(ouro_gc_set_pause_budget(UINT64_C(1) << 40), OURO_OK);
    ouro_gc_enable();
    ouro_safepoint();
    cr_assert_eq(sum.of_kind[OURO_GC_YOUNG], 1);
    cr_assert_geq(stats_now().settled, COUNT);
    /* As long as the stop took there is none in any case; it rests nineteen times that. */
    uint64_t end = os_now_ns() + sum.last.pause_ns;
    while (os_now_ns() < end) {
    }
    for (forget(); sum.stops == 0 && live_objects() < most;)
        make_pairs(100);
    cr_assert_gt(sum.stops, 0, "%zu objects", live_objects());
    ouro_gc_disable();
    ouro_decref(chain);
}

static struct gate holding, let_go;

/* The callback of a thread that collects: lets go of that when the other one has had its time. */
static void hold_up(const ouro_gc_info *info, void *argument)
{
    (void)argument;
    if (info->phase != OURO_GC_STOP)
        return;
    gate_open(&holding);
    gate_wait(&let_go);
}

static void collect_once(void *argument)
{
    (void)argument;
    ouro_gc_disable();
    ouro_gc_enable(); /* asks */
    ouro_safepoint();
}

/* Who makes garbage faster than another thread finds it waits for that one, but not for ever: it may have what that one wants. */
Test(pace, who_makes_garbage_too_fast_waits)
{
    struct worker worker;
    size_t passed = 0;

    make_pairs(100000);
    cr_assert_eq(ouro_gc_set_pause_budget(1000000), OURO_OK);
    cr_assert_eq(ouro_gc_add_callback(hold_up, NULL), OURO_OK);
    ouro_gc_enable();
    worker_start(&worker, collect_once, NULL);
    gate_wait(&holding);
    uint64_t end = os_now_ns() + 100000000;
    while (os_now_ns() < end) {
        make_pairs(1);
        ouro_safepoint();
        passed++;
    }
    ouro_gc_disable();
    gate_open(&let_go);
    worker_join(&worker);
    cr_assert_eq(ouro_gc_remove_callback(hold_up, NULL), OURO_OK);
    /* Each waited for a millisecond. */
    cr_assert(passed > 0 && passed < 1000, "%zu safepoints in 100 ms", passed);
}

Test(pace, a_budget_without_end)
{
    struct node *tree = tree_new(14);

    cr_assert_eq(ouro_gc_set_pause_budget(UINT64_MAX), OURO_OK);
    ouro_collect();
    for (int i = 0; i < 3000; i++) /* one that is cut */
        ouro_decref(ouro_incref(tree));
    ouro_collect_kind(OURO_GC_OLD);
    cr_assert_gt(sum.last.cut, 0);
    forget();
    cr_assert_not(ouro_collect_step(0));
    cr_assert(sum.of_kind[OURO_GC_DEEP] > 0 && sum.of_kind[OURO_GC_DEEP] <= 2, "%zu slices",
              sum.of_kind[OURO_GC_DEEP]);
    ouro_decref(tree);
}

Test(pace, frozen_objects_cost_nothing)
{
    struct node *tree = tree_new(14);

    ouro_freeze(0);
    ouro_gc_enable();
    for (int i = 0; i < 20000; i++) {
        ouro_decref(ouro_incref(tree->left));
        ouro_decref(ring_new(2));
        ouro_safepoint();
    }
    cr_assert_gt(sum.of_kind[OURO_GC_YOUNG], 0);
    cr_assert_leq(sum.examined, 40000 + 5000, "%zu examined", sum.examined);
    ouro_gc_disable();
    ouro_unfreeze();
    ouro_decref(tree);
}
