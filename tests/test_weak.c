/*
 * test_weak.c - weak references: what get returns when, sharing, callbacks, the table, the block that waits.
 * What the collector does to them is in test_weak_gc.c.
 */
#include "support.h"

#include "base/events.h"

#include <sched.h>

TestSuite(weak, .init = enter, .fini = leave);

static ouro_weakref *weak_to(struct node *target)
{
    ouro_weakref *ref = ouro_weakref_new(target);

    CHECK(ref);
    return ref;
}

/* The target is alive if that many references to it are known, besides the one that get makes. */
static void assert_target(const ouro_weakref *ref, struct node *target, uint32_t known)
{
    struct node *got = ouro_weakref_get(ref);

    cr_assert_eq(got, target);
    cr_assert_eq(ouro_refcount(got), known + 1);
    ouro_decref(got);
}

static void assert_cleared(const ouro_weakref *ref)
{
    cr_assert(ouro_weakref_is_cleared(ref));
    cr_assert_null(ouro_weakref_get(ref));
}

/* --- callbacks that are recorded ---------------------------------------------------------------------- */

enum { CALLS_MAX = 32 };

static struct {
    ouro_weakref *refs[CALLS_MAX];
    ouro_object *arguments[CALLS_MAX];
    size_t count;
} calls;

static void record(ouro_weakref *ref, ouro_object *argument)
{
    CHECK(ouro_thread_state() == OURO_STATE_ATTACHED);
    CHECK(ouro_weakref_is_cleared(ref) && !ouro_weakref_get(ref));
    CHECK(calls.count < CALLS_MAX);
    calls.refs[calls.count] = ref;
    calls.arguments[calls.count++] = argument;
}

static ouro_weakref *watch(struct node *target)
{
    ouro_weakref *ref = ouro_weakref_new_callback(target, record, NULL);

    CHECK(ref);
    return ref;
}

/* --- get ---------------------------------------------------------------------------------------------- */

Test(weak, all_callers_share_the_one_without_a_callback)
{
    struct node *a = node_new(NULL, NULL), *b = node_new(NULL, NULL);
    ouro_weakref *first = weak_to(a), *again = weak_to(a), *other = weak_to(b);

    cr_assert_eq(first, again);
    cr_assert_neq(first, other);
    cr_assert_eq(ouro_refcount(first), 2);
    cr_assert_eq(ouro_refcount(a), 1, "a weak reference is counted");
    cr_assert_eq(ouro_weakref_count(a), 1);
    ouro_decref(again);
    ouro_decref(first);
    cr_assert_eq(ouro_weakref_count(a), 0);
    first = weak_to(a); /* a new one */
    assert_target(first, a, 1);
    assert_target(other, b, 1);
    ouro_decref(a);
    ouro_decref(b);
    assert_cleared(first);
    assert_cleared(other);
    ouro_decref(first);
    ouro_decref(other);
}

Test(weak, count_and_list)
{
    struct node *target = node_new(NULL, NULL);
    ouro_weakref *refs[5], *listed[6] = {NULL};

    cr_assert_eq(ouro_weakref_count(target), 0);
    cr_assert_eq(ouro_weakref_list(target, listed, 6), 0);
    for (int i = 0; i < 4; i++)
        refs[i] = watch(target);
    refs[4] = weak_to(target);
    cr_assert_eq(ouro_weakref_count(target), 5);
    cr_assert_eq(ouro_weakref_list(target, listed, 0), 0);
    cr_assert_eq(ouro_weakref_list(target, listed, 2), 2);
    cr_assert_null(listed[2]);
    cr_assert_eq(listed[0], refs[4], "the shared one comes first");
    cr_assert_eq(listed[1], refs[3]);
    cr_assert_eq(ouro_refcount(refs[3]), 2);
    ouro_decref(listed[0]);
    ouro_decref(listed[1]);
    cr_assert_eq(ouro_weakref_list(target, listed, 6), 5);
    cr_assert_eq(listed[0], refs[4]);
    for (int i = 0; i < 4; i++)
        cr_assert_eq(listed[1 + i], refs[3 - i], "those with callbacks: the latest first");
    for (int i = 0; i < 5; i++) {
        ouro_decref(listed[i]);
        ouro_decref(refs[i]);
    }
    cr_assert_eq(ouro_weakref_count(target), 0);
    ouro_decref(target);
    cr_assert_eq(calls.count, 0);
}

