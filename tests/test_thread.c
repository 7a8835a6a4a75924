/*
 * test_thread.c - registration, states, detached regions, names, misuse by threads that may not, the end.
 */

#include "support.h"

#include <signal.h>

TestSuite(thread, .init = enter, .fini = leave);
TestSuite(misuse, .init = enter_unregistered);

static size_t registered_threads(void)
{
    ouro_memory stats;

    ouro_memory_stats(&stats);
    return stats.threads;
}

/* --- states ---------------------------------------------------------------------------------------------- */

Test(thread, states)
{
    cr_assert_eq(ouro_thread_state(), OURO_STATE_ATTACHED);
    cr_assert_eq(ouro_detach(), OURO_STATE_ATTACHED);
    cr_assert_eq(ouro_thread_state(), OURO_STATE_DETACHED);
    cr_assert_eq(ouro_detach(), OURO_STATE_DETACHED);
    cr_assert_eq(ouro_attach(), OURO_STATE_DETACHED);
    cr_assert_eq(ouro_attach(), OURO_STATE_ATTACHED);
    cr_assert_eq(ouro_thread_state(), OURO_STATE_ATTACHED);
    ouro_restore(OURO_STATE_ATTACHED);
    cr_assert_eq(ouro_thread_state(), OURO_STATE_ATTACHED);
    ouro_restore(OURO_STATE_DETACHED);
    cr_assert_eq(ouro_thread_state(), OURO_STATE_DETACHED);
    ouro_restore(OURO_STATE_DETACHED);
    cr_assert_eq(ouro_thread_state(), OURO_STATE_DETACHED);
    ouro_restore(OURO_STATE_ATTACHED);
}

Test(thread, regions_nest)
{
    ouro_state outer = ouro_detach();
    ouro_state callback = ouro_attach();
    ouro_decref(node_new(NULL, NULL));
    ouro_state inner = ouro_detach();

    cr_assert_eq(ouro_thread_state(), OURO_STATE_DETACHED);
    ouro_restore(inner);
    cr_assert_eq(ouro_thread_state(), OURO_STATE_ATTACHED);
    ouro_decref(node_new(NULL, NULL));
    ouro_restore(callback);
    cr_assert_eq(ouro_thread_state(), OURO_STATE_DETACHED);
    ouro_restore(outer);
    cr_assert_eq(ouro_thread_state(), OURO_STATE_ATTACHED);
    cr_assert_eq(nodes_destroyed, 2);
}

static void detach_once_more(void)
{
    OURO_DETACHED
    {
        ouro_state before = ouro_attach();

        CHECK(before == OURO_STATE_DETACHED);
        ouro_restore(before);
    }
    CHECK(ouro_thread_state() == OURO_STATE_DETACHED);
}

static int return_from_region(bool early)
{
    OURO_DETACHED
    {
        CHECK(ouro_thread_state() == OURO_STATE_DETACHED);
        if (early)
            return 1;
        detach_once_more();
    }
    CHECK(ouro_thread_state() == OURO_STATE_ATTACHED);
    return 2;
}

Test(thread, the_scope_is_left_in_every_way)
{
    int runs = 0;

    OURO_DETACHED runs++;
    cr_assert_eq(runs, 1);
    cr_assert_eq(ouro_thread_state(), OURO_STATE_ATTACHED);
    cr_assert_eq(return_from_region(true), 1);
    cr_assert_eq(ouro_thread_state(), OURO_STATE_ATTACHED);
    cr_assert_eq(return_from_region(false), 2);
    OURO_DETACHED
    {
        runs++;
        if (runs == 2)
            break;
        runs = 100;
    }
    cr_assert_eq(runs, 2);
    cr_assert_eq(ouro_thread_state(), OURO_STATE_ATTACHED);
    OURO_DETACHED
    {
        if (runs == 2)
            continue;
        runs = 100;
    }
    cr_assert_eq(runs, 2);
    cr_assert_eq(ouro_thread_state(), OURO_STATE_ATTACHED);
    OURO_DETACHED
    {
        if (runs == 2)
            goto out;
        runs = 100;
    }
out:
    cr_assert_eq(runs, 2);
    cr_assert_eq(ouro_thread_state(), OURO_STATE_ATTACHED);
}

