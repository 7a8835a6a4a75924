/*
 * gc/schedule.h - when an automatic collection is due.
 */
#ifndef OURO_GC_SCHEDULE_H
#define OURO_GC_SCHEDULE_H

#include "thread/seat.h"

/* The heap's report; sets COLLECT in the word of `seat` if one is due. */
void schedule_grew(struct seat *seat, int64_t objects);

bool schedule_is_due(void);
size_t schedule_net_new(void);
size_t schedule_threshold(void);

/* After a collection: so much of the growth is accounted for, so many objects survived. */
void schedule_collected(int64_t net_new, size_t survivors);

/* For fork: the mutex of the settings. */
void schedule_fork_prepare(void);
void schedule_fork_done(void);

#endif
