/*
 * gc/verify.h - verify mode: each collection checks the heap, and what it has decided, in another way than it decides.
 */
#ifndef OURO_GC_VERIFY_H
#define OURO_GC_VERIFY_H

#include "thread/seat.h"

#include <ouro/gc.h>

/* Whether collections are to be verified, if only those of small heaps. By who has the claim. */
bool verify_is_on(void);

/* Both in the stop of a collection, by who has the claim. The first before the set is made: each reference of each object
 * leads to an object that has a count for it. The second after the decision: nothing outside of the garbage refers to it, and
 * a full collection has missed none. If something is wrong they end the program with a sentence. Without memory for
 * their tables they say so, once, and do nothing. They write to no object and run no user code but `visit`. */
void verify_heap_stopped(void);
void verify_decision_stopped(struct seat *self, ouro_gc_kind kind);

#endif
