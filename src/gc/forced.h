/*
 * gc/forced.h - collections at every n-th safepoint, whatever the schedule says: for testing.
 */
#ifndef OURO_GC_FORCED_H
#define OURO_GC_FORCED_H

#include "thread/seat.h"

#include <ouro/gc.h>

/* Whether that is on. Relaxed: who has COLLECT in its word has seen the setting. */
bool forced_is_on(void);

/* COLLECT in the caller's word if it is on. At each attach, and after each safepoint that has taken it out. */
void forced_ask(struct seat *self);

/* Counts a safepoint where an automatic collection may run; true if one is to be made here. */
bool forced_is_due(struct seat *self);

/* It is made now: the count begins anew. Which kind: all in turn. By who has the claim. */
ouro_gc_kind forced_take(struct seat *self);

#endif
