/*
 * test_verify.c - verify mode: heaps that are right pass, and each mistake is told in a sentence.
 *
 * In check builds small heaps are verified at each collection, so all other unit tests are tests of this, too.
 */

#include "support.h"

#include "base/events.h"

#include <stdlib.h>

#if defined(OURO_CHECK) && OURO_CHECK
enum { CHECK_BUILD = true };
#else
enum { CHECK_BUILD = false };
#endif

TestSuite(verify, .init = enter, .fini = leave);

static void collect_verified(ouro_gc_kind kind)
{
    uint64_t before = event_total(EVENT_VERIFIED);

    ouro_collect_kind(kind);
    CHECK(event_total(EVENT_VERIFIED) == before + 1);
}

static void on(void)
{
    ouro_gc_set_debug(OURO_GC_VERIFY);
}

/* --- heaps that are right ---------------------------------------------------------------------------- */

static ouro_slot kept;

static struct node *everything(void)
{
    struct node *tree = tree_new(8), *ring = ring_new(100);
    struct array *array = array_new(5000), *large = array_new(100000);

    for (size_t i = 0; i < array->count; i++)
        array->items[i] = (ouro_object *)(i % 3 ? leaf_new(1) : NULL);
    large->items[99999] = (ouro_object *)ouro_incref(array);
    large->items[0] = (ouro_object *)ouro_incref(large); /* a cycle with itself */
    array->items[0] = (ouro_object *)box_new((ouro_object *)ring);
    tree->left->value = 1;
    node_set_left(tree->left->left, (struct node *)(void *)array);
    ouro_decref(large);
    return tree;
}

Test(verify, a_heap_that_is_right)
{
    static const ouro_gc_kind kinds[] = {OURO_GC_YOUNG, OURO_GC_OLD, OURO_GC_DEEP, OURO_GC_FULL};

    on();
    cr_assert_eq(ouro_gc_get_debug(), OURO_GC_VERIFY);
    for (size_t i = 0; i < 4; i++) {
        struct node *root = everything();

        cr_assert_eq(ouro_slot_store_steal(&kept, node_new(ring_new(3), NULL)), OURO_OK);
        collect_verified(kinds[i]);
        ouro_decref(ring_new(10));
        collect_verified(kinds[i]);
        ouro_decref(root);
        collect_verified(kinds[i]);
    }
    cr_assert_eq(ouro_slot_clear(&kept), OURO_OK);
    ouro_synchronize();
    collect_verified(OURO_GC_FULL);
}

Test(verify, finalizers_saved_frozen_immortal_and_dying_objects)
{
    struct node *root = everything();
    struct node *immortal = node_new(NULL, NULL);

    on();
    ouro_immortalize(immortal);
    for (int i = 0; i < 10; i++)
        immortal->value++;
    ouro_freeze(0);
    node_set_right(immortal, ring_new(5));
    collect_verified(OURO_GC_FULL);
    ouro_decref(root); /* frozen garbage, in part */
    collect_verified(OURO_GC_FULL);
    ouro_unfreeze();
    ouro_gc_set_debug(OURO_GC_VERIFY | OURO_GC_SAVE);
    ouro_decref(ring_new(50));
    collect_verified(OURO_GC_DEEP);
    cr_assert_gt(ouro_gc_drop_saved(), 0);
    on();
    collect_verified(OURO_GC_FULL);
    ouro_clear(&immortal->right);
    collect_verified(OURO_GC_FULL);
    expect_left(1);
}

static void share(void *argument)
{
    struct node *node = argument;

    /* The hint for the last one waits in the inbox of who made it. */
    ouro_decref(node->left);
    node->left = ring_new(7);
}

Test(verify, counts_in_two_halves)
{
    struct node *node = node_new(node_new(NULL, NULL), NULL);

    on();
    run_in_thread(share, node);
    collect_verified(OURO_GC_FULL);
    ouro_decref(node);
    collect_verified(OURO_GC_FULL);
}

/* --- mistakes ---------------------------------------------------------------------------------------- */

static ouro_gc_kind kind; /* of the collection that is to see it */

static void see(void)
{
    on();
    ouro_collect_kind(kind);
}

static void assert_seen(void (*mistake)(void), const char *first, const char *second)
{
    char text[1000];

    for (kind = OURO_GC_YOUNG; kind <= OURO_GC_FULL; kind++) {
        cr_assert(aborts(mistake, text, sizeof text), "kind %d: not seen: %s", (int)kind, text);
        cr_assert_not_null(strstr(text, first), "%s", text);
        cr_assert_not_null(strstr(text, second), "%s", text);
        cr_assert_null(strstr(text, "internal error"), "%s", text);
    }
}

/* A reference, reported as often as `reports` says. */
struct twice {
    ouro_header ouro;
    ouro_object *item;
};

static int reports = 1;

static void visit_twice(void *self, ouro_visitor *visitor)
{
    struct twice *twice = self;

    for (int i = 0; i < reports; i++)
        ouro_visit(visitor, &twice->item);
}

static struct twice *twice_new(void)
{
    static const ouro_type_spec spec = {.name = "twice",
                                        .size = sizeof(struct twice),
                                        .visit = visit_twice};
    const ouro_type *type;

    CHECK(ouro_type_register(&spec, &type) == OURO_OK);
    struct twice *twice = ouro_new(type);
    CHECK(twice);
    twice->item = (ouro_object *)leaf_new(1);
    return twice;
}

static void report_twice(void)
{
    reports = 2;
    twice_new();
    see();
}