Test(weak, what_has_weak_references_is_neither_unique_nor_disowned)
{
    struct node *target = node_new(NULL, NULL);

    cr_assert(ouro_is_unique(target));
    ouro_weakref *ref = weak_to(target);
    cr_assert_not(ouro_is_unique(target));
    cr_assert_not(ouro_disown(target));
    ouro_decref(ref);
    ouro_decref(target);
}

struct pair {
    struct node *target;
    ouro_weakref *ref;
    struct gate made, end;
};

static void get_elsewhere(void *argument)
{
    struct pair *pair = argument;
    struct node *got = ouro_weakref_get(pair->ref);

    CHECK(got == pair->target);
    CHECK(ouro_refcount(got) == 2);
    ouro_decref(got);
    CHECK(ouro_weakref_count(pair->target) == 1);
    ouro_weakref *ref = weak_to(pair->target);
    CHECK(ref == pair->ref);
    ouro_decref(ref);
}

Test(weak, get_by_another_thread)
{
    struct pair pair = {.target = node_new(NULL, NULL)};

    pair.ref = weak_to(pair.target);
    run_in_thread(get_elsewhere, &pair);
    assert_target(pair.ref, pair.target, 1);
    ouro_decref(pair.target);
    assert_cleared(pair.ref);
    ouro_decref(pair.ref);
}

static void make_pair(void *argument)
{
    struct pair *pair = argument;

    pair->target = node_new(NULL, NULL);
    pair->ref = weak_to(pair->target);
}

Test(weak, made_by_a_thread_that_has_ended)
{
    struct pair pair;

    run_in_thread(make_pair, &pair);
    assert_target(pair.ref, pair.target, 1);
    ouro_decref(pair.target);
    assert_cleared(pair.ref);
    cr_assert_eq(nodes_destroyed, 1);
    ouro_decref(pair.ref);
}

static void get_while_detached_owner(void *argument)
{
    struct pair *pair = argument;

    pair->target = node_new(NULL, NULL);
    pair->ref = weak_to(pair->target);
    gate_open(&pair->made);
    gate_wait_attached(&pair->end); /* passes no safepoint, so takes in nothing */
}

/* The last reference is dropped by who does not own the object: its owner has a local 1 and `shared` is -1. Until the owner
 * has looked a get may take the object back. */
Test(weak, get_of_a_target_whose_count_is_0_but_not_merged)
{
    struct worker worker;
    struct pair pair = {0};
    size_t merged = event_total(EVENT_MERGE_DRAIN);

    worker_start(&worker, get_while_detached_owner, &pair);
    gate_wait_attached(&pair.made);
    ouro_decref(pair.target);
    cr_assert_eq(ouro_refcount(pair.target), 0);
    struct node *got = ouro_weakref_get(pair.ref);
    cr_assert_eq(got, pair.target);
    cr_assert_eq(ouro_refcount(got), 1);
    gate_open(&pair.end);
    worker_join(&worker);
    cr_assert_gt(event_total(EVENT_MERGE_DRAIN), merged);
    cr_assert_eq(nodes_destroyed, 0, "the hint killed what was taken back");
    assert_target(pair.ref, got, 1);
    ouro_decref(got);
    cr_assert_eq(nodes_destroyed, 1);
    assert_cleared(pair.ref);
    ouro_decref(pair.ref);
}

static void get_own_half_dead(void *argument)
{
    struct pair *pair = argument;

    make_pair(pair);
    gate_open(&pair->made);
    gate_wait_attached(&pair->end);
    struct node *got = ouro_weakref_get(pair->ref);
    CHECK(got == pair->target);
    ouro_safepoint(); /* the hint is drained */
    CHECK(nodes_destroyed == 0 && ouro_refcount(got) == 1);
    ouro_decref(got);
    CHECK(nodes_destroyed == 1 && !ouro_weakref_get(pair->ref));
}

