/*
 * gc/mark.h - following references from object to object, in a stopped world: which members of a set are held, and what some
 * roots reach.
 */
#ifndef OURO_GC_MARK_H
#define OURO_GC_MARK_H

#include "gc/trial.h"

/* Marks the members of a set whose references are counted: those held from outside, and what they reach. Marked is who has no
 * scratch word any more. True: there are others. */
bool mark_held(struct trial *trial);

/* The same for single members, whatever holds them: mark_begin(), mark_member() for each, mark_end(). By the caller alone. */
void mark_begin(struct trial *trial);
void mark_member(ouro_object *o);
void mark_end(struct trial *trial);

/* Makes a set of roots and of all that they reach: reach_begin(), reach_root() for each, reach_end(). No references are counted. */
void reach_begin(struct trial *trial);
void reach_root(ouro_object *o);
void reach_end(struct trial *trial);

#endif
