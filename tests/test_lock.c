/*
 * test_lock.c - object locks: who has one, who waits for one and how, scopes, misuse, fork.
 */
#include "support.h"

#include "base/check.h"
#include "base/events.h"
#include "object/lock.h"
#include "thread/seat.h"

#include <errno.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FREE = 0, LOCKED = 1, WAITERS = 2 };

static struct node *node, *other;

static void enter_test(void)
{
    enter();
    node = node_new(NULL, NULL);
    other = node_new(NULL, NULL);
}

static void leave_test(void)
{
    ouro_decref(node);
    ouro_decref(other);
    leave();
}

TestSuite(lock, .init = enter_test, .fini = leave_test);

static unsigned byte_of(struct node *n)
{
    return __atomic_load_n(&n->ouro.lock, __ATOMIC_RELAXED);
}

/* Until somebody is in the queue of the node's lock. No safepoint. */
static void await_waiter(struct node *n)
{
    double limit = seconds() + 20;

    while (!(byte_of(n) & WAITERS) && seconds() < limit)
        sched_yield();
    CHECK(byte_of(n) == (LOCKED | WAITERS));
}

/* A thread that locks `node`, opens a gate, waits for another, and unlocks. */
struct locker {
    struct worker worker;
    struct gate locked, end;
    struct node *node;
    bool detached; /* while it has the lock */
    uint32_t seat;
};

static void lock_for_a_while(void *argument)
{
    struct locker *locker = argument;

    locker->seat = ouro_thread_id();
    ouro_lock(locker->node);
    gate_open(&locker->locked);
    if (locker->detached)
        gate_wait(&locker->end);
    else
        gate_wait_running(&locker->end);
    ouro_unlock(locker->node);
}

static void locker_start(struct locker *locker, struct node *n)
{
    locker->node = n;
    worker_start(&locker->worker, lock_for_a_while, locker);
}

static void locker_end(struct locker *locker)
{
    gate_open(&locker->end);
    worker_join(&locker->worker);
}

/* --- one thread ---------------------------------------------------------------------------------- */

Test(lock, lock_and_unlock)
{
    cr_assert_eq(byte_of(node), FREE);
    ouro_lock(node);
    cr_assert_eq(byte_of(node), LOCKED);
    cr_assert_eq(seat_self->held_count, 1);
    ouro_unlock(node);
    cr_assert_eq(byte_of(node), FREE);
    cr_assert_eq(seat_self->held_count, 0);
}

Test(lock, it_changes_nothing_else)
{
    ouro_header before = node->ouro, after;

    ouro_lock(node);
    after = node->ouro;
    after.lock = 0;
    cr_assert_eq(memcmp(&before, &after, sizeof before), 0);
    ouro_unlock(node);
    cr_assert_eq(memcmp(&before, &node->ouro, sizeof before), 0);
}

static void try_node(void *got)
{
    *(bool *)got = ouro_trylock(node);
    if (*(bool *)got)
        ouro_unlock(node);
}

Test(lock, trylock)
{
    bool got = true;

    cr_assert(ouro_trylock(node));
    cr_assert_eq(byte_of(node), LOCKED);
    cr_assert_not(ouro_trylock(node), "by the same thread");
    run_in_thread(try_node, &got);
    cr_assert_not(got, "by another thread");
    cr_assert_eq(seat_self->held_count, 1);
    ouro_unlock(node);
    cr_assert_not(got);
    run_in_thread(try_node, &got);
    cr_assert(got);
    cr_assert_eq(byte_of(node), FREE);
}

