/*
 * test_grace.c - grace periods: stamps, who is waited for, what completes them.
 */
#include <criterion/criterion.h>

#include "support.h"

#include "thread/grace.h"
#include "thread/seat.h"
#include "thread/world.h"

#include <pthread.h>
#include <sched.h>

static void enter_test(void)
{
    cr_assert_eq(ouro_thread_register("test"), OURO_OK);
}

static struct seat *self(void)
{
    return seat_attached_self;
}

TestSuite(grace, .init = enter_test);

Test(grace, own_safepoint_completes_it)
{
    uint64_t stamp = grace_stamp();

    cr_assert_not(grace_is_ripe(stamp));
    grace_begin(self());
    cr_assert_not(grace_is_ripe(stamp), "the leader has passed no safepoint");
    ouro_safepoint();
    cr_assert(grace_is_ripe(stamp));
}

Test(grace, detach_completes_it)
{
    uint64_t stamp = grace_stamp();

    grace_begin(self());
    ouro_restore(ouro_detach());
    cr_assert(grace_is_ripe(stamp));
}

Test(grace, stamp_during_a_period_waits_for_the_next)
{
    uint64_t early = grace_stamp();
    grace_begin(self());
    uint64_t late = grace_stamp();

    ouro_safepoint();
    cr_assert(grace_is_ripe(early));
    cr_assert_not(grace_is_ripe(late));
    grace_begin(self());
    ouro_safepoint();
    cr_assert(grace_is_ripe(late));
}

Test(grace, one_period_at_a_time)
{
    uint64_t stamp = grace_stamp();

    grace_begin(self());
    grace_begin(self());
    grace_begin(self());
    cr_assert_not(grace_is_ripe(stamp));
    ouro_safepoint();
    cr_assert(grace_is_ripe(stamp));
    uint64_t next = grace_stamp();
    cr_assert_eq(next, stamp + 1, "the others began nothing");
}

struct reader {
    int phase; /* 1: attached, 2: may pass a safepoint, 3: has passed it, 4: may end */
    bool detached;
};

static void wait_for(struct reader *r, int phase)
{
    while (__atomic_load_n(&r->phase, __ATOMIC_ACQUIRE) < phase)
        sched_yield();
}

static void *read_for_long(void *argument)
{
    struct reader *r = argument;

    cr_assert_eq(ouro_thread_register("reader"), OURO_OK);
    if (r->detached)
        ouro_detach();
    __atomic_store_n(&r->phase, 1, __ATOMIC_RELEASE);
    wait_for(r, 2);
    if (!r->detached) {
        ouro_safepoint();
        __atomic_store_n(&r->phase, 3, __ATOMIC_RELEASE);
        ouro_detach();
    }
    wait_for(r, 4);
    ouro_thread_unregister();
    return NULL;
}

Test(grace, waits_for_an_attached_reader)
{
    struct reader r = {0, false};
    pthread_t thread;

    cr_assert_eq(pthread_create(&thread, NULL, read_for_long, &r), 0);
    wait_for(&r, 1);
    uint64_t stamp = grace_stamp();
    grace_begin(self());
    for (int i = 0; i < 1000; i++) {
        ouro_safepoint();
        cr_assert_not(grace_is_ripe(stamp));
    }
    __atomic_store_n(&r.phase, 2, __ATOMIC_RELEASE);
    wait_for(&r, 3);
    ouro_safepoint();
    cr_assert(grace_is_ripe(stamp));
    __atomic_store_n(&r.phase, 4, __ATOMIC_RELEASE);
    ouro_state state = ouro_detach();
    pthread_join(thread, NULL);
    ouro_restore(state);
}

Test(grace, does_not_wait_for_a_detached_one)
{
    struct reader r = {0, true};
    pthread_t thread;

    cr_assert_eq(pthread_create(&thread, NULL, read_for_long, &r), 0);
    wait_for(&r, 1);
    uint64_t stamp = grace_stamp();
    grace_begin(self());
    ouro_safepoint();
    cr_assert(grace_is_ripe(stamp));
    __atomic_store_n(&r.phase, 4, __ATOMIC_RELEASE);
    ouro_state state = ouro_detach();
    pthread_join(thread, NULL);
    ouro_restore(state);
}

