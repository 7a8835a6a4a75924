/*
 * count_share.c - stress: references to shared objects go round among threads.
 *
 * Shows that an object dies once, when the last reference to it is dropped, and not before, whoever owns
 * it and whoever drops it: threads count up and down at random, also in bursts that overflow the local
 * count, pass references through mailboxes, disown, immortalise, sleep detached, end and begin again in
 * seats that others left.  Each holder looks at the canary and serial number of what it holds.  In
 * rounds all threads end, and every object's count has to be the number of references that are known.
 */
#include "stress.h"

#include <stdlib.h>

enum {
    WORKERS_MAX = 64,
    HELD = 24,
    BOXES = 4,
    DEPTH_MAX = 6,
    IMMORTALS_MAX = 500,
    BURST = 40000, /* more than a local count can hold */
    ROUND_MS = 250,
};

#define CANARY UINT64_C(0xC0FFEE00DEADFACE)

struct item {
    ouro_header ouro;
    struct item *next; /* an older item, set before anyone else sees this one */
    uint64_t canary;
    uint64_t serial;
    uint32_t depth;
    uint32_t tally; /* the main thread's, between rounds */
    atomic_bool immortal;
};

struct worker {
    struct letter held[HELD];
};

static const ouro_type *leaf_type, *link_type;
static struct worker workers[WORKERS_MAX];
static struct mailbox boxes[BOXES];
static counter made, destroyed, immortals;
static uint64_t round_end;

/* --- items --------------------------------------------------------------------------------------- */

static uint64_t canary_of(const struct item *item)
{
    return CANARY ^ (uintptr_t)item ^ item->serial;
}

static bool is_immortal(struct item *item)
{
    return atomic_load_explicit(&item->immortal, memory_order_relaxed);
}

static void item_destroy(void *self)
{
    struct item *item = self;

    CHECK(item->canary == canary_of(item), "destroy was called for what is no item, or twice");
    CHECK(!item->next, "destroy met a reference that was not dropped");
    CHECK(!is_immortal(item), "an immortal item was destroyed");
    item->canary = 0;
    count_up(&destroyed);
}

/* Looks at an item to which the caller holds a reference. */
static void item_check(const struct item *item, uint64_t serial)
{
    CHECK(item->canary == canary_of(item), "item %llu was destroyed while references were held",
          (unsigned long long)serial);
    CHECK(item->serial == serial, "item %llu became item %llu while references were held",
          (unsigned long long)serial, (unsigned long long)item->serial);
}

/* A new reference to a new item, which refers to `next` if that is not NULL. */
static struct item *item_new(struct item *next)
{
    struct item *item = ouro_new(next ? link_type : leaf_type);

    CHECK(item, "memory is out");
    item->serial = count_up(&made);
    item->canary = canary_of(item);
    if (next) {
        item->next = ouro_incref(next);
        item->depth = next->depth + 1;
    }
    return item;
}

static void drop(struct item *item, uint32_t count)
{
    while (count-- > 0)
        ouro_decref(item);
}

static void take(struct item *item, uint32_t count)
{
    while (count-- > 0)
        (void)ouro_incref(item);
}

/* --- what a worker does -------------------------------------------------------------------------- */

static struct letter letter_of(struct item *item, uint32_t count)
{
    return (struct letter){.thing = item, .serial = item->serial, .count = count};
}

static void make(struct worker *w, struct letter *empty, struct random *random)
{
    struct letter *other = &w->held[random_below(random, HELD)];
    struct item *next = other->thing;

    if (next && (next->depth >= DEPTH_MAX || one_in(random, 2)))
        next = NULL;
    *empty = letter_of(item_new(next), 1);
}

static void receive(struct letter *empty, struct random *random)
{
    struct letter letter;

    if (mailbox_take(&boxes[random_below(random, BOXES)], random, &letter)) {
        item_check(letter.thing, letter.serial);
        *empty = letter;
    }
}

