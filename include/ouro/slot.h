/*
 * ouro/slot.h - references that any number of threads may load and store at once, and waiting until nobody uses what
 * was taken out of them.
 *
 * A slot holds NULL or a counted reference.  Reading it by ouro_slot_borrow() is one load: nothing is written, nothing is
 * retried.  What it returns is *borrowed*: valid until this thread's next safepoint, as long as the slot itself is (it
 * is a global, or in an object that the thread holds or has borrowed).  To keep it longer: ouro_incref(), which can't
 * fail, since the slot's own reference is given up only after a grace period, when each thread has passed a
 * safepoint.  What is only borrowed is not the caller's: ouro_is_unique() and ouro_disown() say nothing about it.
 *
 * Code that borrows says so by OURO_READING { ... }: the promise that nothing in it is a safepoint. It costs nothing, and
 * a program compiled with OURO_CHECK=1 ends with a sentence where it is broken.
 *
 * Slots may be globals, items of arrays, and fields of objects: OURO_SLOT_FIELD() in a table of fields, or
 * ouro_visit_slot() in a `visit` function.  All zero is an empty slot.
 *
 * Whatever takes a reference out of a slot needs a place to remember it.  If memory is out the functions say so
 * and have changed nothing.
 */
#ifndef OURO_SLOT_H
#define OURO_SLOT_H

#include <ouro/base.h>
#include <ouro/object.h>
#include <ouro/thread.h>
#include <ouro/type.h>

typedef struct ouro_slot {
    ouro_object *value; /* [atomic] NULL or a counted reference; use the functions */
} ouro_slot;

/* The offset of a slot, for a table of fields. */
#define OURO_SLOT_FIELD(structure, field)                                                      \
    ((uint16_t)(offsetof(structure, field) + 0 * sizeof(((structure *)0)->field.value->ouro) + \
                0 * sizeof(char[offsetof(structure, field) <= UINT16_MAX ? 1 : -1])))

OURO_BEGIN_DECLS

/* What is in the slot now: a borrowed reference, or NULL. Attached; never a safepoint. */
static inline void *ouro_slot_borrow(const ouro_slot *slot)
{
    /* [L1] acquire: the object as it was when it was stored; slot_exchange() */
    return __atomic_load_n(&slot->value, __ATOMIC_ACQUIRE);
}

/* The functions behind a read scope in programs that are compiled with OURO_CHECK. */
OURO_API void ouro_read_begin_checked(void);
OURO_API void ouro_read_end_checked(void);

/*
 * Between these two calls the thread uses what it has borrowed, and promises to pass no safepoint. Compiled with OURO_CHECK=1 a call
 * that is a safepoint, or would be one if it had to wait, ends the program there, with a sentence that names it; otherwise they are nothing. Scopes
 * nest. A thread that ends inside of one ends it. A stop by another thread waits for the next safepoint, as ever.
 * Attached; never a safepoint, can't fail.
 */
static inline void ouro_read_begin(void)
{
#if defined(OURO_CHECK) && OURO_CHECK
    ouro_read_begin_checked();
#endif
}

static inline void ouro_read_end(void)
{
#if defined(OURO_CHECK) && OURO_CHECK
    ouro_read_end_checked();
#endif
}

/* The same as a new reference. Attached; never a safepoint. */
OURO_API OURO_NODISCARD void *ouro_slot_load(const ouro_slot *slot);

/* The functions below take `o`, an object or NULL, and the reference that was in the slot is dropped after a grace
 * period. OURO_NO_MEMORY: nothing has changed, and `o` is the caller's as before. Attached; never a safepoint. */

/* Stores a reference of the slot's own; the caller keeps his. */
OURO_API OURO_NODISCARD ouro_status ouro_slot_store(ouro_slot *slot, ouro_object *o);

/* Stores the caller's reference: it is stolen. */
OURO_API OURO_NODISCARD ouro_status ouro_slot_store_steal(ouro_slot *slot, ouro_object *o);

/* Stores the caller's reference (stolen); *old is what was in the slot, borrowed. */
OURO_API OURO_NODISCARD ouro_status ouro_slot_exchange(ouro_slot *slot, ouro_object *o,
                                                       ouro_object **old);

/* Stores the caller's reference (stolen); *old is what was in the slot, a new reference. */
OURO_API OURO_NODISCARD ouro_status ouro_slot_take(ouro_slot *slot, ouro_object *o,
                                                   ouro_object **old);

/* Stores the caller's reference (stolen) if `expected`, which the caller holds or has borrowed, is in the slot. OURO_BUSY: something else is; nothing has changed, and
 * `o` is the caller's as before. */
OURO_API OURO_NODISCARD ouro_status ouro_slot_compare_exchange(ouro_slot *slot,
                                                               const void *expected,
                                                               ouro_object *o);

/* --- grace periods -------------------------------------------------------------------------------- */

/* Gives up the caller's reference after a grace period: for one that others may have borrowed by other means than a slot.
 * OURO_NO_MEMORY: it is the caller's as before. Attached; never a safepoint. */
OURO_API OURO_NODISCARD ouro_status ouro_retire(ouro_object *o);

