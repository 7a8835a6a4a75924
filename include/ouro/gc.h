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
    OURO_GC_REQUESTED, /* by a call */
    OURO_GC_AUTOMATIC, /* it was due */
} ouro_gc_reason;

/* Why just now. */
typedef enum ouro_gc_cause {
    OURO_GC_CAUSE_CALL,    /* somebody asked for it */
    OURO_GC_CAUSE_OBJECTS, /* young: as many new objects as the threshold says */
    OURO_GC_CAUSE_BYTES,   /* young: many bytes, of new objects or elsewhere */
    OURO_GC_CAUSE_LEFT,    /* young: the last one left new objects over, to keep to the budget */
    OURO_GC_CAUSE_CANDIDATES, /* old: there are many, or many bytes are held and young ones find little */
    OURO_GC_CAUSE_CUT,        /* deep: many candidates reach more than old ones look at */
    OURO_GC_CAUSE_GROWTH, /* old, deep: there is twice as much as when nothing was left to look at */
    OURO_GC_CAUSE_SLICE,  /* deep: the next slice of one under way */
    OURO_GC_CAUSE_LIMIT,  /* memory is over the soft limit */
    OURO_GC_CAUSE_EVERY,  /* ouro_gc_set_every() */
} ouro_gc_cause;

/* Which objects a collection looks at. The first two keep to the pause budget: what is left is left to the next one. */
typedef enum ouro_gc_kind {
    OURO_GC_YOUNG, /* those made since the last one */
    OURO_GC_OLD, /* candidates, which are those that have lost a reference and lived on, and what is near them */
    OURO_GC_DEEP, /* new ones, candidates, and all that these reach, or all if that is most of a large heap; in one stop if asked for,
                   * else in slices */
    OURO_GC_FULL, /* all, in one stop */
} ouro_gc_kind;

/* What matters more. */
typedef enum ouro_gc_policy {
    OURO_GC_THROUGHPUT, /* no limit to a pause */
    OURO_GC_BALANCED,   /* at first: pauses keep to the budget */
    OURO_GC_LOW_PAUSE,  /* to a quarter of it */
} ouro_gc_policy;

/* What a collection did. At OURO_GC_START what is from `candidates` on is 0. */
typedef struct ouro_gc_info {
    ouro_gc_phase phase;
    ouro_gc_reason reason;
    ouro_gc_cause cause;
    ouro_gc_kind kind;
    unsigned generation;  /* 0: young, 1: old, 2: the others */
    uint64_t number;      /* of this collection, counting from 1 */
    size_t net_new;       /* objects by which their number had grown since the last one, roughly */
    size_t net_new_bytes; /* and bytes, of tracked objects and external ones, roughly */
    size_t noted;         /* candidates that there were, roughly */
    size_t bytes;         /* of tracked objects, and external ones, at its beginning, roughly */
    size_t candidates;    /* objects that were examined */
    size_t collected;     /* objects that were found to be garbage, and were destroyed */
    size_t
        uncollectable; /* objects that were found to be garbage, and are kept because of OURO_GC_SAVE */
    size_t
        finalizers; /* objects that were found to be garbage, and wait for their finalizers first */
    size_t cut;     /* candidates that wait for a deep collection, roughly */
    uint64_t stop_ns;  /* from asking all threads to stop until they had */
    uint64_t pause_ns; /* from then until they could go on */
    uint64_t total_ns; /* all, with the destruction, during which the others run */
    size_t threshold;  /* net_new at which the next young one is due */
    bool under_way; /* a deep collection in slices is not at its end yet; each slice has a record */
    unsigned
        helpers; /* stopped threads that took part, at most in one pass: see ouro_gc_set_helpers() */
} ouro_gc_info;

