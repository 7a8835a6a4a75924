/*
 * slot_age.c - stress: what was borrowed from a slot lives until the borrower's next safepoint, whatever others store.
 *
 * Each object has an age.  It is 0 while the object is in its slot, 1 as soon as the writer who took it out has noted
 * that, 2 when a grace period has passed since then.  A reader may see 0 or 1 until his next safepoint, never 2.
 * Writers hold a reference to some of what they take out, so that its age can be read although the library is wrong;
 * the others are left to the library alone, and `destroy` spoils them.  Readers go from an object to one that is in a
 * slot of it, read a buffer that is replaced and freed after a grace period, keep references over safepoints, and
 * run long without one.  Threads come and go.
 *
 * Ages are relaxed, like all that the program itself writes to objects that others can see, so that the order which
 * ThreadSanitizer looks for can only come from the library.
 */
#include "stress.h"

#include <sched.h>
#include <string.h>

enum {
    SLOTS = 4,
    WRITERS = 2, /* of the threads, the first */
    FIFO = 64,
    KEPT = 8,
    WORDS_MAX = 64,
};

#define CANARY UINT64_C(0x5107A6E5107A6E51)
#define POISON UINT64_C(0xDEADDEADDEADDEAD)

struct thing {
    ouro_header ouro;
    uint64_t canary;
    uint64_t serial;
    counter age;
    ouro_slot inner; /* another thing, which is in this slot only; writers replace it */
    ouro_slot self;  /* NULL or this thing: a cycle */
    _Atomic(uint64_t *) words;
};

static const ouro_type *thing_type;
static ouro_slot slots[SLOTS];
static counter serials, made, destroyed, reads, updates, ages[3], held, buffers_replaced, collected;

/* --- things -------------------------------------------------------------------------------------- */

static void thing_destroy(void *self)
{
    struct thing *thing = self;

    CHECK(thing->canary == (CANARY ^ thing->serial), "destroy was called twice, or for no thing");
    ouro_free(atomic_load_explicit(&thing->words, memory_order_relaxed));
    thing->canary = 0;
    atomic_store_explicit(&thing->age, POISON, memory_order_relaxed);
    count_up(&destroyed);
}

/* words[0] is the number of words, words[1] the seed of the others. */
static uint64_t *words_new(struct random *random)
{
    uint64_t count = 2 + random_below(random, WORDS_MAX - 1);
    uint64_t *words = ouro_alloc(count * sizeof *words);

    CHECK(words, "memory is out");
    words[0] = count;
    words[1] = random_next(random);
    for (uint64_t i = 2; i < count; i++)
        words[i] = mix(words[1] + i);
    return words;
}

static void words_check(const struct thing *thing)
{
    const uint64_t *words = atomic_load_explicit(&thing->words, memory_order_acquire);
    uint64_t count = words[0], seed = words[1];

    CHECK(count >= 2 && count <= WORDS_MAX, "a buffer was freed while it was read");
    for (uint64_t i = 2; i < count; i++)
        CHECK(words[i] == mix(seed + i), "a buffer was freed while it was read");
    CHECK(words[0] == count && words[1] == seed, "a buffer was freed while it was read");
}

static struct thing *thing_new(struct random *random)
{
    struct thing *thing = ouro_new(thing_type);

    CHECK(thing, "memory is out");
    thing->serial = count_up(&serials) + 1;
    thing->canary = CANARY ^ thing->serial;
    atomic_store_explicit(&thing->words, words_new(random), memory_order_relaxed);
    count_up(&made);
    return thing;
}

/* With another one inside, and sometimes in a cycle. */
static struct thing *family_new(struct random *random)
{
    struct thing *thing = thing_new(random);

    if (!one_in(random, 3))
        CHECK(ouro_slot_store_steal(&thing->inner, thing_new(random)) == OURO_OK, "memory is out");
    if (one_in(random, 8))
        CHECK(ouro_slot_store(&thing->self, thing) == OURO_OK, "memory is out");
    return thing;
}

/* Time passes without a safepoint. */
static void stall(struct random *random)
{
    uint64_t end = now_ns() + random_below(random, 200000);

    do
        sched_yield();
    while (now_ns() < end);
}

/* --- readers ------------------------------------------------------------------------------------- */

struct borrowed {
    const struct thing *thing;
    uint64_t serial;
};

/* What was borrowed since the last safepoint is as it was, and no older than one grace period's wait. */
static uint64_t borrowed_check(struct borrowed b)
{
    const struct thing *thing = b.thing;
    uint64_t age =
        atomic_load_explicit(&((struct thing *)(uintptr_t)thing)->age, memory_order_relaxed);

    if (age >= 2)
        count_up(&ages[2]);
    CHECK(age != POISON, "a borrowed thing was destroyed");
    CHECK(age < 2, "a borrowed thing is of age %llu: a grace period did not wait for its reader",
          (unsigned long long)age);
    CHECK(thing->serial == b.serial && thing->canary == (CANARY ^ b.serial),
          "the place of a borrowed thing was used again");
    return age;
}

