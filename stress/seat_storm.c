/*
 * seat_storm.c - stress: threads come, go, attach, detach, nest and stop the world, all at once.
 *
 * Shows that in a stopped world nobody else is attached, that one thread at a time has a seat, and that
 * nobody waits for ever.  The witnesses are plain variables, so that ThreadSanitizer sees a missing
 * order too: a counter per thread, which that thread changes only while attached and which whoever stops
 * the world reads; a value of the world's, which is changed in a stopped world and read by attached
 * threads; an occupant per seat.  Meanwhile they leave hints in each other's inboxes.
 */
#include "stress.h"

#include <sched.h>

enum { WORKERS_MAX = 64, SLOTS = 8, SEATS = 256 };

#define CANARY UINT64_C(0x5EA75EA75EA75EA7)

struct item {
    ouro_header ouro;
    uint64_t canary;
    uint64_t serial;
};

struct worker {
    _Alignas(64) uint64_t bumps; /* plain: by its thread while attached; read in a stopped world */
    uint64_t seen;               /* the world's value when last looked at */
    unsigned index;
    unsigned seat;
    struct random *random;
};

static const ouro_type *item_type;
static struct worker workers[WORKERS_MAX];
static unsigned occupants[SEATS]; /* plain: by the thread that is attached in the seat */
static uint64_t world_value;      /* plain: by whoever has stopped the world */
static _Atomic(struct item *) slots[SLOTS];
static counter made, destroyed, registrations;
static atomic_bool stopped;

/* --- hints --------------------------------------------------------------------------------------- */

static void item_destroy(void *self)
{
    struct item *item = self;

    CHECK(item->canary == (CANARY ^ item->serial),
          "destroy was called for what is no item, or twice");
    item->canary = 0;
    count_up(&destroyed);
}

static struct item *item_new(void)
{
    struct item *item = ouro_new(item_type);

    CHECK(item, "memory is out");
    item->serial = count_up(&made);
    item->canary = CANARY ^ item->serial;
    return item;
}

static void item_drop(struct item *item)
{
    CHECK(item->canary == (CANARY ^ item->serial), "an item was destroyed while it was held");
    ouro_decref(item);
}

/* Swaps a new item for one that another thread made, and drops that. */
static void swap_item(struct random *random)
{
    struct item *item = item_new();
    bool keep = one_in(random, 2);
    struct item *old;

    if (keep)
        (void)ouro_incref(item);
    old = atomic_exchange_explicit(&slots[random_below(random, SLOTS)], item, memory_order_acq_rel);
    if (old)
        item_drop(old);
    if (keep)
        item_drop(item);
}

/* --- the witnesses ------------------------------------------------------------------------------- */

/* Only while attached. */
static void touch(struct worker *w)
{
    CHECK(!atomic_load_explicit(&stopped, memory_order_relaxed),
          "a thread is attached in a stopped world");
    w->bumps++;
    CHECK(world_value >= w->seen, "the world's value went back");
    w->seen = world_value;
    CHECK(ouro_thread_id() == w->seat, "a thread moved from seat %u to %u", w->seat,
          ouro_thread_id());
    CHECK(occupants[w->seat] == w->index, "threads %u and %u sit in seat %u", w->index,
          occupants[w->seat], w->seat);
}

static void sit_down(struct worker *w)
{
    enter("storm");
    w->seat = ouro_thread_id();
    CHECK(w->seat > 0 && w->seat < SEATS, "%u threads use seat %u", stress.threads, w->seat);
    occupants[w->seat] = w->index;
    count_up(&registrations);
    touch(w);
}

static void stop_and_look(struct worker *w)
{
    uint64_t bumps[WORKERS_MAX];
    unsigned rounds = 1 + random_below(w->random, 3);

    ouro_world_stop();
    CHECK(!atomic_exchange_explicit(&stopped, true, memory_order_relaxed),
          "two threads have stopped the world");
    world_value++;
    for (unsigned i = 0; i < stress.threads; i++)
        bumps[i] = workers[i].bumps;
    while (rounds-- > 0) {
        if (one_in(w->random, 16))
            sleep_us(50);
        else
            sched_yield();
        for (unsigned i = 0; i < stress.threads; i++)
            CHECK(workers[i].bumps == bumps[i], "thread %u ran in a stopped world", i);
    }
    atomic_store_explicit(&stopped, false, memory_order_relaxed);
    ouro_world_start();
}

