/*
 * object/weak.c - weak references.
 *
 * A table of all weak references by the address of their target, in shards with a mutex each.  It costs an object
 * without weak references nothing: those that have, or had, one have the flag WEAK in `shared`, so an owner's last
 * decref, which frees on `shared == 0`, takes the slow path for them and merges: a WEAK object that dies has exactly
 * MERGED and a count of 0 there, and keeps it until its block is freed.
 *
 *    get     1 target := ref->target (NULL: gone)   2 mine: count locally; else add one to `shared` by compare-exchange,
 *            unless that says MERGED, 0   3 read ref->target again: if it was cleared meanwhile give the reference back
 *    death   1 (count is MERGED, 0, by whoever made it so)   2 under the mutex of the shard: unlink each, take a reference
 *            to those with a callback, clear the target   3 a finalizer that has not run: the queue's reference is added
 *            4 fields, `destroy`   5 the block is freed after a grace period (object/retire.c)
 *    stop    the collector does 2 for garbage in a stopped world
 *
 * A get passes no safepoint between its steps, so the block it looks at is still there: what it read before step
 * 2 of a death is freed after a grace period, and a stop waits for it.  Step 3 of get is for the object that got
 * one reference back for its finalizer: everybody else is to see it gone.  A total count of 0 that is not merged
 * yet may be taken back: the owner's merge will see it.
 *
 * Weak references are born merged, so that whoever finds one in the table can try to count it in the same
 * way.  Its own death takes it out of the table (`destroy`); a clearing that comes first does not touch it after
 * it has cleared the target, unless it holds a reference.
 *
 * docs/internals/weak.md; stress/models/weak.pml; stress/weak_last.c
 */
#include "object/weak.h"

#include "base/fault.h"
#include "base/mutex.h"
#include "heap/page.h"
#include "object/count.h"
#include "object/death.h"
#include "object/finalize.h"
#include "object/type.h"

#include <stdlib.h>

enum {
    SHARDS = 16, /* all are locked at once around fork(), and ThreadSanitizer allows 64 mutexes */
    BUCKETS_FIRST = 8, /* of a shard */
};

/* Those with a callback apart, so that the shared one is found among few. */
struct bucket {
    ouro_weakref *plain, *watching;
};

struct shard {
    alignas(64) mutex lock;
    struct bucket *buckets; /* [lock: weak] NULL: `first` */
    size_t mask;            /* [lock: weak] */
    size_t count;           /* [lock: weak] */
    struct bucket first[BUCKETS_FIRST];
};

static struct shard shards[SHARDS]; /* all zero is an unlocked mutex, on Linux */

static mutex making = MUTEX_INIT;      /* who registers the two types */
static const ouro_type *plain_type;    /* [atomic] [R3] NULL: not registered yet */
static const ouro_type *watching_type; /* [atomic] [R3] */

/* --- the table --------------------------------------------------------------------------------------- */

static inline ouro_object *as_object(ouro_weakref *ref)
{
    return (ouro_object *)&ref->ouro;
}

static uint64_t hash_of(const ouro_object *target)
{
    return ((uintptr_t)target >> 4) * UINT64_C(0x9E3779B97F4A7C15);
}

static struct shard *shard_of(const ouro_object *target)
{
    return &shards[hash_of(target) >> 60];
}

static struct bucket *bucket_locked(struct shard *shard, const ouro_object *target)
{
    size_t index = (size_t)(hash_of(target) >> 24);

    return shard->buckets ? &shard->buckets[index & shard->mask]
                          : &shard->first[index % BUCKETS_FIRST];
}

static void link_locked(ouro_weakref **list, ouro_weakref *ref)
{
    ref->next = *list;
    ref->link = list;
    if (ref->next)
        ref->next->link = &ref->next;
    *list = ref;
}

static void unlink_locked(struct shard *shard, ouro_weakref *ref)
{
    *ref->link = ref->next;
    if (ref->next)
        ref->next->link = ref->link;
    ref->next = NULL;
    ref->link = NULL;
    shard->count--;
}

/* The order of a list stays what it was: it is turned round, then each is put in front. */
static void move_locked(struct shard *shard, ouro_weakref *list, bool watching)
{
    ouro_weakref *turned = NULL, *next;

    for (; list; list = next) {
        next = list->next;
        list->next = turned;
        turned = list;
    }
    for (; turned; turned = next) {
        struct bucket *bucket = bucket_locked(shard, turned->target);

        next = turned->next;
        link_locked(watching ? &bucket->watching : &bucket->plain, turned);
    }
}

