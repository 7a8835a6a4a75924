/*
 * test_weakmap.c - tables that hold their keys weakly.
 */

#include "support.h"

#include "base/fault.h"

#include <sched.h>
#include <stdlib.h>

#if defined(OURO_CHECK) && OURO_CHECK
enum { CAN_FAIL = true };
#else
enum { CAN_FAIL = false };
#endif

TestSuite(weakmap, .init = enter, .fini = leave);

static ouro_weakmap *map;

static void map_new(void)
{
    map = ouro_weakmap_new();
    CHECK(map);
}

/* The values of these tests are leaves with a number. The map has the only reference to each. */
static void set(struct node *key, int64_t value)
{
    struct leaf *leaf = leaf_new(value);

    CHECK(ouro_weakmap_set(map, key, leaf) == OURO_OK);
    ouro_decref(leaf);
}

/* The number, or -1. */
static int64_t get(struct node *key)
{
    struct leaf *leaf = ouro_weakmap_get(map, key);
    int64_t value = leaf ? leaf->value : -1;

    ouro_decref_or_null(leaf);
    return value;
}

static void callbacks_on_request(void)
{
    CHECK(ouro_finalizer_set_mode(OURO_FINALIZE_ON_REQUEST) == OURO_OK);
}

/* --- what a table does ------------------------------------------------------------------------------- */

Test(weakmap, set_get_remove)
{
    struct node *a = node_new(NULL, NULL), *b = node_new(NULL, NULL);

    map_new();
    cr_assert_eq(ouro_weakmap_count(map), 0);
    cr_assert_eq(get(a), -1);
    cr_assert_not(ouro_weakmap_has(map, a));
    cr_assert_not(ouro_weakmap_remove(map, a));

    set(a, 1);
    set(b, 2);
    cr_assert_eq(get(a), 1);
    cr_assert_eq(get(b), 2);
    cr_assert_eq(ouro_weakmap_count(map), 2);
    cr_assert_eq(ouro_refcount(a), 1, "a key is not counted");

    set(a, 3);
    cr_assert_eq(leaves_destroyed, 1, "what was replaced is dropped");
    cr_assert_eq(get(a), 3);
    cr_assert_eq(ouro_weakmap_count(map), 2);

    cr_assert(ouro_weakmap_remove(map, a));
    cr_assert_eq(leaves_destroyed, 2);
    cr_assert_eq(get(a), -1);
    cr_assert_eq(get(b), 2);
    cr_assert_eq(ouro_weakref_count(a), 0, "nothing is left at a key that was removed");

    ouro_weakmap_clear(map);
    cr_assert_eq(leaves_destroyed, 3);
    cr_assert_eq(ouro_weakmap_count(map), 0);
    cr_assert_not(ouro_weakmap_has(map, b));
    set(b, 4);
    cr_assert_eq(get(b), 4);

    ouro_decref(map);
    cr_assert_eq(leaves_destroyed, 4, "a map needs no collection to die");
    ouro_decref(a);
    ouro_decref(b);
}

Test(weakmap, without_values)
{
    struct node *a = node_new(NULL, NULL);
    struct leaf *none = NULL;

    map_new();
    cr_assert_eq(ouro_weakmap_add(map, a), OURO_OK);
    cr_assert(ouro_weakmap_has(map, a));
    cr_assert_null(ouro_weakmap_get(map, a));
    set(a, 1);
    cr_assert_eq(get(a), 1);
    cr_assert_eq(ouro_weakmap_set(map, a, none), OURO_OK);
    cr_assert_eq(leaves_destroyed, 1);
    cr_assert(ouro_weakmap_has(map, a));
    cr_assert_eq(ouro_weakmap_count(map), 1);
    ouro_decref(a);
    ouro_safepoint();
    ouro_decref(map);
}

Test(weakmap, values_are_new_references)
{
    struct node *key = node_new(NULL, NULL);
    struct leaf *leaf = leaf_new(7);

    map_new();
    cr_assert_eq(ouro_weakmap_set(map, key, leaf), OURO_OK);
    cr_assert_eq(ouro_refcount(leaf), 2);
    struct leaf *got = ouro_weakmap_get(map, key);
    cr_assert_eq(got, leaf);
    cr_assert_eq(ouro_refcount(leaf), 3);
    ouro_decref(map);
    cr_assert_eq(ouro_refcount(leaf), 2);
    ouro_decref(got);
    ouro_decref(leaf);
    ouro_decref(key);
}

