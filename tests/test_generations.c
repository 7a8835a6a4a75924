/*
 * test_generations.c - candidates, new objects, and what each kind of collection looks at.
 *
 * First each way in which an object loses a reference and lives on: it has to be noted.  Then what young, old and deep
 * collections find, examine and leave.  When they run by themselves: test_pace.c.
 */

#include "support.h"

#include "gc/collect.h"
#include "gc/sets.h"
#include "heap/heap.h"
#include "thread/seat.h"

#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>

TestSuite(generations, .init = enter, .fini = leave);

/* --- what is known of an object ---------------------------------------------------------------------- */

static bool has_bit(const uint64_t *map, const void *o)
{
    return map[granule_of(o) / 64] >> granule_of(o) % 64 & 1;
}

static uint8_t flags_of(const void *o)
{
    return ((const ouro_object *)o)->ouro.flags;
}

static bool is_fresh(const void *o)
{
    return (((const ouro_object *)o)->ouro.owned & OURO_FRESH) != 0;
}

/* In the map, and by its header a candidate: only both together make a collection look at it. */
static bool is_noted(const void *o)
{
    uint32_t id = OURO_OWNED_ID(((const ouro_object *)o)->ouro.owned);

    return has_bit(page_candidates(page_of(o)), o) &&
           ((flags_of(o) & OURO_FLAG_NOTED) || (id != OURO_ID_MERGED && !is_fresh(o)));
}

static bool is_new(const void *o)
{
    return flags_of(o) & OURO_FLAG_NEW;
}

/* After it what exists is not new, and no candidate. */
static void settle(void)
{
    ouro_collect_kind(OURO_GC_DEEP);
    ouro_collect_kind(OURO_GC_DEEP);
}

/* A node that nothing refers to but the caller, as often as he says. */
static struct node *settled(unsigned references)
{
    struct node *node = node_new(NULL, NULL);

    while (--references > 0)
        ouro_incref(node);
    settle();
    cr_assert_not(is_noted(node));
    cr_assert_not(is_new(node));
    cr_assert(is_fresh(node));
    return node;
}

/* --- each way to lose a reference --------------------------------------------------------------------- */

Test(generations, owners_first_decrement)
{
    struct node *node = settled(3);

    ouro_decref(node);
    cr_assert(is_noted(node));
    cr_assert_not(is_fresh(node));
    ouro_decref(node);
    cr_assert(is_noted(node));
    cr_assert_eq(collect_kind(OURO_GC_OLD), 0);
    cr_assert_eq(last_info.candidates, 1);
    cr_assert_not(is_noted(node));
    cr_assert(is_fresh(node));
    ouro_decref(node);
}

Test(generations, increments_say_nothing)
{
    struct node *node = settled(1);

    for (int i = 0; i < 100; i++)
        ouro_incref(node);
    cr_assert_not(is_noted(node));
    cr_assert_eq(collect_kind(OURO_GC_DEEP), 0);
    cr_assert_eq(last_info.candidates, 0);
    for (int i = 0; i < 101; i++)
        ouro_decref(node);
}

static void take_and_drop(void *argument)
{
    struct node *node = argument;

    ouro_decref(ouro_incref(node));
}

/* The shared half doesn't go below zero, so its owner hears nothing of it. */
Test(generations, foreign_decrement)
{
    struct node *node = settled(1);

    run_in_thread(take_and_drop, node);
    cr_assert(is_noted(node));
    cr_assert(is_fresh(node));
    cr_assert_eq(collect_kind(OURO_GC_OLD), 0);
    cr_assert_eq(last_info.candidates, 1);
    cr_assert_not(is_noted(node));
    run_in_thread(take_and_drop, node); /* and again */
    cr_assert(is_noted(node));
    ouro_decref(node);
}

static void take(void *argument)
{
    struct node *node = argument;

    ouro_incref(node);
}

static void drop(void *argument)
{
    struct node *node = argument;

    ouro_decref(node);
}