/* --- what a worker does -------------------------------------------------------------------------- */

static void pause_detached(struct random *random)
{
    if (one_in(random, 8))
        sleep_us(random_below(random, 200));
    else if (one_in(random, 2))
        sched_yield();
}

/* Attached regions inside detached ones inside attached ones. */
static void nest(struct worker *w, unsigned depth)
{
    ouro_state before = ouro_detach();

    pause_detached(w->random);
    if (depth > 0) {
        ouro_state inside = ouro_attach();

        CHECK(inside == OURO_STATE_DETACHED, "attach in a detached region returned state %d",
              (int)inside);
        touch(w);
        if (one_in(w->random, 2))
            swap_item(w->random);
        nest(w, depth - 1);
        touch(w);
        ouro_restore(inside);
        CHECK(ouro_thread_state() == OURO_STATE_DETACHED, "restore did not detach");
    }
    ouro_restore(before);
    CHECK(ouro_thread_state() == before, "restore did not put the state back");
}

static void step(struct worker *w)
{
    struct random *random = w->random;
    uint32_t dice = random_below(random, 256);

    switch (ouro_thread_state()) {
    case OURO_STATE_UNREGISTERED:
        pause_detached(random);
        sit_down(w);
        break;
    case OURO_STATE_DETACHED:
        pause_detached(random);
        if (dice < 16)
            ouro_thread_unregister();
        else if (dice < 64)
            nest(w, 1 + random_below(random, 3));
        else
            (void)ouro_attach();
        break;
    case OURO_STATE_ATTACHED:
        touch(w);
        if (dice < 8) {
            ouro_thread_unregister();
        } else if (dice < 40) {
            (void)ouro_detach();
        } else if (dice < 48) {
            stop_and_look(w);
            touch(w);
        } else if (dice < 56) {
            nest(w, 1 + random_below(random, 3));
        } else if (dice < 112) {
            swap_item(random);
        } else if (dice < 240) {
            ouro_safepoint();
            touch(w);
        } else {
            for (uint32_t i = random_below(random, 64); i > 0; i--)
                touch(w);
        }
    }
}

static uint64_t storm_end;

static void worker(unsigned index, struct random *random, void *argument)
{
    struct worker *w = &workers[index];

    (void)argument;
    w->index = index;
    w->random = random;
    for (unsigned i = 0; i % 32 || now_ns() < storm_end; i++)
        step(w);
    if (ouro_thread_state() != OURO_STATE_UNREGISTERED)
        leave(random);
}

/* --- seats without a thread: nothing that is left for them is forgotten --------------------------- */

enum { DROPPERS = 2, DROPS = 3 };

static struct item *abandoned[DROPPERS][DROPS];
static atomic_uint arrivals;
static atomic_bool abandoning_is_over;
static unsigned abandon_rounds;

/* Makes items that two others are to drop, and stays away until they have: none of them may be left then. */
static void abandon_round(unsigned number)
{
    (void)ouro_attach();
    for (unsigned i = 0; i < DROPPERS; i++)
        for (unsigned j = 0; j < DROPS; j++)
            abandoned[i][j] = item_new();
    (void)ouro_detach();
    step_reached(number);
    while (atomic_load(&arrivals) < number * (DROPPERS + 1))
        sched_yield();
    CHECK(count_of(&destroyed) == count_of(&made),
          "round %u: %llu of %u items were forgotten in the inbox of a detached seat", number,
          (unsigned long long)(count_of(&made) - count_of(&destroyed)), DROPPERS * DROPS);
}

/* The owner of the seat, those who drop what it made, and one who stops the world meanwhile. */
static void abandon(unsigned index, struct random *random, void *argument)
{
    (void)argument;
    enter("abandon");
    if (index == DROPPERS + 1) {
        unsigned number = 0;

        do
            abandon_round(++number);
        while (!time_is_up());
        abandon_rounds = number;
        atomic_store(&abandoning_is_over, true);
        step_reached(number + 1);
        ouro_thread_unregister();
        return;
    }
    for (unsigned number = 1;; number++) {
        while (!step_passed(number)) {
            ouro_safepoint();
            sched_yield();
        }
        if (atomic_load(&abandoning_is_over))
            break;
        for (unsigned spin = random_below(random, 64); spin > 0; spin--)
            ouro_safepoint();
        if (index == DROPPERS) {
            ouro_world_stop();
            ouro_world_start();
        } else {
            for (unsigned i = 0; i < DROPS; i++)
                item_drop(abandoned[index][i]);
        }
        ouro_safepoint();
        atomic_fetch_add(&arrivals, 1);
    }
    ouro_thread_unregister();
}