Test(weakmap, a_map_may_be_its_own_key_and_value)
{
    map_new();
    cr_assert_eq(ouro_weakmap_set(map, map, map), OURO_OK);
    ouro_decref(map);
    cr_assert_eq(ouro_collect(), 2, "the map, and the weak reference of the entry");
}

/* Compares with an array, while entries come, go and change. */
Test(weakmap, like_an_array)
{
    enum { KEYS = 300 };
    struct node *keys[KEYS];
    int64_t values[KEYS];
    size_t count = 0;
    uint64_t random = 11;

    map_new();
    for (size_t i = 0; i < KEYS; i++) {
        keys[i] = node_new(NULL, NULL);
        values[i] = -1;
    }
    for (int step = 0; step < SCALE(20000, 3000); step++) {
        uint32_t i = random_below(&random, KEYS), dice = random_below(&random, 8);

        if (dice < 3 || (dice == 3 && step % 2000 < 1000)) {
            count += values[i] < 0;
            values[i] = step;
            set(keys[i], step);
        } else if (dice < 6) {
            cr_assert_eq(ouro_weakmap_remove(map, keys[i]), values[i] >= 0);
            count -= values[i] >= 0;
            values[i] = -1;
        } else if (dice == 6) { /* the key is replaced: its entry goes with it */
            ouro_decref(keys[i]);
            count -= values[i] >= 0;
            values[i] = -1;
            keys[i] = node_new(NULL, NULL);
            cr_assert_eq(get(keys[i]), -1);
        } else {
            ouro_safepoint();
        }
        cr_assert_eq(get(keys[i]), values[i]);
    }
    cr_assert_eq(ouro_weakmap_count(map), count);
    for (size_t i = 0; i < KEYS; i++) {
        cr_assert_eq(get(keys[i]), values[i]);
        ouro_decref(keys[i]);
    }
    cr_assert_eq(ouro_weakmap_count(map), 0);
    ouro_safepoint();
    ouro_decref(map);
}

/* --- keys that die ------------------------------------------------------------------------------------- */

Test(weakmap, out_of_sight_at_once_and_dropped_at_a_safepoint)
{
    struct node *a = node_new(NULL, NULL), *b = node_new(NULL, NULL);

    map_new();
    set(a, 1);
    set(b, 2);
    ouro_decref(a);
    cr_assert_eq(nodes_destroyed, 1);
    cr_assert_eq(ouro_weakmap_count(map), 1);
    cr_assert_eq(leaves_destroyed, 0);
    ouro_safepoint();
    cr_assert_eq(leaves_destroyed, 1);
    cr_assert_eq(get(b), 2);
    ouro_decref(b);
    ouro_decref(map);
    cr_assert_eq(leaves_destroyed, 2);
    ouro_safepoint(); /* the callback finds the map gone */
    cr_assert_eq(ouro_finalizers_waiting(), 0);
}

Test(weakmap, dropped_when_room_is_made)
{
    enum { MORE = 64 };
    struct node *keys[MORE];

    callbacks_on_request();
    map_new();
    struct node *dead = node_new(NULL, NULL);
    set(dead, 1);
    ouro_decref(dead);
    ouro_safepoint();
    cr_assert_eq(leaves_destroyed, 0);
    for (int i = 0; i < MORE; i++) {
        keys[i] = node_new(NULL, NULL);
        set(keys[i], 100 + i);
    }
    cr_assert_eq(leaves_destroyed, 1);
    cr_assert_eq(ouro_run_finalizers(), 1);
    cr_assert_eq(ouro_weakmap_count(map), MORE);
    for (int i = 0; i < MORE; i++) {
        cr_assert_eq(get(keys[i]), 100 + i);
        ouro_decref(keys[i]);
    }
    cr_assert_eq(ouro_run_finalizers(), MORE);
    cr_assert_eq(leaves_destroyed, 1 + MORE);
    ouro_decref(map);
}