Test(grace, a_stopped_world_is_one)
{
    uint64_t stamp = grace_stamp();

    world_stop(self());
    grace_in_stopped_world();
    world_start(self());
    cr_assert(grace_is_ripe(stamp));
}

Test(grace, a_stop_during_a_period_does_not_complete_it_twice)
{
    uint64_t stamp = grace_stamp();

    world_stop(self());
    grace_begin(self()); /* own acknowledgement is due */
    grace_in_stopped_world();
    cr_assert_not(grace_is_ripe(stamp));
    world_start(self());
    ouro_safepoint();
    cr_assert(grace_is_ripe(stamp));
    cr_assert_not(grace_is_ripe(grace_stamp()));
}

/* --- the watchdog -------------------------------------------------------------------------------------- */

static char text[4000];

static uint64_t late_periods(void)
{
    ouro_gc_stats stats;

    ouro_gc_get_stats(&stats);
    return stats.late_periods;
}

static size_t occurrences(const char *what)
{
    size_t count = 0;

    for (const char *at = strstr(text, what); at; at = strstr(at + 1, what))
        count++;
    return count;
}

/* A thread that is attached and passes no safepoint until it is told to. */
struct slow {
    struct worker worker;
    struct gate attached, go_on, passed, end;
    const char *name;
};

static void be_slow(void *argument)
{
    struct slow *slow = argument;

    CHECK(ouro_thread_register(slow->name) == OURO_OK);
    gate_open(&slow->attached);
    gate_wait_attached(&slow->go_on);
    ouro_safepoint();
    gate_open(&slow->passed);
    gate_wait_attached(&slow->end);
    ouro_thread_unregister();
}

static void start_slow(struct slow *slow, const char *name)
{
    *slow = (struct slow){.name = name};
    worker_start_bare(&slow->worker, be_slow, slow);
    gate_wait_attached(&slow->attached);
}

static void end_slow(struct slow *slow)
{
    gate_open(&slow->go_on);
    gate_open(&slow->end);
    worker_join(&slow->worker);
}

/* Retires buffers until the watchdog has barked that often; false after a while. */
static bool retire_until(uint64_t periods, unsigned milliseconds)
{
    double end = seconds() + milliseconds / 1000.0;

    ouro_set_retire_budget(1);
    while (late_periods() < periods && seconds() < end) {
        CHECK(ouro_free_deferred(ouro_alloc(1000)) == OURO_OK);
        ouro_safepoint();
        sleep_ms(1);
    }
    return late_periods() == periods;
}

Test(grace, who_holds_it_up_is_named)
{
    struct slow slow, other;

    ouro_set_watchdog(100);
    start_slow(&slow, "slowcoach");
    start_slow(&other, "sluggard");
    capture_start();
    bool barked = retire_until(1, 20000);
    cr_assert_not(retire_until(2, 300)); /* once a period */
    capture_stop(text, sizeof text);
    cr_assert(barked);
    cr_assert_eq(occurrences("the thread \"slowcoach\" has passed no safepoint for "), 1, "%s",
                 text);
    cr_assert_eq(occurrences("the thread \"sluggard\" has passed no safepoint for "), 1, "%s",
                 text);
    cr_assert_eq(occurrences("holds up a grace period: what was retired ("), 2, "%s", text);
    cr_assert_eq(occurrences("(0 bytes)"), 0, "%s", text);
    cr_assert_eq(occurrences("the thread \"test\""), 0, "%s", text);

    /* The next period. One passes its safepoint, the other one is late again. Meanwhile this thread passes none, and would be
     * named on a machine that is slow. */
    ouro_set_watchdog(0);
    gate_open(&other.go_on);
    gate_wait_attached(&other.passed);
    gate_open(&slow.go_on);
    gate_wait_attached(&slow.passed);
    gate_open(&other.end); /* it unregisters, and is late for nothing any more */
    worker_join(&other.worker);
    ouro_safepoint();
    ouro_set_watchdog(100);
    capture_start();
    barked = retire_until(2, 20000);
    capture_stop(text, sizeof text);
    cr_assert(barked);
    cr_assert_eq(occurrences("the thread \"slowcoach\""), 1, "%s", text);
    cr_assert_eq(occurrences("the thread \"sluggard\""), 0, "%s", text);
    end_slow(&slow);
    ouro_synchronize();
}

