/*
 * object/finalize.c - the queue of finalizers and weak callbacks: user code that runs because something has died.
 *
 * The queue must never fail and needs no memory (object/jobs.c).  What waits is held by a reference, the queue's, so it is
 * neither dead nor garbage, and nor is what it refers to.
 *
 *    queued   at death: by who has the last reference, which becomes the queue's     in a stopped world: by the collector
 *    run      FINALIZED is set, then `finalize` is called, then the reference is dropped: if it was the last, that is the end
 *
 * Who runs it, if threads are to do so at their safepoints:
 *
 *    announce   who has queued something sets FINALIZE in its own word; its next explicit safepoint looks
 *    pass on    if it leaves before, or inside of the first finalizer of several, it sets FINALIZE in all other words
 *    look       who sees FINALIZE clears it and takes one job after the other until none waits; who attaches sees for himself
 *
 * So what waits is always known to all that are attached, or to one that is attached and will look or pass it on.  That is
 * why who leaves need not pass on what came from others.  The scan is by read-modify-writes, as that of a grace period
 * is: a thread that attaches after it sees what was queued before it.
 *
 * A job is given out under the mutex, to who may have it in the mode of that moment: when a change of the mode is
 * through nobody begins anything in the old one.
 *
 * What may surprise: a thread may end inside of a finalizer.  That one counts as run, and the queue's reference is dropped.
 *
 * docs/internals/finalizers.md
 */
#include "object/finalize.h"

#include "base/os.h"
#include "object/count.h"
#include "object/jobs.h"
#include "object/type.h"
#include "object/weak.h"

#include <ouro/thread.h>

#include <pthread.h>
#include <sched.h>
#include <signal.h>

enum { AT_A_SAFEPOINT = 256 };

/* Who asks for a job. */
enum taker { TAKER_SAFEPOINT, TAKER_REQUEST, TAKER_THREAD };

static mutex queue = MUTEX_INIT;
static size_t waiting;       /* [lock: queue] W, relaxed R */
static uint64_t ever_queued; /* [lock: queue] jobs */
static uint64_t ever_done;   /* [lock: queue] */
static uint64_t awaited =
    UINT64_MAX; /* [lock: queue] the ever_done that somebody waits for, the least */
static uint32_t mode = OURO_FINALIZE_AT_SAFEPOINTS; /* [lock: queue] W, relaxed R */
static bool changing;                               /* [lock: queue] somebody changes the mode */
static bool closed; /* [lock: queue] no thread may be started any more */

/* The library's own thread. */
static pthread_t thread;         /* who changes the mode */
static struct seat *thread_seat; /* [lock: queue] */
static bool thread_ends;         /* [lock: queue] */
static uint32_t
    thread_signal; /* [atomic] [F1] a number that changes when there is something to do */
static uint32_t
    idle_signal; /* [atomic] [F1] a number that changes when what somebody waits for is done */

/* --- who is to look ---------------------------------------------------------------------------------- */

static void signal_change(uint32_t *word)
{
    /* [F1] release: what was queued, or done, is under the mutex; the number only says: look again */
    fetch_add_acq_rel(word, 1u);
    os_futex_wake(word, 1 << 20);
}

static void set_own_bit(struct seat *self)
{
    if (!(load_relaxed(&self->word) & SEAT_FINALIZE))
        /* [S1] nothing hangs on it: this thread reads it */
        fetch_or_acq_rel(&self->word, SEAT_FINALIZE);
}

/* The library's own thread sleeps only if nothing waits, and whoever is the first to change that wakes it. */
static void announce(struct seat *self, bool first)
{
    uint32_t how = load_relaxed(&mode);

    if (how == OURO_FINALIZE_AT_SAFEPOINTS) {
        self->has_queued = true;
        set_own_bit(self);
    } else if (how == OURO_FINALIZE_IN_THREAD && first) {
        signal_change(&thread_signal);
    }
}

void finalize_announce(struct seat *self)
{
    if (load_relaxed(&waiting))
        announce(self, true);
}

void finalize_look(struct seat *self)
{
    if (OURO_UNLIKELY(load_relaxed(&waiting) != 0) &&
        load_relaxed(&mode) == OURO_FINALIZE_AT_SAFEPOINTS)
        set_own_bit(self);
}

void finalize_pass_on(struct seat *self)
{
    if (load_relaxed(&waiting) == 0 || load_relaxed(&mode) != OURO_FINALIZE_AT_SAFEPOINTS)
        return;
    mutex_lock(&seat_registry);
    for (uint32_t id = seat_count(); id > 0; id--) {
        struct seat *seat = seat_by_id(id);

        /* Relaxed: who still has the bit will clear it, and then look under the mutex. If he had looked before what
         * is passed on was queued under it, we would not see the bit any more. */
        if (seat != self && !(load_relaxed(&seat->word) & SEAT_FINALIZE))
            /* [S1] acq_rel: what was queued, for who attaches there later */
            fetch_or_acq_rel(&seat->word, SEAT_FINALIZE);
    }
    mutex_unlock(&seat_registry);
}