/* Frees a buffer of ouro_alloc() after a grace period; NULL does nothing. OURO_NO_MEMORY: it is the caller's as before.
 * Attached; never a safepoint. */
OURO_API OURO_NODISCARD ouro_status ouro_free_deferred(void *buffer);

/*
 * Waits, detached, until each thread that is attached now has passed a safepoint, and what the caller has retired is
 * dropped and what died of it destroyed, by this thread or another. (If the world is stopped at that moment another
 * thread may leave some of the destruction to its next safepoint.) Runs `destroy`. Attached; a safepoint.
 *
 * Memory: the block of an object that had a weak reference waits for a grace period of its own when the object is dead.
 * Free when this returns are those of objects that this thread has destroyed, before the call or in it; of what died of what it
 * had retired, whoever has destroyed that; and those that another thread had destroyed before it last detached or was stopped.
 * What another thread, attached, has destroyed since then it keeps until it detaches, is stopped, or has enough
 * (ouro_set_retire_budget()).
 */
OURO_API void ouro_synchronize(void);

/* How many bytes a thread may retire before its next safepoint asks for a grace period; 1 MiB at first. What waits is at
 * most that, and what is retired between two safepoints of the slowest attached thread. Any thread; never a safepoint. */
OURO_API void ouro_set_retire_budget(size_t bytes);

OURO_END_DECLS

/* OURO_READING { ... }: the block is a read scope, left in any way that C knows but longjmp. `break` leaves it; so do
 * return and goto. */
struct ouro_read_scope {
    bool left;
};

static inline struct ouro_read_scope ouro_read_scope_begin(void)
{
    struct ouro_read_scope scope = {false};

    ouro_read_begin();
    return scope;
}

static inline void ouro_read_scope_end(struct ouro_read_scope *scope)
{
    (void)scope;
    ouro_read_end();
}

#define OURO_READING OURO_READING_AS(OURO_PASTE(ouro_reading_, __COUNTER__))
#define OURO_READING_AS(scope)                                                    \
    for (struct ouro_read_scope scope                                             \
         __attribute__((cleanup(ouro_read_scope_end))) = ouro_read_scope_begin(); \
         !scope.left; scope.left = true)

/* The argument of the functions above: any object, or NULL. */
#ifdef __cplusplus
template <class T> inline ouro_object *ouro_object_or_null(T *p)
{
    return p ? ouro_object_of(p) : nullptr;
}
inline ouro_object *ouro_object_or_null(decltype(nullptr))
{
    return nullptr;
}
template <class T> inline ouro_status ouro_slot_store(ouro_slot *slot, T *o)
{
    return ouro_slot_store(slot, ouro_object_or_null(o));
}
template <class T> inline ouro_status ouro_slot_store_steal(ouro_slot *slot, T *o)
{
    return ouro_slot_store_steal(slot, ouro_object_or_null(o));
}
template <class T> inline ouro_status ouro_slot_exchange(ouro_slot *slot, T *o, ouro_object **old)
{
    return ouro_slot_exchange(slot, ouro_object_or_null(o), old);
}
template <class T> inline ouro_status ouro_slot_take(ouro_slot *slot, T *o, ouro_object **old)
{
    return ouro_slot_take(slot, ouro_object_or_null(o), old);
}
template <class T>
inline ouro_status ouro_slot_compare_exchange(ouro_slot *slot, const void *expected, T *o)
{
    return ouro_slot_compare_exchange(slot, expected, ouro_object_or_null(o));
}
template <class T> inline ouro_status ouro_retire(T *o)
{
    return ouro_retire(ouro_object_of(o));
}
#endif

#ifndef __cplusplus
/* A pointer to any object, or a `void *`, as NULL is one. */
#define OURO_OF_OR_NULL(p) \
    _Generic(&_Generic((p), void *: (ouro_object *)0, default: (p))->ouro, ouro_header * : ( \
        ouro_object *)(void *)(p))
#define ouro_slot_store(slot, p)         (ouro_slot_store)((slot), OURO_OF_OR_NULL(p))
#define ouro_slot_store_steal(slot, p)   (ouro_slot_store_steal)((slot), OURO_OF_OR_NULL(p))
#define ouro_slot_exchange(slot, p, old) (ouro_slot_exchange)((slot), OURO_OF_OR_NULL(p), (old))
#define ouro_slot_take(slot, p, old)     (ouro_slot_take)((slot), OURO_OF_OR_NULL(p), (old))
#define ouro_slot_compare_exchange(slot, expected, p) \
    (ouro_slot_compare_exchange)((slot), (expected), OURO_OF_OR_NULL(p))
#define ouro_retire(p) (ouro_retire)(OURO_OF(p))
#endif

/* Empties the slot. Returns like ouro_slot_store(). */
static inline ouro_status ouro_slot_clear(ouro_slot *slot)
{
    return (ouro_slot_store)(slot, NULL);
}

/* In a `visit` function: reports a slot by its address. */
#define ouro_visit_slot(visitor, slot) ouro_visit_refs((visitor), (ouro_ref *)&(slot)->value, 1)

#endif
