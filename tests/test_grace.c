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
