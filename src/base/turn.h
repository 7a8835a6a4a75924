/*
 * base/turn.h - what one thread has at a time, and others wait for.
 *
 *     FREE --take--> TAKEN --await, by another--> AWAITED --end--> FREE, and all that wait are woken
 *
 * A word and no mutex: it may be held while code of the program runs, and the child of a fork may take it from a thread
 * that it does not have.  Who comes from waiting takes it as AWAITED: others may be waiting, too.  Whoever waits has to be detached.
 */
#ifndef OURO_BASE_TURN_H
#define OURO_BASE_TURN_H

#include "base/atomic.h"
#include "base/os.h"

#include <limits.h>

enum turn_state { TURN_FREE, TURN_TAKEN, TURN_AWAITED };

typedef struct turn {
    uint32_t state; /* [atomic] [K1] */
} turn;

static inline bool turn_try(turn *t)
{
    uint32_t state = TURN_FREE;

    /* [K1] acquire: all that was done in the turn before; turn_end() */
    return cas_acq_rel(&t->state, &state, (uint32_t)TURN_TAKEN);
}

static inline void turn_take(turn *t)
{
    if (turn_try(t))
        return;
    /* [K1] acquire, as above */
    while (exchange_acq_rel(&t->state, (uint32_t)TURN_AWAITED) != TURN_FREE)
        os_futex_wait(&t->state, TURN_AWAITED, 0);
}

/* Waits until it is free, at most so long (0: no limit), and does not take it. */
static inline void turn_await(turn *t, uint64_t most_ns)
{
    uint32_t state = TURN_TAKEN;

    /* [K1] nothing hangs on it: the turn stays whose it is; turn_end() */
    if (cas_acq_rel(&t->state, &state, (uint32_t)TURN_AWAITED) || state == TURN_AWAITED)
        os_futex_wait(&t->state, TURN_AWAITED, most_ns);
}

static inline void turn_end(turn *t)
{
    /* [K1] release: all that was done in this turn; turn_try(), turn_take(). Wakes all: some don't want it. */
    if (exchange_acq_rel(&t->state, (uint32_t)TURN_FREE) == TURN_AWAITED)
        os_futex_wake(&t->state, INT_MAX);
}

/* In the child of a fork: whoever had it is not there. */
static inline void turn_vanish(turn *t)
{
    store_relaxed(&t->state, (uint32_t)TURN_FREE); /* relaxed: no other thread is left */
}

#endif