Test(generations, owners_merge)
{
    struct node *node = settled(1);

    run_in_thread(take, node);
    cr_assert_not(is_noted(node));
    ouro_decref(node);
    cr_assert_eq(OURO_OWNED_ID(node->ouro.owned), OURO_ID_MERGED);
    cr_assert(is_noted(node));
    ouro_decref(node);
}

/* Without an owner the missing bit in `owned` says nothing any more. */
Test(generations, merge_of_a_candidate)
{
    struct node *node = settled(3);

    ouro_decref(node);
    cr_assert(is_noted(node));
    run_in_thread(drop, node); /* leaves a hint, or merges for the owner */
    ouro_safepoint();
    cr_assert_eq(OURO_OWNED_ID(node->ouro.owned), OURO_ID_MERGED);
    cr_assert(is_noted(node));
    ouro_decref(node);
}

struct hint {
    struct node *node;
    struct gate dropped;
};

static void drop_and_tell(void *argument)
{
    struct hint *hint = argument;

    ouro_decref(hint->node);
    gate_open(&hint->dropped);
}

/* The owner is attached and drains the hint itself. */
Test(generations, drain_of_a_hint)
{
    struct hint hint = {.node = settled(2)};
    struct worker worker;

    worker_start(&worker, drop_and_tell, &hint);
    gate_wait_attached(&hint.dropped);
    cr_assert(is_noted(hint.node));
    ouro_safepoint();
    worker_join(&worker);
    cr_assert_eq(OURO_OWNED_ID(hint.node->ouro.owned), OURO_ID_MERGED);
    cr_assert(is_noted(hint.node));
    ouro_decref(hint.node);
}

Test(generations, decrement_without_an_owner)
{
    struct node *node = settled(3);

    run_in_thread(drop, node);
    ouro_safepoint();
    cr_assert_eq(OURO_OWNED_ID(node->ouro.owned), OURO_ID_MERGED);
    settle();
    cr_assert_not(is_noted(node));
    ouro_decref(node);
    cr_assert(is_noted(node));
    ouro_decref(node);
}

Test(generations, a_holder_dies)
{
    struct node *node = node_new(NULL, NULL);
    struct node *holder = node_new(ouro_incref(node), NULL);

    settle();
    ouro_decref(holder);
    cr_assert(is_noted(node));
    ouro_decref(node);
}

Test(generations, garbage_drops_what_it_referred_to)
{
    struct node *node = settled(1), *ring = ring_new(3);

    ring->right = ouro_incref(node);
    ouro_decref(ring);
    cr_assert_not(is_noted(node));
    cr_assert_eq(collect_kind(OURO_GC_YOUNG), 3);
    cr_assert(is_noted(node));
    ouro_decref(node);
}

Test(generations, retired_reference)
{
    static ouro_slot slot;
    struct node *node = settled(1);

    cr_assert_eq(ouro_slot_store(&slot, node), OURO_OK);
    cr_assert_not(is_noted(node));
    cr_assert_eq(ouro_slot_clear(&slot), OURO_OK);
    cr_assert_not(is_noted(node), "the reference is still counted");
    ouro_synchronize();
    cr_assert(is_noted(node));
    ouro_decref(node);
}

Test(generations, slots_that_steal)
{
    static ouro_slot slot;
    struct node *node[4];
    ouro_object *old;

    for (int i = 0; i < 4; i++)
        node[i] = settled(2);
    cr_assert_eq(ouro_slot_store_steal(&slot, node[0]), OURO_OK);
    cr_assert(is_noted(node[0]));
    cr_assert_eq(ouro_slot_exchange(&slot, node[1], &old), OURO_OK);
    cr_assert(is_noted(node[1]));
    cr_assert_eq(ouro_slot_take(&slot, node[2], &old), OURO_OK);
    cr_assert(is_noted(node[2]));
    ouro_decref((struct node *)(void *)old);
    cr_assert_eq(ouro_slot_compare_exchange(&slot, node[2], node[3]), OURO_OK);
    cr_assert(is_noted(node[3]));
    cr_assert_eq(ouro_slot_clear(&slot), OURO_OK);
    for (int i = 0; i < 4; i++)
        ouro_decref(node[i]);
    ouro_synchronize();
}