Test(lock, any_order)
{
    struct array *all = array_new(SEAT_HELD_MAX);

    for (int i = 0; i < SEAT_HELD_MAX; i++) {
        all->items[i] = OURO_OF(node_new(NULL, NULL));
        ouro_lock(all->items[i]);
    }
    for (int i = 0; i < SEAT_HELD_MAX; i++) {
        int which = i * 29 % SEAT_HELD_MAX;

        cr_assert_eq(all->items[which]->ouro.lock, LOCKED);
        ouro_unlock(all->items[which]);
        cr_assert_eq(all->items[which]->ouro.lock, FREE);
    }
    cr_assert_eq(seat_self->held_count, 0);
    ouro_lock(node);
    ouro_unlock(node);
    ouro_decref(all);
}

Test(lock, pairs)
{
    ouro_lock_pair(node, other);
    cr_assert(byte_of(node) == LOCKED && byte_of(other) == LOCKED);
    ouro_unlock_pair(other, node);
    cr_assert(byte_of(node) == FREE && byte_of(other) == FREE);
    ouro_lock_pair(other, node);
    ouro_unlock(node);
    cr_assert(byte_of(node) == FREE && byte_of(other) == LOCKED);
    ouro_unlock(other);
    ouro_lock_pair(node, node);
    cr_assert_eq(seat_self->held_count, 1);
    ouro_unlock_pair(node, node);
    cr_assert_eq(byte_of(node), FREE);
    cr_assert_eq(seat_self->held_count, 0);
}

Test(lock, objects_of_all_kinds)
{
    struct leaf *leaf = leaf_new(1);
    struct box *box = box_new(NULL);
    struct leaf *immortal = leaf_new(2);

    ouro_immortalize(immortal);
    OURO_LOCKED(leaf)
    {
        OURO_LOCKED_PAIR(box, immortal)
        {
            cr_assert_eq(seat_self->held_count, 3);
            cr_assert_eq(immortal->ouro.lock, LOCKED);
        }
    }
    cr_assert_eq(immortal->ouro.lock, FREE);
    ouro_decref(leaf);
    ouro_decref(box);
    expect_left(1);
}

/* --- scopes -------------------------------------------------------------------------------------- */

static int return_from_scope(bool early)
{
    OURO_LOCKED(node)
    {
        CHECK(byte_of(node) == LOCKED);
        if (early)
            return 1;
    }
    CHECK(byte_of(node) == FREE);
    return 2;
}

static int return_from_pair(bool early)
{
    OURO_LOCKED_PAIR(node, other)
    {
        CHECK(byte_of(node) == LOCKED && byte_of(other) == LOCKED);
        if (early)
            return 1;
    }
    CHECK(byte_of(node) == FREE && byte_of(other) == FREE);
    return 2;
}

static int evaluated;

static struct node *evaluate(struct node *n)
{
    evaluated++;
    return n;
}

Test(lock, scopes_are_left_in_every_way)
{
    int runs = 0;

    OURO_LOCKED(evaluate(node)) runs++;
    cr_assert_eq(runs, 1);
    cr_assert_eq(evaluated, 1);
    cr_assert_eq(byte_of(node), FREE);
    cr_assert_eq(return_from_scope(true), 1);
    cr_assert_eq(byte_of(node), FREE);
    cr_assert_eq(return_from_scope(false), 2);
    cr_assert_eq(return_from_pair(true), 1);
    cr_assert(byte_of(node) == FREE && byte_of(other) == FREE);
    cr_assert_eq(return_from_pair(false), 2);
    OURO_LOCKED_PAIR(evaluate(node), evaluate(node))
    {
        cr_assert_eq(byte_of(node), LOCKED);
        if (++runs == 2)
            break;
        runs = 100;
    }
    cr_assert_eq(evaluated, 3);
    cr_assert_eq(byte_of(node), FREE);
    OURO_LOCKED(node)
    {
        OURO_LOCKED(other)
        {
            if (++runs == 3)
                continue;
            runs = 100;
        }
        cr_assert_eq(byte_of(other), FREE);
        cr_assert_eq(byte_of(node), LOCKED);
        if (++runs == 4)
            goto out;
        runs = 100;
    }
out:
    cr_assert_eq(runs, 4);
    cr_assert_eq(byte_of(node), FREE);
    cr_assert_eq(seat_self->held_count, 0);
}