static struct borrowed borrow(const ouro_slot *slot)
{
    struct borrowed b = {.thing = ouro_slot_borrow(slot)};

    if (b.thing) {
        b.serial = b.thing->serial;
        borrowed_check(b);
    }
    return b;
}

struct reader {
    struct random *random;
    struct thing *kept[KEPT];
    uint64_t serials[KEPT];
};

static void kept_check(const struct reader *r, unsigned i)
{
    struct thing *thing = r->kept[i];

    CHECK(thing->serial == r->serials[i] && thing->canary == (CANARY ^ r->serials[i]) &&
              atomic_load_explicit(&thing->age, memory_order_relaxed) != POISON,
          "a thing was destroyed to which a reference was held");
}

static void kept_drop(struct reader *r, unsigned i)
{
    if (r->kept[i]) {
        kept_check(r, i);
        ouro_decref(r->kept[i]);
        r->kept[i] = NULL;
    }
}

static void keep(struct reader *r, struct thing *thing, uint64_t serial)
{
    unsigned i = random_below(r->random, KEPT);

    if (r->kept[i]) {
        kept_check(r, i); /* dropped when nothing is borrowed: it may have an inner one */
        return;
    }
    r->kept[i] = ouro_incref(thing);
    r->serials[i] = serial;
    count_up(&held);
}

/* From one safepoint to the next. */
static void read_once(struct reader *r)
{
    struct borrowed all[2 * SLOTS];
    struct random *random = r->random;
    unsigned count = 0, rounds = 1 + random_below(random, 3);

    for (unsigned slot = random_below(random, SLOTS); slot < SLOTS; slot++) {
        struct borrowed outer = borrow(&slots[slot]);

        if (!outer.thing)
            continue;
        all[count++] = outer;
        const struct thing *self = ouro_slot_borrow(&outer.thing->self);
        CHECK(!self || self == outer.thing, "a slot that nobody changes has changed");
        struct borrowed inner = borrow(&outer.thing->inner);
        if (inner.thing)
            all[count++] = inner;
    }
    while (rounds-- > 0) {
        for (unsigned i = 0; i < count; i++) {
            borrowed_check(all[i]);
            words_check(all[i].thing);
        }
        if (one_in(random, 16))
            sched_yield();
        if (one_in(random, 200))
            stall(random);
    }
    if (count > 0 && one_in(random, 4)) {
        struct borrowed b = all[random_below(random, count)];

        keep(r, (struct thing *)(uintptr_t)b.thing, b.serial);
    }
    if (one_in(random, 32)) {
        struct thing *thing = ouro_slot_load(&slots[random_below(random, SLOTS)]);

        if (thing) {
            CHECK(thing->canary == (CANARY ^ thing->serial), "what was loaded is no thing");
            ouro_decref(thing); /* the slot's reference, or its queue's, still keeps it */
        }
    }
    for (unsigned i = 0; i < count; i++)
        count_up(&ages[borrowed_check(all[i])]);
    atomic_fetch_add_explicit(&reads, count, memory_order_relaxed);
}

/* What is in a slot has not been taken out, and no writer stops half way. */
static void read_stopped_world(void)
{
    ouro_world_stop();
    for (unsigned i = 0; i < SLOTS; i++) {
        struct borrowed b = borrow(&slots[i]);

        if (b.thing) {
            CHECK(borrowed_check(b) == 0, "a thing in a slot is of age 1");
            words_check(b.thing);
        }
    }
    ouro_world_start();
}

static void read_all(struct random *random, uint64_t end)
{
    struct reader r = {.random = random};

    while (now_ns() < end) {
        read_once(&r);
        if (one_in(random, 4))
            kept_drop(&r, random_below(random, KEPT));
        if (one_in(random, 50))
            OURO_DETACHED
            {
                sleep_us(random_below(random, 200));
            }
        if (one_in(random, 3000))
            read_stopped_world();
        if (one_in(random, 3000))
            atomic_fetch_add_explicit(&collected, ouro_collect(), memory_order_relaxed);
        ouro_safepoint();
    }
    for (unsigned i = 0; i < KEPT; i++)
        kept_drop(&r, i);
}

/* --- writers ------------------------------------------------------------------------------------- */

struct writer {
    struct random *random;
    unsigned count;
    struct thing *fifo[FIFO]; /* taken out, with a reference */
};

static void take_out(struct thing *thing)
{
    if (thing)
        CHECK(count_up(&thing->age) == 0, "two have taken the same thing out");
}

