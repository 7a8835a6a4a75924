/*
 * gc/schedule.c - when an automatic collection is due, of which kind, and how much it may do in one stop.
 *
 * By the heap's own accounting: it reports how many blocks for tracked objects it hands out, less those that it found
 * free; up to 128 at a time.  Threads report candidates, 256 at a time.
 *
 *    young   when the number of new objects reaches the threshold, or their bytes do.  A collection that frees little doubles
 *            the threshold, one that frees much halves it, down to what was set; and the less it frees, the smaller is
 *            the share of time that such collections may take.
 *    old     when there are more candidates than the threshold, and more than a share of the objects that live.  Then stop after
 *            stop, with pauses in between, until few are left.
 *    deep    when as many have been cut as it takes for an old one; when some have, and there are twice as many objects
 *            or bytes as when nothing was left to look at, since large garbage may have a single candidate;
 *            or when memory is over the soft limit
 *
 * One stop looks at as many objects as fit into the pause budget, by the speed measured last.
 */
#include "gc/schedule.h"

#include "base/os.h"
#include "gc/deep.h"

enum {
    NS_FIRST = 40,       /* an object, until it has been measured */
    OBJECTS_LEAST = 500, /* of one stop, however small the budget */
    CAP_BALANCED = 256,  /* objects explored from one candidate */
    CAP_THROUGHPUT = 1024,
    BYTES_LEAST = 16 << 20, /* growth in bytes before bytes count */
    GROWN_OBJECTS = 50000,  /* growth beyond double that is let pass */
    GROWN_BYTES = 64 << 20,
    WAIT_MOST_NS = 1000000,
    YIELD_LOW = 10, /* per cent */
    YIELD_HIGH = 50,
};

/* Relaxed all of them: numbers to decide by, nothing else hangs on them. */
static int64_t net;            /* [atomic] new objects */
static int64_t live;           /* [atomic] tracked objects, new ones included */
static int64_t net_bytes;      /* [atomic] new bytes, of tracked objects and external */
static int64_t live_bytes;     /* [atomic] */
static int64_t external;       /* [atomic] bytes that the program has told of */
static int64_t candidates;     /* [atomic] */
static size_t settled_objects; /* [atomic] what there was when nothing was left to look at */
static size_t settled_bytes;   /* [atomic] */
static uint32_t disabled;      /* [atomic] how many times */
static uint64_t
    not_before[3]; /* [atomic] time of the next young and old one, and of the next slice */

static uint64_t rest_until; /* [atomic] before that none of any kind */

static mutex settings = MUTEX_INIT; /* who changes what follows */
static uint64_t first = 2000;       /* setting; 0: never */
static unsigned percent = 25;       /* setting */
static uint64_t threshold = 2000;   /* in force for young collections */
static uint32_t policy = OURO_GC_BALANCED;
static uint64_t budget_ns = 500000;
static uint64_t speeds[2] = {NS_FIRST,
                             NS_FIRST}; /* ns an object: young, old; slices look at the clock */
static bool draining;                   /* old collections go on until few candidates are left */
static bool deep_due;
static bool finds_garbage[2]; /* the last young one, old one: 10 % of what it looked at */
static size_t objects_when_begun, bytes_when_begun; /* what there was at its beginning */
static size_t soft_limit;                           /* 0: none */
static size_t pressed_at; /* used bytes when it was pressed last; 0: not since it was below */
static uint32_t presses;  /* how often it was pressed */
static ouro_gc_pressure pressure;
static void *pressure_argument;

static size_t above_zero(const int64_t *number)
{
    int64_t now = load_relaxed(number);

    return now > 0 ? (size_t)now : 0;
}

/* --- due --------------------------------------------------------------------------------------------- */

static uint64_t old_limit(void)
{
    uint64_t least = load_relaxed(&first);
    uint64_t share = above_zero(&live) / 100 * load_relaxed(&percent);

    return share > least ? share : least;
}

static bool bytes_are_due(void)
{
    size_t share = above_zero(&live_bytes) / 100 * load_relaxed(&percent);

    return above_zero(&net_bytes) >= (share > BYTES_LEAST ? share : BYTES_LEAST);
}

