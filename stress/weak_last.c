/*
 * weak_last.c - stress: a weak get against the last decref, against the collector, against creation and resurrection.
 *
 * A board has places, each with a weak reference under a mutex of the program.  Threads put new things there, with the
 * serial number of the thing; take copies of the weak references; get, from own and from foreign things; keep what they got
 * for a while, hand it on through mailboxes, drop it.  Some things are in rings, so that the collector is the one to find
 * them; some have a finalizer, and some of those let it store them in a slot, from which they are taken and dropped again.
 *
 * Each thing has a serial number, a canary and a state: ALIVE, DOOMED when its finalizer has begun, or `destroy` GONE.
 * What a get returns has the serial number that stood beside the weak reference, is ALIVE (the weak reference was
 * cleared before the finalizer ran), and stays so as long as the reference is held.  A weak reference that has returned NULL
 * never returns anything again.  At the end nothing is left.
 *
 * States are relaxed, so that the order for which ThreadSanitizer looks can only come from the library.
 */
#include "stress.h"

#include <sched.h>

enum {
    PLACES = 8,
    KEPT = 6,
    KNOWN = 8,
    SLOTS = 4,
    AGAIN = 3000, /* things that might get a place again */
};

enum { ALIVE = 1, DOOMED, GONE };

#define CANARY UINT64_C(0x3EA61A5737EA61A5)

struct thing {
    ouro_header ouro;
    struct thing *next;  /* itself, another one of a ring, or NULL */
    ouro_weakref *inner; /* sometimes a weak reference to itself, or to the next */
    uint64_t canary;
    uint64_t serial;
    counter state;
    bool resurrects;
    bool knows_self; /* `inner` is a weak reference to this thing */
};

static const ouro_type *thing_type, *doomed_type; /* without a finalizer, with one */
static ouro_slot slots[SLOTS];                    /* what was resurrected */
static counter serials, made, destroyed, finalized, resurrected, gets, misses, called, collected;

struct place {
    pthread_mutex_t mutex;
    ouro_weakref *ref;
    uint64_t serial;
};

static struct place places[PLACES];
static struct mailbox box;

/* --- things ------------------------------------------------------------------------------------------- */

static void thing_destroy(void *self)
{
    struct thing *thing = self;

    CHECK(thing->canary == (CANARY ^ thing->serial), "destroy was called twice, or for no thing");
    thing->canary = 0;
    atomic_store_explicit(&thing->state, GONE, memory_order_relaxed);
    count_up(&destroyed);
}

static void thing_finalize(void *self)
{
    struct thing *thing = self;
    uint64_t before = atomic_exchange_explicit(&thing->state, DOOMED, memory_order_relaxed);

    CHECK(before == ALIVE, "a finalizer ran for a thing of state %llu", (unsigned long long)before);
    CHECK(thing->canary == (CANARY ^ thing->serial), "a finalizer ran for no thing");
    CHECK(!thing->next || thing->next->canary == (CANARY ^ thing->next->serial),
          "a finalizer found its thing taken apart");
    count_up(&finalized);
    CHECK(!thing->knows_self || ouro_weakref_is_cleared(thing->inner),
          "a finalizer found a weak reference to its thing");
    if (thing->resurrects) {
        CHECK(ouro_slot_store(&slots[thing->serial % SLOTS], thing) == OURO_OK, "memory is out");
        count_up(&resurrected);
    }
}

static struct thing *thing_new(struct random *random)
{
    bool finalize = one_in(random, 3);
    struct thing *thing = ouro_new(finalize ? doomed_type : thing_type);

    CHECK(thing, "memory is out");
    thing->serial = count_up(&serials) + 1;
    thing->canary = CANARY ^ thing->serial;
    thing->resurrects = one_in(random, 2);
    atomic_store_explicit(&thing->state, ALIVE, memory_order_relaxed);
    count_up(&made);
    return thing;
}

