/*
 * test_schedule.c - when collections run by themselves, the callbacks, and the statistics.
 */

#include "support.h"

TestSuite(schedule, .init = enter, .fini = leave);

/* Makes objects, which live, until a collection has run by itself; returns how many that took. */
static size_t objects_until_collection(size_t at_most)
{
    uint64_t automatic = stats_now().automatic;
    struct node *chain = NULL;
    size_t count = 0;

    while (count < at_most && stats_now().automatic == automatic) {
        chain = node_new(chain, NULL);
        count++;
        ouro_safepoint();
    }
    ouro_decref_or_null(chain);
    return count;
}

/* --- thresholds -------------------------------------------------------------------------------------- */

Test(schedule, thresholds_at_first)
{
    size_t objects;
    unsigned percent;

    ouro_gc_get_threshold(&objects, &percent);
    cr_assert_eq(objects, 2000);
    cr_assert_eq(percent, 25);
    cr_assert_eq(stats_now().collections, 0);
    cr_assert_eq(stats_now().automatic, 0);
}

Test(schedule, thresholds_set_and_get)
{
    size_t objects;
    unsigned percent;

    ouro_gc_set_threshold(12345, 67);
    ouro_gc_get_threshold(&objects, &percent);
    cr_assert_eq(objects, 12345);
    cr_assert_eq(percent, 67);
    cr_assert_eq(stats_now().threshold, 12345);
    ouro_gc_set_threshold(0, 0);
    ouro_gc_get_threshold(&objects, &percent);
    cr_assert_eq(objects, 0);
    cr_assert_eq(percent, 0);
}

Test(schedule, after_about_two_thousand_objects)
{
    ouro_collect();
    ouro_gc_set_threshold(2000, 25);
    ouro_gc_enable();
    size_t count = objects_until_collection(100000);
    cr_assert(count >= 1800 && count <= 2600, "it took %zu objects", count);
}

Test(schedule, after_as_many_as_was_said)
{
    ouro_collect();
    ouro_gc_set_threshold(20000, 0);
    ouro_gc_enable();
    size_t count = objects_until_collection(100000);
    cr_assert(count >= 19500 && count <= 21000, "it took %zu objects", count);
}

Test(schedule, never)
{
    ouro_gc_set_threshold(0, 25);
    ouro_gc_enable();
    cr_assert_eq(objects_until_collection(20000), 20000);
    ouro_decref(ring_new(3));
    cr_assert_eq(ouro_collect(), 3);
}

Test(schedule, only_at_safepoints)
{
    ouro_gc_set_threshold(100, 0);
    ouro_gc_enable();
    struct node *chain = chain_new(50000);
    ouro_decref(chain);
    chain = chain_new(50000);
    cr_assert_eq(stats_now().collections, 0);
    ouro_safepoint();
    cr_assert_eq(stats_now().automatic, 1);
    ouro_decref(chain);
}

/* Young collections that free nothing come ever later, and earlier again when they free much. How often they come depends on
 * how long they take: each leaves the program many times that. */
Test(schedule, later_if_nothing_is_found)
{
    struct node *chain = NULL;

    ouro_gc_set_pause_budget(1000000000);
    ouro_gc_set_threshold(2000, 1000000);
    ouro_gc_enable();
    for (int i = 0; i < 5000000 && stats_now().threshold < 8000; i++) {
        chain = node_new(chain, NULL);
        ouro_safepoint();
    }
    size_t raised = stats_now().threshold;
    cr_assert(raised >= 8000, "%zu", raised);
    for (int i = 0; i < 5000000 && stats_now().threshold >= raised; i++) {
        ouro_decref(ring_new(2));
        ouro_safepoint();
    }
    cr_assert(stats_now().threshold < raised, "%zu", stats_now().threshold);
    ouro_gc_disable();
    ouro_decref(chain);
}

Test(schedule, garbage_does_not_pile_up)
{
    size_t most = 0;

    ouro_gc_set_threshold(2000, 25);
    ouro_gc_enable();
    for (int i = 0; i < SCALE(30000, 5000); i++) {
        ouro_decref(ring_new(2));
        if (i % 100 == 0) {
            size_t live = live_objects();
            most = live > most ? live : most;
        }
        ouro_safepoint();
    }
    cr_assert_gt(stats_now().automatic, 3);
    cr_assert_gt(most, 1000);
    cr_assert_lt(most, 4000);
}

Test(schedule, objects_that_die_at_once_need_no_collection)
{
    ouro_gc_set_threshold(2000, 25);
    ouro_gc_enable();
    for (int i = 0; i < SCALE(200000, 20000); i++) {
        ouro_decref(node_new(NULL, NULL));
        ouro_safepoint();
    }
    cr_assert_eq(stats_now().automatic, 0);
}

