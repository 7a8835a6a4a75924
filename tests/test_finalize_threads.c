/*
 * test_finalize_threads.c - what waits for its finalizer while threads come and go: detached inside of one, ended inside of
 * one, leaving while others queue; calls that must come to an end though others go on and on; what is refused.
 */
#include "support.h"

#include <sched.h>
#include <signal.h>

struct job {
    ouro_header ouro;
    struct job *next;
    int64_t value;
};

static const ouro_type *job_type;
static void (*on_finalize)(struct job *job);
static atomic_size_t finalized, destroyed, called;

static void job_finalize(void *self)
{
    atomic_fetch_add(&finalized, 1);
    if (on_finalize)
        on_finalize(self);
}

static void job_destroy(void *self)
{
    (void)self;
    atomic_fetch_add(&destroyed, 1);
}

static void register_job(void)
{
    static const uint16_t fields[] = {OURO_FIELD(struct job, next)};

    CHECK(ouro_type_register(&(ouro_type_spec){.name = "job",
                                               .size = sizeof(struct job),
                                               .fields = fields,
                                               .field_count = 1,
                                               .destroy = job_destroy,
                                               .finalize = job_finalize},
                             &job_type) == OURO_OK);
}

static void enter_test(void)
{
    enter();
    register_job();
}

static void leave_test(void)
{
    on_finalize = NULL;
    CHECK(ouro_finalizer_set_mode(OURO_FINALIZE_AT_SAFEPOINTS) == OURO_OK);
    leave();
}

TestSuite(finalize_threads, .init = enter_test, .fini = leave_test);

static struct job *job_new(int64_t value)
{
    struct job *job = ouro_new(job_type);

    CHECK(job);
    job->value = value;
    return job;
}

static void drop_jobs(int count, int64_t value)
{
    for (int i = 0; i < count; i++)
        ouro_decref(job_new(value));
}

static void drop_ring(void)
{
    struct job *job = job_new(0);

    job->next = ouro_incref(job);
    ouro_decref(job);
}

static void set_mode(ouro_finalizer_mode mode)
{
    CHECK(ouro_finalizer_set_mode(mode) == OURO_OK);
}

static size_t collections(void)
{
    ouro_gc_stats stats;

    ouro_gc_get_stats(&stats);
    return stats.collections;
}

/* --- others run what waits ---------------------------------------------------------------------------- */

struct passer {
    struct worker worker;
    atomic_bool end;
};

static void pass_safepoints(void *argument)
{
    struct passer *passer = argument;

    while (!atomic_load(&passer->end))
        ouro_safepoint();
}

static void passer_start(struct passer *passer)
{
    worker_start(&passer->worker, pass_safepoints, passer);
}

static void passer_end(struct passer *passer)
{
    atomic_store(&passer->end, true);
    worker_join(&passer->worker);
}

/* The first one waits, detached, for the second. */
static void await_second(struct job *job)
{
    (void)job;
    if (finalized == 1)
        CHECK(wait_for_count(&finalized, 2));
}

Test(finalize_threads, a_finalizer_waits_detached_and_others_run_the_rest)
{
    struct passer passer = {0};

    passer_start(&passer);
    OURO_DETACHED sleep_ms(20);
    on_finalize = await_second;
    drop_jobs(2, 0);
    while (finalized < 2)
        ouro_safepoint();
    passer_end(&passer);
    cr_assert_eq(finalized, 2);
}

/* Objects of the worker are dropped by the other thread while it leaves: they die in its detach, one after the other. The only thread
 * that is attached then passes safepoints. */
enum { LEAVERS = 40 };

struct leaver {
    struct worker worker;
    struct job *jobs[LEAVERS];
    atomic_int step; /* 4 * round: nobody; + 1: the jobs are there; + 2: the worker is detached */
    atomic_bool end;
};

