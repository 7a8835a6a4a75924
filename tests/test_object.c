/*
 * test_object.c - making objects: memory, alignment, arrays, sizes; the header; disown, is_unique, refcount.
 */

#include "support.h"

#include <stdlib.h>

TestSuite(object, .init = enter, .fini = leave);

/* --- the header ------------------------------------------------------------------------------------ */

Test(object, header_layout)
{
    cr_assert_eq(sizeof(ouro_header), 16);
    cr_assert_eq(sizeof(ouro_object), 16);
    cr_assert_eq(offsetof(ouro_header, owned), 0);
    cr_assert_eq(offsetof(ouro_header, shared), 4);
    cr_assert_eq(offsetof(ouro_header, gc), 8);
    cr_assert_eq(offsetof(ouro_header, type), 12);
    cr_assert_eq(offsetof(ouro_header, lock), 14);
    cr_assert_eq(offsetof(ouro_header, flags), 15);
    cr_assert_eq(OURO_FIELD(struct node, left), 16);
    cr_assert_eq(OURO_FIELD(struct node, right), 24);
}

Test(object, header_of_a_new_object)
{
    struct node *node = node_new(NULL, NULL);
    ouro_header_info info;

    ouro_header_decode(node, &info);
    cr_assert_eq(info.owner, ouro_thread_id());
    cr_assert_eq(info.owned_count, 1);
    cr_assert_eq(info.shared_count, 0);
    cr_assert_eq(info.count, 1);
    cr_assert_not(info.merged);
    cr_assert_not(info.weak);
    cr_assert_not(info.immortal);
    cr_assert_eq(info.lock, 0);
    cr_assert_eq(info.gc, 0);
    cr_assert_eq(info.flags & (OURO_FLAG_DEAD | OURO_FLAG_GARBAGE | OURO_FLAG_UNTRACKED), 0);
    cr_assert_str_eq(info.type_name, "node");
    ouro_decref(node);
}

/* --- memory ---------------------------------------------------------------------------------------- */

static bool is_filled(const unsigned char *bytes, size_t count, unsigned char with)
{
    if ((UNDER_TSAN || UNDER_ASAN) && count > 100000) {
        /* A sanitizer makes this slow: a sample, and both ends. */
        for (size_t i = 0; i < count; i += 4093) {
            if (bytes[i] != with)
                return false;
        }
        return bytes[count - 1] == with;
    }
    return count == 0 || (bytes[0] == with && memcmp(bytes, bytes + 1, count - 1) == 0);
}

static int by_address(const void *a, const void *b)
{
    uintptr_t first = *(const uintptr_t *)a, second = *(const uintptr_t *)b;

    return (first > second) - (first < second);
}

/* Makes objects, fills them with 0xFF and drops them; again and again: all have to be zero at birth. */
static void reuse(size_t size, size_t count)
{
    static uintptr_t objects[2][2000];
    const ouro_type *type = bytes_type(size, 0);
    size_t reused = 0;

    for (int round = 0; round < 2 || (round < 20 && reused == 0); round++) {
        uintptr_t *now = objects[round % 2], *before = objects[(round + 1) % 2];

        for (size_t i = 0; i < count; i++) {
            unsigned char *o = ouro_new(type);

            cr_assert_not_null(o);
            cr_assert_eq((uintptr_t)o % 16, 0);
            cr_assert(is_filled(o + 16, size - 16, 0), "an object of %zu bytes is not zero", size);
            memset(o + 16, 0xFF, size - 16);
            now[i] = (uintptr_t)o;
        }
        qsort(now, count, sizeof *now, by_address);
        for (size_t i = 0; i < count; i++) {
            unsigned char *o = (unsigned char *)now[i];

            cr_assert(is_filled(o + 16, size - 16, 0xFF), "objects overlap, %zu bytes", size);
            ouro_decref((ouro_object *)(void *)o);
            if (round > 0)
                reused += bsearch(&now[i], before, count, sizeof *before, by_address) != NULL;
        }
        ouro_safepoint();
    }
    /* If no block came twice the test has not seen what it is for. */
    cr_assert_gt(reused, 0, "no block of %zu bytes was used again", size);
}

