/*
 * test_weak_gc.c - weak references and the collector: what is cleared, who is called, in which order, and what garbage with
 * finalizers and weak references does; what the debug flags keep.
 */
#include "support.h"

#include "base/events.h"

static const ouro_type *fin_type;

/* A node with a finalizer, and a place for a weak reference, which is a field like any other. */
struct fin {
    ouro_header ouro;
    struct fin *next;
    ouro_weakref *weak;
    int64_t value;
};

static void (*on_finalize)(struct fin *fin);
static atomic_size_t fins_finalized, fins_destroyed;

static void fin_finalize(void *self)
{
    atomic_fetch_add(&fins_finalized, 1);
    if (on_finalize)
        on_finalize(self);
}

static void fin_destroy(void *self)
{
    const struct fin *fin = self;

    CHECK(!fin->next && !fin->weak);
    atomic_fetch_add(&fins_destroyed, 1);
}

static void enter_test(void)
{
    static const uint16_t fields[] = {OURO_FIELD(struct fin, next), OURO_FIELD(struct fin, weak)};

    enter();
    CHECK(ouro_type_register(&(ouro_type_spec){.name = "fin",
                                               .size = sizeof(struct fin),
                                               .fields = fields,
                                               .field_count = 2,
                                               .destroy = fin_destroy,
                                               .finalize = fin_finalize},
                             &fin_type) == OURO_OK);
}

TestSuite(weak_gc, .init = enter_test, .fini = leave);

static struct fin *fin_new(int64_t value)
{
    struct fin *fin = ouro_new(fin_type);

    CHECK(fin);
    fin->value = value;
    return fin;
}

/* A ring of two: the caller's reference is to the first. */
static struct fin *fin_ring(void)
{
    struct fin *a = fin_new(1), *b = fin_new(2);

    a->next = b;
    b->next = ouro_incref(a);
    return a;
}

static struct {
    const ouro_weakref *refs[16];
    size_t count;
} calls;

static void record(ouro_weakref *ref, ouro_object *argument)
{
    (void)argument;
    CHECK(ouro_weakref_is_cleared(ref) && !ouro_weakref_get(ref));
    CHECK(calls.count < 16);
    calls.refs[calls.count++] = ref;
}

static ouro_weakref *weak_to(struct node *target)
{
    ouro_weakref *ref = ouro_weakref_new(target);

    CHECK(ref);
    return ref;
}

static ouro_weakref *watch(struct node *target, ouro_object *argument)
{
    ouro_weakref *ref = ouro_weakref_new_callback(target, record, argument);

    CHECK(ref);
    return ref;
}

/* --- rings -------------------------------------------------------------------------------------------- */

Test(weak_gc, a_ring_is_garbage_although_something_refers_to_it_weakly)
{
    struct node *ring = ring_new(10);
    ouro_weakref *refs[10];
    size_t i = 0;

    for (struct node *node = ring; i < 10; node = node->left)
        refs[i++] = weak_to(node);
    cr_assert_eq(ouro_collect(), 0);
    for (i = 0; i < 10; i++)
        cr_assert_not(ouro_weakref_is_cleared(refs[i]));
    ouro_decref(ring);
    struct node *got = ouro_weakref_get(refs[3]);
    cr_assert_not_null(got);
    cr_assert_eq(ouro_collect(), 0, "what a weak get returned was collected");
    ouro_decref(got);
    cr_assert_eq(ouro_collect(), 10);
    for (i = 0; i < 10; i++) {
        cr_assert_null(ouro_weakref_get(refs[i]));
        ouro_decref(refs[i]);
    }
}

Test(weak_gc, one_held_from_outside_is_called)
{
    struct node *ring = ring_new(3);
    struct leaf *argument = leaf_new(1);
    ouro_weakref *first = watch(ring, OURO_OF(argument)), *second = watch(ring, NULL);
    ouro_weakref *plain = weak_to(ring);

    ouro_decref(argument);
    ouro_decref(ring);
    cr_assert_eq(ouro_collect(), 3);
    cr_assert_eq(calls.count, 2);
    cr_assert_eq(calls.refs[0], second, "the latest first");
    cr_assert_eq(calls.refs[1], first);
    cr_assert_eq(leaves_destroyed, 1);
    cr_assert_null(ouro_weakref_get(plain));
    ouro_decref(first);
    ouro_decref(second);
    ouro_decref(plain);
}

