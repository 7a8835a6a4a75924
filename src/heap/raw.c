/*
 * heap/raw.c - buffers that objects own.
 *
 * They are blocks of pages of their own kind: without header, in no collection.
 */
#include "heap/heap.h"

#include "base/fault.h"

#include <ouro/memory.h>

#include <string.h>

static void *alloc(struct seat *self, size_t bytes, bool *zeroed)
{
    uint32_t slot = heap_slot_of(KIND_RAW, bytes);

    *zeroed = false;
    if (fault_hit())
        return NULL;
    return slot == SLOT_LARGE ? heap_alloc_large(self, KIND_RAW, bytes, zeroed)
                              : heap_alloc(self, slot);
}

void *ouro_alloc(size_t bytes)
{
    bool zeroed;

    return alloc(seat_required("ouro_alloc()"), bytes, &zeroed);
}

void *ouro_calloc(size_t count, size_t bytes)
{
    struct seat *self = seat_required("ouro_calloc()");
    size_t total;
    bool zeroed;

    if (__builtin_mul_overflow(count, bytes, &total))
        return NULL;
    void *buffer = alloc(self, total, &zeroed);
    if (buffer && !zeroed)
        memset(buffer, 0, total);
    return buffer;
}

static size_t usable_bytes(const struct page *page)
{
    return page_state(page) == PAGE_LARGE ? page->large_bytes : page->block_size;
}

static struct page *page_of_buffer(void *buffer, const char *what)
{
    struct page *page = page_of(buffer);

    REQUIRE((uintptr_t)buffer % GRANULE == 0 && page->kind == KIND_RAW && page->seat,
            "%s of %p, which is no buffer of ouro_alloc(): objects are dropped by ouro_decref()",
            what, buffer);
    return page;
}

void *ouro_realloc(void *buffer, size_t bytes)
{
    if (!buffer)
        return ouro_alloc(bytes);

    struct seat *self = seat_required("ouro_realloc()");
    size_t old = usable_bytes(page_of_buffer(buffer, "ouro_realloc()"));
    bool zeroed;

    /* In place if it fits and wastes no more than half. */
    if (bytes <= old && bytes >= old / 2)
        return buffer;
    void *moved = alloc(self, bytes, &zeroed);
    if (!moved)
        return NULL;
    memcpy(moved, buffer, old < bytes ? old : bytes);
    heap_free(self, buffer);
    return moved;
}

void ouro_free(void *buffer)
{
    if (!buffer)
        return;
    struct seat *self = seat_required("ouro_free()");

    page_of_buffer(buffer, "ouro_free()");
    heap_free(self, buffer);
}
