/*
 * test_heap.c - size classes, pages, their lists, and the way of a page from empty to another seat.
 */
#include <criterion/criterion.h>

#include "support.h"

#include "base/events.h"
#include "heap/heap.h"
#include "thread/grace.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static void enter_test(void)
{
    cr_assert_eq(ouro_thread_register("test"), OURO_OK);
}

static struct seat *self(void)
{
    return seat_attached_self;
}

static struct heap *heap(void)
{
    return heap_of(seat_attached_self);
}

static size_t page_bytes(void)
{
    ouro_memory stats;

    ouro_memory_stats(&stats);
    return stats.page_bytes;
}

TestSuite(heap, .init = enter_test);

Test(heap, classes_fit_and_waste_little)
{
    for (size_t bytes = 1; bytes <= CLASS_BYTES_MAX; bytes++) {
        uint32_t slot = heap_slot_of(KIND_RAW, bytes);
        size_t block = heap_slot_bytes(slot);

        cr_assert_lt(slot, SLOT_COUNT);
        cr_assert_eq(slot / CLASS_COUNT, KIND_RAW);
        cr_assert_geq(block, bytes);
        cr_assert_eq(block % GRANULE, 0);
        cr_assert(block <= 1024 ? block - bytes < GRANULE : (block - bytes) * 4 < bytes,
                  "%zu takes %zu", bytes, block);
    }
    cr_assert_eq(heap_slot_of(KIND_RAW, CLASS_BYTES_MAX + 1), SLOT_LARGE);
    cr_assert_eq(heap_slot_bytes(heap_slot_of(KIND_TRACKED, 32)), 32);
}

Test(heap, addresses_lead_to_their_page)
{
    char *p = ouro_alloc(100);
    struct page *page = page_of(p);

    cr_assert_eq(page->seat, self());
    cr_assert_eq(page->kind, KIND_RAW);
    cr_assert_eq(page_state(page), PAGE_ACTIVE);
    cr_assert_leq((void *)page->start, (void *)p);
    cr_assert_lt(p - page->start, PAGE_BYTES);
    cr_assert_eq((p - page->start) % page->block_size, 0);
    cr_assert_eq((void *)page_block(page, block_link(p)), (void *)p);
    ouro_free(p);
}

/* At most 128 blocks are handed out at a time; with what is found free the numbers agree. */
Test(heap, pages_count_their_blocks)
{
    enum { N = 1000 };
    void *blocks[N];

    for (int i = 0; i < N; i++)
        cr_assert(blocks[i] = ouro_alloc(32));
    struct page *page = page_of(blocks[0]);
    cr_assert_eq(page->carved, (N + REFILL_BLOCKS - 1) / REFILL_BLOCKS * REFILL_BLOCKS);
    cr_assert_eq(page->used, page->carved);
    for (int i = 0; i < N; i++)
        ouro_free(blocks[i]);
    cr_assert_eq(page->used - page->local_count, page->carved - N,
                 "all but those that wait to be handed out");
    cr_assert_eq(page_state(page), PAGE_ACTIVE);
    for (int i = 0; i < N; i++)
        cr_assert_eq(page_of(blocks[i] = ouro_alloc(32)), page, "the page is used again");
    for (int i = 0; i < N; i++)
        ouro_free(blocks[i]);
}

Test(heap, no_block_is_given_twice)
{
    enum { N = 20000 };
    unsigned char **blocks = calloc(N, sizeof *blocks);
    unsigned seed = 1;

    for (int round = 0; round < 200000; round++) {
        size_t i = (size_t)(seed = seed * 1103515245u + 12345u) / 7 % N;

        if (blocks[i]) {
            size_t bytes = 16 + i % 90;
            for (size_t b = 0; b < bytes; b++)
                cr_assert_eq(blocks[i][b], (unsigned char)i);
            ouro_free(blocks[i]);
            blocks[i] = NULL;
        } else {
            cr_assert(blocks[i] = ouro_alloc(16 + i % 90));
            memset(blocks[i], (unsigned char)i, 16 + i % 90);
        }
    }
    for (size_t i = 0; i < N; i++)
        ouro_free(blocks[i]);
    free(blocks);
    ouro_memory stats;
    ouro_memory_stats(&stats);
    cr_assert_eq(stats.buffers, 0);
}

