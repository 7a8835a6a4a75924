/*
 * gc/helped.h - the passes of gc/trial.c and gc/sets.c for several threads. In a stopped world.
 */
#ifndef OURO_GC_HELPED_H
#define OURO_GC_HELPED_H

#include "gc/trial.h"

/* Each does a pass with helpers if there are some and the set is large enough, else nothing and returns false: then the
 * caller does it alone. */

/* trial_walk() for all pages of all areas, and trial_walk_end(). */
bool helped_walk(struct trial *trial, uint8_t mask, uint8_t want);

/* trial_count() */
bool helped_count(struct trial *trial);

/* Marks what is held. *rescan: some objects were not looked into, their pages have `rescan`. */
bool helped_mark(struct trial *trial, size_t *marked, bool *rescan);

/* trial_condemn_page() for each page of the set; those with garbage keep `in_set`. */
bool helped_condemn(struct trial *trial);

/* All that roots reach becomes the set. The caller has begun alone and stops in the middle: of the objects in `begun` it has
 * not looked at what they refer to. From here on it gives each root to helped_root(), and then ends the pass; true then: some objects were
 * not looked into, as above. */
bool helped_reach_begin(struct trial *trial, ouro_object **begun, size_t count);
void helped_root(ouro_object *o);
bool helped_reach_end(void);

#endif
