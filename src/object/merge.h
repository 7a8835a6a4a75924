/*
 * object/merge.h - hints, and merging the two counts of an object whose owner is another thread.
 */
#ifndef OURO_OBJECT_MERGE_H
#define OURO_OBJECT_MERGE_H

#include <ouro/object.h>

struct seat;

/* Somebody has to look at the block: its shared count went below zero, or it is to be immortal. Uses nothing of the
 * object but its address. If nobody is in the seat the caller does it. */
void merge_hint(struct seat *self, ouro_object *o);

/* Looks at all blocks that are hinted in the inbox of `seat`, which the caller has. What died goes to the list of
 * `self`. With `bounded` it may stop early, put the rest back and set INBOX. */
void merge_drain(struct seat *seat, struct seat *self, bool bounded);

#endif