static ouro_weakref *weak_to(struct thing *thing)
{
    ouro_weakref *ref = ouro_weakref_new(thing);

    CHECK(ref, "memory is out");
    return ref;
}

static void thing_check(struct thing *thing, uint64_t serial)
{
    uint64_t state = atomic_load_explicit(&thing->state, memory_order_relaxed);

    CHECK(state == ALIVE, "a thing that is held, and was got weakly, is of state %llu",
          (unsigned long long)state);
    CHECK(thing->serial == serial && thing->canary == (CANARY ^ serial),
          "a weak get has returned another thing");
}

static void call(ouro_weakref *ref, ouro_object *argument)
{
    CHECK(ouro_weakref_is_cleared(ref), "a callback was called for one that is not cleared");
    CHECK(ouro_weakref_get(ref) == NULL,
          "a weak reference has returned something after it was cleared");
    CHECK(!argument || ((struct thing *)(void *)argument)->canary ==
                           (CANARY ^ ((struct thing *)(void *)argument)->serial),
          "the argument of a callback was destroyed");
    count_up(&called);
}

/* --- what a thread has -------------------------------------------------------------------------------- */

struct person {
    struct random *random;
    struct thing *kept[KEPT];
    uint64_t serials[KEPT];
    struct {
        ouro_weakref *ref;
        uint64_t serial;
        bool cleared; /* it has returned NULL */
    } known[KNOWN];
};

static void drop(struct thing *thing, uint64_t serial)
{
    thing_check(thing, serial);
    ouro_decref(thing);
}

static void keep(struct person *p, struct thing *thing, uint64_t serial)
{
    unsigned i = random_below(p->random, KEPT);

    if (p->kept[i])
        drop(p->kept[i], p->serials[i]);
    p->kept[i] = thing;
    p->serials[i] = serial;
}

static void know(struct person *p, ouro_weakref *ref, uint64_t serial)
{
    unsigned i = random_below(p->random, KNOWN);

    ouro_decref_or_null(p->known[i].ref);
    p->known[i].ref = ref;
    p->known[i].serial = serial;
    p->known[i].cleared = false;
}

/* --- what it does ------------------------------------------------------------------------------------- */

/* A ring of one or two, or none; with weak references inside. */
static struct thing *family_new(struct random *random)
{
    struct thing *thing = thing_new(random);

    switch (random_below(random, 6)) {
    case 0:
        thing->next = ouro_incref(thing);
        thing->inner = weak_to(thing);
        thing->knows_self = true;
        break;
    case 1:
        thing->next = thing_new(random);
        thing->next->next = ouro_incref(thing);
        thing->inner = ouro_weakref_new_callback(thing->next, call, OURO_OF(thing));
        CHECK(thing->inner, "memory is out");
        break;
    case 2:
        thing->next = thing_new(random);
        break;
    default:
        break;
    }
    return thing;
}

/* Garbage that watches a thing which is none, and dies while the garbage is taken apart, or before, or after. */
static void watch_from_garbage(struct person *p)
{
    unsigned i = random_below(p->random, KEPT);

    if (!p->kept[i])
        return;
    for (unsigned rings = 1 + random_below(p->random, 64); rings > 0; rings--) {
        struct thing *ring = thing_new(p->random);

        ring->next = ouro_incref(ring);
        ring->inner = ouro_weakref_new_callback(p->kept[i], call, OURO_OF(ring));
        CHECK(ring->inner, "memory is out");
        ouro_decref(ring);
    }
    if (one_in(p->random, 2))
        return;
    if (mailbox_post(&box, p->random,
                     (struct letter){.thing = p->kept[i], .serial = p->serials[i]}))
        p->kept[i] = NULL;
}

