/*
 * test_oom.c - memory runs out at each place in turn.
 *
 * An attempt is repeated with the first, second, third ... allocation failing, until it comes through
 * without having met the failure.  It says itself whether it got all that it wanted; when the failure
 * was met it may have or not, but nothing may be lost: objects and buffers are as many as before.
 * What can't fail - dropping, collecting, detaching - has to work each time.
 *
 * Only check builds can make an allocation fail; elsewhere each attempt runs once, as it is.
 */

#include "support.h"

#include "base/fault.h"

#include <stdlib.h>

TestSuite(oom, .init = enter, .fini = leave);
TestSuite(oom_at_first, .init = enter_unregistered);

#if defined(OURO_CHECK) && OURO_CHECK
enum { CAN_FAIL = true };
#else
enum { CAN_FAIL = false };
#endif

/* How often an attempt met a failure, and how often it did not get what it wanted then. */
struct outcome {
    size_t fired;
    size_t failed;
};

/* Gives back what is empty, so that the next attempt asks for memory again. */
static void trim(void)
{
    for (int i = 0; i < 3; i++) {
        ouro_safepoint();
        ouro_trim();
    }
}

static struct outcome sweep(bool (*attempt)(void))
{
    size_t objects = live_objects(), buffers = live_buffers();
    struct outcome outcome = {0};

    /* Each of the first allocations; later ones, which are all of a kind, at growing distances. */
    for (uint64_t nth = 1;; nth += 1 + nth / 64) {
        cr_assert_lt(nth, 1000000);
        trim();
        fault_arm(nth);
        bool done = attempt();
        bool fired = fault_fired();
        fault_disarm();
        cr_assert_eq(live_objects(), objects, "objects are lost at allocation %zu", (size_t)nth);
        cr_assert_eq(live_buffers(), buffers, "buffers are lost at allocation %zu", (size_t)nth);
        if (!fired) {
            cr_assert(done, "it failed although no allocation did");
            return outcome;
        }
        outcome.fired++;
        outcome.failed += !done;
    }
}

/* For what asks for memory and passes a failure on. */
static void sweep_what_can_fail(bool (*attempt)(void))
{
    struct outcome outcome = sweep(attempt);

    cr_assert_eq(outcome.failed > 0, CAN_FAIL, "%zu failures met, %zu passed on", outcome.fired,
                 outcome.failed);
}

/* For what has to succeed although it meets failures, if it asks for memory at all. */
static void sweep_what_can_not_fail(bool (*attempt)(void))
{
    cr_assert_eq(sweep(attempt).failed, 0);
}

/* --- registration ------------------------------------------------------------------------------------------ */

static void register_and_work(void *argument)
{
    bool *done = argument;
    ouro_status status = ouro_thread_register("hungry");

    CHECK(status == OURO_OK || status == OURO_NO_MEMORY);
    if (status) {
        CHECK(ouro_thread_state() == OURO_STATE_UNREGISTERED);
        CHECK(ouro_thread_id() == 0);
        return;
    }
    struct node *node = ouro_new(node_type);
    *done = node != NULL;
    ouro_decref_or_null(node);
    ouro_thread_unregister();
}

static bool register_a_thread(void)
{
    bool done = false;

    run_in_bare_thread(register_and_work, &done);
    return done;
}

Test(oom, thread_register)
{
    sweep_what_can_fail(register_a_thread);
}

Test(oom_at_first, thread_register)
{
    size_t failed = 0;
    ouro_status status;
    bool fired;

    do {
        fault_arm(failed + 1);
        status = ouro_thread_register("first");
        fired = fault_fired();
        fault_disarm();
        if (fired) {
            cr_assert_eq(status, OURO_NO_MEMORY);
            cr_assert_eq(ouro_thread_state(), OURO_STATE_UNREGISTERED);
            failed++;
        }
    } while (fired);
    cr_assert_eq(status, OURO_OK);
    ouro_decref(node_new(NULL, NULL));
    cr_assert_eq(nodes_destroyed, 1);
    ouro_thread_unregister();
}

static bool register_a_type(void)
{
    static const uint16_t fields[] = {OURO_FIELD(struct node, left)};
    ouro_type_spec spec = {
        .name = "wanted", .size = sizeof(struct node), .fields = fields, .field_count = 1};
    const ouro_type *type = node_type;
    ouro_status status = ouro_type_register(&spec, &type);

    cr_assert(status == OURO_OK || status == OURO_NO_MEMORY);
    cr_assert_eq(type == NULL, status != OURO_OK);
    return status == OURO_OK;
}

