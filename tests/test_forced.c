/*
 * test_forced.c - collections at every n-th safepoint: which ones collect, of which kind, and that nothing is left of it
 * when it is off.
 */

#include "support.h"

#include "thread/seat.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

TestSuite(forced, .init = enter, .fini = leave, .timeout = 100);

enum { INFOS = 4096 };

static ouro_gc_info infos[INFOS];
static atomic_size_t info_count; /* of collections that have ended */

static void note(const ouro_gc_info *info, void *argument)
{
    (void)argument;
    if (info->phase == OURO_GC_STOP && info_count < INFOS)
        infos[info_count++] = *info;
}

static void begin(size_t every)
{
    cr_assert_eq(ouro_gc_add_callback(note, NULL), OURO_OK);
    ouro_gc_set_every(every);
    ouro_gc_enable();
}

/* How many collections so many safepoints make. */
static size_t pass(size_t safepoints)
{
    size_t before = info_count;

    while (safepoints-- > 0)
        ouro_safepoint();
    return info_count - before;
}

static uint32_t word(void)
{
    return load_relaxed(&seat_self->word);
}

/* --- which safepoints -------------------------------------------------------------------------------- */

Test(forced, every_third)
{
    begin(3);
    cr_assert_eq(ouro_gc_get_every(), 3);
    for (int i = 0; i < 20; i++) {
        cr_assert_eq(pass(2), 0);
        cr_assert_eq(pass(1), 1);
    }
}

Test(forced, every_one_of_each_kind_in_turn)
{
    begin(1);
    for (size_t i = 0; i < 12; i++) {
        cr_assert_eq(pass(1), 1);
        cr_assert_eq(infos[i].kind, (ouro_gc_kind)(i % 4));
        cr_assert_eq(infos[i].reason, OURO_GC_AUTOMATIC);
        cr_assert_eq(infos[i].number, i + 1);
    }
}

Test(forced, finds_garbage_at_once)
{
    begin(1);
    for (int i = 0; i < 8; i++) {
        ouro_decref(ring_new(5));
        cr_assert_eq(pass(4), 4);
        cr_assert_eq(nodes_destroyed, 5 * (size_t)(i + 1));
    }
}

Test(forced, a_change_begins_anew)
{
    begin(4);
    cr_assert_eq(pass(7), 1);
    ouro_gc_set_every(2);
    cr_assert_eq(pass(1), 0);
    cr_assert_eq(pass(1), 1);
    cr_assert_eq(infos[1].kind, OURO_GC_YOUNG);
}

Test(forced, a_number_too_large_is_never)
{
    begin(SIZE_MAX);
    cr_assert_gt(ouro_gc_get_every(), SIZE_MAX / 2);
    cr_assert_eq(pass(1000), 0);
}

Test(forced, only_explicit_safepoints_count)
{
    ouro_memory stats;

    begin(2);
    cr_assert_eq(pass(1), 0);
    for (int i = 0; i < 5; i++) {
        ouro_restore(ouro_detach());
        OURO_DETACHED
        {
        }
        ouro_memory_stats(&stats);
        ouro_synchronize();
        ouro_world_stop();
        ouro_world_start();
    }
    cr_assert_eq(info_count, 0);
    cr_assert_eq(pass(1), 1);
}

/* --- where none may be made -------------------------------------------------------------------------- */

Test(forced, not_while_disabled)
{
    begin(4);
    cr_assert_eq(pass(2), 0);
    ouro_gc_disable();
    cr_assert_eq(pass(10), 0);
    ouro_gc_disable();
    ouro_gc_enable();
    cr_assert_eq(pass(10), 0);
    ouro_gc_enable();
    cr_assert_eq(pass(1), 0);
    cr_assert_eq(pass(1), 1);
}

Test(forced, not_with_a_threshold_of_0)
{
    begin(1);
    ouro_gc_set_threshold(0, 25);
    cr_assert_eq(pass(10), 0);
    ouro_gc_set_threshold(2000, 25);
    cr_assert_eq(pass(10), 10);
}

Test(forced, not_with_a_lock)
{
    struct node *node = node_new(NULL, NULL);

    begin(2);
    cr_assert_eq(pass(1), 0);
    ouro_lock(node);
    cr_assert_eq(pass(10), 0);
    ouro_unlock(node);
    cr_assert_eq(pass(1), 1);
    ouro_decref(node);
}