static void come_and_leave(void *argument)
{
    struct leaver *leaver = argument;

    for (int round = 0; !atomic_load(&leaver->end); round++) {
        for (int i = 0; i < LEAVERS; i++)
            leaver->jobs[i] = job_new(i);
        atomic_store(&leaver->step, 4 * round + 1);
        ouro_detach();
        atomic_store(&leaver->step, 4 * round + 2);
        while (atomic_load(&leaver->step) == 4 * round + 2)
            sched_yield();
        ouro_attach();
    }
}

Test(finalize_threads, nothing_is_lost_that_dies_while_a_thread_leaves)
{
    static struct leaver leaver;
    int rounds = SCALE_MEMORY(4000, 300), lost = 0;

    worker_start(&leaver.worker, come_and_leave, &leaver);
    for (int round = 0; round < rounds; round++) {
        while (atomic_load(&leaver.step) < 4 * round + 1)
            ouro_safepoint();
        for (int i = 0; i < LEAVERS; i++) {
            ouro_decref(leaver.jobs[i]);
            if ((i * 7 + round) % 3)
                ouro_safepoint();
        }
        while (atomic_load(&leaver.step) != 4 * round + 2)
            ouro_safepoint();
        for (int i = 0; i < 100 && ouro_finalizers_waiting(); i++)
            ouro_safepoint();
        lost += ouro_finalizers_waiting() != 0;
        if (round + 1 == rounds)
            atomic_store(&leaver.end, true);
        atomic_store(&leaver.step, 4 * round + 3);
    }
    worker_join(&leaver.worker);
    cr_assert_eq(lost, 0, "%d times something waited, and nobody knew", lost);
}

/* --- a thread ends inside of one ---------------------------------------------------------------------- */

static void end_thread(struct job *job)
{
    if (job->value == 1)
        pthread_exit(NULL);
    if (job->value == 2) {
        ouro_detach();
        pthread_exit(NULL);
    }
}

static void drop_and_end(void *argument)
{
    ouro_decref(job_new(*(int *)argument));
    ouro_safepoint();
    CHECK(!"it has not ended");
}

static void drop_and_run(void *argument)
{
    (void)argument;
    for (int i = 0; i < 100; i++) {
        drop_jobs(1, 0);
        ouro_safepoint();
    }
    drop_ring();
    CHECK(ouro_collect() == 1);
    CHECK(ouro_finalizers_waiting() == 0);
}

static void register_and_end(void *argument)
{
    CHECK(ouro_thread_register("ends") == OURO_OK);
    drop_and_end(argument);
}

static void check_after_end(int how)
{
    on_finalize = end_thread;
    run_in_bare_thread(register_and_end, &how);
    cr_assert_eq(finalized, 1);
    cr_assert_eq(destroyed, 1, "the queue's reference was not dropped");
    run_in_thread(drop_and_run, NULL); /* most likely in the same seat */
    cr_assert_eq(finalized, 102);
    set_mode(OURO_FINALIZE_IN_THREAD);
    ouro_collect(); /* waits for no end of the first one */
}

Test(finalize_threads, a_thread_ends_inside_of_a_finalizer)
{
    check_after_end(1);
}

Test(finalize_threads, a_thread_ends_inside_of_a_finalizer_detached)
{
    check_after_end(2);
}

static void end_in_callback(ouro_weakref *ref, ouro_object *argument)
{
    (void)ref;
    (void)argument;
    pthread_exit(NULL);
}

static void end_by_callback(void *argument)
{
    (void)argument;
    CHECK(ouro_thread_register("ends") == OURO_OK);
    struct leaf *target = leaf_new(1), *other = leaf_new(2);
    ouro_weakref *ref = ouro_weakref_new_callback(target, end_in_callback, other);

    CHECK(ref);
    ouro_decref(other);
    ouro_decref(target);
    ouro_decref(ref);
    ouro_safepoint();
    CHECK(!"it has not ended");
}

