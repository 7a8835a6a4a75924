/*
 * test_raw.c - buffers: ouro_alloc, ouro_calloc, ouro_realloc, ouro_free; figures about memory; trim.
 */

#include "support.h"

#include <stdlib.h>

TestSuite(raw, .init = enter, .fini = leave);

static void fill(unsigned char *buffer, size_t bytes, unsigned seed)
{
    for (size_t i = 0; i < bytes; i++)
        buffer[i] = (unsigned char)(seed + i * 7 + (i >> 8));
}

static bool filled(const unsigned char *buffer, size_t bytes, unsigned seed)
{
    for (size_t i = 0; i < bytes; i++) {
        if (buffer[i] != (unsigned char)(seed + i * 7 + (i >> 8)))
            return false;
    }
    return true;
}

static const size_t big[] = {
    32768, 32769, 65535, 65536, 65537, 1 << 20, (1 << 20) + 1, 3 << 20, 33 << 20,
};

enum { BIG = sizeof big / sizeof *big };

Test(raw, all_sizes)
{
    enum { COUNT = SCALE(1000, 300) };
    static unsigned char *buffers[COUNT];

    for (size_t step = 1; step <= 100; step += 33) {
        for (size_t i = 0; i < COUNT; i++) {
            buffers[i] = ouro_alloc(i * step);
            cr_assert_not_null(buffers[i]);
            cr_assert_eq((uintptr_t)buffers[i] % 16, 0);
            fill(buffers[i], i * step, (unsigned)i);
        }
        cr_assert_eq(live_buffers(), COUNT);
        for (size_t i = 0; i < COUNT; i++) {
            cr_assert(filled(buffers[i], i * step, (unsigned)i));
            ouro_free(buffers[i]);
        }
        cr_assert_eq(live_buffers(), 0);
    }
}

Test(raw, big_ones)
{
    unsigned char *buffers[BIG];

    for (size_t i = 0; i < BIG; i++) {
        buffers[i] = ouro_alloc(big[i]);
        cr_assert_not_null(buffers[i]);
        cr_assert_eq((uintptr_t)buffers[i] % 16, 0);
        fill(buffers[i], big[i], (unsigned)i);
    }
    cr_assert_eq(live_buffers(), BIG);
    for (size_t i = 0; i < BIG; i++) {
        cr_assert(filled(buffers[i], big[i], (unsigned)i));
        ouro_free(buffers[i]);
    }
}

Test(raw, of_no_bytes)
{
    void *first = ouro_alloc(0), *second = ouro_alloc(0);
    void *third = ouro_calloc(0, 100), *fourth = ouro_calloc(100, 0);

    cr_assert(first && second && third && fourth);
    cr_assert_neq(first, second);
    cr_assert_eq(live_buffers(), 4);
    ouro_free(first);
    ouro_free(second);
    ouro_free(third);
    ouro_free(fourth);
    ouro_free(NULL);
    cr_assert_eq(live_buffers(), 0);
}

Test(raw, calloc_is_zero_where_there_was_something)
{
    static const size_t sizes[] = {1, 16, 24, 100, 1000, 5000, 40000, 200000, 2 << 20};
    enum { COUNT = 200 };
    unsigned char *buffers[COUNT];

    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t bytes = sizes[s], count = bytes > 100000 ? 3 : COUNT;

        for (int round = 0; round < 2; round++) {
            for (size_t i = 0; i < count; i++) {
                buffers[i] = ouro_calloc(1, bytes);
                cr_assert_not_null(buffers[i]);
                for (size_t b = 0; b < bytes; b += 1 + bytes / 1000)
                    cr_assert_eq(buffers[i][b], 0);
                cr_assert_eq(buffers[i][bytes - 1], 0);
                memset(buffers[i], 0xFF, bytes);
            }
            for (size_t i = 0; i < count; i++)
                ouro_free(buffers[i]);
        }
    }
}

Test(raw, products_that_are_too_large)
{
    cr_assert_null(ouro_calloc(SIZE_MAX, 2));
    cr_assert_null(ouro_calloc(2, SIZE_MAX));
    cr_assert_null(ouro_calloc(SIZE_MAX, SIZE_MAX));
    cr_assert_null(ouro_calloc((size_t)1 << 32, (size_t)1 << 32));
    cr_assert_null(ouro_calloc(((size_t)1 << 32) + 1, (size_t)1 << 32));
    cr_assert_null(ouro_calloc((size_t)1 << 60, 17));
    cr_assert_eq(live_buffers(), 0);

    unsigned char *buffer = ouro_calloc(1000, 3);
    cr_assert_not_null(buffer);
    for (int i = 0; i < 3000; i++)
        cr_assert_eq(buffer[i], 0);
    ouro_free(buffer);
}