Test(object, small_ones_are_zero_and_aligned)
{
    for (size_t size = 24; size <= 1024; size += 8)
        reuse(size, SCALE(2000, 500));
}

Test(object, odd_sizes_are_zero_and_aligned)
{
    for (size_t size = 17; size <= 40; size++)
        reuse(size, 500);
}

Test(object, middle_ones_are_zero_and_aligned)
{
    for (size_t size = 1 << 10; size <= 1 << 15; size += size / 3)
        reuse(size, 200);
}

Test(object, only_a_header)
{
    const ouro_type *type = bytes_type(16, 0);
    ouro_object *first = ouro_new(type), *second = ouro_new(type);

    cr_assert(first && second && first != second);
    cr_assert_eq(live_objects(), 2);
    ouro_decref(first);
    cr_assert_eq(ouro_refcount(second), 1);
    ouro_decref(second);
}

/* Every byte of a large object can be written, all is zero at birth, each time. */
static void large(size_t size, int times)
{
    const ouro_type *type = bytes_type(size, 0);

    for (int i = 0; i < times; i++) {
        unsigned char *a = ouro_new(type), *b = ouro_new(type);

        cr_assert(a && b);
        cr_assert_eq((uintptr_t)a % 16, 0);
        cr_assert_eq((uintptr_t)b % 16, 0);
        cr_assert(is_filled(a + 16, size - 16, 0));
        cr_assert(is_filled(b + 16, size - 16, 0));
        memset(a + 16, 0xFF, size - 16);
        memset(b + 16, 0xEE, size - 16);
        cr_assert(is_filled(a + 16, size - 16, 0xFF));
        cr_assert_eq(ouro_refcount((ouro_object *)(void *)a), 1);
        cr_assert_eq(ouro_type_of((ouro_object *)(void *)b), type);
        ouro_decref((ouro_object *)(void *)a);
        cr_assert(is_filled(b + 16, size - 16, 0xEE));
        ouro_decref((ouro_object *)(void *)b);
        cr_assert_eq(live_objects(), 0);
    }
}

Test(object, larger_than_32_kib)
{
    large((32 << 10) + 1, 20);
    large((32 << 10) + 8, 20);
    large(64 << 10, 20);
    large((64 << 10) + 16, 20);
    large(100000, 20);
}

Test(object, one_mib)
{
    large(1 << 20, 10);
    large((1 << 20) + 24, 10);
}

Test(object, larger_than_an_area)
{
    large((size_t)32 << 20, 2);
    large((size_t)40 << 20, SCALE_MEMORY(3, 1));
    large((size_t)100 << 20, SCALE_MEMORY(1, 0));
}

Test(object, sizes_side_by_side)
{
    enum { COUNT = 400 };
    unsigned char *objects[COUNT];
    size_t sizes[COUNT];
    uint64_t state = 7;

    for (size_t i = 0; i < COUNT; i++) {
        sizes[i] = 17 + random_below(&state, i % 40 == 0 ? 300000 : 5000);
        objects[i] = ouro_new(bytes_type(sizes[i], 0));
        cr_assert_not_null(objects[i]);
        memset(objects[i] + 16, (int)(i & 0xFF), sizes[i] - 16);
    }
    for (size_t i = 0; i < COUNT; i++)
        cr_assert(is_filled(objects[i] + 16, sizes[i] - 16, (unsigned char)i));
    for (size_t i = 0; i < COUNT; i++)
        ouro_decref((ouro_object *)(void *)objects[i]);
}

/* --- arrays ---------------------------------------------------------------------------------------- */

Test(object, arrays_of_all_lengths)
{
    static const size_t items[] = {1, 2, 3, 8, 12, 24, 100};
    static const size_t counts[] = {0, 1, 2, 3, 7, 100, 1000, 5000};

    for (size_t i = 0; i < sizeof items / sizeof *items; i++) {
        const ouro_type *type = bytes_type(20, items[i]);

        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            size_t bytes = 20 - 16 + items[i] * counts[c];
            unsigned char *a = ouro_new_array(type, counts[c]);
            unsigned char *b = ouro_new_array(type, counts[c]);

            cr_assert(a && b);
            cr_assert(is_filled(a + 16, bytes, 0));
            memset(a + 16, 0xFF, bytes);
            cr_assert(is_filled(b + 16, bytes, 0));
            memset(b + 16, 0xEE, bytes);
            cr_assert(is_filled(a + 16, bytes, 0xFF));
            ouro_decref((ouro_object *)(void *)a);
            cr_assert(is_filled(b + 16, bytes, 0xEE));
            ouro_decref((ouro_object *)(void *)b);
        }
    }
}

