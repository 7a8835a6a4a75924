/*
 * test_freeze.c - objects that are kept out of collections.
 */

#include "support.h"

#include "heap/heap.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

TestSuite(freeze, .init = enter, .fini = leave);

/* New objects and candidates; the figures are in `last_info`. */
static size_t collect(void)
{
    return collect_kind(OURO_GC_DEEP);
}

/* Changes the protection of all pages of nodes that are frozen as a page, or of all; returns how many. */
static size_t protect_node_pages(int protection, bool frozen_only)
{
    size_t pages = 0;

    for (struct area *area = area_first(); area; area = area->next) {
        for (size_t i = AREA_META_PAGES; i < AREA_PAGES; i++) {
            struct page *page = &area->pages[i];

            if (page_state(page) != PAGE_ACTIVE || page->kind != KIND_TRACKED ||
                page->slot != heap_slot_of(KIND_TRACKED, sizeof(struct node)))
                continue;
            if (frozen_only && !page->frozen)
                continue;
            cr_assert_eq(mprotect(page->start, PAGE_BYTES, protection), 0);
            pages++;
        }
    }
    return pages;
}

/* --- what it does --------------------------------------------------------------------------------- */

Test(freeze, counts_what_it_freezes)
{
    struct node *tree = tree_new(5);
    struct leaf *leaf = leaf_new(1);
    struct box *box = box_new(NULL);

    cr_assert_eq(ouro_frozen_count(), 0);
    cr_assert_eq(ouro_unfreeze(), 0);
    cr_assert_eq(ouro_freeze(0), 63);
    cr_assert_eq(ouro_frozen_count(), 63);
    cr_assert_eq(ouro_freeze(0), 0);
    struct node *more = node_new(NULL, NULL);
    cr_assert_eq(ouro_frozen_count(), 63);
    cr_assert_eq(ouro_freeze(0), 1);
    cr_assert_eq(ouro_unfreeze(), 64);
    cr_assert_eq(ouro_frozen_count(), 0);
    ouro_decref(more);
    ouro_decref(tree);
    ouro_decref(leaf);
    ouro_decref(box);
}

Test(freeze, says_so_in_the_header)
{
    struct node *node = node_new(NULL, NULL);
    ouro_header_info info;

    ouro_freeze(0);
    ouro_header_decode(node, &info);
    cr_assert_eq(info.flags & OURO_FLAG_FROZEN, OURO_FLAG_FROZEN);
    ouro_unfreeze();
    ouro_header_decode(node, &info);
    cr_assert_eq(info.flags & OURO_FLAG_FROZEN, 0);
    ouro_decref(node);
}

Test(freeze, frozen_objects_die_by_count)
{
    struct node *tree = tree_new(9);

    cr_assert_eq(ouro_freeze(0), 1023);
    ouro_clear(&tree->left);
    cr_assert_eq(nodes_destroyed, 511);
    cr_assert_eq(ouro_frozen_count(), 512);
    ouro_decref(tree);
    cr_assert_eq(nodes_destroyed, 1023);
    cr_assert_eq(ouro_frozen_count(), 0);
}

Test(freeze, frozen_garbage_is_found_after_unfreezing)
{
    struct node *ring = ring_new(100);

    ouro_freeze(0);
    ouro_decref(ring);
    cr_assert_eq(collect(), 0);
    cr_assert_eq(last_info.candidates, 0);
    cr_assert_eq(ouro_unfreeze(), 100);
    cr_assert_eq(collect(), 100);
    cr_assert_eq(last_info.candidates, 100);
}

Test(freeze, what_frozen_objects_refer_to_is_held)
{
    struct node *frozen = node_new(NULL, NULL);

    ouro_freeze(0);
    struct node *ring = ring_new(10);
    frozen->right = ring; /* the only reference from outside, and a way back */
    ring->right = ouro_incref(frozen);
    cr_assert_eq(collect(), 0);
    cr_assert_eq(last_info.candidates, 10);
    ouro_decref(frozen);
    cr_assert_eq(collect(), 0, "the ring is held by a frozen object that is garbage itself");
    ouro_unfreeze();
    cr_assert_eq(collect(), 11);
}

