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
 *   pass on  by a detach that has gone on with it for as long as it may: all others look at their next safepoint
 *
 * The block of a dead object with weak references waits, too, and that must not fail: such blocks are linked through
 * their dead headers.  There is no room for a stamp in them, so there are two lists of all threads: one that waits for a
 * period, and one that gathers what comes meanwhile.  Lists are numbered, so that ouro_synchronize() can wait until a block
 * is free: `gathering` has the next number, what is freed just now is told by notes on the stacks of those who do it.
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

enum { CHUNK_BYTES = 4096, CHUNKS_A_TIME = 16, BLOCKS_A_TIME = 64 };

struct retire_chunk {
    struct retire_chunk *next; /* [lock: retire] in a list */
    uint64_t stamp;            /* [owner] until it is in the queue */
    size_t count;              /* [owner] of the entries */
    size_t bytes;              /* [lock: retire] in the queue: of the blocks that they name */
    uintptr_t
        entries[(CHUNK_BYTES - 4 * sizeof(void *)) / sizeof(uintptr_t)]; /* lowest bit: a buffer */
};
static_assert(sizeof(struct retire_chunk) == CHUNK_BYTES, "chunks are cut out of pages");

#define CHUNK_ENTRIES (sizeof((struct retire_chunk *)0)->entries / sizeof(uintptr_t))

/* On the stack of who frees blocks of the list with that number. */
struct freeing {
    struct freeing *next; /* [lock: retire] */
    uint64_t number;      /* [lock: retire] */
    bool noted;           /* [owner] */
};

static mutex lock = MUTEX_INIT;
static struct retire_chunk *free_chunks; /* [lock: retire] */
static struct retire_chunk *first; /* [lock: retire] the queue, about in the order of the stamps */
static struct retire_chunk *last;
static struct retire_chunk *dropping;   /* [lock: retire] chunks that are being dropped */
static size_t queued;                   /* [lock: retire] W; relaxed R: length of the queue */
static ouro_object *gathering;          /* [lock: retire] dead blocks, in no period yet */
static ouro_object *maturing;           /* [lock: retire] dead blocks that wait for one */
static uint64_t maturing_stamp;         /* [lock: retire] */
static ouro_object *ripe;               /* [lock: retire] dead blocks that have waited */
static uint64_t blocks_number = 1;      /* [lock: retire] of the list `gathering` */
static uint64_t maturing_number;        /* [lock: retire] of that list */
static uint64_t ripe_number;            /* [lock: retire] */
static struct freeing *freeing;         /* [lock: retire] blocks that are being freed */
static size_t closed_bytes;             /* [lock: retire] in the queue and being dropped */
static size_t mapped_bytes;             /* [lock: retire] chunks, ever */
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
        mapped_bytes += (size_t)CHUNK_BYTES * CHUNKS_A_TIME;
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
    closed_bytes -= chunk->bytes;
    chunk->next = free_chunks;
    free_chunks = chunk;
    mutex_unlock(&lock);
}

