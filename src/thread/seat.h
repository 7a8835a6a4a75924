/*
 * thread/seat.h - seats: where threads sit, and the one word through which everybody deals with them.
 *
 * A seat is a permanent record: its id is the owner id in the objects made in it, it has the heap, the
 * inbox and the lists of what is dying.  A thread sits in one seat at a time; a seat without a thread is
 * simply detached, so ended threads, sleeping threads and those that a fork left behind are one case.
 * Seats are reused last in, first out.
 *
 * The word and who may change what (every change is an acq_rel read-modify-write [S1]):
 *
 *    ATTACHED  the thread of the seat runs and has the seat
 *    HELD      somebody else (a proxy, attached in a seat of its own) has the seat
 *    STOP      the world is stopped or being stopped
 *    INBOX     there may be pages in the inbox
 *    QUIESCE   a grace period waits for this seat, or waited for it when it was not attached
 *    WAIT      the thread of the seat sleeps until it is granted ATTACHED
 *    COLLECT   the seat's next explicit safepoint looks whether a collection is due, or is to be forced
 *    RETIRE    the seat's next safepoint sees to what has been retired
 *    FINALIZE  the seat's next explicit safepoint looks whether finalizers or weak callbacks wait
 *    HELP      the thread of the seat sleeps in a stopped world, and may lend its core to the collector
 *
 *    detached --attach (owner)-----------------------------> ATTACHED    not under STOP or HELD
 *    detached --attach (owner)--> WAIT --grant (who clears the last of STOP, HELD)--> ATTACHED
 *    detached --hold (proxy)--> HELD --release (proxy)--> detached, or grant
 *    ATTACHED --detach (owner), INBOX and QUIESCE clear----> detached
 *    ATTACHED --park (owner), STOP set, QUIESCE clear------> WAIT
 *    WAIT, STOP --invite (stopper)--> HELP --wake, help (owner)--> WAIT     HELP --start (stopper)--> clear
 *
 * STOP is set and cleared by who stops the world, INBOX set by anyone and cleared by who has the seat,
 * QUIESCE set by the leader of a grace period and cleared by the owner or by who grants, COLLECT, RETIRE
 * and FINALIZE set by anyone and cleared by the owner.  Fields marked [seat] belong to who has the seat: the thread ATTACHED in it, the
 * proxy that HOLDs it, or everybody's reader in a stopped world.
 *
 * docs/internals/threads.md explains the protocol, stress/models/seat.pml explores it.
 */
#ifndef OURO_THREAD_SEAT_H
#define OURO_THREAD_SEAT_H

#include "base/atomic.h"
#include "base/check.h"
#include "base/events.h"
#include "base/mutex.h"

#include <ouro/object.h>
#include <ouro/thread.h>

#include <stdalign.h>

enum {
    SEAT_ATTACHED = 1,
    SEAT_HELD = 2,
    SEAT_STOP = 4,
    SEAT_INBOX = 8,
    SEAT_QUIESCE = 16,
    SEAT_WAIT = 32,
    SEAT_COLLECT = 64,
    SEAT_RETIRE = 128,
    SEAT_FINALIZE = 256,
    SEAT_HELP = 512,
    /* Somebody has the seat, or will be granted it, and will see INBOX. */
    SEAT_TAKEN = SEAT_ATTACHED | SEAT_HELD | SEAT_WAIT,
};
static_assert(SEAT_ATTACHED == 1, "ouro_safepoint() compares with it");

enum {
    SEAT_NAME_BYTES = 32,
    SEAT_HEAP_BYTES = 8192,
    SEAT_COUNT_MAX = OURO_ID_MAX, /* ids 1 to this */
    SEAT_HELD_MAX = 64,           /* locks that a thread may hold at once */
};

struct page;
struct retire_chunk;

struct seat {
    alignas(64) uint32_t word;  /* [atomic] */
    uint32_t id;                /* [const] */
    char name[SEAT_NAME_BYTES]; /* [lock: registry] W, and R by others */
    struct seat *next_free;     /* [lock: registry] */
    uint32_t reading;           /* [owner] depth of declared read scopes */
    uint32_t held_count;        /* [owner] locks that this thread holds; object/lock.c */
    ouro_object *job;           /* [owner] whose finalizer or callback it runs */

    /* Stacks of pages; anyone pushes, who has the seat takes all. On a line of their own. */
    alignas(64) struct page *inbox; /* [atomic] pages with merge hints; object/merge.c */
    struct page *returned;          /* [atomic] pages with blocks that others freed; heap/heap.c */

    alignas(64) ouro_object *dying;   /* [owner] objects without references; object/death.c */
    ouro_object *half_dead;           /* [owner] the one whose destruction was interrupted */
    struct retire_chunk *retiring;    /* [owner] open batch; object/retire.c */
    ouro_object *retiring_blocks;     /* [owner] dead objects whose blocks wait, as in `dying` */
    ouro_object *retiring_last;       /* [owner] the last of them */
    size_t retiring_bytes;            /* [owner] how much both are */
    uint64_t notes;                   /* [owner] candidates that this thread has noted */
    size_t retiring_block_bytes;      /* [owner] those of the blocks */
    bool running;                     /* [owner] object/death.c is at work below on the stack */
    bool in_destroy;                  /* [owner] a type's `destroy` is */
    bool has_world;                   /* [owner] this thread has stopped the world */
    bool collecting;                  /* [owner] this thread runs a collection */
    bool finalizing;                  /* [owner] this thread runs a finalizer or weak callback */
    bool has_queued;                  /* [owner] some of those, and has not told others since */
    size_t passed;                    /* [owner] safepoints since a forced collection */
    ouro_object *held[SEAT_HELD_MAX]; /* [owner] which, the latest one last */
    uint64_t events[EVENT_COUNT];     /* [owner W, any R] relaxed: counters */

