/*
 * grace_pages.c - stress: pages go from seat to seat, and from objects to buffers, under late hints.
 *
 * A foreign decrement first subtracts and then leaves a hint in the object's page, when the object may be
 * dead already and its page empty.  Shows that such a page is not used for anything else until nobody can
 * still be on his way to it.  Pages are filled with small objects that three threads drop at the same
 * time, in different orders and with pauses; the pages are taken over by other seats, for objects of
 * other sizes and for buffers.  A buffer's content looks like headers of objects which have just lost
 * their last reference, owned by one of the first seats, so that whoever takes it for objects changes it
 * and is found.
 */
#include "stress.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

enum {
    BOXES = 3,
    BATCH_MAX = 4096, /* two pages full of the smallest objects */
    LARGE_MAX = 24,
    LARGE_BYTES = 33000, /* and more: in pages of its own */
    PARTIES_MAX = 4,
    BUFFERS = 48,
    BUFFER_WORDS_USED = 1024,
    FORGED_SEATS = 12,
    PAGE_BYTES_LEFT_MAX = 2 << 16, /* two pages */
};

#define CANARY UINT64_C(0x9A6E5A6E7A6E5A6E)

/* The smallest object that is of any use: 32 bytes. */
struct item {
    ouro_header ouro;
    uint64_t canary;
    uint64_t serial;
};

enum mode {
    MODE_SMALL, /* pages full of the smallest objects */
    MODE_WIDE,  /* of others */
    MODE_LARGE, /* each is a run of pages, which is given up as soon as it dies; all drop in step */
    MODE_TOUCH, /* others take a count below zero and up again, then the owner drops all: stale hints */
};

/* Objects of which each party has one reference, or two if it is to touch. The last to finish frees the batch. */
struct batch {
    enum mode mode;
    atomic_uint parties; /* the owner among them */
    unsigned count;
    unsigned droppers;
    atomic_uint
        reached[LARGE_MAX]; /* relaxed, so that it orders nobody: how many have come to an item */
    struct item *items[BATCH_MAX];
};

struct buffer {
    uint32_t *words;
    size_t count;
    uint32_t first; /* word of the forged headers, which names a seat */
};

struct worker {
    struct random *random;
    struct buffer buffers[BUFFERS];
};

static const ouro_type *item_type, *wide_type;
static struct mailbox boxes[BOXES];
static counter made, destroyed, buffers_verified;

/* --- objects ------------------------------------------------------------------------------------- */

static void item_destroy(void *self)
{
    struct item *item = self;

    CHECK(item->canary == (CANARY ^ (uintptr_t)item ^ item->serial),
          "destroy was called for what is no item, or twice");
    item->canary = 0;
    count_up(&destroyed);
}

static struct item *item_new(size_t extra, uint64_t serial)
{
    struct item *item = extra ? ouro_new_array(wide_type, extra) : ouro_new(item_type);

    CHECK(item, "memory is out");
    item->serial = serial;
    item->canary = CANARY ^ (uintptr_t)item ^ serial;
    return item;
}

static struct batch *batch_new(enum mode mode, unsigned parties, struct random *random)
{
    struct batch *batch = malloc(sizeof *batch);
    bool large = mode == MODE_LARGE || (mode == MODE_TOUCH && one_in(random, 2));
    unsigned references = mode == MODE_TOUCH ? 2 * parties - 1 : parties;
    size_t extra = 0;

    CHECK(batch, "memory is out");
    batch->mode = mode;
    if (large)
        extra = LARGE_BYTES + random_below(random, 60000);
    else if (mode == MODE_WIDE)
        extra = random_below(random, 300);
    batch->count = 1 + random_below(random, large ? LARGE_MAX : extra ? BATCH_MAX / 8 : BATCH_MAX);
    batch->droppers = parties - 1;
    atomic_init(&batch->parties, parties);
    for (unsigned i = 0; i < LARGE_MAX; i++)
        atomic_init(&batch->reached[i], 0);
    for (unsigned i = 0; i < batch->count; i++) {
        batch->items[i] = item_new(extra, i);
        for (unsigned j = 1; j < references; j++)
            (void)ouro_incref(batch->items[i]);
    }
    atomic_fetch_add_explicit(&made, batch->count, memory_order_relaxed);
    return batch;
}