static void go_on_later(void *argument)
{
    struct slow *slow = argument;
    double end = seconds() + 20;

    while (late_periods() == 0 && seconds() < end) /* it barks while synchronize waits, or never */
        sleep_ms(1);
    gate_open(&slow->go_on);
    gate_open(&slow->end);
}

Test(grace, who_holds_up_synchronize_is_named)
{
    struct slow slow;
    struct worker opener;

    ouro_set_watchdog(50);
    start_slow(&slow, "slowcoach");
    capture_start();
    worker_start_bare(&opener, go_on_later, &slow);
    ouro_synchronize();
    capture_stop(text, sizeof text);
    worker_join(&opener);
    worker_join(&slow.worker);
    cr_assert_eq(occurrences("the thread \"slowcoach\""), 1, "%s", text);
    cr_assert_eq(late_periods(), 1);
}

Test(grace, the_watchdog_can_be_kept_quiet)
{
    struct slow slow;

    ouro_set_watchdog(0);
    start_slow(&slow, "slowcoach");
    capture_start();
    retire_until(1, 300);
    ouro_set_watchdog(60000);
    retire_until(1, 200);
    capture_stop(text, sizeof text);
    cr_assert_str_eq(text, "");
    cr_assert_eq(late_periods(), 0);
    end_slow(&slow);
    ouro_synchronize();
}

Test(grace, nobody_is_named_who_was_not_attached)
{
    struct reader r = {0, true};
    pthread_t thread;

    ouro_set_watchdog(200);
    cr_assert_eq(pthread_create(&thread, NULL, read_for_long, &r), 0);
    wait_for(&r, 1);
    capture_start();
    retire_until(1, 600);
    capture_stop(text, sizeof text);
    cr_assert_str_eq(text, "");
    __atomic_store_n(&r.phase, 4, __ATOMIC_RELEASE);
    ouro_state state = ouro_detach();
    pthread_join(thread, NULL);
    ouro_restore(state);
    ouro_synchronize();
}

/* Somebody who waits for a grace period, as ouro_synchronize() does: registered and detached. */
struct watcher {
    struct worker worker;
    struct gate ready, stopped, watched, on, end;
    double goes_on; /* when the world does, at the earliest */
    uint64_t in_the_stop, at_once, later;
    bool was_quick;
};

static void watch(void *argument)
{
    struct watcher *w = argument;

    ouro_detach();
    gate_open(&w->ready);
    gate_wait(&w->stopped);
    grace_begin(seat_self);
    sleep_ms(500);
    grace_watch(seat_self);
    w->in_the_stop = late_periods();
    gate_open(&w->watched);
    gate_wait(&w->on);
    grace_watch(seat_self);
    w->at_once = late_periods();
    w->was_quick = seconds() < w->goes_on + 0.4; /* else it may well be late */
    sleep_ms(600);
    grace_watch(seat_self);
    w->later = late_periods();
    gate_open(&w->end);
    ouro_attach();
}

/* Who has stopped the world can pass no safepoint, and has the whole time for it when the world goes on. */
Test(grace, who_has_stopped_the_world_is_not_late)
{
    static struct watcher w;

    ouro_set_watchdog(400);
    worker_start(&w.worker, watch, &w);
    gate_wait(&w.ready);
    capture_start();
    ouro_world_stop();
    gate_open(&w.stopped);
    gate_wait_attached(&w.watched);
    w.goes_on = seconds();
    ouro_world_start();
    gate_open(&w.on);
    gate_wait_attached(&w.end);
    capture_stop(text, sizeof text);
    worker_join(&w.worker);
    cr_assert_eq(w.in_the_stop, 0, "%s", text);
    cr_assert(w.at_once == 0 || !w.was_quick, "%s", text);
    cr_assert_eq(w.later, 1, "%s", text);
    cr_assert_eq(occurrences("the thread \"test\" has passed no safepoint"), 1, "%s", text);
}
