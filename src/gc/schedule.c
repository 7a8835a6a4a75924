/*
 * gc/schedule.c - when an automatic collection is due: by the heap's own accounting.
 *
 * The heap reports how many blocks for tracked objects it hands out, less those that it found free; up to 128 at
 * a time, so the sum is exact to that, a thread.  When it reaches the threshold the thread that reported gets
 * COLLECT set in its word.  The threshold is a number of objects, or a share of the survivors if that is more.
 */
#include "gc/schedule.h"

#include <ouro/gc.h>

/* Relaxed all of them: numbers to decide by, nothing else hangs on them. */
static int64_t net;               /* [atomic] */
static uint64_t threshold = 2000; /* in force; 0: never */
static uint64_t first = 2000;     /* setting */
static unsigned percent = 25;     /* setting */
static uint64_t survivors_last;
static mutex settings = MUTEX_INIT; /* who changes the three above and `threshold` */
static uint32_t disabled;           /* [atomic] how many times */

bool schedule_is_due(void)
{
    uint64_t limit = load_relaxed(&threshold);

    int64_t now = load_relaxed(&net);

    return limit && now > 0 && (uint64_t)now >= limit && load_relaxed(&disabled) == 0;
}

/* By who has the seat. */
static void ask(struct seat *seat)
{
    /* [S1] nothing hangs on it: COLLECT is set and cleared by this thread alone */
    if (!(load_relaxed(&seat->word) & SEAT_COLLECT))
        fetch_or_acq_rel(&seat->word, SEAT_COLLECT);
}

void schedule_grew(struct seat *seat, int64_t objects)
{
    int64_t now = fetch_add_relaxed(&net, objects) + objects;

    /* A heap that has shrunk owes nothing: what is new from now on counts. */
    if (now < 0)
        cas_relaxed(&net, &now, (int64_t)0);
    if (objects > 0 && schedule_is_due())
        ask(seat);
}

size_t schedule_net_new(void)
{
    int64_t now = load_relaxed(&net);

    return now > 0 ? (size_t)now : 0;
}

size_t schedule_threshold(void)
{
    return load_relaxed(&threshold);
}

static void set_threshold_locked(void)
{
    uint64_t objects = load_relaxed(&first);
    uint64_t share = load_relaxed(&survivors_last) / 100 * load_relaxed(&percent);

    store_relaxed(&threshold, objects && share > objects ? share : objects);
}

void schedule_collected(int64_t net_new, size_t survivors)
{
    fetch_sub_relaxed(&net, net_new);
    mutex_lock(&settings);
    store_relaxed(&survivors_last, (uint64_t)survivors);
    set_threshold_locked();
    mutex_unlock(&settings);
}

void ouro_gc_set_threshold(size_t objects, unsigned percentage)
{
    mutex_lock(&settings);
    store_relaxed(&first, (uint64_t)objects);
    store_relaxed(&percent, percentage);
    set_threshold_locked();
    mutex_unlock(&settings);
}

void ouro_gc_get_threshold(size_t *objects, unsigned *percentage)
{
    *objects = load_relaxed(&first);
    *percentage = load_relaxed(&percent);
}

void ouro_gc_disable(void)
{
    uint32_t before = fetch_add_relaxed(&disabled, 1u);

    REQUIRE(before != UINT32_MAX,
            "ouro_gc_disable() has been called too often without ouro_gc_enable()");
}

void ouro_gc_enable(void)
{
    uint32_t before = fetch_sub_relaxed(&disabled, 1u);

    REQUIRE(before != 0, "ouro_gc_enable() without an ouro_gc_disable() before it");
    if (seat_attached_self && schedule_is_due())
        ask(seat_attached_self);
}

bool ouro_gc_is_enabled(void)
{
    return load_relaxed(&disabled) == 0;
}

void schedule_fork_prepare(void)
{
    mutex_lock(&settings);
}

void schedule_fork_done(void)
{
    mutex_unlock(&settings);
}
