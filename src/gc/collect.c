/*
 * gc/collect.c - a collection from beginning to end, callbacks, figures.
 *
 * One thread collects at a time.  It holds the claim from before the first callback until after the last: user code
 * runs meanwhile (`destroy`, callbacks), so the rule for users is not to ask for a collection while holding a lock
 * that these take.  Whoever waits for the claim waits detached.
 */
#include "gc/collect.h"

#include "base/os.h"
#include "base/turn.h"
#include "gc/debug.h"
#include "gc/deep.h"
#include "gc/dissolve.h"
#include "gc/forced.h"
#include "gc/parallel.h"
#include "gc/schedule.h"
#include "gc/trial.h"
#include "gc/verify.h"
#include "heap/heap.h"
#include "object/death.h"
#include "object/finalize.h"
#include "object/retire.h"
#include "thread/grace.h"
#include "thread/world.h"

#include <ouro/gc.h>
#include <ouro/memory.h>
#include <ouro/slot.h>
#include <ouro/thread.h>

#include <string.h>

enum {
    CALLBACKS_MAX = 32,
    COLLECT_ROUNDS = 100,       /* of collecting and running finalizers that one call may take */
    SHUTDOWN_ROUNDS = 100,      /* of such calls */
    ALL_LEAST = 100000,         /* objects that are worth to be looked at all together */
    ALL_DUE_LEAST = 10000,      /* objects that a round may look at when memory is short */
    KEEP_EMPTY_PAGES = 64,      /* of a seat, at a collection; and an eighth of what it uses */
    KEEP_EMPTY_BYTES = 8 << 20, /* free, of all, and what was used since the last collection */
};

struct callback {
    ouro_gc_callback function;
    void *argument;
};

static turn claim;
static uint32_t steps;  /* [atomic] relaxed: calls of ouro_collect_step() */
static uint32_t slicer; /* [atomic] relaxed: id of the seat that has made the last slice */
static mutex gc_lock = MUTEX_INIT;
static struct callback callbacks[CALLBACKS_MAX]; /* [lock: gc] */
static size_t callback_count;                    /* [lock: gc] */
static ouro_gc_stats totals;                     /* [lock: gc] */

/* --- the claim --------------------------------------------------------------------------------------- */

void collect_claim_wait(struct seat *self)
{
    if (turn_try(&claim))
        return;
    seat_detach(self);
    turn_take(&claim);
    seat_attach(self);
}

/* Until it is let go, at most so long, and without taking it: for who collects runs code of the program, which may wait for something
 * that this thread has. */
static void claim_pass(struct seat *self, uint64_t most_ns)
{
    seat_detach(self);
    turn_await(&claim, most_ns);
    seat_attach(self);
}

void collect_claim_release(void)
{
    turn_end(&claim);
}

/* --- callbacks --------------------------------------------------------------------------------------- */

static void call_back(struct seat *self, const ouro_gc_info *info)
{
    struct callback copy[CALLBACKS_MAX];
    size_t count;

    mutex_lock(&gc_lock);
    count = callback_count;
    memcpy(copy, callbacks, count * sizeof *copy);
    mutex_unlock(&gc_lock);
    for (size_t i = 0; i < count; i++) {
        copy[i].function(info, copy[i].argument);
        REQUIRE(seat_attached_self == self,
                "a callback of the collector has returned detached: put back what was, by "
                "ouro_restore()");
        REQUIRE(self->reading == 0,
                "a callback of the collector has returned in a read scope: ouro_read_end() first");
    }
}

static size_t find_callback_locked(ouro_gc_callback function, void *argument)
{
    size_t i = 0;

    while (i < callback_count &&
           (callbacks[i].function != function || callbacks[i].argument != argument))
        i++;
    return i;
}

ouro_status ouro_gc_add_callback(ouro_gc_callback callback, void *argument)
{
    ouro_status status = OURO_OK;

    if (!callback)
        return OURO_INVALID;
    mutex_lock(&gc_lock);
    if (find_callback_locked(callback, argument) < callback_count)
        status = OURO_BUSY;
    else if (callback_count == CALLBACKS_MAX)
        status = OURO_LIMIT;
    else
        callbacks[callback_count++] = (struct callback){callback, argument};
    mutex_unlock(&gc_lock);
    return status;
}

ouro_status ouro_gc_remove_callback(ouro_gc_callback callback, void *argument)
{
    ouro_status status = OURO_ABSENT;

    mutex_lock(&gc_lock);
    size_t i = find_callback_locked(callback, argument);
    if (i < callback_count) {
        callback_count--;
        memmove(&callbacks[i], &callbacks[i + 1], (callback_count - i) * sizeof *callbacks);
        status = OURO_OK;
    }
    mutex_unlock(&gc_lock);
    return status;
}

