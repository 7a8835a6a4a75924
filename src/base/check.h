/*
 * base/check.h - the four kinds of check.
 *
 *   REQUIRE        the caller broke the contract; on in all builds, at slow paths; ends the program with a
 *                  sentence that says what to do
 *   ASSERT         we are wrong; O(1); only in check builds
 *   AUDIT          walks a structure; only in check builds
 *   static_assert  what the compiler can see
 */
#ifndef OURO_BASE_CHECK_H
#define OURO_BASE_CHECK_H

#include <assert.h>
#include <stdbool.h>

#include <ouro/base.h>

#if defined(OURO_CHECK) && OURO_CHECK
enum { CHECKING = true };
#else
enum { CHECKING = false };
#endif

/* Prints "ouro: " and the sentence on standard error, and aborts. */
_Noreturn void check_failed(const char *format, ...) __attribute__((format(printf, 1, 2), cold));

/* Prints a text on standard error, without the lock of `stderr`, so in a stopped world, too. It is no cancellation point: who
 * calls it may have what all others wait for, and would take it along. */
void check_say(const char *format, ...) __attribute__((format(printf, 1, 2), cold));

#define REQUIRE(condition, ...)          \
    do {                                 \
        if (OURO_UNLIKELY(!(condition))) \
            check_failed(__VA_ARGS__);   \
    } while (0)

#define ASSERT(condition)                                                                \
    do {                                                                                 \
        if (CHECKING && OURO_UNLIKELY(!(condition)))                                     \
            check_failed("internal error at %s:%d: %s", __FILE__, __LINE__, #condition); \
    } while (0)

#define AUDIT(call)   \
    do {              \
        if (CHECKING) \
            call;     \
    } while (0)

#endif