/* What a thread has emptied stays with it up to a bound, and goes to others after a grace period. */
Test(heap, empty_pages_are_bounded_and_reused)
{
    enum { N = 100000 };
    void **blocks = calloc(N, sizeof *blocks);

    for (int i = 0; i < N; i++)
        cr_assert(blocks[i] = ouro_alloc(1000));
    size_t full = page_bytes();
    cr_assert_geq(full, N * (size_t)1000);
    uint64_t ripe = event_total(EVENT_PAGE_RIPE);
    for (int i = 0; i < N; i++)
        ouro_free(blocks[i]);
    cr_assert_leq(heap()->empties, 64 + (heap()->pages - heap()->empties) / 2);
    cr_assert_gt(event_total(EVENT_PAGE_RETIRED), 0);
    cr_assert_lt(page_bytes(), full / 2);

    for (int i = 0; i < 4; i++)
        ouro_safepoint();
    ouro_memory before, after;
    ouro_memory_stats(&before);
    for (int i = 0; i < N; i++)
        cr_assert(blocks[i] = ouro_alloc(2000)); /* another class: needs pages from outside */
    ouro_memory_stats(&after);
    cr_assert_gt(event_total(EVENT_PAGE_RIPE), ripe);
    cr_assert_leq(after.reserved_bytes, before.reserved_bytes + N * (size_t)1500);
    for (int i = 0; i < N; i++)
        ouro_free(blocks[i]);
    free(blocks);
}

/* In whatever order the blocks of a page were freed, what is made in it once it was empty lies side by side. */
Test(heap, an_empty_page_is_used_in_the_order_of_addresses)
{
    enum { N = 16 * PAGE_BYTES / 32, STEP = 7919 /* no factor of N */ };
    char **blocks = calloc(N, sizeof *blocks);
    int neighbours = 0;

    for (int i = 0; i < N; i++)
        cr_assert(blocks[i] = ouro_alloc(32));
    for (unsigned i = 0; i < N; i++)
        ouro_free(blocks[i * STEP % N]);
    for (int i = 0; i < N; i++) {
        cr_assert(blocks[i] = ouro_alloc(32));
        neighbours += i && blocks[i] == blocks[i - 1] + 32;
    }
    cr_assert_gt(neighbours, N * 3 / 4); /* one page was current, and never empty */
    for (int i = 0; i < N; i++)
        ouro_free(blocks[i]);
    free(blocks);
}

Test(heap, trim_gives_everything_back)
{
    enum { N = 10000 };
    void **blocks = calloc(N, sizeof *blocks);

    for (int i = 0; i < N; i++)
        cr_assert(blocks[i] = ouro_alloc(500));
    for (int i = 0; i < N; i++)
        ouro_free(blocks[i]);
    free(blocks);
    size_t given = ouro_trim();
    given += ouro_trim();
    cr_assert_geq(given, N * (size_t)500);

    ouro_memory stats;
    ouro_memory_stats(&stats);
    cr_assert_eq(stats.page_bytes, 0);
    cr_assert_eq(stats.empty_bytes, 0);
    void *again = ouro_calloc(1, 500);
    for (int i = 0; i < 500; i++)
        cr_assert_eq(((char *)again)[i], 0);
    ouro_free(again);
}

static void *hold_and_leave(void *argument)
{
    void **blocks = argument;

    cr_assert_eq(ouro_thread_register("other"), OURO_OK);
    for (int i = 0; i < 5000; i++)
        cr_assert(blocks[i] = ouro_alloc(64));
    ouro_thread_unregister();
    return NULL;
}

Test(heap, foreign_frees_come_back_to_their_page)
{
    static void *blocks[5000];
    pthread_t thread;

    ouro_state state = ouro_detach();
    cr_assert_eq(pthread_create(&thread, NULL, hold_and_leave, blocks), 0);
    pthread_join(thread, NULL);
    ouro_restore(state);

    struct page *page = page_of(blocks[0]);
    cr_assert_neq(page->seat, self());
    for (int i = 0; i < 5000; i++)
        ouro_free(blocks[i]);
    heap_flush(self());
    cr_assert_gt(event_total(EVENT_FOREIGN_FREE), 0);
    cr_assert_lt(event_total(EVENT_FOREIGN_FREE), 5000, "they are gathered into chains");
    cr_assert_eq(page->returned >> 16, page->capacity, "all of the first page");
    ouro_trim();
    ouro_trim();
    cr_assert_eq(page_bytes(), 0, "trim reaches seats without a thread");
}