/* Doubles the number of buckets. If memory is out the lists just get longer. */
static void grow_locked(struct shard *shard)
{
    size_t before = shard->buckets ? shard->mask + 1 : BUCKETS_FIRST;
    struct bucket *old = shard->buckets ? shard->buckets : shard->first;
    struct bucket *buckets = fault_hit() ? NULL : calloc(before * 2, sizeof *buckets);

    if (!buckets)
        return;
    shard->buckets = buckets;
    shard->mask = before * 2 - 1;
    for (size_t i = 0; i < before; i++) {
        move_locked(shard, old[i].plain, false);
        move_locked(shard, old[i].watching, true);
    }
    if (old != shard->first)
        free(old);
}

static void insert_locked(struct shard *shard, ouro_weakref *ref, ouro_object *target,
                          bool watching)
{
    if (++shard->count > (shard->buckets ? shard->mask + 1 : BUCKETS_FIRST) * 2)
        grow_locked(shard);
    /* Relaxed: the reference that the caller holds is destroyed after it, so whoever sees all destructions sees it. */
    fetch_or_relaxed(&target->ouro.shared, OURO_WEAK);
    store_relaxed(&ref->target, target); /* nobody else has the weak reference yet */

    struct bucket *bucket = bucket_locked(shard, target);
    link_locked(watching ? &bucket->watching : &bucket->plain, ref);
}

/* --- counting one that may be dying ---------------------------------------------------------------------- */

/* Adds a reference to an object with WEAK, or to a weak reference in the table, unless it has died. */
static bool count_try(ouro_object *o)
{
    uint32_t s = load_relaxed(&o->ouro.shared);

    do {
        if (s & OURO_IMMORTAL)
            return true;
        if (count_is_zero(s))
            return false;
        /* [R2] acq_rel: that it was cleared, if it died and got a reference for its finalizer; finalize_queue_dead() */
    } while (!cas_acq_rel(&o->ouro.shared, &s, s + OURO_SHARED_ONE));
    return true;
}

/* After count_try(), without a lock, since it may run a `destroy`. */
static void saturate(struct seat *self, ouro_object *o)
{
    uint32_t s = load_relaxed(&o->ouro.shared);

    if (OURO_UNLIKELY(OURO_SHARED_COUNT(s) >= SHARED_LIMIT) && !(s & OURO_IMMORTAL))
        count_saturate(self, o);
}

static void *get_foreign(struct seat *self, const ouro_weakref *ref, ouro_object *target)
{
    if (!count_try(target)) {
        seat_event(self, EVENT_WEAK_REFUSED);
        return NULL;
    }
    saturate(self, target);
    /* [R1] acquire, or any order: after count_try() it can't be older */
    if (OURO_LIKELY(load_acquire(&ref->target) == target))
        return target;
    seat_event(self, EVENT_WEAK_GIVEN_BACK);
    (ouro_decref)(target);
    return NULL;
}

void *ouro_weakref_get(const ouro_weakref *ref)
{
    struct seat *self = seat_required("ouro_weakref_get()");
    /* [R1] acquire: the object as it was when the weak reference was made, for who found that one without more; clear_list() */
    ouro_object *target = load_acquire(&ref->target);

    if (!target)
        return NULL;
    /* Mine, and not merged: then it is alive, since a WEAK object dies merged. */
    uint32_t w = load_relaxed(&target->ouro.owned);
    if (OURO_LIKELY(((w ^ ouro_self.tag) & (0xFFFF0000u | OURO_LOCAL_FULL)) == 0)) {
        store_relaxed(&target->ouro.owned, w + 1u);
        return target;
    }
    return get_foreign(self, ref, target);
}

/* --- making ------------------------------------------------------------------------------------------ */

/* `destroy` of a weak reference: out of the table, unless its target was faster. */
static void destroy_weakref(void *p)
{
    ouro_weakref *ref = p;
    /* [R1] acquire: who has cleared it is through with it */
    ouro_object *target = load_acquire(&ref->target);

    if (!target)
        return;
    struct shard *shard = shard_of(target);
    mutex_lock(&shard->lock);
    if (load_relaxed(&ref->target) == target)
        unlink_locked(shard, ref);
    mutex_unlock(&shard->lock);
}

