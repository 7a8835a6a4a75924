/*
 * ouro/weak.h - references that don't keep alive what they refer to.
 *
 * A weak reference is an object itself: it is counted, may be in fields, slots and globals.  ouro_weakref_get() makes a
 * new reference to its target as long as that is alive.  When the target's last reference goes, or the collector finds
 * the target to be garbage, all its weak references are cleared for good, before anything of it is taken apart and
 * before its finalizer runs.
 *
 * An object to which none refers pays nothing.  One that has, or had, is freed after a grace period when its last
 * reference goes: its block, that is; its fields and `destroy` are done with at once.
 */
#ifndef OURO_WEAK_H
#define OURO_WEAK_H

#include <ouro/base.h>
#include <ouro/object.h>

/* Its members are the library's. */
typedef struct ouro_weakref {
    ouro_header ouro;
    ouro_object *target;        /* [atomic] not counted; NULL: cleared */
    struct ouro_weakref *next;  /* [lock: weak] of the same bucket, or in the queue */
    struct ouro_weakref **link; /* [lock: weak] what points to this one */
} ouro_weakref;

/* Called once when the target is gone: `ref` is a borrowed reference, already cleared; `argument` what was given with the
 * callback, NULL or an object, borrowed too. It runs where finalizers run (ouro/finalize.h): attached, at an explicit
 * safepoint of some thread that holds no Ouro lock, never inside of a decref. It may do whatever a finalizer may. */
typedef void (*ouro_weakref_callback)(ouro_weakref *ref, ouro_object *argument);

OURO_BEGIN_DECLS

/*
 * A new reference to the weak reference to `target`, of which the caller holds a reference. All callers share one for each
 * target. NULL if memory is out. May run `destroy`. Attached; never a safepoint.
 */
OURO_API OURO_NODISCARD ouro_weakref *ouro_weakref_new(ouro_object *target);

/*
 * A weak reference of its own, with a callback. It holds a reference to `argument`, an object or NULL, until the
 * callback has returned. If the weak reference itself dies before its target, or is found to be garbage together with it, the
 * callback is not called. Several for one target are called the latest first. NULL if memory is out. May run `destroy`.
 * Attached; never a safepoint.
 */
OURO_API OURO_NODISCARD ouro_weakref *ouro_weakref_new_callback(ouro_object *target,
                                                                ouro_weakref_callback callback,
                                                                ouro_object *argument);

/* A new reference to the target, or NULL if it is gone. Any thread may ask, at any time, whatever others do. Attached; never a
 * safepoint. */
OURO_API OURO_NODISCARD void *ouro_weakref_get(const ouro_weakref *ref);

/* Whether the target is gone; if not, it may be so at once. Attached; never a safepoint. */
static inline bool ouro_weakref_is_cleared(const ouro_weakref *ref)
{
    return __atomic_load_n(&ref->target, __ATOMIC_RELAXED) == NULL;
}

/* How many weak references there are to an object. Attached; never a safepoint. */
OURO_API size_t ouro_weakref_count(const ouro_object *target);

/* Fills in new references to at most `capacity` of them, the shared one first, then those with callbacks, the latest first; returns how many
 * it filled in. Attached; never a safepoint. */
OURO_API size_t ouro_weakref_list(const ouro_object *target, ouro_weakref **refs, size_t capacity);

OURO_END_DECLS

#ifdef __cplusplus
template <class T> inline ouro_weakref *ouro_weakref_new(T *target)
{
    return ouro_weakref_new(ouro_object_of(target));
}
template <class T, class A>
inline ouro_weakref *ouro_weakref_new_callback(T *target, ouro_weakref_callback callback,
                                               A *argument)
{
    ouro_object *o = argument ? ouro_object_of(argument) : nullptr;
    return ouro_weakref_new_callback(ouro_object_of(target), callback, o);
}
template <class T>
inline ouro_weakref *ouro_weakref_new_callback(T *target, ouro_weakref_callback callback,
                                               decltype(nullptr))
{
    ouro_object *none = nullptr;
    return ouro_weakref_new_callback(ouro_object_of(target), callback, none);
}
template <class T> inline size_t ouro_weakref_count(const T *target)
{
    return ouro_weakref_count(ouro_object_of(target));
}
template <class T>
inline size_t ouro_weakref_list(const T *target, ouro_weakref **refs, size_t capacity)
{
    return ouro_weakref_list(ouro_object_of(target), refs, capacity);
}
#else
#define ouro_weakref_new(p) (ouro_weakref_new)(OURO_OF(p))
#define ouro_weakref_new_callback(p, callback, argument) \
    (ouro_weakref_new_callback)(OURO_OF(p), (callback), OURO_WEAKREF_ARGUMENT(argument))
/* A pointer to any object, or a `void *`, as NULL is one. */
#define OURO_WEAKREF_ARGUMENT(p) \
    _Generic(&_Generic((p), void *: (ouro_object *)0, default: (p))->ouro, ouro_header * : ( \
        ouro_object *)(void *)(p))
#define ouro_weakref_count(p) (ouro_weakref_count)(OURO_OF_CONST(p))
#define ouro_weakref_list(p, refs, capacity) \
    (ouro_weakref_list)(OURO_OF_CONST(p), (refs), (capacity))
#endif

#endif