static void batch_finish(struct batch *batch)
{
    if (atomic_fetch_sub_explicit(&batch->parties, 1, memory_order_acq_rel) == 1)
        free(batch);
}

/* Time passes without a safepoint. */
static void stall(struct random *random)
{
    uint64_t end = now_ns() + random_below(random, 300000);

    do
        sched_yield();
    while (now_ns() < end);
}

static void item_check(const struct item *item, unsigned i)
{
    CHECK(item->canary == (CANARY ^ (uintptr_t)item ^ item->serial) && item->serial == i,
          "an item was destroyed while references were held");
}

/* Drops one reference to each: forwards, backwards, or every third and then the rest. */
static void drop_each(struct batch *batch, struct random *random)
{
    unsigned order = random_below(random, 3);
    unsigned count = batch->count;
    unsigned stride = order == 2 && count % 3 ? 3 : 1; /* prime to the count, so it meets all */
    unsigned safepoints = 1u << (4 + random_below(random, 10));

    for (unsigned i = 0; i < count; i++) {
        unsigned place = order == 1 ? count - 1 - i : i * stride % count;

        item_check(batch->items[place], place);
        ouro_decref(batch->items[place]);
        if (i % safepoints == safepoints - 1)
            ouro_safepoint();
        if (one_in(random, 2048))
            stall(random);
    }
}

/* Drops one reference to each in step with the others, so that they meet at each item. */
static void drop_in_step(struct batch *batch)
{
    for (unsigned i = 0; i < batch->count; i++) {
        unsigned patience = i == 0 ? 4000 : 1000;

        item_check(batch->items[i], i);
        atomic_fetch_add_explicit(&batch->reached[i], 1, memory_order_relaxed);
        while (patience-- > 0 &&
               atomic_load_explicit(&batch->reached[i], memory_order_relaxed) < batch->droppers)
            if (patience % 256 == 0)
                sched_yield();
        ouro_decref(batch->items[i]);
    }
}

/* Down and up again, with two references: the hint that may be left is stale from then on. */
static void touch_each(struct batch *batch)
{
    for (unsigned i = 0; i < batch->count; i++) {
        item_check(batch->items[i], i);
        ouro_decref(batch->items[i]);
        (void)ouro_incref(batch->items[i]);
    }
}

static void serve(struct random *random)
{
    struct letter letter;
    struct batch *batch;

    if (!mailbox_take(&boxes[random_below(random, BOXES)], random, &letter))
        return;
    batch = letter.thing;
    if (batch->mode == MODE_TOUCH)
        touch_each(batch);
    else if (batch->mode == MODE_LARGE)
        drop_in_step(batch);
    else
        drop_each(batch, random);
    batch_finish(batch);
}

/* --- buffers ------------------------------------------------------------------------------------- */

/* The first word of a new object with one reference, by the seat that owns it. Relaxed: orders nobody. */
static _Atomic(uint32_t) first_words[FORGED_SEATS];

/* Looks at a new object of the caller's to see how its header begins. */
static void learn_first_word(void)
{
    struct item *item = item_new(0, 0);
    uint32_t first;

    count_up(&made);
    memcpy(&first, item, sizeof first);
    atomic_store_explicit(&first_words[ouro_thread_id() % FORGED_SEATS], first,
                          memory_order_relaxed);
    ouro_decref(item);
}

static uint32_t first_word_of(uint32_t seat)
{
    uint32_t first = atomic_load_explicit(&first_words[seat % FORGED_SEATS], memory_order_relaxed);

    return first ? first : UINT32_MAX;
}

/* Four words are a header: one reference in the owner's half, minus one in the other. Or all ones. */
static uint32_t forged(const struct buffer *buffer, size_t i)
{
    static const uint32_t rest[4] = {0, 0u - OURO_SHARED_ONE, 0,
                                     (uint32_t)OURO_FLAG_UNTRACKED << 24 | 1};

    if (buffer->first == UINT32_MAX)
        return UINT32_MAX;
    return i % 4 == 0 ? buffer->first : rest[i % 4];
}