/* --- the events, for certain: tried until they have been counted --------------------------------- */

enum { TRIES = 200 };

static struct item *shown;

static void prologue_stopper(void)
{
    uint64_t before;

    enter("stopper");
    step_await(1); /* the other passes safepoints */
    for (unsigned i = 0; i < TRIES && event_total(EVENT_PARK) == 0; i++) {
        ouro_world_stop();
        sleep_us(100);
        ouro_world_start();
    }
    step_reached(2);

    step_await(3); /* the other is detached */
    ouro_world_stop();
    step_reached(4);
    step_await(5); /* the other is about to attach */
    sleep_us(500);
    ouro_world_start();

    step_await(6); /* the other is detached, and the only reference to what it owns is here */
    before = count_of(&destroyed);
    item_drop(shown);
    CHECK(count_of(&destroyed) == before + 1, "nobody drained the inbox of a detached seat");
    step_reached(7);
    ouro_thread_unregister();
}

static void prologue_other(void)
{
    enter("other");
    step_reached(1);
    while (!step_passed(2))
        ouro_safepoint();

    (void)ouro_detach();
    step_reached(3);
    step_await(4);
    step_reached(5);
    (void)ouro_attach();

    shown = item_new();
    (void)ouro_detach();
    step_reached(6);
    step_await(7);
    ouro_thread_unregister();
}

static void prologue(unsigned index, struct random *random, void *argument)
{
    (void)random;
    (void)argument;
    if (index == 0)
        prologue_stopper();
    else
        prologue_other();
}

int main(int argc, char **argv)
{
    ouro_type_spec spec = {.name = "item", .size = sizeof(struct item), .destroy = item_destroy};
    ouro_memory memory;

    stress_begin(argc, argv, "seat_storm", 4, 6);
    CHECK(ouro_type_register(&spec, &item_type) == OURO_OK, "a type can't be registered");
    for (unsigned i = 0; i < TRIES && event_total(EVENT_ATTACH_WAIT) == 0; i++) {
        step_restart();
        run_threads(0, 2, i, prologue, NULL);
    }

    storm_end = time_slice(stress.seconds * 650);
    run_threads(0, stress.threads, TRIES, worker, NULL);
    enter("main");
    for (unsigned i = 0; i < SLOTS; i++) {
        struct item *item = atomic_load(&slots[i]);

        if (item)
            item_drop(item);
    }
    ouro_safepoint();
    CHECK(count_of(&made) == count_of(&destroyed), "%llu were made, %llu destroyed",
          (unsigned long long)count_of(&made), (unsigned long long)count_of(&destroyed));
    ouro_thread_unregister();

    step_restart();
    run_threads(0, DROPPERS + 2, TRIES + 1, abandon, NULL);
    CHECK(abandon_rounds > 0, "nothing was shown: no seat was ever left alone");

    enter("main");
    ouro_memory_stats(&memory);
    CHECK(memory.objects == 0, "%zu objects are left", memory.objects);
    CHECK(memory.threads == 1, "%zu threads are registered", memory.threads);
    CHECK(count_of(&made) == count_of(&destroyed), "%llu were made, %llu destroyed",
          (unsigned long long)count_of(&made), (unsigned long long)count_of(&destroyed));
    ouro_thread_unregister();

    stress_value("registered", count_of(&registrations));
    stress_value("abandoned", abandon_rounds);
    stress_value("made", count_of(&made));
    stress_event(EVENT_STOP, 2);
    stress_event(EVENT_PARK, 1);
    stress_event(EVENT_ATTACH_WAIT, 1);
    stress_event(EVENT_HINT, 1);
    stress_event(EVENT_PROXY, 1);
    stress_end();
    return 0;
}
