/*
 * test_deep.c - deep collections in slices: what they find, what is left if they are ended in the middle, how they come by themselves, threads
 * and processes. What the program may do between two slices: test_deep_changes.c.
 */

#include "deep.h"

#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

TestSuite(deep, .init = begin_deep, .fini = leave, .timeout = 120);

/* --- what it finds -------------------------------------------------------------------------------------- */

Test(deep, a_ring_is_found_in_slices_while_the_program_runs)
{
    enum { LENGTH = 20000, LIMIT = 1000 };
    struct node *ring = ring_new(LENGTH), *kept = NULL;

    settle();
    ouro_decref(ring);
    while (slice(LIMIT)) {
        cr_assert_leq(sum.most, LIMIT + BEYOND);
        cr_assert_eq(sum.found, 0);
        ouro_decref(chain_new(30));
        kept = node_new(kept, NULL);
        make_candidate(kept);
    }
    cr_assert_geq(sum.slices, 3 * LENGTH / LIMIT, "%zu", sum.slices);
    cr_assert_eq(sum.found, LENGTH);
    cr_assert_eq(live_objects(), sum.slices - 1);
    cr_assert_eq(length_of(kept), sum.slices - 1);
    check_nothing_left();
    ouro_decref(kept);
}

Test(deep, each_slice_keeps_to_its_limit)
{
    static const size_t limits[] = {1, 7, 100, 3000};

    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        struct node *tree = tree_new(9), *ring = ring_new(limits[i]);

        settle();
        make_candidate(tree);
        make_candidate(tree->left->right);
        ouro_decref(ring);
        finish(limits[i]);
        cr_assert_leq(sum.most, limits[i] + BEYOND);
        cr_assert_eq(sum.found, limits[i]);
        check_nothing_left();
        ouro_decref(tree);
    }
}

Test(deep, what_lives_survives)
{
    struct node *tree = tree_new(11);

    settle();
    candidates_in(tree);
    forget();
    finish(100);
    cr_assert_eq(sum.found, 0);
    check_nothing_left();
    cr_assert_eq(live_objects(), ((size_t)2 << 11) - 1);
    cr_assert_not(has_bit(page_candidates(page_of(tree)), tree));
    forget();
    cr_assert_not(slice(100), "there is nothing left to be looked at");
    cr_assert_leq(sum.most, 10);
    ouro_decref(tree);
}

/* --- ended in the middle ------------------------------------------------------------------------------- */

static void by_deep(void)
{
    ouro_collect_kind(OURO_GC_DEEP);
}

static void by_full(void)
{
    ouro_collect_kind(OURO_GC_FULL);
}

static void by_freezing(void)
{
    ouro_freeze(0);
    check_nothing_left();
    ouro_unfreeze();
}

static void by_unfreezing(void)
{
    ouro_unfreeze();
}

static void by_deep_end(void)
{
    struct seat *self = seat_attached_self;

    collect_claim_wait(self);
    deep_end(self);
    collect_claim_release();
}

/* After `count` slices; false: it was over before that. */
static bool ended_after(size_t count, void (*end)(void))
{
    struct node *tree = tree_new(6), *ring = ring_new(RING);

    settle();
    candidates_in(tree);
    ouro_decref(ring);
    bool in_time = count == 0 || slices(count, STEP);
    end();
    check_nothing_left();
    cr_assert_eq(live_objects(), 127 + (sum.found == RING ? 0 : RING));
    finish(STEP);
    cr_assert_eq(sum.found, RING, "ended after %zu slices", count);
    check_nothing_left();
    ouro_decref(tree);
    return in_time;
}

Test(deep, ended_in_each_phase)
{
    static void (*const ends[])(void) = {by_deep, by_full, by_freezing, by_unfreezing, by_deep_end};

    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t count = 0;

        while (ended_after(count, ends[i]))
            count++;
        cr_assert_gt(count, 10);
    }
}

Test(deep, the_number_of_frozen_objects_does_not_end_it)
{
    struct node *ring = ring_new(100);

    settle();
    ouro_decref(ring);
    cr_assert(slices(3, 10));
    cr_assert_eq(ouro_frozen_count(), 0);
    cr_assert(deep_is_under_way());
    finish(10);
    cr_assert_eq(sum.found, 100);
}

/* What an old one has cut waits for it, and it was ended before it came there. */
Test(deep, ended_before_all_cut_ones_are_taken)
{
    enum { RINGS = 5, LENGTH = PAGE_NODES };
    struct node *rings[RINGS];

    for (int i = 0; i < RINGS; i++)
        rings[i] = ring_new(LENGTH);
    settle();
    for (int i = 0; i < RINGS; i++)
        ouro_decref(rings[i]);
    ouro_collect_kind(OURO_GC_OLD);
    cr_assert_eq(sets_cut_count(), RINGS);
    cr_assert(slice(1));
    ouro_unfreeze();
    cr_assert_not(deep_is_under_way());
    cr_assert_eq(sets_cut_count(), RINGS - 1);
    finish(1000);
    cr_assert_eq(sets_cut_count(), 0);
    cr_assert_eq(sum.found, (size_t)RINGS * LENGTH);
    check_nothing_left();
}

