/*
 * test_candidates.c - garbage that is hard to note, or hard to find: it must not be lost, and must not pile up.
 */

#include "support.h"

TestSuite(candidates, .init = enter, .fini = leave);

static size_t tracked(void)
{
    ouro_gc_stats stats;

    ouro_gc_get_stats(&stats);
    return stats.tracked;
}

/* Its nodes have lost no reference but the first one, which loses one when the ring is dropped. */
static void drop_ring(size_t length)
{
    struct node *first = node_new(NULL, NULL), *last = first;

    for (size_t i = 1; i < length; i++) {
        last->left = node_new(NULL, ouro_incref(last));
        last = last->left;
        ouro_safepoint();
    }
    ouro_decref(first);
}

Test(candidates, what_collections_free_is_no_longer_counted)
{
    size_t before = tracked();

    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 1000; i++)
            ouro_decref(ring_new(2));
        ouro_collect();
    }
    cr_assert(tracked() < before + 2000, "%zu, before %zu", tracked(), before);
}

Test(candidates, large_garbage_with_few_candidates_does_not_pile_up)
{
    size_t most = 0, length = SCALE(100000, 20000);

    ouro_gc_enable();
    for (int round = 0; round < 30; round++) {
        drop_ring(length);
        most = live_objects() > most ? live_objects() : most;
    }
    ouro_gc_disable();
    /* All together are 30. */
    cr_assert(most < 25 * length, "%zu", most);
}

/* --- what dies while a collection runs, and lives on for its finalizer ----------------------------------- */

enum { SLOW = 64, REVIVED = 6000 };

static struct gate dying;
static const ouro_type *slow_type, *reviving_type;

static void destroy_slowly(void *object)
{
    (void)object;
    gate_open(&dying);
    sleep_ms(2);
}

/* A cycle of one, so that only a collection destroys it, the second time. */
static void revive(void *object)
{
    struct node *node = object;

    node->left = ouro_incref(node);
}

static void drop_many(void *argument)
{
    struct array *array = array_new(REVIVED + SLOW);

    (void)argument;
    for (size_t i = 0; i < array->count; i++) {
        array->items[i] = ouro_new(i < REVIVED ? reviving_type : slow_type);
        CHECK(array->items[i]);
    }
    /* What is dropped last is destroyed first, and the rest waits while the world is stopped. */
    ouro_decref(array);
    ouro_safepoint();
    while (ouro_finalizers_waiting())
        ouro_run_finalizers();
}

Test(candidates, revived_after_a_collection_has_passed_them_over)
{
    static const uint16_t fields[] = {OURO_FIELD(struct node, left),
                                      OURO_FIELD(struct node, right)};
    ouro_type_spec spec = {.name = "slow", .size = sizeof(struct leaf), .destroy = destroy_slowly};
    struct worker worker;

    cr_assert_eq(ouro_type_register(&spec, &slow_type), OURO_OK);
    spec = (ouro_type_spec){.name = "reviving",
                            .size = sizeof(struct node),
                            .fields = fields,
                            .field_count = 2,
                            .finalize = revive};
    cr_assert_eq(ouro_type_register(&spec, &reviving_type), OURO_OK);

    worker_start(&worker, drop_many, NULL);
    gate_wait(&dying);
    ouro_collect_kind(OURO_GC_YOUNG); /* while the others are on the list of the dead */
    worker_join(&worker);
    ouro_collect();
    cr_assert_eq(live_objects(), 0, "%zu", live_objects());
}

/* --- moves ------------------------------------------------------------------------------------------- */

Test(candidates, a_move_that_gives_up_the_last_way_in)
{
    struct node *first = node_new(NULL, NULL);
    struct node *second = node_new(NULL, NULL);

    first->left = second;
    ouro_collect(); /* both are neither new nor candidates */
    ouro_move(second, &second->left, first);
    cr_assert_eq(ouro_collect(), 2);
}
