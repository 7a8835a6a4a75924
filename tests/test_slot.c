/*
 * test_slot.c - slots: what is borrowed, counted and dropped after a grace period, and what is retired otherwise.
 */
#include "support.h"

#include "base/check.h"
#include "base/fault.h"
#include "object/retire.h"
#include "thread/seat.h"

#include <sched.h>
#include <stdlib.h>

/* Whether this build can make an allocation fail. */
static bool can_fail(void)
{
    fault_arm(1);
    bool hit = fault_hit();
    fault_disarm();
    return hit;
}

/* Two slots in a table of fields. */
struct pair {
    ouro_header ouro;
    ouro_slot first, second;
};

/* Slots that follow the instance, reported by a visit function. */
struct row {
    ouro_header ouro;
    size_t count;
    ouro_slot slots[];
};

static ouro_slot slot;
static ouro_slot many_slots[100];
static const ouro_type *pair_type, *row_type;
static atomic_size_t pairs_destroyed, rows_destroyed;

static void pair_destroy(void *self)
{
    const struct pair *pair = self;

    CHECK(!ouro_slot_borrow(&pair->first) && !ouro_slot_borrow(&pair->second));
    atomic_fetch_add(&pairs_destroyed, 1);
}

static void row_visit(void *self, ouro_visitor *visitor)
{
    struct row *row = self;

    for (size_t i = 0; i < row->count; i++)
        ouro_visit_slot(visitor, &row->slots[i]);
}

static void row_destroy(void *self)
{
    const struct row *row = self;

    for (size_t i = 0; i < row->count; i++)
        CHECK(!ouro_slot_borrow(&row->slots[i]));
    atomic_fetch_add(&rows_destroyed, 1);
}

static void enter_test(void)
{
    static const uint16_t fields[] = {OURO_SLOT_FIELD(struct pair, first),
                                      OURO_SLOT_FIELD(struct pair, second)};

    enter();
    CHECK(ouro_type_register(&(ouro_type_spec){.name = "pair",
                                               .size = sizeof(struct pair),
                                               .fields = fields,
                                               .field_count = 2,
                                               .destroy = pair_destroy},
                             &pair_type) == OURO_OK);
    CHECK(ouro_type_register(&(ouro_type_spec){.name = "row",
                                               .size = sizeof(struct row),
                                               .item_size = sizeof(ouro_slot),
                                               .visit = row_visit,
                                               .destroy = row_destroy},
                             &row_type) == OURO_OK);
}

static struct pair *pair_new(void)
{
    struct pair *pair = ouro_new(pair_type);

    CHECK(pair);
    return pair;
}

static struct row *row_new(size_t count)
{
    struct row *row = ouro_new_array(row_type, count);

    CHECK(row);
    row->count = count;
    return row;
}

/* Stores a new leaf, whose only reference is the slot's. */
static struct leaf *put_leaf(ouro_slot *where, int64_t value)
{
    struct leaf *leaf = leaf_new(value);

    CHECK(ouro_slot_store_steal(where, leaf) == OURO_OK);
    return leaf;
}

/* Empties the slot and waits until what was there is gone. */
static void empty(void)
{
    cr_assert_eq(ouro_slot_clear(&slot), OURO_OK);
    ouro_synchronize();
}

TestSuite(slot, .init = enter_test, .fini = leave);

/* --- one thread ------------------------------------------------------------------------------------ */

Test(slot, an_empty_one)
{
    ouro_object *old = OURO_OF(leaf_new(1));
    ouro_object *other = old;

    cr_assert_null(ouro_slot_borrow(&slot));
    cr_assert_null(ouro_slot_load(&slot));
    cr_assert_eq(ouro_slot_clear(&slot), OURO_OK);
    cr_assert_eq(ouro_slot_exchange(&slot, NULL, &old), OURO_OK);
    cr_assert_null(old);
    old = other;
    cr_assert_eq(ouro_slot_take(&slot, NULL, &old), OURO_OK);
    cr_assert_null(old);
    cr_assert_eq(ouro_slot_store(&slot, NULL), OURO_OK);
    cr_assert_eq(ouro_slot_compare_exchange(&slot, NULL, NULL), OURO_OK);
    cr_assert_eq(ouro_slot_compare_exchange(&slot, other, NULL), OURO_BUSY);
    ouro_synchronize();
    cr_assert_eq(leaves_destroyed, 0);
    cr_assert_eq(ouro_refcount(other), 1);
    ouro_decref(other);
}

Test(slot, store_counts_and_store_steal_does_not)
{
    struct leaf *leaf = leaf_new(1);

    cr_assert_eq(ouro_slot_store(&slot, leaf), OURO_OK);
    cr_assert_eq(ouro_refcount(leaf), 2);
    cr_assert_eq(ouro_slot_borrow(&slot), leaf);
    cr_assert_eq(ouro_refcount(leaf), 2);
    ouro_decref(leaf);
    cr_assert_eq(ouro_refcount(leaf), 1);

    struct leaf *next = put_leaf(&slot, 2);
    cr_assert_eq(ouro_slot_borrow(&slot), next);
    cr_assert_eq(ouro_refcount(next), 1);
    cr_assert_eq(ouro_refcount(leaf), 1, "the retired reference is not dropped yet");
    empty();
    cr_assert_eq(leaves_destroyed, 2);
}

