/*
 * test_schedule_cases.c - what schedulers of collections are known to get wrong, a test each; and that each record names its cause.
 *
 * The cases are those that users of other runtimes have met: collections that never come because of something the program does all the time,
 * figures that are counted twice and drift, thresholds that know nothing of what lives, memory that is not seen.
 */
#include "support.h"

#include <stdlib.h>

static void begin(void);

TestSuite(schedule_cases, .init = begin, .fini = leave, .timeout = 100);

static struct {
    size_t stops, examined, collected;
    unsigned causes; /* bits */
    ouro_gc_cause last_cause;
} sum;

static void add_up(const ouro_gc_info *info, void *argument)
{
    (void)argument;
    if (info->phase == OURO_GC_START) {
        CHECK(info->candidates == 0 && info->collected == 0);
        return;
    }
    sum.stops++;
    sum.examined += info->candidates;
    sum.collected += info->collected;
    sum.causes |= 1u << info->cause;
    sum.last_cause = info->cause;
    CHECK((info->reason == OURO_GC_REQUESTED) == (info->cause == OURO_GC_CAUSE_CALL));
}

static void begin(void)
{
    enter();
    CHECK(ouro_gc_add_callback(add_up, NULL) == OURO_OK);
    memset(&sum, 0, sizeof sum);
}

/* Cyclic garbage, with a safepoint after each. Returns how many objects there were at most. */
static size_t make_garbage(size_t pairs)
{
    size_t most = 0;

    for (size_t i = 0; i < pairs; i++) {
        ouro_decref(ring_new(2));
        ouro_safepoint();
        if (i % 1024 == 0) {
            size_t live = live_objects();

            most = live > most ? live : most;
        }
    }
    return most;
}

/* --- collections that never come ------------------------------------------------------------------------- */

/* Who looks at the figures all the time is not forgotten. */
Test(schedule_cases, reading_figures_keeps_no_collection_away)
{
    ouro_memory memory;

    ouro_gc_enable();
    for (int i = 0; i < 20000; i++) {
        ouro_decref(ring_new(2));
        CHECK(stats_now().tracked < 20000);
        ouro_memory_stats(&memory);
        ouro_safepoint();
    }
    cr_assert_gt(sum.stops, 2);
    cr_assert_lt(live_objects(), 20000);
    ouro_gc_disable();
}

static void make_little(void *argument)
{
    (void)argument;
    for (int i = 0; i < 50; i++)
        ouro_decref(ring_new(2)); /* less than the heap reports at a time */
    ouro_safepoint();
}

/* Each thread makes too little to notice. */
Test(schedule_cases, short_threads_add_up)
{
    enum { THREADS = 400, MOST = 20000 };
    size_t most = 0;

    ouro_gc_enable();
    for (int i = 0; i < THREADS; i++) {
        run_in_thread(make_little, NULL);
        size_t live = live_objects();
        most = live > most ? live : most;
    }
    cr_assert_gt(sum.stops, 0);
    cr_assert_lt(most, MOST, "%zu objects", most);
    ouro_gc_disable();
}

/* Threads that make no garbage are as good as any to notice that of one that is gone. */
Test(schedule_cases, a_thread_that_leaves_garbage_behind)
{
    ouro_gc_disable();
    run_in_thread(make_little, NULL);
    ouro_gc_enable();
    ouro_gc_enable();
    ouro_gc_set_threshold(90, 0);
    ouro_decref(chain_new(2));
    ouro_gc_disable();
    ouro_gc_enable(); /* asks */
    ouro_safepoint();
    cr_assert_geq(sum.collected, 100);
    ouro_gc_disable();
}

/* Suspending collections for short times, all the time, is not the same as doing without. */
Test(schedule_cases, disabling_for_short_times_keeps_none_away_for_ever)
{
    ouro_gc_enable();
    for (int i = 0; i < 20000; i++) {
        ouro_gc_disable();
        ouro_decref(ring_new(2));
        ouro_gc_enable();
        ouro_safepoint();
    }
    cr_assert_gt(sum.stops, 2);
    cr_assert_lt(live_objects(), 20000);
    ouro_gc_disable();
}