Test(raw, sizes_that_are_absurd)
{
    cr_assert_null(ouro_alloc(SIZE_MAX));
    cr_assert_null(ouro_alloc(SIZE_MAX - 1));
    cr_assert_null(ouro_alloc(SIZE_MAX - 15));
    cr_assert_null(ouro_alloc(SIZE_MAX - 65536));
    cr_assert_null(ouro_alloc(SIZE_MAX / 2));
    cr_assert_null(ouro_alloc((size_t)1 << 60));

    unsigned char *buffer = ouro_alloc(100);
    cr_assert_not_null(buffer);
    fill(buffer, 100, 3);
    cr_assert_null(ouro_realloc(buffer, SIZE_MAX));
    cr_assert_null(ouro_realloc(buffer, SIZE_MAX - 20));
    cr_assert_null(ouro_realloc(buffer, (size_t)1 << 60));
    cr_assert(filled(buffer, 100, 3));
    cr_assert_null(ouro_realloc(NULL, SIZE_MAX));
    cr_assert_eq(live_buffers(), 1);
    ouro_free(buffer);
}

/* --- realloc ------------------------------------------------------------------------------------------ */

static unsigned char *resize(unsigned char *buffer, size_t from, size_t to)
{
    unsigned char *changed = ouro_realloc(buffer, to);

    cr_assert_not_null(changed);
    cr_assert_eq((uintptr_t)changed % 16, 0);
    cr_assert(filled(changed, from < to ? from : to, 9), "content lost, %zu to %zu", from, to);
    fill(changed, to, 9);
    return changed;
}

Test(raw, realloc_grows_and_shrinks)
{
    unsigned char *buffer = ouro_realloc(NULL, 0);
    size_t bytes = 0;

    cr_assert_not_null(buffer);
    for (size_t next = 1; next < 4 << 20; next += 1 + next / 3) {
        buffer = resize(buffer, bytes, next);
        bytes = next;
        cr_assert_eq(live_buffers(), 1);
    }
    while (bytes > 0) {
        size_t next = bytes - bytes / 4 - 1;

        buffer = resize(buffer, bytes, next);
        bytes = next;
        cr_assert_eq(live_buffers(), 1);
    }
    ouro_free(buffer);
}

Test(raw, realloc_by_chance)
{
    enum { COUNT = 64 };
    unsigned char *buffers[COUNT] = {0};
    size_t sizes[COUNT] = {0};
    uint64_t state = 11;

    for (int i = 0; i < 5000; i++) {
        uint32_t at = random_below(&state, COUNT);
        uint32_t to = random_below(&state, i % 50 == 0 ? 300000 : 3000);

        buffers[at] = resize(buffers[at], sizes[at], to);
        sizes[at] = to;
    }
    for (int i = 0; i < COUNT; i++)
        ouro_free(buffers[i]);
}

/* --- other threads ------------------------------------------------------------------------------------ */

struct batch {
    unsigned char **buffers;
    size_t count;
    struct gate made, freed;
};

static size_t batch_bytes(size_t i)
{
    return i % 500 == 0 ? 70000 : i % 300;
}

static void make_batch(void *argument)
{
    struct batch *batch = argument;

    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < batch->count; i++) {
            batch->buffers[i] = ouro_alloc(batch_bytes(i));
            CHECK(batch->buffers[i]);
            fill(batch->buffers[i], batch_bytes(i), (unsigned)i);
        }
        if (round == 0) {
            gate_open(&batch->made);
            gate_wait(&batch->freed);
        }
    }
}

static void free_batch(struct batch *batch)
{
    for (size_t i = 0; i < batch->count; i++) {
        CHECK(filled(batch->buffers[i], batch_bytes(i), (unsigned)i));
        ouro_free(batch->buffers[i]);
    }
}

Test(raw, freed_by_another_thread)
{
    struct batch batch = {.count = SCALE(20000, 4000)};
    struct worker worker;

    batch.buffers = calloc(batch.count, sizeof *batch.buffers);
    cr_assert_not_null(batch.buffers);
    worker_start(&worker, make_batch, &batch);
    gate_wait(&batch.made);
    cr_assert_eq(live_buffers(), batch.count);
    free_batch(&batch);
    cr_assert_eq(live_buffers(), 0);
    gate_open(&batch.freed);
    worker_join(&worker);

    /* And once more after its end. */
    cr_assert_eq(live_buffers(), batch.count);
    free_batch(&batch);
    free(batch.buffers);
}

static _Atomic(unsigned char *) slots[32];