static void buffer_fill(struct buffer *buffer, size_t count, uint32_t first)
{
    buffer->count = count;
    buffer->first = first;
    buffer->words = ouro_alloc(count * sizeof *buffer->words);
    CHECK(buffer->words, "memory is out");
    for (size_t i = 0; i < count && i < BUFFER_WORDS_USED; i++)
        buffer->words[i] = forged(buffer, i);
}

static void buffer_make(struct buffer *buffer, struct random *random)
{
    static const uint32_t most[4] = {8, 64, 1024, 8192};
    uint32_t headers = 1 + random_below(random, most[random_below(random, 4)]);

    buffer_fill(buffer, 4 * (size_t)headers,
                one_in(random, 8) ? UINT32_MAX : first_word_of(random_below(random, FORGED_SEATS)));
}

static void buffer_verify(const struct buffer *buffer)
{
    for (size_t i = 0; i < buffer->count && i < BUFFER_WORDS_USED; i++)
        CHECK(buffer->words[i] == forged(buffer, i),
              "a buffer of %zu bytes has 0x%x instead of 0x%x at byte %zu: somebody took it for "
              "objects",
              4 * buffer->count, buffer->words[i], forged(buffer, i), 4 * i);
    count_up(&buffers_verified);
}

static void buffer_end(struct buffer *buffer)
{
    if (buffer->words) {
        buffer_verify(buffer);
        ouro_free(buffer->words);
        buffer->words = NULL;
    }
}

/* --- what a worker does -------------------------------------------------------------------------- */

static void change_buffer(struct worker *w)
{
    struct buffer *buffer = &w->buffers[random_below(w->random, BUFFERS)];

    buffer_end(buffer);
    if (!one_in(w->random, 3))
        buffer_make(buffer, w->random);
}

/* Until all others have finished with the batch. Pages that become free meanwhile are taken for buffers. */
static void await_others(struct worker *w, const struct batch *batch)
{
    struct buffer taken = {.words = NULL};

    for (unsigned i = 1; atomic_load_explicit(&batch->parties, memory_order_acquire) > 1; i++) {
        ouro_safepoint();
        buffer_end(&taken);
        buffer_fill(&taken, LARGE_BYTES / sizeof *taken.words, first_word_of(ouro_thread_id()));
        if (i % 64 == 0)
            serve(w->random); /* it may be what we wait for */
        else
            sched_yield();
    }
    buffer_end(&taken);
}

/* Most are large, since then each that dies gives up a page. */
static enum mode random_mode(struct random *random)
{
    unsigned dice = random_below(random, 8);

    return dice < MODE_LARGE ? dice : dice == 7 ? MODE_TOUCH : MODE_LARGE;
}

static void own(struct worker *w)
{
    struct random *random = w->random;
    enum mode mode = random_mode(random);
    unsigned parties = mode == MODE_LARGE ? 3 : 2 + random_below(random, PARTIES_MAX - 1);
    struct batch *batch = batch_new(mode, parties, random);
    struct letter letter = {.thing = batch, .count = 1};
    unsigned first = random_below(random, BOXES);
    unsigned mine = 1;

    for (unsigned i = 1; i < parties; i++) {
        if (!mailbox_post(&boxes[(first + i) % BOXES], random, letter)) {
            batch_finish(batch);
            mine++;
        }
    }
    if (mode == MODE_TOUCH) {
        uint64_t end = time_slice(1);

        while (atomic_load_explicit(&batch->parties, memory_order_acquire) > 1 && now_ns() < end)
            sched_yield(); /* without a safepoint, so that the hints stay */
        await_others(w, batch);
        for (unsigned i = 0; i < batch->count; i++)
            for (unsigned j = 0; j < 2 * parties - 1; j++)
                ouro_decref(batch->items[i]);
        change_buffer(w);
    } else {
        if (one_in(random, 4))
            stall(random);
        while (mine-- > 0)
            drop_each(batch, random);
        if (mode == MODE_LARGE)
            await_others(w, batch);
    }
    batch_finish(batch);
}