Test(weak, the_owner_takes_back_what_others_have_dropped)
{
    struct worker worker;
    struct pair pair = {0};

    worker_start(&worker, get_own_half_dead, &pair);
    gate_wait_attached(&pair.made);
    ouro_decref(pair.target);
    gate_open(&pair.end);
    worker_join(&worker);
    ouro_decref(pair.ref);
}

Test(weak, to_an_immortal_object)
{
    struct node *target = node_new(NULL, NULL);
    ouro_weakref *ref = weak_to(target);

    ouro_immortalize(target);
    struct node *got = ouro_weakref_get(ref);
    cr_assert_eq(got, target);
    cr_assert_eq(ouro_refcount(got), OURO_COUNT_IMMORTAL);
    ouro_decref(got);
    ouro_decref(target);
    cr_assert_eq(ouro_weakref_get(ref), target);
    ouro_weakref *again = weak_to(target); /* made after it became immortal */
    cr_assert_eq(again, ref);
    ouro_decref(again);
    ouro_decref(ref);
    cr_assert_eq(ouro_weakref_count(target), 0);
    expect_left(1);
}

Test(weak, of_an_immortal_weak_reference_the_target_dies_all_the_same)
{
    struct node *target = node_new(NULL, NULL);
    ouro_weakref *ref = watch(target);

    ouro_immortalize(ref);
    ouro_decref(target);
    assert_cleared(ref);
    cr_assert_eq(calls.count, 0);
    ouro_safepoint();
    cr_assert_eq(calls.count, 1);
    expect_left(1);
}

Test(weak, to_a_weak_reference)
{
    struct node *target = node_new(NULL, NULL);
    ouro_weakref *ref = weak_to(target), *second = ouro_weakref_new(ref);
    ouro_weakref *third = ouro_weakref_new_callback(ref, record, NULL);

    cr_assert_not_null(second);
    cr_assert_not_null(third);
    cr_assert_eq(ouro_weakref_count(ref), 2);
    ouro_weakref *got = ouro_weakref_get(second);
    cr_assert_eq(got, ref);
    ouro_decref(got);
    ouro_decref(target);
    assert_cleared(ref);
    cr_assert_not(ouro_weakref_is_cleared(second));
    ouro_decref(ref);
    assert_cleared(second);
    ouro_safepoint();
    cr_assert_eq(calls.count, 1);
    ouro_decref(second);
    ouro_decref(third);
}

static ouro_weakref *looked_at;
static size_t looks;

static void look(struct node *node)
{
    (void)node;
    CHECK(ouro_weakref_is_cleared(looked_at));
    CHECK(!ouro_weakref_get(looked_at));
    looks++;
}

Test(weak, is_cleared_before_destroy)
{
    struct node *target = node_new(NULL, NULL);

    looked_at = weak_to(target);
    on_node_destroy = look;
    ouro_decref(target);
    cr_assert_eq(looks, 1);
    target = ring_new(1);
    ouro_decref(looked_at);
    looked_at = weak_to(target);
    ouro_decref(target);
    cr_assert_eq(ouro_collect(), 1);
    cr_assert_eq(looks, 2);
    ouro_decref(looked_at);
}

/* Whoever is destroyed first, no member of a chain can be had any more once its holder is being destroyed and drops it. */
Test(weak, a_chain_dies_from_its_head)
{
    struct node *chain = chain_new(1000);
    ouro_weakref *last = NULL;

    for (struct node *node = chain; node; node = node->left)
        if (!node->left)
            last = weak_to(node);
    struct node *got = ouro_weakref_get(last);
    ouro_decref(chain);
    cr_assert_eq(nodes_destroyed, 999);
    assert_target(last, got, 1);
    ouro_decref(got);
    assert_cleared(last);
    ouro_decref(last);
}

