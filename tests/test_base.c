/*
 * test_base.c - the lowest layer: memory from the operating system, futexes, status texts, checks.
 */
#include <criterion/criterion.h>

#include "support.h"

#include "base/atomic.h"
#include "base/check.h"
#include "base/fault.h"
#include "base/os.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

Test(base, status_texts_differ)
{
    for (int a = OURO_OK; a <= OURO_ABSENT; a++) {
        cr_assert(strlen(ouro_status_text((ouro_status)a)) > 0);
        for (int b = OURO_OK; b < a; b++)
            cr_assert(strcmp(ouro_status_text((ouro_status)a), ouro_status_text((ouro_status)b)) !=
                          0,
                      "%d and %d", a, b);
    }
    cr_assert_str_eq(ouro_status_text((ouro_status)1000), "unknown status");
}

Test(base, version_matches_macros)
{
    char text[40];

    snprintf(text, sizeof text, "%d.%d.%d", OURO_VERSION_MAJOR, OURO_VERSION_MINOR,
             OURO_VERSION_PATCH);
    cr_assert_str_eq(ouro_version(), text);
}

Test(base, map_is_aligned_and_zero)
{
    for (size_t alignment = 4096; alignment <= (32u << 20); alignment *= 8) {
        size_t bytes = 3 * 4096;
        unsigned char *p = os_map(bytes, alignment);

        cr_assert(p);
        cr_assert_eq((uintptr_t)p % alignment, 0);
        for (size_t i = 0; i < bytes; i++)
            cr_assert_eq(p[i], 0);
        memset(p, 0xAB, bytes);
        os_discard(p, 4096);
        cr_assert_eq(p[0], 0);
        cr_assert_eq(p[4095], 0);
        cr_assert_eq(p[4096], 0xAB);
        os_unmap(p, bytes);
    }
}

Test(base, map_refuses_the_impossible)
{
    cr_assert_null(os_map(SIZE_MAX, 4096));
    cr_assert_null(os_map(SIZE_MAX - 4096, 32u << 20));
    cr_assert_null(os_map(0, 4096));
}

static uint32_t word;

static void *wake_it(void *unused)
{
    __atomic_store_n(&word, 1, __ATOMIC_RELEASE);
    os_futex_wake(&word, 1);
    return unused;
}

Test(base, futex_waits_for_a_change)
{
    pthread_t thread;

    cr_assert_eq(pthread_create(&thread, NULL, wake_it, NULL), 0);
    while (__atomic_load_n(&word, __ATOMIC_ACQUIRE) == 0)
        os_futex_wait(&word, 0, 0);
    pthread_join(thread, NULL);
}

Test(base, futex_times_out)
{
    uint64_t start = os_now_ns();

    cr_assert_not(os_futex_wait(&word, 0, 20000000));
    cr_assert_geq(os_now_ns() - start, 19000000u);
    cr_assert(os_futex_wait(&word, 7, 0), "another value returns at once");
}

Test(base, there_is_a_processor)
{
    cr_assert_geq(os_processors(), 1);
    cr_assert_eq(os_processors(), os_processors());
}

Test(base, require_aborts, .signal = SIGABRT)
{
    REQUIRE(1 + 1 == 3, "arithmetic of %d", 3);
}

Test(base, require_passes)
{
    REQUIRE(1 + 1 == 2, "never");
    cr_assert(true);
}

Test(base, atomics_do_what_they_say)
{
    uint32_t x = 5, expected = 4;

    cr_assert_not(cas_acq_rel(&x, &expected, 9u));
    cr_assert_eq(expected, 5);
    cr_assert(cas_acq_rel(&x, &expected, 9u));
    cr_assert_eq(fetch_add_acq_rel(&x, 1u), 9);
    cr_assert_eq(fetch_sub_acq_rel(&x, 2u), 10);
    cr_assert_eq(fetch_or_acq_rel(&x, 3u), 8);
    cr_assert_eq(fetch_and_acq_rel(&x, ~1u), 11);
    cr_assert_eq(exchange_acq_rel(&x, 1u), 10);
    cr_assert_eq(load_acquire(&x), 1);
}

#if defined(OURO_CHECK) && OURO_CHECK

Test(base, fault_hits_the_nth_once)
{
    fault_arm(3);
    cr_assert_not(fault_hit());
    cr_assert_not(fault_hit());
    cr_assert_not(fault_fired());
    cr_assert(fault_hit());
    cr_assert(fault_fired());
    cr_assert_not(fault_hit());
    fault_arm(1);
    cr_assert_not(fault_fired());
    fault_disarm();
    cr_assert_not(fault_hit());
}

#endif
