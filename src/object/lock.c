/*
 * object/lock.c - the lock of an object: one byte in its header, and a table in which threads wait.
 *
 * The byte, and who may change it to what; "B" marks what is done under the mutex of the object's bucket:
 *
 *     0              --lock, trylock (anyone attached)------------> LOCKED              [O1] acquire
 *     WAITERS        --lock, trylock (anyone attached)------------> LOCKED | WAITERS    [O1] acquire
 *     LOCKED         --unlock (holder)----------------------------> 0                   [O1] release
 *     LOCKED         --about to wait (anyone attached), B---------> LOCKED | WAITERS    relaxed
 *     LOCKED|WAITERS --unlock (holder), takes out the first, B----> WAITERS if others are left, else 0   [O1] release
 *
 * So nobody but the holder changes LOCKED | WAITERS, and while the mutex of the bucket is free, whoever waits in it is
 * announced by WAITERS.  (After a fork the child may find WAITERS and nobody waiting; the next unlock clears it.)
 *
 *   lock    one compare-exchange.  Else a short spin, while nobody waits in the table.  Else, under the bucket's mutex
 *           and attached: look at the byte again, and set WAITERS or compete again if it is free; put a node, which is on
 *           this thread's stack, at the end of the bucket's queue.  Then detach, sleep until the node is marked, attach,
 *           and compete again, like anyone else.
 *   unlock  one compare-exchange, which fails if WAITERS is set.  Then, under the bucket's mutex: take the first node
 *           of this object out, store the byte; after the mutex: mark the node, wake its thread.
 *
 * No wake-up is lost.  A waiter sleeps only if it saw LOCKED while it set or saw WAITERS, under the mutex.  That byte
 * goes away only through an unlock that takes the mutex, afterwards, and finds the node.  If that unlock wakes another
 * node instead, WAITERS stays, so the next unlock comes here, too; and there is a next one, since whoever was woken
 * does not give up: it takes the lock, or finds that somebody else has it, who will unlock it.
 *
 * The lock is not handed over: whoever was woken attaches first and then competes.  So a thread never gets a lock while
 * it is kept out by a stopped world, and the one that stopped it finds the lock free.
 *
 * What may surprise: the object is not touched once the byte is stored, nor the node once it is marked, except that its
 * address is given to the kernel; a thread that happens to sleep there for another reason wakes early, which all
 * sleepers allow.  A waiting thread may meet its being woken before it has even detached.
 *
 * The mutexes of the table are leaves: under one nothing is called, allocated, waited for or parked.
 * docs/internals/locks.md
 */
#include "object/lock.h"

#include "base/os.h"
#include "object/type.h"
#include "thread/seat.h"

#include <ouro/lock.h>

#include <errno.h>

#undef ouro_lock
#undef ouro_trylock
#undef ouro_unlock
#undef ouro_lock_pair
#undef ouro_unlock_pair

enum { LOCKED = 1, WAITERS = 2 };

enum {
    SPINS = 24,   /* pauses of 15 to 50 ns: less than putting a thread to sleep */
    BUCKETS = 16, /* few threads wait at once; a fork takes all of their mutexes */
    BUCKETS_USED = CHECKING ? 2 : BUCKETS, /* so that check builds have strangers in one bucket */
};

struct waiter {
    struct waiter *next;       /* [lock: bucket] */
    const ouro_object *object; /* [const] what it waits for */
    uint32_t woken;            /* [atomic] 1: taken out of the queue */
};

struct bucket {
    alignas(64) mutex lock;
    struct waiter *first; /* [lock: bucket] in the order in which they came */
    struct waiter *last;  /* [lock: bucket] if there is a first */
};

#define FOUR(...) __VA_ARGS__, __VA_ARGS__, __VA_ARGS__, __VA_ARGS__

static struct bucket table[BUCKETS] = {FOUR(FOUR({.lock = MUTEX_INIT}))};

static struct bucket *bucket_of(const ouro_object *o)
{
    return &table[((uintptr_t)o >> 4) * 0x9E3779B97F4A7C15u >> 40 & (BUCKETS_USED - 1)];
}

/* --- the list of locks held -------------------------------------------------------------------------- */

static bool holds(const struct seat *self, const ouro_object *o)
{
    for (uint32_t i = self->held_count; i > 0; i--) {
        if (self->held[i - 1] == o)
            return true;
    }
    return false;
}

static void note_held(struct seat *self, ouro_object *o)
{
    self->held[self->held_count++] = o;
}

