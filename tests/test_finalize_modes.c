/*
 * test_finalize_modes.c - who runs finalizers: any thread at its safepoints, whoever asks, or a thread of the library's;
 * threads that leave while something waits; the end.
 */
#include "support.h"

struct fin {
    ouro_header ouro;
    struct fin *next;
    int64_t value;
};

static const ouro_type *fin_type;
static void (*on_finalize)(struct fin *fin);
static atomic_size_t finalized, destroyed;
static atomic_uint runner; /* the thread that ran the last one */

static void fin_finalize(void *self)
{
    atomic_store(&runner, ouro_thread_id());
    if (on_finalize)
        on_finalize(self);
    atomic_fetch_add(&finalized, 1);
}

static void fin_destroy(void *self)
{
    (void)self;
    atomic_fetch_add(&destroyed, 1);
}

static void register_fin(void)
{
    static const uint16_t fields[] = {OURO_FIELD(struct fin, next)};

    CHECK(ouro_type_register(&(ouro_type_spec){.name = "fin",
                                               .size = sizeof(struct fin),
                                               .fields = fields,
                                               .field_count = 1,
                                               .destroy = fin_destroy,
                                               .finalize = fin_finalize},
                             &fin_type) == OURO_OK);
}

static void enter_test(void)
{
    enter();
    register_fin();
}

static void leave_test(void)
{
    CHECK(ouro_finalizer_set_mode(OURO_FINALIZE_AT_SAFEPOINTS) == OURO_OK);
    leave();
}

TestSuite(finalize_modes, .init = enter_test, .fini = leave_test);

static struct fin *fin_new(void)
{
    struct fin *fin = ouro_new(fin_type);

    CHECK(fin);
    return fin;
}

static void drop_one(void *argument)
{
    (void)argument;
    ouro_decref(fin_new());
}

static void drop_ring(void)
{
    struct fin *fin = fin_new();

    fin->next = ouro_incref(fin);
    ouro_decref(fin);
}

static void set_mode(ouro_finalizer_mode mode)
{
    CHECK(ouro_finalizer_set_mode(mode) == OURO_OK);
    CHECK(ouro_finalizer_get_mode() == mode);
}

/* --- at safepoints ------------------------------------------------------------------------------------ */

Test(finalize_modes, the_one_at_first_is_at_safepoints)
{
    cr_assert_eq(ouro_finalizer_get_mode(), OURO_FINALIZE_AT_SAFEPOINTS);
    drop_one(NULL);
    ouro_safepoint();
    cr_assert_eq(finalized, 1);
    cr_assert_eq(runner, ouro_thread_id());
}

/* A thread that ends passes on what waits to one that is attached. */
Test(finalize_modes, a_thread_that_ends_leaves_it_to_another)
{
    struct worker worker;

    worker_start(&worker, drop_one, NULL);
    CHECK(pthread_join(worker.thread, NULL) == 0); /* attached all the time */
    cr_assert_eq(finalized, 0);
    cr_assert_eq(ouro_finalizers_waiting(), 1);
    ouro_safepoint();
    cr_assert_eq(finalized, 1);
    cr_assert_eq(runner, ouro_thread_id());
}

Test(finalize_modes, or_to_the_next_that_attaches)
{
    run_in_thread(drop_one, NULL); /* nobody else is attached when it ends */
    cr_assert_eq(finalized, 0);
    ouro_safepoint();
    cr_assert_eq(finalized, 1);
}

struct sleeper {
    struct worker worker;
    struct gate dropped, end;
};

static void drop_and_detach(void *argument)
{
    struct sleeper *sleeper = argument;

    drop_one(NULL);
    OURO_DETACHED
    {
        gate_open(&sleeper->dropped);
        gate_wait(&sleeper->end);
    }
}

Test(finalize_modes, a_thread_that_detaches_leaves_it_to_another)
{
    struct sleeper sleeper = {0};

    worker_start(&sleeper.worker, drop_and_detach, &sleeper);
    gate_wait_attached(&sleeper.dropped);
    ouro_safepoint();
    cr_assert_eq(finalized, 1);
    gate_open(&sleeper.end);
    worker_join(&sleeper.worker);
}