Test(slot, what_was_replaced_is_dropped_after_a_grace_period)
{
    put_leaf(&slot, 0);
    for (int64_t i = 1; i <= 100; i++) {
        put_leaf(&slot, i);
        cr_assert_eq(leaves_destroyed, 0);
    }
    ouro_synchronize();
    cr_assert_eq(leaves_destroyed, 100);
    const struct leaf *leaf = ouro_slot_borrow(&slot);
    cr_assert_eq(leaf->value, 100);
    empty();
    cr_assert_eq(leaves_destroyed, 101);
}

Test(slot, the_same_object_again)
{
    struct leaf *leaf = put_leaf(&slot, 1);

    for (int i = 0; i < 1000; i++)
        cr_assert_eq(ouro_slot_store(&slot, leaf), OURO_OK);
    cr_assert_eq(ouro_refcount(leaf), 1001);
    ouro_synchronize();
    cr_assert_eq(ouro_refcount(leaf), 1);
    cr_assert_eq(leaves_destroyed, 0);
    empty();
    cr_assert_eq(leaves_destroyed, 1);
}

Test(slot, clear_empties_it)
{
    put_leaf(&slot, 1);
    cr_assert_eq(ouro_slot_clear(&slot), OURO_OK);
    cr_assert_null(ouro_slot_borrow(&slot));
    cr_assert_eq(leaves_destroyed, 0);
    ouro_synchronize();
    cr_assert_eq(leaves_destroyed, 1);
}

Test(slot, incref_keeps_what_was_borrowed)
{
    put_leaf(&slot, 7);
    struct leaf *leaf = ouro_slot_borrow(&slot);

    put_leaf(&slot, 8);
    ouro_incref(leaf);
    ouro_synchronize();
    cr_assert_eq(leaves_destroyed, 0);
    cr_assert_eq(leaf->value, 7);
    cr_assert_eq(ouro_refcount(leaf), 1);
    ouro_decref(leaf);
    cr_assert_eq(leaves_destroyed, 1);
    empty();
}

Test(slot, load_is_a_new_reference)
{
    put_leaf(&slot, 7);
    struct leaf *leaf = ouro_slot_load(&slot);

    cr_assert_eq(ouro_refcount(leaf), 2);
    empty();
    cr_assert_eq(leaf->value, 7);
    cr_assert_eq(ouro_refcount(leaf), 1);
    ouro_decref(leaf);
    cr_assert_eq(leaves_destroyed, 1);
}

Test(slot, exchange_returns_what_is_borrowed)
{
    struct leaf *first = put_leaf(&slot, 1);
    struct leaf *second = leaf_new(2);
    ouro_object *old;

    cr_assert_eq(ouro_slot_exchange(&slot, second, &old), OURO_OK);
    cr_assert_eq(old, OURO_OF(first));
    cr_assert_eq(ouro_refcount(first), 1);
    cr_assert_eq(ouro_refcount(second), 1);
    cr_assert_eq(first->value, 1);
    ouro_synchronize();
    cr_assert_eq(leaves_destroyed, 1);
    empty();
}

Test(slot, take_returns_a_new_reference)
{
    struct leaf *first = put_leaf(&slot, 1);
    struct leaf *second = leaf_new(2);
    ouro_object *old;

    cr_assert_eq(ouro_slot_take(&slot, second, &old), OURO_OK);
    cr_assert_eq(old, OURO_OF(first));
    cr_assert_eq(ouro_refcount(second), 1);
    ouro_synchronize();
    cr_assert_eq(leaves_destroyed, 0);
    cr_assert_eq(first->value, 1);
    cr_assert_eq(ouro_refcount(first), 1);
    ouro_decref(first);
    cr_assert_eq(leaves_destroyed, 1);
    empty();
}