Test(schedule, untracked_objects_need_no_collection)
{
    enum { COUNT = 20000 };
    struct array *array = array_new(COUNT);

    ouro_gc_set_threshold(2000, 25);
    ouro_gc_enable();
    for (int i = 0; i < COUNT; i++) {
        array->items[i] = OURO_OF(leaf_new(i));
        ouro_safepoint();
    }
    cr_assert_eq(stats_now().automatic, 0);
    ouro_decref(array);
}

/* --- disable and enable ------------------------------------------------------------------------------ */

Test(schedule, disabling_nests)
{
    /* `enter` has disabled it once. */
    cr_assert_not(ouro_gc_is_enabled());
    ouro_gc_disable();
    ouro_gc_disable();
    ouro_gc_enable();
    ouro_gc_enable();
    cr_assert_not(ouro_gc_is_enabled());
    cr_assert_eq(objects_until_collection(10000), 10000);
    ouro_gc_enable();
    cr_assert(ouro_gc_is_enabled());
    cr_assert_lt(objects_until_collection(10000), 10000);
}

static void disable(void *argument)
{
    (void)argument;
    ouro_gc_disable();
}

Test(schedule, disabling_is_for_all_threads)
{
    ouro_gc_enable();
    cr_assert(ouro_gc_is_enabled());
    run_in_bare_thread(disable, NULL);
    cr_assert_not(ouro_gc_is_enabled());
    cr_assert_eq(objects_until_collection(10000), 10000);
    ouro_decref(ring_new(3));
    cr_assert_eq(ouro_collect(), 3);
}

/* --- callbacks ----------------------------------------------------------------------------------------- */

static ouro_gc_info infos[64];
static int tags[64];
static int calls;

static void note(const ouro_gc_info *info, void *argument)
{
    CHECK(ouro_thread_state() == OURO_STATE_ATTACHED);
    CHECK(calls < 64);
    tags[calls] = *(int *)argument;
    infos[calls++] = *info;
}

static int one = 1, two = 2, three = 3;

Test(schedule, callbacks_are_told_what_happened)
{
    struct node *chain = chain_new(5);

    cr_assert_eq(ouro_gc_add_callback(note, &one), OURO_OK);
    ouro_decref(ring_new(7));
    cr_assert_eq(ouro_collect(), 7);
    cr_assert_eq(calls, 2);

    const ouro_gc_info *start = &infos[0], *stop = &infos[1];
    cr_assert_eq(start->phase, OURO_GC_START);
    cr_assert_eq(stop->phase, OURO_GC_STOP);
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(infos[i].reason, OURO_GC_REQUESTED);
        cr_assert_eq(infos[i].generation, 2);
        cr_assert_eq(infos[i].number, 1);
        cr_assert_leq(infos[i].net_new, 12 + 128);
    }
    cr_assert_eq(stop->candidates, 12);
    cr_assert_eq(stop->collected, 7);
    cr_assert_eq(stop->uncollectable, 0);
    cr_assert_gt(stop->pause_ns, 0);
    cr_assert_geq(stop->total_ns, stop->pause_ns + stop->stop_ns);
    cr_assert_lt(stop->total_ns, UINT64_C(10000000000));
    cr_assert_eq(stop->threshold, stats_now().threshold);
    cr_assert_eq(nodes_destroyed, 7);

    ouro_collect();
    cr_assert_eq(calls, 4);
    cr_assert_eq(infos[2].number, 2);
    cr_assert_eq(infos[3].collected, 0);
    ouro_decref(chain);
}

Test(schedule, automatic_ones_say_so)
{
    ouro_gc_set_threshold(1000, 0);
    ouro_gc_enable();
    cr_assert_eq(ouro_gc_add_callback(note, &one), OURO_OK);
    objects_until_collection(100000);
    cr_assert_eq(calls, 2);
    cr_assert_eq(infos[0].reason, OURO_GC_AUTOMATIC);
    cr_assert_eq(infos[1].reason, OURO_GC_AUTOMATIC);
    cr_assert_geq(infos[0].net_new, 1000);
    cr_assert_leq(infos[0].net_new, 2000);
}

Test(schedule, callbacks_keep_their_order)
{
    cr_assert_eq(ouro_gc_add_callback(note, &two), OURO_OK);
    cr_assert_eq(ouro_gc_add_callback(note, &one), OURO_OK);
    cr_assert_eq(ouro_gc_add_callback(note, &three), OURO_OK);
    cr_assert_eq(ouro_gc_add_callback(note, &one), OURO_BUSY);
    ouro_collect();
    static const int expected[] = {2, 1, 3, 2, 1, 3};
    cr_assert_eq(calls, 6);
    cr_assert_arr_eq(tags, expected, sizeof expected);

    cr_assert_eq(ouro_gc_remove_callback(note, &one), OURO_OK);
    cr_assert_eq(ouro_gc_remove_callback(note, &one), OURO_ABSENT);
    cr_assert_eq(ouro_gc_remove_callback(note, NULL), OURO_ABSENT);
    calls = 0;
    ouro_collect();
    cr_assert_eq(calls, 4);
    cr_assert(tags[0] == 2 && tags[1] == 3 && tags[2] == 2 && tags[3] == 3);

    cr_assert_eq(ouro_gc_add_callback(note, &one), OURO_OK);
    calls = 0;
    ouro_collect();
    cr_assert_eq(calls, 6);
    cr_assert_eq(tags[2], 1);
}