static void drop_elsewhere(void *argument)
{
    struct node *node = argument;

    ouro_decref(node);
}

Test(freeze, frozen_objects_die_in_another_thread)
{
    struct node *tree = tree_new(6);

    ouro_freeze(0);
    run_in_thread(drop_elsewhere, tree);
    ouro_safepoint();
    cr_assert_eq(nodes_destroyed, 127);
}

/* --- pages ------------------------------------------------------------------------------------------ */

Test(freeze, a_frozen_page_is_not_read)
{
    struct node *tree = tree_new(12);

    setenv("OURO_VERIFY", "0", 1); /* it would read them */
    cr_assert_eq(ouro_freeze(0), (2 << 12) - 1);
    size_t pages = protect_node_pages(PROT_NONE, true);
    cr_assert_geq(pages, 3);
    struct array *a = array_new(1), *b = array_new(1);
    a->items[0] = ouro_incref(OURO_OF(b));
    b->items[0] = OURO_OF(a);
    ouro_decref(b);
    cr_assert_eq(collect(), 2);
    cr_assert_eq(last_info.candidates, 2);
    cr_assert_eq(protect_node_pages(PROT_READ | PROT_WRITE, true), pages);
    ouro_decref(tree);
}

Test(freeze, frozen_objects_and_their_maps_are_not_written)
{
    struct node *tree = tree_new(12);
    static uint64_t before[MAP_WORDS], after[MAP_WORDS];

    cr_assert_eq(ouro_freeze(0), (2 << 12) - 1);
    struct array *fresh = array_new(8);
    fresh->items[0] = ouro_incref(OURO_OF(tree));
    fresh->items[1] = ouro_incref(OURO_OF(tree->left));
    cr_assert_neq(page_of(fresh)->slot, page_of(tree)->slot);
    memcpy(before, page_condemned(page_of(tree)), sizeof before);
    protect_node_pages(PROT_READ, false); /* the page that blocks are handed out from, too */
    cr_assert_eq(collect(), 0);
    cr_assert_eq(last_info.candidates, 1);
    protect_node_pages(PROT_READ | PROT_WRITE, false);
    memcpy(after, page_condemned(page_of(tree)), sizeof after);
    cr_assert_arr_eq(before, after, sizeof before);
    ouro_decref(fresh);
    ouro_decref(tree);
}

/* Frozen pages hand out blocks again, new ones and such as were freed, to objects that collections have to see. */
Test(freeze, a_page_that_hands_out_blocks_is_examined_again)
{
    enum { COUNT = 5000 };
    struct node **nodes = calloc(COUNT, sizeof *nodes);

    cr_assert(nodes);
    for (int i = 0; i < COUNT; i++)
        nodes[i] = node_new(NULL, NULL);
    while (page_of(node_new(NULL, NULL))->free) /* until the current page needs a refill */
        expect_left(0);
    ouro_freeze(0);
    for (int i = 0; i < COUNT; i += 2)
        ouro_decref(nodes[i]);
    size_t examined = 0;
    for (int round = 0; round < 4; round++) {
        struct node *ring = ring_new(COUNT / 4);
        ouro_decref(ring);
        cr_assert_eq(collect(), COUNT / 4);
        examined += last_info.candidates;
    }
    cr_assert_eq(examined, COUNT / 4 * 4);
    for (int i = 1; i < COUNT; i += 2)
        ouro_decref(nodes[i]);
    free(nodes);
    expect_left(live_objects()); /* those of the loop that found the end of a list */
}