Test(slot, compare_exchange)
{
    struct leaf *first = leaf_new(1);
    struct leaf *second = leaf_new(2);

    cr_assert_eq(ouro_slot_compare_exchange(&slot, second, first), OURO_BUSY);
    cr_assert_null(ouro_slot_borrow(&slot));
    cr_assert_eq(ouro_slot_compare_exchange(&slot, NULL, first), OURO_OK);
    cr_assert_eq(ouro_slot_borrow(&slot), first);
    cr_assert_eq(ouro_refcount(first), 1);

    cr_assert_eq(ouro_slot_compare_exchange(&slot, NULL, second), OURO_BUSY);
    cr_assert_eq(ouro_slot_compare_exchange(&slot, second, second), OURO_BUSY);
    ouro_synchronize();
    cr_assert_eq(ouro_slot_borrow(&slot), first);
    cr_assert_eq(ouro_refcount(first), 1);
    cr_assert_eq(ouro_refcount(second), 1);
    cr_assert_eq(leaves_destroyed, 0);

    cr_assert_eq(ouro_slot_compare_exchange(&slot, first, second), OURO_OK);
    cr_assert_eq(ouro_slot_borrow(&slot), second);
    cr_assert_eq(ouro_refcount(second), 1);
    cr_assert_eq(leaves_destroyed, 0);
    ouro_synchronize();
    cr_assert_eq(leaves_destroyed, 1);
    cr_assert_eq(ouro_slot_compare_exchange(&slot, second, NULL), OURO_OK);
    cr_assert_null(ouro_slot_borrow(&slot));
    ouro_synchronize();
    cr_assert_eq(leaves_destroyed, 2);
}

Test(slot, arrays_of_them)
{
    enum { COUNT = sizeof many_slots / sizeof *many_slots };

    for (int round = 0; round < 20; round++)
        for (int i = 0; i < COUNT; i++)
            put_leaf(&many_slots[i], 100 * round + i);
    cr_assert_eq(leaves_destroyed, 0);
    ouro_synchronize();
    cr_assert_eq(leaves_destroyed, 19 * COUNT);
    for (int i = 0; i < COUNT; i++) {
        const struct leaf *leaf = ouro_slot_borrow(&many_slots[i]);

        cr_assert_eq(leaf->value, 1900 + i);
        cr_assert_eq(ouro_slot_clear(&many_slots[i]), OURO_OK);
    }
    ouro_synchronize();
    cr_assert_eq(leaves_destroyed, 20 * COUNT);
}

/* --- slots in objects -------------------------------------------------------------------------------- */

Test(slot, fields_of_a_table_die_with_the_object)
{
    struct pair *pair = pair_new();

    put_leaf(&pair->first, 1);
    put_leaf(&pair->second, 2);
    put_leaf(&pair->second, 3);
    ouro_decref(pair);
    cr_assert_eq(pairs_destroyed, 1);
    cr_assert_eq(leaves_destroyed, 2, "the one that was replaced waits for a grace period");
    ouro_synchronize();
    cr_assert_eq(leaves_destroyed, 3);
}

Test(slot, visited_ones_die_with_the_object)
{
    struct row *row = row_new(50);

    for (size_t i = 0; i < row->count; i += 2)
        put_leaf(&row->slots[i], (int64_t)i);
    ouro_decref(row);
    cr_assert_eq(rows_destroyed, 1);
    cr_assert_eq(leaves_destroyed, 25);
}

Test(slot, a_replaced_object_takes_its_slots_along)
{
    struct pair *pair = pair_new();

    put_leaf(&pair->first, 1);
    cr_assert_eq(ouro_slot_store_steal(&slot, pair), OURO_OK);
    cr_assert_eq(ouro_slot_clear(&slot), OURO_OK);
    const struct leaf *leaf = ouro_slot_borrow(&pair->first);
    cr_assert_eq(leaf->value, 1);
    cr_assert_eq(leaves_destroyed + pairs_destroyed, 0);
    ouro_synchronize();
    cr_assert_eq(leaves_destroyed, 1);
    cr_assert_eq(pairs_destroyed, 1);
}

Test(slot, cycles_are_found)
{
    struct pair *first = pair_new();
    struct pair *second = pair_new();
    struct row *row = row_new(3);

    cr_assert_eq(ouro_slot_store(&first->first, second), OURO_OK);
    cr_assert_eq(ouro_slot_store(&second->second, row), OURO_OK);
    cr_assert_eq(ouro_slot_store(&row->slots[2], first), OURO_OK);
    cr_assert_eq(ouro_slot_store(&row->slots[0], row), OURO_OK);
    put_leaf(&first->second, 1);
    ouro_decref(second);
    ouro_decref(row);
    cr_assert_eq(ouro_collect(), 0);
    cr_assert_eq(ouro_slot_store(&slot, first), OURO_OK);
    ouro_decref(first);
    cr_assert_eq(ouro_collect(), 0, "a global slot keeps them");
    cr_assert_eq(ouro_refcount(first), 2);
    empty();
    cr_assert_eq(pairs_destroyed, 0);
    cr_assert_eq(ouro_collect(), 3);
    cr_assert_eq(pairs_destroyed, 2);
    cr_assert_eq(rows_destroyed, 1);
    cr_assert_eq(leaves_destroyed, 1);
}

/* A collection is no reason to forget what waits: the cycle is alive until the reference is dropped. */
Test(slot, a_cycle_that_is_retired)
{
    struct pair *pair = pair_new();

    cr_assert_eq(ouro_slot_store(&pair->first, pair), OURO_OK);
    cr_assert_eq(ouro_slot_store_steal(&slot, pair), OURO_OK);
    cr_assert_eq(ouro_slot_clear(&slot), OURO_OK);
    cr_assert_eq(ouro_collect(), 0);
    ouro_synchronize();
    cr_assert_eq(pairs_destroyed, 0);
    cr_assert_eq(ouro_collect(), 1);
    cr_assert_eq(pairs_destroyed, 1);
}

