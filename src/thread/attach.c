/*
 * thread/attach.c - attach, detach, park, safepoint; and what others do to a seat that nobody is in.
 *
 * The protocol is the one of stress/models/seat.pml; thread/seat.h draws it.  Two rules carry it:
 * the owner and the proxy leave a seat by one compare-exchange that expects INBOX clear, so nothing that
 * was put in before is overlooked; and whoever clears the last of STOP and HELD grants ATTACHED to an
 * owner that waits, so that nobody has to be woken to compete.
 *
 * A bounded hold may leave with INBOX set in two cases only: STOP is set in the word that it replaces, then
 * world_start() looks after the seat; or WAIT is, then the owner will be granted the seat and sees INBOX.
 *
 * A detach goes on with what waits for a grace period for a few rounds only.  If it then completes a period, or closes one
 * more batch, it sets RETIRE in all other words before it leaves (`retire_pass_on`).  Not in one that is attached:
 * that thread may be on its way out, too, and past its last look.
 *
 * What may surprise: a proxy leaves seats alone whose owner waits (SEAT_TAKEN has WAIT in it).  That is
 * what lets a thread that was parked run between two stops.
 */
#include "thread/seat.h"

#include "base/os.h"
#include "thread/grace.h"
#include "thread/hooks.h"
#include "thread/world.h"

enum {
    DRAINS = 256,          /* of at most 256 blocks each, at one safepoint */
    SAFEPOINT_PERIODS = 4, /* grace periods that a safepoint may begin */
    DETACH_ROUNDS = 4,     /* grace periods that a detach may begin */
};

/* Sleeps until somebody has granted ATTACHED. Never spins: stopped threads leave the processor alone. If it is invited it
 * helps the collector meanwhile; it may come too late, even into the next stop but never into one that has not got its
 * acknowledgement: then it is told that there is nothing to do. */
static void sleep_until_granted(struct seat *self)
{
    for (;;) {
        uint32_t w =
            load_acquire(&self->word); /* [S1] acquire: what happened while we were out; granter */

        if (w & SEAT_ATTACHED)
            return;
        if (OURO_UNLIKELY(w & SEAT_HELP)) {
            /* [S1] acquire: what the collector has laid out; seat_invite() */
            if (fetch_and_acq_rel(&self->word, ~(uint32_t)SEAT_HELP) & SEAT_HELP)
                thread_hooks.help(self);
            continue;
        }
        os_futex_wait(&self->word, w, 0);
    }
}

void seat_attach(struct seat *self)
{
    uint32_t w = load_relaxed(&self->word);

    for (;;) {
        ASSERT(!(w & (SEAT_ATTACHED | SEAT_WAIT)));
        if (!(w & (SEAT_STOP | SEAT_HELD))) {
            /* [S1] acq_rel: all that holders, stoppers and earlier threads of the seat did */
            if (cas_acq_rel(&self->word, &w, (w & ~(uint32_t)SEAT_QUIESCE) | SEAT_ATTACHED))
                break;
        } else if (cas_acq_rel(&self->word, &w, w | SEAT_WAIT)) { /* [S1] the granter sees WAIT */
            sleep_until_granted(self);
            seat_event(self, EVENT_ATTACH_WAIT);
            break;
        }
    }
    seat_set_self(self);
    thread_hooks.attached(self);
}

/* Acknowledges a grace period and takes in the inbox; true if there was anything. */
static bool settle(struct seat *self, bool drain)
{
    uint32_t w = load_relaxed(&self->word);

    if (w & SEAT_QUIESCE) {
        /* [G1] release: all uses of what was borrowed; grace_begin()'s scan set it */
        fetch_and_acq_rel(&self->word, ~(uint32_t)SEAT_QUIESCE);
        grace_acknowledge();
        return true;
    }
    if (drain && (w & SEAT_INBOX)) {
        /* [S1] acquire: what was put in before INBOX was set; seat_put_inbox() */
        fetch_and_acq_rel(&self->word, ~(uint32_t)SEAT_INBOX);
        thread_hooks.drain(self, self, true);
        return true;
    }
    return false;
}

