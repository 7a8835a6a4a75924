/*
 * test_scopes.c - read scopes: what is borrowed in one can't dangle, because a safepoint in it ends the program.
 *
 * This file is a program that is compiled with OURO_CHECK=1, in each variant of the library.
 */
#undef OURO_CHECK
#define OURO_CHECK 1

#include "support.h"

#include "thread/seat.h"

static ouro_slot slot;
static char text[2000];

static uint32_t depth(void)
{
    return seat_attached_self->reading;
}

static struct leaf *put_leaf(int64_t value)
{
    struct leaf *leaf = leaf_new(value);

    CHECK(ouro_slot_store_steal(&slot, leaf) == OURO_OK);
    return leaf;
}

static void empty(void)
{
    cr_assert_eq(ouro_slot_clear(&slot), OURO_OK);
    ouro_synchronize();
}

TestSuite(scopes, .init = enter, .fini = leave);

/* --- entering and leaving ------------------------------------------------------------------------------ */

Test(scopes, nest)
{
    cr_assert_eq(depth(), 0);
    OURO_READING
    {
        cr_assert_eq(depth(), 1);
        OURO_READING
        {
            cr_assert_eq(depth(), 2);
            ouro_read_begin();
            cr_assert_eq(depth(), 3);
            ouro_read_end();
        }
        cr_assert_eq(depth(), 1);
    }
    cr_assert_eq(depth(), 0);
    ouro_safepoint();
}

static uint32_t return_from_two(void)
{
    OURO_READING OURO_READING return depth();
    return 100;
}

Test(scopes, are_left_in_every_way)
{
    int rounds = 0;

    OURO_READING
    {
        rounds++;
        if (depth() == 1)
            break;
        rounds += 100;
    }
    cr_assert_eq(depth(), 0);
    OURO_READING
    {
        rounds++;
        continue;
    }
    cr_assert_eq(depth(), 0);
    cr_assert_eq(return_from_two(), 2);
    cr_assert_eq(depth(), 0);
    for (int i = 0; i < 3; i++) {
        OURO_READING
        {
            OURO_READING goto out;
        }
    out:
        cr_assert_eq(depth(), 0);
        rounds++;
    }
    cr_assert_eq(rounds, 5);
    ouro_safepoint();
}

Test(scopes, what_is_no_safepoint_may_be_called)
{
    ouro_object *old;
    ouro_gc_stats stats;

    put_leaf(1);
    OURO_READING
    {
        struct leaf *leaf = ouro_slot_borrow(&slot);

        ouro_incref(leaf);
        ouro_decref(leaf);
        ouro_decref(node_new(NULL, NULL));
        put_leaf(2);
        cr_assert_eq(leaf->value, 1);
        cr_assert_eq(ouro_slot_take(&slot, leaf_new(3), &old), OURO_OK);
        ouro_decref(old);
        ouro_free(ouro_alloc(10));
        cr_assert_eq(ouro_free_deferred(ouro_alloc(10)), OURO_OK);
        ouro_gc_get_stats(&stats);
        cr_assert_eq(ouro_attach(), OURO_STATE_ATTACHED); /* they change nothing */
        ouro_restore(OURO_STATE_ATTACHED);
        cr_assert_eq(leaf->value, 1);
        cr_assert_eq(leaves_destroyed, 0);
    }
    empty();
    cr_assert_eq(leaves_destroyed, 3);
}

/* --- safepoints in a scope ------------------------------------------------------------------------------- */

static bool no_more(ouro_object *o, void *argument)
{
    (void)o, (void)argument;
    return false;
}

static void call_unregister(void)
{
    ouro_thread_unregister();
}

static void call_restore(void)
{
    ouro_restore(OURO_STATE_DETACHED);
}

static void call_detach(void)
{
    ouro_detach();
}

static void call_detached(void)
{
    OURO_DETACHED sleep_ms(0);
}

static void call_collect(void)
{
    ouro_collect();
}

static void call_memory_stats(void)
{
    ouro_memory stats;

    ouro_memory_stats(&stats);
}

static void call_trim(void)
{
    ouro_trim();
}

static void call_each_object(void)
{
    ouro_each_object(no_more, NULL);
}

static void call_shutdown(void)
{
    if (ouro_shutdown() == OURO_OK)
        return;
}

static struct node *key;
static ouro_weakmap *map;

static bool no_more_entries(ouro_object *k, ouro_object *value, void *argument)
{
    (void)k, (void)value, (void)argument;
    return false;
}

static void call_map_set(void)
{
    CHECK(ouro_weakmap_set(map, key, key) == OURO_OK);
}

static void call_map_clear(void)
{
    ouro_weakmap_clear(map);
}