/* --- retiring ------------------------------------------------------------------------------------------ */

Test(slot, retire_gives_up_a_reference)
{
    struct leaf *leaf = leaf_new(3);

    ouro_incref(leaf);
    cr_assert_eq(ouro_retire(leaf), OURO_OK);
    cr_assert_eq(ouro_refcount(leaf), 2);
    ouro_synchronize();
    cr_assert_eq(ouro_refcount(leaf), 1);
    cr_assert_eq(ouro_retire(leaf), OURO_OK);
    cr_assert_eq(leaf->value, 3);
    cr_assert_eq(leaves_destroyed, 0);
    ouro_synchronize();
    cr_assert_eq(leaves_destroyed, 1);
}

Test(slot, buffers_are_freed_later)
{
    static const size_t sizes[] = {0, 1, 100, 5000, 70000, 3000000};
    enum { COUNT = sizeof sizes / sizeof *sizes };
    unsigned char *buffers[COUNT];
    ouro_memory stats;

    cr_assert_eq(ouro_free_deferred(NULL), OURO_OK);
    for (int i = 0; i < COUNT; i++) {
        buffers[i] = ouro_alloc(sizes[i]);
        cr_assert_not_null(buffers[i]);
        memset(buffers[i], i, sizes[i]);
    }
    for (int i = 0; i < COUNT; i++)
        cr_assert_eq(ouro_free_deferred(buffers[i]), OURO_OK);
    for (int i = 0; i < COUNT; i++)
        for (size_t j = 0; j < sizes[i]; j += 1 + sizes[i] / 100)
            cr_assert_eq(buffers[i][j], i);
    ouro_synchronize();
    ouro_memory_stats(&stats);
    cr_assert_eq(stats.buffers, 0);
}

static atomic_size_t leaves_retired;

static void retire_a_leaf(struct node *node)
{
    struct leaf *leaf = leaf_new(node->value);
    void *buffer = ouro_alloc(100);

    CHECK(buffer);
    CHECK(ouro_retire(leaf) == OURO_OK);
    CHECK(ouro_free_deferred(buffer) == OURO_OK);
    CHECK(ouro_slot_clear(&slot) == OURO_OK);
    atomic_fetch_add(&leaves_retired, 1);
}

Test(slot, retiring_in_destroy)
{
    on_node_destroy = retire_a_leaf;
    put_leaf(&slot, 1);
    for (int i = 0; i < 2000; i++)
        cr_assert_eq(ouro_retire(node_new(NULL, NULL)), OURO_OK);
    cr_assert_eq(leaves_retired, 0);
    ouro_synchronize();
    cr_assert_eq(nodes_destroyed, 2000);
    cr_assert_eq(leaves_retired, 2000);
    cr_assert_null(ouro_slot_borrow(&slot));
    ouro_synchronize();
    cr_assert_eq(leaves_destroyed, 2001);
}

/* Nobody calls ouro_synchronize(), nobody else helps: safepoints alone keep up. */
Test(slot, what_waits_is_bounded)
{
    size_t made = SCALE(1000000, 100000), most = 0;

    for (size_t i = 0; i < made; i++) {
        put_leaf(&slot, (int64_t)i);
        ouro_safepoint();
        size_t waiting = i + 1 - leaves_destroyed;
        most = waiting > most ? waiting : most;
    }
    cr_assert_leq(most, 40000);
    empty();
    cr_assert_eq(leaves_destroyed, made);
}

/* A batch that is full does not wait for the next one. */
Test(slot, safepoints_alone_drop_a_full_batch)
{
    put_leaf(&slot, 0);
    for (int64_t i = 1; i <= 600; i++)
        put_leaf(&slot, i);
    for (int i = 0; i < 100; i++)
        ouro_safepoint();
    cr_assert_geq(leaves_destroyed, 500, "%zu were dropped", (size_t)leaves_destroyed);
    empty();
    cr_assert_eq(leaves_destroyed, 601);
}

Test(slot, the_budget_counts_bytes)
{
    size_t waiting = 0;
    ouro_memory stats;

    ouro_set_retire_budget(50000);
    for (int i = 0; i < 300; i++) {
        void *buffer = ouro_alloc(20000);

        cr_assert_not_null(buffer);
        cr_assert_eq(ouro_free_deferred(buffer), OURO_OK);
        ouro_safepoint();
    }
    ouro_memory_stats(&stats);
    waiting = stats.buffers;
    cr_assert_leq(waiting, 20, "%zu are left", waiting);
    ouro_synchronize();
    cr_assert_eq(live_buffers(), 0);
}

