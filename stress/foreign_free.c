/*
 * foreign_free.c - stress: memory is allocated by some threads and freed by others.
 *
 * Shows that a block belongs to one holder at a time: producers fill objects and buffers of random sizes
 * with patterns, consumers verify them, write others, resize and free.  Threads end while their memory is
 * in use elsewhere, and others take over their seats; one thread trims and compares the figures of
 * ouro_memory_stats() with what is known.  At the end nothing is left: no object, no buffer, no page.
 */
#include "stress.h"

#include <stdlib.h>
#include <string.h>

enum {
    BOXES = 2,
    BACKLOG = 16,
    PARCEL_MAX = 48,
    LIFE_MS_MAX = 60,
    PAGE_BYTES_LEFT_MAX = 2 << 16, /* two pages */
};

#define CANARY UINT64_C(0xF0E1D2C3B4A59687)

enum kind { KIND_BUFFER, KIND_BLOB };

/* An object with a buffer of its own, a reference, and bytes behind it. */
struct blob {
    ouro_header ouro;
    struct blob *next;
    uint64_t canary;
    uint64_t serial;
    void *buffer;
    size_t buffer_bytes;
    size_t bytes;
    unsigned char data[];
};

static const ouro_type *plain_type, *linked_type;
static struct mailbox boxes[BOXES];
static counter blobs_made, blobs_destroyed, patterns;

/* Buffers: counted before and after each call, so that a figure in between has two bounds. */
static counter allocs_begun, allocs_done, frees_begun, frees_done;

/* Things travel many at a time, so that locks order threads seldom. */
struct parcel {
    unsigned count;
    struct letter letters[PARCEL_MAX];
};

/* --- patterns ------------------------------------------------------------------------------------ */

/* In large blocks some words are left out, always the same ones. */
static size_t next_word(size_t word, size_t words)
{
    if (words > 1024 && word > 64 && word < words - 64)
        return word + 509 < words - 64 ? word + 509 : words - 64;
    return word + 1;
}

static void pattern_write(void *memory, size_t bytes, uint64_t seed)
{
    unsigned char *p = memory;
    size_t words = bytes / 8;

    for (size_t i = 0; i < words; i = next_word(i, words)) {
        uint64_t value = seed + i * UINT64_C(0x9E3779B97F4A7C15);

        memcpy(p + 8 * i, &value, 8);
    }
    for (size_t i = 8 * words; i < bytes; i++)
        p[i] = (unsigned char)(seed + i);
}

/* Verifies the first `checked` bytes of a pattern that is `bytes` long. */
static void pattern_check(const void *memory, size_t checked, size_t bytes, uint64_t seed,
                          const char *what)
{
    const unsigned char *p = memory;
    size_t words = bytes / 8;

    for (size_t i = 0; i < words && 8 * i + 8 <= checked; i = next_word(i, words)) {
        uint64_t value;

        memcpy(&value, p + 8 * i, 8);
        CHECK(value == seed + i * UINT64_C(0x9E3779B97F4A7C15),
              "%s of %zu bytes: somebody else wrote at byte %zu", what, bytes, 8 * i);
    }
    for (size_t i = 8 * words; i < bytes && i < checked; i++)
        CHECK(p[i] == (unsigned char)(seed + i), "%s of %zu bytes: somebody else wrote at byte %zu",
              what, bytes, i);
    count_up(&patterns);
}

static size_t random_bytes(struct random *random)
{
    switch (random_below(random, 64)) {
    case 0:
        return one_in(random, 4) ? (size_t)1 << 20 : random_below(random, 200000);
    case 1:
    case 2:
    case 3:
        return random_below(random, 48 * 1024);
    case 4:
    case 5:
    case 6:
    case 7:
    case 8:
    case 9:
        return random_below(random, 8192);
    default:
        return random_below(random, 512);
    }
}

/* --- buffers ------------------------------------------------------------------------------------- */