/* --- the queue --------------------------------------------------------------------------------------- */

bool finalize_is_due(const ouro_object *o)
{
    return type_of(o)->finalize && !(load_relaxed(&o->ouro.flags) & OURO_FLAG_FINALIZED);
}

/* True if nothing waited before. */
static bool put_locked(struct seat *self, size_t count)
{
    bool first = waiting == 0;

    store_relaxed(&waiting, waiting + count);
    ever_queued += count;
    seat_event(self, EVENT_JOB_QUEUED);
    return first;
}

static bool put(struct seat *self, ouro_object *o)
{
    mutex_lock(&queue);
    jobs_put_object_locked(o);
    bool first = put_locked(self, 1);
    mutex_unlock(&queue);
    return first;
}

void finalize_queue_dead(struct seat *self, ouro_object *o)
{
    /* A collection may have passed it over while it was DEAD, so that no list has its page, and no map its bit. If it lives
     * on, dropping the queue's reference notes it again. */
    store_relaxed(&o->ouro.flags, (uint8_t)(load_relaxed(&o->ouro.flags) &
                                            ~(OURO_FLAG_DEAD | OURO_FLAG_NEW | OURO_FLAG_NOTED)));
    store_relaxed(&o->ouro.owned, 0u);
    if (load_relaxed(&o->ouro.shared) & OURO_WEAK)
        /* [R2] release: that its weak references have been cleared; count_try() */
        fetch_add_acq_rel(&o->ouro.shared, OURO_SHARED_ONE);
    else
        store_relaxed(&o->ouro.shared, OURO_SHARED_ONE | OURO_MERGED);
    announce(self, put(self, o));
}

void finalize_queue_garbage(struct seat *self, ouro_object *o)
{
    store_relaxed(&o->ouro.shared, load_relaxed(&o->ouro.shared) + OURO_SHARED_ONE);
    put(self, o);
}

void finalize_queue_calls(struct seat *self, ouro_weakref *calls, bool stopped)
{
    mutex_lock(&queue);
    bool first = put_locked(self, jobs_put_calls_locked(calls));
    mutex_unlock(&queue);
    if (!stopped)
        announce(self, first);
}

static bool may_take_locked(enum taker taker)
{
    switch (taker) {
    case TAKER_SAFEPOINT:
        return mode == OURO_FINALIZE_AT_SAFEPOINTS;
    case TAKER_THREAD:
        return mode == OURO_FINALIZE_IN_THREAD && !thread_ends;
    default:
        return true;
    }
}

/* The next job, with its reference; NULL: nothing waits, or not for this one. */
static ouro_object *take(enum taker taker)
{
    ouro_object *o = NULL;

    mutex_lock(&queue);
    if (waiting && may_take_locked(taker)) {
        o = jobs_take_locked();
        store_relaxed(&waiting, waiting - 1);
    }
    mutex_unlock(&queue);
    return o;
}

static void done(void)
{
    mutex_lock(&queue);
    bool wake = ++ever_done >= awaited;
    if (wake)
        awaited = UINT64_MAX; /* who waits for more says so again */
    mutex_unlock(&queue);
    if (wake)
        signal_change(&idle_signal);
}

/* --- running ----------------------------------------------------------------------------------------- */

static void run_one(struct seat *self, ouro_object *o)
{
    if (weak_is_watcher(o)) {
        weak_call_back(self, (struct watcher *)(void *)o);
    } else {
        /* Relaxed: nobody else runs it; who destroys the object has a reference that comes from here. */
        fetch_or_relaxed(&o->ouro.flags, (uint8_t)OURO_FLAG_FINALIZED);
        seat_event(self, EVENT_FINALIZED);
        type_of(o)->finalize(o);
    }
    REQUIRE(seat_attached_self == self,
            "a finalizer, or a callback of a weak reference, has returned detached: put back what "
            "was, by ouro_restore()");
    REQUIRE(self->held_count == 0,
            "a finalizer, or a callback of a weak reference, has returned with a lock that it has "
            "not given back: ouro_unlock() it");
    REQUIRE(!self->has_world,
            "a finalizer, or a callback of a weak reference, has returned with the world stopped: "
            "ouro_world_start() first");
    REQUIRE(self->reading == 0,
            "a finalizer, or a callback of a weak reference, has returned in a read scope: "
            "ouro_read_end() first");
    self->job = NULL;
    (ouro_decref)(o);
}