static void note_it(void *argument)
{
    struct node *node = argument;

    ouro_note(node);
}

Test(generations, ouro_note)
{
    struct node *own = settled(1), *foreign = settled(1), *merged = settled(2);
    struct leaf *leaf = leaf_new(1);
    struct box *box = box_new(NULL);

    ouro_note(own);
    cr_assert(is_noted(own));
    run_in_thread(note_it, foreign);
    cr_assert(is_noted(foreign));
    run_in_thread(drop, merged);
    ouro_safepoint();
    settle();
    cr_assert_not(is_noted(merged));
    ouro_note(merged);
    cr_assert(is_noted(merged));
    ouro_note(leaf);
    ouro_note(box);
    cr_assert_not(has_bit(page_candidates(page_of(leaf)), leaf));
    cr_assert_not(has_bit(page_candidates(page_of(box)), box));
    ouro_decref(own);
    ouro_decref(foreign);
    ouro_decref(merged);
    ouro_decref(leaf);
    ouro_decref(box);
}

/* A ring that is closed by moving the only reference from outside: nobody loses one. */
Test(generations, ouro_move)
{
    struct node *a = node_new(NULL, NULL), *b = node_new(a, NULL), *old = settled(2);

    ouro_move(a, &a->right, old);
    cr_assert(is_noted(a));
    settle();
    ouro_move(a, &a->right, b);
    cr_assert(is_noted(a));
    cr_assert(is_noted(old), "what was in the field is dropped");
    cr_assert_eq(collect_kind(OURO_GC_OLD), 2);
    ouro_decref(old);
}

enum { PHOENIXES = 200 };
static struct node *resurrected[PHOENIXES];
static size_t resurrected_count;

static void resurrect(void *self)
{
    resurrected[resurrected_count++] = ouro_incref((struct node *)self);
}

static const ouro_type *resurrecting_type(void)
{
    static const uint16_t fields[] = {OURO_FIELD(struct node, left),
                                      OURO_FIELD(struct node, right)};
    static const ouro_type *type;

    if (!type)
        cr_assert_eq(ouro_type_register(&(ouro_type_spec){.name = "phoenix",
                                                          .size = sizeof(struct node),
                                                          .fields = fields,
                                                          .field_count = 2,
                                                          .finalize = resurrect},
                                        &type),
                     OURO_OK);
    return type;
}

Test(generations, finalizers_queue_drops_its_reference)
{
    struct node *node = ouro_new(resurrecting_type());

    settle();
    ouro_decref(node);
    cr_assert_eq(ouro_run_finalizers(), 1);
    cr_assert_eq(resurrected[0], node);
    cr_assert(is_noted(node));
    ouro_move(node, &node->left, node); /* now it is garbage */
    cr_assert_eq(collect_kind(OURO_GC_OLD), 1);
}

/* It was found to be garbage in a cycle, and lives on in one. */
Test(generations, resurrected_cycle)
{
    struct node *node = ouro_new(resurrecting_type());

    node->left = ouro_incref(node);
    settle();
    ouro_decref(node);
    cr_assert_eq(collect_kind(OURO_GC_OLD), 0);
    cr_assert_eq(last_info.finalizers, 1);
    cr_assert_eq(ouro_run_finalizers(), 1);
    ouro_decref(resurrected[0]);
    cr_assert_eq(collect_kind(OURO_GC_OLD), 1);
}

static struct gate dying;

static void await_stop(struct node *node)
{
    (void)node;
    gate_open(&dying);
    while (!seat_stop_wanted(seat_attached_self))
        sched_yield();
}