/* --- callbacks ---------------------------------------------------------------------------------------- */

Test(weak, callbacks_run_at_the_next_safepoint_the_latest_first)
{
    struct node *target = node_new(NULL, NULL);
    ouro_weakref *refs[5];

    for (int i = 0; i < 5; i++)
        refs[i] = watch(target);
    ouro_decref(target);
    cr_assert_eq(nodes_destroyed, 1);
    cr_assert_eq(calls.count, 0, "a callback was called inside of a decref");
    cr_assert_eq(ouro_finalizers_waiting(), 5);
    for (int i = 0; i < 5; i++)
        assert_cleared(refs[i]);
    ouro_safepoint();
    cr_assert_eq(calls.count, 5);
    for (int i = 0; i < 5; i++) {
        cr_assert_eq(calls.refs[i], refs[4 - i]);
        cr_assert_null(calls.arguments[i]);
        cr_assert_eq(ouro_refcount(refs[i]), 1);
        ouro_decref(refs[i]);
    }
    ouro_safepoint();
    cr_assert_eq(calls.count, 5);
}

Test(weak, the_argument_is_held_until_the_callback_has_returned)
{
    struct node *target = node_new(NULL, NULL);
    struct leaf *argument = leaf_new(1);
    ouro_weakref *ref = ouro_weakref_new_callback(target, record, OURO_OF(argument));

    cr_assert_not_null(ref);
    cr_assert_eq(ouro_refcount(argument), 2);
    ouro_decref(argument);
    cr_assert_eq(leaves_destroyed, 0);
    ouro_decref(target);
    cr_assert_eq(leaves_destroyed, 0);
    ouro_safepoint();
    cr_assert_eq(calls.count, 1);
    cr_assert_eq(calls.arguments[0], OURO_OF(argument));
    cr_assert_eq(leaves_destroyed, 1,
                 "the weak reference holds its argument although it was called");
    ouro_decref(ref);
}

Test(weak, one_that_dies_first_is_not_called_and_gives_its_argument_back)
{
    struct node *target = node_new(NULL, NULL);
    struct leaf *argument = leaf_new(2);
    ouro_weakref *first = watch(target);
    ouro_weakref *middle = ouro_weakref_new_callback(target, record, OURO_OF(argument));
    ouro_weakref *last = watch(target);

    cr_assert_not_null(middle);
    ouro_decref(argument);
    ouro_decref(middle);
    cr_assert_eq(leaves_destroyed, 1);
    ouro_decref(first);
    ouro_decref(target);
    ouro_safepoint();
    cr_assert_eq(calls.count, 1);
    cr_assert_eq(calls.refs[0], last);
    ouro_decref(last);
}

Test(weak, one_that_is_dropped_while_its_call_waits_is_called)
{
    struct node *target = node_new(NULL, NULL);
    ouro_weakref *ref = watch(target);

    ouro_decref(target);
    ouro_decref(ref); /* the queue has a reference */
    ouro_safepoint();
    cr_assert_eq(calls.count, 1);
}

/* A callback that uses the library as it likes. */
static size_t busy_calls;

static void be_busy(ouro_weakref *ref, ouro_object *argument)
{
    struct node *other = node_new(NULL, NULL);
    ouro_weakref *plain = weak_to(other), *watcher = watch(other), *to_ref = ouro_weakref_new(ref);

    CHECK(to_ref);
    busy_calls++;
    CHECK(ouro_refcount(argument) == 1);
    ouro_decref(ring_new(3));
    CHECK(ouro_collect() == 3); /* once: nothing is run inside of it */
    CHECK(ouro_run_finalizers() == 0);
    ouro_decref(watcher);
    ouro_decref(other);
    CHECK(!ouro_weakref_get(plain));
    watcher = watch((struct node *)(void *)argument);
    OURO_DETACHED
    {
        sleep_ms(1);
    }
    ouro_safepoint();
    ouro_decref(watcher);
    ouro_decref(plain);
    ouro_decref(to_ref);
}

