/*
 * lock_turns.c - stress: threads take turns with the locks of a few objects, while the objects are replaced, worlds
 * stopped and cycles collected.
 *
 * Shows that an object's lock is held by one thread at a time, that what one did under it is what the next one finds,
 * that nobody waits for ever, and that in a stopped world a lock is held by whoever took it before, never by one
 * that still waits to get in.  The witnesses are plain fields of the objects: two counters that are always equal when the
 * holder passes a safepoint, and the holder's number.  So ThreadSanitizer sees a missing order, too.
 */
#include "stress.h"

#include <sched.h>

enum { CELLS = 24, HOT = 2, WORKERS_MAX = 64, LOCKED = 1, WAITERS = 2 };

struct cell {
    ouro_header ouro;
    struct cell *peer;      /* under the lock */
    uint64_t first, second; /* under the lock: how often somebody has held it */
    unsigned holder;        /* under the lock: whose turn it is, from 1 on */
};

struct worker {
    _Alignas(64) const
        struct cell *waits_with; /* plain: it may hold this one, and wait for another */
    unsigned number;             /* from 1 on */
    struct random *random;
};

static const ouro_type *cell_type;
static ouro_slot slots[CELLS];
static struct worker workers[WORKERS_MAX];
static counter turns, buried, refused, looks, made;

/* --- cells --------------------------------------------------------------------------------------- */

static unsigned byte_of(const struct cell *cell)
{
    return __atomic_load_n(&cell->ouro.lock, __ATOMIC_RELAXED);
}

static void cell_destroy(void *self)
{
    const struct cell *cell = self;

    CHECK(!(byte_of(cell) & LOCKED), "a cell is destroyed while it is locked");
    CHECK(!cell->holder && cell->first == cell->second, "a cell died in somebody's turn");
    atomic_fetch_add_explicit(&buried, cell->first, memory_order_relaxed);
}

static struct cell *cell_new(void)
{
    struct cell *cell = ouro_new(cell_type);

    CHECK(cell, "memory is out");
    count_up(&made);
    return cell;
}

/* A new reference to one of the cells, mostly one of those that all want. */
static struct cell *cell_pick(struct random *random)
{
    uint32_t i = random_below(random, one_in(random, 4) ? CELLS : HOT);

    return ouro_slot_load(&slots[i]);
}

/* --- a turn -------------------------------------------------------------------------------------- */

static void turn_begin(struct worker *w, struct cell *cell)
{
    CHECK(byte_of(cell) & LOCKED, "a lock was given to thread %u, and is free", w->number);
    CHECK(cell->holder == 0, "threads %u and %u hold one lock", cell->holder, w->number);
    cell->holder = w->number;
    cell->first++;
    if (one_in(w->random, 32))
        sched_yield();
    cell->second++;
    count_up(&turns);
}

static void turn_end(struct worker *w, struct cell *cell)
{
    CHECK(cell->holder == w->number, "thread %u took the lock of thread %u", cell->holder,
          w->number);
    CHECK(cell->first == cell->second, "two turns at once: %llu and %llu",
          (unsigned long long)cell->first, (unsigned long long)cell->second);
    cell->holder = 0;
}

/* Makes the cells refer to each other, so that they are garbage when they are replaced. */
static void refer(struct cell *cell, struct cell *peer)
{
    struct cell *old = cell->peer;

    cell->peer = peer == cell ? NULL : ouro_incref(peer);
    ouro_decref_or_null(old);
}

/* What the thread does while it has the lock. */
static void dawdle(struct worker *w)
{
    uint32_t dice = random_below(w->random, 64);

    if (dice == 0) {
        OURO_DETACHED sleep_us(random_below(w->random, 100));
    } else if (dice < 8) {
        ouro_safepoint();
    } else if (dice < 12) {
        sched_yield();
    }
}

static void turn(struct worker *w, struct cell *cell)
{
    turn_begin(w, cell);
    dawdle(w);
    turn_end(w, cell);
}

static void take_one(struct worker *w)
{
    struct cell *cell = cell_pick(w->random);

    if (one_in(w->random, 4)) {
        if (ouro_trylock(cell)) {
            turn(w, cell);
            ouro_unlock(cell);
        } else {
            count_up(&refused);
        }
    } else if (one_in(w->random, 2)) {
        OURO_LOCKED(cell)
        {
            turn(w, cell);
            if (one_in(w->random, 2))
                break;
        }
    } else {
        ouro_lock(cell);
        turn(w, cell);
        ouro_unlock(cell);
    }
    ouro_decref(cell);
}

static void take_pair(struct worker *w)
{
    struct cell *a = cell_pick(w->random), *b = cell_pick(w->random);

    w->waits_with = (uintptr_t)a < (uintptr_t)b ? a : b;
    ouro_lock_pair(a, b);
    turn_begin(w, a);
    if (a != b)
        turn_begin(w, b);
    w->waits_with = NULL;
    if (one_in(w->random, 4))
        refer(a, b);
    dawdle(w);
    turn_end(w, a);
    if (a != b)
        turn_end(w, b);
    ouro_unlock_pair(a, b);
    ouro_decref(a);
    ouro_decref(b);
}

/* --- the world ----------------------------------------------------------------------------------- */

static bool may_wait_with(const struct cell *cell)
{
    for (unsigned i = 0; i < stress.threads; i++)
        if (workers[i].waits_with == cell)
            return true;
    return false;
}

