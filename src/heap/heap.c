/*
 * heap/heap.c - the slow paths of a seat's heap.
 *
 * A page of a seat is in one of these places:
 *
 *    current    blocks are handed out from it; notice at 128 local frees, which become a chunk of the stock
 *    in a list  it has free blocks; notice at 128 local frees, or at `used`, which means that it is empty
 *    nowhere    it is full; notice at the first local free, which puts it into the list
 *
 * Blocks that others free come back through page->returned; the first one to find that list empty puts the page
 * on the seat's stack, from which the owner takes it when it looks for blocks.  The marker in_returned is cleared
 * before the list is taken: a block that comes later finds the list empty, and its thread pushes again.
 *
 * Empty pages stay with the seat, up to half of what it uses and 4 MiB: the same class may use them at once.
 * Others get them after a grace period; see page.h.  docs/internals/heap.md
 */
#include "heap/heap.h"

#include "base/os.h"
#include "heap/dirty.h"

#include <string.h>

enum { EMPTIES_MIN = 64 };

struct page heap_no_page;

/* --- size classes ------------------------------------------------------------------------------------ */

static uint32_t class_of(size_t bytes)
{
    if (bytes <= CLASS_LINEAR * GRANULE)
        return bytes ? (uint32_t)((bytes + GRANULE - 1) / GRANULE) - 1 : 0;

    /* 1024 << k, and then a quarter of that for each step */
    uint32_t k = 0;
    while (((size_t)2048 << k) < bytes)
        k++;
    size_t base = (size_t)1024 << k, step = base / 4;
    return CLASS_LINEAR + k * 4 + (uint32_t)((bytes - base + step - 1) / step) - 1;
}

static size_t class_bytes(uint32_t class)
{
    if (class < CLASS_LINEAR)
        return ((size_t) class + 1) * GRANULE;

    uint32_t k = (class - CLASS_LINEAR) / 4, step = (class - CLASS_LINEAR) % 4 + 1;
    return ((size_t)1024 << k) + step * ((size_t)256 << k);
}

uint32_t heap_slot_of(enum page_kind kind, size_t bytes)
{
    return bytes > CLASS_BYTES_MAX ? SLOT_LARGE : kind * CLASS_COUNT + class_of(bytes);
}

size_t heap_slot_bytes(uint32_t slot)
{
    return class_bytes(slot % CLASS_COUNT);
}

void heap_init(struct seat *seat)
{
    struct heap *heap = heap_of(seat);

    for (uint32_t slot = 0; slot < SLOT_COUNT; slot++)
        heap->slots[slot].current = &heap_no_page;
}

static void grew(struct seat *seat, const struct page *page, int64_t objects)
{
    size_t bytes = page_state(page) == PAGE_LARGE ? page->large_bytes : page->block_size;

    heap_hooks.grew(seat, objects, objects * (int64_t)bytes);
}

/* --- lists of pages ---------------------------------------------------------------------------------- */

static void list_page(struct heap *heap, struct page *page, bool last)
{
    struct heap_slot *slot = &heap->slots[page->slot];

    ASSERT(!page->listed && slot->current != page);
    page->listed = true;
    page->prev = last ? slot->last : NULL;
    page->next = last ? NULL : slot->first;
    *(page->prev ? &page->prev->next : &slot->first) = page;
    *(page->next ? &page->next->prev : &slot->last) = page;
}

static void unlist_page(struct heap *heap, struct page *page)
{
    struct heap_slot *slot = &heap->slots[page->slot];

    ASSERT(page->listed);
    page->listed = false;
    *(page->prev ? &page->prev->next : &slot->first) = page->next;
    *(page->next ? &page->next->prev : &slot->last) = page->prev;
    page->next = page->prev = NULL;
}

/* --- lists of blocks --------------------------------------------------------------------------------- */

/* The words of a free block that stays free. */
static struct block peek(struct page *page, uint32_t link)
{
    struct block *block = page_block(page, link);

    unpoison(block, sizeof *block);
    struct block copy = *block;
    poison(block, sizeof *block);
    return copy;
}

static void poke(struct page *page, uint32_t link, uint32_t next, uint32_t gc)
{
    struct block *block = page_block(page, link);

    unpoison(block, sizeof *block);
    block->next = next;
    block->gc = gc;
    poison(block, sizeof *block);
}

/* The stock is a list of chunks: the first block of each has the first of the next one, and its own number of
 * blocks, in `gc`. So nothing is walked over to hand out a bounded number. */