static void swap_buffers(void *argument)
{
    uint64_t state = (uintptr_t)argument;

    for (int i = 0; i < SCALE(60000, 6000); i++) {
        size_t bytes = 1 + random_below(&state, 400);
        unsigned char *buffer = ouro_alloc(bytes);

        CHECK(buffer);
        buffer[0] = (unsigned char)(bytes & 0x7F);
        buffer[bytes - 1] = bytes == 1 ? buffer[0] : 0xFF;
        buffer = atomic_exchange(&slots[random_below(&state, 32)], buffer);
        if (buffer) {
            CHECK(buffer[0] < 0x80);
            buffer = ouro_realloc(buffer, 1 + random_below(&state, 100));
            CHECK(buffer && buffer[0] < 0x80);
        }
        ouro_free(buffer);
        if (i % 100 == 0)
            ouro_safepoint();
    }
}

Test(raw, buffers_that_change_hands)
{
    struct worker workers[4];

    for (uintptr_t i = 0; i < 4; i++)
        worker_start(&workers[i], swap_buffers, (void *)(i + 1));
    for (int i = 0; i < 4; i++)
        worker_join(&workers[i]);
    for (int i = 0; i < 32; i++)
        ouro_free(slots[i]);
}

/* --- buffers of objects, and figures ------------------------------------------------------------------- */

struct text {
    ouro_header ouro;
    char *bytes;
};

static void text_destroy(void *self)
{
    ouro_free(((struct text *)self)->bytes);
}

Test(raw, an_object_gives_its_buffer_back)
{
    ouro_type_spec spec = {.name = "text", .size = sizeof(struct text), .destroy = text_destroy};
    const ouro_type *type;

    cr_assert_eq(ouro_type_register(&spec, &type), OURO_OK);
    struct text *text = ouro_new(type);
    cr_assert_not_null(text);
    text->bytes = ouro_calloc(10, 10);
    cr_assert_not_null(text->bytes);
    cr_assert_eq(live_buffers(), 1);
    ouro_decref(text);
    cr_assert_eq(live_buffers(), 0);
}

Test(raw, figures_are_exact)
{
    enum { COUNT = 3000 };
    static void *buffers[COUNT];
    static struct node *nodes[COUNT];
    ouro_memory s;

    for (size_t i = 0; i < COUNT; i++) {
        nodes[i] = node_new(NULL, NULL);
        buffers[i] = ouro_alloc(64);
        cr_assert_not_null(buffers[i]);
    }
    ouro_memory_stats(&s);
    cr_assert_eq(s.objects, COUNT);
    cr_assert_eq(s.buffers, COUNT);
    cr_assert_geq(s.object_bytes, COUNT * sizeof(struct node));
    cr_assert_leq(s.object_bytes, COUNT * 2 * sizeof(struct node));
    cr_assert_geq(s.buffer_bytes, COUNT * 64);
    cr_assert_leq(s.buffer_bytes, COUNT * 128);
    cr_assert_geq(s.page_bytes, s.object_bytes + s.buffer_bytes);
    cr_assert_geq(s.reserved_bytes, s.page_bytes + s.empty_bytes);
    cr_assert_gt(s.metadata_bytes, 0);
    cr_assert_eq(s.threads, 1);
    cr_assert_geq(s.seats, 1);

    for (size_t i = 0; i < COUNT; i += 2) {
        ouro_free(buffers[i]);
        ouro_decref(nodes[i]);
    }
    ouro_memory_stats(&s);
    cr_assert_eq(s.objects, COUNT / 2);
    cr_assert_eq(s.buffers, COUNT / 2);
    for (size_t i = 1; i < COUNT; i += 2) {
        ouro_free(buffers[i]);
        ouro_decref(nodes[i]);
    }
    ouro_memory_stats(&s);
    cr_assert_eq(s.objects, 0);
    cr_assert_eq(s.object_bytes, 0);
    cr_assert_eq(s.buffers, 0);
    cr_assert_eq(s.buffer_bytes, 0);
}

Test(raw, trim_gives_back_what_was_used)
{
    size_t bytes = (size_t)50 << 20;
    unsigned char *large = ouro_alloc(bytes);
    struct node *chain = chain_new(SCALE(200000, 50000));
    ouro_memory full, empty;

    cr_assert_not_null(large);
    memset(large, 1, bytes);
    ouro_memory_stats(&full);
    ouro_free(large);
    ouro_decref(chain);
    ouro_safepoint();
    ouro_trim();
    ouro_safepoint();
    ouro_trim();
    ouro_memory_stats(&empty);
    cr_assert_eq(empty.objects, 0);
    cr_assert_lt(empty.page_bytes + empty.empty_bytes, full.page_bytes / 10);

    /* What was given back can be had again. */
    large = ouro_alloc(bytes);
    cr_assert_not_null(large);
    memset(large, 2, bytes);
    ouro_free(large);
}