typedef struct ouro_gc_stats {
    uint64_t collections;
    uint64_t automatic;  /* those of them that nobody asked for */
    uint64_t of_kind[4]; /* by ouro_gc_kind */
    uint64_t collected;  /* objects, all collections together */
    uint64_t uncollectable;
    uint64_t stop_ns_total;
    uint64_t stop_ns_max;
    uint64_t pause_ns_total;
    uint64_t pause_ns_max;
    uint64_t total_ns;
    uint64_t late_stops;   /* stops, of any kind, for which the watchdog had to name a thread */
    uint64_t late_periods; /* grace periods for which it had to */
    size_t threshold;      /* in force now, of young collections */
    /* Now, roughly. What the schedule goes by: */
    size_t net_new;        /* objects since the last young collection */
    size_t net_new_bytes;  /* and their bytes, with external ones */
    size_t noted;          /* candidates */
    size_t cut;            /* candidates that wait for a deep collection */
    size_t tracked;        /* tracked objects */
    size_t settled;        /* of them when nothing was left to look at */
    size_t tracked_bytes;  /* their blocks */
    size_t external_bytes; /* told by ouro_adjust_external_bytes() */
    uint64_t young_ns;     /* an object takes in a stop */
    uint64_t old_ns;
    bool under_way; /* a deep collection in slices is not at its end */
} ouro_gc_stats;

/* Memory is over the soft limit though everything was collected: bytes in use, the limit. It runs at an explicit safepoint, attached. */
typedef void (*ouro_gc_pressure)(size_t used, size_t limit, void *argument);

/* Called at the start and at the end of each collection, on the thread that runs it, attached. It may use the
 * library, but a collection inside of it does nothing. No lock may be held at a call that may collect if a
 * callback or a `destroy` takes that lock. */
typedef void (*ouro_gc_callback)(const ouro_gc_info *info, void *argument);

OURO_BEGIN_DECLS

/*
 * Finds all garbage and destroys it: examines the new objects, the candidates, and all that these reach. (References that
 * were moved without being counted or noted can hide some: see ouro_note(), and ouro_collect_kind(OURO_GC_FULL).) Returns how many. If another thread is
 * collecting, waits for that one first, detached. Then runs the finalizers and callbacks that wait (unless the program runs them only on request, or
 * the caller holds a lock), and begins again, as long as this thread or its collections have queued others, a hundred
 * times at most. If finalizers have a thread of the library's own it waits, detached, until that has done as many as were
 * queued. In a callback or a `destroy`: returns 0 at once; in a finalizer: collects once. Runs `destroy` of what it
 * found and the collector's callbacks, also if the caller holds an Ouro lock: they must not want that one. Attached; a
 * safepoint.
 */
OURO_API size_t ouro_collect(void);

/* One collection of that kind, without finalizers. While a deep one in slices is under way an old one is a slice of it. Everything
 * else is as above. */
OURO_API size_t ouro_collect_kind(ouro_gc_kind kind);

/* For idle time: collects in stops that keep to the pause budget until that time is over or nothing is left to do, and
 * returns true if something is. The destruction of what it finds lies within the call, too, though not in a stop, and is
 * not interrupted: a `destroy` that takes long, or much garbage, makes the last stop's part longer than the time. Everything else is as
 * for ouro_collect_kind(). */
OURO_API bool ouro_collect_step(uint64_t budget_ns);

/* Keeps automatic collections away, until as many calls of ouro_gc_enable(). For all threads; ouro_collect() works
 * as ever. Any thread; never a safepoint. */
OURO_API void ouro_gc_disable(void);
OURO_API void ouro_gc_enable(void);
OURO_API bool ouro_gc_is_enabled(void);

/*
 * A young collection is due when the number of tracked objects has grown by `objects`: that is where it begins, collections that free little raise
 * it. Old ones are due when there are more candidates than `objects`, and more than `percent` of the
 * objects. 2000 and 25 at first. 0 objects: never. Any thread; never a safepoint.
 */
OURO_API void ouro_gc_set_threshold(size_t objects, unsigned percent);
OURO_API void ouro_gc_get_threshold(size_t *objects, unsigned *percent);

