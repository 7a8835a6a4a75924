/*
 * gc/fork.c - fork() in a program with threads.
 *
 *   prepare   1 be attached (an unregistered thread visits the reserved seat)   2 take the collector's claim
 *             3 stop the world   4 take every internal mutex, in the order of the table below
 *   parent    4, 3, 2, 1 undone
 *   child     all other seats become detached seats without a thread: their words lose all that needs one, they go to the
 *             free list, what they were to destroy goes to this thread; a grace period in flight is complete.  Then
 *             as in the parent; world_start() empties the inboxes that are left.
 *
 * Why that is enough: in a stopped world no thread is inside of a heap, a count, a list of what is dying: they park and
 * detach between such things only.  A thread that is detached or not registered may be inside of what needs no seat
 * (the registry, types, settings, callbacks), under one of the mutexes, which is ours then.  No collection is half done,
 * but for a deep one between two slices, since the claim is ours: taken, or had by the callback that we are in.
 *
 * What may surprise: mutexes are unlocked in the child and not made anew, for it is this thread that has them.
 * `visiting` may be another thread's, so it is no mutex but a turn, which the child can take away.
 *
 * docs/internals/fork.md lists all static variables of the library and what becomes of them.
 */
#include "base/turn.h"
#include "gc/collect.h"
#include "gc/schedule.h"
#include "heap/page.h"
#include "object/death.h"
#include "object/finalize.h"
#include "object/lock.h"
#include "object/retire.h"
#include "object/type.h"
#include "object/weak.h"
#include "thread/grace.h"
#include "thread/hooks.h"
#include "thread/seat.h"
#include "thread/world.h"

#include <ouro/fork.h>

#include <pthread.h>

/* All internal mutexes but `world`, in the order in which they are taken. */
static const struct {
    void (*prepare)(void);
    void (*parent)(void);
    void (*child)(void);
} modules[] = {
    {seat_fork_prepare, seat_fork_done, seat_fork_done},
    {area_fork_prepare, area_fork_done, area_fork_done},
    {weak_fork_prepare, weak_fork_done, weak_fork_done},
    {type_fork_prepare, type_fork_done, type_fork_done},
    {finalize_fork_prepare, finalize_fork_parent, finalize_fork_child},
    {lock_fork_prepare, lock_fork_parent, lock_fork_child},
    {retire_fork_prepare, retire_fork_done, retire_fork_done},
    {schedule_fork_prepare, schedule_fork_done, schedule_fork_done},
    {collect_fork_prepare, collect_fork_done, collect_fork_done},
};
enum { MODULES = sizeof modules / sizeof *modules };

static turn visiting; /* of the unregistered threads that fork */

/* [stopped] */
static struct seat *forking; /* NULL: nobody is between prepare and the other two */
static ouro_state state_before;

/* --- the caller's own state ------------------------------------------------------------------------------ */

static ouro_status visit(struct seat **seat)
{
    turn_take(&visiting);
    ouro_status status = seat_reserve(seat);

    if (status == OURO_OK)
        seat_self = *seat;
    else
        turn_end(&visiting);
    return status;
}

static void restore(struct seat *self, ouro_state before)
{
    if (before != OURO_STATE_ATTACHED)
        seat_detach(self);
    if (before == OURO_STATE_UNREGISTERED) {
        seat_self = NULL;
        turn_end(&visiting);
    }
}

/* --- the three calls ------------------------------------------------------------------------------------- */

ouro_status ouro_fork_prepare(void)
{
    ouro_state before = ouro_thread_state();
    struct seat *self = seat_self;

    thread_fork_prepare();
    if (before == OURO_STATE_UNREGISTERED) {
        ouro_status status = visit(&self);

        if (status != OURO_OK)
            return status;
    }
    seat_may_pass(self, "a fork");
    if (before != OURO_STATE_ATTACHED)
        seat_attach(self);
    if (!self->collecting)
        collect_claim_wait(self);
    world_stop(self);
    forking = self;
    state_before = before;
    for (size_t i = 0; i < MODULES; i++)
        modules[i].prepare();
    return OURO_OK;
}

static struct seat *prepared(const char *what)
{
    struct seat *self = seat_attached_self;

    REQUIRE(self && self->has_world && forking == self,
            "%s by a thread that has not called ouro_fork_prepare() before the fork", what);
    return self;
}

/* Starts the world and lets go of the rest. */
static void finish(struct seat *self)
{
    ouro_state before = state_before;

    forking = NULL;
    world_start(self);
    if (!self->collecting)
        collect_claim_release();
    restore(self, before);
}

void ouro_fork_parent(void)
{
    struct seat *self = prepared("ouro_fork_parent()");

    for (size_t i = MODULES; i > 0; i--)
        modules[i - 1].parent();
    finish(self);
}

/* What a vanished thread leaves in its seat: the heap and the inbox as they are, the rest is taken or forgotten. */
static void vanish(struct seat *self, struct seat *seat)
{
    ASSERT(retire_is_closed(seat));
    ASSERT(!(load_relaxed(&seat->word) & (SEAT_ATTACHED | SEAT_HELD)));
    death_adopt(self, seat);
    seat->running = false;
    seat->in_destroy = false;
    seat->has_world = false;
    seat->collecting = false;
    seat->finalizing = false;
    seat->has_queued = false;
    seat->job = NULL;
    seat->reading = 0;
    lock_abandon(seat);
}

void ouro_fork_child(void)
{
    struct seat *self = prepared("ouro_fork_child()");

    for (uint32_t id = seat_count(); id > 0; id--) {
        if (seat_by_id(id) != self)
            vanish(self, seat_by_id(id));
    }
    seat_vanish(self);
    grace_vanish();
    world_vanish();
    if (state_before != OURO_STATE_UNREGISTERED)
        turn_vanish(&visiting);
    for (size_t i = MODULES; i > 0; i--)
        modules[i - 1].child();
    /* Those whose turn it was to look after what is retired are gone. */
    thread_hooks.attached(self);
    finish(self);
}

/* --- pthread_atfork() ----------------------------------------------------------------------------------- */

static pthread_once_t install_once = PTHREAD_ONCE_INIT;
static bool install_failed;

static void prepare_or_end(void)
{
    ouro_status status = ouro_fork_prepare();

    REQUIRE(status == OURO_OK, "fork() by a thread that is not registered can't be prepared: %s",
            ouro_status_text(status));
}

static void install(void)
{
    install_failed = pthread_atfork(prepare_or_end, ouro_fork_parent, ouro_fork_child) != 0;
}

ouro_status ouro_fork_install(void)
{
    struct seat *seat;
    ouro_status status = seat_reserve(&seat);

    if (status != OURO_OK)
        return status;
    pthread_once(&install_once, install);
    return install_failed ? OURO_NO_MEMORY : OURO_OK;
}