static void die_slowly(void *argument)
{
    struct node *holder = argument;

    ouro_decref(holder); /* sees the stop, and leaves what is dead to the next safepoint */
    on_node_destroy = NULL;
    for (int i = 0; i < 100; i++)
        ouro_safepoint();
}

/* A collection meets objects that are dead, passes over them, and then their finalizers bring them back. */
Test(generations, resurrected_after_a_collection_met_it_dead)
{
    struct array *array = array_new(PHOENIXES);
    struct node *holder = node_new(NULL, (struct node *)(void *)array);
    struct worker worker;

    for (int i = 0; i < PHOENIXES; i++)
        array->items[i] = ouro_new(resurrecting_type());
    settle();
    for (int i = 0; i < PHOENIXES; i++)
        (ouro_note)(array->items[i]);
    for (int i = 0; i < PHOENIXES; i++) /* so that the other thread destroys them itself */
        cr_assert((ouro_disown)(array->items[i]));
    cr_assert(ouro_disown(array));
    cr_assert(ouro_disown(holder));
    on_node_destroy = await_stop;
    worker_start(&worker, die_slowly, holder);
    gate_wait_attached(&dying);
    cr_assert_eq(collect_kind(OURO_GC_OLD), 0);
    worker_join(&worker);
    while (ouro_run_finalizers() > 0)
        continue;
    cr_assert_eq(resurrected_count, PHOENIXES);
    for (int i = 0; i < PHOENIXES; i++)
        ouro_move(resurrected[i], &resurrected[i]->left, resurrected[i]);
    cr_assert_eq(collect_kind(OURO_GC_OLD), PHOENIXES);
}

Test(generations, disown)
{
    struct node *fresh = settled(1), *noted = settled(1);

    ouro_decref(ouro_incref(noted));
    cr_assert(is_noted(noted));
    cr_assert(ouro_disown(fresh));
    cr_assert(ouro_disown(noted));
    cr_assert_not(is_noted(fresh));
    cr_assert(is_noted(noted));
    ouro_decref(fresh);
    ouro_decref(noted);
}

Test(generations, unfreeze)
{
    struct node *tree = tree_new(3);

    settle();
    ouro_freeze(0);
    ouro_decref(ouro_incref(tree));
    cr_assert_eq(collect_kind(OURO_GC_OLD), 0);
    cr_assert_eq(last_info.candidates, 0);
    cr_assert_eq(ouro_unfreeze(), 15);
    cr_assert(is_noted(tree));
    cr_assert(is_noted(tree->left->left->left));
    cr_assert_eq(collect_kind(OURO_GC_OLD), 0);
    cr_assert_eq(last_info.candidates, 15);
    cr_assert_eq(collect_kind(OURO_GC_OLD), 0);
    cr_assert_eq(last_info.candidates, 0);
    ouro_decref(tree);
}

/* Frozen objects that are not the only ones in their page. */
Test(generations, frozen_ones_beside_others)
{
    struct node *frozen = node_new(NULL, NULL);

    frozen->left = ouro_incref(frozen);
    ouro_freeze(0);
    struct node *node = node_new(NULL, NULL);
    cr_assert_eq(page_of(frozen), page_of(node));
    ouro_decref(frozen);
    ouro_decref(ouro_incref(node));
    for (ouro_gc_kind kind = OURO_GC_YOUNG; kind <= OURO_GC_DEEP; kind++)
        cr_assert_eq(collect_kind(kind), 0);
    ouro_decref(node);
    ouro_unfreeze();
    cr_assert_eq(collect_kind(OURO_GC_OLD), 1);
}

Test(generations, types_without_cycles_are_not_noted)
{
    struct leaf *leaf = leaf_new(1);
    struct box *box = box_new(NULL);

    cr_assert_not(is_fresh(leaf) || is_fresh(box) || is_new(leaf) || is_new(box));
    ouro_decref(ouro_incref(leaf));
    ouro_decref(ouro_incref(box));
    run_in_thread(take_and_drop, leaf);
    run_in_thread(take_and_drop, box);
    cr_assert_not(has_bit(page_candidates(page_of(leaf)), leaf));
    cr_assert_not(has_bit(page_candidates(page_of(box)), box));
    cr_assert_eq(collect_kind(OURO_GC_FULL), 0);
    cr_assert_eq(last_info.candidates, 0);
    ouro_decref(leaf);
    ouro_decref(box);
}