/* The pause of a collection with a million live objects, before and after. */
Test(freeze, a_million_frozen_objects_cost_nothing)
{
    struct node *tree = tree_new(SCALE_MEMORY(19, 14));
    size_t count = ((size_t)2 << SCALE_MEMORY(19, 14)) - 1;
    uint64_t thawed = UINT64_MAX, frozen = UINT64_MAX;

    for (int i = 0; i < 3; i++) {
        cr_assert_eq(collect_kind(OURO_GC_FULL), 0);
        cr_assert_eq(last_info.candidates, count);
        thawed = last_info.pause_ns < thawed ? last_info.pause_ns : thawed;
    }
    cr_assert_eq(ouro_freeze(0), count);
    /* Three times, and more if somebody else had the processor each time. */
    double limit = seconds() + 20;
    for (int i = 0; i < 3 || (frozen >= thawed / 4 && seconds() < limit); i++) {
        cr_assert_eq(collect_kind(OURO_GC_FULL), 0);
        cr_assert_eq(last_info.candidates, 0);
        frozen = last_info.pause_ns < frozen ? last_info.pause_ns : frozen;
    }
    fprintf(stderr, "pause with %zu objects: %.3f ms, frozen: %.3f ms\n", count,
            (double)thawed / 1e6, (double)frozen / 1e6);
    cr_assert_lt(frozen, thawed / 4);
    cr_assert_eq(ouro_unfreeze(), count);
    cr_assert_eq(collect_kind(OURO_GC_FULL), 0);
    cr_assert_eq(last_info.candidates, count);
    ouro_decref(tree);
}

static const ouro_type *large_type(void)
{
    static const uint16_t fields[] = {sizeof(ouro_header)};
    const ouro_type *type;
    ouro_type_spec spec = {.name = "large", .size = 100000, .fields = fields, .field_count = 1};

    cr_assert_eq(ouro_type_register(&spec, &type), OURO_OK);
    return type;
}

Test(freeze, large_objects)
{
    const ouro_type *type = large_type();
    struct box *large = ouro_new(type);

    cr_assert(large);
    large->content = ouro_incref(OURO_OF(large));
    cr_assert_eq(ouro_freeze(0), 1);
    cr_assert(page_of(large)->frozen);
    ouro_decref(large);
    cr_assert_eq(collect_kind(OURO_GC_FULL), 0);
    cr_assert_eq(ouro_unfreeze(), 1);
    cr_assert_eq(collect(), 1);
    ouro_trim();
    ouro_trim();
    large = ouro_new(type); /* in the same pages, if not in others */
    cr_assert(large);
    cr_assert_not(page_of(large)->frozen);
    ouro_freeze(0);
    ouro_decref(large);
    ouro_trim();
    ouro_trim();
    large = ouro_new(type);
    cr_assert(large);
    large->content = OURO_OF(large);
    cr_assert_eq(collect(), 1);
}

/* --- immortal ---------------------------------------------------------------------------------------- */

Test(freeze, immortal_objects_are_not_written_by_counting)
{
    struct node *tree = tree_new(12);
    struct leaf *leaf = leaf_new(7);

    cr_assert_eq(ouro_freeze(OURO_FREEZE_IMMORTAL), (2 << 12) - 1);
    cr_assert_eq(ouro_refcount(tree), OURO_COUNT_IMMORTAL);
    cr_assert_eq(ouro_refcount(leaf), OURO_COUNT_IMMORTAL);
    cr_assert_eq(OURO_OWNED_ID(leaf->ouro.owned), OURO_ID_IMMORTAL);
    protect_node_pages(PROT_READ, false);
    for (struct node *node = tree; node; node = node->left) {
        ouro_incref(node);
        ouro_decref(node);
        ouro_decref(node);
    }
    protect_node_pages(PROT_READ | PROT_WRITE, false);
    ouro_decref(leaf);
    cr_assert_eq(ouro_unfreeze(), (2 << 12) - 1);
    cr_assert_eq(ouro_refcount(tree), OURO_COUNT_IMMORTAL);
    cr_assert_eq(collect_kind(OURO_GC_FULL), 0);
    cr_assert_eq(leaves_destroyed, 0);
    expect_left(2 << 12);
}

static struct node *shared_node;
static struct gate given;

static void make_and_sleep(void *argument)
{
    struct gate *dropped = argument;

    shared_node = node_new(NULL, NULL);
    gate_open(&given);
    gate_wait_attached(dropped); /* the hint stays in the inbox */
    ouro_safepoint();            /* parks for the stop first, drains afterwards */
}

/* The other thread is attached and has the seat, so the last reference leaves a hint that waits in the stop. */
Test(freeze, objects_that_are_about_to_die_stay_mortal)
{
    struct gate dropped = {false};
    struct worker worker;

    worker_start(&worker, make_and_sleep, &dropped);
    gate_wait_attached(&given);
    struct node *other = node_new(NULL, NULL);
    ouro_decref(shared_node);
    gate_open(&dropped);
    ouro_freeze(OURO_FREEZE_IMMORTAL);
    cr_assert_eq(ouro_refcount(other), OURO_COUNT_IMMORTAL);
    worker_join(&worker);
    cr_assert_eq(nodes_destroyed, 1);
    expect_left(1);
}

