/*
 * thread/grace.c - grace periods without fences.
 *
 *   stamp    a read-modify-write that reads the number of the last period begun, e; the stamp is ripe when
 *            period e + 1 has completed
 *   begin    one period at a time, under the registry mutex: count it, then set QUIESCE in the word of every
 *            seat, detached ones and the own included, counting those that were ATTACHED
 *   ack      at a safepoint, at park and at detach: clear QUIESCE, then take one off; at 0 it is complete
 *
 * Why a scan by read-modify-write is enough: either the reader's attach comes first in the order of that
 * word, then the scan sees ATTACHED and waits; or it comes later and reads from the scan, and then sees every
 * store that was made before it.  A stamp taken before the period began is seen by the period, since
 * both are read-modify-writes of one counter.  stress/models/seat.pml and grace.pml explore it.
 *
 * A thread that passes no safepoint holds up the period, and with it all that waits.  Whoever finds that
 * something waits looks how old the period is (grace_watch()), and names those that are ATTACHED with QUIESCE set.
 * The age counts from the last time that a stopped world went on, if that is later: all others have passed a
 * safepoint since, and who had stopped it could not.
 */
#include "thread/grace.h"

#include "base/os.h"
#include "thread/hooks.h"
#include "thread/late.h"
#include "thread/seat.h"
#include "thread/world.h"

static uint64_t
    epoch; /* [atomic] periods begun; changed under the registry mutex, read by stamps */
static uint64_t completed;    /* [atomic] number of the last period that is complete */
static uint32_t in_flight;    /* [lock: registry] set; cleared by the completer */
static uint32_t awaiting;     /* [atomic] acknowledgements still to come, as a signed number */
static uint64_t begun_ns;     /* [lock: registry] since when the period in flight waits */
static bool named;            /* [lock: registry] who holds it up has been named */
static uint64_t late_periods; /* [lock: registry] W, relaxed R: a figure */

uint64_t grace_stamp(void)
{
    /* [G2] acq_rel: what was taken out of reach before; grace_begin() */
    return fetch_add_acq_rel(&epoch, 0u);
}

bool grace_is_ripe(uint64_t stamp)
{
    /* [G3] acquire: all that readers did before they acknowledged; complete() */
    return load_acquire(&completed) > stamp;
}

static void complete(void)
{
    /* [G3] release: the acknowledgements, to who frees; grace_is_ripe() */
    store_release(&completed, load_relaxed(&epoch));
    /* [G4] release: `completed`, to the next grace_begin() */
    store_release(&in_flight, 0u);
}

void grace_acknowledge(void)
{
    /* [G1] acq_rel: this reader's uses, to the last one, who completes */
    if (fetch_sub_acq_rel(&awaiting, 1u) == 1)
        complete();
}

void grace_begin(struct seat *self)
{
    uint32_t expected = 0;

    mutex_lock(&seat_registry);
    if (load_acquire(&in_flight)) { /* [G4] acquire: the last period's end; complete() */
        mutex_unlock(&seat_registry);
        return;
    }
    store_relaxed(&in_flight, 1u);
    begun_ns = os_now_ns();
    named = false;
    /* [G2] acq_rel: all that was taken out of reach before a stamp that reads less */
    fetch_add_acq_rel(&epoch, 1u);
    for (uint32_t id = seat_count(); id > 0; id--)
        /* [G1] acq_rel: see above */
        expected += fetch_or_acq_rel(&seat_by_id(id)->word, SEAT_QUIESCE) & SEAT_ATTACHED;
    /* [G1] acq_rel: those who acknowledged before this addition */
    bool all = fetch_add_acq_rel(&awaiting, expected) + expected == 0;
    mutex_unlock(&seat_registry);
    if (all)
        complete();
    seat_event(self, EVENT_GRACE);
}

void grace_in_stopped_world(void)
{
    mutex_lock(&seat_registry);
    if (!load_acquire(&in_flight)) { /* [G4] acquire: the last period's end; complete() */
        /* [G2] acq_rel: as in grace_begin(); the stop was the scan */
        fetch_add_acq_rel(&epoch, 1u);
        /* [G3] release: as in complete(); the parks were the acknowledgements */
        store_release(&completed, load_relaxed(&epoch));
    }
    mutex_unlock(&seat_registry);
}

/* --- the watchdog -------------------------------------------------------------------------------------- */

uint64_t grace_late_periods(void)
{
    return load_relaxed(&late_periods);
}

void grace_rested_locked(void)
{
    if (load_relaxed(&in_flight)) /* a stale value does no harm */
        begun_ns = os_now_ns();
}

/* Finds those, but for the caller, who is at a safepoint, that hold up the period in flight for longer than `limit_ms`; returns for how long. */
static uint64_t find_late_locked(struct late *late, unsigned limit_ms, const struct seat *self)
{
    uint64_t age_ms;

    late->count = 0;
    /* While a stop is under way it has a watchdog of its own. */
    if (!load_relaxed(&in_flight) || named || world_is_stopping_locked())
        return 0;
    age_ms = (os_now_ns() - begun_ns) / 1000000u;
    if (age_ms < limit_ms)
        return 0;
    /* Under the mutex no scan is half done, and attaching clears QUIESCE: both bits are there if the scan counted it. */
    late_find_locked(late, SEAT_ATTACHED | SEAT_QUIESCE, self);
    if (late->count > 0) {
        named = true;
        store_relaxed(&late_periods, late_periods + 1);
    }
    return age_ms;
}

void grace_watch(struct seat *self)
{
    unsigned limit_ms = late_after_ms();
    struct late late;

    if (limit_ms == 0)
        return;
    mutex_lock(&seat_registry);
    uint64_t age_ms = find_late_locked(&late, limit_ms, self);
    mutex_unlock(&seat_registry);
    if (late.count == 0)
        return;
    size_t bytes = thread_hooks.waiting(self);
    for (int i = 0; i < late.count; i++)
        check_say(
            "ouro: the thread \"%s\" has passed no safepoint for %llu ms and holds up a grace "
            "period: what was retired (%zu bytes) can't be freed; call ouro_safepoint() in its "
            "loop, or ouro_detach() before it blocks\n",
            late.names[i], (unsigned long long)age_ms, bytes);
}

void grace_vanish(void)
{
    /* Who had not acknowledged has vanished, or is the caller, who has passed a safepoint since he borrowed. */
    store_relaxed(&awaiting, 0u);
    /* [G3] release: as in complete() */
    store_release(&completed, load_relaxed(&epoch));
    /* [G4] release: as in complete() */
    store_release(&in_flight, 0u);
}