/* Without callbacks a table does not grow with the number of keys that have died. */
Test(weakmap, does_not_grow_with_the_dead)
{
    callbacks_on_request();
    map_new();
    for (int i = 0; i < 10000; i++) {
        struct node *key = node_new(NULL, NULL);

        set(key, i);
        ouro_decref(key);
        ouro_safepoint();
    }
    cr_assert_leq(map->capacity, 8);
    cr_assert_geq(leaves_destroyed, 9990);
    ouro_decref(map);
    ouro_run_finalizers();
}

/* An entry of a key that has died is not taken for one of an object that was made at the same address. */
Test(weakmap, address_used_again)
{
    struct node *fresh[400] = {NULL};
    size_t count = 0;
    bool again = false;

    callbacks_on_request();
    map_new();
    struct node *key = node_new(NULL, NULL);
    uintptr_t address = (uintptr_t)key;
    set(key, 1);
    ouro_decref(key);
    ouro_synchronize();
    while (count < 400 && !again) {
        fresh[count] = node_new(NULL, NULL);
        again = (uintptr_t)fresh[count++] == address;
    }
    cr_assert(again);
    struct node *second = fresh[count - 1];
    cr_assert_eq(get(second), -1);
    cr_assert_not(ouro_weakmap_remove(map, second));
    set(second, 2);
    cr_assert_eq(get(second), 2);
    cr_assert_eq(leaves_destroyed, 0);
    cr_assert_eq(ouro_run_finalizers(), 1);
    cr_assert_eq(leaves_destroyed, 1, "the first value, and not the second");
    cr_assert_eq(get(second), 2);
    while (count > 0)
        ouro_decref(fresh[--count]);
    ouro_run_finalizers();
    ouro_decref(map);
}

struct phoenix {
    ouro_header ouro;
    int64_t value;
};

static struct phoenix *risen;
static bool added_again; /* to the map, before its finalizer has run */

static void rise(void *self)
{
    CHECK(ouro_weakmap_has(map, (struct phoenix *)self) == added_again);
    risen = ouro_incref((struct phoenix *)self);
}

static struct phoenix *phoenix_new(void)
{
    const ouro_type *type;
    const ouro_type_spec spec = {.name = "phoenix",
                                 .size = sizeof(struct phoenix),
                                 .finalize = rise};

    CHECK(ouro_type_register(&spec, &type) == OURO_OK);
    struct phoenix *phoenix = ouro_new(type);
    CHECK(phoenix);
    return phoenix;
}

Test(weakmap, key_that_its_finalizer_brings_back)
{
    map_new();
    callbacks_on_request();
    struct phoenix *key = phoenix_new();
    struct leaf *one = leaf_new(1), *two = leaf_new(2);
    cr_assert_eq(ouro_weakmap_set(map, key, one), OURO_OK);
    ouro_decref(one);
    ouro_decref(key);
    cr_assert_eq(ouro_weakmap_count(map), 0);
    cr_assert_eq(ouro_run_finalizers(), 2, "the callback of the entry, and the finalizer");
    cr_assert_eq(leaves_destroyed, 1);
    cr_assert_eq(risen, key);
    cr_assert_not(ouro_weakmap_has(map, risen));
    cr_assert_eq(ouro_weakmap_set(map, risen, two), OURO_OK);
    cr_assert(ouro_weakmap_has(map, risen));
    ouro_decref(two);
    ouro_decref(risen);
    ouro_run_finalizers();
    cr_assert_eq(leaves_destroyed, 2);
    ouro_decref(map);
}

/* The callback of an entry that is not there any more takes out no other one of the same object. */
Test(weakmap, callback_that_comes_late)
{
    map_new();
    callbacks_on_request();
    struct phoenix *key = phoenix_new();
    ouro_weakref *ref = ouro_weakref_new(key);
    cr_assert_eq(ouro_weakmap_add(map, key), OURO_OK);
    ouro_decref(key);
    cr_assert(ouro_weakref_is_cleared(ref));
    ouro_weakmap_clear(map); /* takes the dead entry away */
    cr_assert_eq(ouro_finalizers_waiting(), 2);
    cr_assert_eq(ouro_weakmap_add(map, key), OURO_OK, "the queue holds it, for its finalizer");
    added_again = true;
    ouro_run_finalizers();
    cr_assert(ouro_weakmap_has(map, risen));
    ouro_decref(ref);
    ouro_decref(risen);
    ouro_run_finalizers();
    ouro_decref(map);
}