/* --- memory that has become empty ---------------------------------------------------------------------- */

static uint32_t keep_pages(const struct heap *heap)
{
    return KEEP_EMPTY_PAGES + heap->pages / 8;
}

/* In the stop, where all heaps may be read: whose empty pages are worth a visit afterwards. */
static void note_sheds(void)
{
    for (uint32_t id = seat_count(); id > 0; id--) {
        struct seat *seat = seat_by_id(id);
        struct heap *heap = heap_of(seat);

        heap->shed_wanted =
            heap->empties > keep_pages(heap) || load_relaxed(&seat->returned) != NULL;
    }
}

/* Seats with a thread that runs look after themselves. */
static void shed(struct seat *self)
{
    for (uint32_t id = seat_count(); id > 0; id--) {
        struct seat *seat = seat_by_id(id);

        if (!heap_of(seat)->shed_wanted)
            continue;
        if (seat == self) {
            heap_shed(self, self, keep_pages(heap_of(self)), false);
        } else if (seat_hold_try(seat, self)) {
            heap_shed(seat, self, keep_pages(heap_of(seat)), false);
            seat_release(seat, self);
        }
        seat_poll(self);
    }
    if (self->dying)
        death_run(self);
    /* If no other thread is attached this completes a period, and what was found can be used at once. */
    area_ripen(self);
    retire_ripen(self);
    seat_poll(self);
    area_ripen(self);
    retire_ripen(self);
    area_trim_unused(KEEP_EMPTY_BYTES);
}

/* --- the collection ---------------------------------------------------------------------------------- */

static void add_up(const ouro_gc_info *info)
{
    mutex_lock(&gc_lock);
    totals.automatic += info->reason == OURO_GC_AUTOMATIC;
    totals.of_kind[info->kind]++;
    totals.collected += info->collected;
    totals.uncollectable += info->uncollectable;
    totals.stop_ns_total += info->stop_ns;
    totals.pause_ns_total += info->pause_ns;
    totals.total_ns += info->total_ns;
    if (info->stop_ns > totals.stop_ns_max)
        totals.stop_ns_max = info->stop_ns;
    if (info->pause_ns > totals.pause_ns_max)
        totals.pause_ns_max = info->pause_ns;
    mutex_unlock(&gc_lock);
}

static uint64_t next_number(void)
{
    mutex_lock(&gc_lock);
    uint64_t number = ++totals.collections;
    mutex_unlock(&gc_lock);
    return number;
}

/* A deep collection has a limit if it is to be made in slices. */
static bool is_slice(ouro_gc_kind kind, const struct sets_limit *limit)
{
    return kind == OURO_GC_DEEP && limit->objects < SIZE_MAX;
}

/* Whether a deep collection may as well look at everything, which takes less than half as long an object as going from one to the
 * next. */
static bool most_are_wanted(void)
{
    size_t live = schedule_live();

    return live >= ALL_LEAST && schedule_net_new() + schedule_candidates() >= live / 2;
}

/* In the stop. */
static void try_set(struct trial *trial, const struct sets_limit *limit,
                    struct schedule_result *result)
{
    struct deep_slice slice;
    bool all = result->kind == OURO_GC_FULL ||
               (result->kind == OURO_GC_DEEP && !result->slice && most_are_wanted());

    if (result->kind >= OURO_GC_DEEP && !result->slice)
        parallel_choose(all);
    switch (result->kind) {
    case OURO_GC_YOUNG:
        result->looked = sets_young(trial, limit);
        break;
    case OURO_GC_OLD:
        result->looked = sets_old(trial, limit);
        break;
    case OURO_GC_DEEP:
        if (result->slice) {
            result->begun = !deep_is_under_way();
            deep_slice(trial, limit, &slice);
            result->looked = slice.looked;
            result->net_new = (int64_t)slice.fresh;
            result->guessed = slice.members;
        } else {
            result->looked = all ? sets_full(trial) : sets_reachable(trial);
        }
        break;
    default:
        result->looked = sets_full(trial);
        break;
    }
    trial_decide(trial);
    if (result->slice)
        deep_decided(trial);
    if (all)
        sets_full_done();
    result->cleared = result->kind != OURO_GC_YOUNG && !result->slice && !sets_has_candidates();
    result->under_way = deep_is_under_way();
}

