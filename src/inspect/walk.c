/*
 * inspect/walk.c - all objects, in a stopped world.
 */
#include <ouro/inspect.h>

#include "heap/walk.h"
#include "thread/seat.h"
#include "thread/world.h"

size_t ouro_each_object(bool (*each)(ouro_object *o, void *argument), void *argument)
{
    struct seat *self = seat_at_safepoint("ouro_each_object()");

    world_stop(self);
    size_t calls = walk_objects_stopped(each, argument);
    world_start(self);
    return calls;
}