static size_t used_bytes(void)
{
    return above_zero(&live_bytes) + above_zero(&external);
}

static bool limit_is_passed(void)
{
    size_t limit = load_relaxed(&soft_limit);

    if (OURO_LIKELY(!limit))
        return false;
    size_t at = load_relaxed(&pressed_at), used = used_bytes();
    if (at && used <= limit)
        store_relaxed(&pressed_at, (size_t)0);
    return used > (at ? at + limit / 10 : limit);
}

/* So much that garbage may be the reason, however few candidates there are. */
static bool has_grown(void)
{
    return above_zero(&live) > 2 * load_relaxed(&settled_objects) + GROWN_OBJECTS ||
           used_bytes() > 2 * load_relaxed(&settled_bytes) + GROWN_BYTES;
}

/* Most of what it has grown by may be new, and not have been looked at: that comes first. */
static bool most_is_new(void)
{
    return above_zero(&net) >= above_zero(&live) / 2;
}

static bool deep_is_wanted(void)
{
    return deep_is_under_way() || load_relaxed(&deep_due) ||
           (has_grown() && sets_cut_count() && !most_is_new());
}

static bool young_is_wanted(void)
{
    return above_zero(&net) >= load_relaxed(&threshold) || sets_has_new() || bytes_are_due();
}

/* Not beside a deep one. */
static bool old_is_wanted(void)
{
    return !deep_is_under_way() &&
           (load_relaxed(&draining) || above_zero(&candidates) >= old_limit() ||
            (has_grown() && sets_has_candidates()));
}

bool schedule_is_enabled(void)
{
    return load_relaxed(&first) != 0 && load_relaxed(&disabled) == 0;
}

/* Whether one is due, or will be when the rest of all is over; that is soon. */
static bool is_due(ouro_gc_kind *kind, bool now_only)
{
    if (!schedule_is_enabled())
        return false;
    if (limit_is_passed()) {
        *kind = OURO_GC_DEEP;
        return true;
    }
    bool wanted[3] = {young_is_wanted(), old_is_wanted(), deep_is_wanted()};
    if (OURO_LIKELY(!wanted[0] && !wanted[1] && !wanted[2]))
        return false;

    uint64_t now = os_now_ns();
    if (now_only && now < load_relaxed(&rest_until))
        return false;
    /* Of those that are due the one that has waited longest: none is to keep another one from its turn. */
    uint64_t earliest = UINT64_MAX;
    for (int i = 0; i < 3; i++) {
        uint64_t since = load_relaxed(&not_before[i]);
        /* A long rest is for a heap that grows no more; it may have begun to since. */
        bool rested = now >= since || (i < OURO_GC_DEEP && has_grown());

        if (wanted[i] && rested && since < earliest) {
            earliest = since;
            *kind = (ouro_gc_kind)i;
        }
    }
    return earliest != UINT64_MAX;
}

bool schedule_is_due(ouro_gc_kind *kind)
{
    return is_due(kind, true);
}

void schedule_ask(struct seat *self)
{
    ouro_gc_kind kind;

    if (!(load_relaxed(&self->word) & SEAT_COLLECT) && is_due(&kind, false))
        /* [S1] nothing hangs on it: only this thread takes COLLECT out */
        fetch_or_acq_rel(&self->word, SEAT_COLLECT);
}

bool schedule_is_behind(void)
{
    return schedule_is_enabled() && has_grown() && most_is_new() && sets_has_new();
}

ouro_gc_cause schedule_cause(ouro_gc_kind kind)
{
    switch (kind) {
    case OURO_GC_YOUNG:
        return above_zero(&net) >= load_relaxed(&threshold) ? OURO_GC_CAUSE_OBJECTS
               : bytes_are_due()                            ? OURO_GC_CAUSE_BYTES
                                                            : OURO_GC_CAUSE_LEFT;
    case OURO_GC_OLD:
        return load_relaxed(&draining) || above_zero(&candidates) >= old_limit()
                   ? OURO_GC_CAUSE_CANDIDATES
                   : OURO_GC_CAUSE_GROWTH;
    default:
        return deep_is_under_way()       ? OURO_GC_CAUSE_SLICE
               : load_relaxed(&deep_due) ? OURO_GC_CAUSE_CUT
                                         : OURO_GC_CAUSE_GROWTH;
    }
}

