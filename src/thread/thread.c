/*
 * thread/thread.c - registering threads, detached regions, the end of a thread.
 *
 * A thread that ends registered is unregistered by a thread-specific destructor.  Other destructors of that
 * kind that run later and touch objects are told that they are not registered; they may register again.
 * If it ends inside of a finalizer that one counts as run; locks that it holds are a mistake, as ever.
 *
 * Read scopes are counted only by programs that are compiled with OURO_CHECK; then every public safepoint
 * asks seat_may_pass() and ends the program inside of one.  So a scope is always left attached.
 */
#include "thread/seat.h"

#include "thread/hooks.h"
#include "thread/world.h"

#include <ouro/inspect.h>
#include <ouro/slot.h>

#include <pthread.h>

static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static bool key_failed;

/* The end of a registered thread. */
static void at_thread_end(void *seat)
{
    if (seat_self && seat_self == seat) {
        if (seat_self->has_world)
            world_start(seat_self);
        seat_self->running = false;
        seat_self->in_destroy = false;
        seat_self->reading = 0;
        if (seat_self->finalizing) {
            if (!seat_attached_self)
                seat_attach(seat_self);
            thread_hooks.abandon(seat_self);
        }
        ouro_thread_unregister();
    }
}

static void make_key(void)
{
    key_failed = pthread_key_create(&key, at_thread_end) != 0;
}

void thread_fork_prepare(void)
{
    pthread_once(&key_once, make_key);
}

ouro_status ouro_thread_register(const char *name)
{
    struct seat *seat;

    if (seat_self)
        return OURO_BUSY;
    pthread_once(&key_once, make_key);
    if (key_failed)
        return OURO_LIMIT;

    ouro_status status = seat_take(name, &seat);
    if (status != OURO_OK)
        return status;
    if (pthread_setspecific(key, seat)) {
        seat_give_up(seat);
        return OURO_NO_MEMORY;
    }
    seat_self = seat;
    seat_attach(seat);
    return OURO_OK;
}

static struct seat *registered(const char *what)
{
    REQUIRE(seat_self, "%s by a thread that is not registered: call ouro_thread_register() first",
            what);
    return seat_self;
}

void ouro_thread_unregister(void)
{
    struct seat *self = registered("ouro_thread_unregister()");

    seat_may_pass(self, "ouro_thread_unregister()");
    REQUIRE(!self->collecting, "ouro_thread_unregister() in a callback of the collector");
    REQUIRE(!self->finalizing, "ouro_thread_unregister() in a finalizer, or a callback of a weak "
                               "reference: it has to return first");
    REQUIRE(self->held_count == 0,
            "ouro_thread_unregister() by the thread \"%s\", which holds %u locks, the latest that "
            "of the object at %p: ouro_unlock() first",
            self->name, self->held_count, (void *)self->held[self->held_count - 1]);
    if (seat_attached_self)
        seat_detach(self);
    seat_self = NULL;
    pthread_setspecific(key, NULL);
    seat_give_up(self);
}

ouro_state ouro_thread_state(void)
{
    return !seat_self           ? OURO_STATE_UNREGISTERED
           : seat_attached_self ? OURO_STATE_ATTACHED
                                : OURO_STATE_DETACHED;
}

const char *ouro_thread_name(void)
{
    return seat_self ? seat_self->name : "";
}

uint32_t ouro_thread_id(void)
{
    return seat_self ? seat_self->id : 0;
}

ouro_state ouro_detach(void)
{
    struct seat *self = registered("ouro_detach()");

    if (!seat_attached_self)
        return OURO_STATE_DETACHED;
    seat_may_pass(self, "ouro_detach()");
    seat_detach(self);
    return OURO_STATE_ATTACHED;
}

ouro_state ouro_attach(void)
{
    struct seat *self = registered("ouro_attach()");

    if (seat_attached_self)
        return OURO_STATE_ATTACHED;
    seat_may_pass(self, "ouro_attach()");
    seat_attach(self);
    return OURO_STATE_DETACHED;
}

void ouro_restore(ouro_state state)
{
    if (state == OURO_STATE_ATTACHED)
        ouro_attach();
    else if (state == OURO_STATE_DETACHED)
        ouro_detach();
    else
        check_failed("ouro_restore() wants what ouro_detach() or ouro_attach() returned, not %d",
                     (int)state);
}

void ouro_safepoint_slow(void)
{
    seat_safepoint(seat_at_safepoint("ouro_safepoint()"), true);
}

/* In a read scope it is a mistake even if nobody wants anything just now. */
void ouro_safepoint_checked(void)
{
    struct seat *self = seat_at_safepoint("ouro_safepoint()");

    if (load_relaxed(&self->word) != SEAT_ATTACHED)
        seat_safepoint(self, true);
}

/* --- read scopes ------------------------------------------------------------------------------------- */

void ouro_read_begin_checked(void)
{
    seat_required("ouro_read_begin()")->reading++;
}

void ouro_read_end_checked(void)
{
    struct seat *self = seat_required("ouro_read_end()");

    REQUIRE(self->reading > 0,
            "ouro_read_end() by the thread \"%s\" without an ouro_read_begin() before it",
            self->name);
    self->reading--;
}