/* Mostly it is the latest one. */
static void forget_held(struct seat *self, const ouro_object *o, const char *what)
{
    uint32_t i = self->held_count;

    while (i > 0 && self->held[i - 1] != o)
        i--;
    REQUIRE(i > 0,
            "%s of %p by the thread \"%s\", which has not locked it: only who has locked an object "
            "may unlock it, once",
            what, (const void *)o, self->name);
    for (self->held_count--; i <= self->held_count; i++)
        self->held[i - 1] = self->held[i];
}

/* --- locking ----------------------------------------------------------------------------------------- */

/* False if it is locked. */
static bool lock_try(ouro_object *o)
{
    uint8_t b = load_relaxed(&o->ouro.lock);

    while (!(b & LOCKED)) {
        /* [O1] acquire: all that was done while others had it locked; unlock(), unlock_slow() */
        if (cas_acquire(&o->ouro.lock, &b, (uint8_t)(b | LOCKED)))
            return true;
    }
    return false;
}

/* Tries for a moment, as long as nobody else has given that up. */
static bool lock_spin(ouro_object *o)
{
    int left = os_processors() > 1 ? SPINS : 0;

    while (!lock_try(o)) {
        if (left-- == 0 || (load_relaxed(&o->ouro.lock) & WAITERS))
            return false;
        cpu_relax();
    }
    return true;
}

/* Puts the node into the queue of its object's bucket; false if the object is not locked any more. */
static bool enqueue(ouro_object *o, struct waiter *waiter)
{
    struct bucket *bucket = bucket_of(o);
    uint8_t b;

    mutex_lock(&bucket->lock);
    b = load_relaxed(&o->ouro.lock);
    /* Relaxed: who sees WAITERS takes the mutex before he looks for the node. */
    while (b == LOCKED && !cas_relaxed(&o->ouro.lock, &b, (uint8_t)(LOCKED | WAITERS)))
        ;
    bool locked = (b & LOCKED) != 0;
    if (locked) {
        if (bucket->first)
            bucket->last->next = waiter;
        else
            bucket->first = waiter;
        bucket->last = waiter;
    }
    mutex_unlock(&bucket->lock);
    return locked;
}

/* Sleeps until it is worth trying again. A safepoint. */
static void wait(struct seat *self, ouro_object *o, const char *what)
{
    struct waiter waiter = {.object = o};

    REQUIRE(!self->has_world,
            "%s of %p by the thread \"%s\", which has stopped the world, and another thread has it "
            "locked: lock it before ouro_world_stop(), or use ouro_trylock()",
            what, (void *)o, self->name);
    seat_may_pass(self, what);
    if (!enqueue(o, &waiter))
        return;
    seat_event(self, EVENT_LOCK_WAIT);
    seat_detach(self);
    /* [O2] acquire: the last that unlock_slow() does with the node */
    while (!load_acquire(&waiter.woken))
        os_futex_wait(&waiter.woken, 0, 0);
    seat_attach(self);
}

static OURO_COLD void lock_slow(struct seat *self, ouro_object *o, const char *what)
{
    int saved = errno; /* a `destroy` may run, and the heap asks the system */

    REQUIRE(!holds(self, o),
            "%s of %p by the thread \"%s\", which has it locked already: locks are not recursive",
            what, (void *)o, self->name);
    while (!lock_spin(o))
        wait(self, o, what);
    errno = saved;
}

/* The caller's seat, if it may lock the object. */
static inline struct seat *may_lock(const ouro_object *o, const char *what)
{
    struct seat *self = seat_required(what);

    REQUIRE(o, "%s of NULL: test the pointer first", what);
    REQUIRE(
        !self->in_destroy,
        "%s in a type's destroy: it takes no lock, since whoever dropped the object may hold it",
        what);
    REQUIRE(self->held_count < SEAT_HELD_MAX,
            "%s by the thread \"%s\", which holds %d locks: unlock one before you lock more", what,
            self->name, SEAT_HELD_MAX);
    REQUIRE(!CHECKING || o->ouro.type != 0,
            "%s of %p, an object that has been freed: keep a reference until it is unlocked", what,
            (const void *)o);
    return self;
}

static inline void lock(ouro_object *o, const char *what)
{
    struct seat *self = may_lock(o, what);
    uint8_t b = 0;

    if (OURO_UNLIKELY(
            self->reading)) /* whether it has to wait or not, so that the mistake shows each time */
        seat_misuse_point(self, what);

    /* [O1] acquire: all that was done while others had it locked; unlock(), unlock_slow() */
    if (OURO_UNLIKELY(!cas_acquire(&o->ouro.lock, &b, (uint8_t)LOCKED)))
        lock_slow(self, o, what);
    note_held(self, o);
}

