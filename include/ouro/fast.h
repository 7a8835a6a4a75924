/*
 * ouro/fast.h - the inline fast paths. Included by <ouro/object.h>.
 *
 * One test decides: mine, and the count has room (incref); mine, not fresh, and a reference is left (decref).
 * As few instructions as can be wait for the object's cache line: that is what a program with many
 * objects pays for.  A thread that may not touch objects has a tag that no object has.
 * What these functions write is an object's `owned` word, and only when it carries this thread's id.
 */
#ifndef OURO_OBJECT_H
#include <ouro/object.h> /* which includes the one of the two that is wanted */
#elif !defined(OURO_FAST_PATHS)
#define OURO_FAST_PATHS

#include <ouro/base.h>

OURO_BEGIN_DECLS

/*
 * Adds a reference to an object that the caller can reach by one, and returns the object.
 * Attached; never a safepoint, can't fail.
 */
OURO_API inline ouro_object *ouro_incref(ouro_object *o)
{
    uint32_t w = __atomic_load_n(&o->ouro.owned, __ATOMIC_RELAXED);

    if (OURO_LIKELY(((w ^ ouro_self.tag) & (0xFFFF0000u | OURO_LOCAL_FULL)) == 0))
        __atomic_store_n(&o->ouro.owned, w + 1u, __ATOMIC_RELAXED);
    else if (w < OURO_ID_IMMORTAL << 16)
        ouro_incref_slow(o, w);
    return o;
}

/*
 * Gives up one of the caller's references. The last one destroys the object at once: what it refers to is
 * dropped, its type's `destroy` runs, its memory is free; so it goes for what dies with it. Only `destroy` runs.
 * Attached; never a safepoint, can't fail.
 */
OURO_API inline void ouro_decref(ouro_object *o)
{
    uint32_t w = __atomic_load_n(&o->ouro.owned, __ATOMIC_RELAXED);

    if (OURO_LIKELY(w - ouro_self.tag_two < OURO_FRESH - 2u))
        __atomic_store_n(&o->ouro.owned, w - 1u, __ATOMIC_RELAXED);
    else if (w < OURO_ID_IMMORTAL << 16)
        ouro_decref_slow(o, w);
}

/*
 * A point at which the thread holds nothing borrowed. If nobody wants anything it is a load and a branch.
 * Else the thread parks until a stopped world goes on, takes in what others left for it, goes on with a
 * long destruction, or runs a collection that is due; that runs `destroy` and the collector's callbacks.
 * Call it in every loop that runs long. Attached; a safepoint.
 */
OURO_API inline void ouro_safepoint(void)
{
    /* Relaxed: what is behind a bit is read after a read-modify-write of the same word in the slow path. */
    if (OURO_UNLIKELY(__atomic_load_n(ouro_self.word, __ATOMIC_RELAXED) != 1u))
        ouro_safepoint_slow();
}

OURO_END_DECLS

#endif
