/*
 * test_gc.c - the cycle collector: what it finds, what it keeps, when it runs, whom it tells.
 */

#include "support.h"

#include "base/events.h"

#include <stdlib.h>

TestSuite(gc, .init = enter, .fini = leave);

static void assert_collects(size_t count)
{
    size_t collected = ouro_collect();

    cr_assert_eq(collected, count, "%zu collected instead of %zu", collected, count);
    cr_assert_eq(ouro_collect(), 0);
}

/* --- shapes of garbage ------------------------------------------------------------------------------- */

Test(gc, nothing_to_do)
{
    struct node *node = node_new(node_new(NULL, NULL), NULL);

    assert_collects(0);
    ouro_decref(node);
    assert_collects(0);
}

Test(gc, itself)
{
    struct node *node = ring_new(1);

    assert_collects(0);
    ouro_decref(node);
    cr_assert_eq(nodes_destroyed, 0);
    assert_collects(1);
    cr_assert_eq(nodes_destroyed, 1);
    cr_assert_eq(live_objects(), 0);
}

Test(gc, itself_in_both_fields)
{
    struct node *node = node_new(NULL, NULL);

    node->left = ouro_incref(node);
    node->right = ouro_incref(node);
    cr_assert_eq(ouro_refcount(node), 3);
    ouro_decref(node);
    assert_collects(1);
}

Test(gc, a_pair)
{
    struct node *node = ring_new(2);

    ouro_decref(node);
    assert_collects(2);
    cr_assert_eq(nodes_destroyed, 2);
}

Test(gc, a_ring)
{
    size_t count = SCALE(100000, 20000);
    struct node *ring = ring_new(count);

    assert_collects(0);
    ouro_decref(ring);
    assert_collects(count);
}

/* A tree whose nodes know their parents: an array of two children and the parent each. */
static struct array *tree_with_parents(struct array *parent, unsigned depth)
{
    struct array *array = array_new(3);

    array->items[2] = parent ? ouro_incref(OURO_OF(parent)) : NULL;
    for (int i = 0; depth > 0 && i < 2; i++)
        array->items[i] = OURO_OF(tree_with_parents(array, depth - 1));
    return array;
}

Test(gc, a_tree_with_parents)
{
    struct array *tree = tree_with_parents(NULL, 12);
    struct array *deep = (struct array *)(void *)tree->items[1];

    deep = ouro_incref((struct array *)(void *)deep->items[0]);
    ouro_decref(tree);
    assert_collects(0);
    ouro_decref(deep);
    assert_collects((2 << 12) - 1);
    cr_assert_eq(arrays_destroyed, (2 << 12) - 1);
}

Test(gc, everything_to_everything)
{
    enum { COUNT = 60 };
    struct array *arrays[COUNT];

    for (int i = 0; i < COUNT; i++)
        arrays[i] = array_new(COUNT);
    for (int i = 0; i < COUNT; i++) {
        for (int j = 0; j < COUNT; j++)
            arrays[i]->items[j] = ouro_incref(OURO_OF(arrays[j]));
    }
    for (int i = 1; i < COUNT; i++)
        ouro_decref(arrays[i]);
    assert_collects(0);
    ouro_decref(arrays[0]);
    assert_collects(COUNT);
}

Test(gc, garbage_lets_go_of_what_is_alive)
{
    struct node *alive = node_new(NULL, NULL);
    struct leaf *leaf = leaf_new(1);
    struct node *ring = ring_new(10);

    for (struct node *n = ring; !n->right; n = n->left)
        n->right = ouro_incref(alive);
    struct array *array = array_new(2);
    array->items[0] = ouro_incref(OURO_OF(array));
    array->items[1] = ouro_incref(OURO_OF(leaf));
    cr_assert_eq(ouro_refcount(alive), 11);
    ouro_decref(ring);
    ouro_decref(array);
    assert_collects(11);
    cr_assert_eq(ouro_refcount(alive), 1);
    cr_assert_eq(ouro_refcount(leaf), 1);
    ouro_decref(alive);
    ouro_decref(leaf);
}

Test(gc, what_hangs_from_garbage_dies_with_it)
{
    struct node *ring = ring_new(3);

    /* Acyclic and untracked objects are not examined, but dropped. */
    ring->right = node_new((struct node *)(void *)box_new(OURO_OF(leaf_new(1))), NULL);
    ring->left->right = chain_new(1000);
    ouro_decref(ring);
    ouro_collect();
    cr_assert_eq(boxes_destroyed, 1);
    cr_assert_eq(leaves_destroyed, 1);
    cr_assert_eq(nodes_destroyed, 3 + 1 + 1000);
    cr_assert_eq(live_objects(), 0);
}

Test(gc, what_is_alive_keeps_what_it_refers_to)
{
    struct node *ring = ring_new(1000);
    struct box *box = box_new(OURO_OF(ring));
    struct node *holder = node_new((struct node *)(void *)box, NULL);

    assert_collects(0);
    /* Through an object that is in a cycle itself. */
    holder->right = ouro_incref(holder);
    assert_collects(0);
    ouro_incref(box);
    ouro_decref(holder);
    assert_collects(1);
    ouro_decref(box);
    cr_assert_eq(nodes_destroyed, 1);
    assert_collects(1000);
}