/* Counts an item that lies in a mailbox, whose reference keeps it alive as long as the box is locked. */
static void copy(struct letter *empty, struct random *random)
{
    struct mailbox *box = &boxes[random_below(random, BOXES)];

    mutex_lock_politely(&box->mutex, random);
    if (box->count > 0) {
        struct letter *letter = &box->letters[random_below(random, box->count)];

        *empty = letter_of(ouro_incref((struct item *)letter->thing), 1);
    }
    pthread_mutex_unlock(&box->mutex);
}

static void drop_some(struct letter *held, struct random *random)
{
    uint32_t count = one_in(random, 4) ? 1 + random_below(random, held->count) : held->count;

    held->count -= count;
    drop(held->thing, count);
    if (held->count == 0)
        held->thing = NULL;
}

static void disown(struct letter *held)
{
    struct item *item = held->thing;

    if (ouro_disown(item)) {
        CHECK(held->count == 1, "an item was disowned by a caller with %u references", held->count);
        CHECK(ouro_refcount(item) == 1, "an item was disowned while others had references");
    }
}

static void post(struct letter *held, struct random *random)
{
    struct letter letter = *held;

    if (one_in(random, 2))
        disown(held);
    if (one_in(random, 4)) /* a part of the references */
        letter.count = 1 + random_below(random, held->count);
    if (mailbox_post(&boxes[random_below(random, BOXES)], random, letter)) {
        held->count -= letter.count;
        if (held->count == 0)
            held->thing = NULL;
    }
}

/* The reference that makes an item immortal is kept: the worker forgets it without dropping it. */
static void immortalize(struct letter *held)
{
    struct item *item = held->thing;

    if (item->next || count_of(&immortals) >= IMMORTALS_MAX)
        return;
    if (!atomic_exchange_explicit(&item->immortal, true, memory_order_relaxed))
        count_up(&immortals);
    ouro_immortalize(item);
    CHECK(ouro_refcount(item) == OURO_COUNT_IMMORTAL, "an immortal item has a count");
    if (--held->count == 0)
        held->thing = NULL;
}

/* What an item refers to is a borrowed reference as long as the item is held. */
static void hold_next(struct letter *held, struct letter *other)
{
    struct item *item = held->thing;

    if (item->next && !other->thing)
        *other = letter_of(ouro_incref(item->next), 1);
}

static void step(struct worker *w, struct random *random)
{
    struct letter *held = &w->held[random_below(random, HELD)];
    uint32_t dice = random_below(random, 1000);

    if (dice < 4) {
        unsigned microseconds = random_below(random, 400);

        OURO_DETACHED
        {
            sleep_us(microseconds);
        }
    } else if (dice < 250) {
        ouro_safepoint();
    }
    if (!held->thing) {
        if (dice % 4 == 0)
            make(w, held, random);
        else if (dice % 4 == 1)
            copy(held, random);
        else
            receive(held, random);
        return;
    }
    item_check(held->thing, held->serial);
    if (held->count > BURST && one_in(random, 4)) {
        drop_some(held, random);
    } else if (dice < 300) {
        uint32_t count = 1 + random_below(random, 4);

        take(held->thing, count);
        held->count += count;
    } else if (dice < 600) {
        drop_some(held, random);
    } else if (dice < 900) {
        post(held, random);
    } else if (dice < 950) {
        hold_next(held, &w->held[random_below(random, HELD)]);
    } else if (dice < 951 && held->count < BURST) {
        take(held->thing, BURST);
        held->count += BURST;
    } else if (dice == 999 && one_in(random, 10)) {
        immortalize(held);
    } else if (ouro_is_unique((struct item *)held->thing)) {
        CHECK(held->count == 1, "an item to which a thread has %u references is unique",
              held->count);
    }
}

static void drop_held(struct worker *w)
{
    for (unsigned i = 0; i < HELD; i++) {
        struct letter held = w->held[i];

        if (held.thing) {
            item_check(held.thing, held.serial);
            w->held[i].thing = NULL;
            drop(held.thing, held.count);
        }
    }
}