static void put(struct person *p)
{
    struct random *random = p->random;
    struct place *place = &places[random_below(random, PLACES)];
    struct thing *thing = family_new(random);
    uint64_t serial = thing->serial;
    ouro_weakref *ref = weak_to(thing), *old;

    if (one_in(random, 3)) {
        struct thing *argument = one_in(random, 2) ? thing_new(random) : NULL;
        ouro_weakref *watcher =
            ouro_weakref_new_callback(thing, call, argument ? OURO_OF(argument) : NULL);

        CHECK(watcher, "memory is out");
        ouro_decref_or_null(argument);
        know(p, watcher, serial);
    }
    mutex_lock_politely(&place->mutex, random);
    old = place->ref;
    place->ref = ref;
    place->serial = serial;
    pthread_mutex_unlock(&place->mutex);
    ouro_decref_or_null(old);
    if (one_in(random, 4))
        sched_yield();
    if (one_in(random, 3))
        keep(p, thing, serial);
    else if (!one_in(random, 3) ||
             !mailbox_post(&box, random, (struct letter){.thing = thing, .serial = serial}))
        drop(thing, serial);
}

static void look(struct person *p)
{
    struct place *place = &places[random_below(p->random, PLACES)];
    ouro_weakref *ref;
    uint64_t serial;

    mutex_lock_politely(&place->mutex, p->random);
    ref = place->ref ? ouro_incref(place->ref) : NULL;
    serial = place->serial;
    pthread_mutex_unlock(&place->mutex);
    if (ref)
        know(p, ref, serial);
}

/* Again and again, since it is the last moments of a thing that matter. */
static void get(struct person *p)
{
    unsigned i = random_below(p->random, KNOWN), times = 1 + random_below(p->random, 20);
    ouro_weakref *ref = p->known[i].ref;
    uint64_t serial = p->known[i].serial;

    if (!ref)
        return;
    while (times-- > 0) {
        struct thing *thing = ouro_weakref_get(ref);

        if (!thing) {
            p->known[i].cleared = true;
            count_up(&misses);
            continue;
        }
        CHECK(!p->known[i].cleared, "a weak reference has returned something after it was cleared");
        thing_check(thing, serial);
        count_up(&gets);
        if (one_in(p->random, 8)) { /* the shared one, or a new one if that has died */
            ouro_weakref *again = weak_to(thing);
            struct thing *same = ouro_weakref_get(again);

            CHECK(same == thing, "a weak get of a thing that is held has returned something else");
            ouro_decref(same);
            ouro_decref(again);
        }
        if (one_in(p->random, 6)) {
            keep(p, thing, serial);
            return;
        }
        drop(thing, serial);
    }
}

static void take_letter(struct person *p)
{
    struct letter letter;

    if (mailbox_take(&box, p->random, &letter))
        drop(letter.thing, letter.serial);
}

static void drop_kept(struct person *p)
{
    unsigned i = random_below(p->random, KEPT);

    if (p->kept[i]) {
        drop(p->kept[i], p->serials[i]);
        p->kept[i] = NULL;
    }
}

static void empty_slot(struct random *random)
{
    struct thing *thing = ouro_slot_load(&slots[random_below(random, SLOTS)]);

    if (!thing)
        return;
    uint64_t state = atomic_load_explicit(&thing->state, memory_order_relaxed);
    CHECK(state == DOOMED, "a thing that was resurrected is of state %llu",
          (unsigned long long)state);
    ouro_weakref *ref = weak_to(thing); /* new ones may be made: it lives */
    struct thing *got = ouro_weakref_get(ref);
    CHECK(got == thing, "a resurrected thing can't be got weakly");
    ouro_decref(got);
    CHECK(ouro_slot_clear(&slots[thing->serial % SLOTS]) == OURO_OK, "memory is out");
    ouro_decref(thing);
    ouro_decref(ref);
}