/* --- figures that drift ------------------------------------------------------------------------------------ */

/* What a collection frees is not taken off twice: then each would come later than the one before. */
Test(schedule_cases, collections_do_not_come_later_and_later)
{
    enum { PAIRS = 30000 };
    size_t stops[4];

    ouro_gc_enable();
    for (int part = 0; part < 4; part++) {
        sum.stops = 0;
        make_garbage(PAIRS);
        stops[part] = sum.stops;
    }
    cr_assert(stops[3] * 3 >= stops[0] && stops[0] * 3 >= stops[3],
              "%zu in the first part, %zu in the last", stops[0], stops[3]);
    cr_assert_lt(live_objects(), 20000);
    cr_assert_lt(stats_now().tracked, live_objects() + 1000);
    ouro_gc_disable();
}

/* Nor does each cost more than the one before. */
Test(schedule_cases, collections_do_not_examine_more_and_more)
{
    enum { PAIRS = 30000 };
    size_t examined[4];

    ouro_gc_enable();
    for (int part = 0; part < 4; part++) {
        sum.examined = 0;
        make_garbage(PAIRS);
        examined[part] = sum.examined;
    }
    cr_assert_leq(examined[3], 2 * examined[0] + 1000, "%zu in the first part, %zu in the last",
                  examined[0], examined[3]);
    ouro_gc_disable();
}

/* --- garbage beside much that lives -------------------------------------------------------------------------- */

/* A threshold that grows with the heap leaves as much garbage as there are objects; and none whatever would look at all of them. */
Test(schedule_cases, garbage_beside_much_that_lives)
{
    enum { PAIRS = 100000 };
    unsigned depth = UNDER_TSAN || UNDER_ASAN ? 13 : 16;
    struct node *tree = tree_new(depth);
    size_t lives = ((size_t)2 << depth) - 1;

    ouro_collect();
    memset(&sum, 0, sizeof sum);
    ouro_gc_enable();
    size_t most = make_garbage(PAIRS);
    cr_assert_lt(most, lives + 20000, "%zu, of which %zu live", most, lives);
    cr_assert_leq(sum.examined, 3 * 2 * PAIRS, "%zu", sum.examined);
    ouro_gc_disable();
    ouro_decref(tree);
}

/* Old ones die all the time, half of them by their counts: so there are more new objects than the heap has grown by, and what was garbage
 * among these must not be taken for what lives. */
Test(schedule_cases, half_of_what_dies_is_cyclic)
{
    enum { CHAINS = 12500, LENGTH = 8, LIVES = CHAINS * LENGTH };
    static struct node *chains[CHAINS];
    size_t rounds = SCALE_MEMORY(400000, 40000), most = 0;
    uint32_t chance = 1;

    for (int i = 0; i < CHAINS; i++)
        chains[i] = i % 2 ? ring_new(LENGTH) : chain_new(LENGTH);
    ouro_collect();
    ouro_gc_enable();
    for (size_t i = 0; i < rounds; i++) {
        struct node **place;

        chance = chance * 1664525 + 1013904223;
        place = &chains[(chance >> 8) % CHAINS];
        ouro_decref(*place);
        *place = chance >> 31 ? ring_new(LENGTH) : chain_new(LENGTH);
        ouro_safepoint();
        if (i % 256 == 0) {
            size_t live = live_objects();

            most = live > most ? live : most;
        }
    }
    /* Twice what lives, and 50,000, is where the schedule begins to mind; with room for slow machines. */
    cr_assert_leq(most, 2 * LIVES + 50000 + LIVES / 2, "%zu objects, of which %d live", most,
                  LIVES);
    ouro_gc_disable();
    for (int i = 0; i < CHAINS; i++)
        ouro_decref(chains[i]);
}

static struct gate go;
static atomic_size_t most_of_all;

static void make_much(void *argument)
{
    (void)argument;
    gate_wait(&go);
    size_t most = make_garbage(SCALE_MEMORY(200000, 40000)), before = atomic_load(&most_of_all);
    while (most > before && !atomic_compare_exchange_weak(&most_of_all, &before, most)) {
    }
}

