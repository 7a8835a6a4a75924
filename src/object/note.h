/*
 * object/note.h - noting candidates: objects that have lost a reference and live on.
 *
 * Only such an object can be part of garbage that counting does not find.  An object is a candidate if the bit FRESH is
 * missing in its `owned` while that has an owner, or if it has the flag NOTED; and then its bit is set in the map of
 * its page, unless it is NEW: the next young collection looks at all new objects anyway, and puts what it keeps into
 * the map.
 *
 *    owner's first decrement of a fresh object   note_owned(), and FRESH goes
 *    any other decrement                         note_shared() before it: afterwards the object may be gone
 *    merge                                       note_merged(), since `owned` no longer says anything
 *    a reference moved without being counted     ouro_note(), ouro_move()
 *
 * Who may be wrong, and how: two threads may both set the bit.  A candidate may have died, and its block be another
 * object's: the collector looks at that one in vain.  Types without references, and acyclic ones, are never fresh and never
 * noted.  docs/internals/generations.md
 */
#ifndef OURO_OBJECT_NOTE_H
#define OURO_OBJECT_NOTE_H

#include "base/atomic.h"
#include "thread/seat.h"

#include <ouro/object.h>

enum { NOTE_NOT = OURO_FLAG_UNTRACKED | OURO_FLAG_NOTED };

/* Sets the bit in the map. */
void note_in_map(struct seat *self, ouro_object *o);

/* Sets NOTED, and the bit unless it is NEW. */
void note_flag(struct seat *self, ouro_object *o);

/* By the owner, before FRESH goes. */
static inline void note_owned(struct seat *self, ouro_object *o)
{
    /* Relaxed: NEW changes in a stopped world. */
    if (!(load_relaxed(&o->ouro.flags) & (OURO_FLAG_UNTRACKED | OURO_FLAG_NEW)))
        note_in_map(self, o);
}

/* Before a decrement of `shared`; `w` is what was read of `owned`. If that says that it is a candidate already the owner has
 * noted it, or will do so if it merges. */
static inline void note_shared(struct seat *self, ouro_object *o, uint32_t w)
{
    if (load_relaxed(&o->ouro.flags) & NOTE_NOT)
        return;
    if (OURO_OWNED_ID(w) == OURO_ID_MERGED || (w & OURO_FRESH))
        note_flag(self, o);
}

/* By who has the seat, before `owned` becomes 0. */
static inline void note_merged(struct seat *self, ouro_object *o)
{
    if (!(load_relaxed(&o->ouro.flags) & NOTE_NOT))
        note_flag(self, o);
}

#endif