static void *buffer_new(struct random *random, size_t bytes)
{
    void *buffer;

    count_up(&allocs_begun);
    if (one_in(random, 4)) {
        const unsigned char *p = buffer = ouro_calloc(1, bytes);
        size_t stride = bytes < 4096 ? 1 : 1 + random_below(random, 128);

        CHECK(buffer, "memory is out");
        for (size_t i = 0; i < bytes; i += stride)
            CHECK(p[i] == 0, "ouro_calloc returned %zu bytes that are not all 0", bytes);
    } else {
        buffer = ouro_alloc(bytes);
        CHECK(buffer, "memory is out");
    }
    count_up(&allocs_done);
    CHECK((uintptr_t)buffer % 16 == 0, "a buffer of %zu bytes is not aligned", bytes);
    return buffer;
}

static void buffer_free(void *buffer)
{
    count_up(&frees_begun);
    ouro_free(buffer);
    count_up(&frees_done);
}

/* Counts as one that is made and one that is freed, since for a moment there may be two. */
static void *buffer_resize(void *buffer, size_t bytes)
{
    count_up(&allocs_begun);
    count_up(&frees_begun);
    buffer = ouro_realloc(buffer, bytes);
    CHECK(buffer, "memory is out");
    count_up(&allocs_done);
    count_up(&frees_done);
    return buffer;
}

/* --- blobs --------------------------------------------------------------------------------------- */

static uint64_t blob_canary(const struct blob *blob)
{
    return CANARY ^ (uintptr_t)blob ^ blob->serial;
}

static void blob_destroy(void *self)
{
    struct blob *blob = self;

    CHECK(blob->canary == blob_canary(blob), "destroy was called for what is no blob, or twice");
    pattern_check(blob->data, blob->bytes, blob->bytes, blob->serial, "a blob");
    if (blob->buffer) {
        pattern_check(blob->buffer, blob->buffer_bytes, blob->buffer_bytes, blob->serial,
                      "a blob's buffer");
        buffer_free(blob->buffer);
    }
    blob->canary = 0;
    count_up(&blobs_destroyed);
}

/* A new reference; takes over the reference to `next`. */
static struct blob *blob_new(struct random *random, struct blob *next)
{
    size_t bytes = random_bytes(random);
    struct blob *blob = ouro_new_array(next ? linked_type : plain_type, bytes);

    CHECK(blob, "memory is out");
    blob->next = next;
    blob->serial = count_up(&blobs_made);
    blob->canary = blob_canary(blob);
    blob->bytes = bytes;
    pattern_write(blob->data, bytes, blob->serial);
    if (one_in(random, 2)) {
        blob->buffer_bytes = random_below(random, 600);
        blob->buffer = buffer_new(random, blob->buffer_bytes);
        pattern_write(blob->buffer, blob->buffer_bytes, blob->serial);
    }
    return blob;
}

/* --- producers and consumers --------------------------------------------------------------------- */

/* What a letter carries ends here. */
static void dispose(const struct letter *letter)
{
    if (letter->kind == KIND_BLOB) {
        struct blob *blob = letter->thing;

        CHECK(blob->serial == letter->serial && blob->canary == blob_canary(blob),
              "a blob was destroyed while it was held");
        ouro_decref(blob);
    } else {
        pattern_check(letter->thing, letter->bytes, letter->bytes, letter->serial, "a buffer");
        buffer_free(letter->thing);
    }
}

static struct letter produce(struct random *random)
{
    struct letter letter = {.kind = one_in(random, 2) ? KIND_BLOB : KIND_BUFFER};

    if (letter.kind == KIND_BLOB) {
        struct blob *blob = blob_new(random, NULL);

        while (one_in(random, 3))
            blob = blob_new(random, blob);
        letter.thing = blob;
        letter.serial = blob->serial;
        if (one_in(random, 3))
            (void)ouro_disown(blob);
    } else {
        letter.bytes = random_bytes(random);
        letter.serial = random_next(random);
        letter.thing = buffer_new(random, letter.bytes);
        pattern_write(letter.thing, letter.bytes, letter.serial);
    }
    return letter;
}

