/*
 * thread/world.c - stopping the world by handshake.
 *
 *   stop    take the world mutex (whoever has to wait for it waits detached); set STOP in every other seat by one
 *           read-modify-write each and count those that were ATTACHED; add the number to `awaiting`; each of them
 *           takes one off when it parks or detaches, perhaps before the addition; at 0 the world is stopped
 *   start   clear STOP in every seat, granting ATTACHED to owners that wait, in the same read-modify-write; then
 *           look after detached seats whose inbox nobody else will empty; give the mutex back
 *
 * Seats made meanwhile begin with STOP, under the registry mutex.  The registry mutex is never held while
 * waiting.  The stopper spins for at most 20 us, and only if it awaits fewer threads than there are
 * processors; those that are stopped never spin.
 *
 * docs/internals/threads.md, stress/models/seat.pml
 */
#include "thread/world.h"

#include "base/os.h"
#include "thread/grace.h"
#include "thread/hooks.h"
#include "thread/late.h"
#include "thread/seat.h"

enum { SPIN_NS = 20000 };

static mutex world = MUTEX_INIT;
static bool stopping;       /* [lock: registry] */
static uint32_t awaiting;   /* [atomic] acknowledgements still to come, as a signed number */
static uint64_t late_stops; /* relaxed: a counter */

bool world_is_stopping_locked(void)
{
    return stopping;
}

uint64_t world_late_stops(void)
{
    return load_relaxed(&late_stops);
}

void world_acknowledge(void)
{
    /* [W1] acq_rel: all that this thread did, to the stopper, through the additions of those after it */
    if (fetch_sub_acq_rel(&awaiting, 1u) == 1)
        os_futex_wake(&awaiting, 1);
}

static void name_late_threads(struct seat *self, unsigned ms)
{
    struct late late;

    mutex_lock(&seat_registry);
    late_find_locked(&late, SEAT_ATTACHED, self);
    mutex_unlock(&seat_registry);
    for (int i = 0; i < late.count; i++)
        check_say("ouro: the thread \"%s\" has passed no safepoint for %u ms and holds up a stop "
                  "that \"%s\" asked "
                  "for: call ouro_safepoint() in its loop, or ouro_detach() before it blocks\n",
                  late.names[i], ms, self->name);
    fetch_add_relaxed(&late_stops, 1); /* last: who waits for the figure finds the text */
}

static void await_acknowledgements(struct seat *self, uint32_t expected, uint64_t start)
{
    bool may_spin = expected < os_processors();
    bool named = false;

    for (;;) {
        uint32_t left =
            load_acquire(&awaiting); /* [W1] acquire: all that the stopped threads did */

        if (left == 0)
            return;
        uint64_t waited = os_now_ns() - start;
        if (may_spin && waited < SPIN_NS) {
            for (int i = 0; i < 20 && load_relaxed(&awaiting) != 0; i++)
                cpu_relax();
            continue;
        }
        unsigned ms = late_after_ms();
        uint64_t limit = (uint64_t)ms * 1000000u;
        if (ms == 0 || named) {
            os_futex_wait(&awaiting, left, 0);
        } else if (waited < limit) {
            os_futex_wait(&awaiting, left, limit - waited);
        } else {
            named = true;
            name_late_threads(self, ms);
        }
    }
}

/* Whoever loses the mutex must not hold up the stop of the one who has it. */
static void take_world(struct seat *self)
{
    if (mutex_trylock(&world))
        return;
    seat_detach(self);
    mutex_lock(&world);
    seat_attach(self);
}

uint64_t world_stop(struct seat *self)
{
    uint32_t expected = 0;
    uint64_t start = os_now_ns();

    ASSERT(!self->has_world && !self->in_destroy && !self->reading);
    seat_safepoint(self, false); /* it may run a `destroy`, so before the mutex is taken */
    take_world(self);
    thread_hooks.flush(self);

    mutex_lock(&seat_registry);
    stopping = true;
    for (uint32_t id = seat_count(); id > 0; id--) {
        struct seat *seat = seat_by_id(id);

        if (seat == self)
            continue;
        /* [S1] acq_rel: all that was done in a detached seat; who attaches later sees STOP */
        expected += fetch_or_acq_rel(&seat->word, SEAT_STOP) & SEAT_ATTACHED;
    }
    mutex_unlock(&seat_registry);

    /* [W1] acq_rel: those who acknowledged before this addition */
    fetch_add_acq_rel(&awaiting, expected);
    await_acknowledgements(self, expected, start);
    self->has_world = true;
    seat_event(self, EVENT_STOP);
    return os_now_ns() - start;
}

static bool start_seat(struct seat *seat)
{
    uint32_t w = load_relaxed(&seat->word);
    uint32_t next;
    bool granted;

    do {
        next = w & ~(uint32_t)(SEAT_STOP | SEAT_HELP);
        granted = seat_grant(&next);
        /* [S1] release: all that was done in the stopped world, to who is in the seat next */
    } while (!cas_acq_rel(&seat->word, &w, next));
    if (granted)
        os_futex_wake(&seat->word, 1);
    return (next & SEAT_INBOX) && !(next & SEAT_TAKEN);
}

void world_start(struct seat *self)
{
    bool left = false;
    uint32_t count;

    REQUIRE(self->has_world, "the thread \"%s\" starts a world that it has not stopped",
            self->name);
    self->has_world = false;
    mutex_lock(&seat_registry);
    stopping = false;
    grace_rested_locked();
    count = seat_count();
    for (uint32_t id = count; id > 0; id--) {
        if (seat_by_id(id) != self)
            left |= start_seat(seat_by_id(id));
    }
    mutex_unlock(&seat_registry);
    mutex_unlock(&world);

    for (uint32_t id = count; left && id > 0; id--) {
        struct seat *seat = seat_by_id(id);
        uint32_t w = load_relaxed(&seat->word);

        if ((w & SEAT_INBOX) && !(w & SEAT_TAKEN) && seat_hold_try(seat, self))
            seat_release(seat, self);
    }
    if (self->dying)
        thread_hooks.destroy(self);
}

void ouro_world_stop(void)
{
    struct seat *self = seat_required("ouro_world_stop()");

    REQUIRE(!self->has_world, "the thread \"%s\" stops the world twice: stops don't nest",
            self->name);
    seat_may_pass(self, "ouro_world_stop()");
    world_stop(self);
}

void ouro_world_start(void)
{
    world_start(seat_required("ouro_world_start()"));
}

void world_vanish(void)
{
    ASSERT(stopping);
    store_relaxed(&awaiting, 0u);
}