/* --- new ones ------------------------------------------------------------------------------------------ */

Test(generations, new_ones_are_looked_at_once)
{
    struct node *chain = chain_new(100);

    cr_assert(is_new(chain) && is_fresh(chain));
    cr_assert_eq(collect_kind(OURO_GC_YOUNG), 0);
    cr_assert_eq(last_info.candidates, 100);
    cr_assert_eq(last_info.generation, 0);
    cr_assert_not(is_new(chain));
    cr_assert_eq(collect_kind(OURO_GC_YOUNG), 0);
    cr_assert_eq(last_info.candidates, 0);
    struct node *more = node_new(chain, NULL);
    cr_assert_eq(collect_kind(OURO_GC_YOUNG), 0);
    cr_assert_eq(last_info.candidates, 1);
    ouro_decref(more);
}

Test(generations, kept_ones_that_have_lost_a_reference_become_candidates)
{
    struct node *lost = node_new(NULL, NULL), *foreign = node_new(NULL, NULL);
    struct node *fresh = node_new(NULL, NULL);

    ouro_decref(ouro_incref(lost));
    run_in_thread(take_and_drop, foreign);
    cr_assert_not(is_noted(lost) || is_noted(foreign), "the next young one looks at them anyway");
    cr_assert_eq(collect_kind(OURO_GC_YOUNG), 0);
    cr_assert(is_noted(lost));
    cr_assert(is_noted(foreign));
    cr_assert_not(is_noted(fresh));
    cr_assert_eq(collect_kind(OURO_GC_OLD), 0);
    cr_assert_eq(last_info.candidates, 2);
    ouro_decref(lost);
    ouro_decref(foreign);
    ouro_decref(fresh);
}

Test(generations, a_new_pair_is_found_by_a_young_one)
{
    ouro_decref(ring_new(2));
    cr_assert_eq(collect_kind(OURO_GC_YOUNG), 2);
    cr_assert_eq(last_info.candidates, 2);
}

Test(generations, an_old_pair_is_found_by_an_old_one)
{
    struct node *ring = ring_new(2);

    cr_assert_eq(collect_kind(OURO_GC_YOUNG), 0);
    ouro_decref(ring);
    cr_assert_eq(collect_kind(OURO_GC_YOUNG), 0);
    cr_assert_eq(last_info.candidates, 0);
    cr_assert_eq(collect_kind(OURO_GC_OLD), 2);
    cr_assert_eq(last_info.generation, 1);
}

Test(generations, a_cycle_of_new_and_old)
{
    struct node *old = settled(1), *young = node_new(ouro_incref(old), NULL);

    old->left = ouro_incref(young);
    ouro_decref(young); /* new: no bit */
    cr_assert_eq(collect_kind(OURO_GC_YOUNG), 0);
    cr_assert(is_noted(young));
    ouro_decref(old);
    cr_assert_eq(collect_kind(OURO_GC_OLD), 2);

    old = settled(1);
    young = node_new(ouro_incref(old), NULL);
    old->left = ouro_incref(young);
    ouro_decref(old);
    ouro_decref(young);
    cr_assert_eq(collect_kind(OURO_GC_OLD), 2,
                 "one candidate is enough, new ones are followed, too");
}

/* --- old ones -------------------------------------------------------------------------------------------- */

