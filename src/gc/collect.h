/*
 * gc/collect.h - a collection from beginning to end.
 */
#ifndef OURO_GC_COLLECT_H
#define OURO_GC_COLLECT_H

#include <stdbool.h>

struct seat;
struct sets_limit;

/* At a safepoint of a thread whose word has COLLECT: collects if it is due, or to be forced, and nobody else is at it. */
void collect_automatic(struct seat *self);

/* One thread at a time has the claim; a collection needs it from before its first callback until after its last. Waits
 * detached; a safepoint. Not by a thread that is `collecting`, which has it. */
void collect_claim_wait(struct seat *self);
void collect_claim_release(void);

/* One slice of a deep collection, perhaps the first; returns whether it is still under way. A safepoint. */
bool collect_slice(void);

/* For tests: young and old collections that are asked for by ouro_collect_kind(), and slices, keep to this limit; NULL: to the
 * schedule's. It is copied. Not while another thread collects. */
void collect_set_limits(const struct sets_limit *limit);

/* For fork: the mutex of callbacks and figures. */
void collect_fork_prepare(void);
void collect_fork_done(void);

#endif
