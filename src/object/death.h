/*
 * object/death.h - destroying objects that have no references.
 */
#ifndef OURO_OBJECT_DEATH_H
#define OURO_OBJECT_DEATH_H

#include <ouro/object.h>

struct seat;

/* Destroys an object without references, and all that dies with it; if destruction is under way below on the
 * stack, leaves it to that. */
void death_of(struct seat *self, ouro_object *o);

/* Puts it on the list, to be destroyed at the next death_run(). */
void death_queue(struct seat *self, ouro_object *o);

/* Destroys what is on the list, until nothing is, or until the world is to be stopped. */
void death_run(struct seat *self);

/* Lists of dead objects, linked through their headers. death_pop() needs one that is not empty. */
void death_push(ouro_object **list, ouro_object *o);
ouro_object *death_pop(ouro_object **list);

/* Appends a list to the last object of another one. */
void death_join(ouro_object *last, ouro_object *list);

/* For the collector: runs `destroy`; frees the block of an object whose fields are NULL. */
void death_call_destroy(struct seat *self, ouro_object *o);

/* In the child of a fork: what the vanished thread of another seat was to destroy goes to the list of `self`. */
void death_adopt(struct seat *self, struct seat *from);

#endif
