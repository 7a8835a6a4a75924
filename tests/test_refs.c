/*
 * test_refs.c - what an object refers to, and what refers to it.
 */

#include "support.h"

#include <stdlib.h>

TestSuite(refs, .init = enter, .fini = leave);

enum { SEEN_MAX = 16 };

struct seen {
    const void *objects[SEEN_MAX];
    size_t count;
    size_t limit; /* 0: none */
};

static bool note(ouro_object *o, void *argument)
{
    struct seen *seen = argument;

    CHECK(seen->count < SEEN_MAX);
    seen->objects[seen->count++] = o;
    return seen->count != seen->limit;
}

static size_t times(const struct seen *seen, const void *o)
{
    size_t count = 0;

    for (size_t i = 0; i < seen->count; i++)
        count += seen->objects[i] == o;
    return count;
}

Test(refs, referents_of_a_table_of_fields)
{
    struct node *a = node_new(NULL, NULL), *b = node_new(NULL, NULL);
    struct node *both = node_new(a, b), *one = node_new(NULL, ouro_incref(a));
    struct seen seen = {0};

    cr_assert_eq(ouro_each_referent(both, note, &seen), 2);
    cr_assert_eq(times(&seen, a), 1);
    cr_assert_eq(times(&seen, b), 1);

    seen = (struct seen){0};
    cr_assert_eq(ouro_each_referent(one, note, &seen), 1);
    cr_assert_eq(times(&seen, a), 1);

    seen = (struct seen){0};
    cr_assert_eq(ouro_each_referent(a, note, &seen), 0);
    cr_assert_eq(ouro_refcount(both), 1, "the question leaves no reference behind");
    ouro_decref(both);
    ouro_decref(one);
}

Test(refs, referents_of_a_visit_function)
{
    struct array *array = array_new(5);
    struct leaf *leaf = leaf_new(1);
    struct seen seen = {0};

    array->items[1] = (ouro_object *)ouro_incref(leaf);
    array->items[3] = (ouro_object *)leaf;
    array->items[4] = (ouro_object *)ouro_incref(array);
    cr_assert_eq(ouro_each_referent(array, note, &seen), 3);
    cr_assert_eq(times(&seen, leaf), 2, "once for each field");
    cr_assert_eq(times(&seen, array), 1);

    seen = (struct seen){.limit = 2};
    cr_assert_eq(ouro_each_referent(array, note, &seen), 2, "until it returns false");
    ouro_decref(array);
}

Test(refs, referents_without_fields)
{
    struct leaf *leaf = leaf_new(1);
    ouro_weakref *ref = ouro_weakref_new(leaf);
    struct seen seen = {0};

    cr_assert(ref);
    cr_assert_eq(ouro_each_referent(leaf, note, &seen), 0);
    cr_assert_eq(ouro_each_referent(ref, note, &seen), 0, "a weak reference has no fields");
    ouro_decref(ref);
    ouro_decref(leaf);
}

Test(refs, referrers)
{
    struct node *target = node_new(NULL, NULL);
    struct node *twice = node_new(ouro_incref(target), ouro_incref(target));
    struct node *other = node_new(ouro_incref(twice), NULL);
    struct array *array = array_new(3);
    struct box *box = box_new((ouro_object *)ouro_incref(target));
    ouro_weakref *ref = ouro_weakref_new(target);
    struct seen seen = {0};

    array->items[2] = (ouro_object *)ouro_incref(target);
    cr_assert_eq(ouro_each_referrer(target, note, &seen), 3);
    cr_assert_eq(times(&seen, twice), 1, "once, although two fields refer to it");
    cr_assert_eq(times(&seen, array), 1);
    cr_assert_eq(times(&seen, box), 1, "also what the collector does not look at");

    seen = (struct seen){.limit = 1};
    cr_assert_eq(ouro_each_referrer(target, note, &seen), 1, "until it returns false");

    seen = (struct seen){0};
    cr_assert_eq(ouro_each_referrer(other, note, &seen), 0, "a variable is no field");

    target->left = ouro_incref(target);
    seen = (struct seen){0};
    cr_assert_eq(ouro_each_referrer(target, note, &seen), 4);
    cr_assert_eq(times(&seen, target), 1, "itself");

    ouro_decref(ref);
    ouro_decref(box);
    ouro_decref(array);
    ouro_decref(other);
    ouro_decref(twice);
    ouro_decref(target);
}

/* --- fields that another thread changes -------------------------------------------------------------- */

static struct node *places[2];
static struct node *moved;
static atomic_bool over;

/* One reference goes back and forth; between two safepoints there may be none, or two. */
static void move_about(void *unused)
{
    (void)unused;
    for (unsigned turn = 0; !atomic_load(&over); turn++) {
        struct node *from = places[turn % 2], *to = places[1 - turn % 2];

        from->left = NULL;
        if (turn % 64 == 0)
            sleep_ms(1);
        to->left = moved;
        ouro_safepoint();
    }
}

Test(refs, in_a_stopped_world)
{
    struct worker worker;
    size_t at[2] = {0, 0};

    moved = node_new(NULL, NULL);
    for (int i = 0; i < 2; i++)
        places[i] = node_new(NULL, NULL);
    places[0]->left = ouro_incref(moved);
    worker_start(&worker, move_about, NULL);
    for (int i = 0; i < SCALE(300, 50); i++) {
        struct seen referrers = {0};

        cr_assert_eq(ouro_each_referrer(moved, note, &referrers), 1);
        at[0] += times(&referrers, places[0]);
        at[1] += times(&referrers, places[1]);

        struct seen referents = {0};
        ouro_each_referent(places[0], note, &referents);
        cr_assert_leq(referents.count, 1);
        cr_assert_eq(referents.count, times(&referents, moved));
    }
    atomic_store(&over, true);
    worker_join(&worker);
    cr_assert_eq(at[0] + at[1], SCALE(300, 50));
    ouro_decref(moved);
    ouro_decref(places[0]);
    ouro_decref(places[1]);
}

/* --- misuse -------------------------------------------------------------------------------------------- */

static struct node *asked;

static void ask_detached(void)
{
    struct seen seen = {0};

    ouro_detach();
    ouro_each_referent(asked, note, &seen);
}

static void ask_in_stopped_world(void)
{
    struct seen seen = {0};

    ouro_world_stop();
    ouro_each_referrer(asked, note, &seen);
}

Test(refs, misuse)
{
    char text[400];

    asked = node_new(NULL, NULL);
    cr_assert(aborts(ask_detached, text, sizeof text));
    cr_assert(strstr(text, "ouro_each_referent()"), "%s", text);
    cr_assert(aborts(ask_in_stopped_world, text, sizeof text));
    cr_assert(strstr(text, "which has stopped the world"), "%s", text);
    ouro_decref(asked);
}