static size_t passed_in_finalizer = SIZE_MAX;

static void pass_ten(void *self)
{
    (void)self;
    passed_in_finalizer = pass(10);
}

Test(forced, not_in_a_finalizer)
{
    static const uint16_t fields[] = {OURO_FIELD(struct node, left)};
    ouro_type_spec spec = {.name = "passer",
                           .size = sizeof(struct node),
                           .fields = fields,
                           .field_count = 1,
                           .finalize = pass_ten};
    const ouro_type *type;

    cr_assert_eq(ouro_type_register(&spec, &type), OURO_OK);
    struct node *node = ouro_new(type);
    cr_assert_not_null(node);
    begin(5);
    ouro_decref(node);
    cr_assert_eq(ouro_run_finalizers(), 1);
    cr_assert_eq(passed_in_finalizer, 0);
    cr_assert_eq(pass(4), 0);
    cr_assert_eq(pass(1), 1);
}

static void pass_in_callback(const ouro_gc_info *info, void *argument)
{
    size_t *calls = argument;

    (void)info;
    ++*calls;
    ouro_safepoint();
}

Test(forced, not_in_a_callback)
{
    size_t calls = 0;

    begin(1);
    cr_assert_eq(ouro_gc_add_callback(pass_in_callback, &calls), OURO_OK);
    cr_assert_eq(pass(3), 3);
    cr_assert_eq(calls, 6);
    cr_assert_eq(ouro_gc_remove_callback(pass_in_callback, &calls), OURO_OK);
}

/* --- off ---------------------------------------------------------------------------------------------- */

Test(forced, off_costs_nothing)
{
    ouro_gc_enable();
    ouro_safepoint();
    cr_assert_eq(word(), SEAT_ATTACHED);
    ouro_gc_disable();
    begin(2);
    cr_assert_eq(word(), SEAT_ATTACHED | SEAT_COLLECT);
    pass(3);
    cr_assert_eq(word(), SEAT_ATTACHED | SEAT_COLLECT);
    ouro_gc_set_every(0);
    cr_assert_eq(ouro_gc_get_every(), 0);
    cr_assert_eq(pass(10), 0);
    cr_assert_eq(word(), SEAT_ATTACHED);
}

/* Those that were forced have taught the schedule nothing. */
Test(forced, off_the_schedule_is_what_it_was)
{
    struct node *chain = NULL;
    ouro_gc_stats stats;
    size_t made = 0;

    ouro_gc_set_pause_budget(UINT64_C(1000000000));
    begin(1);
    for (int i = 0; i < 100; i++) {
        chain = node_new(chain, NULL);
        cr_assert_eq(pass(1), 1);
    }
    ouro_gc_get_stats(&stats);
    cr_assert_eq(stats.threshold, 2000);
    cr_assert_eq(stats.automatic, 100);
    ouro_gc_set_every(0);
    ouro_collect();
    while (pass(1) == 0 && made < 10000) {
        chain = node_new(chain, NULL);
        made++;
    }
    cr_assert(made >= 1800 && made <= 2600, "%zu", made);
    ouro_decref(chain);
}

/* What is due meanwhile is not made. */
Test(forced, on_the_schedule_makes_none)
{
    struct node *chain = NULL;

    begin(1000000);
    for (int i = 0; i < 10000; i++) {
        chain = node_new(chain, NULL);
        cr_assert_eq(pass(1), 0);
    }
    ouro_decref(chain);
}

static size_t presses;

static void press(size_t used, size_t limit, void *argument)
{
    (void)argument;
    CHECK(used > limit);
    presses++;
}

Test(forced, on_the_soft_limit_is_in_force)
{
    struct node *chain = NULL;

    begin(1000000);
    cr_assert_eq(ouro_gc_set_soft_limit(100000, press, NULL), OURO_OK);
    for (int i = 0; i < 5000 && presses == 0; i++) {
        chain = node_new(chain, NULL);
        pass(1);
    }
    cr_assert_eq(presses, 1);
    cr_assert_eq(info_count, 2);
    cr_assert_eq(infos[0].kind, OURO_GC_YOUNG);
    cr_assert_eq(infos[1].kind, OURO_GC_DEEP);
    ouro_decref(chain);
}

/* --- limits --------------------------------------------------------------------------------------------- */