/* In a stopped world: locked is what somebody has taken who knows it. */
static void look_at(struct worker *w, struct cell *cell)
{
    unsigned byte = byte_of(cell);

    CHECK(cell->first == cell->second, "somebody was stopped in the middle of a turn");
    CHECK(!cell->holder || (byte & LOCKED), "thread %u holds a lock that is free", cell->holder);
    CHECK(cell->holder || !(byte & LOCKED) || may_wait_with(cell),
          "a lock went to a thread that is kept out");
    if (!(byte & LOCKED)) {
        CHECK(ouro_trylock(cell), "a lock is free and can't be had in a stopped world");
        turn_begin(w, cell);
        turn_end(w, cell);
        ouro_unlock(cell);
        CHECK(!(byte_of(cell) & LOCKED), "a lock was taken in a stopped world");
    }
    count_up(&looks);
}

static void stop_and_look(struct worker *w)
{
    ouro_world_stop();
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned i = 0; i < CELLS; i++)
            look_at(w, ouro_slot_borrow(&slots[i]));
        sched_yield();
    }
    ouro_world_start();
}

static void worker(unsigned index, struct random *random, void *argument)
{
    struct worker *w = &workers[index];

    (void)argument;
    w->number = index + 1;
    w->random = random;
    enter("turns");
    for (unsigned i = 0; i % 32 || !time_is_up(); i++) {
        uint32_t dice = random_below(random, 512);

        if (dice < 2) {
            stop_and_look(w);
        } else if (dice < 4) {
            (void)ouro_collect();
        } else if (dice < 24) {
            CHECK(ouro_slot_store_steal(&slots[random_below(random, CELLS)], cell_new()) == OURO_OK,
                  "memory is out");
        } else if (dice < 160) {
            take_pair(w);
        } else {
            take_one(w);
        }
        if (one_in(random, 4))
            ouro_safepoint();
    }
    leave(random);
}

/* --- waiting, for certain ------------------------------------------------------------------------ */

/* One holds the lock until the other waits, stops the world, and gives it back there. */
static void prologue_holder(struct cell *cell, unsigned round)
{
    struct random random = {round + 1};
    struct worker w = {.number = 1, .random = &random};

    enter("holder");
    ouro_lock(cell);
    turn_begin(&w, cell);
    step_reached(1);
    while (!(byte_of(cell) & WAITERS))
        ouro_safepoint();
    if (round % 2) {
        ouro_world_stop();
        turn_end(&w, cell);
        ouro_unlock(cell);
        for (int i = 0; i < 20; i++) {
            CHECK(!(byte_of(cell) & LOCKED), "who waited got the lock in a stopped world");
            sleep_us(50);
        }
        look_at(&w, cell);
        ouro_world_start();
    } else {
        turn_end(&w, cell);
        ouro_unlock(cell);
    }
    ouro_thread_unregister();
}

static void prologue(unsigned index, struct random *random, void *argument)
{
    struct worker w = {.number = 2, .random = random};
    struct cell *cell = argument;

    if (index == 0) {
        prologue_holder(cell, (unsigned)(random_next(random) % 2));
        return;
    }
    enter("waiter");
    step_await(1);
    ouro_lock(cell);
    turn_begin(&w, cell);
    turn_end(&w, cell);
    ouro_unlock(cell);
    ouro_thread_unregister();
}

static bool is_shown(void)
{
    return count_of(&refused) > 0 && count_of(&looks) > 0 && event_total(EVENT_COLLECT) > 0;
}

int main(int argc, char **argv)
{
    static const uint16_t fields[] = {OURO_FIELD(struct cell, peer)};
    ouro_type_spec spec = {.name = "cell",
                           .size = sizeof(struct cell),
                           .fields = fields,
                           .field_count = 1,
                           .destroy = cell_destroy};
    ouro_memory memory;

    stress_begin(argc, argv, "lock_turns", 3, 6);
    stress_shows(is_shown);
    CHECK(ouro_type_register(&spec, &cell_type) == OURO_OK, "a type can't be registered");
    enter("main");
    for (unsigned i = 0; i < CELLS; i++)
        CHECK(ouro_slot_store_steal(&slots[i], cell_new()) == OURO_OK, "memory is out");
    for (unsigned i = 0; i < 20; i++) {
        struct cell *cell = ouro_slot_load(&slots[0]);

        step_restart();
        run_threads(0, 2, i, prologue, cell);
        ouro_decref(cell);
    }
    run_threads(0, stress.threads, 20, worker, NULL);

    for (unsigned i = 0; i < CELLS; i++)
        CHECK(ouro_slot_clear(&slots[i]) == OURO_OK, "memory is out");
    ouro_synchronize();
    (void)ouro_collect();
    ouro_memory_stats(&memory);
    CHECK(memory.objects == 0, "%zu objects are left", memory.objects);
    CHECK(count_of(&turns) == count_of(&buried), "%llu turns were taken, the cells remember %llu",
          (unsigned long long)count_of(&turns), (unsigned long long)count_of(&buried));
    ouro_thread_unregister();

    CHECK(count_of(&refused) > 0, "nothing was shown: ouro_trylock() always got the lock");
    CHECK(count_of(&looks) > 0, "nothing was shown: nobody looked at a stopped world");
    stress_value("turns", count_of(&turns));
    stress_value("cells", count_of(&made));
    stress_value("refused", count_of(&refused));
    stress_value("looks", count_of(&looks));
    stress_event(EVENT_LOCK_WAIT, 20);
    stress_event(EVENT_STOP, 2);
    stress_event(EVENT_COLLECT, 1);
    stress_end();
    return 0;
}