Test(schedule, there_is_room_for_32_callbacks)
{
    static int values[33];

    for (int i = 0; i < 32; i++)
        cr_assert_eq(ouro_gc_add_callback(note, &values[i]), OURO_OK);
    cr_assert_eq(ouro_gc_add_callback(note, &values[32]), OURO_LIMIT);
    ouro_collect();
    cr_assert_eq(calls, 64);
    cr_assert_eq(ouro_gc_remove_callback(note, &values[7]), OURO_OK);
    cr_assert_eq(ouro_gc_add_callback(note, &values[32]), OURO_OK);
    for (int i = 0; i < 33; i++)
        cr_assert_eq(ouro_gc_remove_callback(note, &values[i]), i == 7 ? OURO_ABSENT : OURO_OK);
    calls = 0;
    ouro_collect();
    cr_assert_eq(calls, 0);
}

static void use_the_library(const ouro_gc_info *info, void *argument)
{
    (void)info;
    (void)argument;
    calls++;
    CHECK(ouro_collect() == 0);
    ouro_decref(node_new(NULL, NULL));
    ouro_safepoint();
    CHECK(stats_now().collections <= 2);
}

Test(schedule, a_callback_may_use_the_library)
{
    ouro_gc_set_threshold(1, 0);
    cr_assert_eq(ouro_gc_add_callback(use_the_library, NULL), OURO_OK);
    ouro_gc_enable();
    ouro_decref(ring_new(4));
    cr_assert_eq(ouro_collect(), 4);
    cr_assert_eq(calls, 2);
    ouro_gc_disable();
    cr_assert_eq(ouro_gc_remove_callback(use_the_library, NULL), OURO_OK);
}

static void remove_itself(const ouro_gc_info *info, void *argument)
{
    calls++;
    if (info->phase == OURO_GC_STOP) {
        CHECK(ouro_gc_remove_callback(remove_itself, argument) == OURO_OK);
        CHECK(ouro_gc_add_callback(note, &two) == OURO_OK);
    }
}

Test(schedule, a_callback_may_remove_itself_and_add_another)
{
    cr_assert_eq(ouro_gc_add_callback(remove_itself, NULL), OURO_OK);
    ouro_collect();
    cr_assert_eq(ouro_gc_remove_callback(remove_itself, NULL), OURO_ABSENT);
    calls = 0;
    ouro_collect();
    cr_assert_eq(calls, 2);
    cr_assert_eq(tags[0], 2);
}

/* --- statistics ---------------------------------------------------------------------------------------- */

Test(schedule, statistics_add_up)
{
    uint64_t pauses = 0, longest = 0, stops = 0, total = 0;

    cr_assert_eq(ouro_gc_add_callback(note, &one), OURO_OK);
    for (size_t i = 1; i <= 10; i++) {
        ouro_decref(ring_new(i));
        cr_assert_eq(ouro_collect(), i);
        const ouro_gc_info *info = &infos[calls - 1];
        cr_assert_eq(info->number, i);
        pauses += info->pause_ns;
        stops += info->stop_ns;
        total += info->total_ns;
        longest = info->pause_ns > longest ? info->pause_ns : longest;
    }
    ouro_gc_stats stats = stats_now();
    cr_assert_eq(stats.collections, 10);
    cr_assert_eq(stats.automatic, 0);
    cr_assert_eq(stats.collected, 55);
    cr_assert_eq(stats.uncollectable, 0);
    cr_assert_eq(stats.pause_ns_total, pauses);
    cr_assert_eq(stats.pause_ns_max, longest);
    cr_assert_eq(stats.stop_ns_total, stops);
    cr_assert_leq(stats.stop_ns_max, stops);
    cr_assert_eq(stats.total_ns, total);
    cr_assert_eq(stats.late_stops, 0);
}

Test(schedule, net_new_grows_and_begins_anew)
{
    struct node *chain = chain_new(10000);
    size_t net_new = stats_now().net_new;

    cr_assert(net_new >= 9500 && net_new <= 10500, "%zu", net_new);
    ouro_collect();
    cr_assert_lt(stats_now().net_new, 300);
    ouro_decref(chain);
    ouro_safepoint();
    cr_assert_lt(stats_now().net_new, 300);
}