Test(gc, immortal_objects_and_what_they_refer_to)
{
    struct node *node = node_new(ring_new(5), NULL);

    node->right = ouro_incref(node);
    ouro_immortalize(node);
    ouro_decref(node);
    assert_collects(0);
    cr_assert_eq(nodes_destroyed, 0);
    expect_left(6);
}

/* --- large shapes -------------------------------------------------------------------------------------- */

static struct array *hub_new(size_t count)
{
    struct array *hub = array_new(count);

    for (size_t i = 0; i < count; i++)
        hub->items[i] = OURO_OF(node_new((struct node *)(void *)ouro_incref(hub), NULL));
    return hub;
}

Test(gc, a_hub)
{
    size_t count = SCALE(1000000, 200000);
    struct array *hub = hub_new(count);
    uint64_t rescans = event_total(EVENT_RESCAN);

    assert_collects(0);
    cr_assert_gt(event_total(EVENT_RESCAN), rescans, "the mark stack was never full");
    ouro_decref(hub);
    assert_collects(count + 1);
    cr_assert_eq(nodes_destroyed, count);
}

Test(gc, a_hub_that_only_a_child_holds)
{
    size_t count = SCALE(300000, 50000);
    struct array *hub = hub_new(count);
    ouro_object *child = ouro_incref(hub->items[count / 2]);

    ouro_decref(hub);
    assert_collects(0);
    ouro_decref(child);
    assert_collects(count + 1);
}

Test(gc, a_long_list)
{
    size_t count = SCALE(1000000, 100000);
    struct node *first = chain_new(count), *last = first;

    while (last->left)
        last = last->left;
    assert_collects(0);
    last->right = ouro_incref(first);
    assert_collects(0);
    ouro_decref(first);
    assert_collects(count);
}

/* A tree with long arms, alive and dead, with references back to the root. */
Test(gc, a_tree)
{
    struct node *root = tree_new(SCALE(17, 13)), *arm = root;
    size_t count = live_objects();

    while (arm->left)
        arm = arm->left;
    arm->left = ouro_incref(root);
    arm->right = ouro_incref(root);
    assert_collects(0);
    ouro_decref(root);
    assert_collects(count);
}

/* --- destroy ------------------------------------------------------------------------------------------- */

static void collect_again(struct node *node)
{
    (void)node;
    CHECK(ouro_collect() == 0);
}

Test(gc, collecting_in_destroy_does_nothing)
{
    on_node_destroy = collect_again;
    ouro_decref(ring_new(1));
    cr_assert_eq(ouro_collect(), 1);
    ouro_decref(node_new(NULL, NULL));
    on_node_destroy = NULL;
    cr_assert_eq(nodes_destroyed, 2);
}

static struct node *kept[100];

static void make_and_drop_more(struct node *node)
{
    int64_t value = node->value;

    if (value >= 100)
        return;
    /* More garbage, for the next collection, and something that lives. */
    struct node *ring = ring_new(2);
    ring->value = ring->left->value = 100;
    ouro_decref(ring);
    struct node *other = kept[value];
    kept[value] = NULL;
    ouro_decref(other);
    kept[value] = node_new(NULL, NULL);
    kept[value]->value = 100;
}

Test(gc, destroy_of_garbage_makes_and_drops)
{
    struct node *ring = ring_new(100), *n = ring;

    for (int i = 0; i < 100; i++, n = n->left) {
        n->value = i;
        kept[i] = node_new(NULL, NULL);
        kept[i]->value = 100;
    }
    on_node_destroy = make_and_drop_more;
    ouro_decref(ring);
    cr_assert_eq(ouro_collect(), 100);
    cr_assert_eq(nodes_destroyed, 200);
    cr_assert_eq(live_objects(), 300);
    on_node_destroy = NULL;
    assert_collects(200);
    for (int i = 0; i < 100; i++)
        ouro_decref(kept[i]);
}

/* --- several threads ------------------------------------------------------------------------------------- */

struct part {
    struct worker worker;
    struct array *array;
    struct gate made, go_on;
    bool ends;
};

static void make_part(void *argument)
{
    struct part *part = argument;

    part->array = array_new(4);
    OURO_DETACHED
    {
        gate_open(&part->made);
        if (!part->ends)
            gate_wait(&part->go_on);
    }
}

Test(gc, a_cycle_through_objects_of_detached_and_ended_threads)
{
    enum { PARTS = 6 };
    static struct part parts[PARTS];

    for (int i = 0; i < PARTS; i++) {
        parts[i].ends = i % 2;
        worker_start(&parts[i].worker, make_part, &parts[i]);
        gate_wait(&parts[i].made);
        if (parts[i].ends)
            worker_join(&parts[i].worker);
    }
    for (int i = 0; i < PARTS; i++) {
        parts[i].array->items[0] = ouro_incref(OURO_OF(parts[(i + 1) % PARTS].array));
        parts[i].array->items[3] = ouro_incref(OURO_OF(parts[(i + 3) % PARTS].array));
    }
    for (int i = 1; i < PARTS; i++)
        ouro_decref(parts[i].array);
    assert_collects(0);
    ouro_decref(parts[0].array);
    assert_collects(PARTS);
    for (int i = 0; i < PARTS; i++) {
        gate_open(&parts[i].go_on);
        if (!parts[i].ends)
            worker_join(&parts[i].worker);
    }
}