Test(finalize_threads, a_thread_ends_inside_of_a_callback)
{
    run_in_bare_thread(end_by_callback, NULL);
    cr_assert_eq(leaves_destroyed, 2, "the argument has not been dropped");
    cr_assert_eq(ouro_run_finalizers(), 0);
}

/* --- calls that come to an end ------------------------------------------------------------------------ */

struct load {
    struct worker worker;
    atomic_bool started, end;
};

static void drop_for_ever(void *argument)
{
    struct load *load = argument;

    while (!atomic_load(&load->end)) {
        if (ouro_finalizers_waiting() < 200) /* there is always something, but not more and more */
            drop_jobs(10, 0);
        ouro_safepoint();
        atomic_store(&load->started, true);
    }
}

static void collect_under_load(ouro_finalizer_mode mode, size_t most)
{
    struct load load = {.end = false};

    set_mode(mode);
    worker_start(&load.worker, drop_for_ever, &load);
    OURO_DETACHED
    {
        while (!atomic_load(&load.started))
            sleep_ms(1);
    }
    size_t before = collections();
    for (int i = 0; i < 5; i++)
        ouro_collect();
    size_t count = collections() - before;
    atomic_store(&load.end, true);
    worker_join(&load.worker);
    ouro_collect();
    cr_assert_leq(count, most, "%zu collections in five calls", count);
}

Test(finalize_threads, collect_is_not_kept_by_the_finalizers_of_others, .timeout = 60)
{
    collect_under_load(OURO_FINALIZE_AT_SAFEPOINTS, 20);
}

/* Slower than what is queued: the thread never has nothing to do. */
static void be_slow(struct job *job)
{
    (void)job;
    for (volatile int i = 0; i < 20000; i++)
        ;
}

Test(finalize_threads, collect_is_not_kept_by_the_thread, .timeout = 60)
{
    on_finalize = be_slow;
    collect_under_load(OURO_FINALIZE_IN_THREAD, 20);
}

/* What this thread's own finalizers leave behind is collected in the same call, as far as that goes. */
static void drop_next_ring(struct job *job)
{
    if (job->value > 0) {
        struct job *next = job_new(job->value - 1);

        next->next = ouro_incref(next);
        ouro_decref(next);
    }
}

Test(finalize_threads, collect_goes_on_with_what_finalizers_leave)
{
    on_finalize = drop_next_ring;
    ouro_decref(job_new(20));
    cr_assert_eq(ouro_collect(), 20);
    cr_assert_eq(finalized, 21);
    cr_assert_eq(destroyed, 21);
}

/* Its callback drops what makes a ring garbage: the next collection of the same call finds it. */
static void break_hold(ouro_weakref *ref, ouro_object *argument)
{
    struct node *holder = (struct node *)(void *)argument;

    (void)ref;
    atomic_fetch_add(&called, 1);
    ouro_clear(&holder->left);
}

Test(finalize_threads, collect_goes_on_with_what_callbacks_leave)
{
    struct node *target = ring_new(1), *holder = node_new(ring_new(3), NULL);
    ouro_weakref *ref = ouro_weakref_new_callback(target, break_hold, holder);

    CHECK(ref);
    ouro_decref(target);
    cr_assert_eq(ouro_collect(), 4);
    cr_assert_eq(called, 1);
    ouro_decref(ref);
    ouro_decref(holder);
}

static void drop_ring_again(struct job *job)
{
    (void)job;
    drop_ring();
}

Test(finalize_threads_end, shutdown_ends_though_finalizers_make_garbage_for_ever, .timeout = 60)
{
    enter_unregistered();
    register_job();
    CHECK(ouro_thread_register("test") == OURO_OK);
    on_finalize = drop_ring_again;
    drop_ring();
    cr_assert_eq(ouro_shutdown(), OURO_OK);
    cr_assert_gt(finalized, 1);
}

/* --- the mode ----------------------------------------------------------------------------------------- */