/* By who has the seat. A heap that has shrunk owes nothing: what is new from now on counts. A program may say absurd amounts: they
 * wrap around, as in the atomic addition. */
static void add(int64_t *number, int64_t amount)
{
    int64_t now = (int64_t)((uint64_t)fetch_add_relaxed(number, amount) + (uint64_t)amount);

    if (now < 0)
        cas_relaxed(number, &now, (int64_t)0);
}

void schedule_grew(struct seat *seat, int64_t objects, int64_t bytes)
{
    add(&net, objects);
    add(&net_bytes, bytes);
    fetch_add_relaxed(&live, objects);
    fetch_add_relaxed(&live_bytes, bytes);
    if (objects > 0)
        schedule_ask(seat);
}

void schedule_freed(size_t objects, size_t bytes)
{
    fetch_sub_relaxed(&live, (int64_t)objects);
    fetch_sub_relaxed(&live_bytes, (int64_t)bytes);
}

void schedule_noted(struct seat *seat, size_t count)
{
    fetch_add_relaxed(&candidates, (int64_t)count);
    schedule_ask(seat);
}

void ouro_adjust_external_bytes(int64_t delta)
{
    struct seat *self = seat_required("ouro_adjust_external_bytes()");

    fetch_add_relaxed(&external, delta);
    add(&net_bytes, delta);
    if (delta > 0)
        schedule_ask(self);
}

size_t schedule_net_new(void)
{
    return above_zero(&net);
}

size_t schedule_net_new_bytes(void)
{
    return above_zero(&net_bytes);
}

size_t schedule_threshold(void)
{
    return load_relaxed(&threshold);
}

size_t schedule_candidates(void)
{
    return above_zero(&candidates);
}

size_t schedule_live(void)
{
    return above_zero(&live);
}

size_t schedule_used_bytes(void)
{
    return used_bytes();
}

void schedule_figures(ouro_gc_stats *stats)
{
    stats->threshold = schedule_threshold();
    stats->net_new = above_zero(&net);
    stats->net_new_bytes = above_zero(&net_bytes);
    stats->noted = above_zero(&candidates);
    stats->cut = sets_cut_count();
    stats->tracked = above_zero(&live);
    stats->settled = load_relaxed(&settled_objects);
    stats->tracked_bytes = above_zero(&live_bytes);
    stats->external_bytes = above_zero(&external);
    stats->young_ns = load_relaxed(&speeds[OURO_GC_YOUNG]);
    stats->old_ns = load_relaxed(&speeds[OURO_GC_OLD]);
    stats->under_way = deep_is_under_way();
}

/* --- how much ---------------------------------------------------------------------------------------- */

static uint64_t budget_in_force(void)
{
    uint64_t budget = load_relaxed(&budget_ns);

    return load_relaxed(&policy) == OURO_GC_LOW_PAUSE ? budget / 4 : budget;
}

static size_t objects_in_budget(uint64_t ns_each)
{
    uint64_t objects = budget_in_force() / (ns_each ? ns_each : 1);

    return objects > OBJECTS_LEAST ? (size_t)objects : OBJECTS_LEAST;
}

struct sets_limit schedule_limit(ouro_gc_kind kind)
{
    struct sets_limit limit = {SIZE_MAX, CAP_THROUGHPUT, 0};

    if (load_relaxed(&policy) == OURO_GC_THROUGHPUT)
        return limit;
    limit.cap = CAP_BALANCED;
    if (kind == OURO_GC_DEEP) {
        limit.objects = SIZE_MAX - 1;
        limit.ns = budget_in_force();
    } else if (kind <= OURO_GC_OLD) {
        limit.objects = objects_in_budget(load_relaxed(&speeds[kind]));
    }
    return limit;
}

