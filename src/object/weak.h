/*
 * object/weak.h - weak references: clearing them when their target goes.
 */
#ifndef OURO_OBJECT_WEAK_H
#define OURO_OBJECT_WEAK_H

#include "thread/seat.h"

#include <ouro/weak.h>

/* A weak reference with a callback. */
struct watcher {
    ouro_weakref ref;
    ouro_object *argument; /* counted; the only field that the collector sees */
    ouro_weakref_callback callback;
};

/* Clears all weak references to an object that has no references, and queues their callbacks. */
void weak_clear(struct seat *self, ouro_object *target);

/* The same in a stopped world for an object that was found to be garbage, before the garbage is marked as such: weak
 * references that are garbage themselves are not called back. */
void weak_clear_stopped(struct seat *self, ouro_object *target);

/* Whether an object is a weak reference itself: then others may count it at any time. */
bool weak_is_reference(const ouro_object *o);

/* Whether a job of the finalizer queue is a weak reference whose callback is to be called; does that. */
bool weak_is_watcher(const ouro_object *o);
void weak_call_back(struct seat *self, struct watcher *watcher);

/* Around fork(): all mutexes. */
void weak_fork_prepare(void);
void weak_fork_done(void); /* in the parent and in the child */

#endif