/* A ring of a node and an array, which refers to what is given, stolen. */
static struct node *ring_with(ouro_object *content)
{
    struct array *array = array_new(2);
    struct node *node = node_new((struct node *)(void *)array, NULL);

    array->items[0] = OURO_OF(ouro_incref(node));
    array->items[1] = content;
    return node;
}

/* It would be called with an argument that is being destroyed. */
Test(weak_gc, one_that_is_garbage_itself_is_not_called)
{
    struct node *ring = ring_with(NULL);
    struct array *array = (struct array *)(void *)ring->left;
    ouro_weakref *outside = watch(ring, NULL);

    array->items[1] = OURO_OF(watch(ring, OURO_OF(ring)));
    ouro_decref(ring);
    cr_assert_eq(ouro_collect(), 3);
    cr_assert_eq(calls.count, 1);
    cr_assert_eq(calls.refs[0], outside);
    cr_assert_eq(live_objects(), 1);
    ouro_decref(outside);
}

/* The weak reference is garbage, its target is not: nobody is called, and the target does not know it any more. */
Test(weak_gc, a_weak_reference_in_garbage_leaves_its_target_alone)
{
    struct node *target = node_new(NULL, NULL);

    ouro_decref(ring_with(OURO_OF(watch(target, NULL))));
    ouro_decref(ring_with(OURO_OF(weak_to(target))));
    cr_assert_eq(ouro_weakref_count(target), 2);
    cr_assert_eq(ouro_collect(), 5); /* the plain one is untracked, and dies by its count */
    cr_assert_eq(ouro_weakref_count(target), 0);
    cr_assert_eq(nodes_destroyed, 2);
    ouro_decref(target);
    ouro_safepoint();
    cr_assert_eq(calls.count, 0);
}

/* Its argument holds it, and it holds its argument. */
Test(weak_gc, a_watcher_in_a_ring_with_its_argument)
{
    struct node *target = node_new(NULL, NULL);
    struct node *node = node_new(NULL, NULL);

    node->left = (struct node *)(void *)watch(target, OURO_OF(node));
    ouro_decref(node);
    cr_assert_eq(ouro_collect(), 2);
    cr_assert_eq(ouro_weakref_count(target), 0);
    ouro_decref(target);
    ouro_safepoint();
    cr_assert_eq(calls.count, 0);
}

Test(weak_gc, a_plain_one_as_a_field_of_its_own_target)
{
    struct node *node = node_new(NULL, NULL);

    node->left = (struct node *)(void *)weak_to(node);
    ouro_decref(node); /* no cycle: the weak reference does not count */
    cr_assert_eq(nodes_destroyed, 1);
    node = ring_with(NULL);
    ((struct array *)(void *)node->left)->items[1] = OURO_OF(weak_to(node));
    ouro_decref(node);
    cr_assert_eq(ouro_collect(), 2);
    cr_assert_eq(nodes_destroyed, 2);
}

/* What a ring refers to dies by its count, while the ring is taken apart: it is called, too. */
Test(weak_gc, what_dies_of_garbage_by_its_count)
{
    struct leaf *leaf = leaf_new(1);
    ouro_weakref *ref = ouro_weakref_new_callback(leaf, record, NULL);

    cr_assert_not_null(ref);
    ouro_decref(ring_with(OURO_OF(leaf)));
    cr_assert_eq(ouro_collect(), 2);
    cr_assert_eq(leaves_destroyed, 1);
    cr_assert_eq(calls.count, 1);
    cr_assert_eq(calls.refs[0], ref);
    ouro_decref(ref);
}

static void make_more(ouro_weakref *ref, ouro_object *argument)
{
    record(ref, argument);
    if (calls.count < 5) {
        struct node *ring = ring_new(2);
        ouro_weakref *next = ouro_weakref_new_callback(ring, make_more, NULL);

        CHECK(next);
        ouro_decref(ring);
        CHECK(ouro_collect() == 2); /* in a callback: once */
        ouro_decref(next);
    }
}