/* At most `limit` jobs; stops early if nothing waits, or not for this one any more. */
static size_t run(struct seat *self, enum taker taker, size_t limit)
{
    size_t count = 0;
    ouro_object *o;

    while (count < limit && (o = take(taker)) != NULL) {
        self->finalizing = true;
        self->job = o;
        run_one(self, o);
        self->finalizing = false;
        done();
        count++;
        seat_poll(self);
    }
    return count;
}

/* The mode is looked at under the mutex, see finalize_pass_on(). */
void finalize_some(struct seat *self)
{
    run(self, TAKER_SAFEPOINT, AT_A_SAFEPOINT);
    finalize_announce(self); /* the rest */
}

void finalize_abandon(struct seat *self)
{
    ouro_object *o = self->job;

    mutex_lock(&queue);
    bool own = self == thread_seat;
    mutex_unlock(&queue);
    REQUIRE(!own, "a finalizer, or a callback of a weak reference, has ended the library's own "
                  "thread: it may not end the thread that it runs in");
    self->finalizing = false;
    self->job = NULL;
    if (o)
        (ouro_decref)(o);
    done();
}

size_t ouro_run_finalizers(void)
{
    struct seat *self = seat_required("ouro_run_finalizers()");

    if (self->in_destroy || !seat_may_run_user_code(self))
        return 0;
    seat_may_pass(self, "ouro_run_finalizers()");
    seat_safepoint(self, false); /* what has died elsewhere may be waiting */
    return run(self, TAKER_REQUEST, load_relaxed(&waiting));
}

/* Waits until as many jobs are done as had been queued at the call. Mostly it is those: but callbacks overtake finalizers,
 * and others may run jobs beside the library's own thread. To wait until nothing is left might be for ever. */
static void await_thread(struct seat *self)
{
    uint64_t wanted = UINT64_MAX;

    for (;;) {
        /* [F1] acquire: before the look under the mutex; done() */
        uint32_t seen = load_acquire(&idle_signal);

        mutex_lock(&queue);
        if (wanted > ever_queued)
            wanted = ever_queued;
        bool enough = ever_done >= wanted || mode != OURO_FINALIZE_IN_THREAD;
        if (!enough && awaited > wanted)
            awaited = wanted;
        mutex_unlock(&queue);
        if (enough)
            return;
        seat_detach(self);
        os_futex_wait(&idle_signal, seen, 0);
        seat_attach(self);
    }
}

uint64_t finalize_seen(const struct seat *self)
{
    mutex_lock(&queue);
    bool outstanding = ever_done != ever_queued;
    mutex_unlock(&queue);
    return outstanding ? UINT64_MAX : self->events[EVENT_JOB_QUEUED];
}

bool finalize_all(struct seat *self, uint64_t *seen)
{
    uint64_t queued = self->events[EVENT_JOB_QUEUED];
    bool news = queued != *seen;

    *seen = queued;
    if (!seat_may_run_user_code(self))
        return false;
    switch (load_relaxed(&mode)) {
    case OURO_FINALIZE_AT_SAFEPOINTS:
        run(self, TAKER_SAFEPOINT, load_relaxed(&waiting));
        return news;
    case OURO_FINALIZE_IN_THREAD:
        if (news)
            await_thread(self);
        return news;
    default:
        return false;
    }
}

size_t ouro_finalizers_waiting(void)
{
    return load_relaxed(&waiting);
}

bool(ouro_is_finalized)(const ouro_object *o)
{
    seat_required("ouro_is_finalized()");
    return (load_relaxed(&o->ouro.flags) & OURO_FLAG_FINALIZED) != 0;
}

/* --- the library's own thread ------------------------------------------------------------------------ */

struct start {
    uint32_t answered; /* [atomic] [F1] */
    ouro_status status;
};

/* If a finalizer has forked, the thread ends in the child: there it is one of the program's, and the mode another. */
static bool has_something_to_do(const struct seat *self, bool *ends)
{
    mutex_lock(&queue);
    *ends = thread_ends || thread_seat != self;
    bool work = waiting != 0 && mode == OURO_FINALIZE_IN_THREAD;
    mutex_unlock(&queue);
    return work || *ends;
}

static void set_thread_seat(struct seat *seat)
{
    mutex_lock(&queue);
    thread_seat = seat;
    mutex_unlock(&queue);
}

static void forget_thread_seat(const struct seat *self)
{
    mutex_lock(&queue);
    if (thread_seat == self)
        thread_seat = NULL;
    mutex_unlock(&queue);
}