static void act(struct person *p)
{
    struct random *random = p->random;

    switch (random_below(random, 16)) {
    case 0:
    case 1:
    case 2:
        put(p);
        break;
    case 3:
    case 4:
    case 5:
        look(p);
        break;
    case 6:
    case 7:
        drop_kept(p);
        break;
    case 8:
        take_letter(p);
        break;
    case 9:
        if (one_in(random, 4))
            empty_slot(random);
        else if (one_in(random, 4))
            watch_from_garbage(p);
        break;
    default:
        get(p);
    }
    if (one_in(random, 100))
        OURO_DETACHED
        {
            sleep_us(random_below(random, 100));
        }
    if (one_in(random, 400))
        atomic_fetch_add_explicit(&collected, ouro_collect(), memory_order_relaxed);
    if (!one_in(random, 4))
        ouro_safepoint();
}

static void life(unsigned index, struct random *random, void *argument)
{
    uint64_t end = time_slice(1 + random_below(random, 80));
    struct person p = {.random = random};

    (void)index, (void)argument;
    enter("person");
    while (now_ns() < end)
        act(&p);
    for (unsigned i = 0; i < KEPT; i++)
        if (p.kept[i])
            drop(p.kept[i], p.serials[i]);
    for (unsigned i = 0; i < KNOWN; i++)
        ouro_decref_or_null(p.known[i].ref);
    leave(random);
}

static void worker(unsigned index, struct random *random, void *argument)
{
    (void)argument;
    while (!time_is_up())
        run_threads(index, 1, random_next(random), life, NULL);
}

/* --- the events, for certain --------------------------------------------------------------------- */

struct blocker {
    ouro_header ouro;
    struct thing *thing; /* the collector does not know it */
};

static const ouro_type *blocker_type;
static ouro_weakref *prologue_ref;

/* What a `destroy` drops is dead at once, but waits until `destroy` has returned for what else has to be done with it. */
static void blocker_destroy(void *self)
{
    ouro_decref(((struct blocker *)self)->thing);
    step_reached(3);
    step_await(4);
}

static void prologue_dropper(struct random *random)
{
    static struct thing *things[AGAIN];
    struct blocker *blocker = ouro_new(blocker_type);
    struct thing *thing = ouro_new(thing_type);

    CHECK(blocker && thing, "memory is out");
    thing->serial = count_up(&serials) + 1;
    thing->canary = CANARY ^ thing->serial;
    atomic_store_explicit(&thing->state, ALIVE, memory_order_relaxed);
    count_up(&made);
    prologue_ref = ouro_weakref_new_callback(thing, call, NULL);
    CHECK(prologue_ref, "memory is out");
    blocker->thing = thing;
    step_reached(1);
    step_await(2);
    ouro_decref(blocker);
    CHECK(ouro_weakref_is_cleared(prologue_ref),
          "a thing is gone and its weak reference is not cleared");
    CHECK(count_of(&destroyed) == 1, "a thing that was dropped last was not destroyed");
    for (unsigned i = 0; i < AGAIN; i++) {
        things[i] = thing_new(random);
        CHECK(things[i] != thing, "a block is in use again that a weak get may still look at");
    }
    step_reached(5);
    for (unsigned i = 0; i < AGAIN; i++)
        ouro_decref(things[i]);
    ouro_decref(prologue_ref);
    ouro_synchronize();
    for (int i = 0; i < 3; i++)
        ouro_safepoint();
}

/* Attached all the time, without a safepoint until 5. */
static void prologue_getter(void)
{
    step_await(1);
    step_reached(2);
    step_await(3);
    CHECK(!ouro_weakref_is_cleared(prologue_ref),
          "cleared before its time: the script is of no use");
    CHECK(!ouro_weakref_get(prologue_ref), "a weak get has returned a thing that had died");
    step_reached(4);
    step_await(5);
}

static void prologue(unsigned index, struct random *random, void *argument)
{
    (void)argument;
    enter("prologue");
    if (index == 0)
        prologue_dropper(random);
    else
        prologue_getter();
    ouro_thread_unregister();
}

/* --- main ---------------------------------------------------------------------------------------- */