Test(slot, destruction_of_much_at_once)
{
    size_t count = SCALE_MEMORY(200000, 20000);

    for (size_t i = 0; i < count; i++)
        put_leaf(&slot, (int64_t)i);
    cr_assert_eq(leaves_destroyed, 0);
    empty();
    cr_assert_eq(leaves_destroyed, count);
}

/* --- figures ---------------------------------------------------------------------------------------------- */

static ouro_memory figures(void)
{
    ouro_memory stats;

    ouro_memory_stats(&stats);
    return stats;
}

/* What waits is part of what there is; and nothing is left of it after a grace period. */
Test(slot, waiting_bytes_of_what_is_retired)
{
    cr_assert_eq(figures().waiting_bytes, 0);
    struct leaf *leaf = put_leaf(&slot, 1);
    void *small = ouro_alloc(1000), *large = ouro_alloc(1000000);

    cr_assert(small && large);
    cr_assert_eq(figures().waiting_bytes, 0, "nothing is retired");
    cr_assert_eq(ouro_slot_clear(&slot), OURO_OK);
    size_t one =
        figures().waiting_bytes; /* a stop; it drops nothing of the caller's that is open */
    cr_assert_geq(one, sizeof *leaf);
    cr_assert_lt(one, 2 * sizeof *leaf);
    cr_assert_eq(ouro_free_deferred(small), OURO_OK);
    size_t two = figures().waiting_bytes;
    cr_assert_geq(two, one + 1000);
    cr_assert_leq(two, one + 1300);
    cr_assert_eq(ouro_free_deferred(large), OURO_OK);
    ouro_memory all = figures();
    cr_assert_geq(all.waiting_bytes, two + 1000000);
    cr_assert_eq(all.waiting_bytes, all.object_bytes + all.buffer_bytes);
    cr_assert_eq(all.buffers, 2);
    ouro_synchronize();
    cr_assert_eq(figures().waiting_bytes, 0);
    cr_assert_eq(figures().buffers, 0);
}

Test(slot, waiting_bytes_count_each_reference)
{
    struct leaf *leaf = leaf_new(1);
    size_t block = figures().object_bytes;

    for (int i = 0; i < 3000; i++) { /* several batches */
        ouro_incref(leaf);
        cr_assert_eq(ouro_retire(leaf), OURO_OK);
    }
    /* The stop of ouro_memory_stats() would drop what is in full batches. */
    cr_assert_eq(retire_figures(seat_attached_self).waiting, 3000 * block);
    ouro_safepoint();
    size_t waiting = retire_figures(seat_attached_self).waiting;
    cr_assert_lt(waiting, 3000 * block);
    cr_assert_eq(waiting, (ouro_refcount(leaf) - 1) * block);
    retire_close(seat_attached_self);
    cr_assert_eq(retire_figures(seat_attached_self).waiting, waiting);
    ouro_synchronize();
    cr_assert_eq(ouro_refcount(leaf), 1);
    cr_assert_eq(figures().waiting_bytes, 0);
    ouro_decref(leaf);
}

/* The records are memory, too, and are used again. */
Test(slot, metadata_bytes_count_the_records)
{
    put_leaf(&slot, 0); /* there is an area, and a first record */
    size_t before = figures().metadata_bytes;
    size_t grown;

    cr_assert_leq(before, figures().reserved_bytes);
    for (int i = 0; i < 20000; i++)
        put_leaf(&slot, i);
    grown = figures().metadata_bytes;
    /* They are mapped 64 KiB at a time, and the first ones were there before. */
    cr_assert_geq(grown, before + 20000 * sizeof(void *) - 65536);
    cr_assert_leq(grown, before + 20000 * sizeof(void *) + 65536);
    ouro_synchronize();
    for (int i = 0; i < 15000; i++)
        put_leaf(&slot, i);
    cr_assert_eq(figures().metadata_bytes, grown);
    empty();
}

struct retirer {
    struct worker worker;
    struct gate retired, end;
};

static void retire_and_detach(void *argument)
{
    struct retirer *retirer = argument;

    for (int i = 0; i < 100; i++)
        CHECK(ouro_free_deferred(ouro_alloc(1000)) == OURO_OK);
    gate_open(&retirer->retired);
    gate_wait_running(&retirer->end);
}

/* The stop for the figures closes the batches of all others. */
Test(slot, waiting_bytes_of_other_threads)
{
    struct retirer retirers[3] = {0};

    for (int i = 0; i < 3; i++) {
        worker_start(&retirers[i].worker, retire_and_detach, &retirers[i]);
        gate_wait_attached(&retirers[i].retired);
    }
    ouro_memory all = figures();
    cr_assert_eq(all.waiting_bytes, all.buffer_bytes);
    cr_assert_eq(all.buffers * 1000 <= all.waiting_bytes, true);
    for (int i = 0; i < 3; i++) {
        gate_open(&retirers[i].end);
        worker_join(&retirers[i].worker);
    }
    ouro_synchronize();
    cr_assert_eq(figures().waiting_bytes, 0);
}

/* --- read scopes ------------------------------------------------------------------------------------------ */

