/*
 * test_world.c - stopping the world: who waits for whom, who goes on, and who is late.
 */

#include "support.h"

#include "base/events.h"

#include <sched.h>
#include <stdlib.h>

TestSuite(world, .init = enter, .fini = leave);

struct runner {
    struct worker worker;
    struct gate made, end;
    atomic_size_t rounds;
    atomic_bool passed;
    uint64_t barks; /* that the watchdog is to have given */
};

static void run_round(struct runner *runner)
{
    atomic_fetch_add_explicit(&runner->rounds, 1, memory_order_relaxed);
    ouro_decref(node_new(NULL, NULL));
    ouro_safepoint();
}

static void run_on(void *argument)
{
    struct runner *runner = argument;

    gate_open(&runner->made);
    while (!atomic_load(&runner->end.open))
        run_round(runner);
}

static void end(struct runner *runner)
{
    gate_open(&runner->end);
    worker_join(&runner->worker);
}

Test(world, alone)
{
    uint64_t stops = event_total(EVENT_STOP);

    for (int i = 0; i < 1000; i++) {
        ouro_world_stop();
        ouro_world_start();
    }
    cr_assert_geq(event_total(EVENT_STOP), stops + 1000);
    cr_assert_eq(ouro_thread_state(), OURO_STATE_ATTACHED);
}

Test(world, nobody_makes_progress)
{
    enum { RUNNERS = 4 };
    static struct runner runners[RUNNERS];
    size_t rounds[RUNNERS];

    for (int i = 0; i < RUNNERS; i++) {
        worker_start(&runners[i].worker, run_on, &runners[i]);
        gate_wait(&runners[i].made);
    }
    for (int round = 0; round < 50; round++) {
        ouro_world_stop();
        for (int i = 0; i < RUNNERS; i++)
            rounds[i] = runners[i].rounds;
        sleep_ms(2);
        for (int i = 0; i < RUNNERS; i++)
            cr_assert_eq(runners[i].rounds, rounds[i], "thread %d runs in a stopped world", i);
        ouro_world_start();
    }
    cr_assert_gt(event_total(EVENT_PARK), 0);
    /* They go on afterwards. */
    for (int i = 0; i < RUNNERS; i++) {
        double limit = seconds() + 20;
        while (runners[i].rounds == rounds[i] && seconds() < limit)
            ouro_safepoint();
        cr_assert_gt(runners[i].rounds, rounds[i]);
        end(&runners[i]);
    }
}

static void arrive_late(void *argument)
{
    struct runner *runner = argument;

    gate_open(&runner->made);
    sleep_ms(50);
    atomic_store(&runner->passed, true);
    ouro_safepoint();
    gate_wait_running(&runner->end);
}

Test(world, waits_for_who_is_on_the_way)
{
    struct runner runner = {0};

    worker_start(&runner.worker, arrive_late, &runner);
    gate_wait(&runner.made);
    ouro_world_stop();
    cr_assert(runner.passed);
    ouro_world_start();
    end(&runner);
}

static void sleep_detached(void *argument)
{
    struct runner *runner = argument;

    ouro_detach();
    gate_open(&runner->made);
    gate_wait(&runner->end);
    ouro_attach();
    atomic_store(&runner->passed, true);
    run_round(runner);
}

Test(world, does_not_wait_for_the_detached)
{
    struct runner runner = {0};
    uint64_t waits = event_total(EVENT_ATTACH_WAIT);

    worker_start(&runner.worker, sleep_detached, &runner);
    gate_wait(&runner.made);
    ouro_world_stop();
    /* It wants to attach now, and has to wait. */
    gate_open(&runner.end);
    cr_assert(await_waiting(1));
    cr_assert_not(runner.passed);
    cr_assert_eq(runner.rounds, 0);
    ouro_world_start();
    worker_join(&runner.worker);
    cr_assert(runner.passed);
    cr_assert_gt(event_total(EVENT_ATTACH_WAIT), waits);
}

static void register_now(void *argument)
{
    struct runner *runner = argument;

    gate_open(&runner->made);
    CHECK(ouro_thread_register("late") == OURO_OK);
    atomic_store(&runner->passed, true);
    run_round(runner);
    ouro_thread_unregister();
}

