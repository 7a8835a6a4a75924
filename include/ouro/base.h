/*
 * ouro/base.h - version, status codes, and the macros that the other headers use.
 */
#ifndef OURO_BASE_H
#define OURO_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define OURO_VERSION_MAJOR 0
#define OURO_VERSION_MINOR 1
#define OURO_VERSION_PATCH 0

#ifdef __cplusplus
#define OURO_BEGIN_DECLS extern "C" {
#define OURO_END_DECLS   }
#else
#define OURO_BEGIN_DECLS
#define OURO_END_DECLS
#endif

#define OURO_API         __attribute__((visibility("default")))
#define OURO_NODISCARD   __attribute__((warn_unused_result))
#define OURO_COLD        __attribute__((cold, noinline))
#define OURO_LIKELY(c)   __builtin_expect(!!(c), 1)
#define OURO_UNLIKELY(c) __builtin_expect(!!(c), 0)

OURO_BEGIN_DECLS

/* What went wrong. 0 is success, so `if (ouro_thread_register("x")) ...` is the error branch. */
typedef enum ouro_status {
    OURO_OK = 0,
    OURO_NO_MEMORY, /* the operating system gave no memory */
    OURO_INVALID,   /* an argument breaks the rule that the function documents */
    OURO_LIMIT,     /* a fixed number of things is used up: threads, types, callbacks */
    OURO_SHUTDOWN,  /* ouro_shutdown() has begun */
    OURO_BUSY,      /* somebody else is still at it, or the thing is there already */
    OURO_ABSENT,    /* there is no such thing */
} ouro_status;

/* A short English sentence for a status, without a full stop. Never NULL. Any thread; never a safepoint. */
OURO_API const char *ouro_status_text(ouro_status status);

/* The version of the library that is running, "0.1.0". Any thread; never a safepoint. */
OURO_API const char *ouro_version(void);

OURO_END_DECLS

#endif
