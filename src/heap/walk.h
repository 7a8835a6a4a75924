/*
 * heap/walk.h - all objects that are alive, page by page, in a stopped world.
 */
#ifndef OURO_HEAP_WALK_H
#define OURO_HEAP_WALK_H

#include <ouro/object.h>

/* Calls `each` for each, until it returns false; returns the number of calls. Those that are being destroyed are left out. */
size_t walk_objects_stopped(bool (*each)(ouro_object *o, void *argument), void *argument);

#endif