Test(weak_gc, a_callback_that_makes_garbage_and_collects)
{
    struct node *ring = ring_new(2);
    ouro_weakref *ref = ouro_weakref_new_callback(ring, make_more, NULL);

    cr_assert_not_null(ref);
    ouro_decref(ring);
    ouro_collect();
    cr_assert_eq(calls.count, 5);
    cr_assert_eq(nodes_destroyed, 10);
    ouro_decref(ref);
}

/* --- with finalizers ---------------------------------------------------------------------------------- */

static ouro_weakref *seen;
static struct fin *saved;
static size_t looks;

static void look(struct fin *fin)
{
    CHECK(ouro_weakref_is_cleared(seen) && !ouro_weakref_get(seen));
    CHECK(ouro_is_finalized(fin));
    CHECK(ouro_weakref_count(fin) == 0);
    looks++;
}

static void keep(struct fin *fin)
{
    look(fin);
    if (!saved)
        saved = ouro_incref(fin);
}

Test(weak_gc, cleared_before_the_finalizer_by_count)
{
    struct fin *fin = fin_new(1);
    ouro_weakref *watcher = ouro_weakref_new_callback(fin, record, NULL);

    on_finalize = keep;
    seen = ouro_weakref_new(fin);
    ouro_decref(fin);
    cr_assert_null(ouro_weakref_get(seen),
                   "it was cleared when the finalizer ran, not when it died");
    cr_assert_eq(looks, 0);
    ouro_safepoint();
    cr_assert_eq(looks, 1);
    cr_assert_eq(calls.count, 1);
    cr_assert_eq(saved, fin);
    cr_assert_null(ouro_weakref_get(seen), "resurrection has brought a weak reference back");
    ouro_weakref *again = ouro_weakref_new(saved); /* it lives, and may have new ones */
    cr_assert_neq(again, seen);
    struct fin *got = ouro_weakref_get(again);
    cr_assert_eq(got, saved);
    ouro_decref(got);
    ouro_decref(saved);
    cr_assert_null(ouro_weakref_get(again));
    cr_assert_eq(fins_destroyed, 1);
    ouro_safepoint();
    cr_assert_eq(looks, 1);
    ouro_decref(again);
    ouro_decref(seen);
    ouro_decref(watcher);
}

/* In garbage all weak references are cleared before the first finalizer runs, also those to what the finalizers reach. */
Test(weak_gc, cleared_before_the_finalizer_by_collection)
{
    struct fin *ring = fin_ring();
    ouro_weakref *to_other = ouro_weakref_new(ring->next);
    ouro_weakref *watcher = ouro_weakref_new_callback(ring->next, record, NULL);

    on_finalize = keep;
    seen = ouro_weakref_new(ring);
    ouro_decref(ring);
    cr_assert_eq(ouro_collect(), 0);
    cr_assert_eq(looks, 2);
    cr_assert_eq(calls.count, 1);
    cr_assert_not_null(saved);
    cr_assert_eq(saved->next->next, saved, "the ring is no longer whole");
    cr_assert_null(ouro_weakref_get(seen));
    cr_assert_null(ouro_weakref_get(to_other));
    ouro_clear(&saved);
    cr_assert_eq(ouro_collect(), 2);
    cr_assert_eq(fins_finalized, 2);
    ouro_decref(seen);
    ouro_decref(to_other);
    ouro_decref(watcher);
}

/* Trash of all kinds: finalizers, weak references inside and outside, in one ring. */
Test(weak_gc, finalizers_and_weak_references_in_one_ring)
{
    struct fin *ring = fin_ring();
    struct fin *other = ring->next;
    ouro_weakref *outside = ouro_weakref_new_callback(other, record, NULL);

    ring->weak = ouro_weakref_new_callback(other, record,
                                           OURO_OF(ring)); /* garbage, kept for the finalizers */
    other->weak = ouro_weakref_new(ring);
    ouro_decref(ring);
    cr_assert_eq(ouro_collect(), 3);
    cr_assert_eq(fins_finalized, 2);
    cr_assert_eq(fins_destroyed, 2);
    cr_assert_eq(calls.count, 1);
    cr_assert_eq(calls.refs[0], outside);
    ouro_decref(outside);
}