Test(weak, a_callback_may_use_the_library)
{
    struct node *target = node_new(NULL, NULL), *argument = node_new(NULL, NULL);
    ouro_weakref *ref = ouro_weakref_new_callback(target, be_busy, OURO_OF(argument));

    cr_assert_not_null(ref);
    ouro_decref(argument);
    ouro_decref(target);
    ouro_safepoint();
    cr_assert_eq(busy_calls, 1);
    cr_assert_eq(calls.count, 0);
    ouro_decref(ref);
}

static void drop_next(ouro_weakref *ref, ouro_object *argument)
{
    ouro_weakref **other = (ouro_weakref **)(void *)&((struct box *)(void *)argument)->content;

    record(ref, argument);
    ouro_clear(other); /* its call waits behind this one */
}

Test(weak, a_callback_may_drop_weak_references_whose_calls_wait)
{
    struct node *target = node_new(NULL, NULL);
    ouro_weakref *first = watch(target);
    struct box *box = box_new(OURO_OF(first));
    ouro_weakref *second = ouro_weakref_new_callback(target, drop_next, OURO_OF(box));

    cr_assert_not_null(second);
    ouro_decref(box);
    ouro_decref(target);
    ouro_safepoint();
    cr_assert_eq(calls.count, 2);
    cr_assert_eq(calls.refs[0], second);
    ouro_decref(second);
}

/* A second death of that kind inside of a callback: its call comes after, not inside. */
static struct node *killed_next;

static void kill_next(ouro_weakref *ref, ouro_object *argument)
{
    size_t before = calls.count;

    record(ref, argument);
    ouro_clear(&killed_next);
    ouro_safepoint();
    CHECK(calls.count == before + 1);
}

Test(weak, callbacks_are_not_nested)
{
    struct node *target = node_new(NULL, NULL);
    ouro_weakref *ref = ouro_weakref_new_callback(target, kill_next, NULL);

    killed_next = node_new(NULL, NULL);
    ouro_weakref *next = watch(killed_next);
    ouro_decref(target);
    ouro_safepoint();
    cr_assert_eq(calls.count, 2);
    cr_assert_eq(calls.refs[1], next);
    ouro_decref(ref);
    ouro_decref(next);
}

static void count_call(ouro_weakref *ref, ouro_object *argument)
{
    CHECK(ouro_weakref_is_cleared(ref));
    ((struct leaf *)(void *)argument)->value++;
}

/* --- many --------------------------------------------------------------------------------------------- */

enum { TARGETS = SCALE(100000, 10000), WATCHERS = SCALE(10000, 2000) };

Test(weak, many_targets)
{
    static struct node *targets[TARGETS];
    static ouro_weakref *refs[TARGETS];

    for (size_t i = 0; i < TARGETS; i++) {
        targets[i] = node_new(NULL, NULL);
        refs[i] = weak_to(targets[i]);
    }
    for (size_t i = 0; i < TARGETS; i += 7) {
        ouro_weakref *again = weak_to(targets[i]);

        cr_assert_eq(again, refs[i], "it was lost when the table grew");
        ouro_decref(again);
        assert_target(refs[i], targets[i], 1);
    }
    for (size_t i = 0; i < TARGETS; i += 2)
        ouro_decref(targets[i]);
    for (size_t i = 0; i < TARGETS; i++)
        cr_assert_eq(ouro_weakref_is_cleared(refs[i]), i % 2 == 0);
    for (size_t i = 1; i < TARGETS; i += 2) {
        cr_assert_eq(ouro_weakref_count(targets[i]), 1);
        ouro_decref(refs[i]);
        cr_assert_eq(ouro_weakref_count(targets[i]), 0);
        ouro_decref(targets[i]);
    }
    for (size_t i = 0; i < TARGETS; i += 2)
        ouro_decref(refs[i]);
}