Test(oom, type_register)
{
    sweep_what_can_fail(register_a_type);
}

static bool register_many_types(void)
{
    bool done = true;

    for (int i = 0; i < 300; i++)
        done &= register_a_type();
    return done;
}

Test(oom, type_register_a_lot)
{
    struct outcome outcome = {0};

    /* Each allocation of the first ones, then some in between. */
    for (uint64_t nth = 1; nth < 500; nth += 1 + nth / 5) {
        fault_arm(nth);
        bool done = register_many_types();
        outcome.failed += !done;
        cr_assert(done || fault_fired());
        fault_disarm();
    }
    cr_assert_eq(outcome.failed > 0, CAN_FAIL);
}

static void hear(const ouro_gc_info *info, void *argument)
{
    (void)info;
    (void)argument;
}

static bool add_callbacks(void)
{
    static int values[32];
    bool done = true;
    bool added[32];

    for (int i = 0; i < 32; i++) {
        ouro_status status = ouro_gc_add_callback(hear, &values[i]);

        cr_assert(status == OURO_OK || status == OURO_NO_MEMORY);
        added[i] = status == OURO_OK;
        done &= added[i];
    }
    for (int i = 0; i < 32; i++)
        cr_assert_eq(ouro_gc_remove_callback(hear, &values[i]), added[i] ? OURO_OK : OURO_ABSENT);
    return done;
}

Test(oom, callbacks)
{
    /* They may be kept where no memory is needed. */
    sweep(add_callbacks);
}

/* --- objects ----------------------------------------------------------------------------------------------- */

enum { MANY = 4000 };

static ouro_object *made[MANY];

/* Makes objects by that function until one can't be made; drops them all; true if all could. */
static bool make_and_drop(ouro_object *(*make)(size_t i), size_t count)
{
    size_t i = 0;

    while (i < count && (made[i] = make(i)))
        i++;
    for (size_t j = 0; j < i; j++) {
        cr_assert_eq(ouro_refcount(made[j]), 1);
        ouro_decref(made[j]);
    }
    return i == count;
}

static ouro_object *make_node(size_t i)
{
    (void)i;
    return ouro_new(node_type);
}

static bool new_small(void)
{
    return make_and_drop(make_node, MANY);
}

Test(oom, new_small)
{
    sweep_what_can_fail(new_small);
}

static const size_t lengths[] = {0, 1, 10, 200, 3000, 6000, 20000, 200000, 5000000};

static ouro_object *make_array(size_t i)
{
    struct array *array = ouro_new_array(array_type, lengths[i]);

    if (!array)
        return NULL;
    array->count = lengths[i];
    return OURO_OF(array);
}

static bool new_arrays(void)
{
    return make_and_drop(make_array, sizeof lengths / sizeof *lengths);
}

Test(oom, new_array_of_all_sizes)
{
    sweep_what_can_fail(new_arrays);
}

/* Fails, then goes on as if nothing had been: the next call gets the memory. */
static bool new_again(void)
{
    size_t missed = 0;

    for (size_t i = 0; i < MANY; i++) {
        made[i] = ouro_new(node_type);
        if (!made[i]) {
            missed++;
            made[i] = ouro_new(node_type);
        }
        cr_assert_not_null(made[i], "one failure has led to another");
    }
    for (size_t i = 0; i < MANY; i++)
        ouro_decref(made[i]);
    cr_assert_leq(missed, 1);
    return missed == 0;
}

Test(oom, new_after_a_failure)
{
    sweep_what_can_fail(new_again);
}

/* --- buffers ----------------------------------------------------------------------------------------------- */

static bool alloc_and_free(void)
{
    static void *buffers[3000];
    size_t count = 0;
    bool done = true;

    for (size_t i = 0; i < 3000; i++) {
        size_t bytes = i % 500 == 499 ? i * 1000 : i % 700;
        unsigned char *buffer = i % 2 ? ouro_alloc(bytes) : ouro_calloc(bytes, 1);

        if (buffer)
            buffers[count++] = buffer;
        else
            done = false;
    }
    for (size_t i = 0; i < count; i++)
        ouro_free(buffers[i]);
    return done;
}

Test(oom, alloc_and_calloc)
{
    sweep_what_can_fail(alloc_and_free);
}