static const ouro_type *type_once(const ouro_type **place, const ouro_type_spec *spec)
{
    const ouro_type *type = load_acquire(place); /* [R3] acquire: the type; below */

    if (type)
        return type;
    mutex_lock(&making);
    type = load_relaxed(place);
    if (!type && ouro_type_register(spec, &type) == OURO_OK)
        store_release(place, type); /* [R3] release: the type */
    mutex_unlock(&making);
    return type;
}

static ouro_weakref *make(const ouro_type **place, const ouro_type_spec *spec)
{
    const ouro_type *type = type_once(place, spec);
    ouro_weakref *ref = type ? ouro_new(type) : NULL;

    if (ref) {
        store_relaxed(&ref->ouro.owned, 0u);
        store_relaxed(&ref->ouro.shared, OURO_SHARED_ONE | OURO_MERGED);
    }
    return ref;
}

static void check_target(const ouro_object *target, const char *what)
{
    REQUIRE(target, "%s of NULL: test the pointer first", what);
    REQUIRE(target->ouro.type != 0 &&
                !(load_relaxed(&target->ouro.flags) & (OURO_FLAG_DEAD | OURO_FLAG_GARBAGE)),
            "%s to an object at %p that is being destroyed, or is gone: it needs a target to which "
            "the caller holds a reference",
            what, (const void *)target);
}

/* A new reference to the shared one, if there is one that lives. */
static ouro_weakref *find_shared_locked(struct shard *shard, const ouro_object *target)
{
    ouro_weakref *ref = bucket_locked(shard, target)->plain;

    while (ref && (ref->target != target || !count_try(as_object(ref))))
        ref = ref->next;
    return ref;
}

ouro_weakref *(ouro_weakref_new)(ouro_object *target)
{
    static const ouro_type_spec spec = {.name = "weakref",
                                        .size = sizeof(ouro_weakref),
                                        .destroy = destroy_weakref};
    struct seat *self = seat_required("ouro_weakref_new()");

    check_target(target, "ouro_weakref_new()");
    struct shard *shard = shard_of(target);
    mutex_lock(&shard->lock);
    ouro_weakref *ref = find_shared_locked(shard, target);
    mutex_unlock(&shard->lock);
    if (ref) {
        saturate(self, as_object(ref));
        return ref;
    }

    ouro_weakref *made = make(&plain_type, &spec);
    if (!made)
        return NULL;
    mutex_lock(&shard->lock);
    ref = find_shared_locked(shard, target); /* somebody may have been faster */
    if (!ref)
        insert_locked(shard, made, target, false);
    mutex_unlock(&shard->lock);
    if (!ref)
        return made;
    ouro_decref(made);
    return ref;
}

ouro_weakref *(ouro_weakref_new_callback)(ouro_object *target, ouro_weakref_callback callback,
                                          ouro_object *argument)
{
    static const uint16_t fields[] = {OURO_FIELD(struct watcher, argument)};
    static const ouro_type_spec spec = {.name = "weakref with callback",
                                        .size = sizeof(struct watcher),
                                        .fields = fields,
                                        .field_count = 1,
                                        .destroy = destroy_weakref};

    seat_required("ouro_weakref_new_callback()");
    check_target(target, "ouro_weakref_new_callback()");
    REQUIRE(callback, "ouro_weakref_new_callback() without a callback: ouro_weakref_new() makes "
                      "one that has none");
    struct watcher *watcher = (struct watcher *)(void *)make(&watching_type, &spec);

    if (!watcher)
        return NULL;
    watcher->callback = callback;
    watcher->argument = argument ? (ouro_incref)(argument) : NULL;

    struct shard *shard = shard_of(target);
    mutex_lock(&shard->lock);
    insert_locked(shard, &watcher->ref, target, true);
    mutex_unlock(&shard->lock);
    return &watcher->ref;
}

/* --- clearing ---------------------------------------------------------------------------------------- */

/* By a clearing in a stopped world: a member of the set that is tried has its bit in the map, and is not held if it still has a
 * scratch word; see gc/trial.c. What an earlier collection has found and somebody still takes apart has the flag. */