struct sets_limit schedule_limit_forced(ouro_gc_kind kind)
{
    struct sets_limit limit = schedule_limit(kind);

    if (limit.objects != SIZE_MAX)
        limit.objects = objects_in_budget(NS_FIRST);
    limit.ns = 0;
    return limit;
}

/* --- what a collection has shown --------------------------------------------------------------------- */

static void learn_speed(const struct schedule_result *result)
{
    uint64_t *speed = &speeds[result->kind];

    if (result->looked < OBJECTS_LEAST / 2)
        return;
    uint64_t now = result->pause_ns / result->looked;
    uint64_t before = load_relaxed(speed);
    /* Slower counts at once, faster in small steps. A pause may be long because somebody else had the processor. */
    if (now > 2 * before)
        now = 2 * before;
    store_relaxed(speed, now > before ? now : (7 * before + now) / 8 + 1);
}

static unsigned yield_of(const struct schedule_result *result)
{
    return result->members ? (unsigned)(result->garbage * 100 / result->members) : 100;
}

/* A pause far over the budget was not ours: somebody else had the processor, and that is no reason to rest for seconds. */
static uint64_t pause_that_counts(uint64_t pause_ns)
{
    uint64_t most = 2 * budget_in_force();

    return pause_ns < most ? pause_ns : most;
}

/* So many times the pause has to pass before the next one. */
static uint64_t rest_after(unsigned yield, uint64_t pause_ns)
{
    uint32_t how = load_relaxed(&policy);
    uint64_t times = yield >= YIELD_HIGH ? 0 : yield >= YIELD_LOW ? 4 : 19;

    if (how != OURO_GC_THROUGHPUT)
        pause_ns = pause_that_counts(pause_ns);
    /* Behind many objects that live there may be many that don't; and if there are, garbage must not come faster than it is found. */
    if (times > 1 && has_grown())
        times = yield >= YIELD_LOW ? 0 : 1;
    return pause_ns * (how == OURO_GC_THROUGHPUT ? times / 2 : times);
}

/* All but `fresh` objects, and the new bytes, have been looked at, and no garbage is among them. */
static void settle_locked(size_t fresh)
{
    size_t objects = above_zero(&live), bytes = used_bytes(), new_bytes = above_zero(&net_bytes);

    store_relaxed(&settled_objects, objects > fresh ? objects - fresh : 0);
    store_relaxed(&settled_bytes, bytes > new_bytes ? bytes - new_bytes : 0);
}

/* After any collection: it follows the heap down, though there may be candidates; else it is of a peak that is long over. */
static void unsettle_locked(void)
{
    size_t objects = above_zero(&live), bytes = used_bytes();

    if (objects < load_relaxed(&settled_objects))
        store_relaxed(&settled_objects, objects);
    if (bytes < load_relaxed(&settled_bytes))
        store_relaxed(&settled_bytes, bytes);
}

/* All that lives has been looked at, and no candidate is among it. */
static bool nothing_is_left(void)
{
    return !sets_has_new() && !sets_has_candidates() && sets_cut_count() == 0 &&
           !deep_is_under_way();
}

static void after_young_locked(const struct schedule_result *result)
{
    unsigned yield = yield_of(result);
    uint64_t least = load_relaxed(&first), now = load_relaxed(&threshold);
    uint64_t most = objects_in_budget(load_relaxed(&speeds[OURO_GC_YOUNG]));

    if (load_relaxed(&policy) == OURO_GC_THROUGHPUT)
        most = UINT64_C(1) << 22;
    if (most < least)
        most = least;
    if (yield < YIELD_LOW)
        now *= 2;
    else if (yield > YIELD_HIGH)
        now /= 2;
    now = now > most ? most : now < least ? least : now;
    store_relaxed(&threshold, now);
    store_relaxed(&not_before[0], os_now_ns() + rest_after(yield, result->pause_ns));
}

