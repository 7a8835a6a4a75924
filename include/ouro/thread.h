/*
 * ouro/thread.h - threads: registration, blocking calls, stopping the world, the end.
 *
 * A thread that wants to touch objects registers, once.  It is then attached, and passes safepoints (see
 * ouro_safepoint()).  Before a call that may block it detaches, and afterwards puts back what was:
 *
 *     OURO_DETACHED {
 *         bytes = read(fd, buffer, sizeof buffer);        // no object may be touched here
 *     }
 *
 * Detached regions nest, and a callback inside of one may attach: both functions return the state that was,
 * and ouro_restore() puts it back.
 */
#ifndef OURO_THREAD_H
#define OURO_THREAD_H

#include <ouro/base.h>
#include <ouro/object.h>

typedef enum ouro_state {
    OURO_STATE_UNREGISTERED = 0,
    OURO_STATE_DETACHED,
    OURO_STATE_ATTACHED,
} ouro_state;

OURO_BEGIN_DECLS

/*
 * Makes the calling thread one that may touch objects, and attaches it. `name` is copied (31 bytes of it) and
 * shown in reports; NULL: "unnamed". OURO_BUSY: it is registered already. OURO_LIMIT: 65,533 threads are.
 * OURO_SHUTDOWN: ouro_shutdown() has been called; OURO_NO_MEMORY. A thread that ends registered is
 * unregistered by itself. Unregistered; a safepoint.
 */
OURO_API OURO_NODISCARD ouro_status ouro_thread_register(const char *name);

/*
 * The opposite. The thread's objects live on, and so does the memory that they are in, which the next thread
 * to register takes over. The references that it holds stay counted: drop or hand them over first.
 * Attached or detached; a safepoint.
 */
OURO_API void ouro_thread_unregister(void);

/* The state of the calling thread. Any thread; never a safepoint. */
OURO_API ouro_state ouro_thread_state(void);

/* The name that the calling thread registered with; "" if it did not. Valid until it unregisters.
 * Any thread; never a safepoint. */
OURO_API const char *ouro_thread_name(void);

/*
 * Says that the thread will touch no object until it attaches again: a stopped world does not wait for it, and
 * others do what is left for it. Returns the state that was, for ouro_restore(). Registered; a safepoint
 * unless already detached.
 */
OURO_API ouro_state ouro_detach(void);

/*
 * Says that the thread will touch objects. Waits while the world is stopped. Returns the state that was, for
 * ouro_restore(). Registered; a safepoint unless already attached.
 */
OURO_API ouro_state ouro_attach(void);

/* Puts back the state that ouro_detach() or ouro_attach() returned. Registered; a safepoint if it changes it. */
OURO_API void ouro_restore(ouro_state state);

/*
 * Stops all other threads at their safepoints; returns when each is parked or detached. While the world is
 * stopped the caller may read all objects, and may not detach, pass a safepoint or collect. Stops don't nest.
 * Attached; a safepoint.
 */
OURO_API void ouro_world_stop(void);

/* Lets them go on. May run `destroy`, of what others have dropped in the meantime. Attached, by the thread that
 * stopped them; never a safepoint. */
OURO_API void ouro_world_start(void);

/*
 * After how many milliseconds a thread that keeps a stop waiting is named on standard error, once a stop, and one that
 * keeps a grace period waiting (<ouro/slot.h>), once a period; 0: never. 1000 at first. Any thread; never a safepoint.
 */
OURO_API void ouro_set_watchdog(unsigned milliseconds);

/*
 * Ends the use of the library. From now on no thread can register. If the caller is the only registered thread,
 * garbage is collected, finalizers are run, and so on until there is no more of either (a hundred calls of ouro_collect() at most,
 * should they make it for ever), and OURO_OK returned; what is alive then is what the program leaks, see ouro_memory_stats().
 * Otherwise OURO_BUSY: call it again when the others have ended. The caller stays registered, and everything else
 * goes on working. Attached, holding no Ouro lock; a safepoint that may run `destroy`, finalizers and the collector's callbacks.
 */
OURO_API ouro_status ouro_shutdown(void);

OURO_END_DECLS

/* The scope of a detached region, left in any way that C knows but longjmp. */
struct ouro_scope {
    ouro_state before;
    bool left;
};

static inline struct ouro_scope ouro_scope_detach(void)
{
    struct ouro_scope scope = {ouro_detach(), false};
    return scope;
}

static inline void ouro_scope_end(struct ouro_scope *scope)
{
    ouro_restore(scope->before);
}

/* OURO_DETACHED { ... }: the block runs detached. `break` leaves it; so do return and goto. */
#define OURO_DETACHED OURO_DETACHED_AS(OURO_PASTE(ouro_scope_, __COUNTER__))
#define OURO_DETACHED_AS(scope)                                                                  \
    for (struct ouro_scope scope __attribute__((cleanup(ouro_scope_end))) = ouro_scope_detach(); \
         !scope.left; scope.left = true)
#define OURO_PASTE(a, b)  OURO_PASTE_(a, b)
#define OURO_PASTE_(a, b) a##b

#endif