/* In this program they are counted if it is compiled with OURO_CHECK, and nothing otherwise; tests/test_scopes.c. */
Test(slot, scopes_are_nothing_without_checks)
{
    put_leaf(&slot, 7);
    OURO_READING
    {
        const struct leaf *leaf = ouro_slot_borrow(&slot);

        cr_assert_eq(leaf->value, 7);
        cr_assert_eq(seat_attached_self->reading, CHECKING ? 1 : 0);
        if (!CHECKING)
            ouro_safepoint();
    }
    cr_assert_eq(seat_attached_self->reading, 0);
    empty();
}

/* --- memory is out ----------------------------------------------------------------------------------------- */

/* The first place that this process needs for what is retired. */
Test(slot, no_memory_changes_nothing)
{
    struct leaf *in = leaf_new(1);
    struct leaf *next = leaf_new(2);
    unsigned char *buffer = ouro_alloc(10);
    ouro_object *old = OURO_OF(next);
    ouro_status statuses[8];

    cr_assert_not_null(buffer);
    slot.value = OURO_OF(in); /* no store yet: it would make room */
    if (can_fail()) {
        for (int i = 0; i < 8; i++) {
            fault_arm(1);
            statuses[i] = i == 0   ? ouro_slot_store(&slot, next)
                          : i == 1 ? ouro_slot_store_steal(&slot, next)
                          : i == 2 ? ouro_slot_exchange(&slot, next, &old)
                          : i == 3 ? ouro_slot_take(&slot, next, &old)
                          : i == 4 ? ouro_slot_compare_exchange(&slot, in, next)
                          : i == 5 ? ouro_retire(next)
                          : i == 6 ? ouro_free_deferred(buffer)
                                   : ouro_slot_clear(&slot);
            cr_assert(fault_fired(), "function %d", i);
            fault_disarm();
            cr_assert_eq(statuses[i], OURO_NO_MEMORY, "function %d", i);
            cr_assert_eq(ouro_slot_borrow(&slot), in);
            cr_assert_eq(ouro_refcount(in), 1);
            cr_assert_eq(ouro_refcount(next), 1);
            cr_assert_eq(old, OURO_OF(next));
        }
        ouro_synchronize();
        cr_assert_eq(leaves_destroyed, 0);
        cr_assert_eq(live_buffers(), 1);
    }
    cr_assert_eq(ouro_slot_store_steal(&slot, next), OURO_OK);
    cr_assert_eq(ouro_free_deferred(buffer), OURO_OK);
    ouro_synchronize();
    cr_assert_eq(leaves_destroyed, 1);
    empty();
}

/* Every store is refused memory: those that would have needed it say so, and the same store works then. */
Test(slot, no_memory_now_and_then)
{
    struct leaf *leaf = leaf_new(1);
    size_t failed = 0, stores = 50000;

    for (size_t i = 0; i < stores; i++) {
        fault_arm(1);
        ouro_status status = ouro_slot_store(&slot, leaf);
        cr_assert_eq(fault_fired(), status == OURO_NO_MEMORY);
        fault_disarm();
        if (status) {
            failed++;
            cr_assert_eq(ouro_refcount(leaf), 1 + i);
            cr_assert_eq(ouro_slot_store(&slot, leaf), OURO_OK);
        }
        cr_assert_eq(ouro_refcount(leaf), 2 + i);
    }
    cr_assert_eq(failed > 1, can_fail(), "%zu failed", failed);
    ouro_synchronize();
    cr_assert_eq(ouro_refcount(leaf), 2);
    ouro_decref(leaf);
    empty();
    cr_assert_eq(leaves_destroyed, 1);
}

/* --- several threads ------------------------------------------------------------------------------------------ */

struct other {
    struct worker worker;
    struct gate start, done, end;
    int64_t stores;
};

static void store_often(void *argument)
{
    struct other *other = argument;

    for (int64_t i = 0; i < other->stores; i++) {
        put_leaf(&slot, 1000 + i);
        ouro_safepoint();
    }
    OURO_DETACHED
    {
        gate_open(&other->done);
        gate_wait(&other->end);
    }
}

Test(slot, what_is_borrowed_outlives_the_stores_of_others)
{
    struct other other = {.stores = 10000};

    put_leaf(&slot, 7);
    const struct leaf *leaf = ouro_slot_borrow(&slot);
    worker_start(&other.worker, store_often, &other);
    gate_wait_attached(&other.done);
    cr_assert_eq(leaf->value, 7);
    cr_assert_eq(leaves_destroyed, 0);
    cr_assert_neq(ouro_slot_borrow(&slot), leaf);
    ouro_synchronize();
    cr_assert_eq(leaves_destroyed, 10000);
    gate_open(&other.end);
    worker_join(&other.worker);
    empty();
}