/* All that was taken out before a grace period is past the time in which it may be used. A safepoint. */
static void grow_older(struct writer *w)
{
    ouro_synchronize();
    while (w->count > 0) {
        struct thing *thing = w->fifo[--w->count];

        CHECK(count_up(&thing->age) == 1, "a thing that is held has another age than 1");
        CHECK(thing->canary == (CANARY ^ thing->serial), "a thing that is held was destroyed");
        ouro_decref(thing);
    }
}

static void replace(struct writer *w, ouro_slot *slot, struct thing *next)
{
    ouro_object *old = NULL;
    ouro_status status = OURO_OK;

    switch (random_below(w->random, 5)) {
    case 0: /* without an age: destroy alone tells */
        status = next ? ouro_slot_store_steal(slot, next) : ouro_slot_clear(slot);
        break;
    case 1:
        status = ouro_slot_exchange(slot, next, &old);
        take_out((struct thing *)(void *)old);
        break;
    case 2: {
        struct thing *seen = ouro_slot_borrow(slot);

        status = ouro_slot_compare_exchange(slot, seen, next);
        if (status == OURO_OK) {
            take_out(seen);
        } else if (status == OURO_BUSY) {
            ouro_decref_or_null(next);
            return;
        }
        break;
    }
    default:
        status = ouro_slot_take(slot, next, &old);
        if (old) {
            take_out((struct thing *)(void *)old);
            w->fifo[w->count++] = (struct thing *)(void *)old;
        }
    }
    CHECK(status == OURO_OK, "a slot can't be changed: %s", ouro_status_text(status));
    count_up(&updates);
}

static void replace_words(struct writer *w, struct thing *thing)
{
    uint64_t *words =
        atomic_exchange_explicit(&thing->words, words_new(w->random), memory_order_acq_rel);

    CHECK(ouro_free_deferred(words) == OURO_OK, "memory is out");
    count_up(&buffers_replaced);
}

static void write_once(struct writer *w)
{
    struct random *random = w->random;
    ouro_slot *slot = &slots[random_below(random, SLOTS)];
    struct thing *thing = ouro_slot_borrow(slot);
    struct borrowed all[SLOTS];

    for (unsigned i = 0; i < SLOTS; i++)
        all[i] = borrow(&slots[i]);

    switch (random_below(random, 4)) {
    case 0:
        if (thing) {
            replace(w, &thing->inner, one_in(random, 6) ? NULL : thing_new(random));
            break;
        }
        /* fallthrough */
    case 1:
        if (thing) {
            replace_words(w, thing);
            break;
        }
        /* fallthrough */
    default:
        replace(w, slot, one_in(random, 16) ? NULL : family_new(random));
    }
    if (one_in(random, 100))
        stall(random);
    for (unsigned i = 0; i < SLOTS; i++) /* a store is no safepoint */
        if (all[i].thing)
            borrowed_check(all[i]);
    if (w->count == FIFO || one_in(random, 100))
        grow_older(w);
    else if (!one_in(random, 4))
        ouro_safepoint();
}

static void write_all(struct random *random, uint64_t end)
{
    struct writer w = {.random = random};

    while (now_ns() < end) {
        write_once(&w);
        if (one_in(random, 200))
            OURO_DETACHED
            {
                sleep_us(random_below(random, 200));
            }
        if (one_in(random, 5000))
            atomic_fetch_add_explicit(&collected, ouro_collect(), memory_order_relaxed);
    }
    grow_older(&w);
    if (!one_in(random, 4)) /* so that the thread ends with something that waits */
        CHECK(ouro_slot_store_steal(&slots[0], family_new(random)) == OURO_OK, "memory is out");
}

/* --- threads ------------------------------------------------------------------------------------- */

static void life(unsigned index, struct random *random, void *argument)
{
    uint64_t end = time_slice(1 + random_below(random, 80));

    (void)argument;
    enter(index < WRITERS ? "writer" : "reader");
    if (index < WRITERS)
        write_all(random, end);
    else
        read_all(random, end);
    leave(random);
}

static void worker(unsigned index, struct random *random, void *argument)
{
    (void)argument;
    while (!time_is_up())
        run_threads(index, 1, random_next(random), life, NULL);
}

/* --- the events, for certain --------------------------------------------------------------------- */

static uint64_t grace_before;

/*
 * A grace period has begun, and one of two readers has acknowledged it, when the writer takes something out that this
 * reader has borrowed since.  The end of that period says nothing about him: the writer has to wait for the next.
 */
