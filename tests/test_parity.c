/*
 * test_parity.c - claims of docs/parity-with-cpython.md that no other file tests: one test a row.
 */

#include "support.h"

#include <stdlib.h>

TestSuite(parity, .init = enter, .fini = leave);

/* --- a type with a finalizer, which counts, and may bring its object back -------------------------------- */

struct mortal {
    ouro_header ouro;
    struct mortal *other;
    ouro_weakref *about; /* not a reference field: of the test */
    int order;
};

static const ouro_type *mortal_type;
static int finalized, orders[2];
static bool bring_back, was_cleared, was_finalized, other_was_there;
static struct mortal *back;

static void mortal_finalize(void *self)
{
    struct mortal *mortal = self;

    CHECK(finalized < 2);
    orders[finalized++] = mortal->order;
    was_cleared = !mortal->about || ouro_weakref_is_cleared(mortal->about);
    was_finalized = ouro_is_finalized(mortal);
    other_was_there = mortal->other != NULL;
    if (bring_back)
        back = ouro_incref(mortal);
}

static struct mortal *mortal_new(int order)
{
    static const uint16_t fields[] = {OURO_FIELD(struct mortal, other)};

    if (!mortal_type)
        CHECK(ouro_type_register(&(ouro_type_spec){.name = "mortal",
                                                   .size = sizeof(struct mortal),
                                                   .fields = fields,
                                                   .field_count = 1,
                                                   .finalize = mortal_finalize},
                                 &mortal_type) == OURO_OK);
    struct mortal *mortal = ouro_new(mortal_type);
    CHECK(mortal);
    mortal->order = order;
    return mortal;
}

static bool count_object(ouro_object *o, void *argument)
{
    (void)o;
    ++*(size_t *)argument;
    return true;
}

/* --- gc -------------------------------------------------------------------------------------------------- */

Test(parity, gc_collect_returns_how_many)
{
    ouro_decref(ring_new(7));
    cr_assert_eq(ouro_collect(), 7);
    cr_assert_eq(ouro_collect(), 0);
}

/* One call finds a ring, runs its finalizers, and finds it again. */
Test(parity, gc_collect_is_through_with_finalizers)
{
    struct mortal *a = mortal_new(1), *b = mortal_new(2);

    a->other = b;
    b->other = a; /* both references have moved into the ring */
    cr_assert_eq(ouro_collect(), 2);
    cr_assert_eq(finalized, 2);
    cr_assert(other_was_there, "all is whole when the first finalizer runs");
    cr_assert_eq(live_objects(), 0);
}

static size_t collected_in_callback = SIZE_MAX;

static void collect_in_callback(const ouro_gc_info *info, void *argument)
{
    (void)argument;
    if (info->phase == OURO_GC_STOP)
        collected_in_callback = ouro_collect();
}

Test(parity, gc_collect_in_a_callback_does_nothing)
{
    cr_assert_eq(ouro_gc_add_callback(collect_in_callback, NULL), OURO_OK);
    ouro_decref(ring_new(3));
    cr_assert_eq(ouro_collect(), 3);
    cr_assert_eq(collected_in_callback, 0);
    cr_assert_eq(ouro_gc_remove_callback(collect_in_callback, NULL), OURO_OK);
}

Test(parity, gc_debug_flags)
{
    unsigned leak = OURO_GC_PRINT_GARBAGE | OURO_GC_SAVE;
    char text[2000];

    cr_assert_eq(ouro_gc_get_debug(), 0);
    ouro_gc_set_debug(leak | OURO_GC_PRINT_STATS);
    cr_assert_eq(ouro_gc_get_debug(), leak | OURO_GC_PRINT_STATS);
    ouro_decref(ring_new(2));
    capture_start();
    cr_assert_eq(ouro_collect(), 0, "what is saved is not collected");
    ouro_gc_set_debug(OURO_GC_PRINT_STATS | OURO_GC_PRINT_GARBAGE);
    cr_assert_eq(ouro_gc_drop_saved(), 2);
    cr_assert_eq(ouro_collect(), 2);
    capture_stop(text, sizeof text);
    ouro_gc_set_debug(0);
    cr_assert(strstr(text, "2 saved"), "%s", text);
    cr_assert(strstr(text, "garbage: \"node\" at"), "%s", text);
}

/* Like DEBUG_SAVEALL: what is kept is whole, but nothing refers to it weakly any more. */
Test(parity, gc_garbage_is_whole)
{
    struct node *a = ring_new(2);
    ouro_weakref *ref = ouro_weakref_new(a);
    size_t saved = 0;

    ouro_gc_set_debug(OURO_GC_SAVE);
    ouro_decref(a);
    cr_assert_eq(ouro_collect(), 0);
    ouro_gc_set_debug(0);
    cr_assert_eq(ouro_gc_each_saved(count_object, &saved), 2);
    cr_assert_eq(saved, 2);
    cr_assert_eq(a->left->left, a);
    cr_assert(ouro_weakref_is_cleared(ref));
    cr_assert_eq(nodes_destroyed, 0);
    cr_assert_eq(ouro_gc_drop_saved(), 2);
    cr_assert_eq(ouro_gc_each_saved(count_object, &saved), 0);
    cr_assert_eq(ouro_collect(), 2);
    ouro_decref(ref);
}

