/*
 * object/retire.h - references and buffers that wait for a grace period.
 */
#ifndef OURO_OBJECT_RETIRE_H
#define OURO_OBJECT_RETIRE_H

#include <ouro/object.h>

struct seat;

/* Makes room for one more. False: memory is out. */
bool retire_reserve(struct seat *self);

/* After retire_reserve(): a reference that is given up, or a buffer that is freed, after a grace period. */
void retire_reference(struct seat *self, ouro_object *o);
void retire_buffer(struct seat *self, void *buffer);

/* The block of a dead object that a weak get may still look at: it is freed after a grace period. Needs no room. */
void retire_block(struct seat *self, ouro_object *o);

/* Closes this thread's open batch: it waits in the queue from now on, where any thread may drop it. */
void retire_close(struct seat *self);

/* Drops and frees what has waited long enough; begins a grace period if something has not. */
void retire_ripen(struct seat *self);

/* If something waits the next safepoint looks after it. */
void retire_look(struct seat *self);

/* By who leaves and may not go on with it: if something waits, in whatever state, all others look at their next
 * safepoint. */
void retire_pass_on(struct seat *self);

/* True if something of this thread's or in the queue waits. */
bool retire_waits(struct seat *self);

/* Bytes: of the blocks that closed batches and that of `self` name, those that are being dropped included; of the
 * records. By the thread of `self`. */
struct retire_figures {
    size_t waiting, metadata;
};
struct retire_figures retire_figures(const struct seat *self);

/* For a thread that has asked itself to see to what it has retired: both. */
void retire_work(struct seat *self);

/* For fork: the mutex; and what has to be true of each thread that is parked or detached. */
void retire_fork_prepare(void);
void retire_fork_done(void);
bool retire_is_closed(const struct seat *seat);

#endif