/* --- requests in the middle -------------------------------------------------------------------------------- */

Test(deep, an_old_one_is_a_slice)
{
    struct node *old = ring_new(RING);
    size_t count = 0;

    collect_kind(OURO_GC_OLD);
    settle();
    ouro_decref(old);
    cr_assert(slice(STEP));
    set_limit(STEP);
    for (; deep_is_under_way(); count++) {
        cr_assert_lt(count, 100);
        ouro_collect_kind(OURO_GC_OLD);
    }
    cr_assert_gt(count, 3);
    cr_assert_eq(sum.slices, count + 1);
    cr_assert_eq(sum.found, RING);
    collect_kind(OURO_GC_OLD);
    collect_set_limits(NULL);
    check_nothing_left();
}

Test(deep, steps_bring_it_to_its_end)
{
    enum { LENGTH = 5000 };
    struct node *old = ring_new(LENGTH), *tree = tree_new(5);
    size_t steps = 0;

    settle();
    ouro_decref(old);
    make_candidate(tree);
    cr_assert_eq(ouro_gc_set_pause_budget(1), OURO_OK);
    while (ouro_collect_step(0)) {
        steps++;
        cr_assert_lt(steps, 1000);
    }
    cr_assert_gt(steps, 10);
    cr_assert_eq(sum.found, LENGTH);
    cr_assert_not(deep_is_under_way());
    check_nothing_left();
    ouro_decref(tree);
}

static ouro_gc_phase when;

static void freeze_at(const ouro_gc_info *info)
{
    if (info->kind == OURO_GC_DEEP && info->phase == when) {
        ouro_freeze(0);
        CHECK(!deep_is_under_way());
        ouro_unfreeze();
    }
}

Test(deep, callbacks_freeze)
{
    for (when = OURO_GC_START; when <= OURO_GC_STOP; when++) {
        struct node *old = ring_new(RING), *tree = tree_new(4);

        settle();
        make_candidate(tree);
        ouro_decref(old);
        in_callback = freeze_at;
        for (int i = 0; i < 10; i++)
            slice(STEP);
        in_callback = NULL;
        by_deep_end();
        check_nothing_left();
        finish(STEP);
        cr_assert_eq(sum.found, RING);
        cr_assert_eq(live_objects(), 31);
        ouro_decref(tree);
    }
}

/* --- by itself --------------------------------------------------------------------------------------------- */

/* Growth reminds this thread, and again if the system has made a stop so long that its rest was not over by then. */
static void run_until_slices(size_t more)
{
    double end = seconds() + 90;
    size_t begun = sum.slices;

    do {
        ouro_decref(chain_new(4000));
        for (int i = 0; deep_is_under_way() && sum.slices - begun < more && i < 1000; i++)
            ouro_safepoint();
    } while (deep_is_under_way() && sum.slices - begun < more && seconds() < end);
    CHECK(!deep_is_under_way() || sum.slices - begun >= more);
}

static void run_until_over(void)
{
    run_until_slices(SIZE_MAX);
}

enum { LONG = SCALE_MEMORY(500000, 50000) };

static size_t most_looked_at(ouro_gc_policy policy, size_t length)
{
    struct node *chain = chain_new(length);

    settle();
    for (struct node *node = chain; node; node = node->left)
        make_candidate(node);
    forget();
    cr_assert_eq(ouro_gc_set_policy(policy), OURO_OK);
    slice(500);
    ouro_gc_enable();
    run_until_over();
    ouro_gc_disable();
    cr_assert_eq(sum.found, 0);
    check_nothing_left();
    cr_assert_eq(live_objects(), length);
    ouro_decref(chain);
    return sum.most;
}

Test(deep, automatic_balanced)
{
    /* Each of them is looked at three times, and its two references twice; by time, so how many in one depends on the machine. */
    cr_assert_lt(most_looked_at(OURO_GC_BALANCED, LONG), 5 * LONG);
}

Test(deep, automatic_low_pause)
{
    cr_assert_lt(most_looked_at(OURO_GC_LOW_PAUSE, LONG), 5 * LONG);
}

/* The policy changes in the middle: it is given up for one that has no limit. */
Test(deep, automatic_throughput)
{
    cr_assert_geq(most_looked_at(OURO_GC_THROUGHPUT, LONG), LONG);
}

/* Disabled in the middle: it waits, and goes on. */
Test(deep, disabled_in_the_middle)
{
    struct node *old = ring_new(20000);

    settle();
    ouro_decref(old);
    cr_assert_eq(ouro_gc_set_pause_budget(1), OURO_OK);
    cr_assert(slice(500));
    ouro_gc_enable();
    run_until_slices(3);
    cr_assert(deep_is_under_way());
    ouro_gc_disable();
    ouro_safepoint();
    size_t before = sum.slices;
    for (int i = 0; i < 1000; i++)
        ouro_safepoint();
    cr_assert_eq(sum.slices, before);
    cr_assert_not(load_relaxed(&seat_attached_self->word) & SEAT_COLLECT,
                  "each safepoint would look in vain");
    cr_assert(deep_is_under_way());
    sleep_ms(20);
    ouro_gc_enable();
    run_until_over();
    ouro_gc_disable();
    cr_assert_eq(sum.found, 20000);
    check_nothing_left();
}