static void sleep_a_bit(struct job *job)
{
    (void)job;
    OURO_DETACHED sleep_ms(2);
}

/* More than can be run before the mode has changed, in ten seconds. */
enum { LONG_QUEUE = 5000 };

static void no_more_begin(ouro_finalizer_mode before)
{
    struct passer passer = {0};

    on_finalize = sleep_a_bit;
    set_mode(before);
    drop_jobs(LONG_QUEUE, 0);
    ouro_detach(); /* the other one gets them, if it is that mode */
    passer_start(&passer);
    while (finalized < 5)
        sleep_ms(1);
    set_mode(OURO_FINALIZE_ON_REQUEST);
    size_t begun = finalized;
    sleep_ms(50);
    /* One may have been taken before, and begun only now. */
    cr_assert_leq(finalized, begun + 1, "one has begun in the old mode");
    cr_assert_lt(begun, LONG_QUEUE);
    ouro_attach();
    passer_end(&passer);
    on_finalize = NULL;
    ouro_run_finalizers();
    cr_assert_eq(finalized, LONG_QUEUE);
}

Test(finalize_threads, no_more_begin_at_safepoints_when_the_mode_has_changed)
{
    no_more_begin(OURO_FINALIZE_AT_SAFEPOINTS);
}

Test(finalize_threads, no_more_begin_in_the_thread_when_the_mode_has_changed)
{
    no_more_begin(OURO_FINALIZE_IN_THREAD);
}

static sigset_t thread_mask;

static void note_mask(struct job *job)
{
    (void)job;
    pthread_sigmask(SIG_BLOCK, NULL, &thread_mask);
}

Test(finalize_threads, signals_are_not_for_the_librarys_thread)
{
    sigset_t own;

    on_finalize = note_mask;
    set_mode(OURO_FINALIZE_IN_THREAD);
    drop_jobs(1, 0);
    ouro_collect();
    cr_assert_eq(finalized, 1);
    cr_assert(sigismember(&thread_mask, SIGUSR1));
    cr_assert(sigismember(&thread_mask, SIGTERM));
    pthread_sigmask(SIG_BLOCK, NULL, &own);
    cr_assert_not(sigismember(&own, SIGUSR1), "the caller's mask was not put back");
}

/* --- weak references, and what the collector keeps ------------------------------------------------------ */

/* Another thread can find it by its target, and count it. */
Test(finalize_threads, a_weak_reference_is_never_unique)
{
    struct leaf *target = leaf_new(1);
    ouro_weakref *plain = ouro_weakref_new(target);
    ouro_weakref *watching = ouro_weakref_new_callback(target, end_in_callback, NULL);

    cr_assert_not(ouro_is_unique(plain));
    cr_assert_not(ouro_is_unique(watching));
    cr_assert_not(ouro_disown(plain));
    ouro_decref(plain);
    ouro_decref(watching);
    ouro_decref(target);
}

/* Any object, a pointer to void, and NULL may be arguments; the compiler refuses what is none. */
Test(finalize_threads, arguments_of_callbacks)
{
    struct leaf *target = leaf_new(1);
    struct node *node = node_new(NULL, NULL);
    void *untyped = node;
    ouro_weakref *refs[] = {ouro_weakref_new_callback(target, end_in_callback, node),
                            ouro_weakref_new_callback(target, end_in_callback, untyped),
                            ouro_weakref_new_callback(target, end_in_callback, NULL)};

    cr_assert_eq(ouro_refcount(node), 3);
    for (int i = 0; i < 3; i++)
        ouro_decref(refs[i]);
    ouro_decref(node);
    ouro_decref(target);
}

Test(finalize_threads, what_is_kept_is_described_as_such)
{
    struct node *node = ring_new(1);
    char text[256];

    ouro_gc_set_debug(OURO_GC_SAVE);
    ouro_decref(node);
    ouro_collect();
    ouro_gc_set_debug(0);
    ouro_describe(node, text, sizeof text);
    cr_assert(strstr(text, "SAVED"), "%s", text);
    cr_assert_eq(ouro_gc_drop_saved(), 1);
    cr_assert_eq(ouro_collect(), 1);
}

