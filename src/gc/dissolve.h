/*
 * gc/dissolve.h - destroying what the collector has found.
 */
#ifndef OURO_GC_DISSOLVE_H
#define OURO_GC_DISSOLVE_H

#include "gc/trial.h"

/* Destroys the garbage of a trial, after the world has been started. A safepoint, many times. Returns how many
 * large objects were among it. */
size_t dissolve(struct seat *self, struct trial *trial);

#endif