/* By who has the claim. */
static struct trial collect(struct seat *self, ouro_gc_cause cause, ouro_gc_kind kind,
                            struct sets_limit limit)
{
    ouro_gc_info info = {.phase = OURO_GC_START,
                         .reason =
                             cause == OURO_GC_CAUSE_CALL ? OURO_GC_REQUESTED : OURO_GC_AUTOMATIC,
                         .cause = cause,
                         .kind = kind,
                         .generation = kind < 2 ? kind : 2};
    struct schedule_result result = {.kind = kind,
                                     .automatic = cause != OURO_GC_CAUSE_CALL && !forced_is_on(),
                                     .slice = is_slice(kind, &limit)};
    struct trial trial;

    if (kind != OURO_GC_YOUNG && !result.slice)
        deep_end(self);
    self->collecting = true;
    info.number = next_number();
    info.net_new = schedule_net_new();
    info.net_new_bytes = schedule_net_new_bytes();
    info.noted = schedule_candidates();
    info.bytes = schedule_used_bytes();
    call_back(self, &info);

    retire_close(self); /* others close theirs when they park, and the stop is a grace period */
    unsigned debugging = debug_flags();
    uint64_t start = os_now_ns();
    info.stop_ns = world_stop(self);
    verify_heap_stopped(); /* not part of the pause: that is to be what it is without */
    uint64_t stopped = os_now_ns();
    result.net_new = (int64_t)schedule_net_new();
    trial_begin(&trial, self);
    trial.debugging = debugging;
    size_t taken = sets_taken(), put = sets_put();
    try_set(&trial, &limit, &result);
    result.taken = sets_taken() - taken;
    result.put = sets_put() - put;
    info.cut = sets_cut_count();
    bool last = kind != OURO_GC_YOUNG && !(result.slice && result.under_way);
    if (last)
        note_sheds();
    grace_in_stopped_world();
    result.pause_ns = info.pause_ns = os_now_ns() - stopped;
    if (kind >= OURO_GC_DEEP && !result.slice)
        parallel_learn(trial.everything, trial.members, result.pause_ns, trial.helpers);
    /* The last slice knows nothing of what became garbage since the first. */
    verify_decision_stopped(self, result.slice ? OURO_GC_OLD : kind);
    world_start(self);

    if (OURO_UNLIKELY(debugging & OURO_GC_PRINT_GARBAGE))
        debug_print_garbage(self, &trial);
    if (kind == OURO_GC_OLD)
        result.net_new = 0;
    else if (kind == OURO_GC_YOUNG && (size_t)result.net_new > trial.members && sets_has_new())
        result.net_new = (int64_t)trial.members;
    result.net_new -= (int64_t)dissolve(self, &trial);
    if (last)
        shed(self);
    result.members = trial.members;
    result.garbage = trial.garbage;
    schedule_collected(&result);

    info.phase = OURO_GC_STOP;
    info.candidates = result.slice ? result.looked : trial.members;
    info.under_way = result.under_way;
    info.collected = trial.garbage;
    info.uncollectable = trial.saved;
    info.finalizers = trial.queued;
    info.helpers = trial.helpers;
    info.threshold = schedule_threshold();
    info.total_ns = os_now_ns() - start;
    add_up(&info);
    seat_event(self, EVENT_COLLECT);
    if (result.slice && result.under_way)
        seat_event(self, EVENT_SLICE);
    if (trial.keep == KEEP_GUESSED && trial.members)
        seat_event(self, trial.garbage < trial.members ? EVENT_PIECES_KEPT : EVENT_PIECES);
    if (OURO_UNLIKELY(debugging & OURO_GC_PRINT_STATS))
        debug_print_stats(&info);
    call_back(self, &info);
    self->collecting = false;
    return trial;
}

static const struct sets_limit no_limit = {SIZE_MAX, SIZE_MAX, 0};
static struct sets_limit set_limit; /* by a test; 0 objects: none was set */

void collect_set_limits(const struct sets_limit *limit)
{
    set_limit = limit ? *limit : (struct sets_limit){0};
}

static struct sets_limit limit_in_force(ouro_gc_kind kind)
{
    return set_limit.objects ? set_limit : schedule_limit(kind);
}

/* Memory is short: all garbage, in short stops without a rest. The first round ends what is under way, which does not know of the latest.
 * What others make meanwhile is not waited for: they may make it faster than we look at it. */
