/*
 * ouro/finalize.h - finalizers: code of a type that runs once when an object has lost its last reference, or was found to be
 * garbage, while the object is still whole.
 *
 * `finalize` of a type (ouro/type.h) gets the object with all its fields.  It may use and store references to it: then the object
 * lives on (it is *resurrected*), and dies without ceremony the next time.  Finalizers never run inside of a decref.
 * They wait in one queue, together with the callbacks of weak references, and run
 *
 *   - at explicit safepoints (ouro_safepoint(), ouro_collect(), ouro_run_finalizers()) of threads that hold no Ouro lock
 *     and are not in a finalizer or callback already; or
 *   - only in ouro_run_finalizers(); or
 *   - in a thread of the library's own;
 *
 * as the program chooses.  So don't call the three while holding a lock of your own that a finalizer takes, too.
 * If a thread ends inside of one that one has run; the library's own thread must not be ended.
 *
 * Which thread runs one is not specified, nor is the order of those that wait at the same time.  But what an object refers to
 * is alive while its finalizer waits and runs, so if nothing else holds it, and it is in no cycle, its own finalizer runs after that.
 */
#ifndef OURO_FINALIZE_H
#define OURO_FINALIZE_H

#include <ouro/base.h>
#include <ouro/object.h>

typedef enum ouro_finalizer_mode {
    OURO_FINALIZE_AT_SAFEPOINTS, /* at first */
    OURO_FINALIZE_ON_REQUEST,
    OURO_FINALIZE_IN_THREAD,
} ouro_finalizer_mode;

OURO_BEGIN_DECLS

/*
 * Who runs finalizers and callbacks of weak references: when this returns none begins any more in another mode's way, those that
 * have begun go on. The library's own thread is started, or ended when it has finished the one it is at, so don't hold a
 * lock that a finalizer takes. It has all signals blocked. OURO_NO_MEMORY, OURO_LIMIT: it could not be started, and the mode is what it was; OURO_SHUTDOWN: likewise,
 * since ouro_shutdown() has begun. OURO_BUSY: another thread is changing the mode. OURO_INVALID: no such mode. Any thread, but not in a finalizer or a callback, of the collector either; a safepoint if
 * attached.
 */
OURO_API OURO_NODISCARD ouro_status ouro_finalizer_set_mode(ouro_finalizer_mode mode);

/* Any thread; never a safepoint. */
OURO_API ouro_finalizer_mode ouro_finalizer_get_mode(void);

/*
 * Runs what waited when it was called, in any mode, and returns how many finalizers and callbacks that was. In a finalizer,
 * a callback or a `destroy`, or while the caller holds an Ouro lock: 0 at once. Attached; a safepoint.
 */
OURO_API size_t ouro_run_finalizers(void);

/* How many wait. Any thread; never a safepoint. */
OURO_API size_t ouro_finalizers_waiting(void);

/* Whether an object's finalizer has begun to run. Attached; never a safepoint. */
OURO_API bool ouro_is_finalized(const ouro_object *o);

OURO_END_DECLS

#ifdef __cplusplus
template <class T> inline bool ouro_is_finalized(const T *p)
{
    return ouro_is_finalized(ouro_object_of(p));
}
#else
#define ouro_is_finalized(p) (ouro_is_finalized)(OURO_OF_CONST(p))
#endif

#endif