/* While it is under way nobody looks at other candidates, so it may take a fifth of the time; and if memory grows meanwhile, or the
 * program makes objects faster than it looks at them, there is no rest. What is settled is what was there at its beginning: of
 * later garbage it knows nothing. */
static void after_slice_locked(const struct schedule_result *result)
{
    uint64_t times = load_relaxed(&policy) == OURO_GC_LOW_PAUSE ? 9 : 4;

    add(&candidates, -(int64_t)result->taken);
    if (result->begun) {
        objects_when_begun = above_zero(&live);
        bytes_when_begun = used_bytes();
    }
    if (result->guessed > objects_when_begun ||
        above_zero(&live) > objects_when_begun / 2 * 3 + GROWN_OBJECTS / 2 ||
        used_bytes() > bytes_when_begun / 2 * 3 + GROWN_BYTES / 2)
        times = 0;
    store_relaxed(&not_before[OURO_GC_DEEP],
                  os_now_ns() + times * pause_that_counts(result->pause_ns));
    if (result->garbage) {
        size_t left =
            objects_when_begun > result->garbage ? objects_when_begun - result->garbage : 0;

        if (objects_when_begun)
            bytes_when_begun = bytes_when_begun / objects_when_begun * left;
        objects_when_begun = left;
    }
    if (result->under_way)
        return;
    store_relaxed(&deep_due, false);
    store_relaxed(&settled_objects, objects_when_begun);
    store_relaxed(&settled_bytes, bytes_when_begun);
}

static void after_old_locked(const struct schedule_result *result)
{
    uint64_t limit = old_limit();

    if (result->cleared)
        store_relaxed(&candidates, (int64_t)0);
    else
        add(&candidates, -(int64_t)result->taken);
    if (above_zero(&candidates) >= limit)
        store_relaxed(&draining, true);
    else if (above_zero(&candidates) <= limit / 8)
        store_relaxed(&draining, false);
    if (result->kind == OURO_GC_OLD) {
        store_relaxed(&not_before[1], os_now_ns() + rest_after(yield_of(result), result->pause_ns));
        if (sets_cut_count() >= limit)
            store_relaxed(&deep_due, true);
    } else {
        store_relaxed(&deep_due, false);
    }
    /* An old one knows nothing of what is new, so it does not say so without need, and not of that. */
    if (result->kind != OURO_GC_OLD ||
        (result->cleared && sets_cut_count() == 0 && !sets_has_new() && has_grown()))
        settle_locked(result->kind == OURO_GC_OLD ? above_zero(&net) : 0);
}

/* Each kind has its rests; one after the other they could leave the program nothing. So it has as long as the stop took, but after
 * a young one that did what it is for: that found mostly garbage and came to the end of what is new, or a young or old one that found some while
 * it piles up. */
static void rest_after_all(const struct schedule_result *result)
{
    unsigned yield = yield_of(result);
    bool worth = result->kind <= OURO_GC_OLD && result->members &&
                 ((result->kind == OURO_GC_YOUNG && yield >= YIELD_HIGH && !sets_has_new()) ||
                  (yield >= YIELD_LOW && has_grown()));

    if (!result->automatic || worth || load_relaxed(&policy) == OURO_GC_THROUGHPUT)
        return;
    store_relaxed(&rest_until, os_now_ns() + pause_that_counts(result->pause_ns));
}

void schedule_collected(const struct schedule_result *result)
{
    add(&net, -result->net_new);
    fetch_add_relaxed(&candidates, (int64_t)result->put);
    mutex_lock(&settings);
    if (result->kind <= OURO_GC_OLD) {
        learn_speed(result);
        store_relaxed(&finds_garbage[result->kind],
                      result->members && yield_of(result) >= YIELD_LOW);
    }
    if (result->slice) {
        after_slice_locked(result);
    } else if (result->kind == OURO_GC_YOUNG) {
        /* Something holds many bytes, and it is not new: look at the old ones, too. */
        if (result->automatic && bytes_are_due() && yield_of(result) < YIELD_HIGH &&
            above_zero(&candidates))
            store_relaxed(&draining, true);
        store_relaxed(&net_bytes, (int64_t)0);
        if (nothing_is_left())
            settle_locked(above_zero(&net));
        if (result->automatic)
            after_young_locked(result);
    } else {
        if (result->kind != OURO_GC_OLD)
            store_relaxed(&net_bytes, (int64_t)0);
        after_old_locked(result);
    }
    unsettle_locked();
    rest_after_all(result);
    mutex_unlock(&settings);
}