Test(parity, gc_garbage_has_been_finalized)
{
    struct mortal *mortal = mortal_new(1);
    size_t saved = 0;

    mortal->other = mortal;
    ouro_gc_set_debug(OURO_GC_SAVE);
    cr_assert_eq(ouro_collect(), 0);
    ouro_gc_set_debug(0);
    cr_assert_eq(finalized, 1);
    cr_assert_eq(ouro_gc_each_saved(count_object, &saved), 1);
    cr_assert_eq(ouro_gc_drop_saved(), 1);
    cr_assert_eq(ouro_collect(), 1);
    cr_assert_eq(finalized, 1);
}

/* By type, and for ever: it does not depend on what is in the fields. */
Test(parity, gc_is_tracked)
{
    struct node *node = node_new(NULL, NULL);
    struct leaf *leaf = leaf_new(1);
    struct box *box = box_new(NULL);

    cr_assert(ouro_gc_is_tracked(node));
    cr_assert_not(ouro_gc_is_tracked(leaf));
    cr_assert_not(ouro_gc_is_tracked(box), "a promise: in no cycle");
    ouro_decref(node);
    ouro_decref(leaf);
    ouro_decref(box);
}

Test(parity, gc_is_finalized)
{
    struct mortal *mortal = mortal_new(1);

    cr_assert_not(ouro_is_finalized(mortal));
    bring_back = true;
    ouro_decref(mortal);
    ouro_safepoint();
    cr_assert(was_finalized, "also while it runs");
    cr_assert(ouro_is_finalized(back));
    ouro_decref(back);
    ouro_safepoint();
    cr_assert_eq(finalized, 1, "once");
    cr_assert_eq(live_objects(), 0);
}

Test(parity, gc_get_objects_shows_untracked_ones_too)
{
    struct node *node = node_new(NULL, NULL);
    struct leaf *leaf = leaf_new(1);
    size_t count = 0;

    cr_assert_eq(ouro_each_object(count_object, &count), 2);
    ouro_decref(node);
    ouro_decref(leaf);
}

/* --- finalizers -------------------------------------------------------------------------------------------- */

Test(parity, del_runs_at_a_safepoint)
{
    struct mortal *mortal = mortal_new(1);

    ouro_decref(mortal);
    cr_assert_eq(finalized, 0);
    cr_assert_eq(ouro_finalizers_waiting(), 1);
    ouro_safepoint();
    cr_assert_eq(finalized, 1);
}

/* CPython runs __del__ first when a count reaches zero, and so a weak reference survives a resurrection there. */
Test(parity, del_finds_weak_references_cleared)
{
    struct mortal *mortal = mortal_new(1);

    mortal->about = ouro_weakref_new(mortal);
    ouro_weakref *ref = mortal->about;
    bring_back = true;
    ouro_decref(mortal);
    ouro_safepoint();
    cr_assert(was_cleared);
    cr_assert_null(ouro_weakref_get(ref), "for good");
    ouro_weakref *second = ouro_weakref_new(back);
    cr_assert_neq(second, ref);
    struct mortal *got = ouro_weakref_get(second);
    cr_assert_eq(got, back);
    ouro_decref(got);
    ouro_decref(second);
    ouro_decref(ref);
    ouro_decref(back);
}

Test(parity, del_of_a_chain_from_its_head)
{
    struct mortal *first = mortal_new(1);

    first->other = mortal_new(2);
    ouro_decref(first);
    while (ouro_finalizers_waiting() > 0)
        ouro_safepoint();
    cr_assert_eq(finalized, 2);
    cr_assert_eq(orders[0], 1, "what it refers to is alive while its finalizer runs");
    cr_assert_eq(orders[1], 2);
}

/* --- weakref ----------------------------------------------------------------------------------------------- */

static int called[4], calls;
static int64_t argument_value;

static void note_call(ouro_weakref *ref, ouro_object *argument)
{
    CHECK(ouro_weakref_is_cleared(ref));
    called[calls++] = argument ? (int)((struct leaf *)(void *)argument)->value : -1;
}

static ouro_weakref *watch(struct node *target, int number)
{
    struct leaf *argument = leaf_new(number);
    ouro_weakref *ref =
        (ouro_weakref_new_callback)((ouro_object *)target, note_call, (ouro_object *)argument);

    CHECK(ref);
    ouro_decref(argument);
    return ref;
}