static void prologue_writer(struct random *random)
{
    struct writer w = {.random = random};
    struct thing *taken = thing_new(random), *stored = thing_new(random), *old;
    ouro_object *o;

    CHECK(ouro_slot_store_steal(&slots[0], taken) == OURO_OK, "memory is out");
    CHECK(ouro_slot_store_steal(&slots[1], stored) == OURO_OK, "memory is out");
    grace_before = event_total(EVENT_GRACE);
    step_reached(1);
    step_await(4);
    ouro_safepoint();
    CHECK(ouro_slot_take(&slots[0], (struct thing *)NULL, &o) == OURO_OK && o == OURO_OF(taken),
          "a slot does not hold what was stored");
    old = (struct thing *)(void *)o;
    take_out(old);
    w.fifo[w.count++] = old;
    replace_words(&w, stored);
    CHECK(ouro_slot_clear(&slots[1]) == OURO_OK, "memory is out");
    step_reached(5);
    grow_older(&w);
    step_reached(6);
}

static void prologue_late_reader(void)
{
    uint64_t end;

    step_await(2);
    step_reached(3);
    end = now_ns() + UINT64_C(5000000000);
    while (event_total(EVENT_GRACE) == grace_before) {
        CHECK(now_ns() < end, "no grace period has begun");
        sched_yield();
    }
    ouro_safepoint();
    struct borrowed a = borrow(&slots[0]), b = borrow(&slots[1]);
    CHECK(a.thing && b.thing, "a slot does not hold what was stored");
    step_reached(4);
    step_await(5);
    end = now_ns() + 10000000;
    do {
        CHECK(borrowed_check(a) == 1, "a thing that was taken out is of age 0");
        borrowed_check(b);
        words_check(a.thing);
        words_check(b.thing);
        sched_yield();
    } while (now_ns() < end);
    count_up(&ages[1]);
    CHECK(!step_passed(6), "a grace period did not wait for a reader");
    CHECK(count_of(&destroyed) == 0, "a thing was destroyed before its reader's safepoint");
    while (!step_passed(6))
        ouro_safepoint();
}

static void prologue(unsigned index, struct random *random, void *argument)
{
    (void)argument;
    enter("prologue");
    switch (index) {
    case 0:
        prologue_writer(random);
        break;
    case 1: /* lets the first period end when the writer waits */
        step_await(1);
        step_reached(2);
        step_await(5);
        sleep_us(3000);
        break;
    case 2:
        prologue_late_reader();
        break;
    default: /* begins the first period */
        step_await(3);
        ouro_synchronize();
        CHECK(step_passed(5), "a grace period did not wait for a thread that was attached");
    }
    ouro_thread_unregister();
}

/* --- main ---------------------------------------------------------------------------------------- */

static void check_empty(void)
{
    ouro_memory memory;

    for (unsigned i = 0; i < SLOTS; i++)
        CHECK(ouro_slot_clear(&slots[i]) == OURO_OK, "memory is out");
    ouro_synchronize();
    atomic_fetch_add_explicit(&collected, ouro_collect(), memory_order_relaxed);
    ouro_synchronize();
    ouro_memory_stats(&memory);
    CHECK(memory.objects == 0, "%zu objects are left", memory.objects);
    CHECK(memory.buffers == 0, "%zu buffers are left", memory.buffers);
    CHECK(count_of(&made) == count_of(&destroyed), "%llu were made, %llu destroyed",
          (unsigned long long)count_of(&made), (unsigned long long)count_of(&destroyed));
}

static void shown(const char *key, uint64_t value)
{
    CHECK(value > 0, "nothing was shown: '%s' is 0", key);
    stress_value(key, value);
}

static bool is_shown(void)
{
    return count_of(&ages[0]) > 0 && count_of(&ages[1]) > 0 && count_of(&held) > 0 &&
           count_of(&buffers_replaced) > 0 && count_of(&collected) > 0;
}

int main(int argc, char **argv)
{
    static const uint16_t fields[] = {OURO_SLOT_FIELD(struct thing, inner),
                                      OURO_SLOT_FIELD(struct thing, self)};
    ouro_type_spec spec = {.name = "thing",
                           .size = sizeof(struct thing),
                           .fields = fields,
                           .field_count = 2,
                           .destroy = thing_destroy};

    stress_begin(argc, argv, "slot_age", 6, 8);
    stress_shows(is_shown);
    CHECK(ouro_type_register(&spec, &thing_type) == OURO_OK, "a type can't be registered");

    run_threads(0, 4, 0, prologue, NULL);
    run_threads(0, stress.threads, 1, worker, NULL);

    enter("main");
    check_empty();
    ouro_thread_unregister();

    shown("reads", count_of(&reads));
    shown("updates", count_of(&updates));
    shown("age0", count_of(&ages[0]));
    shown("age1", count_of(&ages[1]));
    stress_value("age2+", count_of(&ages[2])); /* 0: one would have ended it */
    shown("held", count_of(&held));
    shown("buffers", count_of(&buffers_replaced));
    shown("collected", count_of(&collected));
    stress_event(EVENT_GRACE, 1);
    stress_end();
    return 0;
}