/* --- and the collector --------------------------------------------------------------------------------- */

Test(weakmap, keys_in_garbage)
{
    struct node *ring = ring_new(10), *kept = node_new(NULL, NULL);

    map_new();
    set(kept, 100);
    for (int i = 0; i < 10; i++) {
        set(ring, i);
        ring = ring->left;
    }
    ouro_decref(ring);
    cr_assert_eq(ouro_weakmap_count(map), 11);
    cr_assert_eq(ouro_collect(), 10);
    cr_assert_eq(ouro_weakmap_count(map), 1);
    cr_assert_eq(leaves_destroyed, 10, "a collection runs the callbacks, too");
    cr_assert_eq(get(kept), 100);
    ouro_decref(kept);
    ouro_decref(map);
    ouro_safepoint();
}

Test(weakmap, map_in_garbage)
{
    struct node *key = node_new(NULL, NULL), *value = node_new(NULL, NULL);

    map_new();
    value->left = (struct node *)(void *)map; /* our reference */
    cr_assert_eq(ouro_weakmap_set(map, key, value), OURO_OK);
    ouro_decref(value);
    cr_assert_eq(ouro_collect(), 3, "the map, the value, the weak reference to the key");
    cr_assert_eq(ouro_weakref_count(key), 0);
    ouro_decref(key);
}

/* The limit that every such table has. */
Test(weakmap, value_that_refers_to_its_key)
{
    struct node *key = node_new(NULL, NULL), *value = node_new(ouro_incref(key), NULL);

    map_new();
    cr_assert_eq(ouro_weakmap_set(map, key, value), OURO_OK);
    ouro_decref(key);
    ouro_decref(value);
    cr_assert_eq(ouro_collect(), 0);
    cr_assert_eq(ouro_weakmap_count(map), 1, "the map holds the value, the value the key");
    ouro_weakmap_clear(map);
    cr_assert_eq(nodes_destroyed, 2);
    ouro_decref(map);
}

Test(weakmap, collections_while_it_grows)
{
    enum { KEYS = 500 };
    struct node *keys[KEYS];

    map_new();
    for (int i = 0; i < KEYS; i++) {
        keys[i] = node_new(NULL, NULL);
        set(keys[i], i);
        if (i % 50 == 0)
            ouro_collect();
    }
    for (int i = 0; i < KEYS; i++) {
        cr_assert_eq(get(keys[i]), i);
        ouro_decref(keys[i]);
    }
    ouro_collect();
    cr_assert_eq(leaves_destroyed, KEYS);
    ouro_decref(map);
}

/* --- each ---------------------------------------------------------------------------------------------- */

static size_t calls;
static int64_t sum;
static struct node *held[8];

static bool add_up(ouro_object *key, ouro_object *value, void *argument)
{
    (void)key;
    calls++;
    sum += ((struct leaf *)(void *)value)->value;
    return calls != *(const size_t *)argument;
}

static void eight_keys(void)
{
    map_new();
    for (int i = 0; i < 8; i++) {
        held[i] = node_new(NULL, NULL);
        set(held[i], 1 << i);
    }
}

static void drop_held(void)
{
    for (int i = 0; i < 8; i++) {
        if (held[i])
            ouro_clear(&held[i]);
    }
    ouro_decref(map);
    ouro_safepoint();
}

Test(weakmap, each)
{
    size_t limit = 0;

    eight_keys();
    cr_assert_eq(ouro_weakmap_each(map, add_up, &limit), OURO_OK);
    cr_assert_eq(calls, 8);
    cr_assert_eq(sum, 255);
    calls = 0;
    limit = 3;
    cr_assert_eq(ouro_weakmap_each(map, add_up, &limit), OURO_OK);
    cr_assert_eq(calls, 3, "until it returns false");
    ouro_weakmap_clear(map);
    calls = limit = 0;
    cr_assert_eq(ouro_weakmap_each(map, add_up, &limit), OURO_OK);
    cr_assert_eq(calls, 0);
    cr_assert_eq(leaves_destroyed, 8, "nothing is held afterwards");
    drop_held();
}

