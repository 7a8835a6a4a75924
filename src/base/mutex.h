/*
 * base/mutex.h - internal mutexes: leaves, held for bounded work, never across a safepoint, never while
 * user code runs. Order, for the few that nest: world, then registry, then heap, then the small ones. A fork takes them
 * all: whoever adds one adds a line to the table in gc/fork.c.
 */
#ifndef OURO_BASE_MUTEX_H
#define OURO_BASE_MUTEX_H

#include "base/check.h"

#include <pthread.h>

typedef pthread_mutex_t mutex;
#define MUTEX_INIT PTHREAD_MUTEX_INITIALIZER

static inline void mutex_lock(mutex *m)
{
    int error = pthread_mutex_lock(m);

    REQUIRE(error == 0,
            "a mutex of the library can't be locked (error %d): is its memory overwritten?", error);
}

static inline bool mutex_trylock(mutex *m)
{
    return pthread_mutex_trylock(m) == 0;
}

static inline void mutex_unlock(mutex *m)
{
    int error = pthread_mutex_unlock(m);

    REQUIRE(error == 0,
            "a mutex of the library can't be unlocked (error %d): is its memory overwritten?",
            error);
}

#endif