/* --- several threads ----------------------------------------------------------------------------- */

static size_t plain; /* not atomic */

enum { TAKERS = 4, TURNS = SCALE(20000, 2000) };

static void take_turns(void *argument)
{
    (void)argument;
    for (int i = 0; i < TURNS; i++) {
        OURO_LOCKED(node)
        {
            size_t before = plain;

            if (i % 64 == 0)
                sched_yield();
            plain = before + 1;
        }
        ouro_safepoint();
    }
}

Test(lock, one_at_a_time)
{
    struct worker workers[TAKERS];

    for (int i = 0; i < TAKERS; i++)
        worker_start(&workers[i], take_turns, NULL);
    for (int i = 0; i < TAKERS; i++)
        worker_join(&workers[i]);
    cr_assert_eq(plain, TAKERS * TURNS);
    cr_assert_eq(byte_of(node), FREE);
}

static void take_pairs(void *argument)
{
    bool turned = argument != NULL;

    for (int i = 0; i < TURNS; i++) {
        ouro_lock_pair(turned ? node : other, turned ? other : node);
        size_t before = plain;

        if (i % 64 == 0)
            sched_yield();
        plain = before + 1;
        ouro_unlock_pair(node, other);
        ouro_safepoint();
    }
}

Test(lock, pairs_in_both_orders)
{
    struct worker workers[2];

    for (int i = 0; i < 2; i++)
        worker_start(&workers[i], take_pairs, i ? &workers[i] : NULL);
    for (int i = 0; i < 2; i++)
        worker_join(&workers[i]);
    cr_assert_eq(plain, 2 * TURNS);
    cr_assert(byte_of(node) == FREE && byte_of(other) == FREE);
}

Test(lock, all_who_wait_get_in)
{
    static struct locker lockers[8];
    size_t waits = event_total(EVENT_LOCK_WAIT);

    ouro_lock_pair(node, other);
    for (int i = 0; i < 8; i++)
        locker_start(&lockers[i], i % 2 ? node : other);
    for (double limit = seconds() + 20; seconds() < limit;) {
        if (event_total(EVENT_LOCK_WAIT) == waits + 8)
            break;
        ouro_safepoint();
    }
    cr_assert_eq(event_total(EVENT_LOCK_WAIT), waits + 8);
    await_waiter(node);
    await_waiter(other);
    /* Those of one object, though the others may be in the same bucket. */
    for (int i = 0; i < 8; i++)
        gate_open(&lockers[i].end);
    ouro_unlock(node);
    for (int i = 1; i < 8; i += 2)
        worker_join(&lockers[i].worker);
    cr_assert_eq(byte_of(node), FREE);
    for (int i = 0; i < 8; i += 2)
        cr_assert_not(lockers[i].locked.open);
    cr_assert_eq(byte_of(other), LOCKED | WAITERS);
    ouro_unlock(other);
    for (int i = 0; i < 8; i += 2)
        worker_join(&lockers[i].worker);
    cr_assert_eq(byte_of(other), FREE);
}

/* --- waiting ------------------------------------------------------------------------------------- */

Test(lock, who_waits_holds_up_no_stop)
{
    static struct locker locker;

    ouro_lock(node);
    locker_start(&locker, node);
    await_waiter(node);
    for (int i = 0; i < 100; i++) {
        ouro_world_stop();
        ouro_world_start();
    }
    cr_assert_not(locker.locked.open);
    cr_assert_eq(byte_of(node), LOCKED | WAITERS);
    ouro_unlock(node);
    locker_end(&locker);
    cr_assert_eq(byte_of(node), FREE);
}