Test(object, arrays_that_are_absurd)
{
    const ouro_type *sixteen = bytes_type(16, 16), *one = bytes_type(24, 1);

    cr_assert_null(ouro_new_array(array_type, SIZE_MAX));
    cr_assert_null(ouro_new_array(array_type, SIZE_MAX / 8));
    cr_assert_null(ouro_new_array(array_type, SIZE_MAX / 8 - 2));
    cr_assert_null(ouro_new_array(array_type, (size_t)1 << 59));
    /* Products and sums that are small after they have wrapped. */
    cr_assert_null(ouro_new_array(sixteen, ((size_t)1 << 60) + 1));
    cr_assert_null(ouro_new_array(sixteen, (size_t)1 << 60));
    cr_assert_null(ouro_new_array(sixteen, ((size_t)1 << 60) - 1));
    cr_assert_null(ouro_new_array(one, SIZE_MAX - 23));
    cr_assert_null(ouro_new_array(one, SIZE_MAX - 24));
    cr_assert_null(ouro_new_array(one, SIZE_MAX - 65536));
    cr_assert_null(ouro_new_array(one, (size_t)1 << 62));
    cr_assert_eq(live_objects(), 0);

    struct array *array = array_new(3);
    cr_assert_eq(array->count, 3);
    ouro_decref(array);
}

Test(object, an_array_with_a_million_references)
{
    size_t count = SCALE(1000000, 100000);
    struct array *array = array_new(count);
    struct leaf *leaf = leaf_new(1);

    for (size_t i = 0; i < count; i++)
        array->items[i] = ouro_incref(OURO_OF(leaf));
    cr_assert_eq(ouro_refcount(leaf), count + 1);
    ouro_decref(array);
    cr_assert_eq(ouro_refcount(leaf), 1);
    ouro_decref(leaf);
    cr_assert_eq(leaves_destroyed, 1);
}

/* --- refcount, is_unique, disown ------------------------------------------------------------------- */

Test(object, is_unique_while_one_reference_exists)
{
    struct node *node = node_new(NULL, NULL);

    cr_assert(ouro_is_unique(node));
    ouro_incref(node);
    cr_assert_not(ouro_is_unique(node));
    ouro_decref(node);
    cr_assert(ouro_is_unique(node));
    ouro_decref(node);
}

struct shared_node {
    struct node *node;
    struct gate taken, drop, dropped;
};

static void hold(void *argument)
{
    struct shared_node *shared = argument;

    ouro_incref(shared->node);
    CHECK(!ouro_is_unique(shared->node));
    gate_open(&shared->taken);
    gate_wait(&shared->drop);
    shared->node->value = 77;
    ouro_decref(shared->node);
    gate_open(&shared->dropped);
}

Test(object, is_unique_sees_references_of_others)
{
    struct shared_node shared = {.node = node_new(NULL, NULL)};
    struct worker worker;

    worker_start(&worker, hold, &shared);
    gate_wait(&shared.taken);
    cr_assert_eq(ouro_refcount(shared.node), 2);
    cr_assert_not(ouro_is_unique(shared.node));
    cr_assert_not(ouro_disown(shared.node));
    gate_open(&shared.drop);
    while (!ouro_is_unique(shared.node))
        ouro_safepoint();
    /* What the other one wrote has happened: the race detector would say if not. */
    cr_assert_eq(shared.node->value, 77);
    ouro_decref(shared.node);
    worker_join(&worker);
    cr_assert_eq(nodes_destroyed, 1);
}