/* --- registration ---------------------------------------------------------------------------------------- */

Test(thread, registering_twice)
{
    cr_assert_eq(ouro_thread_register("again"), OURO_BUSY);
    cr_assert_str_eq(ouro_thread_name(), "test");
    ouro_detach();
    cr_assert_eq(ouro_thread_register("again"), OURO_BUSY);
    cr_assert_eq(ouro_thread_state(), OURO_STATE_DETACHED);
    ouro_attach();
}

Test(thread, unregistering_and_registering_again)
{
    uint32_t id = ouro_thread_id();
    struct node *node = node_new(NULL, NULL);

    for (int i = 0; i < 10; i++) {
        if (i % 2)
            ouro_detach();
        ouro_thread_unregister();
        cr_assert_eq(ouro_thread_state(), OURO_STATE_UNREGISTERED);
        cr_assert_eq(ouro_thread_id(), 0);
        cr_assert_str_eq(ouro_thread_name(), "");
        cr_assert_eq(ouro_thread_register("again"), OURO_OK);
        cr_assert_eq(ouro_thread_state(), OURO_STATE_ATTACHED);
        cr_assert_eq(ouro_thread_id(), id);
        cr_assert_str_eq(ouro_thread_name(), "again");
    }
    cr_assert_eq(ouro_refcount(node), 1);
    ouro_decref(node);
    cr_assert_eq(nodes_destroyed, 1);
}

static void check_names(void *argument)
{
    char name[] = "a name of exactly 31 characters";
    char longer[] = "a name of more than 31 characters, much more";

    (void)argument;
    CHECK(strlen(name) == 31);
    CHECK(strcmp(ouro_thread_name(), "") == 0);
    CHECK(ouro_thread_register(name) == OURO_OK);
    name[0] = 'X';
    CHECK(strcmp(ouro_thread_name(), "a name of exactly 31 characters") == 0);
    ouro_thread_unregister();
    CHECK(ouro_thread_register(longer) == OURO_OK);
    CHECK(strcmp(ouro_thread_name(), "a name of more than 31 characte") == 0);
    ouro_thread_unregister();
    CHECK(ouro_thread_register(NULL) == OURO_OK);
    CHECK(strcmp(ouro_thread_name(), "unnamed") == 0);
    ouro_thread_unregister();
    CHECK(ouro_thread_register("") == OURO_OK);
    CHECK(strcmp(ouro_thread_name(), "") == 0);
    ouro_thread_unregister();
}

Test(thread, names)
{
    run_in_bare_thread(check_names, NULL);
}

static void end_registered(void *argument)
{
    CHECK(ouro_thread_register("careless") == OURO_OK);
    *(struct node **)argument = node_new(NULL, NULL);
}

static void end_detached(void *argument)
{
    end_registered(argument);
    ouro_detach();
}

static void end_by_exit(void *argument)
{
    end_registered(argument);
    pthread_exit(NULL);
}

static void end_again(void *argument)
{
    CHECK(ouro_thread_register("first") == OURO_OK);
    ouro_thread_unregister();
    end_registered(argument);
}

Test(thread, a_thread_that_ends_is_unregistered)
{
    static void (*const ends[])(void *) = {end_registered, end_detached, end_by_exit, end_again};
    struct node *node;

    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        run_in_bare_thread(ends[i], &node);
        cr_assert_eq(registered_threads(), 1);
        cr_assert_eq(ouro_refcount(node), 1);
        ouro_decref(node);
        cr_assert_eq(nodes_destroyed, i + 1, "its seat is not free");
        cr_assert_eq(ouro_thread_register("x"), OURO_BUSY);
    }
}

static void live_shortly(void *argument)
{
    atomic_size_t *ids = argument;

    ouro_decref(node_new(node_new(NULL, NULL), NULL));
    ouro_safepoint();
    atomic_fetch_add(ids, ouro_thread_id());
}