Test(weak, many_watchers_of_one_target)
{
    static ouro_weakref *refs[WATCHERS];
    struct node *target = node_new(NULL, NULL);
    struct leaf *argument = leaf_new(0);

    for (size_t i = 0; i < WATCHERS; i++) {
        refs[i] = ouro_weakref_new_callback(target, count_call, OURO_OF(argument));
        cr_assert_not_null(refs[i]);
    }
    cr_assert_eq(ouro_weakref_count(target), WATCHERS);
    cr_assert_eq(ouro_refcount(argument), WATCHERS + 1);
    for (size_t i = 0; i < WATCHERS; i += 2)
        ouro_decref(refs[i]);
    cr_assert_eq(ouro_weakref_count(target), WATCHERS / 2);
    ouro_decref(target);
    cr_assert_eq(ouro_finalizers_waiting(), WATCHERS / 2);
    cr_assert_eq(ouro_run_finalizers(), WATCHERS / 2);
    cr_assert_eq(argument->value, WATCHERS / 2);
    cr_assert_eq(ouro_refcount(argument), 1);
    for (size_t i = 1; i < WATCHERS; i += 2)
        ouro_decref(refs[i]);
    ouro_decref(argument);
}

/* --- the block ---------------------------------------------------------------------------------------- */

static void sit(void *argument)
{
    struct pair *pair = argument;

    gate_open(&pair->made);
    gate_wait_attached(&pair->end);
}

/* As long as another thread has passed no safepoint the block is not free, though the object is gone. */
Test(weak, the_block_waits_for_a_grace_period)
{
    struct worker worker;
    struct pair pair = {0};
    struct node *target = node_new(NULL, NULL), *plain = node_new(NULL, NULL);
    ouro_weakref *ref = weak_to(target);
    size_t waited = event_total(EVENT_BLOCK_WAITED);

    worker_start(&worker, sit, &pair);
    gate_wait_attached(&pair.made);
    ouro_decref(plain);
    ouro_decref(target);
    cr_assert_eq(nodes_destroyed, 2);
    for (int i = 0; i < 100; i++) {
        OURO_DETACHED
        {
            sched_yield();
        }
        cr_assert_eq(event_total(EVENT_BLOCK_WAITED), waited, "the block is free already");
    }
    gate_open(&pair.end);
    worker_join(&worker);
    ouro_synchronize();
    cr_assert_eq(event_total(EVENT_BLOCK_WAITED), waited + 1);
    cr_assert_eq(live_objects(), 1);
    ouro_decref(ref);
    cr_assert_eq(live_objects(), 0);
}

Test(weak, also_if_the_weak_reference_is_gone)
{
    struct node *target = node_new(NULL, NULL);
    size_t waited = event_total(EVENT_BLOCK_WAITED);

    ouro_decref(weak_to(target));
    ouro_decref(target);
    ouro_synchronize();
    cr_assert_eq(event_total(EVENT_BLOCK_WAITED), waited + 1);
    cr_assert_eq(live_objects(), 0);
}

Test(weak, without_a_weak_reference_nothing_waits)
{
    size_t waited = event_total(EVENT_BLOCK_WAITED);

    ouro_decref(chain_new(100));
    cr_assert_eq(live_objects(), 0);
    cr_assert_eq(event_total(EVENT_BLOCK_WAITED), waited);
}

static void pass_safepoints(void *argument)
{
    struct pair *pair = argument;

    while (!atomic_load(&pair->end.open))
        ouro_safepoint();
}

/* Some in each state: they wait already, gather meanwhile, are dead and in no list yet; and one dies in the call. What the
 * other thread frees has to be free as well. */
Test(weak, synchronize_waits_for_blocks)
{
    static ouro_slot slot;
    struct worker worker;
    struct pair pair = {0};
    size_t waited = event_total(EVENT_BLOCK_WAITED);

    worker_start(&worker, pass_safepoints, &pair);
    for (int i = 0; i < SCALE(2000, 300); i++) {
        for (int j = 0; j < 4; j++) {
            struct node *target = node_new(NULL, NULL);

            ouro_decref(weak_to(target));
            if (j == 3) {
                cr_assert_eq(ouro_slot_store_steal(&slot, target), OURO_OK);
                cr_assert_eq(ouro_slot_clear(&slot), OURO_OK);
                continue;
            }
            ouro_decref(target);
            if (j != i % 3) {
                OURO_DETACHED sched_yield();
            }
        }
        ouro_synchronize();
        waited += 4;
        cr_assert_eq(event_total(EVENT_BLOCK_WAITED), waited, "round %d", i);
    }
    gate_open(&pair.end);
    worker_join(&worker);
}