Test(forced, within_the_limits_of_the_budget)
{
    struct node *chain = chain_new(3000);

    cr_assert_eq(ouro_gc_set_pause_budget(1), OURO_OK);
    begin(1);
    pass(1); /* young: not all of them */
    cr_assert_geq(infos[0].candidates, 1);
    cr_assert_lt(infos[0].candidates, 3000);
    pass(3);
    ouro_decref(ouro_incref(chain)); /* it reaches more than one stop may follow */
    pass(2);
    cr_assert_eq(infos[5].kind, OURO_GC_OLD);
    cr_assert_eq(infos[5].cut, 1);
    cr_assert_leq(infos[5].candidates, 256);
    pass(1);
    cr_assert_eq(infos[6].cut, 0);
    cr_assert_eq(infos[6].kind, OURO_GC_DEEP);
    cr_assert(infos[6].under_way);
    cr_assert_lt(infos[6].candidates, 3000);
    pass(1); /* a young one may be made beside it, an old one is a slice */
    cr_assert_eq(infos[7].kind, OURO_GC_DEEP);
    ouro_decref(chain);
}

/* A program that makes garbage of all sizes, and says on standard error what each collection has found. */
static void say_what_is_found(void)
{
    struct node *kept[16] = {NULL};
    uint64_t state = 7;

    cr_assert_eq(ouro_gc_set_pause_budget(1), OURO_OK);
    begin(3);
    for (int i = 0; i < 600; i++) {
        uint32_t which = random_below(&state, 16);

        ouro_decref_or_null(kept[which]);
        kept[which] = ring_new(1 + random_below(&state, 400));
        if (which % 2)
            node_set_right(kept[which], ouro_incref(kept[which]));
        ouro_safepoint();
    }
    uint64_t sum = 0;
    for (size_t i = 0; i < info_count; i++)
        sum = sum * 1000003 + infos[i].candidates * 4 + infos[i].collected * 16 + infos[i].kind;
    fprintf(stderr, "%zu %zu %016llx", (size_t)info_count, (size_t)nodes_destroyed,
            (unsigned long long)sum);
    abort();
}

Test(forced, the_same_each_time)
{
    char text[3][200];

    for (int i = 0; i < 3; i++)
        cr_assert(aborts(say_what_is_found, text[i], sizeof text[i]));
    cr_assert_eq(strncmp(text[0], "200 ", 4), 0, "%s", text[0]);
    cr_assert_str_eq(text[0], text[1]);
    cr_assert_str_eq(text[0], text[2]);
}

/* --- threads ---------------------------------------------------------------------------------------------- */

static void pass_two(void *argument)
{
    *(size_t *)argument = pass(2);
}

Test(forced, each_seat_counts_its_own)
{
    size_t made = 0;

    begin(3);
    cr_assert_eq(pass(2), 0);
    run_in_thread(pass_two, &made);
    cr_assert_eq(made, 0);
    run_in_thread(pass_two, &made); /* in the seat of the one before */
    cr_assert_eq(made, 1);
    cr_assert_eq(pass(1), 1);
    run_in_thread(pass_two, &made);
    cr_assert_eq(made, 1);
}

enum { THREADS = 4 };

static atomic_bool is_over;

static void run_along(void *argument)
{
    atomic_size_t *passed = argument;

    while (!is_over) {
        ouro_decref(node_new(NULL, NULL)); /* nothing that would be due some day */
        ouro_safepoint();
        atomic_fetch_add(passed, 1);
    }
}

static void turn_on(void *argument)
{
    ouro_gc_set_every(*(size_t *)argument);
}

/* Threads that run when it is turned on, by one that is not even registered, and off again. */
Test(forced, threads_that_run_see_it)
{
    struct worker workers[THREADS];
    static atomic_size_t passed[THREADS];
    size_t every = 3;

    cr_assert_eq(ouro_gc_add_callback(note, NULL), OURO_OK);
    for (int i = 0; i < THREADS; i++)
        worker_start(&workers[i], run_along, &passed[i]);
    ouro_gc_set_threshold(1000000, 25);
    ouro_gc_enable();
    for (int round = 0; round < 3; round++) {
        run_in_bare_thread(turn_on, &every);
        size_t before = info_count;

        for (double end = seconds() + 20; info_count < before + 12 && seconds() < end;)
            OURO_DETACHED sleep_ms(1);
        cr_assert_geq(info_count, before + 12);
        ouro_gc_set_every(0);
        /* Twice: who acknowledges the first may go on to collect at that same safepoint. */
        ouro_synchronize();
        ouro_synchronize();
        before = info_count;
        size_t at = passed[0];
        for (double end = seconds() + 20; passed[0] < at + 50 && seconds() < end;)
            OURO_DETACHED sleep_ms(1);
        cr_assert_geq(passed[0], at + 50);
        cr_assert_eq(info_count, before);
    }
    is_over = true;
    for (int i = 0; i < THREADS; i++)
        worker_join(&workers[i]);
}