/* Garbage is stable, not rising, if several threads make it. Twice what the schedule lets pass, for a slow machine. */
Test(schedule_cases, two_threads_that_make_garbage)
{
    struct worker workers[2];

    ouro_gc_enable();
    for (int i = 0; i < 2; i++)
        worker_start(&workers[i], make_much, NULL);
    gate_open(&go);
    for (int i = 0; i < 2; i++)
        worker_join(&workers[i]);
    cr_assert_lt(atomic_load(&most_of_all), 2 * 50000, "%zu objects", atomic_load(&most_of_all));
    ouro_gc_disable();
}

/* --- memory that is not seen ---------------------------------------------------------------------------------- */

/* Absurd amounts neither trap nor stay. */
Test(schedule_cases, absurd_external_bytes)
{
    ouro_adjust_external_bytes(INT64_MAX);
    ouro_adjust_external_bytes(INT64_MAX);
    ouro_adjust_external_bytes(2);
    cr_assert_eq(stats_now().external_bytes, 0);
    ouro_adjust_external_bytes(INT64_MIN);
    cr_assert_eq(stats_now().external_bytes, 0);
    ouro_adjust_external_bytes(INT64_MIN);
    cr_assert_eq(stats_now().external_bytes, 0);
    ouro_adjust_external_bytes(1000);
    cr_assert_eq(stats_now().external_bytes, 1000);
    ouro_adjust_external_bytes(-1000);
}

/* --- what records and figures say ------------------------------------------------------------------------------ */

Test(schedule_cases, causes_of_young_ones)
{
    ouro_collect();
    cr_assert_eq(sum.last_cause, OURO_GC_CAUSE_CALL);
    ouro_gc_set_threshold(5000, 1000000);
    cr_assert_eq(ouro_gc_set_pause_budget(1), OURO_OK); /* a page a stop */
    ouro_gc_enable();
    struct node *chain = chain_new(10000);
    sum.causes = 0;
    ouro_safepoint();
    cr_assert_eq(sum.causes, 1u << OURO_GC_CAUSE_OBJECTS);
    for (int i = 0; i < 100 && !(sum.causes >> OURO_GC_CAUSE_LEFT & 1); i++) {
        sleep_ms(1);
        ouro_gc_disable();
        ouro_gc_enable(); /* asks */
        ouro_safepoint();
    }
    cr_assert(sum.causes >> OURO_GC_CAUSE_LEFT & 1, "%#x", sum.causes);
    ouro_gc_disable();
    ouro_collect();
    ouro_gc_set_threshold(1000000, 25);
    ouro_gc_enable();
    ouro_adjust_external_bytes(64 << 20);
    ouro_safepoint();
    cr_assert_eq(sum.last_cause, OURO_GC_CAUSE_BYTES, "%d", (int)sum.last_cause);
    ouro_adjust_external_bytes(-(64 << 20));
    ouro_gc_disable();
    ouro_decref(chain);
}

Test(schedule_cases, causes_of_others)
{
    ouro_gc_set_threshold(300, 0);
    ouro_gc_enable();
    struct array *array = array_new(1000);
    for (int i = 0; i < 1000; i++)
        array->items[i] = OURO_OF(ring_new(2));
    ouro_collect();
    sum.causes = 0;
    for (int i = 0; i < 1000; i++)
        ouro_decref(ouro_incref(array->items[i]));
    for (int i = 0; i < 100 && !sum.causes; i++) {
        sleep_ms(1);
        ouro_gc_disable();
        ouro_gc_enable();
        ouro_safepoint();
    }
    cr_assert(sum.causes >> OURO_GC_CAUSE_CANDIDATES & 1, "%#x", sum.causes);

    sum.causes = 0;
    ouro_gc_set_every(1);
    ouro_safepoint();
    ouro_gc_set_every(0);
    cr_assert_eq(sum.causes, 1u << OURO_GC_CAUSE_EVERY);
    ouro_gc_disable();
    ouro_decref(array);
}