static bool grow(void)
{
    unsigned char *buffer = NULL;
    size_t bytes = 0;
    bool done = true;

    for (size_t next = 10; next < 8 << 20; next *= 3) {
        unsigned char *changed = ouro_realloc(buffer, next);

        if (changed) {
            buffer = changed;
            memset(buffer + bytes, 0x5A, next - bytes);
            bytes = next;
        } else {
            done = false;
        }
        for (size_t i = 0; i < bytes; i += 1 + i / 50)
            cr_assert_eq(buffer[i], 0x5A);
    }
    ouro_free(buffer);
    return done;
}

Test(oom, realloc)
{
    sweep_what_can_fail(grow);
}

/* --- what can't fail --------------------------------------------------------------------------------------- */

/* Arms the fault again for what follows, as far away as it was for the attempt. */
static uint64_t armed;

/* Makes garbage without failures, and does something under them. */
static struct outcome sweep_collecting(void (*work)(void), size_t garbage)
{
    struct outcome outcome = {0};
    bool fired = true;

    for (armed = 1; fired; armed++) {
        size_t before = nodes_destroyed;

        trim();
        work();
        fired = fault_fired();
        fault_disarm();
        cr_assert_eq(nodes_destroyed - before, garbage, "at allocation %zu", (size_t)armed);
        cr_assert_eq(live_objects(), 0);
        outcome.fired += fired;
    }
    return outcome;
}

static void collect_rings(void)
{
    for (size_t n = 1; n <= 50; n++)
        ouro_decref(ring_new(n));
    fault_arm(armed);
    cr_assert_eq(ouro_collect(), 1275);
}

Test(oom, collecting_garbage)
{
    sweep_collecting(collect_rings, 1275);
}

static void collect_a_hub(void)
{
    size_t count = 20000;
    struct array *hub = array_new(count);

    for (size_t i = 0; i < count; i++)
        hub->items[i] = OURO_OF(node_new((struct node *)(void *)ouro_incref(hub), NULL));
    fault_arm(armed);
    cr_assert_eq(ouro_collect(), 0);
    ouro_decref(hub);
    cr_assert_eq(ouro_collect(), count + 1);
}

Test(oom, collecting_a_hub)
{
    sweep_collecting(collect_a_hub, 20000);
}

struct maker {
    struct worker worker;
    struct node *rings[50];
    struct gate made, end;
};

static void make_rings_and_sleep(void *argument)
{
    struct maker *maker = argument;

    for (size_t n = 0; n < 50; n++)
        maker->rings[n] = n % 2 ? ring_new(n + 1) : chain_new(n + 1);
    OURO_DETACHED
    {
        gate_open(&maker->made);
        gate_wait(&maker->end);
    }
}

static void drop_what_others_made(void)
{
    struct maker maker = {0};

    worker_start(&maker.worker, make_rings_and_sleep, &maker);
    gate_wait(&maker.made);
    fault_arm(armed);
    for (size_t n = 0; n < 50; n++)
        ouro_decref(maker.rings[n]);
    OURO_DETACHED sleep_ms(1);
    ouro_collect();
    gate_open(&maker.end);
    worker_join(&maker.worker);
}

Test(oom, dropping_what_others_made)
{
    sweep_collecting(drop_what_others_made, 1275);
}

/* A whole life, each part of which may fail or may not. */
static bool scenario(void)
{
    struct node *ring = NULL, *last = NULL;
    size_t count = 0;

    for (int i = 0; i < 3000; i++) {
        struct node *node = ouro_new(node_type);

        if (!node)
            break;
        count++;
        if (!last)
            last = node;
        node->left = ring;
        ring = node;
    }
    struct array *array = ouro_new_array(array_type, 10000);
    if (array) {
        array->count = 10000;
        for (size_t i = 0; i < array->count && ring; i++)
            array->items[i] = OURO_OF(ouro_incref(ring));
    }
    if (last)
        last->left = ouro_incref(ring);
    ouro_decref_or_null(array);
    ouro_decref_or_null(ring);
    cr_assert_eq(ouro_collect(), count);
    return count == 3000 && array;
}

Test(oom, a_whole_life)
{
    sweep_what_can_fail(scenario);
}

/* --- weak references and finalizers ------------------------------------------------------------------------ */

static size_t weak_calls, weak_finalized;

static void count_call(ouro_weakref *ref, ouro_object *argument)
{
    cr_assert(ouro_weakref_is_cleared(ref));
    cr_assert_not_null(argument);
    weak_calls++;
}

