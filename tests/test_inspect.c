/*
 * test_inspect.c - headers taken apart, described in a line, and the walk over all objects.
 */

#include "support.h"

#include <stdlib.h>

TestSuite(inspect, .init = enter, .fini = leave);

static ouro_header_info decode(const ouro_header *header)
{
    ouro_header_info info;

    memset(&info, 0xA5, sizeof info);
    ouro_header_decode(header, &info);
    return info;
}

/* --- headers made by hand ------------------------------------------------------------------------------ */

Test(inspect, decode_all_zero)
{
    ouro_header header = {0};
    ouro_header_info info = decode(&header);

    cr_assert_eq(info.owner, 0);
    cr_assert_eq(info.owned_count, 0);
    cr_assert_eq(info.shared_count, 0);
    cr_assert_eq(info.count, 0);
    cr_assert_not(info.fresh || info.merged || info.weak || info.immortal);
    cr_assert_eq(info.gc, 0);
    cr_assert_eq(info.type, 0);
    cr_assert_eq(info.lock, 0);
    cr_assert_eq(info.flags, 0);
    cr_assert_str_eq(info.type_name, "free");
}

Test(inspect, decode_the_owners_half)
{
    ouro_header header = {.owned = 0x1234u << 16 | 77 | OURO_FRESH, .type = 1};
    ouro_header_info info = decode(&header);

    cr_assert_eq(info.owner, 0x1234);
    cr_assert_eq(info.owned_count, 77);
    cr_assert(info.fresh);
    cr_assert_eq(info.count, 77);

    header.owned = 0xFFFDu << 16 | 0x7FFF;
    info = decode(&header);
    cr_assert_eq(info.owner, OURO_ID_MAX);
    cr_assert_eq(info.owned_count, 0x7FFF);
    cr_assert_not(info.fresh);
    cr_assert_eq(info.count, 0x7FFF);
}

Test(inspect, decode_the_shared_word)
{
    ouro_header header = {.owned = 5u << 16 | 10, .shared = 3 * OURO_SHARED_ONE, .type = 1};
    ouro_header_info info = decode(&header);

    cr_assert_eq(info.shared_count, 3);
    cr_assert_eq(info.count, 13);
    cr_assert_not(info.merged || info.weak || info.immortal);

    header.shared = (uint32_t)-4 * OURO_SHARED_ONE | OURO_WEAK;
    info = decode(&header);
    cr_assert_eq(info.shared_count, -4);
    cr_assert_eq(info.count, 6);
    cr_assert(info.weak);
    cr_assert_not(info.merged || info.immortal);

    header = (ouro_header){.shared = 1000 * OURO_SHARED_ONE | OURO_MERGED, .type = 1};
    info = decode(&header);
    cr_assert_eq(info.owner, OURO_ID_MERGED);
    cr_assert_eq(info.count, 1000);
    cr_assert(info.merged);

    header.shared = (UINT32_C(1) << 27) * OURO_SHARED_ONE;
    cr_assert_eq(decode(&header).shared_count, -(1 << 27));
    header.shared = ((UINT32_C(1) << 27) - 1) * OURO_SHARED_ONE;
    cr_assert_eq(decode(&header).shared_count, (1 << 27) - 1);
}

Test(inspect, decode_immortal_ones)
{
    ouro_header header = {.owned = 7u << 16 | 1, .shared = OURO_IMMORTAL, .type = 1};
    ouro_header_info info = decode(&header);

    cr_assert(info.immortal);
    cr_assert_eq(info.count, OURO_COUNT_IMMORTAL);
    header = (ouro_header){.owned = OURO_ID_IMMORTAL << 16, .shared = OURO_IMMORTAL, .type = 1};
    info = decode(&header);
    cr_assert(info.immortal);
    cr_assert_eq(info.owner, OURO_ID_IMMORTAL);
    cr_assert_eq(info.count, OURO_COUNT_IMMORTAL);
}

Test(inspect, decode_the_rest)
{
    ouro_header header = {.gc = 0xDEADBEEF, .type = 65535, .lock = 0x5A, .flags = 0xC3};
    ouro_header_info info = decode(&header);

    cr_assert_eq(info.gc, 0xDEADBEEF);
    cr_assert_eq(info.type, 65535);
    cr_assert_eq(info.lock, 0x5A);
    cr_assert_eq(info.flags, 0xC3);
    cr_assert_str_eq(info.type_name, "?");
}