/* Changes a buffer of another thread's before it is freed or kept for a while. */
static void work_on(struct letter *letter, struct random *random)
{
    if (letter->kind != KIND_BUFFER)
        return;
    pattern_check(letter->thing, letter->bytes, letter->bytes, letter->serial, "a buffer");
    if (one_in(random, 3)) {
        size_t bytes = random_bytes(random);

        letter->thing = buffer_resize(letter->thing, bytes);
        pattern_check(letter->thing, bytes < letter->bytes ? bytes : letter->bytes, letter->bytes,
                      letter->serial, "a resized buffer");
        letter->bytes = bytes;
    }
    letter->serial = random_next(random);
    pattern_write(letter->thing, letter->bytes, letter->serial);
}

static struct parcel *parcel_pack(struct random *random)
{
    struct parcel *parcel = malloc(sizeof *parcel);

    CHECK(parcel, "memory is out");
    parcel->count = 1 + random_below(random, PARCEL_MAX);
    for (unsigned i = 0; i < parcel->count; i++)
        parcel->letters[i] = produce(random);
    return parcel;
}

static void parcel_dispose(struct parcel *parcel)
{
    for (unsigned i = 0; i < parcel->count; i++)
        dispose(&parcel->letters[i]);
    free(parcel);
}

static void producer_life(struct random *random, uint64_t end)
{
    while (now_ns() < end) {
        struct parcel *parcel = parcel_pack(random);
        struct letter letter = {.thing = parcel, .count = 1};

        if (!mailbox_post(&boxes[random_below(random, BOXES)], random, letter))
            parcel_dispose(parcel);
        ouro_safepoint();
        if (one_in(random, 64))
            OURO_DETACHED
            {
                sleep_us(300);
            }
    }
}

static void consumer_life(struct random *random, uint64_t end)
{
    struct letter backlog[BACKLOG] = {{.thing = NULL}};

    while (now_ns() < end) {
        struct letter letter;
        struct parcel *parcel;

        ouro_safepoint();
        if (!mailbox_take(&boxes[random_below(random, BOXES)], random, &letter))
            continue;
        parcel = letter.thing;
        for (unsigned i = 0; i < parcel->count; i++) {
            struct letter *place = &backlog[random_below(random, BACKLOG)];

            work_on(&parcel->letters[i], random);
            if (one_in(random, 2)) {
                struct letter old = *place;

                *place = parcel->letters[i];
                parcel->letters[i] = old;
            }
            if (parcel->letters[i].thing)
                dispose(&parcel->letters[i]);
            if (one_in(random, 16))
                ouro_safepoint();
        }
        free(parcel);
    }
    for (unsigned i = 0; i < BACKLOG; i++)
        if (backlog[i].thing)
            dispose(&backlog[i]);
}

static void life(unsigned index, struct random *random, void *argument)
{
    uint64_t end = time_slice(1 + random_below(random, LIFE_MS_MAX));

    (void)argument;
    enter(index % 2 ? "consumer" : "producer");
    if (index % 2)
        consumer_life(random, end);
    else
        producer_life(random, end);
    leave(random);
}

/* --- the one that looks at the figures ----------------------------------------------------------- */

static void look_at_figures(void)
{
    ouro_memory memory;
    uint64_t made_before = count_of(&allocs_done), freed_before = count_of(&frees_done);
    uint64_t made_after, freed_after;

    ouro_memory_stats(&memory);
    freed_after = count_of(&frees_begun);
    made_after = count_of(&allocs_begun);
    CHECK(memory.buffers + freed_after >= made_before, "%zu buffers, at least %llu should be",
          memory.buffers, (unsigned long long)(made_before - freed_after));
    CHECK(memory.buffers + freed_before <= made_after, "%zu buffers, at most %llu should be",
          memory.buffers, (unsigned long long)(made_after - freed_before));
    CHECK(memory.page_bytes >= memory.object_bytes + memory.buffer_bytes,
          "blocks occupy %zu bytes in %zu bytes of pages",
          memory.object_bytes + memory.buffer_bytes, memory.page_bytes);
    CHECK(memory.object_bytes >= memory.objects * sizeof(struct blob),
          "%zu objects occupy %zu bytes", memory.objects, memory.object_bytes);
}