static void add_chunk(struct page *page, uint32_t list, uint32_t count)
{
    poke(page, list, peek(page, list).next, page->stock | count << 16);
    page->stock = list;
    page->used -= count;
}

/* Moves what has been freed to the stock; returns how many blocks that are, less those that the collector has
 * accounted for when it freed them. */
static uint32_t collect_blocks(struct page *page)
{
    uint32_t found = page->local_count;

    if (page->local) {
        add_chunk(page, page->local, page->local_count);
        page->local = page->local_count = 0;
    }
    if (load_relaxed(&page->returned)) {
        /* [H3] acquire: the links, and all that was done with the blocks; hand_over() */
        uint32_t word = exchange_acq_rel(&page->returned, 0u);

        add_chunk(page, word & 0xFFFF, word >> 16);
        found += word >> 16;
    }
    uint32_t prepaid = load_relaxed(&page->prepaid);
    if (OURO_UNLIKELY(prepaid)) {
        prepaid = prepaid < found ? prepaid : found;
        fetch_sub_relaxed(&page->prepaid, prepaid);
        found -= prepaid;
    }
    return found;
}

/* Hands out a chunk; of one that others have returned at most REFILL_BLOCKS. */
static uint32_t hand_out_stock(struct page *page)
{
    uint32_t first = page->stock, link = first;
    struct block block = peek(page, first);
    uint32_t count = block.gc >> 16;

    page->stock = block.gc & 0xFFFF;
    poke(page, first, block.next, 0);
    if (count > REFILL_BLOCKS) {
        for (uint32_t i = 1; i < REFILL_BLOCKS; i++)
            link = peek(page, link).next;
        page->used += count - REFILL_BLOCKS;
        add_chunk(page, peek(page, link).next, count - REFILL_BLOCKS);
        poke(page, link, 0, 0);
        count = REFILL_BLOCKS;
    }
    page->free = first;
    page->used += count;
    return count;
}

/* Hands out up to REFILL_BLOCKS that have never been used since the page was taken. */
static uint32_t carve(struct page *page)
{
    uint32_t left = page->capacity - page->carved;
    uint32_t count = left < REFILL_BLOCKS ? left : REFILL_BLOCKS;
    uint32_t step = page->block_size >> GRANULE_SHIFT;
    uint32_t link = page->carved * step + 1;

    if (count == 0)
        return 0;
    page->free = link;
    for (uint32_t i = 0; i < count; i++, link += step) {
        struct block *block = page_block(page, link);

        unpoison(block, sizeof *block);
        *block = (struct block){.next = i + 1 < count ? link + step : 0};
        poison(block, sizeof *block);
    }
    page->carved += count;
    page->used += count;
    return count;
}

static bool refill(struct seat *self, struct page *page)
{
    uint32_t found = page->stock ? 0 : collect_blocks(page);
    uint32_t count = page->stock ? hand_out_stock(page) : carve(page);

    if (page->kind == KIND_TRACKED && (count || found)) {
        grew(self, page, (int64_t)count - found);
        dirty_mark_new(page);
    }
    if (OURO_UNLIKELY(
            page->frozen)) /* collections skip a frozen page; what is made now is not frozen */
        page->frozen = false;
    return count != 0;
}

/* --- empty pages ------------------------------------------------------------------------------------- */

static void retire_page(struct seat *seat, struct seat *self, struct page *page)
{
    struct heap *heap = heap_of(seat);

    ASSERT(page->used == 0 && load_relaxed(&page->returned) == 0);
    if (page->listed) {
        unlist_page(heap, page);
        heap->empties--;
    }
    heap->pages--;
    area_retire(self, page);
}

/* A listed page whose blocks are all in the stock. That is in the order of their deaths; what is made next is to lie in the
 * order of addresses, so all are carved anew. */
static void page_is_empty(struct seat *seat, struct seat *self, struct page *page)
{
    struct heap *heap = heap_of(seat);

    page->stock = page->carved = 0;
    page->notice = UINT32_MAX;
    unlist_page(heap, page);
    list_page(heap, page, true);
    heap->empties++;

    struct heap_slot *slot = &heap->slots[page->slot];
    while (heap->empties > EMPTIES_MIN + (heap->pages - heap->empties) / 2 && slot->last &&
           slot->last->used == 0)
        retire_page(seat, self, slot->last);
}