Test(inspect, decode_from_anywhere)
{
    /* Bytes of a core dump need not be aligned. */
    unsigned char bytes[64];
    ouro_header header = {
        .owned = 9u << 16 | 2, .shared = 0x20, .gc = 1, .type = 60000, .flags = 8};
    ouro_header_info expected = decode(&header), info;

    for (size_t offset = 0; offset < 17; offset++) {
        memset(bytes, 0xFF, sizeof bytes);
        memcpy(bytes + offset, &header, sizeof header);
        ouro_header_decode(bytes + offset, &info);
        cr_assert_eq(info.owner, 9);
        cr_assert_eq(info.owned_count, 2);
        cr_assert_eq(info.count, expected.count);
        cr_assert_eq(info.type, 60000);
        cr_assert_eq(info.flags, 8);
    }
}

Test(inspect, decode_a_real_one)
{
    struct leaf *leaf = leaf_new(1);
    unsigned char copy[16];
    ouro_header_info info;

    ouro_incref(leaf);
    memcpy(copy, leaf, sizeof copy);
    ouro_header_decode(copy, &info);
    cr_assert_eq(info.owner, ouro_thread_id());
    cr_assert_eq(info.count, 2);
    cr_assert_eq(info.flags & OURO_FLAG_UNTRACKED, OURO_FLAG_UNTRACKED);
    cr_assert_str_eq(info.type_name, "leaf");
    ouro_decref(leaf);
    ouro_decref(leaf);
}

/* --- one line of text ---------------------------------------------------------------------------------- */

Test(inspect, describe_says_the_type_and_the_count)
{
    struct node *node = node_new(NULL, NULL);
    char text[500];

    for (int i = 1; i < 4242; i++)
        ouro_incref(node);
    size_t length = ouro_describe(node, text, sizeof text);
    cr_assert_eq(length, strlen(text));
    cr_assert_not_null(strstr(text, "node"), "%s", text);
    cr_assert_not_null(strstr(text, "4242"), "%s", text);
    cr_assert_null(strchr(text, '\n'));
    for (int i = 0; i < 4242; i++)
        ouro_decref(node);
    ouro_header header = {0};
    ouro_describe(&header, text, sizeof text);
    cr_assert_not_null(strstr(text, "free"), "%s", text);
}

Test(inspect, describe_cuts_like_snprintf)
{
    ouro_header header = {
        .owned = 3u << 16 | 4, .shared = 0x37, .gc = 77, .type = 9, .flags = 0xFF};
    char whole[500], text[500];
    size_t length = ouro_describe(&header, whole, sizeof whole);

    cr_assert_eq(length, strlen(whole));
    cr_assert_gt(length, 10);
    cr_assert_eq(ouro_describe(&header, NULL, 0), length);
    for (size_t size = 0; size <= length + 2; size++) {
        size_t expected = size == 0 ? 0 : size <= length ? size - 1 : length;

        memset(text, '#', sizeof text);
        cr_assert_eq(ouro_describe(&header, text, size), length);
        cr_assert_eq(memcmp(text, whole, expected), 0);
        if (size > 0)
            cr_assert_eq(text[expected], '\0');
        cr_assert_eq(text[size > 0 ? expected + 1 : 0], '#', "wrote over the end at %zu", size);
    }
}

Test(inspect, describe_any_bytes)
{
    uint64_t state = 3;

    for (int i = 0; i < 20000; i++) {
        uint32_t bytes[4];
        char text[1000];

        for (int j = 0; j < 4; j++)
            bytes[j] = random_below(&state, UINT32_MAX);
        size_t length = ouro_describe(bytes, text, sizeof text);
        cr_assert_eq(length, strlen(text));
    }
}

/* --- all objects --------------------------------------------------------------------------------------- */

enum { MANY = 3000 };

struct finder {
    struct worker worker;
    struct node *nodes[MANY];
    struct gate made, go_on;
    int first; /* the value of its first node */
    int kind;
};

static void make_many(void *argument)
{
    struct finder *finder = argument;

    for (int i = 0; i < MANY; i++) {
        finder->nodes[i] = node_new(NULL, NULL);
        finder->nodes[i]->value = finder->first + i;
    }
    /* Every third one dies, so there are gaps. */
    for (int i = 0; i < MANY; i += 3) {
        ouro_decref(finder->nodes[i]);
        finder->nodes[i] = NULL;
    }
    gate_open(&finder->made);
    if (finder->kind == 0)
        gate_wait(&finder->go_on);
    else if (finder->kind == 1)
        gate_wait_running(&finder->go_on);
}