/* Two that leave one after the other: who comes back finds it. */
Test(finalize_modes, nobody_is_attached_for_a_while)
{
    struct sleeper sleeper = {0};

    ouro_detach();
    worker_start(&sleeper.worker, drop_and_detach, &sleeper);
    gate_wait(&sleeper.dropped);
    ouro_attach();
    ouro_safepoint();
    cr_assert_eq(finalized, 1);
    ouro_detach();
    gate_open(&sleeper.end);
    CHECK(pthread_join(sleeper.worker.thread, NULL) == 0);
    ouro_attach();
}

/* What another thread drops last dies at its owner's or at the dropper's: in any case it is finalized. */
static void drop_given(void *argument)
{
    ouro_decref((struct fin *)argument);
}

Test(finalize_modes, dropped_by_another_thread)
{
    struct fin *fin = fin_new();

    run_in_thread(drop_given, fin);
    ouro_safepoint(); /* takes the hint in */
    ouro_safepoint();
    cr_assert_eq(finalized, 1);
    cr_assert_eq(destroyed, 1);
}

/* --- on request --------------------------------------------------------------------------------------- */

Test(finalize_modes, on_request_nothing_runs_until_asked)
{
    set_mode(OURO_FINALIZE_ON_REQUEST);
    drop_one(NULL);
    drop_ring();
    run_in_thread(drop_one, NULL);
    ouro_safepoint();
    cr_assert_eq(ouro_collect(), 0);
    ouro_safepoint();
    cr_assert_eq(finalized, 0);
    cr_assert_eq(ouro_finalizers_waiting(), 3);
    cr_assert_eq(ouro_run_finalizers(), 3);
    cr_assert_eq(finalized, 3);
    cr_assert_eq(destroyed, 2);
    cr_assert_eq(ouro_collect(), 1);
}

Test(finalize_modes, back_to_safepoints_with_something_waiting)
{
    set_mode(OURO_FINALIZE_ON_REQUEST);
    drop_one(NULL);
    ouro_safepoint();
    cr_assert_eq(finalized, 0);
    set_mode(OURO_FINALIZE_AT_SAFEPOINTS);
    ouro_safepoint();
    cr_assert_eq(finalized, 1);
}

static void back_to_safepoints(void *argument)
{
    (void)argument;
    set_mode(OURO_FINALIZE_AT_SAFEPOINTS); /* by a thread that is not registered */
}

Test(finalize_modes, back_to_safepoints_by_an_unregistered_thread)
{
    struct worker worker;

    set_mode(OURO_FINALIZE_ON_REQUEST);
    drop_one(NULL);
    worker_start_bare(&worker, back_to_safepoints, NULL);
    CHECK(pthread_join(worker.thread, NULL) == 0);
    ouro_safepoint();
    cr_assert_eq(finalized, 1);
}

/* --- in a thread of the library's --------------------------------------------------------------------- */

Test(finalize_modes, in_a_thread)
{
    set_mode(OURO_FINALIZE_IN_THREAD);
    set_mode(OURO_FINALIZE_IN_THREAD); /* it is there already */
    drop_one(NULL);
    cr_assert(wait_for_count(&destroyed, 1));
    cr_assert_neq(runner, ouro_thread_id());
    drop_ring();
    cr_assert_eq(ouro_collect(), 1, "it has not waited for the finalizer");
    cr_assert_eq(destroyed, 2);
    cr_assert_neq(runner, ouro_thread_id());
    drop_one(NULL);
    run_in_thread(drop_one, NULL);
    cr_assert(wait_for_count(&destroyed, 4));
}

static void be_slow(struct fin *fin)
{
    (void)fin;
    OURO_DETACHED sleep_ms(50);
}

Test(finalize_modes, collect_waits_for_the_thread)
{
    on_finalize = be_slow;
    set_mode(OURO_FINALIZE_IN_THREAD);
    drop_one(NULL);
    drop_ring();
    cr_assert_eq(ouro_collect(), 1);
    cr_assert_eq(finalized, 2);
    cr_assert_eq(destroyed, 2);
    on_finalize = NULL;
}

