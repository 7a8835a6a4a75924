/*
 * base/events.h - rare events that are counted, one row of counters per seat.
 *
 * What it is for: a stress program has to show that what it is there for has happened, and statistics
 * have to come from somewhere.  seat_event() (thread/seat.h) counts, event_total() adds up all seats.
 */
#ifndef OURO_BASE_EVENTS_H
#define OURO_BASE_EVENTS_H

#include <stdint.h>

enum event {
    EVENT_HINT,        /* a foreign decrement went below zero and left a hint */
    EVENT_HINT_DIRECT, /* the same, and the seat was empty: the block was merged at once by a proxy */
    EVENT_PROXY,       /* a seat was held by a proxy */
    EVENT_MERGE_DRAIN,  /* a hint was not stale: the object was merged */
    EVENT_MERGE_OWNER,  /* the owner came to local 0 while others held references */
    EVENT_OVERFLOW,     /* half of a full local count moved into `shared` */
    EVENT_SATURATED,    /* a shared count became so large that the object is immortal now */
    EVENT_PARK,         /* a thread parked for a stop */
    EVENT_ATTACH_WAIT,  /* a thread had to wait at attach */
    EVENT_STOP,         /* the world was stopped */
    EVENT_GRACE,        /* a grace period was begun */
    EVENT_FOREIGN_FREE, /* chains of blocks that were given to a page of another seat */
    EVENT_PAGE_TAKEN,   /* a page was handed to a seat */
    EVENT_PAGE_RETIRED, /* a page became empty and began to wait for a grace period */
    EVENT_PAGE_RIPE,    /* and had waited long enough */
    EVENT_DEATH_POLL,   /* a long destruction was interrupted for a stop */
    EVENT_RESCAN,       /* the collector's mark stack was full: a page is walked again */
    EVENT_COLLECT,      /* a collection */
    EVENT_SLICE,        /* a slice of a deep collection that was not its last */
    EVENT_PIECES,       /* one that has proved that all of some pieces was garbage */
    EVENT_PIECES_KEPT,  /* one that has found that some of it was not */
    EVENT_HELP,         /* a stopped thread took part in a pass of the collector */
    EVENT_HELP_LATE,    /* it was woken for that, and the pass was over */
    EVENT_HELP_PIECE,   /* somebody in such a pass left work for the others to take */
    EVENT_VERIFIED,     /* a collection was verified */
    EVENT_WEAK_CLEARED, /* a weak reference was cleared because its target went */
    EVENT_WEAK_REFUSED, /* a weak get met a target that had just died */
    EVENT_WEAK_GIVEN_BACK, /* a weak get counted a target that had been cleared meanwhile, and gave it back */
    EVENT_WEAK_CALL,    /* the callback of a weak reference was called */
    EVENT_JOB_QUEUED,   /* a finalizer, or the callback of a weak reference, was queued */
    EVENT_FINALIZED,    /* a finalizer was run */
    EVENT_BLOCK_WAITED, /* the block of a weakly referenced object was freed after a grace period */
    EVENT_LOCK_WAIT,    /* a thread had to wait for an object's lock */
    EVENT_COUNT
};

/* The sum over all seats. Any thread; while others run it is a moment's approximation. */
uint64_t event_total(enum event event);

#endif