static void *thread_main(void *argument)
{
    struct start *start = argument;
    ouro_status status = ouro_thread_register("ouro finalizers");

    start->status = status;
    /* [F1] release: the status; start_thread(). After the wake `start` is gone. */
    store_release(&start->answered, 1u);
    os_futex_wake(&start->answered, 1);
    if (status != OURO_OK)
        return NULL;

    struct seat *self = seat_self;
    set_thread_seat(self);
    for (bool ends = false;;) {
        seat_detach(self);
        for (;;) {
            uint32_t seen = load_acquire(&thread_signal); /* [F1] acquire: before the look */

            if (has_something_to_do(self, &ends))
                break;
            os_futex_wait(&thread_signal, seen, 0);
        }
        seat_attach(self);
        if (ends)
            break;
        run(self, TAKER_THREAD, AT_A_SAFEPOINT);
        seat_safepoint(self, true);
    }
    forget_thread_seat(self);
    ouro_thread_unregister();
    return NULL;
}

static ouro_status start_thread(void)
{
    struct start start = {0, OURO_OK};
    sigset_t all, before;

    thread_ends = false;
    /* The program's signals are none of that thread's business: they would run in a place that nobody expects. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread, NULL, thread_main, &start);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error)
        return OURO_NO_MEMORY;
    /* [F1] acquire: the status */
    while (!load_acquire(&start.answered))
        os_futex_wait(&start.answered, 0, 0);
    if (start.status != OURO_OK)
        pthread_join(thread, NULL);
    return start.status;
}

static void end_thread(void)
{
    mutex_lock(&queue);
    thread_ends = true;
    mutex_unlock(&queue);
    signal_change(&thread_signal);
    pthread_join(thread, NULL);
}

static void set_mode(ouro_finalizer_mode how)
{
    mutex_lock(&queue);
    store_relaxed(&mode, (uint32_t)how);
    changing = false;
    mutex_unlock(&queue);
    signal_change(&thread_signal);
    signal_change(&idle_signal);
    finalize_pass_on(NULL); /* if it is for them now */
}

/* Not attached. */
static ouro_status change_mode(ouro_finalizer_mode how, bool for_good)
{
    ouro_status status = OURO_OK;
    int cancel;

    mutex_lock(&queue);
    ouro_finalizer_mode before = (ouro_finalizer_mode)mode;
    if (changing)
        status = OURO_BUSY;
    else if (closed && how == OURO_FINALIZE_IN_THREAD)
        status = OURO_SHUTDOWN;
    else
        changing = true;
    closed |= for_good && status == OURO_OK;
    mutex_unlock(&queue);
    if (status != OURO_OK)
        return status;

    /* Waiting for a thread is a cancellation point; the change has to come to its end. */
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
    if (before == OURO_FINALIZE_IN_THREAD && how != before)
        end_thread();
    if (how == OURO_FINALIZE_IN_THREAD && how != before)
        status = start_thread();
    pthread_setcancelstate(cancel, &cancel);
    set_mode(status == OURO_OK ? how : before);
    return status;
}

ouro_status ouro_finalizer_set_mode(ouro_finalizer_mode how)
{
    if (how != OURO_FINALIZE_AT_SAFEPOINTS && how != OURO_FINALIZE_ON_REQUEST &&
        how != OURO_FINALIZE_IN_THREAD)
        return OURO_INVALID;
    REQUIRE(!seat_self || (!seat_self->finalizing && !seat_self->collecting),
            "ouro_finalizer_set_mode() in a finalizer, or a callback of a weak reference or of the "
            "collector: it might wait for itself");
    if (seat_self)
        seat_may_pass(seat_self, "ouro_finalizer_set_mode()");
    /* The library's own thread may need to attach before it ends. */
    ouro_state before = seat_self ? ouro_detach() : OURO_STATE_UNREGISTERED;
    ouro_status status = change_mode(how, false);

    if (before == OURO_STATE_ATTACHED)
        ouro_attach();
    return status;
}

ouro_finalizer_mode ouro_finalizer_get_mode(void)
{
    return (ouro_finalizer_mode)load_relaxed(&mode);
}

void finalize_shutdown(void)
{
    ouro_state before = ouro_detach();
    ouro_finalizer_mode how = ouro_finalizer_get_mode();

    if (how == OURO_FINALIZE_IN_THREAD)
        how = OURO_FINALIZE_AT_SAFEPOINTS;
    while (change_mode(how, true) == OURO_BUSY)
        sched_yield(); /* somebody else is about to be through with it */
    ouro_restore(before);
}

/* --- fork -------------------------------------------------------------------------------------------- */

void finalize_fork_prepare(void)
{
    mutex_lock(&queue);
}

void finalize_fork_parent(void)
{
    mutex_unlock(&queue);
}

void finalize_fork_child(void)
{
    /* The library's own thread is not here, nor are those that were running something, or waiting. */
    ever_done = ever_queued - waiting - (seat_self && seat_self->finalizing ? 1 : 0);
    awaited = UINT64_MAX;
    thread_seat = NULL;
    changing = false;
    if (mode == OURO_FINALIZE_IN_THREAD)
        store_relaxed(&mode, (uint32_t)OURO_FINALIZE_AT_SAFEPOINTS);
    mutex_unlock(&queue);
}