/* One thread's time in a seat. What it still holds at the end its successor holds. */
static void life(unsigned index, struct random *random, void *argument)
{
    struct worker *w = argument;
    unsigned steps = 100u << random_below(random, 8);

    (void)index;
    enter("worker");
    for (unsigned i = 0; i < steps && (i % 32 || now_ns() < round_end); i++)
        step(w, random);
    if (one_in(random, 2))
        drop_held(w);
    leave(random);
}

static void worker(unsigned index, struct random *random, void *argument)
{
    (void)argument;
    while (now_ns() < round_end)
        run_threads(index, 1, random_next(random), life, &workers[index]);
}

/* --- between rounds: every count is the number of references that are known ---------------------- */

static struct item **all_items;
static size_t all_count, all_room;

static bool add_to_all(ouro_object *o, void *argument)
{
    (void)argument;
    if (all_count == all_room) {
        all_room = all_room ? 2 * all_room : 1024;
        all_items = realloc(all_items, all_room * sizeof *all_items);
        CHECK(all_items, "memory is out");
    }
    all_items[all_count++] = (struct item *)(void *)o;
    return true;
}

static void tally(struct letter *letters, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (letters[i].thing) {
            struct item *item = letters[i].thing;

            item_check(item, letters[i].serial);
            item->tally += letters[i].count;
        }
    }
}

static void audit(void)
{
    uint64_t alive = count_of(&made) - count_of(&destroyed);

    all_count = 0;
    CHECK(ouro_each_object(add_to_all, NULL) == alive,
          "%zu objects exist, %llu were made and not destroyed", all_count,
          (unsigned long long)alive);
    for (size_t i = 0; i < all_count; i++) {
        CHECK(all_items[i]->canary == canary_of(all_items[i]), "an object that exists is no item");
        all_items[i]->tally = 0;
    }
    for (size_t i = 0; i < all_count; i++)
        if (all_items[i]->next)
            all_items[i]->next->tally++;
    for (unsigned i = 0; i < stress.threads; i++)
        tally(workers[i].held, HELD);
    for (unsigned i = 0; i < BOXES; i++)
        tally(boxes[i].letters, boxes[i].count);
    for (size_t i = 0; i < all_count; i++) {
        uint32_t count = ouro_refcount(all_items[i]);

        if (is_immortal(all_items[i]))
            CHECK(count == OURO_COUNT_IMMORTAL, "an immortal item has the count %u", count);
        else
            CHECK(count == all_items[i]->tally, "item %llu has the count %u and %u references",
                  (unsigned long long)all_items[i]->serial, count, all_items[i]->tally);
    }
}

/* --- the events, for certain --------------------------------------------------------------------- */

static struct item *shown;

static void expect_destroyed(uint64_t count, const char *what)
{
    CHECK(count_of(&destroyed) == count, "%s: %llu items are destroyed, %llu should be", what,
          (unsigned long long)count_of(&destroyed), (unsigned long long)count);
}

static void prologue_owner(void)
{
    enter("owner");
    step_await(1); /* both are registered, in seats of their own */

    /* The other drops a reference that this thread's half counts, and leaves a hint. */
    shown = ouro_incref(item_new(NULL));
    step_reached(2);
    step_await(3);
    ouro_decref(shown);
    expect_destroyed(0, "before the hint was drained");
    ouro_safepoint();
    expect_destroyed(1, "hint, drained by the owner");

    /* The same while this thread is away. */
    shown = item_new(NULL);
    (void)ouro_detach();
    step_reached(4);
    step_await(5);
    (void)ouro_attach();

    /* This thread drops its last while the other has one. */
    shown = item_new(NULL);
    step_reached(6);
    step_await(7);
    ouro_decref(shown);
    expect_destroyed(2, "the owner's last, not the last");
    step_reached(8);
    step_await(9);

    /* More than the local count holds. */
    shown = item_new(NULL);
    take(shown, 2 * BURST);
    CHECK(ouro_refcount(shown) == 2 * BURST + 1, "a count of %u", ouro_refcount(shown));
    drop(shown, 2 * BURST);
    expect_destroyed(3, "before the last of many");
    ouro_decref(shown);
    expect_destroyed(4, "the last of many");

    /* The other makes immortal what this thread owns. */
    shown = ouro_incref(item_new(NULL));
    step_reached(10);
    step_await(11);
    ouro_decref(shown);
    ouro_safepoint();
    CHECK(ouro_refcount(shown) == OURO_COUNT_IMMORTAL, "an immortal item has a count");
    expect_destroyed(4, "an immortal item without references");
    ouro_thread_unregister();
}