static void collect_and_report(struct seat *seat, struct page *page)
{
    uint32_t found = collect_blocks(page);

    if (page->kind == KIND_TRACKED && found)
        grew(seat, page, -(int64_t)found);
}

static uint32_t notice_of(const struct page *page)
{
    return page->used < REFILL_BLOCKS ? page->used : REFILL_BLOCKS;
}

/* After blocks of a page that is not current were collected, or some were freed; the page gets to where it belongs. */
static void place_page(struct seat *seat, struct seat *self, struct page *page)
{
    if (!page->listed)
        list_page(heap_of(seat), page, false);
    if (page->used && page->local_count >= notice_of(page))
        collect_and_report(seat, page);
    page->notice = notice_of(page);
    if (page->used == 0)
        page_is_empty(seat, self, page);
}

/* By whoever frees its block. Buffers have no hints, so nobody but us knows the pages. */
static void free_large(struct seat *self, struct page *page)
{
    if (page->kind == KIND_TRACKED)
        grew(self, page, -1);
    if (page->kind == KIND_RAW)
        area_free(page);
    else
        area_retire(self, page);
}

void heap_notice(struct seat *self, struct page *page)
{
    if (page_state(page) == PAGE_LARGE)
        free_large(self, page);
    else if (heap_of(self)->slots[page->slot].current == page)
        collect_and_report(self, page);
    else
        place_page(self, self, page);
}

/* --- what others gave back --------------------------------------------------------------------------- */

/* Takes the seat's stack of pages to which others have returned blocks. */
static void take_returned(struct seat *seat, struct seat *self)
{
    if (!load_relaxed(&seat->returned))
        return;
    /* [H4] acquire: the links of the stack; push_returned() */
    struct page *page = exchange_acq_rel(&seat->returned, NULL);

    while (page) {
        struct page *next = page->returned_next;
        bool retired = page_state(page) == PAGE_RETIRED;

        /* [H2] release: we are through with the page if it is retired; ripen_locked(). [H4] acq_rel, and not a store,
         * since the load below may not come first: a block that is returned from now on either is seen by it or
         * has its page pushed again. */
        exchange_acq_rel(&page->in_returned, (uint8_t)0);
        if (!retired && heap_of(seat)->slots[page->slot].current != page &&
            load_relaxed(&page->returned)) {
            ASSERT(page->used != 0);
            collect_and_report(seat, page);
            place_page(seat, self, page);
        }
        page = next;
    }
}

static void push_returned(struct page *page)
{
    struct seat *seat = page->seat;
    struct page *first = load_relaxed(&seat->returned);

    do {
        page->returned_next = first;
        /* [H4] release: the link; take_returned() */
    } while (!cas_acq_rel(&seat->returned, &first, page));
}

static void hand_over(struct page *page, uint32_t first, uint32_t last, uint32_t count)
{
    uint32_t word = load_relaxed(&page->returned);

    do {
        page_block(page, last)->next = word & 0xFFFF;
        /* [H3] release: the links, and all that was done with the blocks; collect_blocks() */
    } while (!cas_acq_rel(&page->returned, &word, first | ((word >> 16) + count) << 16));

    /* [H4] acq_rel: who clears the marker takes the list afterwards; take_returned() */
    if (word == 0 && !exchange_acq_rel(&page->in_returned, (uint8_t)1))
        push_returned(page);
}

void heap_flush(struct seat *self)
{
    struct heap *heap = heap_of(self);
    struct page *page = heap->gathered_page;

    if (!page)
        return;
    heap->gathered_page = NULL;
    hand_over(page, heap->gathered_first, heap->gathered_last, heap->gathered_count);
    seat_event(self, EVENT_FOREIGN_FREE);
}

void heap_free_foreign(struct seat *self, struct page *page, void *p)
{
    struct heap *heap = heap_of(self);
    struct block *block = p;
    uint32_t link = block_link(p);

    if (page_state(page) == PAGE_LARGE) {
        free_large(self, page);
        return;
    }
    poison((char *)p + sizeof *block, page->block_size - sizeof *block);
    if (heap->gathered_page != page || heap->gathered_count == GATHER_BLOCKS) {
        heap_flush(self);
        heap->gathered_page = page;
        heap->gathered_first = heap->gathered_last = link;
        heap->gathered_count = 1;
        return;
    }
    block->next = heap->gathered_first;
    heap->gathered_first = link;
    heap->gathered_count++;
}

/* --- allocation -------------------------------------------------------------------------------------- */