    alignas(64) char heap[SEAT_HEAP_BYTES]; /* [seat] struct heap of heap/heap.h */
};

/* The seat of this thread if it is attached, else NULL; if it is registered. Set together with `ouro_self`. */
extern __thread struct seat *seat_attached_self __attribute__((tls_model("initial-exec")));
extern __thread struct seat *seat_self __attribute__((tls_model("initial-exec")));

/* All seats that there have ever been: ids 1 to the number. [lock: registry] W; a number once read by a
 * read-modify-write or under the lock makes those seats readable [S2]. */
extern mutex seat_registry;
uint32_t seat_count(void);
struct seat *seat_by_id(uint32_t id);

/* The caller's seat. Ends the program with a sentence if it is not attached. */
_Noreturn void seat_misuse(const char *what) __attribute__((cold));

static inline struct seat *seat_required(const char *what)
{
    struct seat *self = seat_attached_self;

    if (OURO_UNLIKELY(!self))
        seat_misuse(what);
    return self;
}

_Noreturn void seat_misuse_point(const struct seat *self, const char *what) __attribute__((cold));

/* At every public call that is a safepoint, before it does anything: `what` ends what is borrowed. Ends the program with a
 * sentence if this thread may not pass one now. */
static inline void seat_may_pass(const struct seat *self, const char *what)
{
    if (OURO_UNLIKELY(self->in_destroy || self->has_world || self->reading))
        seat_misuse_point(self, what);
}

/* Both: the caller's seat, for a public call that is a safepoint. */
static inline struct seat *seat_at_safepoint(const char *what)
{
    struct seat *self = seat_required(what);

    seat_may_pass(self, what);
    return self;
}

static inline void seat_event(struct seat *self, enum event event)
{
    store_relaxed(&self->events[event], self->events[event] + 1);
}

/* Takes a seat for the calling thread: the one given up last, or a new one. Not yet attached. */
ouro_status seat_take(const char *name, struct seat **seat);
void seat_give_up(struct seat *seat); /* detached */

/* Number of seats with a thread. */
uint32_t seat_threads(void);

/* A seat of its own, made when it is first wanted, for unregistered threads that need one for a moment, one after the
 * other. It is not counted as a thread and is there when the registry is closed, too. */
ouro_status seat_reserve(struct seat **seat);

/* For fork, before anything else: the key is made, so that no thread can vanish while it makes it. The C library may begin such a
 * pthread_once() again in the child, or wait for ever (musl, ThreadSanitizer). */
void thread_fork_prepare(void);

/* For fork: the registry mutex; and, with it, in the child: all other threads have left their seats. */
void seat_fork_prepare(void);
void seat_fork_done(void);
void seat_vanish(struct seat *self);

/* Sets the thread's own variables: attached in that seat, or NULL. */
void seat_set_self(struct seat *attached);

/* No thread can register any more; true if the caller is the only registered one. */
bool seat_close_registry(void);

/* attach.c: the owner's moves. */
void seat_attach(struct seat *self);
void seat_detach(struct seat *self);
void seat_safepoint(struct seat *self, bool explicit_point); /* explicit: a collection may run */
void seat_poll_slow(struct seat *self);

/* A safepoint inside of the library's own long work; no collection starts. */
static inline void seat_poll(struct seat *self)
{
    if (OURO_UNLIKELY(load_relaxed(&self->word) != SEAT_ATTACHED))
        seat_poll_slow(self);
}

/* At an explicit point: collections, finalizers and weak callbacks are not nested in one another, and do not run while the
 * thread holds locks that they might take. */
static inline bool seat_may_run_user_code(const struct seat *self)
{
    return !self->collecting && !self->finalizing && self->held_count == 0;
}

static inline bool seat_stop_wanted(struct seat *self)
{
    return (load_relaxed(&self->word) & SEAT_STOP) != 0;
}

/* attach.c: moves on other seats, by an attached thread. */
bool seat_hold_try(struct seat *seat, struct seat *self);
void seat_release(struct seat *seat, struct seat *self);
void seat_put_inbox(struct seat *seat,
                    struct seat *self); /* after something was put into its inbox */

/* By who has stopped the world: wakes the thread of a seat for thread_hooks.help(). False: none sleeps there. */
bool seat_invite(struct seat *seat);

/* The word after somebody has cleared the last of STOP and HELD: true if the waiting owner gets in. */
static inline bool seat_grant(uint32_t *word)
{
    if (!(*word & SEAT_WAIT) || (*word & (SEAT_STOP | SEAT_HELD)))
        return false;
    *word = (*word & ~(uint32_t)(SEAT_WAIT | SEAT_QUIESCE)) | SEAT_ATTACHED;
    return true;
}

#endif