Test(lock, who_waits_gets_nothing_in_a_stopped_world)
{
    static struct locker locker;

    for (int i = 0; i < 20; i++) {
        locker = (struct locker){0};
        ouro_lock(node);
        locker_start(&locker, node);
        await_waiter(node);
        ouro_world_stop();
        ouro_unlock(node);
        sleep_ms(i < 2 ? 50 : 1);
        cr_assert_eq(byte_of(node), FREE);
        ouro_lock(node);
        ouro_unlock(node);
        cr_assert(ouro_trylock(node));
        ouro_unlock(node);
        cr_assert_not(locker.locked.open);
        ouro_world_start();
        locker_end(&locker);
    }
}

Test(lock, others_collect_while_one_waits)
{
    static struct locker locker;

    ouro_decref(ring_new(10));
    ouro_lock(node);
    locker_start(&locker, node);
    await_waiter(node);
    cr_assert_eq(ouro_collect(), 10);
    cr_assert_eq(nodes_destroyed, 10);
    cr_assert_not(locker.locked.open);
    ouro_unlock(node);
    locker_end(&locker);
}

static struct node *_Atomic theirs;

static void make_and_wait(void *argument)
{
    (void)argument;
    atomic_store(&theirs, node_new(NULL, NULL));
    OURO_LOCKED(node);
}

Test(lock, others_see_to_what_is_left_for_who_waits)
{
    struct worker worker;

    ouro_lock(node);
    worker_start(&worker, make_and_wait, NULL);
    await_waiter(node);
    /* It may not be detached quite yet: then it destroys the object on its way there. */
    ouro_decref(atomic_load(&theirs));
    cr_assert(wait_for_count(&nodes_destroyed, 1));
    cr_assert_eq(byte_of(node), LOCKED | WAITERS);
    ouro_unlock(node);
    worker_join(&worker);
}

static ouro_slot slot;

Test(lock, who_waits_has_borrowed_nothing)
{
    static struct locker locker;

    cr_assert_eq(ouro_slot_store_steal(&slot, leaf_new(1)), OURO_OK);
    ouro_lock(node);
    locker_start(&locker, node);
    await_waiter(node);
    cr_assert_eq(ouro_slot_clear(&slot), OURO_OK);
    ouro_synchronize(); /* the caller keeps the lock, detached */
    cr_assert_eq(leaves_destroyed, 1);
    ouro_unlock(node);
    locker_end(&locker);
}

Test(lock, it_may_be_held_detached)
{
    static struct locker holder = {.detached = true}, locker;

    locker_start(&holder, node);
    gate_wait(&holder.locked);
    locker_start(&locker, node);
    await_waiter(node);
    ouro_world_stop();
    ouro_world_start();
    cr_assert_eq(ouro_collect(), 0);
    cr_assert_not(ouro_trylock(node));
    cr_assert_not(locker.locked.open);
    locker_end(&holder);
    locker_end(&locker);
    cr_assert_eq(byte_of(node), FREE);
}

static void wait_with_errno(void *argument)
{
    errno = EDOM;
    ouro_lock(node);
    *(int *)argument = errno;
    ouro_unlock(node);
    if (errno != EDOM)
        *(int *)argument = errno;
}

Test(lock, errno_stays)
{
    struct worker worker;
    int seen = 0;

    ouro_lock(node);
    worker_start(&worker, wait_with_errno, &seen);
    await_waiter(node);
    errno = ERANGE;
    ouro_unlock(node);
    cr_assert_eq(errno, ERANGE);
    worker_join(&worker);
    cr_assert_eq(seen, EDOM);
}

Test(lock, no_automatic_collection_while_one_is_held)
{
    ouro_gc_stats before, after;

    ouro_gc_enable();
    ouro_gc_set_threshold(100, 0);
    ouro_gc_get_stats(&before);
    ouro_lock(node);
    for (int i = 0; i < 5000; i++) {
        ouro_decref(ring_new(2));
        ouro_safepoint();
    }
    ouro_gc_get_stats(&after);
    cr_assert_eq(after.automatic, before.automatic);
    ouro_unlock(node);
    ouro_safepoint();
    ouro_gc_get_stats(&after);
    cr_assert_gt(after.automatic, before.automatic);
    ouro_gc_disable();
}

