/*
 * thread/late.c - the watchdog: which threads keep others waiting.
 *
 * Two things wait for a thread that passes no safepoint: a stop (world.c) and a grace period (grace.c).
 * Both look at the clock while they wait, and name the threads on standard error once, when the time is up:
 *
 *    find    under the registry mutex, which guards the names: the words tell who is awaited
 *    print   without it, since that may block
 *
 * What may surprise: a name may be that of a thread that has come to its safepoint between the two steps.
 */
#include "thread/late.h"

#include <string.h>

static unsigned after_ms = 1000; /* relaxed: a setting */

void ouro_set_watchdog(unsigned milliseconds)
{
    store_relaxed(&after_ms, milliseconds);
}

unsigned late_after_ms(void)
{
    return load_relaxed(&after_ms);
}

void late_find_locked(struct late *late, uint32_t bits, const struct seat *self)
{
    late->count = 0;
    for (uint32_t id = seat_count(); id > 0 && late->count < LATE_NAMES; id--) {
        struct seat *seat = seat_by_id(id);

        if (seat != self && (load_relaxed(&seat->word) & bits) == bits)
            memcpy(late->names[late->count++], seat->name, SEAT_NAME_BYTES);
    }
}
