/*
 * object/finalize.c - the queue of finalizers and weak callbacks: user code that runs because something has died.
 *
 * The queue must never fail and needs no memory: callbacks are linked through the weak references; an object that waits for
 * its finalizer has its bit in the map of its page, and pages that have bits are linked.  What waits is held by a
 * reference, the queue's, so it is neither dead nor garbage, and nor is what it refers to.
 *
 *    queued   at death: by who has the last reference, which becomes the queue's     in a stopped world: by the collector
 *    run      FINALIZED is set, then `finalize` is called, then the reference is dropped: if it was the last, that is the end
 *
 * Who runs it: the thread that has queued something sets FINALIZE in its own word, and its next explicit safepoint
 * looks.  If it leaves before, it passes the bit on to another attached thread; if there is none, the next one that
 * attaches finds that something waits.  The scan for another thread is by read-modify-writes, as that of a grace period is:
 * a thread that attaches after it sees what was queued before it.
 *
 * docs/internals/finalizers.md
 */
#include "object/finalize.h"

#include "base/os.h"
#include "heap/page.h"
#include "object/count.h"
#include "object/type.h"
#include "object/weak.h"

#include <ouro/thread.h>

#include <pthread.h>
#include <sched.h>

enum { AT_A_SAFEPOINT = 256 };

static mutex queue = MUTEX_INIT;
static struct page *first_page, *last_page;         /* [lock: queue] pages with bits */
static ouro_weakref *first_call, *last_call;        /* [lock: queue] */
static size_t waiting;                              /* [lock: queue] W, relaxed R */
static size_t at_work;                              /* [lock: queue] being run */
static uint32_t mode = OURO_FINALIZE_AT_SAFEPOINTS; /* [lock: queue] W, relaxed R */
static bool changing;                               /* [lock: queue] somebody changes the mode */
static bool closed; /* [lock: queue] no thread may be started any more */

/* The library's own thread. */
static pthread_t thread; /* who changes the mode */
static bool thread_ends; /* [lock: queue] */
static uint32_t
    thread_signal;           /* [atomic] [F1] a number that changes when there is something to do */
static uint32_t idle_signal; /* [atomic] [F1] a number that changes when nothing is left */

/* --- who is to look ---------------------------------------------------------------------------------- */

static void signal_change(uint32_t *word)
{
    /* [F1] release: what was queued, or that nothing is left, is under the mutex; the number only says: look again */
    fetch_add_acq_rel(word, 1u);
    os_futex_wake(word, 1 << 20);
}

static void set_own_bit(struct seat *self)
{
    if (!(load_relaxed(&self->word) & SEAT_FINALIZE))
        /* [S1] nothing hangs on it: this thread reads it */
        fetch_or_acq_rel(&self->word, SEAT_FINALIZE);
}

void finalize_announce(struct seat *self)
{
    uint32_t how = load_relaxed(&mode);

    if (load_relaxed(&waiting) == 0)
        return;
    if (how == OURO_FINALIZE_AT_SAFEPOINTS)
        set_own_bit(self);
    else if (how == OURO_FINALIZE_IN_THREAD)
        signal_change(&thread_signal);
}

void finalize_look(struct seat *self)
{
    if (OURO_UNLIKELY(load_relaxed(&waiting) != 0) &&
        load_relaxed(&mode) == OURO_FINALIZE_AT_SAFEPOINTS)
        set_own_bit(self);
}

void finalize_pass_on(struct seat *self)
{
    bool found = false;

    if (load_relaxed(&waiting) == 0 || load_relaxed(&mode) != OURO_FINALIZE_AT_SAFEPOINTS)
        return;
    mutex_lock(&seat_registry);
    for (uint32_t id = seat_count(); id > 0 && !found; id--) {
        struct seat *seat = seat_by_id(id);

        if (seat == self)
            continue;
        /* [S1] acq_rel: what was queued, for who attaches there later */
        uint32_t w = fetch_or_acq_rel(&seat->word, SEAT_FINALIZE);
        found = (w & (SEAT_ATTACHED | SEAT_WAIT)) != 0;
    }
    mutex_unlock(&seat_registry);
}

/* --- the queue --------------------------------------------------------------------------------------- */

