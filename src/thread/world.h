/*
 * thread/world.h - stopping the world.
 */
#ifndef OURO_THREAD_WORLD_H
#define OURO_THREAD_WORLD_H

#include <stdbool.h>
#include <stdint.h>

struct seat;

/* Stops all others; returns the time that it took. The caller is attached; this is a safepoint for it. */
uint64_t world_stop(struct seat *self);
void world_start(struct seat *self);

/* True while a stop is under way or in force: new seats begin with STOP. [lock: registry] */
bool world_is_stopping_locked(void);

/* By a thread that leaves ATTACHED while STOP is set: one acknowledgement. */
void world_acknowledge(void);

uint64_t world_late_stops(void);

/* In the child of a fork, by who has stopped the world: nobody is left who could acknowledge. */
void world_vanish(void);

#endif