/* --- misuse -------------------------------------------------------------------------------------- */

static void lock_twice(void)
{
    ouro_lock(node);
    ouro_lock(node);
}

static void lock_twice_by_a_pair(void)
{
    ouro_lock(node);
    ouro_lock_pair(other, node);
}

static void unlock_what_is_free(void)
{
    ouro_unlock(node);
}

static void unlock_another(void)
{
    ouro_lock(other);
    ouro_unlock(node);
}

static void unlock_twice(void)
{
    ouro_lock(node);
    ouro_unlock(node);
    ouro_unlock(node);
}

static void unlock_half_a_pair(void)
{
    ouro_lock(node);
    ouro_unlock_pair(node, other);
}

static void lock_too_many(void)
{
    for (int i = 0; i <= SEAT_HELD_MAX; i++)
        ouro_lock(node_new(NULL, NULL));
}

static void try_too_many(void)
{
    for (int i = 0; i <= SEAT_HELD_MAX; i++)
        CHECK(ouro_trylock(node_new(NULL, NULL)));
}

static void lock_null(void)
{
    (ouro_lock)(NULL);
}

static void lock_half_a_pair(void)
{
    (ouro_lock_pair)(OURO_OF(node), NULL);
}

static void lock_detached(void)
{
    OURO_DETACHED ouro_lock(node);
}

static void unlock_detached(void)
{
    ouro_lock(node);
    OURO_DETACHED ouro_unlock(node);
}

static void lock_unregistered(void)
{
    ouro_thread_unregister();
    ouro_lock(node);
}

static void try_unregistered(void)
{
    ouro_thread_unregister();
    (void)!ouro_trylock(node);
}

static void unregister_with_locks(void)
{
    ouro_lock_pair(node, other);
    ouro_thread_unregister();
}

static void *end_with_a_lock(void *argument)
{
    CHECK(ouro_thread_register("careless") == OURO_OK);
    ouro_lock(node);
    return argument;
}

static void end_registered_with_a_lock(void)
{
    pthread_t thread;

    CHECK(pthread_create(&thread, NULL, end_with_a_lock, NULL) == 0);
    ouro_detach();
    pthread_join(thread, NULL);
}

static void lock_other(struct node *dying)
{
    (void)dying;
    ouro_lock(other);
}

static void try_other(struct node *dying)
{
    (void)dying;
    (void)!ouro_trylock(other);
}

static void lock_in_destroy(void)
{
    on_node_destroy = lock_other;
    ouro_decref(node);
}

static void try_in_destroy(void)
{
    on_node_destroy = try_other;
    ouro_decref(node);
}

static void wait_in_a_stopped_world(void)
{
    static struct locker locker;

    locker_start(&locker, node);
    gate_wait(&locker.locked);
    ouro_world_stop();
    ouro_lock(node);
}

static void lock_and_drop(void)
{
    ouro_lock(node);
    ouro_decref(node);
}

static void lock_garbage(void)
{
    struct node *ring = ring_new(2);

    ouro_lock(ring);
    ouro_decref(ring);
    ouro_collect();
}

static void lock_what_is_free(void)
{
    ouro_decref(node);
    ouro_lock(node);
}