bool finalize_is_due(const ouro_object *o)
{
    return type_of(o)->finalize && !(load_relaxed(&o->ouro.flags) & OURO_FLAG_FINALIZED);
}

static void put_locked(ouro_object *o)
{
    struct page *page = page_of(o);
    uint32_t granule = granule_of(o);

    page_finalizable(page)[granule / 64] |= (uint64_t)1 << granule % 64;
    store_relaxed(&waiting, waiting + 1);
    if (page->finalizable)
        return;
    page->finalizable = true;
    page->finalizable_next = NULL;
    *(last_page ? &last_page->finalizable_next : &first_page) = page;
    last_page = page;
}

static void put(ouro_object *o)
{
    mutex_lock(&queue);
    put_locked(o);
    mutex_unlock(&queue);
}

void finalize_queue_dead(struct seat *self, ouro_object *o)
{
    /* A collection may have passed over it while it was DEAD, and forgotten it: it is noted anew when the queue drops it. */
    store_relaxed(&o->ouro.flags, (uint8_t)(load_relaxed(&o->ouro.flags) &
                                            ~(OURO_FLAG_DEAD | OURO_FLAG_NEW | OURO_FLAG_NOTED)));
    store_relaxed(&o->ouro.owned, 0u);
    if (load_relaxed(&o->ouro.shared) & OURO_WEAK)
        /* [R2] release: that its weak references have been cleared; count_try() */
        fetch_add_acq_rel(&o->ouro.shared, OURO_SHARED_ONE);
    else
        store_relaxed(&o->ouro.shared, OURO_SHARED_ONE | OURO_MERGED);
    put(o);
    finalize_announce(self);
}

void finalize_queue_garbage(ouro_object *o)
{
    store_relaxed(&o->ouro.shared, load_relaxed(&o->ouro.shared) + OURO_SHARED_ONE);
    put(o);
}

void finalize_queue_calls(struct seat *self, ouro_weakref *first)
{
    ouro_weakref *last = first;
    size_t count = 1;

    for (; last->next; last = last->next)
        count++;
    mutex_lock(&queue);
    *(last_call ? &last_call->next : &first_call) = first;
    last_call = last;
    store_relaxed(&waiting, waiting + count);
    mutex_unlock(&queue);
    finalize_announce(self);
}

static ouro_object *take_call_locked(void)
{
    ouro_weakref *ref = first_call;

    first_call = ref->next;
    if (!first_call)
        last_call = NULL;
    ref->next = NULL;
    return (ouro_object *)&ref->ouro;
}

static ouro_object *take_object_locked(void)
{
    struct page *page = first_page;
    uint64_t *map = page_finalizable(page);
    size_t word = 0;

    while (!map[word])
        word++;
    size_t granule = word * 64 + (size_t)__builtin_ctzll(map[word]);
    map[word] &= map[word] - 1;
    while (word < MAP_WORDS && !map[word])
        word++;
    if (word == MAP_WORDS) {
        page->finalizable = false;
        first_page = page->finalizable_next;
        if (!first_page)
            last_page = NULL;
    }
    return (ouro_object *)(void *)(page->start + granule * GRANULE);
}

/* The next job, with its reference; NULL: nothing waits. */
static ouro_object *take(void)
{
    ouro_object *o = NULL;

    mutex_lock(&queue);
    if (waiting) {
        o = first_call ? take_call_locked() : take_object_locked();
        store_relaxed(&waiting, waiting - 1);
        at_work++;
    }
    mutex_unlock(&queue);
    return o;
}

static void done(void)
{
    mutex_lock(&queue);
    at_work--;
    bool idle = at_work == 0 && waiting == 0;
    mutex_unlock(&queue);
    if (idle && load_relaxed(&mode) == OURO_FINALIZE_IN_THREAD)
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
    (ouro_decref)(o);
}

/* At most `limit` jobs; stops early if nothing waits. */
static size_t run(struct seat *self, size_t limit)
{
    size_t count = 0;
    ouro_object *o;

    self->finalizing = true;
    while (count < limit && (o = take()) != NULL) {
        run_one(self, o);
        done();
        count++;
        seat_poll(self);
    }
    self->finalizing = false;
    return count;
}