#if UNDER_ASAN
#include <sanitizer/asan_interface.h>

/* Its block waits for weak gets, which look at the header only. */
Test(finalize_threads, the_rest_of_a_waiting_block_is_poisoned)
{
    struct leaf *target = leaf_new(1);
    ouro_weakref *ref = ouro_weakref_new(target);

    ouro_decref(target);
    cr_assert_not(__asan_address_is_poisoned(&target->ouro));
    cr_assert(__asan_address_is_poisoned(&target->value));
    ouro_decref(ref);
    ouro_synchronize();
}
#endif

/* --- what ends the program ---------------------------------------------------------------------------- */

static void assert_sentence(void (*misuse)(void), const char *sentence)
{
    char text[512];

    cr_assert(aborts(misuse, text, sizeof text), "it has not ended: %s", sentence);
    cr_assert(strstr(text, sentence), "\"%s\" is not in \"%s\"", sentence, text);
}

static void run_misuse(void (*finalize)(struct job *job))
{
    on_finalize = finalize;
    drop_jobs(1, 0);
    ouro_safepoint();
}

static void stop_world(struct job *job)
{
    (void)job;
    ouro_world_stop();
}

static void return_with_the_world_stopped(void)
{
    run_misuse(stop_world);
}

static void begin_scope(struct job *job)
{
    (void)job;
    ouro_read_begin_checked();
}

static void return_in_a_read_scope(void)
{
    run_misuse(begin_scope);
}

static void unregister(struct job *job)
{
    (void)job;
    ouro_thread_unregister();
}

static void unregister_in_a_finalizer(void)
{
    run_misuse(unregister);
}

static void end_any(struct job *job)
{
    (void)job;
    pthread_exit(NULL);
}

static void end_the_librarys_thread(void)
{
    on_finalize = end_any;
    set_mode(OURO_FINALIZE_IN_THREAD);
    drop_jobs(1, 0);
    OURO_DETACHED sleep_ms(10000);
}

static void change_mode(const ouro_gc_info *info, void *argument)
{
    (void)info;
    (void)argument;
    (void)!ouro_finalizer_set_mode(OURO_FINALIZE_ON_REQUEST);
}

static void change_mode_while_collecting(void)
{
    CHECK(ouro_gc_add_callback(change_mode, NULL) == OURO_OK);
    ouro_collect();
}

static void shut_down_with_a_lock(void)
{
    struct leaf *leaf = leaf_new(1);

    ouro_lock(leaf);
    (void)!ouro_shutdown();
}

static bool each(ouro_object *o, void *argument)
{
    (void)o;
    (void)argument;
    return true;
}

static void walk_saved_in_a_stopped_world(void)
{
    ouro_world_stop();
    ouro_gc_each_saved(each, NULL);
}

static void drop_saved_in_a_read_scope(void)
{
    ouro_read_begin_checked();
    ouro_gc_drop_saved();
}

Test(finalize_threads, misuse)
{
    assert_sentence(return_with_the_world_stopped, "has returned with the world stopped");
    assert_sentence(return_in_a_read_scope, "has returned in a read scope");
    assert_sentence(unregister_in_a_finalizer, "ouro_thread_unregister() in a finalizer");
    assert_sentence(end_the_librarys_thread, "has ended the library's own thread");
    assert_sentence(change_mode_while_collecting, "ouro_finalizer_set_mode() in a finalizer, or");
    assert_sentence(shut_down_with_a_lock, "ouro_shutdown() by the thread \"");
    assert_sentence(walk_saved_in_a_stopped_world, "ouro_gc_each_saved() by the thread \"");
    assert_sentence(drop_saved_in_a_read_scope, "ouro_gc_drop_saved() in a read scope");
}