static void prologue_other(void)
{
    enter("other");
    step_reached(1);
    step_await(2);
    ouro_decref(shown);
    step_reached(3);

    step_await(4);
    ouro_decref(shown);
    expect_destroyed(2, "hint to a seat without a thread");
    step_reached(5);

    step_await(6);
    (void)ouro_incref(shown);
    step_reached(7);
    step_await(8);
    ouro_decref(shown);
    expect_destroyed(3, "the last one, dropped by another");
    step_reached(9);

    step_await(10);
    atomic_store_explicit(&shown->immortal, true, memory_order_relaxed);
    count_up(&immortals);
    ouro_immortalize(shown);
    CHECK(ouro_refcount(shown) == OURO_COUNT_IMMORTAL, "an immortal item has a count");
    step_reached(11);
    ouro_thread_unregister();
}

static void prologue(unsigned index, struct random *random, void *argument)
{
    (void)random;
    (void)argument;
    if (index == 0)
        prologue_owner();
    else
        prologue_other();
}

static const ouro_type *register_type(const char *name, const uint16_t *fields, size_t count)
{
    const ouro_type *type;
    ouro_type_spec spec = {.name = name,
                           .size = sizeof(struct item),
                           .fields = fields,
                           .field_count = count,
                           .destroy = item_destroy};

    CHECK(ouro_type_register(&spec, &type) == OURO_OK, "a type can't be registered");
    return type;
}

int main(int argc, char **argv)
{
    static const uint16_t fields[] = {OURO_FIELD(struct item, next)};
    struct random random = {1};
    struct letter letter;
    ouro_memory memory;
    uint64_t rounds = 0;

    stress_begin(argc, argv, "count_share", 4, 6);
    leaf_type = register_type("leaf", NULL, 0);
    link_type = register_type("link", fields, 1);
    for (unsigned i = 0; i < BOXES; i++)
        mailbox_init(&boxes[i]);

    run_threads(0, 2, 0, prologue, NULL);
    while (!time_is_up()) {
        round_end = time_slice(ROUND_MS);
        run_threads(0, stress.threads, ++rounds, worker, NULL);
        enter("main");
        audit();
        ouro_thread_unregister();
    }

    enter("main");
    for (unsigned i = 0; i < stress.threads; i++)
        drop_held(&workers[i]);
    for (unsigned i = 0; i < BOXES; i++)
        while (mailbox_take(&boxes[i], &random, &letter))
            drop(letter.thing, letter.count);
    ouro_safepoint();
    ouro_memory_stats(&memory);
    CHECK(memory.objects == count_of(&immortals), "%zu objects are left, %llu are immortal",
          memory.objects, (unsigned long long)count_of(&immortals));
    CHECK(count_of(&made) == count_of(&destroyed) + count_of(&immortals),
          "%llu were made, %llu destroyed, %llu are immortal", (unsigned long long)count_of(&made),
          (unsigned long long)count_of(&destroyed), (unsigned long long)count_of(&immortals));
    ouro_thread_unregister();
    free(all_items);

    stress_value("rounds", rounds);
    stress_value("made", count_of(&made));
    stress_value("immortal", count_of(&immortals));
    stress_event(EVENT_HINT, 1);
    stress_event(EVENT_HINT_DIRECT, 0);
    stress_event(EVENT_PROXY, 0);
    CHECK(event_total(EVENT_HINT_DIRECT) + event_total(EVENT_PROXY) > 0,
          "nothing was shown: nobody ever worked for a seat without a thread");
    stress_event(EVENT_MERGE_DRAIN, 1);
    stress_event(EVENT_MERGE_OWNER, 1);
    stress_event(EVENT_OVERFLOW, 1);
    stress_end();
    return 0;
}