/* Drops all keys but the one that it was called for; they are not shown. */
static bool drop_others(ouro_object *key, ouro_object *value, void *argument)
{
    (void)argument;
    calls++;
    for (int i = 0; i < 8; i++) {
        if ((void *)held[i] != key)
            ouro_clear(&held[i]);
    }
    ouro_collect();
    CHECK(((struct leaf *)(void *)value)->value > 0);
    return true;
}

Test(weakmap, keys_die_during_each)
{
    eight_keys();
    cr_assert_eq(ouro_weakmap_each(map, drop_others, NULL), OURO_OK);
    cr_assert_eq(calls, 1);
    cr_assert_eq(ouro_weakmap_count(map), 1);
    cr_assert_eq(leaves_destroyed, 7);
    drop_held();
}

static bool change_the_map(ouro_object *key, ouro_object *value, void *argument)
{
    (void)value, (void)argument;
    calls++;
    CHECK((ouro_weakmap_remove)(map, key));
    if (calls == 4)
        ouro_weakmap_clear(map);
    if (calls == 4)
        set(held[0], 1000);
    return calls < 4;
}

Test(weakmap, changes_during_each)
{
    eight_keys();
    cr_assert_eq(ouro_weakmap_each(map, change_the_map, NULL), OURO_OK);
    cr_assert_eq(calls, 4);
    cr_assert_eq(ouro_weakmap_count(map), 1);
    cr_assert_eq(get(held[0]), 1000);
    cr_assert_eq(leaves_destroyed, 8);
    drop_held();
}

/* --- memory runs out --------------------------------------------------------------------------------- */

/* One set with each allocation failing in turn. True if it needed none that failed. */
static bool set_with_fault(struct node *key, struct leaf *value, uint64_t nth)
{
    fault_arm(nth);
    ouro_status status = ouro_weakmap_set(map, key, value);
    bool fired = fault_fired();
    fault_disarm();
    CHECK(status == OURO_OK || (status == OURO_NO_MEMORY && fired));
    CHECK(ouro_weakmap_has(map, key) == (status == OURO_OK));
    return status == OURO_OK;
}

Test(weakmap, out_of_memory_in_set)
{
    enum { KEYS = 40 };
    struct node *keys[KEYS];
    struct leaf *value = leaf_new(5);
    size_t failures = 0;

    map_new();
    for (size_t i = 0; i < KEYS; i++) {
        keys[i] = node_new(NULL, NULL);
        for (uint64_t nth = 1; !set_with_fault(keys[i], value, nth); nth++) {
            failures++;
            cr_assert_eq(ouro_weakmap_count(map), i);
            cr_assert_eq(ouro_refcount(value), 1 + i);
            cr_assert_eq(ouro_refcount(keys[i]), 1);
            cr_assert_eq(ouro_weakref_count(keys[i]), 0);
            for (size_t k = 0; k < i; k++)
                cr_assert(ouro_weakmap_has(map, keys[k]));
        }
    }
    /* Replacing needs no memory. */
    for (size_t i = 0; i < KEYS; i++) {
        fault_arm(1);
        cr_assert_eq(ouro_weakmap_set(map, keys[i], value), OURO_OK);
        cr_assert_not(fault_fired());
        fault_disarm();
    }
    /* A token and a weak reference for each, and a table now and then. */
    if (CAN_FAIL)
        cr_assert_geq(failures, 2 * KEYS + 4, "%zu", failures);
    cr_assert_eq(ouro_refcount(value), 1 + KEYS);
    for (size_t i = 0; i < KEYS; i++)
        ouro_decref(keys[i]);
    ouro_decref(map);
    ouro_decref(value);
    ouro_safepoint();
}

