/*
 * ouro/lock.h - the lock that each object has: one byte of its header.
 *
 *     OURO_LOCKED(list) {
 *         list->items[list->count++] = ouro_incref(item);
 *     }
 *
 * One thread at a time holds an object's lock.  It protects what the program says it protects; counting and slots need
 * none.  Locking and unlocking is a function call and an atomic operation each while nobody else wants the lock, and no
 * memory is needed in any case.
 *
 * A thread that has to wait for a lock waits *detached*: it holds up no stop of the world, no collection and no grace
 * period.  So whatever may wait for a lock ends what was borrowed: it is a safepoint.  The object itself must be kept by
 * a reference, from before it is locked until it has been unlocked; one that is only borrowed would not do.
 *
 * Locks are not recursive.  A thread may hold 64 at once.  While it holds one, its safepoints run no collection and no
 * callback, since these might want the lock; they still park for a stopped world.  Two threads that lock two objects in
 * opposite order wait for ever: ouro_lock_pair() takes two in an order that all agree on.
 */
#ifndef OURO_LOCK_H
#define OURO_LOCK_H

#include <ouro/base.h>
#include <ouro/object.h>
#include <ouro/thread.h>

OURO_BEGIN_DECLS

/*
 * Locks the object, and waits detached as long as another thread has it locked. The caller keeps a reference of its own
 * until it has unlocked it. Not in a type's `destroy`; after ouro_world_stop() only if nobody has it locked. While it
 * waits it may run `destroy`. Attached; a safepoint if it has to wait, so nothing borrowed may be relied on afterwards.
 */
OURO_API void ouro_lock(ouro_object *o);

/*
 * Locks the object if nobody has it locked, and returns whether it did. False also if the caller itself has it
 * locked. Not in a type's `destroy`. Attached; never a safepoint.
 */
OURO_API OURO_NODISCARD bool ouro_trylock(ouro_object *o);

/*
 * Unlocks an object that the caller has locked; the order does not matter. Wakes one thread that waits for it, which
 * attaches and then tries again, along with whoever comes. Attached; never a safepoint.
 */
OURO_API void ouro_unlock(ouro_object *o);

/*
 * Locks two objects, in the order of their addresses, so that threads which lock the same two never wait for each
 * other. If both are the same it is locked once. Otherwise like ouro_lock(), twice: it may wait for the second one while
 * it holds the first. Attached; a safepoint if it has to wait.
 */
OURO_API void ouro_lock_pair(ouro_object *a, ouro_object *b);

/* The opposite, with the same two, in either order. Attached; never a safepoint. */
OURO_API void ouro_unlock_pair(ouro_object *a, ouro_object *b);

OURO_END_DECLS

/* The scope of OURO_LOCKED and OURO_LOCKED_PAIR, left in any way that C knows but longjmp. */
struct ouro_lock_scope {
    ouro_object *first, *second; /* second: NULL if it is one object */
    bool left;
};

static inline struct ouro_lock_scope ouro_lock_scope_one(ouro_object *o)
{
    struct ouro_lock_scope scope = {o, NULL, false};

    ouro_lock(o);
    return scope;
}

static inline struct ouro_lock_scope ouro_lock_scope_pair(ouro_object *a, ouro_object *b)
{
    struct ouro_lock_scope scope = {a, b, false};

    ouro_lock_pair(a, b);
    return scope;
}

static inline void ouro_lock_scope_end(struct ouro_lock_scope *scope)
{
    if (scope->second)
        ouro_unlock_pair(scope->first, scope->second);
    else
        ouro_unlock(scope->first);
}

/*
 * OURO_LOCKED(o) { ... }: the block runs with the object locked; `break` leaves it; so do return and goto.
 * OURO_LOCKED_PAIR(a, b) { ... }: with both. The arguments are evaluated once.
 */
#define OURO_LOCKED(p) \
    OURO_LOCKED_AS(OURO_PASTE(ouro_lock_scope_, __COUNTER__), ouro_lock_scope_one(OURO_OF(p)))
#define OURO_LOCKED_PAIR(a, b)                                \
    OURO_LOCKED_AS(OURO_PASTE(ouro_lock_scope_, __COUNTER__), \
                   ouro_lock_scope_pair(OURO_OF(a), OURO_OF(b)))
#define OURO_LOCKED_AS(scope, begin)                                                         \
    for (struct ouro_lock_scope scope __attribute__((cleanup(ouro_lock_scope_end))) = begin; \
         !scope.left; scope.left = true)

/* Any object. */
#ifdef __cplusplus
template <class T> inline void ouro_lock(T *p)
{
    ouro_lock(ouro_object_of(p));
}
template <class T> OURO_NODISCARD inline bool ouro_trylock(T *p)
{
    return ouro_trylock(ouro_object_of(p));
}
template <class T> inline void ouro_unlock(T *p)
{
    ouro_unlock(ouro_object_of(p));
}
template <class T, class U> inline void ouro_lock_pair(T *a, U *b)
{
    ouro_lock_pair(ouro_object_of(a), ouro_object_of(b));
}
template <class T, class U> inline void ouro_unlock_pair(T *a, U *b)
{
    ouro_unlock_pair(ouro_object_of(a), ouro_object_of(b));
}
#else
#define ouro_lock(p)           (ouro_lock)(OURO_OF(p))
#define ouro_trylock(p)        (ouro_trylock)(OURO_OF(p))
#define ouro_unlock(p)         (ouro_unlock)(OURO_OF(p))
#define ouro_lock_pair(a, b)   (ouro_lock_pair)(OURO_OF(a), OURO_OF(b))
#define ouro_unlock_pair(a, b) (ouro_unlock_pair)(OURO_OF(a), OURO_OF(b))
#endif

#endif