void finalize_some(struct seat *self)
{
    if (load_relaxed(&mode) != OURO_FINALIZE_AT_SAFEPOINTS)
        return;
    run(self, AT_A_SAFEPOINT);
    if (load_relaxed(&waiting))
        set_own_bit(self);
}

size_t ouro_run_finalizers(void)
{
    struct seat *self = seat_required("ouro_run_finalizers()");

    if (self->in_destroy || !seat_may_run_user_code(self))
        return 0;
    REQUIRE(!self->has_world,
            "ouro_run_finalizers() by the thread \"%s\", which has stopped the world: "
            "ouro_world_start() first",
            self->name);
    seat_safepoint(self, false); /* what has died elsewhere may be waiting */
    return run(self, load_relaxed(&waiting));
}

/* Waits until the library's own thread has nothing left. */
static void await_thread(struct seat *self)
{
    for (;;) {
        /* [F1] acquire: before the look under the mutex; done() */
        uint32_t seen = load_acquire(&idle_signal);

        mutex_lock(&queue);
        bool idle = (at_work == 0 && waiting == 0) || mode != OURO_FINALIZE_IN_THREAD;
        mutex_unlock(&queue);
        if (idle)
            return;
        seat_detach(self);
        os_futex_wait(&idle_signal, seen, 100000000);
        seat_attach(self);
    }
}

size_t finalize_all(struct seat *self, size_t queued)
{
    size_t count = load_relaxed(&waiting);

    if (!seat_may_run_user_code(self))
        return 0;
    switch (load_relaxed(&mode)) {
    case OURO_FINALIZE_AT_SAFEPOINTS:
        return run(self, count);
    case OURO_FINALIZE_IN_THREAD:
        await_thread(self); /* it may have begun, even be through with them, before we looked */
        return count > queued ? count : queued;
    default:
        return 0;
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

static bool has_something_to_do(bool *ends)
{
    mutex_lock(&queue);
    *ends = thread_ends;
    bool work = waiting != 0;
    mutex_unlock(&queue);
    return work || *ends;
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
    for (bool ends = false;;) {
        seat_detach(self);
        for (;;) {
            uint32_t seen = load_acquire(&thread_signal); /* [F1] acquire: before the look */

            if (has_something_to_do(&ends))
                break;
            os_futex_wait(&thread_signal, seen, 0);
        }
        seat_attach(self);
        if (ends)
            break;
        run(self, AT_A_SAFEPOINT);
        seat_safepoint(self, true);
    }
    ouro_thread_unregister();
    return NULL;
}

static ouro_status start_thread(void)
{
    struct start start = {0, OURO_OK};

    thread_ends = false;
    if (pthread_create(&thread, NULL, thread_main, &start))
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
    if (how == OURO_FINALIZE_AT_SAFEPOINTS) {
        if (seat_attached_self)
            finalize_look(seat_attached_self);
        else
            finalize_pass_on(NULL);
    }
}

/* Not attached. */
static ouro_status change_mode(ouro_finalizer_mode how, bool for_good)
{
    ouro_status status = OURO_OK;

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

    if (before == OURO_FINALIZE_IN_THREAD && how != before)
        end_thread();
    if (how == OURO_FINALIZE_IN_THREAD && how != before)
        status = start_thread();
    set_mode(status == OURO_OK ? how : before);
    return status;
}

ouro_status ouro_finalizer_set_mode(ouro_finalizer_mode how)
{
    if (how != OURO_FINALIZE_AT_SAFEPOINTS && how != OURO_FINALIZE_ON_REQUEST &&
        how != OURO_FINALIZE_IN_THREAD)
        return OURO_INVALID;
    REQUIRE(!seat_self || (!seat_self->finalizing && !seat_self->in_destroy),
            "ouro_finalizer_set_mode() in a finalizer, a callback of a weak reference or a "
            "type's destroy: it would wait for itself");
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
    /* The library's own thread is not here, nor are those that were running something. */
    at_work = seat_self && seat_self->finalizing ? 1 : 0;
    changing = false;
    if (mode == OURO_FINALIZE_IN_THREAD)
        store_relaxed(&mode, (uint32_t)OURO_FINALIZE_AT_SAFEPOINTS);
    mutex_unlock(&queue);
}