static void collect_all_due(struct seat *self)
{
    for (int rounds = deep_is_under_way() ? 2 : 1; rounds > 0; rounds--) {
        /* Half of each young one is for what has just been made. */
        size_t most = 2 * schedule_live() + ALL_DUE_LEAST, looked = 0;

        do
            looked +=
                collect(self, OURO_GC_CAUSE_LIMIT, OURO_GC_YOUNG, schedule_limit(OURO_GC_YOUNG))
                    .members +
                1;
        while (sets_has_new() && looked < most);
        do
            collect(self, OURO_GC_CAUSE_LIMIT, OURO_GC_DEEP, schedule_limit(OURO_GC_DEEP));
        while (deep_is_under_way());
    }
}

/* By who has the claim, which is let go. Garbage with finalizers can go only after these: so they run before the program is told,
 * where this thread may run them. */
static void collect_pressed(struct seat *self)
{
    uint64_t seen = finalize_seen(self);
    uint32_t presses = schedule_presses();

    collect_all_due(self);
    collect_claim_release();
    if (schedule_is_pressed() && ouro_finalizer_get_mode() == OURO_FINALIZE_AT_SAFEPOINTS &&
        finalize_all(self, &seen) && schedule_is_pressed()) {
        if (!turn_try(&claim)) /* told at a later safepoint, if it is not enough */
            return;
        collect_all_due(self);
        collect_claim_release();
    }
    schedule_press(presses);
}

/* Nothing else may remind a thread: who has made the last slice looks at each of its safepoints whether it is time for the next
 * one; and so does who has collected while most of a heap that has grown waits to be looked at, though it may make no objects now. */
static void come_again(struct seat *self)
{
    bool next_slice = deep_is_under_way() && load_relaxed(&slicer) == self->id;

    if ((next_slice && schedule_is_enabled()) || schedule_is_behind())
        /* [S1] nothing hangs on it: only this thread takes COLLECT out */
        fetch_or_acq_rel(&self->word, SEAT_COLLECT);
}

/* One that is due, a slice while a deep one is under way; and all if memory is over the soft limit. */
static void collect_forced(struct seat *self)
{
    ouro_gc_kind kind;
    bool due = forced_is_due(self);
    bool pressed = schedule_is_pressed() && schedule_is_due(&kind);

    if (!(due || pressed) || !turn_try(&claim))
        return;
    if (due) {
        kind = forced_take(self);
        if (kind != OURO_GC_YOUNG && deep_is_under_way())
            kind = OURO_GC_DEEP;
        collect(self, OURO_GC_CAUSE_EVERY, kind, schedule_limit_forced(kind));
    }
    if (pressed && schedule_is_pressed()) {
        collect_pressed(self);
        return;
    }
    collect_claim_release();
    if (pressed)
        schedule_press(schedule_presses());
}

void collect_automatic(struct seat *self)
{
    ouro_gc_kind kind;

    if (self->collecting)
        return;
    if (OURO_UNLIKELY(forced_is_on())) {
        collect_forced(self);
        forced_ask(self);
        return;
    }
    bool due = schedule_is_due(&kind);
    if (!due || !turn_try(&claim)) {
        uint64_t wait_ns = due ? schedule_wait_for_others() : 0;

        if (wait_ns)
            claim_pass(self, wait_ns);
        if (!due || wait_ns)
            schedule_ask(self);
        come_again(self);
        return;
    }
    if (schedule_is_pressed()) {
        collect_pressed(self);
    } else {
        if (schedule_is_due(&kind)) /* somebody may just have been through with it */
            collect(self, schedule_cause(kind), kind, schedule_limit(kind));
        if (kind == OURO_GC_DEEP)
            store_relaxed(&slicer, self->id);
        collect_claim_release();
    }
    schedule_ask(self); /* for what is due now */
    come_again(self);
}

static struct seat *may_collect(const char *what)
{
    struct seat *self = seat_required(what);

    if (self->collecting || self->in_destroy)
        return NULL;
    seat_may_pass(self, what);
    return self;
}

static struct trial collect_requested(struct seat *self, ouro_gc_kind kind, struct sets_limit limit)
{
    collect_claim_wait(self);
    struct trial trial = collect(self, OURO_GC_CAUSE_CALL, kind, limit);
    collect_claim_release();
    return trial;
}

/* By who has the claim. Even without a limit it is one: it is said to be no more than that. */
static struct trial collect_one_slice(struct seat *self)
{
    struct sets_limit limit = limit_in_force(OURO_GC_DEEP);

    if (limit.objects == SIZE_MAX)
        limit.objects--;
    return collect(self, OURO_GC_CAUSE_CALL, OURO_GC_DEEP, limit);
}

/* One stop on candidates. Beside a deep one, which would have to be given up for it, that is a slice; and so it is if there are only
 * those which an old one would cut again, and `may_begin`. */