Test(thread, two_thousand_one_after_another)
{
    size_t count = SCALE(2000, 300);
    atomic_size_t ids = 0;
    ouro_memory first, last;
    uint32_t id;

    run_in_thread(live_shortly, &ids);
    id = (uint32_t)ids;
    ouro_memory_stats(&first);
    for (size_t i = 1; i < count; i++)
        run_in_thread(live_shortly, &ids);
    ouro_memory_stats(&last);
    cr_assert_eq(ids, count * id, "they have not all sat in one seat");
    cr_assert_eq(last.seats, first.seats);
    cr_assert_eq(last.threads, 1);
    cr_assert_leq(last.page_bytes + last.empty_bytes, 2 * first.page_bytes + (1 << 20));
    cr_assert_eq(nodes_destroyed, 2 * count);
}

struct many {
    struct worker worker;
    struct gate *go_on;
    atomic_size_t *ready;
    uint32_t id;
};

static void be_one_of_many(void *argument)
{
    struct many *many = argument;

    many->id = ouro_thread_id();
    atomic_fetch_add(many->ready, 1);
    gate_wait(many->go_on);
    for (int i = 0; i < 100; i++) {
        ouro_decref(node_new(NULL, NULL));
        ouro_safepoint();
    }
}

Test(thread, sixty_four_at_once)
{
    enum { COUNT = 64 };
    static struct many many[COUNT];
    atomic_size_t ready = 0;
    struct gate gate = {false};
    static bool seen[65536];

    for (int i = 0; i < COUNT; i++) {
        many[i].go_on = &gate;
        many[i].ready = &ready;
        worker_start(&many[i].worker, be_one_of_many, &many[i]);
    }
    cr_assert(wait_for_count(&ready, COUNT));
    cr_assert_eq(registered_threads(), COUNT + 1);
    gate_open(&gate);
    for (int i = 0; i < COUNT; i++) {
        worker_join(&many[i].worker);
        cr_assert(many[i].id > 0 && many[i].id <= OURO_ID_MAX);
        cr_assert_not(seen[many[i].id], "two threads in one seat");
        seen[many[i].id] = true;
    }
    cr_assert_eq(registered_threads(), 1);
    cr_assert_eq(nodes_destroyed, COUNT * 100);
}

/* --- misuse ---------------------------------------------------------------------------------------------- */

/* An object, and a thread that may not touch it any more. */
static struct node *node_of(ouro_state state)
{
    CHECK(ouro_thread_register("culprit") == OURO_OK);
    struct node *node = ouro_incref(node_new(NULL, NULL));
    if (state == OURO_STATE_DETACHED)
        ouro_detach();
    else
        ouro_thread_unregister();
    return node;
}

static ouro_state state;

static void do_incref(void)
{
    ouro_incref(node_of(state));
}

static void do_decref(void)
{
    ouro_decref(node_of(state));
}

static void do_new(void)
{
    node_of(state);
    (void)!ouro_new(node_type);
}

static void do_new_array(void)
{
    node_of(state);
    (void)!ouro_new_array(array_type, 3);
}

static void do_safepoint(void)
{
    node_of(state);
    ouro_safepoint();
}

static void do_alloc(void)
{
    node_of(state);
    (void)!ouro_alloc(10);
}

static void do_collect(void)
{
    node_of(state);
    ouro_collect();
}

static void do_stop(void)
{
    node_of(state);
    ouro_world_stop();
}

static void do_stats(void)
{
    ouro_memory stats;

    node_of(state);
    ouro_memory_stats(&stats);
}

static void do_detach(void)
{
    node_of(state);
    ouro_detach();
}

static void do_attach(void)
{
    node_of(state);
    ouro_attach();
}

static void do_unregister(void)
{
    node_of(state);
    ouro_thread_unregister();
}