Test(generations, a_complete_exploration_takes_the_candidature_away)
{
    struct node *chain = chain_new(100);

    settle();
    ouro_decref(ouro_incref(chain));
    ouro_decref(ouro_incref(chain->left->left));
    cr_assert_eq(collect_kind(OURO_GC_OLD), 0);
    cr_assert_eq(last_info.candidates, 100, "each once");
    cr_assert_eq(last_info.cut, 0);
    cr_assert_not(is_noted(chain) || is_noted(chain->left->left));
    cr_assert_eq(collect_kind(OURO_GC_OLD), 0);
    cr_assert_eq(last_info.candidates, 0);
    cr_assert_eq(collect_kind(OURO_GC_DEEP), 0);
    cr_assert_eq(last_info.candidates, 0);
    ouro_decref(chain);
}

Test(generations, what_was_cut_is_found_by_a_deep_one)
{
    struct node *ring = ring_new(1000);

    settle();
    ouro_decref(ring);
    cr_assert_eq(collect_kind(OURO_GC_OLD), 0);
    cr_assert_eq(last_info.candidates, 256);
    cr_assert_eq(last_info.cut, 1);
    cr_assert(has_bit(page_cut(page_of(ring)), ring));
    cr_assert_eq(collect_kind(OURO_GC_OLD), 0);
    cr_assert_eq(last_info.candidates, 0, "it waits");
    cr_assert_eq(collect_kind(OURO_GC_DEEP), 1000);
    cr_assert_eq(last_info.cut, 0);
}

/* The same, live: it stays a candidate until all that it reaches has been looked at. */
Test(generations, what_was_cut_stays_a_candidate)
{
    struct node *ring = ring_new(1000);

    settle();
    ouro_decref(ouro_incref(ring));
    cr_assert_eq(collect_kind(OURO_GC_OLD), 0);
    ouro_decref(ring); /* says nothing new */
    cr_assert_eq(collect_kind(OURO_GC_OLD), 0);
    cr_assert_eq(collect_kind(OURO_GC_DEEP), 1000);
    ring = ring_new(1000);
    settle();
    ouro_decref(ouro_incref(ring));
    cr_assert_eq(collect_kind(OURO_GC_OLD), 0);
    cr_assert_eq(collect_kind(OURO_GC_DEEP), 0);
    cr_assert_eq(last_info.candidates, 1000);
    cr_assert_eq(collect_kind(OURO_GC_DEEP), 0);
    cr_assert_eq(last_info.candidates, 0);
    ouro_decref(ring);
}

Test(generations, small_garbage_with_much_below_it)
{
    struct node *tree = tree_new(12), *ring = ring_new(2);

    ring->right = ouro_incref(tree);
    settle();
    ouro_decref(ring);
    cr_assert_eq(collect_kind(OURO_GC_OLD), 2);
    cr_assert_leq(last_info.candidates, 256);
    ouro_decref(tree);
}

/* --- nothing to do ---------------------------------------------------------------------------------------- */

Test(generations, if_nothing_has_changed_nothing_is_examined)
{
    unsigned depth = SCALE_MEMORY(18, 12);
    struct node *tree = tree_new(depth);

    cr_assert_eq(collect_kind(OURO_GC_DEEP), 0);
    cr_assert_eq(last_info.candidates, ((size_t)2 << depth) - 1);
    cr_assert_eq(collect_kind(OURO_GC_DEEP), 0);
    cr_assert_eq(last_info.candidates, 0);
    ouro_decref(ouro_incref(tree->left->left->left->left));
    cr_assert_eq(collect_kind(OURO_GC_DEEP), 0);
    cr_assert_eq(last_info.candidates, ((size_t)2 << (depth - 4)) - 1, "what a candidate reaches");
    cr_assert_eq(collect_kind(OURO_GC_FULL), 0);
    cr_assert_eq(last_info.candidates, ((size_t)2 << depth) - 1);
    ouro_decref(tree);
}

static void protect_nodes(int protection)
{
    size_t pages = 0;

    for (struct area *area = area_first(); area; area = area->next) {
        for (size_t i = AREA_META_PAGES; i < AREA_PAGES; i++) {
            struct page *page = &area->pages[i];

            if (page_state(page) != PAGE_ACTIVE || page->kind != KIND_TRACKED)
                continue;
            cr_assert_eq(mprotect(page->start, PAGE_BYTES, protection), 0);
            pages++;
        }
    }
    cr_assert_geq(pages, 3);
}