static const struct {
    void (*misuse)(void);
    const char *sentence; /* a part of it */
    bool checks;          /* only check builds see it */
} misuses[] = {
    {lock_twice, "ouro_lock() of", false},
    {lock_twice, "which has it locked already: locks are not recursive", false},
    {lock_twice_by_a_pair, "ouro_lock_pair() of", false},
    {unlock_what_is_free, "ouro_unlock() of", false},
    {unlock_what_is_free, "which has not locked it", false},
    {unlock_another, "which has not locked it", false},
    {unlock_twice, "which has not locked it", false},
    {unlock_half_a_pair, "ouro_unlock_pair() of", false},
    {lock_too_many, "which holds 64 locks: unlock one before you lock more", false},
    {try_too_many, "ouro_trylock() by the thread \"test\", which holds 64 locks", false},
    {lock_null, "ouro_lock() of NULL: test the pointer first", false},
    {lock_half_a_pair, "ouro_lock_pair() of NULL", false},
    {lock_detached, "ouro_lock() by the thread \"test\" while it is detached", false},
    {unlock_detached, "ouro_unlock() by the thread \"test\" while it is detached", false},
    {lock_unregistered, "ouro_lock() by a thread that is not registered", false},
    {try_unregistered, "ouro_trylock() by a thread that is not registered", false},
    {unregister_with_locks, "which holds 2 locks, the latest that of the object at", false},
    {end_registered_with_a_lock, "by the thread \"careless\", which holds 1 locks", false},
    {lock_in_destroy, "ouro_lock() in a type's destroy: it takes no lock", false},
    {try_in_destroy, "ouro_trylock() in a type's destroy", false},
    {wait_in_a_stopped_world, "which has stopped the world, and another thread has it", false},
    {lock_and_drop, "an object of type \"node\" at", true},
    {lock_and_drop, "is destroyed while it is locked: keep a reference until it is unlocked", true},
    {lock_garbage, "is destroyed while it is locked", true},
    {lock_what_is_free, "an object that has been freed", true},
};

Test(lock, misuse_is_told)
{
    char text[1000];

    for (size_t i = 0; i < sizeof misuses / sizeof *misuses; i++) {
        if (misuses[i].checks && !CHECKING)
            continue;
        if (misuses[i].misuse == lock_what_is_free && UNDER_ASAN) /* which is faster */
            continue;
        cr_assert(aborts(misuses[i].misuse, text, sizeof text), "%s: %s", misuses[i].sentence,
                  text);
        cr_assert_not_null(strstr(text, misuses[i].sentence), "%s, not: %s", misuses[i].sentence,
                           text);
    }
}

/* --- fork ---------------------------------------------------------------------------------------- */

static struct locker holder = {.detached = true}, waiter, second;

/* In the child, where only this thread is, in a world that it has stopped. */
static void be_the_child(void)
{
    lock_fork_child();
    CHECK(byte_of(node) == (LOCKED | WAITERS));
    CHECK(!ouro_trylock(node));
    lock_abandon(seat_by_id(holder.seat));
    CHECK(byte_of(node) == FREE);
    CHECK(seat_by_id(holder.seat)->held_count == 0);
    OURO_LOCKED(node) CHECK(byte_of(node) == LOCKED);
    /* The one that this thread holds, with somebody waiting who is not here. */
    CHECK(byte_of(other) == (LOCKED | WAITERS));
    ouro_unlock(other);
    CHECK(byte_of(other) == FREE);
    OURO_LOCKED_PAIR(node, other);
    CHECK(seat_self->held_count == 0);
}

Test(lock, fork)
{
    int status = -1;

    locker_start(&holder, node);
    gate_wait(&holder.locked);
    ouro_lock(other);
    locker_start(&waiter, node);
    locker_start(&second, other);
    await_waiter(node);
    await_waiter(other);

    ouro_world_stop();
    lock_fork_prepare();
    pid_t child = fork();
    if (child == 0) {
        be_the_child();
        _exit(0);
    }
    lock_fork_parent();
    ouro_world_start();
    cr_assert_gt(child, 0);
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert_eq(status, 0);

    /* In the parent everybody gets what he waits for. */
    cr_assert_eq(byte_of(node), LOCKED | WAITERS);
    ouro_unlock(other);
    locker_end(&holder);
    locker_end(&waiter);
    locker_end(&second);
    cr_assert(byte_of(node) == FREE && byte_of(other) == FREE);
}
