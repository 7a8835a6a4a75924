/*
 * thread/seat.c - the registry of seats.
 *
 * A seat is found by its id in a static table.  Seats are never freed.  Those without a thread are on a
 * stack, and the next thread takes the one that was given up last: its heap, with the memory that is warm.
 */
#include "thread/seat.h"

#include "base/os.h"
#include "thread/hooks.h"
#include "thread/world.h"

#include <stdio.h>
#include <string.h>

static const uint32_t nobody_word = 0;

#define SELF_NOBODY                                                    \
    {                                                                  \
        OURO_ID_NOBODY << 16, (OURO_ID_NOBODY << 16) + 2, &nobody_word \
    }

__thread struct ouro_self ouro_self = SELF_NOBODY;
__thread struct seat *seat_attached_self;
__thread struct seat *seat_self;

mutex seat_registry = MUTEX_INIT;
static struct seat *table[SEAT_COUNT_MAX + 1]; /* [lock: registry] W */
static uint32_t made;                          /* [lock: registry] W, [S2] */
static uint32_t threads;                       /* [lock: registry] W, relaxed R: a figure */
static struct seat *free_seats;                /* [lock: registry] */
static bool closed;                            /* [lock: registry] */
static struct seat *reserved;                  /* [lock: registry] see seat_reserve() */

uint32_t seat_count(void)
{
    return load_acquire(&made); /* [S2] acquire: the table below it; seat_make_locked() */
}

struct seat *seat_by_id(uint32_t id)
{
    return table[id];
}

uint32_t seat_threads(void)
{
    return load_relaxed(&threads);
}

uint64_t event_total(enum event event)
{
    uint64_t total = 0;

    for (uint32_t id = seat_count(); id > 0; id--)
        total += load_relaxed(&table[id]->events[event]);
    return total;
}

void seat_misuse(const char *what)
{
    if (seat_self)
        check_failed(
            "%s by the thread \"%s\" while it is detached: call it before ouro_detach() or after "
            "ouro_attach()",
            what, seat_self->name);
    check_failed("%s by a thread that is not registered: call ouro_thread_register() first", what);
}

void seat_misuse_point(const struct seat *self, const char *what)
{
    if (self->in_destroy)
        check_failed("%s in a type's destroy: it may not pass a safepoint", what);
    if (self->has_world)
        check_failed(
            "%s by the thread \"%s\", which has stopped the world: ouro_world_start() first", what,
            self->name);
    check_failed("%s in a read scope of the thread \"%s\": what it has borrowed would dangle; "
                 "ouro_incref() what is to be kept, or end the scope first",
                 what, self->name);
}

static ouro_status seat_make_locked(struct seat **seat)
{
    if (made == SEAT_COUNT_MAX)
        return OURO_LIMIT;

    struct seat *s = os_map(sizeof *s, 4096);
    if (!s)
        return OURO_NO_MEMORY;
    s->id = made + 1;
    /* A seat that is made during a stop begins with STOP; nobody else knows it yet. */
    store_relaxed(&s->word, world_is_stopping_locked() ? SEAT_STOP : 0u);
    thread_hooks.seat_made(s);
    table[s->id] = s;
    /* [S2] release: the seat and its place in the table; seat_count() */
    store_release(&made, made + 1);
    *seat = s;
    return OURO_OK;
}

ouro_status seat_take(const char *name, struct seat **seat)
{
    ouro_status status = OURO_OK;

    mutex_lock(&seat_registry);
    if (closed) {
        status = OURO_SHUTDOWN;
    } else if (free_seats) {
        *seat = free_seats;
        free_seats = free_seats->next_free;
    } else {
        status = seat_make_locked(seat);
    }
    if (status == OURO_OK) {
        snprintf((*seat)->name, SEAT_NAME_BYTES, "%s", name ? name : "unnamed");
        store_relaxed(&threads, threads + 1);
    }
    mutex_unlock(&seat_registry);
    return status;
}

void seat_give_up(struct seat *seat)
{
    mutex_lock(&seat_registry);
    seat->next_free = free_seats;
    free_seats = seat;
    store_relaxed(&threads, threads - 1);
    mutex_unlock(&seat_registry);
}

bool seat_close_registry(void)
{
    mutex_lock(&seat_registry);
    closed = true;
    bool alone = threads <= 1;
    mutex_unlock(&seat_registry);
    return alone;
}

void seat_set_self(struct seat *attached)
{
    static const struct ouro_self nobody = SELF_NOBODY;

    seat_attached_self = attached;
    ouro_self =
        attached ? (struct ouro_self){attached->id << 16, (attached->id << 16) + 2, &attached->word}
                 : nobody;
}

/* --- fork ---------------------------------------------------------------------------------------------- */

ouro_status seat_reserve(struct seat **seat)
{
    ouro_status status = OURO_OK;

    mutex_lock(&seat_registry);
    if (!reserved)
        status = seat_make_locked(&reserved);
    if (status == OURO_OK) {
        snprintf(reserved->name, SEAT_NAME_BYTES, "unregistered");
        *seat = reserved;
    }
    mutex_unlock(&seat_registry);
    return status;
}

void seat_fork_prepare(void)
{
    mutex_lock(&seat_registry);
}

void seat_fork_done(void)
{
    mutex_unlock(&seat_registry);
}

void seat_vanish(struct seat *self)
{
    const uint32_t gone =
        SEAT_ATTACHED | SEAT_HELD | SEAT_STOP | SEAT_QUIESCE | SEAT_WAIT | SEAT_HELP;

    free_seats = NULL;
    for (uint32_t id = made; id > 0; id--) {
        struct seat *seat = table[id];

        /* [S1] acq_rel, as everywhere, although nobody else is here. INBOX stays: world_start() looks after it. */
        fetch_and_acq_rel(&seat->word, ~(seat == self ? (uint32_t)SEAT_QUIESCE : gone));
        if (seat == self || seat == reserved)
            continue;
        seat->next_free = free_seats;
        free_seats = seat;
    }
    store_relaxed(&threads, self == reserved ? 0u : 1u);
}
