/*
 * ouro/gc.h - the cycle collector.
 *
 * It finds objects that nothing outside refers to although they refer to each other, and destroys them.
 * It runs when it is asked, and by itself when enough objects more exist than after the last run: then at an
 * ouro_safepoint() of the thread that made the last of them.
 */
#ifndef OURO_GC_H
#define OURO_GC_H

#include <ouro/base.h>
#include <ouro/object.h>

typedef enum ouro_gc_phase { OURO_GC_START, OURO_GC_STOP } ouro_gc_phase;

typedef enum ouro_gc_reason {
    OURO_GC_REQUESTED, /* ouro_collect(), ouro_shutdown() */
    OURO_GC_AUTOMATIC, /* the threshold was reached */
} ouro_gc_reason;

/* What a collection did. At OURO_GC_START only phase, reason, generation, number and net_new are set. */
typedef struct ouro_gc_info {
    ouro_gc_phase phase;
    ouro_gc_reason reason;
    unsigned generation; /* 2: everything. 0 and 1 are reserved. */
    uint64_t number;     /* of this collection, counting from 1 */
    size_t net_new;      /* objects by which their number had grown since the last one, roughly */
    size_t candidates;   /* objects that were examined */
    size_t collected;    /* objects that were found to be garbage, and were destroyed */
    size_t
        uncollectable; /* objects that were found to be garbage, and are kept because of OURO_GC_SAVE */
    size_t
        finalizers; /* objects that were found to be garbage, and wait for their finalizers first */
    uint64_t stop_ns;  /* from asking all threads to stop until they had */
    uint64_t pause_ns; /* from then until they could go on */
    uint64_t total_ns; /* all, with the destruction, during which the others run */
    size_t threshold;  /* net_new at which the next automatic one is due */
} ouro_gc_info;

typedef struct ouro_gc_stats {
    uint64_t collections;
    uint64_t automatic; /* those of them that nobody asked for */
    uint64_t collected; /* objects, all collections together */
    uint64_t uncollectable;
    uint64_t stop_ns_total;
    uint64_t stop_ns_max;
    uint64_t pause_ns_total;
    uint64_t pause_ns_max;
    uint64_t total_ns;
    uint64_t late_stops;   /* stops, of any kind, for which the watchdog had to name a thread */
    uint64_t late_periods; /* grace periods for which it had to */
    size_t threshold;      /* in force now */
    size_t net_new;        /* now, roughly */
} ouro_gc_stats;

/* Called at the start and at the end of each collection, on the thread that runs it, attached. It may use the
 * library, but a collection inside of it does nothing. No lock may be held at a call that may collect if a
 * callback or a `destroy` takes that lock. */
typedef void (*ouro_gc_callback)(const ouro_gc_info *info, void *argument);

OURO_BEGIN_DECLS

/*
 * Examines all tracked objects and destroys those that are garbage. Returns how many. If another thread is
 * collecting, waits for that one first, detached. Then runs the finalizers and callbacks that wait (unless the program runs them only on request, or
 * the caller holds a lock), and begins again, as long as this thread or its collections have queued others, a hundred
 * times at most. If finalizers have a thread of the library's own it waits, detached, until that has done as many as were
 * queued. In a callback or a `destroy`: returns 0 at once; in a finalizer: collects once. Runs `destroy` of what it
 * found and the collector's callbacks, also if the caller holds an Ouro lock: they must not want that one. Attached; a
 * safepoint.
 */
OURO_API size_t ouro_collect(void);

/* Keeps automatic collections away, until as many calls of ouro_gc_enable(). For all threads; ouro_collect() works
 * as ever. Any thread; never a safepoint. */
OURO_API void ouro_gc_disable(void);
OURO_API void ouro_gc_enable(void);
OURO_API bool ouro_gc_is_enabled(void);

/*
 * An automatic collection is due when the number of tracked objects has grown by `objects`, or by `percent` of those
 * that survived the last one if that is more. 2000 and 25 at first. 0 objects: never. Any thread; never a safepoint.
 */
