/*
 * gc/deep.h - a deep collection in slices: many short stops, between which the program runs.
 */
#ifndef OURO_GC_DEEP_H
#define OURO_GC_DEEP_H

#include "gc/sets.h"

struct deep_slice {
    size_t looked;  /* objects, and references in them, looked at */
    size_t fresh;   /* new objects that have become part of it */
    size_t members; /* so many are part of it now */
};

/* One is under way: no collection but a young one may be made before deep_end(). By who has the claim; by others, roughly. */
bool deep_is_under_way(void);

/* In a stopped world: goes on until the limit is reached, or begins. In some slices, the last among them, it makes a set of what is
 * presumed to be garbage, with the references inside counted; in all others that set is empty. The caller has it tried, and
 * then says so. */
void deep_slice(struct trial *trial, const struct sets_limit *limit, struct deep_slice *slice);
void deep_decided(const struct trial *trial);

/* For KEEP_GUESSED, by who has the page: a member of such a set was kept. */
void deep_keep(struct page *page, ouro_object *o);

/* Ends what is under way, if anything is, in stops of its own; what it would have examined are candidates again. By who has the claim;
 * a safepoint. */
void deep_end(struct seat *self);

#endif