void ouro_lock(ouro_object *o)
{
    lock(o, "ouro_lock()");
}

bool ouro_trylock(ouro_object *o)
{
    struct seat *self = may_lock(o, "ouro_trylock()");

    if (!lock_try(o))
        return false;
    note_held(self, o);
    return true;
}

/* --- unlocking --------------------------------------------------------------------------------------- */

/* Takes the first that waits for the object out of the queue; *more: there are others. */
static struct waiter *dequeue(struct bucket *bucket, const ouro_object *o, bool *more)
{
    struct waiter **link = &bucket->first, *before = NULL, *found;

    while (*link && (*link)->object != o) {
        before = *link;
        link = &before->next;
    }
    found = *link;
    *more = false;
    if (!found)
        return NULL;
    *link = found->next;
    if (bucket->last == found)
        bucket->last = before;
    for (const struct waiter *w = found->next; w && !*more; w = w->next)
        *more = w->object == o;
    return found;
}

/* Somebody waits. */
static OURO_COLD void unlock_slow(ouro_object *o)
{
    struct bucket *bucket = bucket_of(o);
    struct waiter *waiter;
    bool more;

    mutex_lock(&bucket->lock);
    ASSERT(load_relaxed(&o->ouro.lock) == (LOCKED | WAITERS));
    waiter = dequeue(bucket, o, &more);
    /* [O1] release: all that was done while it was locked; a store, since nobody else may change it now */
    store_release(&o->ouro.lock, (uint8_t)(more ? WAITERS : 0));
    mutex_unlock(&bucket->lock);
    if (waiter) {
        /* [O2] release: what dequeue() did with the node, which is gone when its thread sees this */
        store_release(&waiter->woken, 1u);
        os_futex_wake(&waiter->woken, 1);
    }
}

static inline void unlock(ouro_object *o, const char *what)
{
    uint8_t b = LOCKED;

    forget_held(seat_required(what), o, what);
    /* [O1] release: all that was done while it was locked; lock(), lock_try() */
    if (OURO_UNLIKELY(!cas_release(&o->ouro.lock, &b, (uint8_t)0)))
        unlock_slow(o);
}

void ouro_unlock(ouro_object *o)
{
    unlock(o, "ouro_unlock()");
}

/* --- two --------------------------------------------------------------------------------------------- */

void ouro_lock_pair(ouro_object *a, ouro_object *b)
{
    bool in_order = (uintptr_t)a <= (uintptr_t)b;

    lock(in_order ? a : b, "ouro_lock_pair()");
    if (a != b)
        lock(in_order ? b : a, "ouro_lock_pair()");
}

void ouro_unlock_pair(ouro_object *a, ouro_object *b)
{
    bool in_order = (uintptr_t)a <= (uintptr_t)b;

    if (a != b)
        unlock(in_order ? b : a, "ouro_unlock_pair()");
    unlock(in_order ? a : b, "ouro_unlock_pair()");
}

/* --- destruction ------------------------------------------------------------------------------------- */

void lock_check_dying(const ouro_object *o)
{
    REQUIRE(
        !(load_relaxed(&o->ouro.lock) & LOCKED),
        "an object of type \"%s\" at %p is destroyed while it is locked: keep a reference until "
        "it is unlocked",
        type_of(o)->name, (const void *)o);
}

/* --- fork -------------------------------------------------------------------------------------------- */

void lock_fork_prepare(void)
{
    for (int i = 0; i < BUCKETS; i++)
        mutex_lock(&table[i].lock);
}

void lock_fork_parent(void)
{
    for (int i = BUCKETS; i > 0; i--)
        mutex_unlock(&table[i - 1].lock);
}

/* Unlocking is enough: the only thread of the child is the one that has locked them. The bytes of objects for which
 * others waited keep WAITERS until they are unlocked next. */
void lock_fork_child(void)
{
    for (int i = BUCKETS; i > 0; i--) {
        table[i - 1].first = NULL;
        mutex_unlock(&table[i - 1].lock);
    }
}

void lock_abandon(struct seat *gone)
{
    for (; gone->held_count > 0; gone->held_count--)
        store_relaxed(&gone->held[gone->held_count - 1]->ouro.lock, (uint8_t)0);
}