static void call_map_each(void)
{
    CHECK(ouro_weakmap_each(map, no_more_entries, NULL) == OURO_OK);
}

static void call_map_get(void)
{
    CHECK(!ouro_weakmap_get(map, key));
}

static void call_map_has(void)
{
    CHECK(!ouro_weakmap_has(map, key));
}

static void call_map_remove(void)
{
    CHECK(!ouro_weakmap_remove(map, key));
}

static void call_map_count(void)
{
    CHECK(ouro_weakmap_count(map) == 0);
}

static void call_lock(void)
{
    ouro_lock(key);
}

static void call_lock_pair(void)
{
    ouro_lock_pair(key, map);
}

static const struct safepoint {
    void (*call)(void);
    const char *name;
} safepoints[] = {
    {ouro_safepoint_checked, "ouro_safepoint()"},
    {ouro_safepoint_slow, "ouro_safepoint()"},
    {call_unregister, "ouro_thread_unregister()"},
    {call_detach, "ouro_detach()"},
    {call_detached, "ouro_detach()"},
    {call_restore, "ouro_detach()"},
    {ouro_world_stop, "ouro_world_stop()"},
    {ouro_synchronize, "ouro_synchronize()"},
    {call_collect, "ouro_collect()"},
    {call_memory_stats, "ouro_memory_stats()"},
    {call_trim, "ouro_trim()"},
    {call_each_object, "ouro_each_object()"},
    {call_shutdown, "ouro_shutdown()"},
};
enum { SAFEPOINTS = sizeof safepoints / sizeof *safepoints };

/* Those that take a lock, which they say in a destroy. The first are safepoints in any case, the others if they have to wait,
 * which is not so here. */
static const struct safepoint locking[] = {
    {call_map_set, "ouro_weakmap_set()"},     {call_map_clear, "ouro_weakmap_clear()"},
    {call_map_each, "ouro_weakmap_each()"},   {call_map_get, "ouro_weakmap_get()"},
    {call_map_has, "ouro_weakmap_has()"},     {call_map_remove, "ouro_weakmap_remove()"},
    {call_map_count, "ouro_weakmap_count()"}, {call_lock, "ouro_lock()"},
    {call_lock_pair, "ouro_lock_pair()"},
};
enum { LOCKING = sizeof locking / sizeof *locking, LOCKING_SAFEPOINTS = 3 };

static const struct safepoint *tried;

static void try_in_a_scope(void)
{
    OURO_READING tried->call();
}

static void try_in_a_stopped_world(void)
{
    ouro_world_stop();
    tried->call();
}

static void call_tried(struct node *node)
{
    (void)node;
    tried->call();
}

static void try_in_destroy(void)
{
    on_node_destroy = call_tried;
    ouro_decref(node_new(NULL, NULL));
}

/* Who opens a scope, and is in a destroy, is told of the destroy. */
static void try_in_destroy_in_a_scope(void)
{
    OURO_READING try_in_destroy();
}

#define IN_A_SCOPE                                                                 \
    " in a read scope of the thread \"main\": what it has borrowed would dangle; " \
    "ouro_incref() what is to be kept, or end the scope first\n"
#define IN_A_DESTROY " in a type's destroy: it may not pass a safepoint\n"
#define IN_A_STOPPED_WORLD \
    " by the thread \"main\", which has stopped the world: ouro_world_start() first\n"

/* The call ends the program with this sentence, which begins with its name, and nothing else. */
static void assert_sentence(void (*misuse)(void), const char *rest)
{
    char expected[300] = "ouro: ";

    cr_assert(aborts(misuse, text, sizeof text), "%s", tried->name);
    strcat(strcat(expected, tried->name), rest);
    cr_assert_str_eq(text, expected);
}

Test(scopes, each_safepoint_ends_the_program)
{
    ouro_thread_unregister();
    cr_assert_eq(ouro_thread_register("main"), OURO_OK);
    for (int i = 0; i < SAFEPOINTS; i++) {
        tried = &safepoints[i];
        assert_sentence(try_in_a_scope, IN_A_SCOPE);
    }
}

/* The other two cases of the same check. */
Test(scopes, each_safepoint_in_a_destroy_and_in_a_stopped_world)
{
    ouro_thread_unregister();
    cr_assert_eq(ouro_thread_register("main"), OURO_OK);
    for (int i = 0; i < SAFEPOINTS; i++) {
        tried = &safepoints[i];
        if (tried->call != call_collect) {
            assert_sentence(try_in_destroy, IN_A_DESTROY);
            assert_sentence(try_in_destroy_in_a_scope, IN_A_DESTROY);
        }
        if (tried->call != ouro_world_stop)
            assert_sentence(try_in_a_stopped_world, IN_A_STOPPED_WORLD);
    }
    tried = &(struct safepoint){ouro_world_stop, "ouro_world_stop()"};
    cr_assert(aborts(try_in_a_stopped_world, text, sizeof text));
    cr_assert_str_eq(text, "ouro: the thread \"main\" stops the world twice: stops don't nest\n");
}