static void keeper(struct random *random)
{
    enter("keeper");
    while (!time_is_up()) {
        if (one_in(random, 2))
            (void)ouro_trim();
        else
            look_at_figures();
        OURO_DETACHED
        {
            sleep_us(random_below(random, 8000));
        }
    }
    ouro_thread_unregister();
}

static void worker(unsigned index, struct random *random, void *argument)
{
    (void)argument;
    if (index == 0) {
        keeper(random);
        return;
    }
    while (!time_is_up())
        run_threads(index, 1, random_next(random), life, NULL);
}

/* --- the events, for certain --------------------------------------------------------------------- */

enum { SHOWN = 8192, SHOWN_BYTES = 400 };

static void *shown[SHOWN];

/* One makes many pages full of buffers and sleeps, the other frees all, and waits until the pages are free. */
static void prologue(unsigned index, struct random *random, void *argument)
{
    (void)argument;
    enter("prologue");
    if (index == 0) {
        for (unsigned i = 0; i < SHOWN; i++)
            shown[i] = buffer_new(random, SHOWN_BYTES);
        step_reached(1);
        while (!step_passed(2))
            ouro_safepoint();
    } else {
        step_await(1);
        for (unsigned i = 0; i < SHOWN; i++)
            buffer_free(shown[i]);
        step_reached(2);
        for (unsigned i = 0; i < 200 && event_total(EVENT_PAGE_RIPE) == 0; i++) {
            (void)ouro_trim();
            sleep_us(200);
        }
    }
    ouro_thread_unregister();
}

static const ouro_type *register_type(const char *name, const uint16_t *fields, size_t count)
{
    const ouro_type *type;
    ouro_type_spec spec = {.name = name,
                           .size = sizeof(struct blob),
                           .item_size = 1,
                           .fields = fields,
                           .field_count = count,
                           .destroy = blob_destroy};

    CHECK(ouro_type_register(&spec, &type) == OURO_OK, "a type can't be registered");
    return type;
}

int main(int argc, char **argv)
{
    static const uint16_t fields[] = {OURO_FIELD(struct blob, next)};
    struct random random = {1};
    struct letter letter;
    ouro_memory memory;

    stress_begin(argc, argv, "foreign_free", 5, 7);
    plain_type = register_type("blob", NULL, 0);
    linked_type = register_type("linked blob", fields, 1);
    for (unsigned i = 0; i < BOXES; i++)
        mailbox_init(&boxes[i]);

    run_threads(0, 2, 0, prologue, NULL);
    run_threads(0, stress.threads, 1, worker, NULL);

    enter("main");
    for (unsigned i = 0; i < BOXES; i++)
        while (mailbox_take(&boxes[i], &random, &letter))
            parcel_dispose(letter.thing);
    for (unsigned i = 0; i < 3; i++)
        (void)ouro_trim();
    ouro_memory_stats(&memory);
    CHECK(memory.objects == 0 && memory.object_bytes == 0, "%zu objects are left, %zu bytes",
          memory.objects, memory.object_bytes);
    CHECK(memory.buffers == 0 && memory.buffer_bytes == 0, "%zu buffers are left, %zu bytes",
          memory.buffers, memory.buffer_bytes);
    CHECK(memory.page_bytes + memory.empty_bytes <= PAGE_BYTES_LEFT_MAX,
          "%zu bytes of pages are left, %zu of them empty", memory.page_bytes + memory.empty_bytes,
          memory.empty_bytes);
    CHECK(count_of(&blobs_made) == count_of(&blobs_destroyed),
          "%llu blobs were made, %llu destroyed", (unsigned long long)count_of(&blobs_made),
          (unsigned long long)count_of(&blobs_destroyed));
    ouro_thread_unregister();

    stress_value("blobs", count_of(&blobs_made));
    stress_value("buffers", count_of(&allocs_done));
    stress_value("patterns", count_of(&patterns));
    stress_value("page_bytes", memory.page_bytes);
    stress_event(EVENT_FOREIGN_FREE, 1);
    stress_event(EVENT_PAGE_RETIRED, 1);
    stress_event(EVENT_PAGE_RIPE, 1);
    stress_event(EVENT_PAGE_TAKEN, 1);
    stress_end();
    return 0;
}
