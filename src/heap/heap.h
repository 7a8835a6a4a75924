/*
 * heap/heap.h - the heap of a seat: lists of pages by kind and size class.
 *
 * Allocation takes the first block of the current page of the class; nothing is counted there.  At most 128
 * blocks are handed to a page's `free` list at a time, and the difference between those and the blocks that
 * were found free when lists were collected is the number of net new objects.
 */
#ifndef OURO_HEAP_HEAP_H
#define OURO_HEAP_HEAP_H

#include "heap/page.h"
#include "thread/seat.h"

#include <ouro/memory.h>

enum {
    CLASS_LINEAR = 64,                  /* 16, 32, ... 1024 bytes */
    CLASS_COUNT = CLASS_LINEAR + 5 * 4, /* then four steps for each doubling */
    CLASS_BYTES_MAX = 32 << 10,
    SLOT_COUNT = KIND_COUNT * CLASS_COUNT,
    SLOT_LARGE = SLOT_COUNT, /* of types whose instances need a run of pages */
    REFILL_BLOCKS = 128,
    GATHER_BLOCKS = 64,
};

struct heap_slot {
    struct page *current;      /* never NULL: &heap_no_page if there is none; in no list */
    struct page *first, *last; /* pages with free blocks; empty ones at the end */
};

struct heap {
    struct heap_slot slots[SLOT_COUNT]; /* [seat] */
    uint32_t pages;                     /* [seat] small pages of this seat */
    uint32_t empties; /* [seat] those of them that hold nothing and are in a list */
    bool shed_wanted; /* [collector] */

    /* Blocks of one page of another seat that this thread has freed and not yet handed over. [owner] */
    struct page *gathered_page;
    uint32_t gathered_first, gathered_last, gathered_count;
};
static_assert(sizeof(struct heap) <= SEAT_HEAP_BYTES, "a seat has room for its heap");

/* Calls from the heap layer upwards; filled in by src/gc/hooks.c. */
struct heap_hooks {
    /* The tracked objects of a seat that the caller has have grown by so many and so many bytes, more or less. */
    void (*grew)(struct seat *seat, int64_t objects, int64_t bytes);

    /* A thread has noted so many candidates more. */
    void (*noted)(struct seat *self, size_t candidates);

    /* Memory is out: free what can be freed without a safepoint. */
    void (*starved)(struct seat *self);

    /* Adds what the object layer knows of: what waits for a grace period, and the memory of the records. */
    void (*figures)(struct seat *self, ouro_memory *stats);
};
extern const struct heap_hooks heap_hooks;

extern struct page heap_no_page;

static inline struct heap *heap_of(struct seat *seat)
{
    return (struct heap *)(void *)seat->heap;
}

void heap_init(struct seat *seat);

/* The list of a kind and a size; SLOT_LARGE if there is none. */
uint32_t heap_slot_of(enum page_kind kind, size_t bytes);
size_t heap_slot_bytes(uint32_t slot);

/* When the current page has no block to hand out. NULL: memory is out. */
void *heap_alloc_slow(struct seat *self, uint32_t slot);

/* A run of pages for one block; *zeroed tells whether its content is zero already. */
void *heap_alloc_large(struct seat *self, enum page_kind kind, size_t bytes, bool *zeroed);

/* When local_count has reached page->notice. */
void heap_notice(struct seat *self, struct page *page);

/* A block of a page that the caller's seat does not own. It is already marked as free. */
void heap_free_foreign(struct seat *self, struct page *page, void *block);

/* Hands over what was gathered. */
void heap_flush(struct seat *self);

/* How many blocks of a page have been handed out and are still in its `free` list. By who has the seat. */
uint32_t heap_handed_and_free(struct page *page);

/* By who has the seat: blocks that were handed out and are in the page's `free` list become stock again, so that the next allocation
 * takes the slow path. */
void heap_unhand(struct page *page);

/* By who has the seat: retires empty pages beyond `keep`; `thorough`: looks into current pages, too. */
void heap_shed(struct seat *seat, struct seat *self, uint32_t keep, bool thorough);

/* A block for `slot`, not initialised but for a header of zeros and a link; NULL: memory is out. */
static inline void *heap_alloc(struct seat *self, uint32_t slot)
{
    struct page *page = heap_of(self)->slots[slot].current;
    uint32_t link = page->free;

    if (OURO_UNLIKELY(link == 0))
        return heap_alloc_slow(self, slot);
    struct block *block = page_block(page, link);
    unpoison(block, page->block_size);
    page->free = block->next;
    return block;
}

/* Gives back a block of a small page that the caller's seat owns. */
static inline void heap_free_local(struct seat *self, struct page *page, void *p)
{
    struct block *block = p;

    block->next = page->local;
    page->local = block_link(p);
    poison(block, page->block_size);
    if (OURO_UNLIKELY(++page->local_count >= page->notice))
        heap_notice(self, page);
}

static inline void heap_free(struct seat *self, void *p)
{
    struct page *page = page_of(p);

    if (OURO_LIKELY(page->seat == self))
        heap_free_local(self, page, p);
    else
        heap_free_foreign(self, page, p);
}

/* The same for an object, whose header then says that it is free. */
static inline void heap_free_object(struct seat *self, ouro_object *o)
{
    struct block *block = (struct block *)o;

    /* Relaxed: whoever drains a stale hint reads `owned`, and finds an id that is nobody's, either way. */
    store_relaxed(&block->owned, 0u);
    block->gc = 0;
    block->type_lock_flags = 0;
    heap_free(self, o);
}

#endif