/* At a safepoint that saw STOP. */
static void park(struct seat *self)
{
    uint32_t w;

    thread_hooks.close(self);
    thread_hooks.flush(self);
    for (;;) {
        settle(self, false);
        w = load_relaxed(&self->word);
        if (w & SEAT_QUIESCE)
            continue;
        ASSERT(w & SEAT_STOP);
        /* [S1] release: everything so far, to the stopper. Parking is only ever done at a true safepoint:
         * grace_in_stopped_world() counts on it. */
        if (cas_acq_rel(&self->word, &w, (w & ~(uint32_t)SEAT_ATTACHED) | SEAT_WAIT))
            break;
    }
    world_acknowledge();
    sleep_until_granted(self);
    seat_event(self, EVENT_PARK);
}

/* Until nothing waits to be destroyed; parks on the way if the world is to stop. */
static void destroy_all(struct seat *self)
{
    while (self->dying || self->half_dead) {
        if (seat_stop_wanted(self))
            park(self);
        thread_hooks.destroy(self);
    }
}

void seat_detach(struct seat *self)
{
    int rounds = 0;
    bool left = false; /* perhaps something that nobody looks after */
    uint32_t w;

    for (;;) {
        destroy_all(self);
        if (rounds < DETACH_ROUNDS) {
            thread_hooks.retire(self);
        } else {
            left |= self->retiring_bytes != 0;
            thread_hooks.close(self);
            if (rounds++ == DETACH_ROUNDS) /* who stays attached goes on with it */
                grace_begin(self);
        }
        thread_hooks.flush(self);
        if (self->dying || self->half_dead)
            continue;
        if (self->retiring_bytes) { /* by a `destroy` */
            rounds++;
            continue;
        }
        w = load_relaxed(&self->word);
        if ((w & SEAT_INBOX) && (w & SEAT_STOP)) /* the inbox may be large; others wait for us */
            park(self);
        bool quiesce = (load_relaxed(&self->word) & SEAT_QUIESCE) != 0;
        if (settle(self, true)) {
            /* If it was the last to acknowledge nobody else would go on with what waits. Not for ever, though. */
            if (quiesce && rounds < DETACH_ROUNDS) {
                rounds++;
                thread_hooks.quiesced(self);
            } else if (quiesce) {
                left = true;
            }
            continue;
        }
        w = load_relaxed(&self->word);
        if (w & (SEAT_INBOX | SEAT_QUIESCE))
            continue;
        if (left) {
            left = false;
            thread_hooks.retire_pass_on(self);
            continue;
        }
        if (self->has_queued) { /* what came from others they have told everybody about */
            self->has_queued = false;
            thread_hooks.pass_on(self);
            continue;
        }
        /* [S1] release: everything so far, to whoever has the seat next; expects INBOX and QUIESCE clear */
        if (cas_acq_rel(&self->word, &w, w & ~(uint32_t)SEAT_ATTACHED))
            break;
    }
    seat_set_self(NULL);
    if (w & SEAT_STOP)
        world_acknowledge();
}

static void run_user_code(struct seat *self)
{
    if (load_relaxed(&self->word) & SEAT_COLLECT) {
        /* [S1] acquire: that collections are to be forced; ouro_gc_set_every() */
        fetch_and_acq_rel(&self->word, ~(uint32_t)SEAT_COLLECT);
        thread_hooks.collect(self);
    }
    if (load_relaxed(&self->word) & SEAT_FINALIZE) {
        /* [S1] acquire: what was queued by a thread that has passed it on; finalize_pass_on() */
        fetch_and_acq_rel(&self->word, ~(uint32_t)SEAT_FINALIZE);
        thread_hooks.finalize(self);
    }
}