static void assert_abort(void (*misuse)(void), const char *function)
{
    char text[2000];

    cr_assert(aborts(misuse, text, sizeof text), "%s has not aborted; stderr: %s", function, text);
    /* One line that says who, what, and what to do. */
    cr_assert_eq(strncmp(text, "ouro: ", 6), 0, "%s: %s", function, text);
    cr_assert_eq(strchr(text, '\n'), text + strlen(text) - 1, "%s: %s", function, text);
    cr_assert_not_null(strstr(text, function), "%s: %s", function, text);
    cr_assert_not_null(strstr(text, ": call "), "%s: %s", function, text);
}

static const struct misuse {
    const char *function;
    void (*run)(void);
    bool wrong_while_detached;
} misuses[] = {
    {"ouro_incref()", do_incref, true},
    {"ouro_decref()", do_decref, true},
    {"ouro_new()", do_new, true},
    {"ouro_new_array()", do_new_array, true},
    {"ouro_safepoint()", do_safepoint, true},
    {"ouro_alloc()", do_alloc, true},
    {"ouro_collect()", do_collect, true},
    {"ouro_world_stop()", do_stop, true},
    {"ouro_memory_stats()", do_stats, true},
    {"ouro_detach()", do_detach, false},
    {"ouro_attach()", do_attach, false},
    {"ouro_thread_unregister()", do_unregister, false},
};

Test(misuse, by_an_unregistered_thread)
{
    state = OURO_STATE_UNREGISTERED;
    for (size_t i = 0; i < sizeof misuses / sizeof *misuses; i++)
        assert_abort(misuses[i].run, misuses[i].function);
}

Test(misuse, by_a_detached_thread)
{
    char text[1000];

    state = OURO_STATE_DETACHED;
    for (size_t i = 0; i < sizeof misuses / sizeof *misuses; i++) {
        if (misuses[i].wrong_while_detached)
            assert_abort(misuses[i].run, misuses[i].function);
        else
            cr_assert_not(aborts(misuses[i].run, text, sizeof text), "%s: %s", misuses[i].function,
                          text);
    }
}

Test(misuse, ends_the_program, .signal = SIGABRT)
{
    state = OURO_STATE_UNREGISTERED;
    do_incref();
}

/* --- the end --------------------------------------------------------------------------------------------- */

static void fail_to_register(void *argument)
{
    (void)argument;
    CHECK(ouro_thread_register("late") == OURO_SHUTDOWN);
    CHECK(ouro_thread_state() == OURO_STATE_UNREGISTERED);
    CHECK(ouro_thread_id() == 0);
}

static void wait_to_end(void *argument)
{
    struct many *many = argument;

    atomic_fetch_add(many->ready, 1);
    gate_wait(many->go_on);
    ouro_decref(ring_new(2));
}

Test(thread, shutdown)
{
    struct gate gate = {false};
    atomic_size_t ready = 0;
    struct many many = {.go_on = &gate, .ready = &ready};
    struct node *alive = node_new(NULL, NULL);

    worker_start(&many.worker, wait_to_end, &many);
    cr_assert(wait_for_count(&ready, 1));
    cr_assert_eq(ouro_shutdown(), OURO_BUSY);
    cr_assert_eq(ouro_shutdown(), OURO_BUSY);
    run_in_bare_thread(fail_to_register, NULL);
    gate_open(&gate);
    worker_join(&many.worker);
    cr_assert_eq(nodes_destroyed, 0);
    cr_assert_eq(ouro_shutdown(), OURO_OK);
    cr_assert_eq(nodes_destroyed, 2);

    /* Everything else goes on working. */
    run_in_bare_thread(fail_to_register, NULL);
    cr_assert_eq(live_objects(), 1);
    ouro_decref(ring_new(3));
    cr_assert_eq(ouro_collect(), 3);
    OURO_DETACHED sleep_ms(1);
    ouro_decref(alive);
    cr_assert_eq(ouro_shutdown(), OURO_OK);
    cr_assert_eq(live_objects(), 0);
}

Test(misuse, nobody_registers_after_the_end)
{
    cr_assert_eq(ouro_thread_register("only"), OURO_OK);
    cr_assert_eq(ouro_shutdown(), OURO_OK);
    cr_assert_eq(ouro_thread_register("twice"), OURO_BUSY);
    ouro_thread_unregister();
    fail_to_register(NULL);
}
