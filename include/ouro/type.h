/*
 * ouro/type.h - describing types of objects, and making objects.
 */
#ifndef OURO_TYPE_H
#define OURO_TYPE_H

#include <ouro/base.h>
#include <ouro/object.h>

/* A registered type. Permanent: valid until the process ends. */
typedef struct ouro_type ouro_type;

/* What a `visit` function reports references to. */
typedef struct ouro_visitor ouro_visitor;
struct ouro_visitor {
    void (*fields)(ouro_visitor *visitor, ouro_ref *fields, size_t count);
};

/* A promise: no object of this type is ever part of a cycle. It is counted and destroyed like any other,
 * and the collector never examines it. If the promise is broken the cycle is never freed. */
#define OURO_TYPE_ACYCLIC 1u

/*
 * The description of a type, copied at registration. References are described by `fields` or by `visit`, not
 * both; a type with neither is untracked: the collector has no interest in it.
 */
typedef struct ouro_type_spec {
    /* Shown in reports and statistics. Copied. */
    const char *name;

    /* Bytes of an instance, with the header: sizeof(struct node). */
    size_t size;

    /* Bytes of an item of the array that follows an instance; 0: none. See ouro_new_array(). */
    size_t item_size;

    /* Offsets of the reference fields: OURO_FIELD(struct node, left). Each holds NULL or an object. */
    const uint16_t *fields;
    size_t field_count;

    /* For references that a table can't describe: calls ouro_visit(visitor, &self->field) or
     * ouro_visit_array() for each reference field of `self`, which may be NULL, exactly once. It serves
     * traversal, clearing and destruction alike: the visitor may change the fields. It may be called by any
     * thread, also while the world is stopped, and by several at the same time for different objects (ouro_gc_set_helpers()): it
     * takes no lock, calls nothing else of Ouro, changes nothing, and does not depend on the thread. What it
     * reports stays where it is after it has returned.
     * While an object is destroyed it may be called again for what is left. */
    void (*visit)(void *self, ouro_visitor *visitor);

    /* Gives back what is not a reference: buffers, descriptors. May be NULL. Runs once, inside of the decref
     * that destroyed the object or of the collection that found it, on whichever thread that was; the
     * reference fields are NULL by then. It may count, create, allocate and free; what it drops is destroyed
     * after it has returned. It may not pass a safepoint, detach, wait long, or keep a reference to `self`. */
    void (*destroy)(void *self);

    /* May be NULL. Runs once for an object that has lost its last reference or was found to be garbage, while it is whole, at an explicit
     * safepoint of any thread: see ouro/finalize.h. It may do anything but wait for ever, also store references to `self`; it
     * returns attached, with no lock more than before. */
    void (*finalize)(void *self);

    /* OURO_TYPE_... */
    unsigned flags;
} ouro_type_spec;

/* The offset of a field; does not compile if the field is no reference to an object. */
#define OURO_FIELD(structure, field)                                                            \
    ((uint16_t)(offsetof(structure, field) + 0 * sizeof(((structure *)0)->field->ouro.shared) + \
                0 * sizeof(char[offsetof(structure, field) <= UINT16_MAX ? 1 : -1])))

OURO_BEGIN_DECLS

/*
 * Registers a type; *type is then valid for ever, for all threads. Fails with OURO_INVALID (no name, a size
 * below the header's or of more than 1 TiB, fields outside the instance, not aligned, given twice, or given
 * beside a `visit`, unknown flags), OURO_LIMIT (65,535 types), OURO_NO_MEMORY; then *type is NULL.
 * Any thread in any state, registered or not; never a safepoint.
 */
OURO_API OURO_NODISCARD ouro_status ouro_type_register(const ouro_type_spec *spec,
                                                       const ouro_type **type);

/* The name of a type. Any thread; never a safepoint. */
OURO_API const char *ouro_type_name(const ouro_type *type);

/* The type of an object. Attached; never a safepoint. */
OURO_API const ouro_type *ouro_type_of(const ouro_object *o);

/*
 * Makes an object: a new reference, everything after the header zero. NULL if memory is out: no collection
 * is started; a caller who can pass a safepoint may ouro_collect() and try again.
 * Attached; never a safepoint.
 */
OURO_API OURO_NODISCARD void *ouro_new(const ouro_type *type);

/*
 * Makes an object of a type with an `item_size`, followed by `count` items, all zero. The library does not
 * remember `count`: the instance does, if it needs to. NULL if memory is out or the size is absurd.
 * Attached; never a safepoint.
 */
OURO_API OURO_NODISCARD void *ouro_new_array(const ouro_type *type, size_t count);

OURO_END_DECLS

#ifdef __cplusplus
template <class T> inline const ouro_type *ouro_type_of(const T *p)
{
    return ouro_type_of(ouro_object_of(p));
}
#else
#define ouro_type_of(p) (ouro_type_of)(OURO_OF_CONST(p))
#endif

/* In a `visit` function: reports one reference field by its address. */
#define ouro_visit(visitor, field) ouro_visit_refs((visitor), OURO_REF(field), 1)

/* Reports `count` neighbouring reference fields, the first by its address. */
#define ouro_visit_array(visitor, first, count) ouro_visit_refs((visitor), OURO_REF(first), (count))

static inline void ouro_visit_refs(ouro_visitor *visitor, ouro_ref *fields, size_t count)
{
    visitor->fields(visitor, fields, count);
}

#endif