Test(scopes, what_may_have_to_wait_ends_the_program_also_if_it_need_not)
{
    ouro_thread_unregister();
    cr_assert_eq(ouro_thread_register("main"), OURO_OK);
    key = node_new(NULL, NULL);
    map = ouro_weakmap_new();
    cr_assert(map);
    for (int i = 0; i < LOCKING; i++) {
        tried = &locking[i];
        assert_sentence(try_in_a_scope, IN_A_SCOPE);
        if (i < LOCKING_SAFEPOINTS)
            assert_sentence(try_in_a_stopped_world, IN_A_STOPPED_WORLD);
    }
    OURO_READING
    {
        cr_assert(ouro_trylock(key));
        ouro_unlock(key);
    }
    ouro_decref(map);
    ouro_decref(key);
}

static size_t found = 1;

static void collect_in_destroy(struct node *node)
{
    (void)node;
    found = ouro_collect();
}

Test(scopes, a_collection_in_a_destroy_does_nothing)
{
    on_node_destroy = collect_in_destroy;
    OURO_READING ouro_decref(node_new(NULL, NULL));
    cr_assert_eq(found, 0);
}

/* --- what it is for ------------------------------------------------------------------------------------- */

static void borrow_across_a_safepoint(void)
{
    OURO_READING
    {
        struct leaf *leaf = ouro_slot_borrow(&slot);

        put_leaf(8);
        ouro_safepoint(); /* nobody wants anything: without the scope it would pass unseen */
        leaf->value++;
    }
}

static void borrow_across_a_blocking_call(void)
{
    OURO_READING
    {
        struct leaf *leaf = ouro_slot_borrow(&slot);

        OURO_DETACHED sleep_ms(1);
        leaf->value++;
    }
}

/* In a function far away from the scope. */
static void walk(int levels)
{
    if (levels > 0)
        walk(levels - 1);
    else
        ouro_safepoint();
}

static void borrow_and_call_somebody(void)
{
    OURO_READING
    {
        struct leaf *leaf = ouro_slot_borrow(&slot);

        walk(10);
        leaf->value++;
    }
}

/* After the scope there is no promise any more; the count of what is freed by then tells. */
static void use_after_the_scope(void)
{
    struct leaf *leaf = NULL;

    OURO_READING leaf = ouro_slot_borrow(&slot);
    empty();
    ouro_incref(leaf);
}

static void keep_by_a_reference(void)
{
    struct leaf *leaf;

    OURO_READING leaf = ouro_incref((struct leaf *)ouro_slot_borrow(&slot));
    put_leaf(8);
    ouro_synchronize();
    CHECK(leaf->value == 7);
    ouro_decref(leaf);
}

Test(scopes, a_borrow_across_a_safepoint_is_caught)
{
    put_leaf(7);
    cr_assert(aborts(borrow_across_a_safepoint, text, sizeof text));
    cr_assert_not_null(strstr(text, "ouro_safepoint() in a read scope"), "%s", text);
    cr_assert(aborts(borrow_across_a_blocking_call, text, sizeof text));
    cr_assert_not_null(strstr(text, "ouro_detach() in a read scope"), "%s", text);
    cr_assert(aborts(borrow_and_call_somebody, text, sizeof text));
    cr_assert_not_null(strstr(text, "ouro_safepoint() in a read scope"), "%s", text);
    if (!UNDER_ASAN) { /* it would be faster */
        cr_assert(aborts(use_after_the_scope, text, sizeof text));
        cr_assert_not_null(strstr(text, "an object that has been freed"), "%s", text);
    }
    cr_assert_not(aborts(keep_by_a_reference, text, sizeof text), "%s", text);
    empty();
}

#if UNDER_ASAN

static volatile int64_t sink;

static void read_after_the_scope(void)
{
    const struct leaf *leaf = NULL;

    OURO_READING leaf = ouro_slot_borrow(&slot);
    empty();
    sink = leaf->value; /* the block is free: poisoned */
}

Test(scopes, the_sanitizer_sees_a_use_after_the_scope)
{
    put_leaf(7);
    aborts(read_after_the_scope, text, sizeof text);
    cr_assert_not_null(strstr(text, "use-after-poison"), "%s", text);
    empty();
}

#endif

/* --- misuse --------------------------------------------------------------------------------------------- */

