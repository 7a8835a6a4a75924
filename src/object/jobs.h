/*
 * object/jobs.h - what waits to be finalized or called back: the storage of the queue of object/finalize.c.
 *
 * It needs no memory and can't fail.  Everything here is under the mutex of that queue.
 */
#ifndef OURO_OBJECT_JOBS_H
#define OURO_OBJECT_JOBS_H

#include <ouro/weak.h>

#include <stddef.h>

void jobs_put_object_locked(ouro_object *o);

/* Weak references that are linked by `next`; returns how many. */
size_t jobs_put_calls_locked(ouro_weakref *first);

/* The next one; there is one. Weak references first. */
ouro_object *jobs_take_locked(void);

#endif