struct holder {
    struct worker worker;
    struct node *node;
    struct gate made, go_on, dropped, end;
};

static void hold_and_drop(void *argument)
{
    struct holder *holder = argument;

    ouro_incref(holder->node);
    gate_open(&holder->made);
    gate_wait(&holder->go_on);
    ouro_decref(holder->node);
    gate_open(&holder->dropped);
    gate_wait_running(&holder->end);
}

Test(gc, a_cycle_that_another_thread_holds)
{
    struct holder holder = {.node = ring_new(3)};

    worker_start(&holder.worker, hold_and_drop, &holder);
    gate_wait(&holder.made);
    ouro_decref(holder.node);
    assert_collects(0);
    gate_open(&holder.go_on);
    gate_wait(&holder.dropped);
    assert_collects(3);
    gate_open(&holder.end);
    worker_join(&holder.worker);
}

static void make_ring_and_run(void *argument)
{
    struct holder *holder = argument;

    holder->node = ring_new(3);
    gate_open(&holder->made);
    gate_wait_attached(&holder->go_on);
    gate_wait_running(&holder->end);
}

static void open_soon(void *argument)
{
    sleep_ms(20);
    gate_open(argument);
}

/* The owner has not seen the decrement when the collection asks for a stop. */
Test(gc, a_cycle_whose_owner_has_a_hint_to_read)
{
    struct holder holder = {0};
    struct worker opener;

    worker_start(&holder.worker, make_ring_and_run, &holder);
    gate_wait(&holder.made);
    ouro_incref(holder.node->left);
    ouro_decref(holder.node->left);
    ouro_decref(holder.node);
    worker_start_bare(&opener, open_soon, &holder.go_on);
    assert_collects(3);
    gate_open(&holder.end);
    worker_join(&holder.worker);
    worker_join(&opener);
}

static atomic_size_t collected;

static void litter(void *argument)
{
    (void)argument;
    for (int i = 0; i < SCALE(60, 20); i++) {
        for (size_t n = 1; n < 20; n++)
            ouro_decref(ring_new(n));
        atomic_fetch_add(&collected, ouro_collect());
    }
}

Test(gc, several_threads_collect_at_once)
{
    struct worker workers[4];
    ouro_gc_stats before, after;

    ouro_gc_get_stats(&before);
    for (int i = 0; i < 4; i++)
        worker_start(&workers[i], litter, NULL);
    for (int i = 0; i < 4; i++)
        worker_join(&workers[i]);
    atomic_fetch_add(&collected, ouro_collect());
    ouro_gc_get_stats(&after);
    cr_assert_eq(collected, 4 * SCALE(60, 20) * 190);
    cr_assert_eq(nodes_destroyed, collected);
    cr_assert_eq(after.collected - before.collected, collected);
    cr_assert_eq(after.collections - before.collections, 4 * SCALE(60, 20) + 1);
}

/* --- all, if that is less work ------------------------------------------------------------------------- */

/* Gives each node a reference and takes it away again; returns how many there are. The tree is deep where it leans to the left. */
static size_t touch_all(struct node *node)
{
    size_t count = 0;

    for (; node; node = node->left) {
        ouro_decref(ouro_incref(node));
        count += 1 + (node->right ? touch_all(node->right) : 0);
    }
    return count;
}

/* Most are candidates: it looks at everything, also at what none of them reaches; nothing is left to be looked at, and only garbage goes. */
Test(gc, deep_looks_at_everything_if_most_are_candidates)
{
    struct node *tree = tree_new(16), *apart = chain_new(50000);

    ouro_collect();
    cr_assert_eq(touch_all(tree), (2u << 16) - 1);
    ouro_decref(ring_new(1000));
    cr_assert_eq(collect_kind(OURO_GC_DEEP), 1000);
    cr_assert_geq(last_info.candidates, (2u << 16) - 1 + 50000 + 1000);
    cr_assert_eq(collect_kind(OURO_GC_DEEP), 0);
    cr_assert_eq(last_info.candidates, 0);
    cr_assert_eq(last_info.noted, 0);
    cr_assert_eq(touch_all(tree), (2u << 16) - 1);
    ouro_decref(tree);
    ouro_decref(apart);
}

/* Few are: what they don't reach is not looked at. */
Test(gc, deep_looks_at_little_if_few_are_candidates)
{
    struct node *tree = tree_new(16), *apart = chain_new(1000);

    ouro_collect();
    touch_all(apart);
    ouro_decref(ring_new(1000));
    cr_assert_eq(collect_kind(OURO_GC_DEEP), 1000);
    cr_assert_leq(last_info.candidates, 2000);
    ouro_decref(tree);
    ouro_decref(apart);
}