static void make_immortal_elsewhere(void *argument)
{
    ouro_immortalize(*(struct node **)argument);
}

Test(freeze, flag_without_id)
{
    struct node *node = node_new(NULL, NULL);

    /* The caller is detached meanwhile, so the other thread writes the id as a proxy. */
    run_in_thread(make_immortal_elsewhere, &node);
    cr_assert_eq(ouro_freeze(OURO_FREEZE_IMMORTAL), 1);
    cr_assert_eq(OURO_OWNED_ID(node->ouro.owned), OURO_ID_IMMORTAL);
    expect_left(1);
}

/* --- callers ------------------------------------------------------------------------------------------ */

static void freeze_in_callback(const ouro_gc_info *info, void *argument)
{
    size_t *frozen = argument;

    frozen[info->phase] = ouro_freeze(0) + ouro_frozen_count() + ouro_unfreeze();
}

Test(freeze, in_a_callback_of_the_collector)
{
    size_t frozen[2] = {0, 0};
    struct node *node = node_new(NULL, NULL), *ring = ring_new(10);

    ouro_decref(ring);
    cr_assert_eq(ouro_gc_add_callback(freeze_in_callback, frozen), OURO_OK);
    cr_assert_eq(ouro_collect(), 10);
    cr_assert_eq(ouro_gc_remove_callback(freeze_in_callback, frozen), OURO_OK);
    cr_assert_eq(frozen[OURO_GC_START], 33);
    cr_assert_eq(frozen[OURO_GC_STOP], 3);
    ouro_decref(node);
}

static atomic_bool enough;

static void collect_again_and_again(void *argument)
{
    atomic_size_t *collections = argument;

    while (!atomic_load(&enough)) {
        struct node *ring = ring_new(20);

        ouro_decref(ring);
        ouro_collect();
        atomic_fetch_add(collections, 1);
    }
}

Test(freeze, while_others_collect)
{
    atomic_size_t collections = 0;
    struct worker workers[2];
    struct node *tree = tree_new(8);

    for (int i = 0; i < 2; i++)
        worker_start(&workers[i], collect_again_and_again, &collections);
    for (int i = 0; i < SCALE(200, 50) || atomic_load(&collections) < 20; i++) {
        ouro_freeze(0);
        cr_assert_geq(ouro_frozen_count(), 511);
        cr_assert_geq(ouro_unfreeze(), 511);
    }
    atomic_store(&enough, true);
    for (int i = 0; i < 2; i++)
        worker_join(&workers[i]);
    ouro_decref(tree);
}

static void freeze_with_unknown_flags(void)
{
    ouro_freeze(2);
}

static void freeze_in_stopped_world(void)
{
    ouro_world_stop();
    ouro_freeze(0);
}

static void freeze_detached(void)
{
    ouro_detach();
    ouro_frozen_count();
}

static void unfreeze_in_node(struct node *node)
{
    (void)node;
    ouro_unfreeze();
}

static void unfreeze_in_destroy(void)
{
    struct node *node = node_new(NULL, NULL);

    on_node_destroy = unfreeze_in_node;
    ouro_decref(node);
}

Test(freeze, misuse)
{
    char text[400];

    cr_assert(aborts(freeze_with_unknown_flags, text, sizeof text));
    cr_assert(strstr(text, "there is 0, and OURO_FREEZE_IMMORTAL"), "%s", text);
    cr_assert(aborts(freeze_in_stopped_world, text, sizeof text));
    cr_assert(strstr(text, "ouro_freeze() by the thread \"test\""), "%s", text);
    cr_assert(aborts(freeze_detached, text, sizeof text));
    cr_assert(strstr(text, "while it is detached"), "%s", text);
    cr_assert(aborts(unfreeze_in_destroy, text, sizeof text));
    cr_assert(strstr(text, "ouro_unfreeze() in a type's destroy"), "%s", text);
}