Test(deep, memory_is_short_in_the_middle)
{
    struct node *old = ring_new(20000), *later = ring_new(1000);

    settle();
    ouro_decref(old);
    cr_assert_eq(ouro_gc_set_pause_budget(1), OURO_OK);
    cr_assert(slices(60, 500));
    ouro_decref(later);
    cr_assert_eq(ouro_gc_set_soft_limit(1024, NULL, NULL), OURO_OK);
    ouro_gc_enable();
    ouro_decref(chain_new(4000));
    ouro_safepoint();
    ouro_gc_disable();
    cr_assert_eq(sum.found, 21000);
    cr_assert_not(deep_is_under_way());
    check_nothing_left();
    cr_assert_eq(ouro_gc_set_soft_limit(0, NULL, NULL), OURO_OK);
}

/* --- threads and processes ----------------------------------------------------------------------------------- */

static void some_slices(void *argument)
{
    slices(*(const size_t *)argument, STEP);
}

/* Who has made the last slice is gone; another one goes on. */
Test(deep, threads_take_turns)
{
    size_t count = 2;
    struct node *old = ring_new(RING);

    settle();
    ouro_decref(old);
    do
        run_in_thread(some_slices, &count);
    while (deep_is_under_way());
    cr_assert_gt(sum.slices, 4);
    cr_assert_eq(sum.found, RING);
    check_nothing_left();
}

static void expect_success(pid_t pid)
{
    double end = seconds() + 90;
    int status = 0;
    pid_t ended = 0;

    CHECK(pid > 0);
    while ((ended = waitpid(pid, &status, WNOHANG)) == 0 && seconds() < end)
        usleep(500);
    if (ended == 0)
        kill(pid, SIGKILL);
    CHECK(ended == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

Test(deep, fork_in_the_middle)
{
    struct node *old = ring_new(RING), *tree = tree_new(5);

    settle();
    candidates_in(tree);
    ouro_decref(old);
    while (slice(STEP)) {
        CHECK(ouro_fork_prepare() == OURO_OK);
        pid_t pid = fork();

        if (pid == 0) {
            ouro_fork_child();
            finish(STEP);
            check_nothing_left();
            _exit(sum.found == RING && live_objects() == 63 ? 0 : 1);
        }
        ouro_fork_parent();
        expect_success(pid);
    }
    cr_assert_eq(sum.found, RING);
    ouro_decref(tree);
}

enum { SLOTS = 16, OWN = 40 };

static ouro_slot shared[SLOTS];
static atomic_bool enough;

static void link_at_random(uint64_t *chance, struct node **own)
{
    struct node *from = own[random_below(chance, OWN)], *to = own[random_below(chance, OWN)];

    if (!from || !to)
        return;
    if (random_below(chance, 2))
        node_set_left(from, ouro_incref(to));
    else
        node_set_right(from, ouro_incref(to));
}

static void change_at_random(uint64_t *chance, struct node **own)
{
    uint32_t i = random_below(chance, OWN), s = random_below(chance, SLOTS);

    switch (random_below(chance, 4)) {
    case 0:
        ouro_decref_or_null(own[i]);
        own[i] = node_new(NULL, NULL);
        break;
    case 1:
        ouro_decref_or_null((struct node *)ouro_slot_load(&shared[s]));
        break;
    case 2:
        CHECK((ouro_slot_store)(&shared[s], own[i] ? OURO_OF(own[i]) : NULL) == OURO_OK);
        break;
    default:
        link_at_random(chance, own);
    }
}

/* Each thread links what it has made; with what it finds in the slots it only counts. */
static void mutate(void *argument)
{
    uint64_t chance = (uintptr_t)argument;
    struct node *own[OWN] = {NULL};

    while (!atomic_load(&enough)) {
        change_at_random(&chance, own);
        ouro_safepoint();
    }
    for (int i = 0; i < OWN; i++)
        ouro_decref_or_null(own[i]);
}

Test(deep, threads_change_things_meanwhile)
{
    struct worker workers[2];
    double end = seconds() + 0.5;

    for (uintptr_t i = 0; i < 2; i++)
        worker_start(&workers[i], mutate, (void *)(i + 1)); /* NOLINT(performance-no-int-to-ptr) */
    for (size_t i = 0; seconds() < end; i++) {
        slice(i % 7 * 20 + 1);
        if (i % 5 == 0)
            young();
        ouro_safepoint();
    }
    atomic_store(&enough, true);
    for (int i = 0; i < 2; i++)
        worker_join(&workers[i]);
    for (int i = 0; i < SLOTS; i++)
        CHECK((ouro_slot_store)(&shared[i], NULL) == OURO_OK);
    for (int round = 0; round < 2; round++) {
        ouro_synchronize();
        finish(100000); /* what was noted */
        do
            young();
        while (sets_has_new());
    }
    finish(100000);
    cr_assert_eq(live_objects(), 0, "%zu", live_objects());
    check_nothing_left();
}