/* One candidate, behind which the heap has doubled. */
Test(schedule_cases, causes_of_deep_ones)
{
    enum { RINGS = 10, LENGTH = 20000 };
    unsigned wanted = 1u << OURO_GC_CAUSE_GROWTH | 1u << OURO_GC_CAUSE_SLICE;

    cr_assert_eq(ouro_gc_set_pause_budget(50000), OURO_OK);
    ouro_gc_enable();
    for (int i = 0; i < RINGS; i++) {
        ouro_decref(ring_new(LENGTH));
        ouro_safepoint();
    }
    for (int i = 0; i < 5000 && (sum.causes & wanted) != wanted; i++) {
        sleep_ms(1);
        ouro_safepoint();
    }
    cr_assert_eq(sum.causes & wanted, wanted, "%#x", sum.causes);
    ouro_gc_disable();
}

Test(schedule_cases, figures_of_bytes)
{
    struct node *chain = chain_new(1000);
    size_t bytes = 1000 * sizeof(struct node);

    ouro_adjust_external_bytes(12345);
    ouro_gc_stats stats = stats_now();
    cr_assert_eq(stats.external_bytes, 12345);
    cr_assert_geq(stats.tracked_bytes, bytes);
    cr_assert_geq(stats.net_new_bytes, bytes + 12345);
    cr_assert_gt(stats.young_ns, 0);
    cr_assert_gt(stats.old_ns, 0);
    cr_assert_not(stats.under_way);
    collect_kind(OURO_GC_DEEP);
    cr_assert_leq(stats_now().net_new_bytes, 128 * 100);
    cr_assert_geq(last_info.bytes, bytes + 12345);
    cr_assert_geq(last_info.net_new_bytes, bytes + 12345);
    ouro_adjust_external_bytes(-12345);
    ouro_decref(chain);
}

static void look_at_all_new(void)
{
    do
        collect_kind(OURO_GC_YOUNG);
    while (last_info.candidates > 0);
}

/* What is new is reported up to 128 at a time. */
static bool has_settled(size_t objects)
{
    size_t settled = stats_now().settled;

    return settled >= objects && settled <= objects + 128;
}

/* What has been looked at and is no candidate has settled; no candidate is needed for that. */
Test(schedule_cases, what_lives_settles_without_candidates)
{
    enum { COUNT = 20000 };
    struct node *chain = chain_new(COUNT), *more;

    collect_kind(OURO_GC_YOUNG);
    cr_assert_lt(stats_now().settled, COUNT, "some are new");
    look_at_all_new();
    cr_assert(has_settled(COUNT));
    more = chain_new(COUNT);
    ouro_decref(ouro_incref(chain));
    look_at_all_new();
    cr_assert(has_settled(COUNT), "there is a candidate");
    collect_kind(OURO_GC_DEEP);
    cr_assert(has_settled(2 * COUNT));
    ouro_decref(more);
    ouro_decref(chain);
}

/* It follows a heap that shrinks, though there are candidates. What has died is seen when its pages are used again. */
Test(schedule_cases, what_has_settled_shrinks)
{
    enum { COUNT = 20000, MUCH = 100000 };
    struct node *chain = chain_new(COUNT), *more = chain_new(MUCH);

    collect_kind(OURO_GC_DEEP);
    cr_assert(has_settled(COUNT + MUCH));
    ouro_decref(more);
    for (int i = 0; i < 100; i++) {
        ouro_decref(chain_new(2000));
        ouro_safepoint();
    }
    ouro_decref(ouro_incref(chain));
    collect_kind(OURO_GC_YOUNG);
    cr_assert_lt(stats_now().settled, COUNT + MUCH / 2, "%zu", stats_now().settled);
    cr_assert_geq(stats_now().settled, COUNT);
    ouro_decref(chain);
}

static void figures_for_nobody(void)
{
    ouro_gc_get_stats(NULL);
}

Test(schedule_cases, figures_need_a_place)
{
    char text[1000];

    cr_assert(aborts(figures_for_nobody, text, sizeof text));
    cr_assert(strstr(text, "ouro_gc_get_stats(NULL)"), "%s", text);
}
