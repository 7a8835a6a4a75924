/*
 * object/retire.c - references and buffers that wait for a grace period.
 *
 *   retire   an entry in the thread's open batch, a chunk of 4 KiB; the place is reserved before anything is taken
 *            out of a slot, so that running out of memory is known before it is too late
 *   close    when the chunk is full, the budget is used up (at the next safepoint), or the thread parks or detaches:
 *            the chunk gets a stamp (thread/grace.h) and goes to the end of one queue of all threads
 *   ripen    by whoever has acknowledged a grace period: takes ripe chunks off the front and drops what is in
 *            them; if an unripe one is left, begins the next period.  So the queue empties itself as long as some
 *            thread passes safepoints, and a thread that detaches leaves nothing that waits for it
 *
 * Nothing is dropped on the spot: a store is no safepoint, and its caller may have borrowed the very object.
 * Over the budget it is the next safepoint that works.
 */
#include "object/retire.h"

#include "base/os.h"
#include "heap/heap.h"
#include "object/count.h"
#include "object/death.h"
#include "thread/grace.h"

#include <ouro/memory.h>
#include <ouro/slot.h>

#include <string.h>
#include <time.h>

enum { CHUNK_BYTES = 4096, CHUNKS_A_TIME = 16 };

struct retire_chunk {
    struct retire_chunk *next; /* [lock: retire] in a list */
    uint64_t stamp;            /* [owner] until it is in the queue */
    size_t count;              /* [owner] of the entries */
    uintptr_t
        entries[(CHUNK_BYTES - 3 * sizeof(void *)) / sizeof(uintptr_t)]; /* lowest bit: a buffer */
};
static_assert(sizeof(struct retire_chunk) == CHUNK_BYTES, "chunks are cut out of pages");

#define CHUNK_ENTRIES (sizeof((struct retire_chunk *)0)->entries / sizeof(uintptr_t))

static mutex lock = MUTEX_INIT;
static struct retire_chunk *free_chunks; /* [lock: retire] */
static struct retire_chunk *first; /* [lock: retire] the queue, about in the order of the stamps */
static struct retire_chunk *last;
static struct retire_chunk *dropping;   /* [lock: retire] chunks that are being dropped */
static size_t queued;                   /* [lock: retire] W; relaxed R: length of the queue */
static size_t budget = (size_t)1 << 20; /* relaxed: a setting */

void ouro_set_retire_budget(size_t bytes)
{
    store_relaxed(&budget, bytes);
}

/* --- chunks ------------------------------------------------------------------------------------------ */

static struct retire_chunk *chunk_new(void)
{
    mutex_lock(&lock);
    struct retire_chunk *chunk = free_chunks;

    if (!chunk && (chunk = os_map((size_t)CHUNK_BYTES * CHUNKS_A_TIME, CHUNK_BYTES)) != NULL) {
        for (int i = 0; i + 1 < CHUNKS_A_TIME; i++)
            chunk[i].next = &chunk[i + 1];
        free_chunks = chunk;
    }
    if (chunk)
        free_chunks = chunk->next;
    mutex_unlock(&lock);
    return chunk;
}

static void chunk_free(struct retire_chunk *chunk)
{
    struct retire_chunk **link = &dropping;

    chunk->count = 0;
    mutex_lock(&lock);
    while (*link != chunk)
        link = &(*link)->next;
    *link = chunk->next;
    chunk->next = free_chunks;
    free_chunks = chunk;
    mutex_unlock(&lock);
}

/* The next safepoint of this thread sees to it. */
static void ask_for_work(struct seat *self)
{
    if (!(load_relaxed(&self->word) & SEAT_RETIRE))
        /* [S1] nothing hangs on it: RETIRE is set and cleared by this thread alone */
        fetch_or_acq_rel(&self->word, SEAT_RETIRE);
}

/* --- retiring ---------------------------------------------------------------------------------------- */

bool retire_reserve(struct seat *self)
{
    if (OURO_LIKELY(self->retiring != NULL))
        return true;
    self->retiring = chunk_new();
    if (!self->retiring)
        ask_for_work(self); /* chunks may come back */
    return self->retiring != NULL;
}

void retire_close(struct seat *self)
{
    struct retire_chunk *chunk = self->retiring;

    if (!chunk || chunk->count == 0)
        return;
    self->retiring_bytes = 0;
    chunk->next = NULL;
    chunk->stamp = grace_stamp();
    mutex_lock(&lock);
    if (last && last->stamp == chunk->stamp && last->count + chunk->count <= CHUNK_ENTRIES) {
        /* Small batches of one period share a chunk; this one stays with the thread. */
        memcpy(&last->entries[last->count], chunk->entries, chunk->count * sizeof *chunk->entries);
        last->count += chunk->count;
        chunk->count = 0;
    } else {
        self->retiring = NULL;
        *(last ? &last->next : &first) = chunk;
        last = chunk;
        store_relaxed(&queued, queued + 1);
    }
    mutex_unlock(&lock);
}

static void retire(struct seat *self, void *p, uintptr_t tag)
{
    struct retire_chunk *chunk = self->retiring;
    const struct page *page = page_of(p);

    chunk->entries[chunk->count++] = (uintptr_t)p | tag;
    self->retiring_bytes += page_state(page) == PAGE_LARGE ? page->large_bytes : page->block_size;
    if (chunk->count == CHUNK_ENTRIES) {
        retire_close(self);
        ask_for_work(self);
    } else if (self->retiring_bytes >= load_relaxed(&budget)) {
        ask_for_work(self);
    }
}