static unsigned char found[4 * MANY];

static bool find(ouro_object *o, void *argument)
{
    size_t *others = argument;

    if (ouro_type_of(o) != node_type)
        ++*others;
    else
        found[((struct node *)(void *)o)->value]++;
    return true;
}

Test(inspect, each_object_of_all_threads)
{
    static struct finder finders[4];
    struct leaf *leaf = leaf_new(1);
    struct array *large = array_new(200000);
    size_t others = 0;

    for (int i = 0; i < 4; i++) {
        finders[i].first = i * MANY;
        finders[i].kind = i;
        if (i == 3)
            make_many(&finders[i]);
        else
            worker_start(&finders[i].worker, make_many, &finders[i]);
        gate_wait(&finders[i].made);
    }
    /* One is detached, one runs, one has ended, one is the caller. */
    worker_join(&finders[2].worker);
    cr_assert_eq(ouro_each_object(find, &others), 4 * (MANY - MANY / 3) + 2);
    cr_assert_eq(others, 2);
    for (int i = 0; i < 4 * MANY; i++)
        cr_assert_eq(found[i], i % MANY % 3 == 0 ? 0 : 1);

    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < MANY; j++)
            ouro_decref_or_null(finders[i].nodes[j]);
    }
    gate_open(&finders[0].go_on);
    gate_open(&finders[1].go_on);
    worker_join(&finders[0].worker);
    worker_join(&finders[1].worker);
    others = 0;
    cr_assert_eq(ouro_each_object(find, &others), 2);
    ouro_decref(leaf);
    ouro_decref(large);
    cr_assert_eq(ouro_each_object(find, &others), 0);
}

static bool find_until(ouro_object *o, void *argument)
{
    (void)o;
    return --*(int *)argument > 0;
}

Test(inspect, each_object_ends_early)
{
    struct node *chain = chain_new(1000);
    int left = 10;

    cr_assert_eq(ouro_each_object(find_until, &left), 10);
    left = 1;
    cr_assert_eq(ouro_each_object(find_until, &left), 1);
    left = 1000000;
    cr_assert_eq(ouro_each_object(find_until, &left), 1000);
    ouro_decref(chain);
}

struct collected_objects {
    ouro_object *objects[100];
    size_t count;
};

static bool keep(ouro_object *o, void *argument)
{
    struct collected_objects *collected = argument;

    CHECK(collected->count < 100);
    collected->objects[collected->count++] = ouro_incref(o);
    return true;
}

static void make_ring(void *argument)
{
    *(struct node **)argument = ring_new(50);
}

Test(inspect, each_object_may_keep_references)
{
    struct collected_objects collected = {.count = 0};
    struct node *rings[2] = {ring_new(50), NULL};

    run_in_thread(make_ring, &rings[1]);
    ouro_decref(rings[0]);
    ouro_decref(rings[1]);
    /* Garbage that has not been found is among them. */
    cr_assert_eq(ouro_each_object(keep, &collected), 100);
    cr_assert_eq(ouro_collect(), 0);
    for (size_t i = 0; i < 100; i++)
        ouro_decref(collected.objects[i]);
    cr_assert_eq(ouro_collect(), 100);
}

/* --- ids of threads ------------------------------------------------------------------------------------ */

static void note_id(void *argument)
{
    *(uint32_t *)argument = ouro_thread_id();
}

static void note_id_detached(void *argument)
{
    OURO_DETACHED note_id(argument);
}

Test(inspect, thread_ids)
{
    uint32_t registered = 0, again = 0, detached = 0, bare = 7;

    cr_assert(ouro_thread_id() >= 1 && ouro_thread_id() <= OURO_ID_MAX);
    run_in_bare_thread(note_id, &bare);
    cr_assert_eq(bare, 0);
    run_in_thread(note_id, &registered);
    cr_assert_neq(registered, 0);
    cr_assert_neq(registered, ouro_thread_id());
    /* The next thread sits where the last one sat. */
    run_in_thread(note_id, &again);
    cr_assert_eq(again, registered);
    run_in_thread(note_id_detached, &detached);
    cr_assert_eq(detached, registered);
}