static void take_over(void *argument)
{
    struct node *node = argument;

    CHECK(ouro_is_unique(node));
    CHECK(ouro_refcount(node) == 1);
    ouro_incref(node);
    CHECK(!ouro_is_unique(node));
    CHECK(ouro_refcount(node) == 2);
    ouro_decref(node);
    CHECK(ouro_is_unique(node));
    ouro_decref(node);
}

Test(object, is_unique_for_whom_it_was_handed_to)
{
    struct node *node = node_new(NULL, NULL);

    cr_assert(ouro_disown(node));
    run_in_thread(take_over, node);
    cr_assert_eq(nodes_destroyed, 1);
}

Test(object, disown)
{
    struct node *node = node_new(NULL, NULL);
    ouro_header_info info;

    node->value = 5;
    cr_assert(ouro_disown(node));
    ouro_header_decode(node, &info);
    cr_assert_eq(info.owner, OURO_ID_MERGED);
    cr_assert(info.merged);
    cr_assert_eq(info.count, 1);
    cr_assert_eq(ouro_refcount(node), 1);
    cr_assert(ouro_is_unique(node));
    cr_assert_eq(ouro_type_of(node), node_type);
    ouro_incref(node);
    cr_assert_eq(ouro_refcount(node), 2);
    cr_assert_not(ouro_is_unique(node));
    ouro_decref(node);
    ouro_decref(node);
    cr_assert_eq(nodes_destroyed, 1);
}

Test(object, disown_changes_nothing_if_others_refer_to_it)
{
    struct node *node = ouro_incref(node_new(NULL, NULL));
    unsigned char before[16];

    memcpy(before, node, 16);
    cr_assert_not(ouro_disown(node));
    cr_assert_arr_eq(before, node, 16);
    ouro_decref(node);
    ouro_decref(node);
    cr_assert_eq(nodes_destroyed, 1);
}

struct handed {
    struct node *node;
    size_t destroyed;
};

static void drop_handed(void *argument)
{
    struct handed *handed = argument;

    CHECK(ouro_is_unique(handed->node));
    ouro_decref(handed->node);
    handed->destroyed = atomic_load(&nodes_destroyed);
}

static void drop_from_outside(struct handed *handed)
{
    struct worker worker;

    /* The maker stays attached and passes no safepoint while the other one drops: it needs no help. */
    worker_start(&worker, drop_handed, handed);
    cr_assert_eq(pthread_join(worker.thread, NULL), 0);
}

Test(object, a_disowned_one_dies_where_it_is_dropped)
{
    struct handed handed = {.node = node_new(node_new(NULL, NULL), NULL)};

    cr_assert(ouro_disown(handed.node->left));
    cr_assert(ouro_disown(handed.node));
    drop_from_outside(&handed);
    cr_assert_eq(handed.destroyed, 2);
}

/* --- the macros ------------------------------------------------------------------------------------ */

Test(object, macros_evaluate_once)
{
    struct node *node = node_new(NULL, NULL);
    struct node *nodes[3] = {node, node, NULL}, **next = nodes;

    cr_assert_eq(ouro_incref(*next++), node);
    cr_assert_eq(next, nodes + 1);
    ouro_decref(*next++);
    cr_assert_eq(next, nodes + 2);
    next = nodes;
    cr_assert_eq(ouro_refcount(*next++), 1);
    cr_assert_eq(next, nodes + 1);
    next = nodes;
    ouro_decref_or_null(*next++);
    cr_assert_eq(next, nodes + 1);
    cr_assert_eq(nodes_destroyed, 1);
    nodes[0] = NULL;
    ouro_decref_or_null(nodes[0]);
}

static struct node *holder;

static void look_at_holder(struct node *node)
{
    if (node->value == 9)
        CHECK(!holder->left);
}

Test(object, clear_empties_the_field_before_it_drops)
{
    holder = node_new(node_new(NULL, NULL), NULL);
    holder->left->value = 9;
    on_node_destroy = look_at_holder;
    ouro_clear(&holder->left);
    cr_assert_eq(nodes_destroyed, 1);
    cr_assert_null(holder->left);
    ouro_clear(&holder->left);
    ouro_clear(&holder->right);
    ouro_decref(holder);
    cr_assert_eq(nodes_destroyed, 2);
}