static void life(unsigned index, struct random *random, void *argument)
{
    struct worker w = {.random = random};
    uint64_t end = time_slice(1 + random_below(random, 80));

    (void)index;
    (void)argument;
    enter("worker");
    learn_first_word();
    while (now_ns() < end) {
        switch (random_below(random, 8)) {
        case 0:
            own(&w);
            break;
        case 1:
            if (one_in(random, 4))
                (void)ouro_trim();
            break;
        case 2:
            if (one_in(random, 8))
                OURO_DETACHED
                {
                    sleep_us(random_below(random, 500));
                }
            break;
        case 3:
            change_buffer(&w);
            break;
        default:
            serve(random);
        }
        ouro_safepoint();
    }
    for (unsigned i = 0; i < BUFFERS; i++)
        buffer_end(&w.buffers[i]);
    leave(random);
}

static void worker(unsigned index, struct random *random, void *argument)
{
    (void)argument;
    while (!time_is_up())
        run_threads(index, 1, random_next(random), life, NULL);
}

/* --- the events, for certain --------------------------------------------------------------------- */

enum { SHOWN = 3 * 2048 };

static struct item *shown[SHOWN];

/* One fills pages, the other drops what is in them: hints, all drained by the owner, whose pages are empty then. */
static void prologue(unsigned index, struct random *random, void *argument)
{
    (void)random;
    (void)argument;
    enter("prologue");
    if (index == 0) {
        for (unsigned i = 0; i < SHOWN; i++)
            shown[i] = item_new(0, i);
        atomic_fetch_add_explicit(&made, SHOWN, memory_order_relaxed);
        step_reached(1);
        step_await(2);
        ouro_safepoint();
        CHECK(count_of(&destroyed) == SHOWN, "%llu of %u items were destroyed",
              (unsigned long long)count_of(&destroyed), (unsigned)SHOWN);
        for (uint64_t end = now_ns() + UINT64_C(20000000000);
             event_total(EVENT_PAGE_RIPE) == 0 && now_ns() < end;) {
            (void)ouro_trim();
            sleep_us(200);
        }
        step_reached(3);
    } else {
        step_await(1);
        for (unsigned i = 0; i < SHOWN; i++)
            ouro_decref(shown[i]);
        step_reached(2);
        while (!step_passed(3))
            ouro_safepoint();
    }
    ouro_thread_unregister();
}

static const ouro_type *register_type(const char *name, size_t item_size)
{
    const ouro_type *type;
    ouro_type_spec spec = {
        .name = name, .size = sizeof(struct item), .item_size = item_size, .destroy = item_destroy};

    CHECK(ouro_type_register(&spec, &type) == OURO_OK, "a type can't be registered");
    return type;
}

int main(int argc, char **argv)
{
    struct random random = {1};
    ouro_memory memory;

    stress_begin(argc, argv, "grace_pages", 4, 6);
    item_type = register_type("item", 0);
    wide_type = register_type("wide item", 1);
    for (unsigned i = 0; i < BOXES; i++)
        mailbox_init(&boxes[i]);

    run_threads(0, 2, 0, prologue, NULL);
    run_threads(0, stress.threads, 1, worker, NULL);

    enter("main");
    while (boxes[0].count + boxes[1].count + boxes[2].count > 0)
        serve(&random);
    for (unsigned i = 0; i < 3; i++)
        (void)ouro_trim();
    ouro_memory_stats(&memory);
    CHECK(memory.objects == 0, "%zu objects are left", memory.objects);
    CHECK(memory.buffers == 0, "%zu buffers are left", memory.buffers);
    CHECK(count_of(&made) == count_of(&destroyed), "%llu were made, %llu destroyed",
          (unsigned long long)count_of(&made), (unsigned long long)count_of(&destroyed));
    CHECK(memory.page_bytes + memory.empty_bytes <= PAGE_BYTES_LEFT_MAX,
          "%zu bytes of pages are left, %zu of them empty", memory.page_bytes + memory.empty_bytes,
          memory.empty_bytes);
    ouro_thread_unregister();

    stress_value("made", count_of(&made));
    stress_value("verified", count_of(&buffers_verified));
    stress_event(EVENT_HINT, 1);
    stress_event(EVENT_GRACE, 1);
    stress_event(EVENT_PAGE_RETIRED, 1);
    stress_event(EVENT_PAGE_RIPE, 1);
    stress_event(EVENT_PAGE_TAKEN, 1);
    stress_end();
    return 0;
}