static bool is_garbage(ouro_weakref *ref, bool stopped)
{
    if (load_relaxed(&ref->ouro.flags) & OURO_FLAG_GARBAGE)
        return true;
    if (!stopped || ref->ouro.gc == 0)
        return false;
    const uint64_t *condemned = page_condemned(page_of(ref));
    uint32_t granule = granule_of(ref);
    return (condemned[granule / 64] >> granule % 64 & 1) != 0;
}

/* Those with a callback that is to be called are put in front of *fired, with a reference. */
static void clear_list_locked(struct seat *self, struct shard *shard, ouro_weakref *list,
                              const ouro_object *target, bool stopped, ouro_weakref ***fired)
{
    ouro_weakref *next;

    for (ouro_weakref *ref = list; ref; ref = next) {
        next = ref->next;
        if (ref->target != target)
            continue;
        bool call = fired && !is_garbage(ref, stopped) && count_try(as_object(ref));

        unlink_locked(shard, ref);
        if (call) {
            **fired = ref;
            *fired = &ref->next;
        }
        seat_event(self, EVENT_WEAK_CLEARED);
        /* [R1] release: we are through with it, unless it was counted; destroy_weakref() */
        store_release(&ref->target, NULL);
    }
}

static void clear(struct seat *self, ouro_object *target, bool stopped)
{
    struct shard *shard = shard_of(target);
    ouro_weakref *fired = NULL, **end = &fired;

    mutex_lock(&shard->lock);
    struct bucket *bucket = bucket_locked(shard, target);
    clear_list_locked(self, shard, bucket->plain, target, stopped, NULL);
    clear_list_locked(self, shard, bucket->watching, target, stopped, &end);
    mutex_unlock(&shard->lock);
    if (fired)
        finalize_queue_calls(self, fired, stopped);
}

void weak_clear(struct seat *self, ouro_object *target)
{
    clear(self, target, false);
}

void weak_clear_stopped(struct seat *self, ouro_object *target)
{
    clear(self, target, true);
}

bool weak_is_reference(const ouro_object *o)
{
    /* Relaxed: who has a reference to one has its type. NULL is no object's type. */
    return type_of(o) == load_relaxed(&plain_type) || weak_is_watcher(o);
}

bool weak_is_watcher(const ouro_object *o)
{
    return type_of(o) == load_relaxed(&watching_type);
}

void weak_call_back(struct seat *self, struct watcher *watcher)
{
    seat_event(self, EVENT_WEAK_CALL);
    watcher->callback(&watcher->ref, watcher->argument);
    ouro_clear(&watcher->argument);
}

/* --- questions --------------------------------------------------------------------------------------- */

size_t(ouro_weakref_count)(const ouro_object *target)
{
    struct shard *shard = shard_of(target);
    size_t count = 0;

    seat_required("ouro_weakref_count()");
    mutex_lock(&shard->lock);
    const struct bucket *bucket = bucket_locked(shard, target);
    for (const ouro_weakref *ref = bucket->plain; ref; ref = ref->next)
        count += ref->target == target;
    for (const ouro_weakref *ref = bucket->watching; ref; ref = ref->next)
        count += ref->target == target;
    mutex_unlock(&shard->lock);
    return count;
}

size_t(ouro_weakref_list)(const ouro_object *target, ouro_weakref **refs, size_t capacity)
{
    struct shard *shard = shard_of(target);
    size_t count = 0;

    struct seat *self = seat_required("ouro_weakref_list()");
    mutex_lock(&shard->lock);
    const struct bucket *bucket = bucket_locked(shard, target);
    for (int watching = 0; watching < 2; watching++) {
        for (ouro_weakref *ref = watching ? bucket->watching : bucket->plain;
             ref && count < capacity; ref = ref->next) {
            if (ref->target == target && !is_garbage(ref, false) && count_try(as_object(ref)))
                refs[count++] = ref;
        }
    }
    mutex_unlock(&shard->lock);
    for (size_t i = 0; i < count; i++)
        saturate(self, as_object(refs[i]));
    return count;
}

/* --- fork -------------------------------------------------------------------------------------------- */

void weak_fork_prepare(void)
{
    mutex_lock(&making);
    for (size_t i = 0; i < SHARDS; i++)
        mutex_lock(&shards[i].lock);
}

void weak_fork_done(void)
{
    for (size_t i = SHARDS; i > 0; i--)
        mutex_unlock(&shards[i - 1].lock);
    mutex_unlock(&making);
}
