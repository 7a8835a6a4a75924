/*
 * gc/trial.h - trial deletion: which objects are held by each other only.
 */
#ifndef OURO_GC_TRIAL_H
#define OURO_GC_TRIAL_H

#include "heap/page.h"
#include "thread/seat.h"

struct trial {
    unsigned debugging; /* OURO_GC_... */
    size_t members;     /* objects that were examined */
    size_t garbage;     /* those of them that nothing outside holds */
    size_t survivors;
    size_t
        queued; /* objects whose finalizer has been queued; they and what they reach have survived */
    size_t saved; /* objects that would be garbage, and got a reference instead */
    struct page
        *pages; /* pages with garbage, linked by condemned_next; their condemned bits say which */
};

/* Examines all tracked objects. In a stopped world. Clears weak references to garbage, queues finalizers, marks the rest
 * of it with OURO_FLAG_GARBAGE, or with OURO_FLAG_SAVED if OURO_GC_SAVE is among `debugging`. Allocates nothing, can't fail, runs no user
 * code but `visit`. */
void trial_full(struct seat *self, struct trial *trial, unsigned debugging);

#endif