static void watch_self(struct fin *fin)
{
    fin->weak = ouro_weakref_new_callback(fin, record, NULL);
    CHECK(fin->weak);
    seen = ouro_weakref_new(fin);
    struct fin *got = ouro_weakref_get(seen);
    CHECK(got == fin);
    ouro_decref(got);
}

Test(weak_gc, a_finalizer_that_refers_to_its_object_weakly)
{
    on_finalize = watch_self;
    ouro_decref(fin_new(1));
    ouro_safepoint();
    cr_assert_eq(fins_destroyed, 1, "a weak reference keeps it");
    cr_assert_null(ouro_weakref_get(seen));
    ouro_decref(seen);
    seen = NULL;
    ouro_safepoint();
    /* The watcher was a field of it: cleared first, when it still lived, so it is called. */
    cr_assert_eq(calls.count, 1);
}

/* --- the debug flags ---------------------------------------------------------------------------------- */

static bool count_saved(ouro_object *o, void *argument)
{
    (void)o;
    ++*(size_t *)argument;
    return true;
}

static bool stop_at_once(ouro_object *o, void *argument)
{
    *(ouro_object **)argument = o;
    return false;
}

static size_t saved_objects(void)
{
    size_t count = 0;

    cr_assert_eq(ouro_gc_each_saved(count_saved, &count), count);
    return count;
}

Test(weak_gc, saved_garbage_can_be_looked_at_and_given_up)
{
    struct node *ring = ring_new(5);
    ouro_weakref *ref = watch(ring, NULL);
    ouro_object *one = NULL;
    ouro_gc_stats stats;

    ouro_gc_set_debug(OURO_GC_SAVE);
    cr_assert_eq(ouro_gc_get_debug(), OURO_GC_SAVE);
    ouro_decref(ring_with(OURO_OF(leaf_new(1))));
    ouro_decref(ring);
    cr_assert_eq(ouro_collect(), 0);
    ouro_gc_get_stats(&stats);
    cr_assert_eq(stats.uncollectable, 7);
    cr_assert_eq(nodes_destroyed, 0);
    cr_assert_eq(leaves_destroyed, 0);
    cr_assert_null(ouro_weakref_get(ref), "what is saved can't be had by a weak reference");
    cr_assert_eq(calls.count, 1);
    cr_assert_eq(saved_objects(), 7);
    cr_assert_eq(ouro_gc_each_saved(stop_at_once, &one), 1);
    cr_assert_not_null(one);
    cr_assert_eq(ouro_collect(), 0); /* they are held: not saved again */
    ouro_gc_get_stats(&stats);
    cr_assert_eq(stats.uncollectable, 7);
    cr_assert_eq(ouro_gc_drop_saved(), 7);
    cr_assert_eq(saved_objects(), 0);
    cr_assert_eq(ouro_gc_drop_saved(), 0);
    cr_assert_eq(ouro_collect(), 0); /* saved again: the flag is still set */
    cr_assert_eq(saved_objects(), 7);
    ouro_gc_set_debug(0);
    cr_assert_eq(ouro_collect(), 0);
    cr_assert_eq(ouro_gc_drop_saved(), 7);
    cr_assert_eq(ouro_collect(), 7);
    cr_assert_eq(leaves_destroyed, 1);
    ouro_decref(ref);
}

static struct node *first_node;

static bool find_node(ouro_object *o, void *argument)
{
    (void)argument;
    if (ouro_type_of(o) == node_type)
        first_node = (struct node *)(void *)o;
    return true;
}

/* The program takes the ring apart itself: then the last reference of each is the one that is given up. */
Test(weak_gc, saved_garbage_that_dies_when_it_is_given_up)
{
    ouro_gc_set_debug(OURO_GC_SAVE);
    ouro_decref(ring_new(3));
    cr_assert_eq(ouro_collect(), 0);
    ouro_gc_set_debug(0);
    ouro_gc_each_saved(find_node, NULL);
    cr_assert_not_null(first_node);
    ouro_clear(&first_node->left->left);
    ouro_clear(&first_node->left);
    cr_assert_eq(nodes_destroyed, 0);
    cr_assert_eq(ouro_gc_drop_saved(), 3);
    cr_assert_eq(nodes_destroyed, 3, "what died of it was not destroyed");
}