static struct trial collect_old(struct seat *self, struct sets_limit limit, bool may_begin)
{
    collect_claim_wait(self);
    bool slice =
        deep_is_under_way() || (may_begin && !sets_has_candidates() && sets_cut_count() > 0);
    struct trial trial =
        slice ? collect_one_slice(self) : collect(self, OURO_GC_CAUSE_CALL, OURO_GC_OLD, limit);
    collect_claim_release();
    return trial;
}

size_t ouro_collect(void)
{
    struct seat *self = may_collect("ouro_collect()");
    size_t collected = 0;
    if (!self)
        return 0;
    uint64_t seen = finalize_seen(self);
    for (int round = 0; round < COLLECT_ROUNDS; round++) {
        struct trial trial = collect_requested(self, OURO_GC_DEEP, no_limit);

        collected += trial.garbage;
        if (!finalize_all(self, &seen))
            break;
    }
    return collected;
}

size_t ouro_collect_kind(ouro_gc_kind kind)
{
    struct seat *self = may_collect("ouro_collect_kind()");

    REQUIRE(kind == OURO_GC_YOUNG || kind == OURO_GC_OLD || kind == OURO_GC_DEEP ||
                kind == OURO_GC_FULL,
            "ouro_collect_kind() of %d: there is no such kind", (int)kind);
    if (!self)
        return 0;
    if (kind == OURO_GC_OLD)
        return collect_old(self, limit_in_force(kind), false).garbage;
    return collect_requested(self, kind, kind < OURO_GC_DEEP ? limit_in_force(kind) : no_limit)
        .garbage;
}

bool collect_slice(void)
{
    struct seat *self = may_collect("a slice");

    if (!self)
        return false;
    collect_claim_wait(self);
    collect_one_slice(self);
    collect_claim_release();
    return deep_is_under_way();
}

bool ouro_collect_step(uint64_t budget_ns)
{
    struct seat *self = may_collect("ouro_collect_step()");
    uint64_t start = os_now_ns();
    uint64_t end = budget_ns < UINT64_MAX - start ? start + budget_ns : UINT64_MAX;

    if (!self)
        return false;
    /* However short the time, each call gets further, and not always with the same. */
    bool old_first = fetch_add_relaxed(&steps, 1u) % 2 != 0;
    for (;;) {
        if (old_first)
            collect_old(self, schedule_limit(OURO_GC_OLD), true);
        struct trial young = collect_requested(self, OURO_GC_YOUNG, schedule_limit(OURO_GC_YOUNG));
        if (!old_first && (young.members == 0 || os_now_ns() < end))
            collect_old(self, schedule_limit(OURO_GC_OLD), true);
        old_first = false;
        bool left =
            sets_has_new() || sets_has_candidates() || deep_is_under_way() || sets_cut_count() > 0;
        if (!left || os_now_ns() >= end)
            return left;
    }
}

bool(ouro_gc_is_tracked)(const ouro_object *o)
{
    seat_required("ouro_gc_is_tracked()");
    return !(load_relaxed(&o->ouro.flags) & OURO_FLAG_UNTRACKED);
}

void ouro_gc_get_stats(ouro_gc_stats *stats)
{
    REQUIRE(stats, "ouro_gc_get_stats(NULL): give it an ouro_gc_stats to fill in");
    mutex_lock(&gc_lock);
    *stats = totals;
    mutex_unlock(&gc_lock);
    stats->late_stops = world_late_stops();
    stats->late_periods = grace_late_periods();
    schedule_figures(stats);
}

ouro_status ouro_shutdown(void)
{
    struct seat *self = seat_at_safepoint("ouro_shutdown()");

    REQUIRE(!self->collecting && !self->finalizing,
            "ouro_shutdown() in a callback of the collector, a finalizer, or a callback of a weak "
            "reference");
    REQUIRE(
        self->held_count == 0,
        "ouro_shutdown() by the thread \"%s\", which holds a lock: finalizers would not be run; "
        "ouro_unlock() first",
        self->name);
    finalize_shutdown();
    if (!seat_close_registry())
        return OURO_BUSY;
    /* Finalizers and `destroy` may make new garbage for ever. */
    for (int round = 0; round < SHUTDOWN_ROUNDS; round++) {
        ouro_synchronize();
        if (ouro_collect() == 0 && !retire_waits(self))
            break;
    }
    return OURO_OK;
}

void collect_fork_prepare(void)
{
    mutex_lock(&gc_lock);
}

void collect_fork_done(void)
{
    mutex_unlock(&gc_lock);
}
