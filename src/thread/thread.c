/*
 * thread/thread.c - registering threads, detached regions, the end of a thread.
 *
 * A thread that ends registered is unregistered by a thread-specific destructor.  Other destructors of that
 * kind that run later and touch objects are told that they are not registered; they may register again.
 */
#include "thread/seat.h"

#include "thread/world.h"

#include <ouro/inspect.h>

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
        ouro_thread_unregister();
    }
}

static void make_key(void)
{
    key_failed = pthread_key_create(&key, at_thread_end) != 0;
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

/* At a public call that ends what is borrowed. */
static void may_pass_safepoint(struct seat *self, const char *what)
{
    REQUIRE(!self->in_destroy, "%s in a type's destroy: it may not pass a safepoint", what);
    REQUIRE(!self->has_world,
            "%s by the thread \"%s\", which has stopped the world: ouro_world_start() first", what,
            self->name);
}

void ouro_thread_unregister(void)
{
    struct seat *self = registered("ouro_thread_unregister()");

    may_pass_safepoint(self, "ouro_thread_unregister()");
    REQUIRE(!self->collecting, "ouro_thread_unregister() in a callback of the collector");
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
    may_pass_safepoint(self, "ouro_detach()");
    seat_detach(self);
    return OURO_STATE_ATTACHED;
}

ouro_state ouro_attach(void)
{
    struct seat *self = registered("ouro_attach()");

    if (seat_attached_self)
        return OURO_STATE_ATTACHED;
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
    struct seat *self = seat_required("ouro_safepoint()");

    may_pass_safepoint(self, "ouro_safepoint()");
    seat_safepoint(self, true);
}

void ouro_safepoint_checked(void)
{
    struct seat *self = seat_required("ouro_safepoint()");

    may_pass_safepoint(self, "ouro_safepoint()");
    if (load_relaxed(&self->word) != SEAT_ATTACHED)
        seat_safepoint(self, true);
}