static void make_ring(void *argument)
{
    (void)argument;
    ouro_decref(ring_new(4));
}

Test(weak_gc, saved_garbage_of_threads_that_have_ended)
{
    ouro_gc_set_debug(OURO_GC_SAVE);
    run_in_thread(make_ring, NULL);
    cr_assert_eq(ouro_collect(), 0);
    cr_assert_eq(saved_objects(), 4);
    ouro_gc_set_debug(0);
    cr_assert_eq(ouro_gc_drop_saved(), 4);
    cr_assert_eq(ouro_collect(), 4);
}

/* With a finalizer: first that, then saved. */
Test(weak_gc, saved_garbage_with_finalizers)
{
    ouro_gc_set_debug(OURO_GC_SAVE);
    ouro_decref(fin_ring());
    cr_assert_eq(ouro_collect(), 0);
    cr_assert_eq(fins_finalized, 2);
    cr_assert_eq(fins_destroyed, 0);
    cr_assert_eq(saved_objects(), 2);
    ouro_gc_set_debug(0);
    cr_assert_eq(ouro_gc_drop_saved(), 2);
    cr_assert_eq(ouro_collect(), 2);
    cr_assert_eq(fins_finalized, 2);
}

static size_t lines_with(const char *text, const char *word)
{
    size_t count = 0;

    for (const char *at = text; (at = strstr(at, word)); at++)
        count++;
    return count;
}

Test(weak_gc, printing)
{
    char text[4000];

    ouro_gc_set_debug(OURO_GC_PRINT_STATS | OURO_GC_PRINT_GARBAGE);
    ouro_decref(ring_new(3));
    capture_start();
    ouro_collect();
    capture_stop(text, sizeof text);
    cr_assert_eq(lines_with(text, "ouro: garbage: \"node\" at 0x"), 3, "%s", text);
    cr_assert(
        strstr(text,
               "(requested, deep: call): 3 examined, 3 destroyed, 0 saved, 0 wait for finalizers"),
        "%s", text);

    ouro_gc_set_debug(OURO_GC_PRINT_STATS);
    ouro_decref(fin_ring());
    capture_start();
    ouro_collect();
    capture_stop(text, sizeof text);
    cr_assert_eq(lines_with(text, "ouro: garbage"), 0, "%s", text);
    cr_assert(strstr(text, "0 destroyed, 0 saved, 2 wait for finalizers"), "%s", text);
    cr_assert(strstr(text, "2 destroyed, 0 saved, 0 wait for finalizers"), "%s", text);
    ouro_gc_set_debug(0);
}

/* "A line for each object that is destroyed, or kept": once, by the collection that keeps it. */
Test(weak_gc, printing_what_is_kept)
{
    char text[4000];

    ouro_gc_set_debug(OURO_GC_PRINT_GARBAGE | OURO_GC_SAVE);
    ouro_decref(ring_new(3));
    capture_start();
    ouro_collect();
    capture_stop(text, sizeof text);
    cr_assert_eq(lines_with(text, "\"node\" at 0x"), 3, "%s", text);
    capture_start();
    ouro_collect();
    capture_stop(text, sizeof text);
    cr_assert_eq(lines_with(text, "\"node\" at 0x"), 0, "%s", text);
    ouro_gc_set_debug(0);
    ouro_gc_drop_saved();
}

static void unknown_flag(void)
{
    ouro_gc_set_debug(16);
}

static void drop_saved(struct node *node)
{
    (void)node;
    ouro_gc_drop_saved();
}

static void drop_saved_in_destroy(void)
{
    on_node_destroy = drop_saved;
    ouro_decref(node_new(NULL, NULL));
}

Test(weak_gc, misuse)
{
    char text[500];

    cr_assert(aborts(unknown_flag, text, sizeof text));
    cr_assert(strstr(text, "ouro_gc_set_debug() of 0x10: there are no such flags"), "%s", text);
    cr_assert(aborts(drop_saved_in_destroy, text, sizeof text));
    cr_assert(strstr(text, "in a type's destroy: it may not pass a safepoint"), "%s", text);
}