static void end_without_begin(void)
{
    ouro_read_begin();
    ouro_read_end();
    ouro_read_end();
}

static void begin_detached(void)
{
    ouro_detach();
    OURO_READING sleep_ms(0);
}

static void end_detached(void)
{
    ouro_detach();
    ouro_read_end();
}

static void begin_in_callback(const ouro_gc_info *info, void *argument)
{
    (void)info, (void)argument;
    ouro_read_begin();
}

static void return_from_a_callback_in_a_scope(void)
{
    CHECK(ouro_gc_add_callback(begin_in_callback, NULL) == OURO_OK);
    ouro_collect();
}

static void begin_in_destroy(struct node *node)
{
    (void)node;
    ouro_read_begin();
}

static void return_from_destroy_in_a_scope(void)
{
    on_node_destroy = begin_in_destroy;
    ouro_decref(node_new(NULL, NULL));
    ouro_safepoint();
}

Test(scopes, misuse)
{
    cr_assert(aborts(end_without_begin, text, sizeof text));
    cr_assert_not_null(strstr(text, "ouro_read_end() by the thread"), "%s", text);
    cr_assert_not_null(strstr(text, "without an ouro_read_begin() before it"), "%s", text);
    cr_assert(aborts(begin_detached, text, sizeof text));
    cr_assert_not_null(strstr(text, "ouro_read_begin() by the thread"), "%s", text);
    cr_assert_not_null(strstr(text, "while it is detached"), "%s", text);
    cr_assert(aborts(end_detached, text, sizeof text));
    cr_assert_not_null(strstr(text, "ouro_read_end() by the thread"), "%s", text);
    cr_assert(aborts(return_from_a_callback_in_a_scope, text, sizeof text));
    cr_assert_not_null(strstr(text, "has returned in a read scope"), "%s", text);
    cr_assert(aborts(return_from_destroy_in_a_scope, text, sizeof text));
    cr_assert_not_null(strstr(text, "ouro_safepoint() in a read scope"), "%s", text);
}

/* --- other threads ---------------------------------------------------------------------------------------- */

static void end_in_a_scope(void *argument)
{
    CHECK(ouro_thread_register("reader") == OURO_OK);
    *(uint32_t *)argument = ouro_thread_id();
    ouro_read_begin();
    ouro_read_begin();
    CHECK(depth() == 2);
}

static void sit_there_next(void *argument)
{
    CHECK(ouro_thread_register("next") == OURO_OK);
    CHECK(ouro_thread_id() == *(uint32_t *)argument);
    CHECK(depth() == 0);
    ouro_safepoint();
    ouro_thread_unregister();
}

Test(scopes, a_thread_that_ends_in_one_ends_it)
{
    uint32_t id = 0;

    run_in_bare_thread(end_in_a_scope, &id);
    run_in_bare_thread(sit_there_next, &id);
}

static uint64_t late_stops(void)
{
    ouro_gc_stats stats;

    ouro_gc_get_stats(&stats);
    return stats.late_stops;
}

struct reader {
    struct worker worker;
    struct gate inside;
    uint64_t barks; /* that the watchdog is to have given before the scope ends */
    atomic_bool done;
};

static void read_for_long(void *argument)
{
    struct reader *reader = argument;

    OURO_READING
    {
        const struct leaf *leaf = ouro_slot_borrow(&slot);

        double limit = seconds() + 20;

        gate_open(&reader->inside);
        sleep_ms(100);
        while (late_stops() < reader->barks && seconds() < limit)
            sleep_ms(1);
        CHECK(leaf->value == 7);
    }
    atomic_store(&reader->done, true);
    ouro_safepoint();
}

static void end(struct reader *reader)
{
    worker_join(&reader->worker);
    empty();
}

Test(scopes, a_stop_waits_for_the_end_of_one)
{
    struct reader reader = {.barks = 1};

    put_leaf(7);
    ouro_set_watchdog(50);
    worker_start(&reader.worker, read_for_long, &reader);
    gate_wait_attached(&reader.inside);
    put_leaf(8);
    capture_start();
    ouro_world_stop();
    cr_assert(reader.done);
    ouro_world_start();
    capture_stop(text, sizeof text);
    cr_assert_not_null(strstr(text, "the thread \"worker\" has passed no safepoint"), "%s", text);
    end(&reader);
}

/* The scope of one thread is no other thread's business. */
Test(scopes, others_pass_safepoints_meanwhile)
{
    struct reader reader = {0};

    put_leaf(7);
    worker_start(&reader.worker, read_for_long, &reader);
    gate_wait_attached(&reader.inside);
    put_leaf(8);
    while (!reader.done)
        ouro_safepoint();
    end(&reader);
}