static void collect(struct fin *fin)
{
    (void)fin;
    ouro_collect();
}

Test(finalize_modes, a_finalizer_in_the_thread_collects)
{
    on_finalize = collect;
    set_mode(OURO_FINALIZE_IN_THREAD);
    for (int i = 0; i < 20; i++)
        drop_ring();
    ouro_collect(); /* the finalizers collect some of it themselves */
    cr_assert_eq(destroyed, 20);
}

Test(finalize_modes, asking_while_the_thread_is_there)
{
    set_mode(OURO_FINALIZE_IN_THREAD);
    for (int i = 0; i < 1000; i++) {
        drop_one(NULL);
        ouro_run_finalizers();
    }
    ouro_collect();
    cr_assert_eq(finalized, 1000);
    cr_assert_eq(destroyed, 1000);
}

/* --- changes ------------------------------------------------------------------------------------------ */

struct load {
    struct worker workers[3];
    atomic_size_t dropped;
    atomic_bool end;
};

static void drop_many(void *argument)
{
    struct load *load = argument;

    while (!atomic_load(&load->end)) {
        drop_one(NULL);
        atomic_fetch_add(&load->dropped, 1);
        ouro_safepoint();
    }
}

static void change_often(void *argument)
{
    struct load *load = argument;

    for (int i = 0; !atomic_load(&load->end); i++) {
        ouro_status status = ouro_finalizer_set_mode((ouro_finalizer_mode)(i % 3));

        CHECK(status == OURO_OK || status == OURO_BUSY);
        ouro_run_finalizers();
    }
}

Test(finalize_modes, changed_under_load)
{
    struct load load = {.dropped = 0};

    worker_start(&load.workers[0], drop_many, &load);
    worker_start(&load.workers[1], change_often, &load);
    worker_start(&load.workers[2], change_often, &load);
    OURO_DETACHED
    {
        double limit = seconds() + 20;

        do {
            sleep_ms(SCALE(500, 1500));
        } while (load.dropped == 0 && seconds() < limit);
    }
    atomic_store(&load.end, true);
    for (int i = 0; i < 3; i++)
        worker_join(&load.workers[i]);
    set_mode(OURO_FINALIZE_AT_SAFEPOINTS);
    ouro_collect();
    cr_assert_gt(load.dropped, 0);
    cr_assert_eq(finalized, load.dropped);
    cr_assert_eq(destroyed, load.dropped);
}

/* --- the end ------------------------------------------------------------------------------------------ */

static void enter_plain(void)
{
    enter_unregistered();
    register_fin();
    CHECK(ouro_thread_register("test") == OURO_OK);
}

TestSuite(finalize_end, .init = enter_plain);

static void shut_down_with_waiting(ouro_finalizer_mode mode)
{
    ouro_memory memory;

    set_mode(mode);
    drop_one(NULL);
    drop_ring();
    cr_assert_eq(ouro_shutdown(), OURO_OK);
    ouro_memory_stats(&memory);
    if (mode == OURO_FINALIZE_ON_REQUEST) {
        cr_assert_eq(finalized, 0, "nobody has asked for it");
        cr_assert_eq(memory.objects, 2);
        cr_assert_eq(ouro_run_finalizers(), 2);
        cr_assert_eq(ouro_shutdown(), OURO_OK);
        ouro_memory_stats(&memory);
    }
    cr_assert_eq(finalized, 2);
    cr_assert_eq(memory.objects, 0);
    cr_assert_eq(ouro_finalizer_set_mode(OURO_FINALIZE_IN_THREAD), OURO_SHUTDOWN);
    cr_assert_neq(ouro_finalizer_get_mode(), OURO_FINALIZE_IN_THREAD);
}

Test(finalize_end, at_safepoints)
{
    shut_down_with_waiting(OURO_FINALIZE_AT_SAFEPOINTS);
}

Test(finalize_end, on_request)
{
    shut_down_with_waiting(OURO_FINALIZE_ON_REQUEST);
}

Test(finalize_end, in_a_thread)
{
    shut_down_with_waiting(OURO_FINALIZE_IN_THREAD);
}
