/*
 * object/type.c - the table of types.
 *
 * A static array, so that the collector gets from an index to a type without a load.  Types are permanent.
 */
#include "object/type.h"

#include "base/atomic.h"
#include "base/fault.h"
#include "base/mutex.h"
#include "heap/heap.h"

#include <stdlib.h>
#include <string.h>

#define SIZE_LIMIT ((size_t)1 << 40)

struct ouro_type type_table[TYPE_COUNT_MAX + 1];
static uint32_t count; /* [lock: types] W; [T1] */
static mutex types = MUTEX_INIT;

uint32_t type_count(void)
{
    return load_acquire(&count); /* [T1] acquire: the entries; ouro_type_register() */
}

static bool fields_are_valid(const ouro_type_spec *spec)
{
    if (spec->field_count && (!spec->fields || spec->visit))
        return false;
    if (spec->field_count > spec->size / sizeof(ouro_ref))
        return false;
    for (size_t i = 0; i < spec->field_count; i++) {
        size_t offset = spec->fields[i];

        if (offset < sizeof(ouro_header) || offset % sizeof(ouro_ref) ||
            offset + sizeof(ouro_ref) > spec->size)
            return false;
        for (size_t j = 0; j < i; j++) {
            if (spec->fields[j] == offset)
                return false;
        }
    }
    return true;
}

static bool spec_is_valid(const ouro_type_spec *spec)
{
    return spec && spec->name && spec->size >= sizeof(ouro_header) && spec->size <= SIZE_LIMIT &&
           spec->item_size <= SIZE_LIMIT && !(spec->flags & ~OURO_TYPE_ACYCLIC) &&
           fields_are_valid(spec);
}

static void fill_in(struct ouro_type *type, const ouro_type_spec *spec, uint32_t index,
                    void *copies)
{
    size_t field_bytes = spec->field_count * sizeof *spec->fields;
    bool tracked = (spec->field_count || spec->visit) && !(spec->flags & OURO_TYPE_ACYCLIC);
    uint16_t *fields = copies;
    char *name = (char *)copies + field_bytes;

    if (field_bytes)
        memcpy(fields, spec->fields, field_bytes);
    memcpy(name, spec->name, strlen(spec->name) + 1);
    type->kind = tracked ? KIND_TRACKED : KIND_UNTRACKED;
    type->birth = index | (uint32_t)(tracked ? OURO_FLAG_NEW : OURO_FLAG_UNTRACKED) << 24;
    type->fresh = tracked ? OURO_FRESH : 0;
    type->size = spec->size;
    type->item_size = spec->item_size;
    type->slot = heap_slot_of(type->kind, spec->size);
    type->fields = fields;
    type->field_count = spec->field_count;
    type->visit = spec->visit;
    type->destroy = spec->destroy;
    type->finalize = spec->finalize;
    type->plain = !spec->visit && !spec->destroy && !spec->finalize;
    type->name = name;
}

ouro_status ouro_type_register(const ouro_type_spec *spec, const ouro_type **type)
{
    ouro_status status = OURO_OK;

    *type = NULL;
    if (!spec_is_valid(spec))
        return OURO_INVALID;

    void *copies = fault_hit()
                       ? NULL
                       : malloc(spec->field_count * sizeof *spec->fields + strlen(spec->name) + 1);
    if (!copies)
        return OURO_NO_MEMORY;
    mutex_lock(&types);
    if (count == TYPE_COUNT_MAX) {
        status = OURO_LIMIT;
    } else {
        fill_in(&type_table[count + 1], spec, count + 1, copies);
        *type = &type_table[count + 1];
        store_release(&count, count + 1); /* [T1] release: the entry; type_count() */
    }
    mutex_unlock(&types);
    if (status != OURO_OK)
        free(copies);
    return status;
}

const char *ouro_type_name(const ouro_type *type)
{
    return type->name;
}

const ouro_type *(ouro_type_of)(const ouro_object *o)
{
    return type_of(o);
}

void type_fork_prepare(void)
{
    mutex_lock(&types);
}

void type_fork_done(void)
{
    mutex_unlock(&types);
}
