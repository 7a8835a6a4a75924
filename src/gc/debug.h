/*
 * gc/debug.h - saying what the collector does, and keeping what it finds.
 */
#ifndef OURO_GC_DEBUG_H
#define OURO_GC_DEBUG_H

#include "gc/trial.h"

#include <ouro/gc.h>

unsigned debug_flags(void);
void debug_print_stats(const ouro_gc_info *info);

/* For one that is kept, in a stopped world: others may hold the lock of `stderr`, so without that. */
void debug_print_saved(const ouro_object *o);

/* After the world was started, before the garbage is dissolved. */
void debug_print_garbage(struct seat *self, const struct trial *trial);

#endif
