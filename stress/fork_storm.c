/*
 * fork_storm.c - stress: threads do everything while one of them forks every few milliseconds.
 *
 * Shows that parent and child go on whatever the others were doing: each child looks at all objects, destroys what the
 * vanished threads had begun to destroy and what waited for a grace period, collects, registers, lets go of all that it can
 * reach, and shuts down.  It has to end by itself within a time, and its figures have to agree with what its memory says.
 *
 * What it finds is what was made less what was destroyed; a canary tells who is destroyed twice.  ThreadSanitizer watches no
 * child, and falls over threads that one starts: under it no child does.
 */
#include "stress.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef __has_feature
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#undef SANITIZED
#define SANITIZED 1
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

enum { SLOTS = 8, CHILD_SECONDS = 20, CHAIN = 3000 };

#define CANARY UINT64_C(0xF02CF02CF02CF02C)

struct cell {
    ouro_header ouro;
    struct cell *left, *right;
    uint64_t canary;
};

static const ouro_type *cell_type;
static ouro_slot slots[SLOTS];
static _Atomic(struct cell *) handed[SLOTS];
static counter made, destroyed, forks, forks_by_visitors;
static atomic_bool over;

static void cell_destroy(void *self)
{
    struct cell *cell = self;

    CHECK(cell->canary == CANARY, "destroy was called for what is no cell, or twice");
    cell->canary = 0;
    count_up(&destroyed);
}

static struct cell *cell_new(struct cell *left, struct cell *right)
{
    struct cell *cell = ouro_new(cell_type);

    CHECK(cell, "memory is out");
    count_up(&made);
    cell->left = left;
    cell->right = right;
    cell->canary = CANARY;
    return cell;
}

static void cell_drop(struct cell *cell)
{
    CHECK(cell->canary == CANARY, "a cell was destroyed while it was held");
    ouro_decref(cell);
}

static struct cell *chain_new(unsigned length)
{
    struct cell *chain = NULL;

    while (length-- > 0)
        chain = cell_new(chain, NULL);
    return chain;
}

/* --- what the threads do ----------------------------------------------------------------------------- */

static void make_garbage(struct random *random)
{
    struct cell *last = cell_new(NULL, NULL), *first = last;

    for (unsigned i = random_below(random, 20); i > 0; i--)
        first = cell_new(first, NULL);
    last->left = ouro_incref(first);
    cell_drop(first);
}

static void swap_slot(struct random *random)
{
    struct cell *cell = cell_new(NULL, chain_new(random_below(random, 4)));
    ouro_slot *slot = &slots[random_below(random, SLOTS)];
    const struct cell *borrowed = ouro_slot_borrow(slot);

    CHECK(!borrowed || borrowed->canary == CANARY, "what is in a slot was destroyed");
    CHECK(ouro_slot_store_steal(slot, cell) == OURO_OK, "memory is out");
}

static void hand_over(struct random *random)
{
    struct cell *cell = cell_new(NULL, NULL);
    struct cell *old =
        atomic_exchange_explicit(&handed[random_below(random, SLOTS)], cell, memory_order_acq_rel);

    if (old)
        cell_drop(old); /* of another thread, mostly */
}

static void act(struct random *random)
{
    ouro_gc_stats stats;

    switch (random_below(random, 40)) {
    case 0:
        cell_drop(chain_new(CHAIN));
        break;
    case 1:
        ouro_collect();
        break;
    case 2:
        ouro_synchronize();
        break;
    case 3:
        ouro_gc_set_threshold(random_below(random, 2) ? 2000 : 500, 25);
        ouro_gc_get_stats(&stats);
        break;
    case 4:
        OURO_DETACHED
        {
            sleep_us(random_below(random, 300));
        }
        break;
    case 5:
    case 6:
    case 7:
    case 8:
    case 9:
        make_garbage(random);
        break;
    default:
        if (one_in(random, 2))
            swap_slot(random);
        else
            hand_over(random);
    }
    ouro_safepoint();
}

/* What may be called without a seat takes a mutex that a child must not find locked. */
static void be_a_stranger(struct random *random)
{
    ouro_gc_stats stats;

    for (unsigned i = random_below(random, 2000); i > 0; i--) {
        ouro_gc_set_threshold(2000, 25);
        ouro_gc_get_stats(&stats);
    }
}

static void worker(unsigned index, struct random *random, void *argument)
{
    (void)index;
    (void)argument;
    while (!atomic_load_explicit(&over, memory_order_relaxed)) {
        enter("worker");
        for (unsigned i = random_below(random, 500); i > 0; i--)
            act(random);
        leave(random);
        if (ouro_thread_state() != OURO_STATE_UNREGISTERED) {
            ouro_attach();
            ouro_thread_unregister();
        }
        be_a_stranger(random);
    }
}

/* --- children ---------------------------------------------------------------------------------------- */

static bool look(ouro_object *o, void *argument)
{
    const struct cell *cell = (struct cell *)(void *)o;

    CHECK(cell->canary == CANARY, "in a child: a destroyed cell is found");
    ++*(size_t *)argument;
    return true;
}

/* All that was made and not destroyed is there, whoever was doing what with it. */
static void count_cells(const char *when)
{
    ouro_memory memory;
    size_t walked = 0;

    ouro_synchronize(); /* what waits in the own inbox, too */
    ouro_each_object(look, &walked);
    ouro_memory_stats(&memory);
    CHECK(walked == memory.objects, "in a child, %s: %zu objects are found and %zu counted", when,
          walked, memory.objects);
    CHECK(walked == count_of(&made) - count_of(&destroyed),
          "in a child, %s: %zu objects are found; %llu were made, %llu destroyed", when, walked,
          (unsigned long long)count_of(&made), (unsigned long long)count_of(&destroyed));
}