/* --- memory near its limit ---------------------------------------------------------------------------- */

ouro_status ouro_gc_set_soft_limit(size_t bytes, ouro_gc_pressure callback, void *argument)
{
    if (bytes && bytes < 1024)
        return OURO_INVALID;
    mutex_lock(&settings);
    store_relaxed(&soft_limit, bytes);
    store_relaxed(&pressed_at, (size_t)0);
    pressure = callback;
    pressure_argument = argument;
    mutex_unlock(&settings);
    return OURO_OK;
}

bool schedule_is_pressed(void)
{
    return limit_is_passed();
}

uint64_t schedule_wait_for_others(void)
{
    bool behind = has_grown() && ((load_relaxed(&finds_garbage[0]) && most_is_new()) ||
                                  (load_relaxed(&finds_garbage[1]) && old_is_wanted()));

    if (!behind && !limit_is_passed())
        return 0;
    return budget_in_force() < WAIT_MOST_NS ? budget_in_force() : WAIT_MOST_NS;
}

uint32_t schedule_presses(void)
{
    return load_relaxed(&presses);
}

void schedule_press(uint32_t before)
{
    mutex_lock(&settings);
    size_t limit = soft_limit, used = used_bytes();
    bool passed = limit && used > limit, untold = load_relaxed(&presses) == before;
    ouro_gc_pressure callback = passed && untold ? pressure : NULL;
    void *argument = pressure_argument;
    if (untold) {
        store_relaxed(&pressed_at, passed ? used : (size_t)0);
        store_relaxed(&presses, before + passed);
    }
    mutex_unlock(&settings);
    if (callback)
        callback(used, limit, argument);
}

/* --- settings ---------------------------------------------------------------------------------------- */

void ouro_gc_set_threshold(size_t objects, unsigned percentage)
{
    mutex_lock(&settings);
    store_relaxed(&first, (uint64_t)objects);
    store_relaxed(&percent, percentage);
    store_relaxed(&threshold, (uint64_t)objects);
    store_relaxed(&not_before[0], (uint64_t)0);
    store_relaxed(&not_before[1], (uint64_t)0);
    store_relaxed(&not_before[2], (uint64_t)0);
    store_relaxed(&rest_until, (uint64_t)0);
    mutex_unlock(&settings);
}

void ouro_gc_get_threshold(size_t *objects, unsigned *percentage)
{
    *objects = load_relaxed(&first);
    *percentage = load_relaxed(&percent);
}

ouro_status ouro_gc_set_policy(ouro_gc_policy how)
{
    if (how != OURO_GC_THROUGHPUT && how != OURO_GC_BALANCED && how != OURO_GC_LOW_PAUSE)
        return OURO_INVALID;
    store_relaxed(&policy, (uint32_t)how);
    return OURO_OK;
}

ouro_gc_policy ouro_gc_get_policy(void)
{
    return (ouro_gc_policy)load_relaxed(&policy);
}

ouro_status ouro_gc_set_pause_budget(uint64_t nanoseconds)
{
    if (nanoseconds == 0)
        return OURO_INVALID;
    store_relaxed(&budget_ns, nanoseconds);
    return OURO_OK;
}

uint64_t ouro_gc_get_pause_budget(void)
{
    return load_relaxed(&budget_ns);
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
    if (seat_attached_self)
        schedule_ask(seat_attached_self);
}

bool ouro_gc_is_enabled(void)
{
    return load_relaxed(&disabled) == 0;
}

/* --- fork -------------------------------------------------------------------------------------------- */

void schedule_fork_prepare(void)
{
    mutex_lock(&settings);
}

void schedule_fork_done(void)
{
    mutex_unlock(&settings);
}
