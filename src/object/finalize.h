/*
 * object/finalize.h - the queue of finalizers and weak callbacks.
 */
#ifndef OURO_OBJECT_FINALIZE_H
#define OURO_OBJECT_FINALIZE_H

#include "thread/seat.h"

#include <ouro/finalize.h>
#include <ouro/weak.h>

/* True if the object's type has a finalizer and it has not begun to run. */
bool finalize_is_due(const ouro_object *o);

/* An object that has just lost its last reference gets one back, the queue's. Its weak references have been cleared. */
void finalize_queue_dead(struct seat *self, ouro_object *o);

/* The same for garbage, in a stopped world; finalize_announce() afterwards, once. */
void finalize_queue_garbage(struct seat *self, ouro_object *o);
void finalize_announce(struct seat *self);

/* Weak references that have been cleared, linked by `next`, each with a reference of the queue's. In a stopped world:
 * finalize_announce() afterwards, as above. */
void finalize_queue_calls(struct seat *self, ouro_weakref *first, bool stopped);

/* Hooks of the thread layer: at an explicit point with FINALIZE set; a thread that leaves and has queued something makes
 * others look; a thread that attaches; one that ends inside of a finalizer. */
void finalize_some(struct seat *self);
void finalize_pass_on(struct seat *self);
void finalize_look(struct seat *self);
void finalize_abandon(struct seat *self);

/* For ouro_collect(): sees to it that what waits is run, by this thread or another, unless the program runs finalizers only on
 * request. A safepoint. True if another collection may find more because of that: this thread, or its collection, has
 * queued something since the last call. What others queue and run all the time is no reason. *seen comes from
 * finalize_seen() before the first collection: what waits then is one. */
uint64_t finalize_seen(const struct seat *self);
bool finalize_all(struct seat *self, uint64_t *seen);

/* For ouro_shutdown(): ends the library's own thread. */
void finalize_shutdown(void);

void finalize_fork_prepare(void);
void finalize_fork_parent(void);
void finalize_fork_child(void);

#endif