Test(generations, a_collection_with_nothing_to_do_touches_no_object)
{
    setenv("OURO_VERIFY", "0", 1); /* it would read them */
    struct node *tree = tree_new(12);

    settle();
    collect_kind(OURO_GC_YOUNG); /* takes back blocks that were to be handed out */
    protect_nodes(PROT_NONE);
    for (ouro_gc_kind kind = OURO_GC_YOUNG; kind <= OURO_GC_DEEP; kind++) {
        cr_assert_eq(collect_kind(kind), 0);
        cr_assert_eq(last_info.candidates, 0);
    }
    protect_nodes(PROT_READ | PROT_WRITE);
    ouro_decref(tree);
}

/* --- limits ---------------------------------------------------------------------------------------------------- */

/* Objects of one page: what a young stop may be over its limit. */
static size_t page_nodes(void)
{
    return PAGE_BYTES / sizeof(struct node);
}

Test(generations, young_stops_keep_to_their_limit)
{
    enum { COUNT = 50000, LIMIT = 1000 };
    struct node *chain = chain_new(COUNT);
    size_t examined = 0, stops = 0;

    collect_set_limits(&(struct sets_limit){LIMIT, 256, 0});
    do {
        cr_assert_eq(collect_kind(OURO_GC_YOUNG), 0);
        cr_assert_leq(last_info.candidates, LIMIT + page_nodes());
        examined += last_info.candidates;
        stops++;
        cr_assert_lt(stops, 1000);
    } while (last_info.candidates > 0 || sets_has_new());
    cr_assert_eq(examined, COUNT);
    cr_assert_geq(stops, COUNT / (LIMIT + page_nodes()));
    collect_set_limits(NULL);
    ouro_decref(chain);
}

Test(generations, old_stops_keep_to_their_limit)
{
    enum { COUNT = 20000, LIMIT = 1000 };
    struct array *array = array_new(COUNT);
    size_t examined = 0, stops = 0;

    for (int i = 0; i < COUNT; i++) /* every other one will be garbage */
        array->items[i] = OURO_OF(i % 2 ? chain_new(2) : ring_new(2));
    settle();
    for (int i = 0; i < COUNT; i++)
        (ouro_decref)(i % 2 ? (ouro_incref)(array->items[i]) : array->items[i]);
    for (int i = 0; i < COUNT; i += 2)
        array->items[i] = NULL;
    collect_set_limits(&(struct sets_limit){LIMIT, 256, 0});
    for (size_t found = 0; found < COUNT; stops++) {
        found += collect_kind(OURO_GC_OLD);
        cr_assert_leq(last_info.candidates, LIMIT + 256);
        examined += last_info.candidates;
        cr_assert_lt(stops, 1000);
    }
    while (sets_has_candidates()) {
        cr_assert_eq(collect_kind(OURO_GC_OLD), 0);
        examined += last_info.candidates;
    }
    cr_assert_eq(examined, 2 * COUNT);
    cr_assert_geq(stops, COUNT / 2 / LIMIT);
    collect_set_limits(NULL);
    ouro_decref(array);
}

Test(generations, a_small_cap)
{
    struct node *chain = chain_new(10), *ring = ring_new(10);

    settle();
    collect_set_limits(&(struct sets_limit){1000, 5, 0});
    ouro_decref(ouro_incref(chain));
    ouro_decref(ring);
    cr_assert_eq(collect_kind(OURO_GC_OLD), 0);
    cr_assert_eq(last_info.candidates, 10);
    cr_assert_eq(last_info.cut, 2);
    collect_set_limits(NULL);
    cr_assert_eq(collect_kind(OURO_GC_DEEP), 10);
    cr_assert_eq(last_info.candidates, 20);
    ouro_decref(chain);
}
