/*
 * thread/late.h - naming threads that others wait for.
 */
#ifndef OURO_THREAD_LATE_H
#define OURO_THREAD_LATE_H

#include "thread/seat.h"

enum { LATE_NAMES = 16 };

struct late {
    int count;
    char names[LATE_NAMES][SEAT_NAME_BYTES];
};

/* After how many milliseconds a thread is late; 0: never. */
unsigned late_after_ms(void);

/* The threads whose word has all of `bits`, but for `self`; some of them, if there are many. [lock: registry] */
void late_find_locked(struct late *late, uint32_t bits, const struct seat *self);

#endif
