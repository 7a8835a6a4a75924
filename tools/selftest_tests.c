/*
 * selftest_tests.c - tests with known ends, for tools/selftest.
 *
 * The first word of a test's name is what the runner has to say of it: pass, fail, crash, skip; a test
 * called never_... is disabled.  This file is no part of the unit tests.
 */

#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#ifdef LEAK_ONLY

static void *volatile lost;

Test(planted, leak)
{
    lost = malloc(32);
    lost = NULL;
}

#else

static int unguarded;
static int entered;

static void *count(void *unused)
{
    for (int i = 0; i < 1000; i++)
        unguarded++;
    return unused;
}

static void race(void)
{
    pthread_t thread;

    pthread_create(&thread, NULL, count, NULL);
    count(NULL);
    pthread_join(thread, NULL);
}

static void *assert_in_thread(void *unused)
{
    cr_assert(0, "in a thread");
    return unused;
}

static void enter(void)
{
    entered++;
}

static void leave_badly(void)
{
    cr_assert(0, "in fini");
}

TestSuite(plain, .init = enter);
TestSuite(aborts, .signal = SIGABRT);
TestSuite(off, .disabled = true);

Test(plain, pass)
{
    cr_assert_eq(entered, 1);
    cr_assert_str_eq("a", "a");
}

Test(plain, pass_init, .init = enter)
{
    cr_assert_eq(entered, 2);
}

Test(plain, fail_assert)
{
    cr_assert_eq(entered, 7, "entered %d times", entered);
}

Test(plain, fail_expect)
{
    cr_expect(0);
}

Test(plain, fail_fini, .fini = leave_badly)
{
}

Test(plain, fail_in_thread)
{
    pthread_t thread;

    pthread_create(&thread, NULL, assert_in_thread, NULL);
    pthread_join(thread, NULL);
}

Test(plain, crash_abort)
{
    abort();
}

Test(plain, pass_abort, .signal = SIGABRT)
{
    abort();
}

Test(plain, pass_segv, .signal = SIGSEGV)
{
    raise(SIGSEGV);
}

Test(aborts, pass_by_suite)
{
    abort();
}

Test(plain, fail_no_abort, .signal = SIGABRT)
{
}

Test(plain, crash_other_signal, .signal = SIGABRT)
{
    raise(SIGTERM);
}

Test(plain, fail_expect_then_abort, .signal = SIGABRT)
{
    cr_expect(0);
    abort();
}

Test(plain, pass_exit, .exit_code = 3)
{
    exit(3);
}

Test(plain, fail_no_exit, .exit_code = 3)
{
}

Test(plain, fail_exit)
{
    exit(3);
}

Test(plain, fail_race)
{
    race();
}

Test(plain, fail_race_then_abort, .signal = SIGABRT)
{
    race();
    abort();
}

Test(plain, crash_timeout, .timeout = 0.1)
{
    for (;;)
        pause();
}

Test(plain, skip_this)
{
    cr_skip("not today");
}

/* What a test leaves running is stopped with it. */
Test(plain, pass_leaves_a_process)
{
    if (fork() == 0) {
        for (;;)
            pause();
    }
}

Test(off, never_run)
{
    abort();
}

ParameterizedTestParameters(plain, pass_parameters)
{
    static int values[] = {1, 2, 3};

    return cr_make_param_array(int, values, 3);
}

ParameterizedTest(int *value, plain, pass_parameters)
{
    cr_assert_lt(*value, 4);
}

ParameterizedTestParameters(plain, fail_parameters)
{
    static int values[] = {5};

    return cr_make_param_array(int, values, 1);
}

ParameterizedTest(int *value, plain, fail_parameters)
{
    cr_assert_lt(*value, 4);
}

#endif
