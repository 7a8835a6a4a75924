/*
 * object/type.h - registered types.
 */
#ifndef OURO_OBJECT_TYPE_H
#define OURO_OBJECT_TYPE_H

#include <ouro/type.h>

enum { TYPE_COUNT_MAX = UINT16_MAX }; /* indexes 1 to this */

struct ouro_type {
    /* [const] once registered; the first ones are for making, traversing and destroying */
    uint32_t birth; /* bytes 12 to 15 of a new object's header */
    uint32_t fresh; /* OURO_FRESH if the collector wants to know of the first lost reference */
    uint32_t slot;  /* where its instances without items are allocated */
    uint8_t kind;   /* of its pages */
    bool plain;     /* nothing is called when an instance dies */
    size_t size;
    const uint16_t *fields;
    size_t field_count;
    void (*visit)(void *self, ouro_visitor *visitor);
    void (*destroy)(void *self);
    void (*finalize)(void *self);
    size_t item_size;
    const char *name;
};

extern struct ouro_type type_table[TYPE_COUNT_MAX + 1];

/* Number of registered types: indexes 1 to this. */
uint32_t type_count(void);

static inline const struct ouro_type *type_of(const ouro_object *o)
{
    return &type_table[o->ouro.type];
}

static inline ouro_ref *type_field(ouro_object *o, uint16_t offset)
{
    return (ouro_ref *)(void *)((char *)o + offset);
}

/* For fork: the mutex. */
void type_fork_prepare(void);
void type_fork_done(void);

#endif
