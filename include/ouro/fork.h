/*
 * ouro/fork.h - fork() in a program with threads.
 *
 * Say ouro_fork_install() once, early; from then on fork() may be called by any thread at any place where a safepoint
 * is allowed, and child and parent go on:
 *
 *     if (ouro_fork_install())
 *         ...                                              // memory is out
 *     pid_t pid = fork();                                  // a safepoint: what was borrowed ends here
 *
 * A program that clones processes in another way calls the three functions itself.
 *
 * In the child there is one thread, the one that forked, in the state in which it was.  It may do all that it could
 * before: allocate, collect, register threads, fork again.  What the vanished threads were about to destroy is
 * destroyed by the child; their heaps go to the threads that register next.  References that the vanished
 * threads held in variables stay counted: those objects leak.  Finalizers have no thread of the library's own in the child:
 * if it was that thread that forked, it ends when the finalizer has returned, and the process with it, as after exit(0).  What vanished threads were changing is as it was at their
 * last safepoint or in their detached region; if that is not consistent, nobody but the program can mend it.
 */
#ifndef OURO_FORK_H
#define OURO_FORK_H

#include <ouro/base.h>

OURO_BEGIN_DECLS

/*
 * Makes fork() call the three functions below, by pthread_atfork(), and reserves what an unregistered thread needs
 * for that. More than once is once. If the handler can't prepare it ends the program with a sentence.
 * OURO_NO_MEMORY; OURO_LIMIT: 65,533 threads are registered. Any thread; never a safepoint.
 */
OURO_API OURO_NODISCARD ouro_status ouro_fork_install(void);

/*
 * Before a fork: waits for a collection of another thread, detached, stops the world and takes all internal locks. From then
 * until ouro_fork_parent() or ouro_fork_child() the caller may do nothing with the library. A thread that is detached
 * or not registered is attached meanwhile. In a callback of the collector it works, too. Don't call it with a lock
 * held that a `destroy` or a callback takes. May run `destroy`. OURO_NO_MEMORY, OURO_LIMIT: only if the thread is not registered
 * and ouro_fork_install() was not called before. Any thread, but not in a `destroy`, nor by a thread that has stopped the
 * world; a safepoint.
 */
OURO_API OURO_NODISCARD ouro_status ouro_fork_prepare(void);

/* After the fork, also one that failed, in the parent: lets the others go on. May run `destroy`. By the thread that prepared,
 * which is then in the state in which it was before; a safepoint if that was not attached. */
OURO_API void ouro_fork_parent(void);

/* The same in the child, where the library forgets all other threads. What was retired and borrowed before the fork is nobody's
 * any more. May run `destroy`, of what vanished threads left, too. A safepoint as ouro_fork_parent() is. */
OURO_API void ouro_fork_child(void);

OURO_END_DECLS

#endif