static void pass_many(void *argument)
{
    for (size_t i = 0; i < *(size_t *)argument; i++)
        ouro_safepoint();
}

/* All together never more than each its own, in one turn. */
Test(forced, threads_that_come_and_go)
{
    struct worker workers[THREADS];
    size_t each = 20, sum = 0;

    begin(4);
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < THREADS; i++)
            worker_start(&workers[i], pass_many, &each);
        for (int i = 0; i < THREADS; i++)
            worker_join(&workers[i]);
        sum += THREADS * each;
    }
    cr_assert_geq(info_count, 5);
    cr_assert_leq(info_count, sum / 4);
    for (size_t i = 0; i < info_count; i++)
        cr_assert_eq(infos[i].kind, (ouro_gc_kind)(i % 4));
}

/* --- fork --------------------------------------------------------------------------------------------------- */

Test(forced, goes_on_in_the_child_of_a_fork)
{
    int status = 0;

    begin(3);
    cr_assert_eq(pass(2), 0);
    cr_assert_eq(ouro_fork_prepare(), OURO_OK);
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        ouro_fork_child();
        bool good = pass(1) == 1 && pass(2) == 0 && pass(1) == 1 && infos[1].kind == OURO_GC_OLD;
        _exit(good ? 0 : 1);
    }
    ouro_fork_parent();
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    cr_assert_eq(pass(1), 1);
}

/* --- the environment ---------------------------------------------------------------------------------------- */

TestSuite(forced_environment, .init = enter_unregistered);

static const char *variable;
static size_t expected;

static void look(void)
{
    if (variable)
        setenv("OURO_GC_EVERY", variable, 1);
    else
        unsetenv("OURO_GC_EVERY");
    CHECK(ouro_thread_register("test") == OURO_OK);
    setenv("OURO_GC_EVERY", "1", 1); /* too late */
    CHECK(ouro_gc_get_every() == expected);
    CHECK(ouro_gc_add_callback(note, NULL) == OURO_OK);
    CHECK(pass(100) == (expected ? 100 / expected : 0));
    abort();
}

Test(forced_environment, says_how_many)
{
    static const struct {
        const char *variable;
        size_t expected;
    } cases[] = {{NULL, 0}, {"", 0}, {"0", 0}, {"1", 1}, {"7", 7}, {"1000", 1000}};
    char text[1000];

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        variable = cases[i].variable;
        expected = cases[i].expected;
        cr_assert(aborts(look, text, sizeof text));
        cr_assert_str_empty(text, "%s", text);
    }
}

Test(forced_environment, what_is_no_number_is_told_once)
{
    static const char *const cases[] = {"x", "7x", "-1", " 7", "1.5", "99999999999999999999999"};
    char text[1000], start[100];

    expected = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        variable = cases[i];
        cr_assert(aborts(look, text, sizeof text));
        snprintf(start, sizeof start, "ouro: OURO_GC_EVERY is \"%s\": it has to be a number",
                 variable);
        cr_assert_eq(strncmp(text, start, strlen(start)), 0, "%s", text);
        cr_assert_eq(strchr(text, '\n'), text + strlen(text) - 1, "%s", text);
    }
}

static void overrule(void)
{
    setenv("OURO_GC_EVERY", "5", 1);
    ouro_gc_set_every(2);
    CHECK(ouro_gc_get_every() == 2);
    CHECK(ouro_thread_register("test") == OURO_OK);
    CHECK(ouro_gc_add_callback(note, NULL) == OURO_OK);
    CHECK(pass(1) == 0);
    CHECK(pass(1) == 1);
    abort();
}

Test(forced_environment, a_call_overrules_it)
{
    char text[1000];

    cr_assert(aborts(overrule, text, sizeof text));
    cr_assert_str_empty(text, "%s", text);
}