Test(weakmap, out_of_memory_elsewhere)
{
    size_t limit = 0;

    fault_arm(1);
    map = ouro_weakmap_new();
    cr_assert_eq(map == NULL, fault_fired());
    fault_disarm();
    ouro_decref_or_null(map);
    fault_arm(2);
    map = ouro_weakmap_new();
    cr_assert_eq(map == NULL, fault_fired());
    fault_disarm();
    ouro_decref_or_null(map);

    eight_keys();
    fault_arm(1);
    ouro_status status = ouro_weakmap_each(map, add_up, &limit);
    cr_assert_eq(status == OURO_NO_MEMORY, fault_fired());
    fault_disarm();
    cr_assert_eq(calls, status == OURO_OK ? 8 : 0);
    cr_assert_eq(ouro_weakmap_count(map), 8);
    drop_held();
    cr_assert_eq(leaves_destroyed, 8);
}

/* --- several threads --------------------------------------------------------------------------------- */

static struct gate locked, unlock_it;
static ouro_weakref *watch;

static void lock_the_map(void *unused)
{
    (void)unused;
    ouro_lock(map);
    gate_open(&locked);
    gate_wait_running(&unlock_it);
    ouro_unlock(map);
}

/* Drops the others' references to what the main thread has only borrowed, once that waits. */
static ouro_slot borrowed_key;

static void empty_the_slot(void *unused)
{
    (void)unused;
    while (ouro_refcount(map) == 1)
        sched_yield(); /* until the call has counted its arguments */
    CHECK(ouro_slot_clear(&borrowed_key) == OURO_OK);
    ouro_synchronize();
    CHECK(!ouro_weakref_is_cleared(watch));
    gate_open(&unlock_it);
}

/* A call that has to wait passes a safepoint: what the caller has only borrowed would be gone. */
static void with_a_borrowed_key(void (*call)(struct node *key))
{
    struct worker holder, emptier;
    struct node *key = node_new(NULL, NULL);

    map_new();
    watch = ouro_weakref_new(key);
    set(key, 1);
    cr_assert_eq(ouro_slot_store_steal(&borrowed_key, key), OURO_OK);
    worker_start(&holder, lock_the_map, NULL);
    gate_wait(&locked);
    worker_start(&emptier, empty_the_slot, NULL);
    call(ouro_slot_borrow(&borrowed_key));
    worker_join(&holder);
    worker_join(&emptier);
    ouro_safepoint();
    cr_assert(ouro_weakref_is_cleared(watch), "the key is dropped afterwards");
    cr_assert_eq(ouro_refcount(map), 1);
    ouro_decref(watch);
    ouro_decref(map);
    ouro_safepoint();
}

static void call_get(struct node *key)
{
    cr_assert_eq(get(key), 1);
}

static void call_set(struct node *key)
{
    set(key, 2);
    cr_assert_eq(leaves_destroyed, 1);
}

static void call_remove(struct node *key)
{
    cr_assert(ouro_weakmap_remove(map, key));
}

Test(weakmap, get_of_a_borrowed_key)
{
    with_a_borrowed_key(call_get);
}

Test(weakmap, set_of_a_borrowed_key)
{
    with_a_borrowed_key(call_set);
}

Test(weakmap, remove_of_a_borrowed_key)
{
    with_a_borrowed_key(call_remove);
}

enum { SHARED_KEYS = 16, OWN_KEYS = 8 };

static struct node *shared_keys[SHARED_KEYS];
static atomic_size_t seen_by_each;

/* A value shows which key it belongs to. */
static bool check_pair(ouro_object *key, ouro_object *value, void *argument)
{
    const struct node *node = (const void *)key;
    const struct leaf *leaf = (const void *)value;

    (void)argument;
    CHECK(leaf->value == node->value);
    atomic_fetch_add(&seen_by_each, 1);
    ouro_safepoint();
    return true;
}