Test(world, registration_waits)
{
    static struct runner runners[5];

    ouro_world_stop();
    for (int i = 0; i < 5; i++) {
        worker_start_bare(&runners[i].worker, register_now, &runners[i]);
        gate_wait_attached(&runners[i].made);
    }
    cr_assert(await_waiting(5));
    for (int i = 0; i < 5; i++)
        cr_assert_not(runners[i].passed, "a thread registered in a stopped world");
    ouro_world_start();
    for (int i = 0; i < 5; i++) {
        worker_join(&runners[i].worker);
        cr_assert(runners[i].passed);
    }
}

static void end_now(void *argument)
{
    struct runner *runner = argument;

    ouro_detach();
    gate_open(&runner->made);
    gate_wait(&runner->end);
    ouro_thread_unregister();
    atomic_store(&runner->passed, true);
    CHECK(ouro_thread_register("again") == OURO_OK);
}

Test(world, threads_that_end_beside_stops)
{
    for (int i = 0; i < SCALE(200, 40); i++) {
        struct runner runner = {0};

        worker_start(&runner.worker, end_now, &runner);
        gate_wait(&runner.made);
        ouro_world_stop();
        gate_open(&runner.end);
        if (i % 2)
            sched_yield();
        ouro_world_start();
        worker_join(&runner.worker);
        cr_assert(runner.passed);
    }
}

/* --- several who stop ------------------------------------------------------------------------------------- */

/* Not atomic: only one thread at a time can be in a stopped world. */
static size_t stops;

static void stop_often(void *argument)
{
    struct runner *runner = argument;

    for (int i = 0; i < SCALE(300, 100); i++) {
        ouro_world_stop();
        size_t before = stops;
        sched_yield();
        stops = before + 1;
        ouro_world_start();
        if (i % 8 == 0) {
            OURO_DETACHED sched_yield();
        }
        run_round(runner);
    }
}

Test(world, one_after_the_other)
{
    enum { STOPPERS = 4 };
    static struct runner runners[STOPPERS + 2];

    for (int i = 0; i < STOPPERS; i++)
        worker_start(&runners[i].worker, stop_often, &runners[i]);
    for (int i = STOPPERS; i < STOPPERS + 2; i++)
        worker_start(&runners[i].worker, run_on, &runners[i]);
    stop_often(&runners[0]);
    for (int i = 0; i < STOPPERS + 2; i++)
        end(&runners[i]);
    cr_assert_eq(stops, (STOPPERS + 1) * SCALE(300, 100));
}

static void attach_often(void *argument)
{
    struct runner *runner = argument;

    gate_open(&runner->made);
    while (!atomic_load(&runner->end.open)) {
        ouro_detach();
        sched_yield();
        ouro_attach();
        run_round(runner);
        atomic_fetch_add(&runner->rounds, 1); /* it may have waited at the end of the round */
    }
}

/* Stops the world again and again, each time at once when it has gone on: the other one, which waits in each stop, comes some
 * way between each two. */
static void stop_densely(void (*run)(void *))
{
    struct runner runner = {0};
    size_t rounds = 0;

    worker_start(&runner.worker, run, &runner);
    gate_wait(&runner.made);
    for (int i = 0; i < 200; i++) {
        ouro_world_stop();
        cr_assert(await_waiting(1));
        cr_assert(i == 0 || runner.rounds > rounds, "stop %d: still %zu rounds", i, rounds);
        rounds = runner.rounds;
        ouro_world_start();
    }
    end(&runner);
}

Test(world, who_is_parked_gets_in_between_two_stops)
{
    stop_densely(run_on);
}

Test(world, who_attaches_gets_in_between_two_stops)
{
    stop_densely(attach_often);
}

/* --- what a stopper may do ---------------------------------------------------------------------------------- */

Test(world, who_stopped_it_may_read_everything)
{
    struct runner runner = {0};
    struct node *node = node_new(ring_new(10), NULL);

    worker_start(&runner.worker, run_on, &runner);
    gate_wait(&runner.made);
    ouro_world_stop();
    size_t length = 1;
    for (struct node *n = node->left->left; n != node->left; n = n->left)
        length++;
    cr_assert_eq(length, 10);
    cr_assert_eq(ouro_refcount(node->left), 2);
    struct node *more = ouro_incref(node->left);
    ouro_decref(more);
    ouro_world_start();
    end(&runner);
    ouro_decref(node);
    cr_assert_eq(ouro_collect(), 10);
}