Test(verify, sees_a_reference_that_is_reported_twice)
{
    assert_seen(report_twice, "`visit` function of type \"twice\"",
                "reports the field at offset 16 of the object");
    struct twice *twice = twice_new();
    on();
    collect_verified(OURO_GC_FULL);
    ouro_decref(twice);
}

static void store_without_counting(void)
{
    struct node *held = node_new(NULL, NULL);

    held->value = 5;
    node_new(held, node_new(held, NULL));
    see();
}

Test(verify, sees_a_reference_that_is_not_counted)
{
    assert_seen(store_without_counting,
                "has a count of 1, but 2 fields refer to it; one is the field at offset 16 of an "
                "object of type \"node\"",
                "stored without being counted: ouro_incref() it");
}

/* A live node refers to a member of a ring, which is garbage as far as counts say: not the collector's mistake. */
static void refer_to_garbage(void)
{
    struct node *ring = ring_new(3), *holder = node_new(ring, NULL);

    ouro_decref(ring);
    (void)holder;
    see();
}

Test(verify, sees_an_uncounted_reference_to_a_cycle)
{
    assert_seen(refer_to_garbage, "but 2 fields refer to it", "ouro_incref() it");
}

static struct node *dangling(void)
{
    struct node *gone = node_new(NULL, NULL), *holder = node_new(NULL, NULL);

    holder->right = gone;
    ouro_decref(gone);
    return holder;
}

static void keep_a_dangling_one(void)
{
    dangling();
    see();
}

Test(verify, sees_a_reference_that_dangles)
{
    assert_seen(keep_a_dangling_one, "the field at offset 24 of an object of type \"node\"",
                "is the address of an object that has been freed");
}

static void keep_one_in_an_acyclic_object(void)
{
    struct leaf *leaf = leaf_new(1);
    struct box *box = box_new((ouro_object *)leaf);

    (void)box;
    ouro_decref(leaf);
    see();
}

Test(verify, sees_one_that_the_collector_never_looks_at)
{
    assert_seen(keep_one_in_an_acyclic_object, "of an object of type \"box\"",
                "is the address of an object that has been freed");
}

static void *address;

static void keep_an_address(void)
{
    node_new(address, NULL);
    see();
}

Test(verify, sees_what_is_no_object)
{
    static _Alignas(16) char somewhere[64];
    struct node *node = node_new(NULL, NULL);
    struct array *large = array_new(100000);
    void *buffer = ouro_alloc(100);
    void *wrong[] = {somewhere,
                     (char *)node + 16,
                     (char *)node + 8,
                     buffer,
                     (char *)large + 65536,
                     (void *)(uintptr_t)16,
                     (void *)(uintptr_t)0xFFFFFFFFFFFFFFF0u,
                     (void *)((uintptr_t)node & ~(uintptr_t)0x1FFFFFF)};

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        address = wrong[i];
        assert_seen(keep_an_address, "the field at offset 16 of an object of type \"node\"",
                    "is no object");
    }
    ouro_decref(node);
    ouro_decref(large);
    ouro_free(buffer);
}

static void overwrite_a_header(void)
{
    struct node *node = node_new(NULL, NULL);

    node->ouro.type = 0xABCD;
    see();
}

Test(verify, sees_an_overwritten_header)
{
    assert_seen(overwrite_a_header, "says that its type is 43981", "it was overwritten");
}

/* --- what a deep collection misses ------------------------------------------------------------------- */

/* Two nodes refer to each other, in a cycle that came to be by moving references without counting. */
static void hide_a_cycle(void)
{
    struct node *a = node_new(node_new(NULL, NULL), NULL), *b = node_new(NULL, NULL);

    ouro_collect();    /* they are old now, and no candidates */
    a->left->left = b; /* the reference that the variable had */
    b->left = a;
}

static void hide_and_collect(void)
{
    setenv("OURO_VERIFY", "2", 1);
    hide_a_cycle();
    ouro_collect();
    ouro_collect_kind(OURO_GC_FULL);
    ouro_collect();
    abort();
}

Test(verify, tells_of_what_was_moved_without_a_note)
{
    char text[1000];

    cr_assert(aborts(hide_and_collect, text, sizeof text));
    char *line = strstr(text, "a deep collection has missed 3 objects");
    cr_assert_not_null(line, "%s", text);
    cr_assert_not_null(strstr(line, "one is of type \"node\""), "%s", text);
    cr_assert_null(strstr(strchr(line, '\n'), "missed"), "%s", text);
}

/* --- when it is on ----------------------------------------------------------------------------------- */

static const char *variable;
static bool expected;

static void look_whether_it_is_on(void)
{
    if (variable)
        setenv("OURO_VERIFY", variable, 1);
    else
        unsetenv("OURO_VERIFY");
    ouro_collect();
    CHECK((event_total(EVENT_VERIFIED) > 0) == expected);
    abort();
}

static void look_in_a_large_heap(void)
{
    struct array *array = array_new(150000);

    for (size_t i = 0; i < array->count; i++)
        array->items[i] = (ouro_object *)leaf_new(1);
    look_whether_it_is_on();
}

Test(verify, by_the_environment_and_the_size_of_the_heap)
{
    static const struct {
        const char *variable;
        bool small, large;
    } cases[] = {{NULL, CHECK_BUILD, false},
                 {"", CHECK_BUILD, false},
                 {"0", false, false},
                 {"1", true, true},
                 {"2", true, true}};
    char text[1000];

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        variable = cases[i].variable;
        expected = cases[i].small;
        cr_assert(aborts(look_whether_it_is_on, text, sizeof text));
        cr_assert_str_empty(text, "%s", text);
        expected = cases[i].large;
        cr_assert(aborts(look_in_a_large_heap, text, sizeof text));
        cr_assert_str_empty(text, "%s", text);
    }
}
