/*
 * heap/memory.c - figures about memory, and giving it back.
 */
#include "heap/heap.h"

#include "thread/world.h"

#include <ouro/memory.h>

#include <string.h>

static void add_page(struct page *page, ouro_memory *stats)
{
    uint8_t state = page_state(page);
    size_t count, bytes;

    if (state == PAGE_ACTIVE) {
        count = page->used - page->local_count - (load_relaxed(&page->returned) >> 16) -
                heap_handed_and_free(page);
        bytes = count * page->block_size;
        stats->page_bytes += PAGE_BYTES;
    } else if (state == PAGE_LARGE) {
        count = 1;
        bytes = page->large_bytes;
        stats->page_bytes += (bytes + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1);
    } else {
        return;
    }
    *(page->kind == KIND_RAW ? &stats->buffers : &stats->objects) += count;
    *(page->kind == KIND_RAW ? &stats->buffer_bytes : &stats->object_bytes) += bytes;
}

void ouro_memory_stats(ouro_memory *stats)
{
    struct seat *self = seat_at_safepoint("ouro_memory_stats()");
    struct area_stats areas;

    memset(stats, 0, sizeof *stats);
    world_stop(self);
    for (struct area *area = area_first(); area; area = area->next) {
        for (size_t i = AREA_META_PAGES; i < AREA_PAGES; i++)
            add_page(&area->pages[i], stats);
    }
    area_stats(&areas);
    heap_hooks.figures(self, stats);
    world_start(self);

    stats->empty_bytes = areas.empty;
    stats->reserved_bytes += areas.reserved + seat_count() * sizeof(struct seat);
    stats->metadata_bytes += areas.metadata + seat_count() * sizeof(struct seat);
    stats->seats = seat_count();
    stats->threads = seat_threads();
}

size_t ouro_trim(void)
{
    struct seat *self = seat_at_safepoint("ouro_trim()");

    seat_safepoint(self, false);
    heap_flush(self);
    for (uint32_t id = seat_count(); id > 0; id--) {
        struct seat *seat = seat_by_id(id);

        if (seat == self) {
            heap_shed(self, self, 0, true);
        } else if (seat_hold_try(seat, self)) {
            heap_shed(seat, self, 0, true);
            seat_release(seat, self);
        }
    }
    /* What the releases have left is destroyed at the safepoint. Two passes of this thread complete a period if no other thread is attached. */
    area_ripen(self);
    seat_safepoint(self, false);
    area_ripen(self);
    return area_trim(0);
}