/* The next safepoint of this thread sees to it. */
static void ask_for_work(struct seat *self)
{
    if (!(load_relaxed(&self->word) & SEAT_RETIRE))
        /* [S1] nothing hangs on it: this thread reads it */
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

static void close_blocks_locked(struct seat *self)
{
    if (!gathering && !maturing && !ripe)
        store_relaxed(&queued, queued + 1);
    closed_bytes += self->retiring_block_bytes;
    self->retiring_block_bytes = 0;
    death_join(self->retiring_last, gathering);
    gathering = self->retiring_blocks;
    self->retiring_blocks = self->retiring_last = NULL;
}

static void close_chunk_locked(struct seat *self, struct retire_chunk *chunk)
{
    chunk->next = NULL;
    closed_bytes += chunk->bytes;
    if (last && last->stamp == chunk->stamp && last->count + chunk->count <= CHUNK_ENTRIES) {
        /* Small batches of one period share a chunk; this one stays with the thread. */
        memcpy(&last->entries[last->count], chunk->entries, chunk->count * sizeof *chunk->entries);
        last->count += chunk->count;
        last->bytes += chunk->bytes;
        chunk->count = 0;
    } else {
        self->retiring = NULL;
        *(last ? &last->next : &first) = chunk;
        last = chunk;
        store_relaxed(&queued, queued + 1);
    }
}

void retire_close(struct seat *self)
{
    struct retire_chunk *chunk = self->retiring;

    if (chunk && chunk->count == 0)
        chunk = NULL;
    if (!chunk && !self->retiring_blocks)
        return;
    if (chunk) {
        chunk->bytes = self->retiring_bytes - self->retiring_block_bytes;
        chunk->stamp = grace_stamp();
    }
    self->retiring_bytes = 0;
    mutex_lock(&lock);
    if (self->retiring_blocks)
        close_blocks_locked(self);
    if (chunk)
        close_chunk_locked(self, chunk);
    mutex_unlock(&lock);
}

static size_t bytes_of(const void *p)
{
    const struct page *page = page_of(p);

    return page_state(page) == PAGE_LARGE ? page->large_bytes : page->block_size;
}

static void count_bytes(struct seat *self, size_t bytes)
{
    self->retiring_bytes += bytes;
    if (self->retiring_bytes >= load_relaxed(&budget))
        ask_for_work(self);
}

static void retire(struct seat *self, void *p, uintptr_t tag)
{
    struct retire_chunk *chunk = self->retiring;

    chunk->entries[chunk->count++] = (uintptr_t)p | tag;
    count_bytes(self, bytes_of(p));
    if (chunk->count == CHUNK_ENTRIES) {
        retire_close(self);
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

void retire_block(struct seat *self, ouro_object *o)
{
    if (!self->retiring_blocks)
        self->retiring_last = o;
    death_push(&self->retiring_blocks, o);
    /* A weak get may look at the header, nobody at the rest. Who frees a block expects no more than that either. */
    poison((char *)o + sizeof(ouro_header), bytes_of(o) - sizeof(ouro_header));
    self->retiring_block_bytes += bytes_of(o);
    count_bytes(self, bytes_of(o));
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
    if (self->retiring_blocks) /* so that it can wait for those, too */
        retire_close(self);
    chunk_free(chunk); /* now: ouro_synchronize() of others waits for it */
}

/* Those that were taken last are free. */
static void forget_freeing_locked(struct freeing *note)
{
    struct freeing **link = &freeing;

    if (!note->noted)
        return;
    while (*link != note)
        link = &(*link)->next;
    *link = note->next;
    note->noted = false;
}

/* At most BLOCKS_A_TIME blocks that have waited long enough; those that were gathered begin to wait. */
static size_t take_blocks(ouro_object **blocks, bool *waits, struct freeing *note)
{
    size_t count = 0;

    mutex_lock(&lock);
    forget_freeing_locked(note);
    bool any = gathering || maturing || ripe;
    if (!ripe && maturing && grace_is_ripe(maturing_stamp)) {
        ripe = maturing;
        ripe_number = maturing_number;
        maturing = NULL;
    }
    if (!maturing && gathering) {
        maturing = gathering;
        gathering = NULL;
        maturing_number = blocks_number++;
        maturing_stamp = grace_stamp();
    }
    while (ripe && count < BLOCKS_A_TIME) {
        closed_bytes -= bytes_of(ripe);
        blocks[count++] = death_pop(&ripe);
    }
    if (count) {
        *note = (struct freeing){freeing, ripe_number, true};
        freeing = note;
    }
    *waits = maturing != NULL;
    if (any && !(gathering || maturing || ripe))
        store_relaxed(&queued, queued - 1);
    mutex_unlock(&lock);
    return count;
}

/* True if some still wait. The list may be long, so others are not made to wait for all of it. */
static bool free_blocks(struct seat *self)
{
    ouro_object *blocks[BLOCKS_A_TIME];
    struct freeing note = {NULL, 0, false};
    size_t count;
    bool waits;

    while ((count = take_blocks(blocks, &waits, &note)) != 0) {
        for (size_t i = 0; i < count; i++) {
            heap_free_object(self, blocks[i]);
            seat_event(self, EVENT_BLOCK_WAITED);
        }
        if (seat_stop_wanted(self)) {
            ask_for_work(self);
            break;
        }
    }
    mutex_lock(&lock);
    forget_freeing_locked(&note);
    mutex_unlock(&lock);
    return waits;
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
    if (free_blocks(self) || waits) {
        grace_begin(self);
        grace_watch(self);
    }
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

void retire_pass_on(struct seat *self)
{
    mutex_lock(&lock);
    bool waits = first || gathering || maturing || ripe;
    mutex_unlock(&lock);
    if (!waits)
        return;
    mutex_lock(&seat_registry);
    for (uint32_t id = seat_count(); id > 0; id--) {
        if (seat_by_id(id) != self)
            /* [S1] acq_rel: what waits, and the end of the period that it waits for: to the thread that is attached
             * there, or to who attaches later, and then reads `queued` */
            fetch_or_acq_rel(&seat_by_id(id)->word, SEAT_RETIRE);
    }
    mutex_unlock(&seat_registry);
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

struct retire_figures retire_figures(const struct seat *self)
{
    mutex_lock(&lock);
    struct retire_figures figures = {closed_bytes + self->retiring_bytes, mapped_bytes};
    mutex_unlock(&lock);
    return figures;
}

/* --- public ------------------------------------------------------------------------------------------ */

ouro_status(ouro_retire)(ouro_object *o)
{
    struct seat *self = seat_required("ouro_retire()");

    REQUIRE(o, "ouro_retire() of NULL: test the pointer first");
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

/* True if a block of the list with that number, or an older one, is not free yet. */
static bool blocks_are_left(uint64_t number)
{
    bool left;

    mutex_lock(&lock);
    left = (gathering && blocks_number <= number) || (maturing && maturing_number <= number) ||
           (ripe && ripe_number <= number);
    for (const struct freeing *note = freeing; note; note = note->next)
        left |= note->number <= number;
    mutex_unlock(&lock);
    return left;
}

/* Closes the open batch; the number of the youngest list that there is then. */
static uint64_t close_and_number(struct seat *self)
{
    retire_close(self);
    mutex_lock(&lock);
    uint64_t number = gathering ? blocks_number : blocks_number - 1;
    mutex_unlock(&lock);
    return number;
}

static void sleep_longer(struct timespec *pause)
{
    nanosleep(pause, NULL);
    if (pause->tv_nsec < 1000000)
        pause->tv_nsec *= 2;
}

/* What died is destroyed when this returns, even if the world was to stop meanwhile. What others have dropped of this
 * thread's objects is in its inbox. */
static void settle_all(struct seat *self)
{
    do
        seat_safepoint(self, false);
    while (self->dying || self->half_dead);
}

/* Others free blocks, too, and others hold up periods. */
static void await_blocks(struct seat *self, uint64_t number)
{
    struct timespec pause = {0, 20000};

    retire_ripen(self);
    while (blocks_are_left(number)) {
        seat_detach(self);
        if (blocks_are_left(number))
            sleep_longer(&pause);
        seat_attach(self);
        retire_ripen(self);
    }
}

void ouro_synchronize(void)
{
    struct seat *self = seat_at_safepoint("ouro_synchronize()");
    struct timespec pause = {0, 20000};

    retire_close(self);
    uint64_t stamp = grace_stamp();
    seat_detach(self);
    while (!grace_is_ripe(stamp)) {
        grace_begin(self);
        if (grace_is_ripe(stamp))
            break;
        grace_watch(self);
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
    settle_all(self);
    await_blocks(self, close_and_number(self)); /* of what has died in here, too */
    settle_all(self);
}

/* --- fork -------------------------------------------------------------------------------------------- */

void retire_fork_prepare(void)
{
    mutex_lock(&lock);
    /* Whoever drops a chunk passes no safepoint meanwhile, so in a stopped world nobody is at it. */
    ASSERT(!dropping && !freeing);
}

void retire_fork_done(void)
{
    mutex_unlock(&lock);
}

bool retire_is_closed(const struct seat *seat)
{
    return (!seat->retiring || seat->retiring->count == 0) && !seat->retiring_blocks;
}
