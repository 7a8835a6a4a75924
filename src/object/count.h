/*
 * object/count.h - biased counting: what happens when a reference goes.
 *
 * Two counts: `owned`, a local count with its owner's id, written only by who has that seat; `shared`, signed,
 * with flags, changed by anyone by read-modify-write.  While the owner's id stands there the truth is
 * the sum; after the merge (id 0, flag MERGED) it is `shared` alone.
 *
 *    (k, n), n >= 1 --drain of a hint (who has seat k)--> id 0, MERGED           object/merge.c
 *    (k, 1), shared 0 --decref (owner)----------------> dead, nothing written
 *    (k, 1), shared else --decref (owner)-------------> id 0, then MERGED
 *    (k, 1), shared 0 --disown (owner)----------------> id 0, shared (1, MERGED)
 *    shared (0, MERGED) --whose operation made it so--> dead
 *    shared IMMORTAL --who has the seat, or anyone if the id is 0--> id IMMORTAL
 *
 * "Local 0 but not merged" never lasts.  docs/internals/count.md has the proof, stress/models/count.pml the search.
 */
#ifndef OURO_OBJECT_COUNT_H
#define OURO_OBJECT_COUNT_H

#include "thread/seat.h"

#include <ouro/object.h>

/* Gives up a reference; true if it was the last one: the caller has to destroy the object. May put objects that died
 * elsewhere onto the list of `self`. `w` is what was read of its `owned`: if that is not this thread, it is
 * enough that it was so once. */
bool count_drop_slow(struct seat *self, ouro_object *o, uint32_t w);

/* True if the caller's reference is the last one, and the object this thread's. `w` is its `owned`, as above. */
static inline bool count_drop_last(struct seat *self, ouro_object *o, uint32_t w)
{
    /* [C1] acquire: all that foreign threads did with their references; count_drop_slow() */
    return OURO_LIKELY(((w - (self->id << 16)) & ~OURO_FRESH) == 1) &&
           OURO_LIKELY(load_acquire(&o->ouro.shared) == 0);
}

static inline bool count_drop(struct seat *self, ouro_object *o)
{
    uint32_t w = load_relaxed(&o->ouro.owned);
    uint32_t x = w - (self->id << 16);

    if (OURO_LIKELY(x - 2u < OURO_FRESH - 2u)) {
        store_relaxed(&o->ouro.owned, w - 1u);
        return false;
    }
    return count_drop_last(self, o, w) || count_drop_slow(self, o, w);
}

enum { SHARED_LIMIT = 1 << 26 }; /* references in `shared`; more, and the object is immortal */

/* Makes it so. May run the `destroy` of others. */
void count_saturate(struct seat *self, ouro_object *o);

/* The sum of both counts; exact if nobody changes them meanwhile. 0 or less: it waits for the drain of a hint, or the two halves
 * were not read at one moment. */
static inline int32_t count_sum(uint32_t owned, uint32_t shared)
{
    int32_t count = OURO_SHARED_COUNT(shared);

    return OURO_OWNED_ID(owned) == OURO_ID_MERGED ? count
                                                  : count + (int32_t)OURO_OWNED_COUNT(owned);
}

/* A shared word that says: no references, whatever else is set. IMMORTAL never is. */
static inline bool count_is_zero(uint32_t shared)
{
    return (shared & ~OURO_WEAK) == OURO_MERGED;
}

#endif
