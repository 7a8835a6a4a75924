/*
 * test_fork.c - fork in a program with threads: from every state, while others do everything, and what the child
 * finds of what the vanished threads left.
 *
 * A child says by its status whether all was well. Its parent waits with a limit, so that a child that hangs fails.
 */

#include "support.h"

#include "base/fault.h"
#include "thread/seat.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

TestSuite(fork, .init = enter, .fini = leave, .timeout = 300);

#define IN_CHILD(condition) ((condition) ? (void)0 : child_failed(__LINE__, #condition))

static _Noreturn void child_failed(int line, const char *condition)
{
    fprintf(stderr, "test_fork.c:%d: in the child: `%s` is false\n", line, condition);
    _exit(1);
}

enum { CHILD_SECONDS = 60, ROUNDS = SCALE_MEMORY(6, 3) };

/* Waits detached; the time is limited. */
static void expect_success(pid_t pid)
{
    double end = seconds() + CHILD_SECONDS;
    ouro_state before = ouro_thread_state();
    int status = 0;
    pid_t ended = 0;

    CHECK(pid > 0);
    if (before == OURO_STATE_ATTACHED)
        ouro_detach();
    while (ended == 0 && seconds() < end) {
        ended = waitpid(pid, &status, WNOHANG);
        if (ended == 0)
            usleep(500);
    }
    if (ended == 0) {
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        fprintf(stderr, "the child hangs\n");
    }
    CHECK(ended == pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    if (before == OURO_STATE_ATTACHED)
        ouro_attach();
}

static void install(void)
{
    CHECK(ouro_fork_install() == OURO_OK);
}

/* --- what a child has to be able to do -------------------------------------------------------------------- */

static bool count_object(ouro_object *o, void *argument)
{
    (void)o;
    ++*(size_t *)argument;
    return true;
}

static void make_and_drop(void *argument)
{
    struct node *tree = tree_new(8);

    (void)argument;
    IN_CHILD(ouro_refcount(tree) == 1);
    ouro_decref(tree);
}

/* ThreadSanitizer watches no child of a process with threads, and falls over threads that such a child starts. AddressSanitizer of
 * clang 14 does not lock its allocator around a fork: if a vanished thread had a lock of it, the first calloc() of a new thread,
 * on the way to its own start, waits for ever. docs/internals/fork.md */
static void run_elsewhere(void (*run)(void *))
{
    if (UNDER_TSAN || UNDER_ASAN)
        run(NULL);
    else
        run_in_thread(run, NULL);
}

static void grandchild(void)
{
    pid_t pid = fork();

    if (pid == 0) {
        make_and_drop(NULL);
        IN_CHILD(ouro_shutdown() == OURO_OK);
        _exit(0);
    }
    expect_success(pid);
}

static void live_attached(void)
{
    enum { COUNT = SCALE(100000, 20000) };
    ouro_memory before, after;
    size_t walked = 0;

    ouro_synchronize();
    ouro_collect();
    ouro_trim();
    ouro_memory_stats(&before);
    IN_CHILD(before.threads == 1);
    IN_CHILD(ouro_each_object(count_object, &walked) == before.objects);
    IN_CHILD(walked == before.objects);

    struct node *chain = chain_new(COUNT);
    ouro_memory_stats(&after);
    IN_CHILD(after.objects == before.objects + COUNT);
    ouro_decref(chain);
    for (int i = 0; i < 10; i++) {
        struct node *ring = ring_new(100);
        ouro_decref(ring);
    }
    IN_CHILD(ouro_collect() == 1000);
    for (int i = 0; i < 3; i++)
        run_elsewhere(make_and_drop);
    ouro_memory_stats(&after);
    IN_CHILD(after.objects == before.objects);
    IN_CHILD(after.threads == 1);
    /* The threads sat in seats of vanished ones, if there were any besides the reserved seat. */
    IN_CHILD(UNDER_TSAN || UNDER_ASAN || after.seats == (before.seats > 3 ? before.seats : 3));
}

static bool shut_down;

/* All of it, in the state in which the thread has forked. */
static void live_on(ouro_state before)
{
    IN_CHILD(ouro_thread_state() == before);
    if (before == OURO_STATE_UNREGISTERED) {
        ouro_status status = ouro_thread_register("child");

        if (shut_down) {
            IN_CHILD(status == OURO_SHUTDOWN);
            return;
        }
        IN_CHILD(status == OURO_OK);
    }
    ouro_attach();
    live_attached();
    grandchild();
    live_attached();
    IN_CHILD(ouro_shutdown() == OURO_OK);
}

static void fork_once(void)
{
    ouro_state before = ouro_thread_state();
    pid_t pid = fork();

    if (pid == 0) {
        live_on(before);
        _exit(0);
    }
    CHECK(ouro_thread_state() == before);
    expect_success(pid);
}

/* --- threads that are in the way -------------------------------------------------------------------------- */

static atomic_bool enough;
static atomic_size_t running;
static ouro_slot slot;

static void be_busy(void *argument)
{
    struct node *tree = tree_new(4);

    (void)argument;
    atomic_fetch_add(&running, 1);
    while (!atomic_load(&enough)) {
        struct node *chain = chain_new(50), *ring = ring_new(5);

        CHECK(ouro_slot_store_steal(&slot, OURO_OF(chain)) == OURO_OK);
        ouro_decref(ring);
        ouro_safepoint();
    }
    ouro_decref(tree);
}

static void be_detached(void *argument)
{
    (void)argument;
    ouro_detach();
    atomic_fetch_add(&running, 1);
    while (!atomic_load(&enough))
        usleep(100);
}

/* In a stop, and a fork is one, mostly found waiting. */
static void attach_and_detach(void *argument)
{
    (void)argument;
    atomic_fetch_add(&running, 1);
    while (!atomic_load(&enough)) {
        ouro_detach();
        ouro_attach();
    }
}

static void synchronize(void *argument)
{
    (void)argument;
    atomic_fetch_add(&running, 1);
    while (!atomic_load(&enough))
        ouro_synchronize();
}

static void keep_collecting(void *argument)
{
    (void)argument;
    atomic_fetch_add(&running, 1);
    while (!atomic_load(&enough)) {
        struct node *ring = ring_new(20);

        ouro_decref(ring);
        ouro_collect();
    }
}

static void come_and_go(void *argument)
{
    (void)argument;
    atomic_fetch_add(&running, 1);
    while (!atomic_load(&enough)) {
        CHECK(ouro_thread_register("guest") == OURO_OK);
        ouro_gc_set_threshold(2000, 25);
        ouro_thread_unregister();
    }
}

static void change_settings(void *argument)
{
    ouro_gc_stats stats;

    (void)argument;
    atomic_fetch_add(&running, 1);
    while (!atomic_load(&enough)) {
        ouro_gc_set_threshold(2000, 25);
        ouro_gc_get_stats(&stats);
    }
}

enum { CROWD = 7 };
static struct worker crowd[CROWD];

static void crowd_start(void)
{
    static void (*const everything[CROWD])(void *) = {
        be_busy,         be_detached, attach_and_detach, synchronize,
        keep_collecting, come_and_go, change_settings,
    };

    for (int i = 0; i < CROWD; i++) {
        if (everything[i] == come_and_go || everything[i] == change_settings)
            worker_start_bare(&crowd[i], everything[i], NULL);
        else
            worker_start(&crowd[i], everything[i], NULL);
    }
    CHECK(wait_for_count(&running, CROWD));
}

static void crowd_end(void)
{
    atomic_store(&enough, true);
    for (int i = 0; i < CROWD; i++)
        worker_join(&crowd[i]);
    if (ouro_thread_state() == OURO_STATE_ATTACHED) {
        CHECK((ouro_slot_store)(&slot, NULL) == OURO_OK);
        ouro_synchronize();
    }
}

/* --- every state ------------------------------------------------------------------------------------------ */

Test(fork, attached_and_alone)
{
    install();
    install();
    fork_once();
}

Test(fork, attached)
{
    install();
    crowd_start();
    for (int i = 0; i < ROUNDS; i++)
        fork_once();
    crowd_end();
}

Test(fork, detached)
{
    install();
    crowd_start();
    for (int i = 0; i < ROUNDS; i++)
        OURO_DETACHED fork_once();
    crowd_end();
}

static void fork_some(void *argument)
{
    (void)argument;
    for (int i = 0; i < ROUNDS; i++)
        fork_once();
}

Test(fork, unregistered)
{
    install();
    crowd_start();
    run_in_bare_thread(fork_some, NULL);
    crowd_end();
}

Test(fork, unregistered_after_shutdown)
{
    install();
    cr_assert_eq(ouro_shutdown(), OURO_OK);
    shut_down = true;
    run_in_bare_thread(fork_some, NULL);
    ouro_memory memory;
    ouro_memory_stats(&memory);
    cr_assert_eq(memory.threads, 1);
}

Test(fork, two_at_once)
{
    struct worker worker, bare[2];

    install();
    worker_start(&worker, fork_some, NULL);
    for (int i = 0; i < 2; i++)
        worker_start_bare(&bare[i], fork_some, NULL);
    fork_some(NULL);
    worker_join(&worker);
    for (int i = 0; i < 2; i++)
        worker_join(&bare[i]);
}

static pid_t callback_child;
static bool callback_detached;

static void fork_in_callback(const ouro_gc_info *info, void *argument)
{
    if (info->phase != *(ouro_gc_phase *)argument || callback_child >= 0)
        return;
    if (callback_detached)
        ouro_detach();
    ouro_state before = ouro_thread_state();
    callback_child = fork();
    CHECK(ouro_thread_state() == before);
    ouro_attach();
    CHECK(ouro_collect() == 0);
}

static void fork_in_collection(ouro_gc_phase phase, bool detached)
{
    callback_child = -1;
    callback_detached = detached;
    cr_assert_eq(ouro_gc_add_callback(fork_in_callback, &phase), OURO_OK);
    for (int i = 0; i < 20 && callback_child < 0;
         i++) { /* a collection of another thread takes the garbage, and forks */
        struct node *ring = ring_new(50);

        ouro_decref(ring);
        ouro_collect();
    }
    cr_assert_eq(ouro_gc_remove_callback(fork_in_callback, &phase), OURO_OK);
    if (callback_child == 0) { /* the collection has gone on here */
        live_on(OURO_STATE_ATTACHED);
        _exit(0);
    }
    expect_success(callback_child);
}

Test(fork, in_a_callback_of_the_collector)
{
    install();
    crowd[0].bare = false;
    worker_start(&crowd[0], be_busy, NULL);
    worker_start(&crowd[1], attach_and_detach, NULL);
    worker_start(&crowd[2], synchronize, NULL);
    cr_assert(wait_for_count(&running, 3));
    for (int i = 0; i < ROUNDS; i++)
        fork_in_collection(i & 1 ? OURO_GC_START : OURO_GC_STOP, (i & 2) != 0);
    atomic_store(&enough, true);
    for (int i = 0; i < 3; i++)
        worker_join(&crowd[i]);
    cr_assert_eq((ouro_slot_store)(&slot, NULL), OURO_OK);
    ouro_synchronize();
}

/* --- by hand ---------------------------------------------------------------------------------------------- */

Test(fork, prepared_by_hand)
{
    crowd_start();
    for (int i = 0; i < ROUNDS; i++) {
        cr_assert_eq(ouro_fork_prepare(), OURO_OK);
        pid_t pid = fork();
        if (pid == 0) {
            ouro_fork_child();
            IN_CHILD(ouro_fork_install() == OURO_OK);
            live_on(OURO_STATE_ATTACHED);
            _exit(0);
        }
        ouro_fork_parent();
        expect_success(pid);
    }
    crowd_end();
}

Test(fork, a_fork_that_failed)
{
    crowd_start();
    for (int i = 0; i < ROUNDS * 20; i++) {
        cr_assert_eq(ouro_fork_prepare(), OURO_OK);
        ouro_fork_parent();
        ouro_safepoint();
    }
    crowd_end();
}

static void attach_at_gate(void *argument)
{
    ouro_detach();
    atomic_fetch_add(&running, 1);
    gate_wait(argument);
    ouro_attach();
    ouro_decref(node_new(NULL, NULL));
}

/* Its seat has WAIT and STOP; in the child it is a seat like any other. */
Test(fork, a_thread_that_waits_to_attach)
{
    struct gate gate = {false};
    struct worker worker;

    worker_start(&worker, attach_at_gate, &gate);
    cr_assert(wait_for_count(&running, 1));
    cr_assert_eq(ouro_fork_prepare(), OURO_OK);
    gate_open(&gate);
    while (!(load_relaxed(&seat_by_id(2)->word) & SEAT_WAIT))
        sched_yield();
    pid_t pid = fork();
    if (pid == 0) {
        ouro_fork_child();
        IN_CHILD(ouro_fork_install() == OURO_OK);
        live_on(OURO_STATE_ATTACHED);
        _exit(0);
    }
    ouro_fork_parent();
    expect_success(pid);
    worker_join(&worker);
}

/* --- what vanished threads leave -------------------------------------------------------------------------- */

static struct gate begin, go_on, forked;

/* The first time only: the child goes on with the destruction in a world that nobody stops. No safepoint. */
static void await_stop(struct node *node)
{
    (void)node;
    if (atomic_exchange(&running, 1) == 1)
        return;
    while (!seat_stop_wanted(seat_attached_self))
        sched_yield();
}

static void destroy_much(void *argument)
{
    struct node *chain = chain_new(*(size_t *)argument);

    gate_wait(&begin);
    ouro_decref(chain);
}

/* The thread is stopped in the middle of a long destruction; the child finishes it. */
Test(fork, a_chain_that_is_being_destroyed)
{
    size_t count = SCALE_MEMORY(100000, 5000);
    struct worker worker;

    install();
    on_node_destroy = await_stop;
    worker_start(&worker, destroy_much, &count);
    gate_open(&begin);
    cr_assert(wait_for_count(&running, 1));
    pid_t pid = fork();
    if (pid == 0) {
        IN_CHILD(atomic_load(&nodes_destroyed) == count);
        IN_CHILD(ouro_collect() == 0);
        IN_CHILD(live_objects() == 0);
        live_on(OURO_STATE_ATTACHED);
        _exit(0);
    }
    expect_success(pid);
    worker_join(&worker);
    cr_assert_eq(nodes_destroyed, count);
    cr_assert_gt(event_total(EVENT_DEATH_POLL), 0, "the destruction was over before the fork");
}

static void destroy_an_array(void *argument)
{
    size_t count = *(size_t *)argument;
    struct array *array = array_new(count);

    for (size_t i = 0; i < count; i++)
        array->items[i] = OURO_OF(leaf_new(1));
    gate_wait(&begin);
    /* No safepoint from here on: the fork meets the destruction. */
    await_stop(NULL);
    ouro_decref(array);
}

/* The same, in the middle of one object. */
Test(fork, an_array_that_is_being_taken_apart)
{
    size_t count = SCALE_MEMORY(100000, 5000);
    struct worker worker;

    install();
    worker_start(&worker, destroy_an_array, &count);
    gate_open(&begin);
    cr_assert(wait_for_count(&running, 1));
    pid_t pid = fork();
    cr_assert_gt(event_total(EVENT_DEATH_POLL), 0, "the destruction was over before the fork");
    if (pid == 0) {
        IN_CHILD(atomic_load(&leaves_destroyed) == count);
        IN_CHILD(atomic_load(&arrays_destroyed) == 1);
        IN_CHILD(live_objects() == 0);
        live_on(OURO_STATE_ATTACHED);
        _exit(0);
    }
    expect_success(pid);
    worker_join(&worker);
    cr_assert_eq(leaves_destroyed, count);
}

static struct node *shared_node;

static void own_a_node(void *argument)
{
    (void)argument;
    shared_node = node_new(NULL, NULL);
    cr_assert_eq(ouro_slot_store_steal(&slot, OURO_OF(node_new(NULL, NULL))), OURO_OK);
    cr_assert_eq((ouro_slot_store)(&slot, NULL), OURO_OK);
    gate_open(&begin);
    gate_wait_attached(&go_on);
    ouro_safepoint(); /* parks, with a hint in the inbox and something retired in the open batch */
    gate_wait(&forked);
}

Test(fork, inboxes_and_retired_references_of_vanished_threads)
{
    struct worker worker;

    install();
    worker_start(&worker, own_a_node, NULL);
    gate_wait_attached(&begin);
    ouro_decref(shared_node);
    gate_open(&go_on);
    pid_t pid = fork();
    if (pid == 0) {
        IN_CHILD(atomic_load(&nodes_destroyed) >= 1); /* the inbox, at once */
        ouro_synchronize();
        IN_CHILD(atomic_load(&nodes_destroyed) == 2);
        live_on(OURO_STATE_ATTACHED);
        _exit(0);
    }
    gate_open(&forked);
    expect_success(pid);
    worker_join(&worker);
    ouro_synchronize();
    cr_assert_eq(nodes_destroyed, 2);
}

static void hold_references(void *argument)
{
    struct node *node = tree_new(4);

    (void)argument;
    gate_open(&begin);
    gate_wait_running(&go_on);
    ouro_decref(node);
}

/* What a vanished thread had in a variable is counted for ever; what hangs on that lives. */
Test(fork, references_in_variables_leak)
{
    struct worker worker;

    install();
    worker_start(&worker, hold_references, NULL);
    gate_wait(&begin);
    pid_t pid = fork();
    if (pid == 0) {
        IN_CHILD(ouro_collect() == 0);
        IN_CHILD(live_objects() == 31);
        live_on(OURO_STATE_ATTACHED);
        IN_CHILD(live_objects() == 31);
        _exit(0);
    }
    expect_success(pid);
    gate_open(&go_on);
    worker_join(&worker);
}

static void drop_for_child(void *argument)
{
    (void)argument;
    ouro_decref(shared_node);
}

/* Owners that vanished: counted down by the child, merged by proxy, and by who has the seat next. */
Test(fork, objects_of_vanished_owners)
{
    struct worker worker;

    install();
    worker_start(&worker, own_a_node, NULL);
    gate_wait_attached(&begin);
    gate_open(&go_on);
    pid_t pid = fork();
    if (pid == 0) {
        struct node *other = node_new(ouro_incref(shared_node), NULL);

        ouro_synchronize();            /* what the thread had retired is gone */
        run_elsewhere(drop_for_child); /* in the seat of the owner */
        size_t before = atomic_load(&nodes_destroyed);
        ouro_decref(other);
        ouro_safepoint();
        IN_CHILD(atomic_load(&nodes_destroyed) == before + 2);
        live_on(OURO_STATE_ATTACHED);
        _exit(0);
    }
    gate_open(&forked);
    expect_success(pid);
    worker_join(&worker);
    ouro_decref(shared_node);
    ouro_synchronize();
}

/* A frozen heap in a child: counting changes no immortal object, collections see none. */
Test(fork, frozen_before)
{
    struct node *tree = tree_new(10);

    install();
    cr_assert_eq(ouro_freeze(OURO_FREEZE_IMMORTAL), 2047);
    pid_t pid = fork();
    if (pid == 0) {
        IN_CHILD(ouro_frozen_count() == 2047);
        IN_CHILD(ouro_refcount(tree) == OURO_COUNT_IMMORTAL);
        live_on(OURO_STATE_ATTACHED);
        IN_CHILD(ouro_frozen_count() == 2047);
        _exit(0);
    }
    expect_success(pid);
    cr_assert_eq(ouro_unfreeze(), 2047);
    expect_left(2047);
}

/* --- in a finalizer ---------------------------------------------------------------------------------------- */

static atomic_int finalizer_child;
static bool in_finalizer_child;

static void end_well(void)
{
    _exit(in_finalizer_child ? 0 : 1);
}

/* The child lives on in here. When it has returned the thread is one like others: where it is the library's own it ends, and
 * with it the process. */
static void fork_in_finalizer(void *self)
{
    pid_t pid = fork();

    (void)self;
    if (pid == 0) {
        in_finalizer_child = true;
        alarm(CHILD_SECONDS);
        IN_CHILD(ouro_finalizer_get_mode() == OURO_FINALIZE_AT_SAFEPOINTS);
        make_and_drop(NULL);
        if (UNDER_TSAN) /* in a child it falls over the end of a thread, too */
            _exit(0);
        IN_CHILD(atexit(end_well) == 0); /* before the handlers of the test's framework */
        return;
    }
    atomic_store(&finalizer_child, pid);
}

static void drop_one_that_forks(void)
{
    static const ouro_type *type;

    install();
    CHECK(ouro_type_register(&(ouro_type_spec){.name = "forks",
                                               .size = sizeof(struct leaf),
                                               .finalize = fork_in_finalizer},
                             &type) == OURO_OK);
    struct leaf *leaf = ouro_new(type);
    CHECK(leaf);
    ouro_decref(leaf);
}

Test(fork, in_a_finalizer)
{
    drop_one_that_forks();
    ouro_safepoint();
    if (in_finalizer_child) {
        live_on(OURO_STATE_ATTACHED);
        _exit(0);
    }
    expect_success(atomic_load(&finalizer_child));
}

Test(fork, in_a_finalizer_in_the_librarys_thread)
{
    cr_assert_eq(ouro_finalizer_set_mode(OURO_FINALIZE_IN_THREAD), OURO_OK);
    drop_one_that_forks();
    OURO_DETACHED while (atomic_load(&finalizer_child) == 0) usleep(500);
    expect_success(atomic_load(&finalizer_child));
    cr_assert_eq(ouro_finalizer_set_mode(OURO_FINALIZE_AT_SAFEPOINTS), OURO_OK);
}

/* --- memory, and misuse ------------------------------------------------------------------------------------ */

static bool can_fail(void)
{
    fault_arm(1);
    bool hit = fault_hit();
    fault_disarm();
    return hit;
}

static void prepare_without_memory(void *argument)
{
    (void)argument;
    fault_arm(1);
    CHECK(ouro_fork_prepare() == OURO_NO_MEMORY);
    CHECK(ouro_thread_state() == OURO_STATE_UNREGISTERED);
    fault_arm(1);
    CHECK(ouro_fork_install() == OURO_NO_MEMORY);
    CHECK(ouro_fork_install() == OURO_OK);
    fault_arm(1);
    CHECK(ouro_fork_prepare() == OURO_OK); /* the seat is there */
    fault_disarm();
    ouro_fork_parent();
    CHECK(ouro_thread_state() == OURO_STATE_UNREGISTERED);
}

Test(fork, without_memory)
{
    if (can_fail())
        run_in_bare_thread(prepare_without_memory, NULL);
}

static void fork_in_node(struct node *node)
{
    (void)node;
    CHECK(ouro_fork_prepare() != OURO_OK);
}

static void fork_in_destroy(void)
{
    on_node_destroy = fork_in_node;
    ouro_decref(node_new(NULL, NULL));
}

static void fork_in_stopped_world(void)
{
    ouro_world_stop();
    CHECK(ouro_fork_prepare() != OURO_OK);
}

static void twice(void)
{
    if (ouro_fork_prepare() == OURO_OK)
        CHECK(ouro_fork_prepare() != OURO_OK);
}

static void parent_only(void)
{
    ouro_fork_parent();
}

static void child_only(void)
{
    ouro_world_stop();
    ouro_fork_child();
}

Test(fork, misuse)
{
    char text[400];

    cr_assert(aborts(fork_in_destroy, text, sizeof text));
    cr_assert(strstr(text, "a fork in a type's destroy"), "%s", text);
    cr_assert(aborts(fork_in_stopped_world, text, sizeof text));
    cr_assert(strstr(text, "a fork by the thread \"test\", which has stopped the world"), "%s",
              text);
    cr_assert(aborts(twice, text, sizeof text));
    cr_assert(strstr(text, "a fork by the thread \"test\""), "%s", text);
    cr_assert(aborts(parent_only, text, sizeof text));
    cr_assert(strstr(text, "ouro_fork_parent() by a thread that has not called"), "%s", text);
    cr_assert(aborts(child_only, text, sizeof text));
    cr_assert(strstr(text, "ouro_fork_child() by a thread that has not called"), "%s", text);
}
