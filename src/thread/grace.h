/*
 * thread/grace.h - grace periods: when everybody has passed a safepoint since.
 *
 * Whoever has taken something out of everybody's reach asks for a stamp (a batch's, not each thing's), and may
 * reuse it when the stamp is ripe: each thread that was attached then has passed a safepoint since.
 */
#ifndef OURO_THREAD_GRACE_H
#define OURO_THREAD_GRACE_H

#include <stdbool.h>
#include <stdint.h>

struct seat;

uint64_t grace_stamp(void);
bool grace_is_ripe(uint64_t stamp);

/* Begins a period unless one is in flight. By an attached thread, whose own acknowledgement is due as well, or by a
 * registered one that is detached. */
void grace_begin(struct seat *self);

/* By who has found that something waits and is not ripe: if the period in flight waits for too long, names the threads
 * that hold it up, once. May block on standard error; by a registered thread, without a lock. */
void grace_watch(struct seat *self);

/* The world goes on: nobody can have passed a safepoint while it was stopped. [lock: registry] */
void grace_rested_locked(void);

/* Periods for which a thread had to be named. */
uint64_t grace_late_periods(void);

/* A stopped world is a grace period, because threads park only at true safepoints. By who stopped it. */
void grace_in_stopped_world(void);

/* One seat's acknowledgement, after its QUIESCE has been cleared by its owner. */
void grace_acknowledge(void);

/* In the child of a fork, with the registry mutex, after QUIESCE has been cleared in all seats: a period in flight is
 * complete. */
void grace_vanish(void);

#endif
