/*
 * heap/page.h - areas, pages and blocks: what memory looks like.
 *
 * An area is 32 MiB, aligned to its size.  At its front are the descriptors of its 64 KiB pages, side by side
 * (at the start of each page they would all fall into the same cache set), and the pages' bitmaps.  A
 * page has blocks of one size for one kind of content and belongs to one seat; a larger block is a run of
 * pages; a still larger one is an area of its own.  From the address of a block one gets to its page by a
 * mask, a shift and a multiplication.
 *
 * A free block is linked in one of its page's lists by the index of the next one plus 1, at offset 4:
 *
 *    free      being handed out                                            [seat]
 *    stock     chunks that were found free when the lists were collected   [seat]
 *    local     freed by who has the seat                                   [seat]
 *    returned  freed by others: index and number in one word               [atomic]
 *
 * A free block of an object page has 0 in bytes 0 to 3 and 8 to 15, so its type says that it is free.
 *
 * The life of a page; descriptors are never unmapped:
 *
 *    FREE --page_take() [lock: heap]--> ACTIVE, LARGE
 *    ACTIVE --empty, by who has the seat--> RETIRED      LARGE --its block is freed, by anyone--> RETIRED
 *    RETIRED --ripe, and in no stack of a seat [lock: heap]--> FREE
 *
 * RETIRED lasts for a grace period, since a thread that has just dropped its reference may still be about to set
 * a bit in the page's hint map.  docs/internals/heap.md
 */
#ifndef OURO_HEAP_PAGE_H
#define OURO_HEAP_PAGE_H

#include "base/atomic.h"
#include "base/check.h"
#include "base/mutex.h"
#include "base/poison.h"

#include <ouro/object.h>

#include <stdalign.h>

struct seat;

enum {
    AREA_BYTES = 32 << 20,
    PAGE_SHIFT = 16,
    PAGE_BYTES = 1 << PAGE_SHIFT,
    AREA_PAGES = AREA_BYTES / PAGE_BYTES,
    GRANULE_SHIFT = 4,
    GRANULE = 1 << GRANULE_SHIFT,
    PAGE_GRANULES = PAGE_BYTES / GRANULE,
    MAP_WORDS = PAGE_GRANULES / 64,
};

enum page_kind { KIND_TRACKED, KIND_UNTRACKED, KIND_RAW, KIND_COUNT };

enum page_state { PAGE_META, PAGE_FREE, PAGE_ACTIVE, PAGE_LARGE, PAGE_TAIL, PAGE_RETIRED };

/* A block that is not in use; for objects the layout is that of the header. */
struct block {
    uint32_t owned;
    uint32_t next; /* index of a granule of the page, plus 1; 0: the end */
    uint32_t gc;
    uint32_t type_lock_flags;
};
static_assert(sizeof(struct block) == sizeof(ouro_header), "a free block is read as a header");

struct page {
    char *start;       /* [const] */
    struct seat *seat; /* changes only FREE -> in use */
    uint32_t free;     /* [seat] list */
    uint32_t local;    /* [seat] list */
    uint32_t local_count;
    uint32_t notice; /* [seat] local_count at which something has to be done; see heap.c */
    uint32_t used;   /* [seat] blocks that were handed out and are not in the stock again */
    uint32_t carved; /* [seat] blocks handed out since the page was taken, or was empty */
    uint32_t capacity;
    uint32_t block_size; /* 0: LARGE */
    uint32_t stock;      /* [seat] list of lists; heap.c */

    struct page *next, *prev; /* [seat] the list of its size class */
    uint16_t slot;            /* index of that list: kind and size class */
    uint8_t kind;
    uint8_t state;      /* [atomic] relaxed: see above who changes it */
    uint8_t listed;     /* [seat] it is in that list */
    uint8_t was_used;   /* [lock: heap] it has been touched since it was last given back */
    uint16_t run;       /* LARGE and RETIRED: number of pages */
    size_t large_bytes; /* LARGE: bytes of the block */

    alignas(64) uint32_t returned; /* [atomic] list: index of the first | number << 16 */
    uint32_t prepaid; /* [atomic] relaxed: returned blocks that the collector has accounted for */
    uint8_t in_returned; /* [atomic] it is, or is about to be, in its seat's stack of such pages */
    uint8_t in_inbox;    /* [atomic] the same for merge hints */
    uint8_t rescan;      /* [stopped] the collector has to walk it again */
    uint8_t
        frozen; /* [seat] all its objects are frozen, and nothing was handed out since; set in a stopped world */
    bool finalizable;            /* [lock: queue] object/finalize.c: it has bits in that map */
    bool in_cut;                 /* [stopped] likewise */
    bool in_guess;               /* [stopped] likewise */
    bool in_set;                 /* [stopped] it is in the list of a trial */
    uint8_t in_new;              /* who has the seat sets it, the collector clears it; kept, too */
    uint8_t in_noted;            /* [atomic] anyone sets it, the collector clears it; kept, too */
    struct page *returned_next;  /* who has set in_returned, then who takes the stack */
    struct page *inbox_next;     /* the same with in_inbox */
    struct page *waiting_next;   /* [lock: heap] RETIRED: next in the queue */
    uint64_t stamp;              /* [lock: heap] RETIRED: when (thread/grace.h) */
    struct page *condemned_next; /* [collector] */
    struct page *new_next;       /* [atomic] heap/dirty.c; kept when the page changes hands */
    struct page *noted_next;     /* likewise */
    struct page *cut_next;       /* [stopped] gc/sets.c, gc/deep.c; kept, too */
    struct page *guess_next;     /* [stopped] gc/deep.c; kept, too */
    struct page *finalizable_next; /* [lock: queue] object/finalize.c */
};