/* The memory is back, without a safepoint more. */
Test(weak, synchronize_gives_the_memory_back)
{
    ouro_memory before, after;
    struct array *array = array_new(1000);

    ouro_memory_stats(&before);
    ouro_decref(ouro_weakref_new(array));
    OURO_DETACHED sched_yield(); /* another period is under way, perhaps */
    ouro_decref(array);
    ouro_synchronize();
    ouro_memory_stats(&after);
    cr_assert_eq(after.objects, before.objects - 1);
    cr_assert_lt(after.object_bytes, before.object_bytes - 8000);
    cr_assert_eq(after.waiting_bytes, 0);
}

/* Small, large, with items: each kind of block. */
Test(weak, blocks_of_all_sizes)
{
    static const size_t counts[] = {0, 10, 1000, 5000, 300000};

    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        struct array *array = array_new(counts[i]);
        ouro_weakref *ref = ouro_weakref_new(array);

        cr_assert_not_null(ref);
        ouro_decref(array);
        assert_cleared(ref);
        ouro_decref(ref);
        ouro_synchronize();
        cr_assert_eq(live_objects(), 0);
    }
    cr_assert_eq(arrays_destroyed, sizeof counts / sizeof counts[0]);
}

/* --- misuse ------------------------------------------------------------------------------------------- */

static ouro_weakref *made;

static void weak_of_null(void)
{
    made = (ouro_weakref_new)(NULL);
}

static void watch_null(void)
{
    made = (ouro_weakref_new_callback)(NULL, record, NULL);
}

static void watch_without_callback(void)
{
    made = ouro_weakref_new_callback(node_new(NULL, NULL), NULL, NULL);
}

static void weak_of_dying(struct node *node)
{
    made = ouro_weakref_new(node);
}

static void weak_in_destroy(void)
{
    on_node_destroy = weak_of_dying;
    ouro_decref(node_new(NULL, NULL));
}

static void weak_in_destroy_of_garbage(void)
{
    on_node_destroy = weak_of_dying;
    ouro_decref(ring_new(2));
    ouro_collect();
}

static void get_detached(void)
{
    ouro_weakref *ref = weak_to(node_new(NULL, NULL));

    ouro_detach();
    ouro_decref_or_null((struct node *)ouro_weakref_get(ref));
}

static void detach_for_ever(ouro_weakref *ref, ouro_object *argument)
{
    (void)ref, (void)argument;
    ouro_detach();
}

static void callback_that_detaches(void)
{
    struct node *target = node_new(NULL, NULL);

    made = ouro_weakref_new_callback(target, detach_for_ever, NULL);
    ouro_decref(target);
    ouro_safepoint();
}

static void assert_sentence(void (*misuse)(void), const char *sentence)
{
    char text[500];

    cr_assert(aborts(misuse, text, sizeof text), "it has not aborted: %s", text);
    cr_assert(strstr(text, sentence), "another sentence: %s", text);
}

Test(weak, misuse)
{
    assert_sentence(weak_of_null, "ouro_weakref_new() of NULL: ");
    assert_sentence(watch_null, "ouro_weakref_new_callback() of NULL: ");
    assert_sentence(watch_without_callback, "ouro_weakref_new() makes one that has none");
    assert_sentence(weak_in_destroy, "that is being destroyed, or is gone");
    assert_sentence(weak_in_destroy_of_garbage, "that is being destroyed, or is gone");
    assert_sentence(get_detached, "ouro_weakref_get() by the thread \"test\" while it is detached");
    assert_sentence(callback_that_detaches, "has returned detached");
}