/* --- the watchdog --------------------------------------------------------------------------------------------- */

static uint64_t late_stops(void)
{
    ouro_gc_stats stats;

    ouro_gc_get_stats(&stats);
    return stats.late_stops;
}

/* Passes no safepoint until the watchdog has barked; and for a while, in which it must not bark, or not again. */
static void be_late(void *argument)
{
    struct runner *runner = argument;
    double limit = seconds() + 20;

    CHECK(ouro_thread_register("slowcoach") == OURO_OK);
    gate_open(&runner->made);
    while (late_stops() < runner->barks && !atomic_load(&runner->end.open) && seconds() < limit)
        sleep_ms(1);
    sleep_ms(300);
    ouro_safepoint();
    ouro_thread_unregister();
}

static void stop_late(unsigned watchdog, char *text, size_t size)
{
    struct runner runner = {.barks = watchdog > 0 && watchdog < 60000 ? late_stops() + 1 : 0};

    ouro_set_watchdog(watchdog);
    worker_start_bare(&runner.worker, be_late, &runner);
    gate_wait(&runner.made);
    capture_start();
    ouro_world_stop();
    capture_stop(text, size);
    ouro_world_start();
    worker_join(&runner.worker);
}

Test(world, the_watchdog_names_who_is_late)
{
    char text[2000];

    cr_assert_eq(late_stops(), 0);
    stop_late(100, text, sizeof text);
    cr_assert_not_null(strstr(text, "slowcoach"), "%s", text);
    /* Once a stop. */
    cr_assert_null(strstr(strstr(text, "slowcoach") + 1, "slowcoach"), "%s", text);
    cr_assert_eq(late_stops(), 1);
    stop_late(100, text, sizeof text);
    cr_assert_eq(late_stops(), 2);
}

Test(world, the_watchdog_can_be_kept_quiet)
{
    char text[2000];

    stop_late(0, text, sizeof text);
    cr_assert_str_eq(text, "");
    stop_late(60000, text, sizeof text);
    cr_assert_str_eq(text, "");
    cr_assert_eq(late_stops(), 0);
}

Test(world, the_watchdog_barks_while_the_stop_waits)
{
    struct runner runner = {.barks = UINT64_MAX};
    struct worker stopper;
    char text[2000];
    double limit = seconds() + 15; /* the stop waits for 20 */

    ouro_set_watchdog(50);
    capture_start();
    worker_start_bare(&runner.worker, be_late, &runner);
    gate_wait(&runner.made);
    worker_start(&stopper, stop_often, &runner);
    OURO_DETACHED
    {
        while (late_stops() == 0 && seconds() < limit)
            sleep_ms(1);
    }
    capture_stop(text, sizeof text);
    gate_open(&runner.end);
    cr_assert_not_null(strstr(text, "slowcoach"), "it has said nothing so far: %s", text);
    worker_join(&runner.worker);
    worker_join(&stopper);
}

static void *stop_and_be_cancelled(void *argument)
{
    struct runner *runner = argument;

    CHECK(ouro_thread_register("cancelled") == OURO_OK);
    CHECK(pthread_cancel(pthread_self()) == 0);
    gate_open(&runner->made); /* no cancellation point comes before this stop */
    ouro_world_stop();
    ouro_world_start();
    pthread_testcancel();
    return NULL;
}

/* Printing is a point where a thread may be cancelled, in general: then the world would stay stopped. */
Test(world, the_watchdog_barks_of_a_thread_that_is_cancelled)
{
    struct runner runner = {0};
    pthread_t thread;
    void *result;
    char text[2000];

    ouro_set_watchdog(50);
    capture_start();
    cr_assert_eq(pthread_create(&thread, NULL, stop_and_be_cancelled, &runner), 0);
    while (late_stops() == 0)
        sleep_ms(1);
    ouro_safepoint();
    OURO_DETACHED pthread_join(thread, &result);
    capture_stop(text, sizeof text);
    cr_assert_not_null(strstr(text, "holds up a stop that \"cancelled\" asked for"), "%s", text);
    cr_assert_eq(result, PTHREAD_CANCELED);
    ouro_world_stop();
    ouro_world_start();
}
