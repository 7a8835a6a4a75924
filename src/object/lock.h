/*
 * object/lock.h - object locks: what other parts of the library need of them.
 */
#ifndef OURO_OBJECT_LOCK_H
#define OURO_OBJECT_LOCK_H

#include <ouro/object.h>

struct seat;

/* For check builds: ends the program if an object that is about to be destroyed is locked. */
void lock_check_dying(const ouro_object *o);

/* Before a fork, by the thread that forks, in a stopped world: takes the parking table's mutexes, in their order.
 * In the parent afterwards: gives them back. */
void lock_fork_prepare(void);
void lock_fork_parent(void);

/* In the child, by its only thread: the same, and nobody waits for a lock any more. */
void lock_fork_child(void);

/* In the child: unlocks what the thread of a seat held that is not in this process. */
void lock_abandon(struct seat *gone);

#endif