static void register_types(void)
{
    static const uint16_t fields[] = {OURO_FIELD(struct thing, next),
                                      OURO_FIELD(struct thing, inner)};
    ouro_type_spec spec = {.name = "thing",
                           .size = sizeof(struct thing),
                           .fields = fields,
                           .field_count = 2,
                           .destroy = thing_destroy};

    CHECK(ouro_type_register(&spec, &thing_type) == OURO_OK, "a type can't be registered");
    spec.name = "doomed thing";
    spec.finalize = thing_finalize;
    CHECK(ouro_type_register(&spec, &doomed_type) == OURO_OK, "a type can't be registered");
    spec = (ouro_type_spec){.name = "blocker",
                            .size = sizeof(struct blocker),
                            .destroy = blocker_destroy};
    CHECK(ouro_type_register(&spec, &blocker_type) == OURO_OK, "a type can't be registered");
}

static void check_empty(struct random *random)
{
    ouro_memory memory;
    struct letter letter;

    while (mailbox_take(&box, random, &letter))
        drop(letter.thing, letter.serial);
    for (unsigned i = 0; i < PLACES; i++) {
        ouro_decref_or_null(places[i].ref);
        places[i].ref = NULL;
    }
    for (int round = 0; round < 10; round++) { /* finalizers put more into the slots, once each */
        for (unsigned i = 0; i < SLOTS; i++)
            CHECK(ouro_slot_clear(&slots[i]) == OURO_OK, "memory is out");
        ouro_synchronize();
        atomic_fetch_add_explicit(&collected, ouro_collect(), memory_order_relaxed);
    }
    CHECK(ouro_finalizers_waiting() == 0, "finalizers wait although all were to run");
    CHECK(count_of(&made) == count_of(&destroyed), "%llu things were made, %llu destroyed",
          (unsigned long long)count_of(&made), (unsigned long long)count_of(&destroyed));
    ouro_memory_stats(&memory);
    CHECK(memory.objects == 0, "%zu objects are left", memory.objects);
    CHECK(memory.buffers == 0, "%zu buffers are left", memory.buffers);
}

static bool is_shown(void)
{
    return count_of(&gets) > 0 && count_of(&misses) > 0 && count_of(&resurrected) > 0 &&
           event_total(EVENT_WEAK_CALL) > 0;
}

int main(int argc, char **argv)
{
    struct random random;

    stress_begin(argc, argv, "weak_last", 3, 6);
    stress_shows(is_shown);
    random.state = mix(stress.seed);
    for (unsigned i = 0; i < PLACES; i++)
        pthread_mutex_init(&places[i].mutex, NULL);
    mailbox_init(&box);
    enter("main");
    register_types();
    run_threads(0, 2, 1, prologue, NULL);
    ouro_safepoint();
    run_threads(0, stress.threads, 2, worker, NULL);
    check_empty(&random);

    stress_value("made", count_of(&made));
    stress_value("gets", count_of(&gets));
    stress_value("misses", count_of(&misses));
    stress_value("resurrected", count_of(&resurrected));
    stress_value("collected", count_of(&collected));
    CHECK(count_of(&gets) > 0 && count_of(&misses) > 0 && count_of(&resurrected) > 0,
          "nothing was got, missed or resurrected");
    CHECK(count_of(&finalized) == event_total(EVENT_FINALIZED), "finalizers are counted wrongly");
    CHECK(count_of(&called) == event_total(EVENT_WEAK_CALL), "callbacks are counted wrongly");
    stress_event(EVENT_WEAK_REFUSED, 1);
    stress_event(EVENT_WEAK_GIVEN_BACK, 0);
    stress_event(EVENT_WEAK_CLEARED, 1);
    stress_event(EVENT_WEAK_CALL, 1);
    stress_event(EVENT_FINALIZED, 1);
    stress_event(EVENT_BLOCK_WAITED, 1);
    stress_end();
    return ouro_shutdown() != OURO_OK;
}