OURO_API void ouro_gc_set_threshold(size_t objects, unsigned percent);
OURO_API void ouro_gc_get_threshold(size_t *objects, unsigned *percent);

/* For debugging: OURO_GC_... or 0. Any thread; never a safepoint. */
#define OURO_GC_PRINT_STATS 1u /* a line on standard error for each collection */
#define OURO_GC_PRINT_GARBAGE \
    2u /* a line on standard error for each object that is destroyed by one, or kept */
#define OURO_GC_SAVE 4u /* what would be destroyed is kept instead, see ouro_gc_each_saved() */
OURO_API void ouro_gc_set_debug(unsigned flags);
OURO_API unsigned ouro_gc_get_debug(void);

/*
 * Calls `each` for every object that was kept by OURO_GC_SAVE, in a stopped world, until it returns false; returns
 * the number of calls. What `each` may do: see ouro_each_object(). Attached; a safepoint.
 */
OURO_API size_t ouro_gc_each_saved(bool (*each)(ouro_object *o, void *argument), void *argument);

/* Gives up what was kept, and returns how many objects that were; if OURO_GC_SAVE is no longer set the next collection destroys
 * them. Attached; a safepoint that may run `destroy`. */
OURO_API size_t ouro_gc_drop_saved(void);

/* Whether the collector examines objects like this one: not if its type has no references or promises to be acyclic.
 * Attached; never a safepoint. */
OURO_API bool ouro_gc_is_tracked(const ouro_object *o);

/* Callbacks are called in the order in which they were added. OURO_BUSY: that pair is there already; OURO_LIMIT: 32
 * are; OURO_INVALID: NULL. Any thread; never a safepoint. */
OURO_API OURO_NODISCARD ouro_status ouro_gc_add_callback(ouro_gc_callback callback, void *argument);

/* OURO_ABSENT if the pair is not there. A collection under way on another thread may still call it once.
 * Any thread; never a safepoint. */
OURO_API ouro_status ouro_gc_remove_callback(ouro_gc_callback callback, void *argument);

/* Any thread; never a safepoint. */
OURO_API void ouro_gc_get_stats(ouro_gc_stats *stats);

/* For ouro_freeze(): all objects become immortal as well, those that no collection looks at included. For ever. */
#define OURO_FREEZE_IMMORTAL 1u

/*
 * Keeps all tracked objects that are alive out of collections, until ouro_unfreeze(): a collection neither examines nor
 * writes to them, and what they refer to is held. Their references are counted as ever, and a frozen object
 * whose last one goes is destroyed. It is meant for a program that is about to fork: pages that nobody writes to stay
 * shared with the child. With OURO_FREEZE_IMMORTAL counting doesn't write to them either, and ouro_unfreeze() does
 * not undo that. An object whose last reference is just going is left mortal. Returns the number of
 * objects that were not frozen before. What is garbage already is frozen, too: collect first. If another thread is
 * collecting, waits for that one first, detached. May run `destroy`. Attached, not in a `destroy`; a safepoint.
 */
OURO_API size_t ouro_freeze(unsigned flags);

/* Lets collections examine frozen objects again; returns how many there were. Immortal ones stay immortal. Waits as
 * ouro_freeze() does. May run `destroy`. Attached, not in a `destroy`; a safepoint. */
OURO_API size_t ouro_unfreeze(void);

/* The number of frozen objects, exact as of one moment, for which it stops the world; in time proportional to the
 * number of objects. May run `destroy`. Attached, not in a `destroy`; a safepoint. */
OURO_API size_t ouro_frozen_count(void);

OURO_END_DECLS

#ifdef __cplusplus
template <class T> inline bool ouro_gc_is_tracked(const T *p)
{
    return ouro_gc_is_tracked(ouro_object_of(p));
}
#else
#define ouro_gc_is_tracked(p) (ouro_gc_is_tracked)(OURO_OF_CONST(p))
#endif

#endif
