/*
 * object/object.c - making objects.
 */
#include "heap/heap.h"
#include "object/type.h"

#include "base/fault.h"

#include <string.h>

static_assert(sizeof(ouro_header) == 16, "the header may not grow");
static_assert(offsetof(ouro_header, shared) == 4 && offsetof(ouro_header, type) == 12 &&
                  offsetof(ouro_header, flags) == 15,
              "the layout is public, and a free block relies on it");

/* A block becomes an object with one reference, the caller's. */
static inline ouro_object *be_born(struct seat *self, void *block, const struct ouro_type *type)
{
    struct block *header = block;

    store_relaxed(&header->owned, self->id << 16 | type->fresh | 1u);
    header->next = 0;
    header->gc = 0;
    header->type_lock_flags = type->birth;
    return block;
}

static ouro_object *new_large(struct seat *self, const struct ouro_type *type, size_t bytes)
{
    bool zeroed;
    char *block = heap_alloc_large(self, type->kind, bytes, &zeroed);

    if (!block)
        return NULL;
    if (!zeroed)
        memset(block + sizeof(ouro_header), 0, bytes - sizeof(ouro_header));
    return be_born(self, block, type);
}

static inline void *new_small(struct seat *self, const struct ouro_type *type, uint32_t slot,
                              size_t bytes)
{
    char *block = heap_alloc(self, slot);

    if (OURO_UNLIKELY(!block))
        return NULL;
    be_born(self, block, type);
    if (OURO_LIKELY(bytes <= 128)) {
        /* Blocks are multiples of 16. */
        for (size_t i = sizeof(ouro_header); i < bytes; i += 16)
            memset(block + i, 0, 16);
    } else {
        memset(block + sizeof(ouro_header), 0, bytes - sizeof(ouro_header));
    }
    return block;
}

void *ouro_new(const ouro_type *type)
{
    struct seat *self = seat_required("ouro_new()");

    if (fault_hit())
        return NULL;
    if (OURO_UNLIKELY(type->slot == SLOT_LARGE))
        return new_large(self, type, type->size);
    return new_small(self, type, type->slot, type->size);
}

void *ouro_new_array(const ouro_type *type, size_t count)
{
    struct seat *self = seat_required("ouro_new_array()");
    size_t bytes;

    REQUIRE(type->item_size || count == 0,
            "ouro_new_array() of the type \"%s\", whose item_size is 0", type->name);
    if (__builtin_mul_overflow(count, type->item_size, &bytes) ||
        __builtin_add_overflow(bytes, type->size, &bytes) || bytes > PTRDIFF_MAX || fault_hit())
        return NULL;

    uint32_t slot = heap_slot_of(type->kind, bytes);
    return slot == SLOT_LARGE ? new_large(self, type, bytes) : new_small(self, type, slot, bytes);
}