void seat_safepoint(struct seat *self, bool explicit_point)
{
    bool quiesced = settle(self, false);

    thread_hooks.flush(self);
    /* Parking closes the batch of what was retired, so there is something to look after in any case. */
    if (seat_stop_wanted(self)) {
        park(self);
        quiesced = true;
    }
    if (load_relaxed(&self->word) & SEAT_RETIRE) {
        /* [S1] acquire: what waits, if a thread that has left passed it on; retire_pass_on() */
        fetch_and_acq_rel(&self->word, ~(uint32_t)SEAT_RETIRE);
        thread_hooks.retire(self);
    }
    /* Also after that, which trusts a relaxed load: others may rely on who has acknowledged. */
    if (quiesced)
        thread_hooks.quiesced(self);
    /* Not for ever, if others put in more all the time, and not while the world is to stop: what is left is found at the
     * next safepoint. */
    for (int drains = 0, periods = 0; drains < DRAINS && !seat_stop_wanted(self); drains++) {
        uint32_t w = load_relaxed(&self->word);

        if (w & SEAT_QUIESCE) {
            if (periods++ == SAFEPOINT_PERIODS)
                break;
            settle(self, false);
            thread_hooks.quiesced(self);
        } else if (w & SEAT_INBOX) {
            settle(self, true);
        } else {
            break;
        }
    }
    if (self->dying || self->half_dead)
        thread_hooks.destroy(self);
    if (explicit_point && seat_may_run_user_code(self))
        run_user_code(self);
}

void seat_poll_slow(struct seat *self)
{
    seat_safepoint(self, false);
}

/* --- other seats --------------------------------------------------------------------------------- */

bool seat_hold_try(struct seat *seat, struct seat *self)
{
    uint32_t w = load_relaxed(&seat->word);

    while (!(w & SEAT_TAKEN)) {
        /* [S1] acq_rel: all that the last one who had the seat did */
        if (cas_acq_rel(&seat->word, &w, w | SEAT_HELD)) {
            seat_event(self, EVENT_PROXY);
            return true;
        }
    }
    return false;
}

void seat_release(struct seat *seat, struct seat *self)
{
    uint32_t w = load_relaxed(&seat->word);

    for (;;) {
        if ((w & SEAT_INBOX) && !(w & (SEAT_STOP | SEAT_WAIT))) {
            /* [S1] acquire: what was put in before INBOX was set */
            fetch_and_acq_rel(&seat->word, ~(uint32_t)SEAT_INBOX);
            thread_hooks.drain(seat, self, true);
            w = load_relaxed(&seat->word);
            continue;
        }
        uint32_t next = w & ~(uint32_t)SEAT_HELD;
        bool granted = seat_grant(&next);
        /* [S1] release: what was done in the seat; expects INBOX clear, or somebody who will see it */
        if (cas_acq_rel(&seat->word, &w, next)) {
            if (granted)
                os_futex_wake(&seat->word, 1);
            return;
        }
    }
}

bool seat_invite(struct seat *seat)
{
    uint32_t w = load_relaxed(&seat->word);

    while ((w & SEAT_WAIT) && !(w & SEAT_HELP)) {
        ASSERT((w & SEAT_STOP) && !(w & (SEAT_ATTACHED | SEAT_HELD)));
        /* [S1] release: what the collector has laid out, to sleep_until_granted() */
        if (cas_acq_rel(&seat->word, &w, w | SEAT_HELP)) {
            os_futex_wake(&seat->word, 1);
            return true;
        }
    }
    return false;
}

void seat_put_inbox(struct seat *seat, struct seat *self)
{
    /* [S1] acq_rel: what was put in, for whoever clears INBOX */
    uint32_t w = fetch_or_acq_rel(&seat->word, SEAT_INBOX);

    if (!(w & SEAT_TAKEN) && seat_hold_try(seat, self))
        seat_release(seat, self);
}