void retire_reference(struct seat *self, ouro_object *o)
{
    retire(self, o, 0);
}

void retire_buffer(struct seat *self, void *buffer)
{
    retire(self, buffer, 1);
}

/* --- dropping ---------------------------------------------------------------------------------------- */

/* The first chunk of the queue if it is ripe; *waits: there is one that is not. */
static struct retire_chunk *take_ripe(bool *waits)
{
    mutex_lock(&lock);
    struct retire_chunk *chunk = first;

    *waits = chunk && !grace_is_ripe(chunk->stamp);
    if (chunk && !*waits) {
        store_relaxed(&queued, queued - 1);
        first = chunk->next;
        if (!first)
            last = NULL;
        chunk->next = dropping;
        dropping = chunk;
    } else {
        chunk = NULL;
    }
    mutex_unlock(&lock);
    return chunk;
}

static void drop_entries(struct seat *self, struct retire_chunk *chunk)
{
    for (size_t i = 0; i < chunk->count; i++) {
        uintptr_t entry = chunk->entries[i];

        if (entry & 1)
            heap_free(self, (void *)(entry & ~(uintptr_t)1));
        else if (count_drop(self, (ouro_object *)entry))
            death_queue(self, (ouro_object *)entry);
    }
    if (self->dying)
        death_run(self);
    chunk_free(chunk); /* now: ouro_synchronize() of others waits for it */
}

void retire_ripen(struct seat *self)
{
    struct retire_chunk *chunk;
    bool waits = false;

    while ((chunk = take_ripe(&waits)) != NULL) {
        drop_entries(self, chunk);
        if (seat_stop_wanted(
                self)) { /* others wait for this thread: the rest is for the next safepoint */
            ask_for_work(self);
            return;
        }
    }
    if (waits)
        grace_begin(self);
}

void retire_work(struct seat *self)
{
    bool own = self->retiring_bytes != 0;

    retire_close(self);
    /* Who has put something in looks after it himself, so a stale 0 loses nothing. Those who have acknowledged a period
     * don't come by here: they look under the lock, because somebody may rely on them. */
    if (own || load_relaxed(&queued) != 0)
        retire_ripen(self);
}

void retire_look(struct seat *self)
{
    if (load_relaxed(&queued) != 0)
        ask_for_work(self);
}

bool retire_waits(struct seat *self)
{
    return self->retiring_bytes != 0 || load_relaxed(&queued) != 0;
}

/* --- public ------------------------------------------------------------------------------------------ */

ouro_status(ouro_retire)(ouro_object *o)
{
    struct seat *self = seat_required("ouro_retire()");

    if (!retire_reserve(self))
        return OURO_NO_MEMORY;
    retire_reference(self, o);
    return OURO_OK;
}

ouro_status ouro_free_deferred(void *buffer)
{
    struct seat *self = seat_required("ouro_free_deferred()");

    if (!buffer)
        return OURO_OK;
    REQUIRE((uintptr_t)buffer % GRANULE == 0 && page_of(buffer)->kind == KIND_RAW,
            "ouro_free_deferred() of %p, which is no buffer of ouro_alloc(): references are "
            "retired by ouro_retire()",
            buffer);
    if (!retire_reserve(self))
        return OURO_NO_MEMORY;
    retire_buffer(self, buffer);
    return OURO_OK;
}

/* True if something with that stamp, or an older one, is in the queue or being dropped. */
static bool is_left(uint64_t stamp)
{
    bool left;

    mutex_lock(&lock);
    left = first && first->stamp <= stamp;
    for (struct retire_chunk *chunk = dropping; chunk; chunk = chunk->next)
        left |= chunk->stamp <= stamp;
    mutex_unlock(&lock);
    return left;
}

static void sleep_longer(struct timespec *pause)
{
    nanosleep(pause, NULL);
    if (pause->tv_nsec < 1000000)
        pause->tv_nsec *= 2;
}

void ouro_synchronize(void)
{
    struct seat *self = seat_required("ouro_synchronize()");
    struct timespec pause = {0, 20000};

    REQUIRE(!self->in_destroy,
            "ouro_synchronize() in a type's destroy: it may not pass a safepoint");
    REQUIRE(!self->has_world,
            "ouro_synchronize() by the thread \"%s\", which has stopped the world: "
            "ouro_world_start() first",
            self->name);
    retire_close(self);
    uint64_t stamp = grace_stamp();
    seat_detach(self);
    while (!grace_is_ripe(stamp)) {
        grace_begin(self);
        if (!grace_is_ripe(stamp))
            sleep_longer(&pause);
    }
    seat_attach(self);
    retire_ripen(self);
    /* Others may have taken some of it, and be at it; or the world was to stop. */
    while (is_left(stamp)) {
        seat_detach(self);
        sleep_longer(&pause);
        seat_attach(self);
        retire_ripen(self);
    }
    /* What others have dropped of this thread's objects is in its inbox; what died is destroyed when this returns, even if
     * the world was to stop meanwhile. */
    do
        seat_safepoint(self, false);
    while (self->dying || self->half_dead);
}

/* --- fork -------------------------------------------------------------------------------------------- */

void retire_fork_prepare(void)
{
    mutex_lock(&lock);
    /* Whoever drops a chunk passes no safepoint meanwhile, so in a stopped world nobody is at it. */
    ASSERT(!dropping);
}

void retire_fork_done(void)
{
    mutex_unlock(&lock);
}

bool retire_is_closed(const struct seat *seat)
{
    return !seat->retiring || seat->retiring->count == 0;
}