/*
 * For tests: from now on each explicit safepoint that is the n-th of its thread makes an automatic collection, whatever the
 * schedule says, where one may be made at all: automatic ones are enabled, the threshold is not 0, the thread holds no Ouro lock and is in no
 * finalizer or callback; other safepoints don't count. Young, old, deep and full ones in turn, within the limits of the pause budget. If another thread is
 * collecting just then the next safepoint makes it. Meanwhile the schedule makes none of its own, but for the soft limit, so that a program with one
 * thread collects at the same places each time. The count of the caller and the turn begin anew, those of others go on. 0: no more of that. The
 * environment variable OURO_GC_EVERY=n, read once, when the first thread registers, is what it is at first. Any thread; never a safepoint.
 */
OURO_API void ouro_gc_set_every(size_t safepoints);
OURO_API size_t ouro_gc_get_every(void);

/* For debugging: OURO_GC_... or 0. Any thread; never a safepoint. */
#define OURO_GC_PRINT_STATS 1u /* a line on standard error for each collection */
#define OURO_GC_PRINT_GARBAGE \
    2u /* a line on standard error for each object that is destroyed by one, or kept */
#define OURO_GC_SAVE 4u /* what would be destroyed is kept instead, see ouro_gc_each_saved() */
#define OURO_GC_VERIFY \
    8u /* each collection looks whether all counts are right, and whether it has decided right; costs time and memory */
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

/* OURO_INVALID: no such policy. Any thread; never a safepoint. */
OURO_API ouro_status ouro_gc_set_policy(ouro_gc_policy policy);
OURO_API ouro_gc_policy ouro_gc_get_policy(void);

/* How long automatic collections may stop the world, in nanoseconds; half a millisecond at first. It is a goal: it is kept by looking at as
 * many objects as took that long lately, and in slices of a deep one at the clock. A thread that makes garbage faster than another one
 * finds it waits for that one, at an explicit safepoint, so long at most, and a millisecond. OURO_INVALID: 0. Any thread; never a safepoint. */
OURO_API ouro_status ouro_gc_set_pause_budget(uint64_t nanoseconds);
OURO_API uint64_t ouro_gc_get_pause_budget(void);

/*
 * Deep and full collections of 50,000 objects and more are shared with threads that wait for them to end: those stopped at a
 * safepoint or waiting to attach, not detached ones. `most` of them help, 15 at the most; 0: none. At first one less than there
 * are processors, but not more than 3, and only while collections with them are faster than alone: each way is tried, and the other one
 * again at every 16th that is large enough. What is set here holds. They run `visit` functions, for different objects at the same time. A fork keeps
 * the number. Any thread; never a safepoint.
 */
OURO_API void ouro_gc_set_helpers(unsigned most);
OURO_API unsigned ouro_gc_get_helpers(void);

/* Memory that objects own elsewhere has grown or shrunk: it counts for when collections are due. What is given back may be told before
 * what it was taken for; a sum below 0 counts as 0. Attached; never a safepoint. */
OURO_API void ouro_adjust_external_bytes(int64_t delta);

/*
 * If tracked objects and external memory take more than that, everything is collected at the next explicit safepoint, and if that
 * does not help the callback called (if not NULL); finalizers of what is found run first, and it is collected again, unless a thread
 * of the library's own runs them, or only the program. Again whenever a tenth of the limit more is used. 0 bytes: no limit. OURO_INVALID: less than 1024 bytes. Any thread; never a
 * safepoint.
 */
OURO_API ouro_status ouro_gc_set_soft_limit(size_t bytes, ouro_gc_pressure callback,
                                            void *argument);

/* Callbacks are called in the order in which they were added. OURO_BUSY: that pair is there already; OURO_LIMIT: 32
 * are; OURO_INVALID: NULL. Any thread; never a safepoint. */
OURO_API OURO_NODISCARD ouro_status ouro_gc_add_callback(ouro_gc_callback callback, void *argument);

/* OURO_ABSENT if the pair is not there. A collection under way on another thread may still call it once.
 * Any thread; never a safepoint. */
OURO_API ouro_status ouro_gc_remove_callback(ouro_gc_callback callback, void *argument);

/* `stats` is not NULL. Any thread; never a safepoint. */
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