static void live(struct random *random)
{
    uint64_t end = count_of(&made) + (one_in(random, 8) ? 5000 : 100);

    while (count_of(&made) < end)
        act(random);
}

static void *live_in_thread(void *argument)
{
    enter("of the child");
    live(argument);
    ouro_thread_unregister();
    return NULL;
}

static void fork_again(void)
{
    pid_t pid = fork();
    int status;

    CHECK(pid >= 0, "a child can't fork");
    if (pid == 0) {
        ouro_collect();
        count_cells("of a child");
        _exit(0);
    }
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0,
          "a child of a child has failed with status %d", status);
}

static _Noreturn void child(struct random *random, bool visitor)
{
    pthread_t thread;
    ouro_memory memory;

    alarm(CHILD_SECONDS); /* stress_begin() has a handler that says that it hangs */
    if (visitor)
        enter("child");
    CHECK(ouro_thread_state() == OURO_STATE_ATTACHED, "the state after a fork is another");
    count_cells("at first");
    live(random);
    if (!SANITIZED && one_in(random, 2)) { /* see docs/internals/fork.md */
        CHECK(pthread_create(&thread, NULL, live_in_thread, random) == 0, "no thread in a child");
        OURO_DETACHED
        {
            pthread_join(thread, NULL);
        }
    }
    if (one_in(random, 4))
        fork_again();
    for (unsigned i = 0; i < SLOTS; i++) {
        struct cell *cell = atomic_load(&handed[i]);

        CHECK((ouro_slot_store)(&slots[i], NULL) == OURO_OK, "memory is out");
        if (cell)
            cell_drop(cell);
    }
    CHECK(ouro_shutdown() == OURO_OK, "somebody is registered in a child");
    ouro_memory_stats(&memory);
    CHECK(memory.threads == 1, "%zu threads are registered in a child", memory.threads);
    count_cells("at last");
    CHECK(memory.objects < 64 * (CHAIN + 32u), "in a child %zu objects leak", memory.objects);
    _exit(0);
}

static void fork_one(struct random *random, bool visitor)
{
    uint64_t end = now_ns() + (CHILD_SECONDS + 5) * UINT64_C(1000000000);
    int status = 0;
    pid_t pid = fork(), ended = 0;

    CHECK(pid >= 0, "a fork has failed: %s", strerror(errno));
    if (pid == 0)
        child(random, visitor);
    count_up(visitor ? &forks_by_visitors : &forks);
    while (ended == 0 && now_ns() < end) {
        ended = waitpid(pid, &status, WNOHANG);
        if (ended == 0) {
            if (visitor)
                sleep_us(200);
            else
                OURO_DETACHED sleep_us(200);
        }
    }
    if (ended == 0)
        kill(pid, SIGKILL);
    CHECK(ended == pid, "a child hangs");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child ends with status %d", status);
}

static void forker(unsigned index, struct random *random, void *argument)
{
    (void)index;
    (void)argument;
    while (!time_is_up()) {
        fork_one(random, true);
        enter("forker");
        for (unsigned i = 0; i < 5 && !time_is_up(); i++) {
            fork_one(random, false);
            for (unsigned j = random_below(random, 20); j > 0; j--)
                act(random);
        }
        ouro_thread_unregister();
    }
    atomic_store(&over, true);
}

static void thread_body_of(unsigned index, struct random *random, void *argument)
{
    if (index == 0)
        forker(index, random, argument);
    else
        worker(index, random, argument);
}

static bool is_shown(void)
{
    return count_of(&forks) > 0 && count_of(&forks_by_visitors) > 0 &&
           event_total(EVENT_COLLECT) > 0 && event_total(EVENT_PARK) > 0 &&
           event_total(EVENT_GRACE) > 0 && (SANITIZED || event_total(EVENT_DEATH_POLL) > 0);
}

int main(int argc, char **argv)
{
    static const uint16_t fields[] = {offsetof(struct cell, left), offsetof(struct cell, right)};
    ouro_type_spec spec = {.name = "cell",
                           .size = sizeof(struct cell),
                           .fields = fields,
                           .field_count = 2,
                           .destroy = cell_destroy};
    ouro_memory memory;

    stress_begin(argc, argv, "fork_storm", 4, 6);
    stress_shows(is_shown);
    CHECK(ouro_fork_install() == OURO_OK, "forks can't be prepared");
    CHECK(ouro_type_register(&spec, &cell_type) == OURO_OK, "a type can't be registered");
    run_threads(0, stress.threads, 1, thread_body_of, NULL);

    enter("main");
    for (unsigned i = 0; i < SLOTS; i++) {
        CHECK((ouro_slot_store)(&slots[i], NULL) == OURO_OK, "memory is out");
        if (atomic_load(&handed[i]))
            cell_drop(atomic_load(&handed[i]));
    }
    CHECK(ouro_shutdown() == OURO_OK, "somebody is still registered");
    ouro_memory_stats(&memory);
    CHECK(memory.objects == 0, "%zu objects are left", memory.objects);
    CHECK(count_of(&made) == count_of(&destroyed), "%llu were made, %llu destroyed",
          (unsigned long long)count_of(&made), (unsigned long long)count_of(&destroyed));
    stress_value("forks", count_of(&forks));
    stress_value("by_visitors", count_of(&forks_by_visitors));
    stress_value("made", count_of(&made));
    CHECK(count_of(&forks) > 0 && count_of(&forks_by_visitors) > 0, "nobody has forked");
    stress_event(EVENT_COLLECT, 1);
    stress_event(EVENT_PARK, 1);
    stress_event(EVENT_GRACE, 1);
    stress_event(EVENT_DEATH_POLL, SANITIZED ? 0 : 1);
    stress_end();
    return 0;
}