static void churn(void *argument)
{
    uint64_t random = (uintptr_t)argument;
    struct node *own[OWN_KEYS] = {NULL};

    for (int step = 0; step < SCALE(20000, 1500); step++) {
        uint32_t dice = random_below(&random, 64), i = random_below(&random, OWN_KEYS);
        struct node *key = shared_keys[random_below(&random, SHARED_KEYS)];

        if (own[i] && dice < 24)
            ouro_clear(&own[i]);
        if (!own[i]) {
            own[i] = node_new(NULL, NULL);
            own[i]->value = (int64_t)(uintptr_t)own[i];
            CHECK(get(own[i]) == -1);
            set(own[i], own[i]->value);
        }
        CHECK(get(own[i]) == own[i]->value);
        if (dice % 4 == 0) {
            set(key, key->value);
        } else if (dice % 4 == 1) {
            ouro_weakmap_remove(map, key);
        } else {
            int64_t value = get(key);

            CHECK(value == -1 || value == key->value);
        }
        if (dice == 0 && step % 8 == 0)
            CHECK(ouro_weakmap_each(map, check_pair, NULL) == OURO_OK);
        if (dice == 1 && step % 16 == 0)
            ouro_collect();
        ouro_safepoint();
    }
    for (int i = 0; i < OWN_KEYS; i++)
        ouro_decref_or_null(own[i]);
}

Test(weakmap, threads, .timeout = 120)
{
    struct worker workers[3];

    map_new();
    for (int i = 0; i < SHARED_KEYS; i++) {
        shared_keys[i] = node_new(NULL, NULL);
        shared_keys[i]->value = i;
    }
    for (size_t i = 0; i < 3; i++)
        worker_start(&workers[i], churn, (void *)(uintptr_t)(i + 1));
    for (size_t i = 0; i < 3; i++)
        worker_join(&workers[i]);
    ouro_collect();
    cr_assert_leq(ouro_weakmap_count(map), SHARED_KEYS);
    cr_assert_gt(seen_by_each, 0);
    for (int i = 0; i < SHARED_KEYS; i++)
        ouro_decref(shared_keys[i]);
    ouro_collect();
    cr_assert_eq(map->used, 0, "each callback has come");
    ouro_decref(map);
}

static struct node *common_key;
static atomic_size_t arrived;

static void meet(size_t number)
{
    atomic_fetch_add(&arrived, 1);
    while (atomic_load(&arrived) < number)
        ouro_safepoint();
}

enum { MEETINGS = SCALE(3000, 300) };

static void set_common_key(void *argument)
{
    bool first = argument != NULL;

    for (size_t round = 0; round < MEETINGS; round++) {
        if (first)
            common_key = node_new(NULL, NULL);
        meet(6 * round + 2);
        set(common_key, 1);
        meet(6 * round + 4);
        if (first) {
            CHECK(ouro_weakmap_remove(map, common_key));
            CHECK(!ouro_weakmap_has(map, common_key));
            ouro_decref(common_key);
        }
        meet(6 * round + 6);
    }
}

/* Both find no entry; one of them makes it. */
Test(weakmap, two_threads_set_the_same_key, .timeout = 120)
{
    struct worker workers[2];

    map_new();
    for (size_t i = 0; i < 2; i++)
        worker_start(&workers[i], set_common_key, (void *)i);
    for (size_t i = 0; i < 2; i++)
        worker_join(&workers[i]);
    ouro_collect();
    cr_assert_eq(map->used, 0);
    cr_assert_eq(leaves_destroyed, 2 * MEETINGS);
    ouro_decref(map);
}

/* --- misuse -------------------------------------------------------------------------------------------- */

static void use_map_in_destroy(struct node *node)
{
    (void)node;
    ouro_weakmap_count(map);
}

static void die_with_map(void)
{
    on_node_destroy = use_map_in_destroy;
    ouro_decref(node_new(NULL, NULL));
}

static void set_without_key(void)
{
    if ((ouro_weakmap_set)(map, NULL, NULL))
        return;
}

static void return_detached(void)
{
    struct node *key = node_new(NULL, NULL);

    set(key, 1);
    ouro_detach();
    ouro_weakmap_has(map, key);
}

Test(weakmap, misuse)
{
    char text[400];

    map_new();
    cr_assert(aborts(die_with_map, text, sizeof text));
    cr_assert(strstr(text, "ouro_weakmap_count() in a type's destroy"), "%s", text);
    cr_assert(aborts(set_without_key, text, sizeof text));
    cr_assert(strstr(text, "a key is an object"), "%s", text);
    cr_assert(aborts(return_detached, text, sizeof text));
    cr_assert(strstr(text, "ouro_weakmap_has()"), "%s", text);
    ouro_decref(map);
}