static void store_once_and_end(void *argument)
{
    struct other *other = argument;

    CHECK(ouro_thread_register("other") == OURO_OK);
    gate_wait_attached(&other->start);
    for (int64_t i = 0; i < other->stores; i++)
        put_leaf(&slot, i);
    ouro_thread_unregister();
    gate_open(&other->done);
}

/* Another thread stores that often and ends while this one has passed no safepoint. */
static void let_another_store(struct other *other)
{
    put_leaf(&slot, 7);
    worker_start_bare(&other->worker, store_once_and_end, other);
    const struct leaf *leaf = ouro_slot_borrow(&slot);
    gate_open(&other->start);
    gate_wait_attached(&other->done);
    cr_assert_eq(leaf->value, 7);
    cr_assert_eq(leaves_destroyed, 0);
}

Test(slot, a_thread_that_ends_leaves_what_it_retired_to_synchronize)
{
    struct other other = {.stores = 10};

    let_another_store(&other);
    ouro_synchronize();
    cr_assert_eq(leaves_destroyed, 10);
    worker_join(&other.worker);
    empty();
}

Test(slot, a_thread_that_ends_leaves_what_it_retired_to_safepoints)
{
    struct other other = {.stores = 3000};

    let_another_store(&other);
    for (int i = 0; i < 1000 && leaves_destroyed < 3000; i++)
        ouro_safepoint();
    cr_assert_eq(leaves_destroyed, 3000);
    worker_join(&other.worker);
    empty();
}

static void store_once_and_detach(void *argument)
{
    struct other *other = argument;

    gate_wait_attached(&other->start);
    put_leaf(&slot, 8);
    OURO_DETACHED
    {
        gate_open(&other->done);
        gate_wait(&other->end);
    }
}

Test(slot, a_detached_thread_leaves_what_it_retired)
{
    struct other other = {.stores = 1};

    put_leaf(&slot, 7);
    worker_start(&other.worker, store_once_and_detach, &other);
    gate_open(&other.start);
    gate_wait_attached(&other.done);
    cr_assert_eq(leaves_destroyed, 0);
    for (int i = 0; i < 1000 && leaves_destroyed < 1; i++)
        ouro_safepoint();
    cr_assert_eq(leaves_destroyed, 1);
    gate_open(&other.end);
    worker_join(&other.worker);
    empty();
}

static atomic_bool synchronized;

static void synchronize(void *argument)
{
    (void)argument;
    ouro_synchronize();
    atomic_store_explicit(&synchronized, true, memory_order_relaxed);
}

Test(slot, synchronize_waits_for_whoever_is_attached)
{
    struct worker worker;
    ouro_object *old;

    put_leaf(&slot, 0);
    worker_start(&worker, synchronize, NULL);
    for (int i = 0; i < 30; i++) { /* none of these is a safepoint */
        struct leaf *leaf = ouro_slot_load(&slot);

        put_leaf(&slot, i);
        cr_assert_eq(ouro_slot_compare_exchange(&slot, leaf, NULL), OURO_BUSY);
        cr_assert_eq(ouro_slot_exchange(&slot, leaf, &old), OURO_OK);
        cr_assert_eq(ouro_slot_take(&slot, leaf_new(i), &old), OURO_OK);
        cr_assert_eq(ouro_retire(old), OURO_OK);
        cr_assert_eq(ouro_free_deferred(ouro_alloc(10)), OURO_OK);
        sleep_ms(1);
    }
    cr_assert_not(synchronized);
    cr_assert_eq(leaves_destroyed, 0);
    while (!synchronized) /* it ends only if it does not wait for ever */
        ouro_safepoint();
    worker_join(&worker);
    empty();
}

/* --- who leaves passes on what waits ----------------------------------------------------------------------------- */

static void pass_safepoints(void *argument)
{
    struct gate *end = argument;

    while (!atomic_load(&end->open))
        ouro_safepoint();
}

/* Each is retired by the death of the one before, so each needs a grace period of its own. */
static void retire_next(struct node *node)
{
    if (node->value > 0) {
        struct node *next = node_new(NULL, NULL);

        next->value = node->value - 1;
        CHECK(ouro_retire(next) == OURO_OK);
    }
}

/* The thread that stays attached has retired nothing, and sees to it that all goes nevertheless: nobody attaches. */
Test(slot, what_a_detach_leaves_is_looked_after_by_who_is_attached)
{
    enum { LEVELS = 10 };
    struct gate end = {false};
    struct worker worker;

    on_node_destroy = retire_next;
    ouro_set_retire_budget(1); /* what it retires in turn goes at its next safepoint */
    worker_start(&worker, pass_safepoints, &end);
    for (size_t i = 1; i <= SCALE(3000, 300); i++) {
        struct node *node = node_new(NULL, NULL);

        node->value = LEVELS;
        cr_assert_eq(ouro_retire(node), OURO_OK);
        cr_assert(wait_for_count(&nodes_destroyed, i * (LEVELS + 1)), "round %zu: %zu are left", i,
                  i * (LEVELS + 1) - nodes_destroyed);
    }
    gate_open(&end);
    worker_join(&worker);
    on_node_destroy = NULL;
}