static struct page *new_page(struct seat *self, uint32_t slot)
{
    bool fresh;
    struct page *page = area_take(self, PAGE_BYTES, &fresh);

    if (!page)
        return NULL;
    page->seat = self;
    page->slot = (uint16_t)slot;
    page->kind = (uint8_t)(slot / CLASS_COUNT);
    page->block_size = (uint32_t)heap_slot_bytes(slot);
    page->capacity = PAGE_BYTES / page->block_size;
    poison(page->start, PAGE_BYTES);
    store_relaxed(&page->state, (uint8_t)PAGE_ACTIVE);
    heap_of(self)->pages++;
    return page;
}

static void *pop(struct page *page)
{
    struct block *block = page_block(page, page->free);

    unpoison(block, page->block_size);
    page->free = block->next;
    return block;
}

static struct page *next_page(struct seat *self, uint32_t slot)
{
    struct heap *heap = heap_of(self);
    struct page *page;

    take_returned(self, self);
    page = heap->slots[slot].first;
    if (page) {
        unlist_page(heap, page);
        if (page->used == 0)
            heap->empties--;
        return page;
    }
    return new_page(self, slot);
}

void *heap_alloc_slow(struct seat *self, uint32_t slot)
{
    struct heap_slot *s = &heap_of(self)->slots[slot];
    struct page *page = s->current;

    if (page != &heap_no_page) {
        if (refill(self, page))
            return pop(page);
        s->current = &heap_no_page;
        page->notice = 1;
    }
    page = next_page(self, slot);
    if (!page) {
        heap_hooks.starved(self);
        page = next_page(self, slot);
    }
    if (!page)
        return NULL;
    /* What memory is out for may have run user code, which has found a page in the meantime. */
    if (s->current != &heap_no_page) {
        place_page(self, self, page);
        page = s->current;
    } else {
        s->current = page;
        page->notice = REFILL_BLOCKS;
    }
    if (!page->free && !refill(self, page))
        return heap_alloc_slow(self, slot);
    return pop(page);
}

void *heap_alloc_large(struct seat *self, enum page_kind kind, size_t bytes, bool *zeroed)
{
    struct page *page = area_take(self, bytes, zeroed);

    if (!page) {
        heap_hooks.starved(self);
        area_ripen(self);
        page = area_take(self, bytes, zeroed);
    }
    if (!page)
        return NULL;
    page->seat = self;
    page->kind = (uint8_t)kind;
    page->capacity = page->carved = page->used = page->notice = 1;
    page->large_bytes = bytes;
    *(struct block *)(void *)page->start = (struct block){0};
    store_relaxed(&page->state, (uint8_t)PAGE_LARGE);
    if (kind == KIND_TRACKED) {
        grew(self, page, 1);
        dirty_mark_new(page);
    }
    return page->start;
}

/* --- giving pages up --------------------------------------------------------------------------------- */

uint32_t heap_handed_and_free(struct page *page)
{
    uint32_t count = 0;

    for (uint32_t link = page->free; link; link = peek(page, link).next)
        count++;
    return count;
}

void heap_unhand(struct page *page)
{
    uint32_t handed = heap_handed_and_free(page);

    if (handed == 0)
        return;
    add_chunk(page, page->free, handed);
    page->free = 0;
    if (page->kind == KIND_TRACKED)
        grew(page->seat, page, -(int64_t)handed);
}

/* A current page that holds nothing is put into its list, as empty. */
static void shed_current(struct seat *seat, struct seat *self, struct heap_slot *slot)
{
    struct page *page = slot->current;

    if (page == &heap_no_page)
        return;
    collect_and_report(seat, page);
    uint32_t handed = heap_handed_and_free(page);
    if (page->used != handed)
        return;
    if (handed) {
        add_chunk(page, page->free, handed);
        page->free = 0;
        if (page->kind == KIND_TRACKED)
            grew(seat, page, -(int64_t)handed);
    }
    slot->current = &heap_no_page;
    place_page(seat, self, page);
}

void heap_shed(struct seat *seat, struct seat *self, uint32_t keep, bool thorough)
{
    struct heap *heap = heap_of(seat);

    take_returned(seat, self);
    for (struct heap_slot *slot = heap->slots; slot < heap->slots + SLOT_COUNT; slot++) {
        if (thorough)
            shed_current(seat, self, slot);
        while (heap->empties > keep && slot->last && slot->last->used == 0)
            retire_page(seat, self, slot->last);
    }
}