/* The types, the weak references, the table that grows: each may fail, or go on with what there is. */
static bool refer_weakly(void)
{
    enum { TARGETS = 2000 };
    static ouro_weakref *refs[TARGETS], *watchers[TARGETS];
    size_t count = 0, watching = 0, calls = weak_calls;
    bool done = true;

    while (count < TARGETS && (made[count] = ouro_new(node_type)))
        count++;
    done &= count == TARGETS;
    for (size_t i = 0; i < count; i++) {
        refs[i] = (ouro_weakref_new)(made[i]);
        watchers[i] = (ouro_weakref_new_callback)(made[i], count_call, made[(i + 1) % count]);
        done &= refs[i] && watchers[i];
        watching += watchers[i] != NULL;
        cr_assert_eq((ouro_weakref_count)(made[i]), (refs[i] != NULL) + (watchers[i] != NULL));
    }
    for (size_t i = 0; i < count; i++) {
        if (refs[i]) {
            ouro_object *got = ouro_weakref_get(refs[i]);

            cr_assert_eq(got, made[i]);
            (ouro_decref)(got);
        }
    }
    for (size_t i = 0; i < count; i++)
        (ouro_decref)(made[i]);
    while (ouro_finalizers_waiting()) /* what a callback's argument was held by dies after it */
        ouro_safepoint();
    for (size_t i = 0; i < count; i++) {
        ouro_decref_or_null(refs[i]);
        ouro_decref_or_null(watchers[i]);
    }
    cr_assert(weak_calls - calls <= watching);
    ouro_collect();
    ouro_synchronize();
    return done;
}

Test(oom, weak_references)
{
    sweep_what_can_fail(refer_weakly);
    cr_assert_gt(weak_calls, 0);
}

static void finalize_node(void *self)
{
    weak_finalized += ((struct node *)self)->value == 1;
}

/* The queue needs no memory: what was made is finalized, once. */
static bool finalize_many(void)
{
    static const ouro_type *type;
    static const uint16_t fields[] = {OURO_FIELD(struct node, left)};
    size_t count = 0, before = weak_finalized;

    if (!type && ouro_type_register(&(ouro_type_spec){.name = "finalized",
                                                      .size = sizeof(struct node),
                                                      .fields = fields,
                                                      .field_count = 1,
                                                      .finalize = finalize_node},
                                    &type) != OURO_OK)
        return false;
    while (count < MANY && (made[count] = ouro_new(type)))
        count++;
    for (size_t i = 0; i < count; i++) {
        struct node *node = (struct node *)(void *)made[i];

        node->value = 1;
        if (i % 2)
            node->left = ouro_incref(node);
        ouro_decref(node);
    }
    ouro_collect();
    cr_assert_eq(weak_finalized - before, count);
    return count == MANY;
}

Test(oom, finalizers)
{
    sweep_what_can_fail(finalize_many);
}

static bool finalize_in_thread(void)
{
    ouro_status status = ouro_finalizer_set_mode(OURO_FINALIZE_IN_THREAD);

    cr_assert(status == OURO_OK || status == OURO_NO_MEMORY);
    cr_assert_eq(ouro_finalizer_get_mode(),
                 status ? OURO_FINALIZE_AT_SAFEPOINTS : OURO_FINALIZE_IN_THREAD);
    cr_assert_eq(ouro_finalizer_set_mode(OURO_FINALIZE_AT_SAFEPOINTS), OURO_OK);
    return status == OURO_OK;
}

Test(oom, the_thread_for_finalizers)
{
    sweep_what_can_fail(finalize_in_thread);
}

static bool count_object(ouro_object *o, void *argument)
{
    (void)o;
    ++*(size_t *)argument;
    return true;
}

static bool look_around(void)
{
    ouro_memory stats;
    size_t count = 0;
    struct node *node = ouro_new(node_type);

    if (!node)
        return true; /* not what this is about */
    ouro_immortalize(made[0]);
    ouro_memory_stats(&stats);
    ouro_each_object(count_object, &count);
    ouro_trim();
    ouro_world_stop();
    ouro_world_start();
    ouro_decref(node);
    return stats.objects == 2 && count == 2;
}

Test(oom, looking_around)
{
    made[0] = OURO_OF(node_new(NULL, NULL));
    sweep_what_can_not_fail(look_around);
    expect_left(1);
}