static void sit_detached(void *argument)
{
    ouro_detach();
    atomic_store((_Atomic uint32_t *)argument, ouro_thread_id());
    while (atomic_load((_Atomic uint32_t *)argument) != 0)
        sched_yield();
    ouro_attach();
}

static bool is_told(uint32_t id)
{
    return (load_relaxed(&seat_by_id(id)->word) & SEAT_RETIRE) != 0;
}

Test(slot, everybody_is_told_of_what_waits)
{
    static _Atomic uint32_t sitting;
    struct seat *self = seat_attached_self;
    struct worker worker;

    worker_start(&worker, sit_detached, &sitting);
    while (sitting == 0)
        sched_yield();
    retire_pass_on(self);
    cr_assert_not(is_told(sitting), "nothing waits");
    put_leaf(&slot, 0);
    cr_assert_eq(ouro_slot_clear(&slot), OURO_OK);
    retire_close(self);
    retire_pass_on(self);
    cr_assert(is_told(sitting));
    cr_assert_not(is_told(self->id), "it has other ways");
    atomic_store(&sitting, 0);
    worker_join(&worker);
    ouro_synchronize();
    cr_assert_eq(leaves_destroyed, 1);
}

/* --- readers and a writer --------------------------------------------------------------------------------------- */

#define CANARY UINT64_C(0xCA9A54ACA9A54ACA)

struct watched {
    ouro_header ouro;
    uint64_t canary;
    uint64_t serial;
};

static atomic_bool stop_reading;
static atomic_size_t reads;

static void watched_destroy(void *self)
{
    struct watched *watched = self;

    CHECK(watched->canary == (CANARY ^ watched->serial));
    watched->canary = 0;
    watched->serial = UINT64_MAX;
}

static void read_watched(void *argument)
{
    uint64_t last = 0;
    struct watched *kept = NULL;

    (void)argument;
    for (size_t i = 0; !atomic_load_explicit(&stop_reading, memory_order_relaxed); i++) {
        struct watched *watched = ouro_slot_borrow(&slot);
        uint64_t serial = watched->serial;

        CHECK(serial >= last);
        if (i % 64 == 0)
            sched_yield();
        CHECK(watched->canary == (CANARY ^ serial));
        CHECK(watched->serial == serial);
        last = serial;
        if (i % 16 == 0) {
            if (kept) {
                CHECK(kept->canary == (CANARY ^ kept->serial));
                ouro_decref(kept);
            }
            kept = ouro_incref(watched);
        }
        atomic_fetch_add_explicit(&reads, 1, memory_order_relaxed);
        if (i % 3 == 0)
            ouro_safepoint();
        if (i % 256 == 0)
            OURO_DETACHED sched_yield();
    }
    ouro_decref_or_null(kept);
}

Test(slot, readers_and_a_writer)
{
    const ouro_type *type;
    struct worker readers[2];
    uint64_t serial = 0;
    size_t most = SCALE(400000, 30000);

    cr_assert_eq(ouro_type_register(&(ouro_type_spec){.name = "watched",
                                                      .size = sizeof(struct watched),
                                                      .destroy = watched_destroy},
                                    &type),
                 OURO_OK);
    while (serial < most || (reads < 1000 && serial < 1000 * most)) {
        struct watched *watched = ouro_new(type);

        cr_assert_not_null(watched);
        watched->serial = ++serial;
        watched->canary = CANARY ^ serial;
        cr_assert_eq(ouro_slot_store_steal(&slot, watched), OURO_OK);
        if (serial == 1) {
            worker_start(&readers[0], read_watched, NULL);
            worker_start(&readers[1], read_watched, NULL);
        }
        ouro_safepoint();
    }
    atomic_store_explicit(&stop_reading, true, memory_order_relaxed);
    worker_join(&readers[0]);
    worker_join(&readers[1]);
    cr_assert_geq(reads, 1000);
    empty();
    cr_assert_eq(live_objects(), 0);
}

/* --- misuse -------------------------------------------------------------------------------------------- */

static void retire_nothing(void)
{
    if ((ouro_retire)(NULL))
        return;
}

static void free_an_object_later(void)
{
    if (ouro_free_deferred(leaf_new(1)))
        return;
}

static void store_detached(void)
{
    ouro_slot one = {NULL};

    ouro_detach();
    if (ouro_slot_clear(&one))
        return;
}

Test(slot, misuse)
{
    char text[400];

    cr_assert(aborts(retire_nothing, text, sizeof text));
    cr_assert(strstr(text, "ouro_retire() of NULL: test the pointer first"), "%s", text);
    cr_assert(aborts(free_an_object_later, text, sizeof text));
    cr_assert(strstr(text, "references are retired by ouro_retire()"), "%s", text);
    cr_assert(aborts(store_detached, text, sizeof text));
    cr_assert(strstr(text, "ouro_slot_store() by the thread"), "%s", text);
}