Test(parity, weakref_ref_is_shared)
{
    struct node *node = node_new(NULL, NULL);
    ouro_weakref *a = ouro_weakref_new(node), *b = ouro_weakref_new(node), *c = watch(node, 1);
    ouro_weakref *list[4];

    cr_assert_eq(a, b, "the one without a callback");
    cr_assert_neq(c, a);
    cr_assert_eq(ouro_weakref_count(node), 2);
    cr_assert_eq(ouro_weakref_list(node, list, 4), 2);
    cr_assert(list[0] == a && list[1] == c);
    ouro_decref(list[0]);
    ouro_decref(list[1]);
    struct node *got = ouro_weakref_get(a);
    cr_assert_eq(got, node);
    ouro_decref(got);
    ouro_decref(node);
    cr_assert_null(ouro_weakref_get(a));
    ouro_decref(a);
    ouro_decref(b);
    ouro_decref(c);
    ouro_safepoint();
}

Test(parity, weakref_callbacks_the_latest_first_at_a_safepoint)
{
    struct node *node = node_new(NULL, NULL);
    ouro_weakref *refs[3];

    for (int i = 0; i < 3; i++)
        refs[i] = watch(node, i);
    ouro_decref(node);
    cr_assert_eq(calls, 0);
    cr_assert_eq(nodes_destroyed, 1, "the target does not wait for them");
    ouro_safepoint();
    cr_assert_eq(calls, 3);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(called[i], 2 - i);
        ouro_decref(refs[i]);
    }
}

Test(parity, weakref_that_dies_first_is_not_called)
{
    struct node *node = node_new(NULL, NULL), *ring = ring_new(2);
    struct array *holder = array_new(1);

    ouro_decref(watch(node, 1));
    ouro_decref(node);

    /* And one that is garbage together with its target. */
    holder->items[0] = (ouro_object *)watch(ring, 2);
    ring->right = (struct node *)(void *)holder;
    ouro_decref(ring);
    cr_assert_geq(ouro_collect(), 4);
    ouro_safepoint();
    cr_assert_eq(calls, 0);
}

/* weakref.finalize(target, function, argument): a weak reference with a callback that somebody keeps. */
Test(parity, weakref_finalize)
{
    struct node *target = node_new(NULL, NULL), *other = node_new(NULL, NULL);
    ouro_weakref *finalize = watch(target, 7), *detached = watch(other, 8);

    cr_assert_not(ouro_weakref_is_cleared(finalize), "alive");
    ouro_decref(detached); /* detach() */
    ouro_decref(other);
    ouro_decref(target);
    cr_assert(ouro_weakref_is_cleared(finalize));
    ouro_safepoint();
    cr_assert_eq(calls, 1);
    cr_assert_eq(called[0], 7);
    ouro_safepoint();
    cr_assert_eq(calls, 1, "once");
    ouro_decref(finalize);

    target = node_new(NULL, NULL);
    finalize = watch(target, 9);
    ouro_decref(target);
    ouro_decref(finalize);
    ouro_safepoint();
    cr_assert_eq(calls, 2, "too late to call it off");
    cr_assert_eq(called[1], 9);
}

static void read_argument(ouro_weakref *ref, ouro_object *argument)
{
    (void)ref;
    argument_value = ((struct leaf *)(void *)argument)->value;
}

/* WeakValueDictionary, if the keys are objects: a map whose values are weak references. */
Test(parity, weak_values)
{
    ouro_weakmap *map = ouro_weakmap_new();
    struct node *key = node_new(NULL, NULL), *value = node_new(NULL, NULL);
    ouro_weakref *ref = ouro_weakref_new(value);

    cr_assert(map);
    cr_assert_eq(ouro_weakmap_set(map, key, ref), OURO_OK);
    ouro_decref(ref);
    ref = ouro_weakmap_get(map, key);
    struct node *got = ouro_weakref_get(ref);
    cr_assert_eq(got, value);
    ouro_decref(got);
    ouro_decref(value);
    cr_assert_null(ouro_weakref_get(ref));
    cr_assert(ouro_weakmap_has(map, key), "the entry is still there");
    ouro_decref(ref);
    ouro_decref(key);
    ouro_safepoint();
    ouro_decref(map);
}

/* The argument of a callback is held until it has returned. */
Test(parity, weakref_callback_has_an_argument)
{
    struct node *node = node_new(NULL, NULL);
    struct leaf *argument = leaf_new(42);
    ouro_weakref *ref =
        (ouro_weakref_new_callback)((ouro_object *)node, read_argument, (ouro_object *)argument);

    ouro_decref(argument);
    ouro_decref(node);
    cr_assert_eq(leaves_destroyed, 0);
    ouro_safepoint();
    cr_assert_eq(argument_value, 42);
    cr_assert_eq(leaves_destroyed, 1);
    ouro_decref(ref);
}
