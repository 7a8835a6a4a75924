/*
 * gc/schedule.h - when an automatic collection is due, of which kind, and how much it may do in one stop.
 */
#ifndef OURO_GC_SCHEDULE_H
#define OURO_GC_SCHEDULE_H

#include "gc/sets.h"
#include "thread/seat.h"

#include <ouro/gc.h>

/* The heap's reports; each sets COLLECT in the word of `seat` if a collection is due. */
void schedule_grew(struct seat *seat, int64_t objects, int64_t bytes);
void schedule_noted(struct seat *seat, size_t candidates);

/* The collector has freed so many small objects, which the heap will not report. */
void schedule_freed(size_t objects, size_t bytes);

/* Whether there may be automatic collections. */
bool schedule_is_enabled(void);

/* Whether an automatic collection is due now, and of which kind. */
bool schedule_is_due(ouro_gc_kind *kind);

/* Whether the heap has grown so that garbage may be the reason, and most of it has not been looked at. */
bool schedule_is_behind(void);

/* Why an automatic one of that kind is made now, as far as the soft limit is not the reason. */
ouro_gc_cause schedule_cause(ouro_gc_kind kind);

/* COLLECT in the caller's word if a collection is due. */
void schedule_ask(struct seat *self);

size_t schedule_net_new(void);
size_t schedule_net_new_bytes(void);
size_t schedule_threshold(void);
size_t schedule_candidates(void);
size_t schedule_live(void);
size_t schedule_used_bytes(void);

/* Fills in what the schedule goes by. */
void schedule_figures(ouro_gc_stats *stats);

/* How much one stop of a kind may look at. Explicit collections of everything have no limit. */
struct sets_limit schedule_limit(ouro_gc_kind kind);

/* The same, by a speed that is not measured. */
struct sets_limit schedule_limit_forced(ouro_gc_kind kind);

/* What a collection has done. */
struct schedule_result {
    ouro_gc_kind kind;
    bool automatic;  /* and not forced: the schedule learns from it */
    int64_t net_new; /* growth that is accounted for */
    size_t looked;   /* objects looked at */
    size_t taken;    /* candidates that are none any more, or cut */
    size_t put;      /* new ones */
    size_t members, garbage;
    uint64_t pause_ns;
    bool cleared;   /* there are no candidates left */
    bool slice;     /* of a deep one */
    size_t guessed; /* objects that are part of that */
    bool begun;     /* it has been begun by this slice */
    bool under_way; /* a deep one is */
};
void schedule_collected(const struct schedule_result *result);

/* True if what is used is over the soft limit, or over a tenth of it more than when the program was told last: a collection of all
 * candidates is to be made, and then schedule_press() calls the program's callback if it is over the limit still. */
bool schedule_is_pressed(void);

/* Not if another thread has told the program since: `before` is what schedule_presses() was then. */
uint32_t schedule_presses(void);
void schedule_press(uint32_t before);

/* For a thread that makes objects while another one collects: how long it should wait for that one, at most, since it makes garbage
 * faster than that is found; 0: not at all. */
uint64_t schedule_wait_for_others(void);

/* For fork: the mutex of the settings. */
void schedule_fork_prepare(void);
void schedule_fork_done(void);

#endif