/* A page that is in a stack of its seat is not given to others, however long it has waited. */
Test(heap, a_page_in_a_stack_is_not_given_away)
{
    void *p = ouro_alloc(20000);
    struct page *page = page_of(p);

    __atomic_store_n(&page->in_inbox, 1, __ATOMIC_RELEASE);
    ouro_free(p);
    for (int i = 0; i < 4; i++)
        ouro_trim();
    cr_assert_eq(page_state(page), PAGE_RETIRED);
    __atomic_store_n(&page->in_inbox, 0, __ATOMIC_RELEASE);
    ouro_trim();
    cr_assert_eq(page_state(page), PAGE_FREE);
}

Test(heap, huge_blocks_are_areas_of_their_own)
{
    size_t bytes = (size_t)100 << 20;
    char *p = ouro_alloc(bytes);

    cr_assert(p);
    p[0] = p[bytes - 1] = 1;
    ouro_memory during, after;
    ouro_memory_stats(&during);
    cr_assert_geq(during.buffer_bytes, bytes);
    ouro_free(p);
    ouro_trim();
    ouro_trim();
    ouro_memory_stats(&after);
    cr_assert_eq(after.page_bytes, 0);
    cr_assert_eq(after.empty_bytes, 0);
    for (int i = 0; i < 20; i++) {
        cr_assert(p = ouro_calloc(1, bytes - ((size_t)i << 20)));
        cr_assert_eq(p[0], 0);
        cr_assert_eq(p[bytes / 2], 0);
        p[0] = p[bytes / 2] = 1;
        ouro_free(p);
    }
    ouro_memory_stats(&after);
    cr_assert_eq(after.reserved_bytes, during.reserved_bytes, "the addresses are used again");
}

/* --- AddressSanitizer ----------------------------------------------------------------------------- */

#if UNDER_ASAN

struct big {
    ouro_header ouro;
    int values[20];
};

static volatile int sink;

static void use_freed_object(const ouro_type *type)
{
    struct big *object = ouro_new(type);

    ouro_decref(object);
    sink = object->values[5];
}

static void use_freed_buffer(const ouro_type *type)
{
    int *buffer = ouro_alloc(100);

    (void)type;
    ouro_free(buffer);
    sink = buffer[0];
}

static void use_large_buffer(const ouro_type *type)
{
    int *buffer = ouro_alloc(1 << 20);

    (void)type;
    ouro_free(buffer);
    buffer[1000] = 1;
}

static void *make_one(void *type)
{
    struct big *object = NULL;

    if (ouro_thread_register("maker") == OURO_OK) {
        object = ouro_new(type);
        ouro_thread_unregister();
    }
    return object;
}

static void use_what_was_freed_for_another(const ouro_type *type)
{
    pthread_t thread;
    void *object;

    ouro_state state = ouro_detach();
    if (pthread_create(&thread, NULL, make_one, (void *)(uintptr_t)type))
        return;
    pthread_join(thread, &object);
    ouro_restore(state);
    ouro_decref((struct big *)object);
    sink = ((struct big *)object)->values[5];
}

/* The sanitizer ends the child with a report. */
static void expect_report(void (*wrong)(const ouro_type *), const ouro_type *type)
{
    char text[4096] = "";
    int output = memfd_create("report", 0), status;
    pid_t child = fork();

    cr_assert_geq(output, 0);
    cr_assert_geq(child, 0);
    if (child == 0) {
        dup2(output, 2);
        wrong(type);
        _exit(0);
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) != 0, "the child ended with status %#x",
              status);
    cr_assert_gt(pread(output, text, sizeof text - 1, 0), 0);
    cr_assert(strstr(text, "use-after-poison"), "%s", text);
    close(output);
}

Test(heap, address_sanitizer_reports_use_after_free)
{
    const ouro_type *type;
    ouro_type_spec spec = {.name = "big", .size = sizeof(struct big)};

    cr_assert_eq(ouro_type_register(&spec, &type), OURO_OK);
    expect_report(use_freed_object, type);
    expect_report(use_freed_buffer, type);
    expect_report(use_large_buffer, type);
    expect_report(use_what_was_freed_for_another, type);
}

#endif