struct area {
    struct area *next;              /* [const] once published */
    struct area *next_huge;         /* [lock: heap] free areas for one large block */
    size_t mapped;                  /* [lock: heap] bytes */
    uint32_t free_count;            /* [lock: heap] */
    uint64_t free[AREA_PAGES / 64]; /* [lock: heap] bit: the page is FREE */
    alignas(64) struct page pages[AREA_PAGES];
    alignas(
        64) uint64_t hints[AREA_PAGES][MAP_WORDS]; /* [atomic] blocks to look at: object/merge.c */
    alignas(64) uint64_t condemned[AREA_PAGES][MAP_WORDS];   /* [collector] */
    alignas(64) uint64_t candidates[AREA_PAGES][MAP_WORDS];  /* [atomic] object/note.c */
    alignas(64) uint64_t cut[AREA_PAGES][MAP_WORDS];         /* [collector] gc/sets.c, gc/deep.c */
    alignas(64) uint64_t guessed[AREA_PAGES][MAP_WORDS];     /* [collector] gc/deep.c */
    alignas(64) uint64_t finalizable[AREA_PAGES][MAP_WORDS]; /* [lock: queue] object/finalize.c */
};

enum { AREA_META_PAGES = (sizeof(struct area) + PAGE_BYTES - 1) / PAGE_BYTES };

static inline struct area *area_of(const void *p)
{
    return (struct area *)((uintptr_t)p & ~(uintptr_t)(AREA_BYTES - 1));
}

static inline size_t page_index(const void *p)
{
    return ((uintptr_t)p >> PAGE_SHIFT) & (AREA_PAGES - 1);
}

static inline struct page *page_of(const void *p)
{
    return &area_of(p)->pages[page_index(p)];
}

/* The bitmaps have a bit for each 16 bytes, so that no division is needed. */
static inline uint64_t *page_hints(struct page *page)
{
    return area_of(page)->hints[page - area_of(page)->pages];
}

static inline uint64_t *page_condemned(struct page *page)
{
    return area_of(page)->condemned[page - area_of(page)->pages];
}

static inline uint64_t *page_candidates(struct page *page)
{
    return area_of(page)->candidates[page - area_of(page)->pages];
}

static inline uint64_t *page_cut(struct page *page)
{
    return area_of(page)->cut[page - area_of(page)->pages];
}

static inline uint64_t *page_guessed(struct page *page)
{
    return area_of(page)->guessed[page - area_of(page)->pages];
}

static inline uint64_t *page_finalizable(struct page *page)
{
    return area_of(page)->finalizable[page - area_of(page)->pages];
}

static inline uint32_t granule_of(const void *p)
{
    return ((uintptr_t)p & (PAGE_BYTES - 1)) >> GRANULE_SHIFT;
}

static inline struct block *page_block(const struct page *page, uint32_t link)
{
    return (struct block *)(void *)(page->start + ((size_t)link << GRANULE_SHIFT) - GRANULE);
}

static inline uint32_t block_link(const void *p)
{
    return granule_of(p) + 1;
}

/* Under AddressSanitizer a free block is poisoned, by who has the seat: then it is not looked into. */
static inline bool block_is_free(const void *block)
{
    return is_poisoned(block) || ((const ouro_object *)block)->ouro.type == 0;
}

static inline uint8_t page_state(const struct page *page)
{
    return load_relaxed(&page->state);
}

/* For who walks over objects, in a stopped world: block i of a page is at start + i * page_step(). */
static inline uint32_t page_object_count(const struct page *page)
{
    uint8_t state = page_state(page);

    return (state == PAGE_ACTIVE || state == PAGE_LARGE) && page->kind != KIND_RAW ? page->carved
                                                                                   : 0;
}

static inline uint32_t page_step(const struct page *page)
{
    return page->block_size;
}

/* --- area.c: pages of all seats --------------------------------------------------------------------- */

extern mutex heap_lock;

/* A run of free pages, zeroed descriptors but for `start`; NULL if memory is out. The state is the caller's to set;
 * *fresh: the pages have not been touched. */
struct page *area_take(struct seat *self, size_t bytes, bool *fresh);

/* The run becomes free at once: nobody else can know it. */
void area_free(struct page *page);

/* The page or run becomes free when a grace period has passed. Sets RETIRED. */
void area_retire(struct seat *self, struct page *page);

/* Frees what is ripe; begins a grace period if something is not. */
void area_ripen(struct seat *self);

/* Gives free pages back to the operating system until at most `keep` bytes of them are left; returns the bytes. */
size_t area_trim(size_t keep);

/* The same, but only for as many pages as nobody has wanted since it was called last. */
size_t area_trim_unused(size_t keep);

/* All areas; later ones come first. The list only grows. */
struct area *area_first(void);

struct area_stats {
    size_t reserved, metadata, empty, waiting;
};
void area_stats(struct area_stats *stats);

/* For fork: the mutex. */
void area_fork_prepare(void);
void area_fork_done(void);

#endif
