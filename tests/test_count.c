/*
 * test_count.c - counting references: by the owner, by others, in every state that the owner can be in.
 */

#include "support.h"

#include "base/events.h"

TestSuite(count, .init = enter, .fini = leave);

/* --- by the owner ---------------------------------------------------------------------------------- */

Test(count, two_three_two)
{
    struct node *node = node_new(NULL, NULL);
    struct node *holder = node_new(ouro_incref(node), NULL);

    cr_assert_eq(ouro_refcount(node), 2);
    struct node *name = ouro_incref(node);
    cr_assert_eq(ouro_refcount(node), 3);
    ouro_decref(name);
    cr_assert_eq(ouro_refcount(node), 2);
    ouro_decref(holder);
    cr_assert_eq(ouro_refcount(node), 1);
    cr_assert_eq(nodes_destroyed, 1);
    ouro_decref(node);
    cr_assert_eq(nodes_destroyed, 2);
}

Test(count, a_self_reference_keeps_it_alive)
{
    struct node *node = node_new(NULL, NULL);

    node->left = ouro_incref(node);
    cr_assert_eq(ouro_refcount(node), 2);
    ouro_decref(node);
    cr_assert_eq(nodes_destroyed, 0);
    /* The object is reached through itself. */
    cr_assert_eq(ouro_refcount(node->left), 1);
    ouro_incref(node);
    ouro_clear(&node->left);
    ouro_decref(node);
    cr_assert_eq(nodes_destroyed, 1);
}

static void raise_and_lower(struct node *node, uint32_t times)
{
    uint32_t before = ouro_refcount(node);

    for (uint32_t i = 0; i < times; i++) {
        ouro_incref(node);
        if (i % 4096 == 0)
            CHECK(ouro_refcount(node) == before + i + 1);
    }
    CHECK(ouro_refcount(node) == before + times);
    for (uint32_t i = 0; i < times; i++) {
        ouro_decref(node);
        if (i % 4096 == 0)
            CHECK(ouro_refcount(node) == before + times - i - 1);
    }
    CHECK(ouro_refcount(node) == before);
}

Test(count, more_than_the_owners_half_can_hold)
{
    static const uint32_t counts[] = {32765, 32766, 32767, 32768, 40000, 65535, 65536, 100000};

    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        struct node *node = node_new(NULL, NULL);

        raise_and_lower(node, counts[i]);
        raise_and_lower(node, counts[i]);
        cr_assert_eq(nodes_destroyed, i);
        ouro_decref(node);
        cr_assert_eq(nodes_destroyed, i + 1, "after %u", counts[i]);
    }
    cr_assert_gt(event_total(EVENT_OVERFLOW), 0);
}

Test(count, overflow_of_a_candidate)
{
    struct node *node = node_new(NULL, NULL);

    for (int i = 0; i < 33000; i++) {
        ouro_incref(node);
        ouro_incref(node);
        ouro_decref(node);
    }
    cr_assert_eq(ouro_refcount(node), 33001);
    for (int i = 0; i < 33000; i++)
        ouro_decref(node);
    cr_assert_eq(ouro_refcount(node), 1);
    ouro_decref(node);
    cr_assert_eq(nodes_destroyed, 1);
}

static void raise_a_lot(void *argument)
{
    raise_and_lower(argument, 100000);
}

Test(count, another_thread_has_no_such_limit)
{
    struct node *node = node_new(NULL, NULL);

    run_in_thread(raise_a_lot, node);
    cr_assert_eq(ouro_refcount(node), 1);
    cr_assert(ouro_disown(node));
    raise_and_lower(node, 100000);
    ouro_decref(node);
    cr_assert_eq(nodes_destroyed, 1);
}

/* --- several threads at once ----------------------------------------------------------------------- */

struct crowd {
    struct worker worker;
    struct node *node;
    uint64_t seed;
    int32_t kept;
};

static void come_and_go(void *argument)
{
    struct crowd *crowd = argument;
    int steps = SCALE(200000, 20000);

    /* The reference that it was started with counts as one of `kept`. */
    crowd->kept = 1;
    for (int i = 0; i < steps; i++) {
        if (crowd->kept > 1 && random_below(&crowd->seed, 100) < 50) {
            ouro_decref(crowd->node);
            crowd->kept--;
        } else {
            ouro_incref(crowd->node);
            crowd->kept++;
        }
        if (i % 1024 == 0)
            ouro_safepoint();
    }
}

Test(count, the_sum_is_exact_after_a_crowd)
{
    static struct crowd crowds[5];
    struct node *node = node_new(NULL, NULL);
    uint32_t sum = 0;

    for (int i = 0; i < 5; i++)
        crowds[i] = (struct crowd){.node = ouro_incref(node), .seed = (uint64_t)i};
    for (int i = 1; i < 5; i++)
        worker_start(&crowds[i].worker, come_and_go, &crowds[i]);
    come_and_go(&crowds[0]);
    for (int i = 1; i < 5; i++)
        worker_join(&crowds[i].worker);
    for (int i = 0; i < 5; i++)
        sum += (uint32_t)crowds[i].kept;
    cr_assert_eq(ouro_refcount(node), sum + 1);
    for (uint32_t i = 0; i < sum; i++)
        ouro_decref(node);
    cr_assert_eq(ouro_refcount(node), 1);
    ouro_decref(node);
    cr_assert_eq(nodes_destroyed, 1);
}

/* --- the last reference is dropped by another thread ------------------------------------------------ */

struct owner {
    struct worker worker;
    struct node *node;
    uint32_t id;
    struct gate made, go_on;
    size_t destroyed;
};

static void own(struct owner *owner)
{
    owner->node = node_new(node_new(NULL, NULL), NULL);
    owner->id = ouro_thread_id();
}

static void own_and_run(void *argument)
{
    struct owner *owner = argument;

    own(owner);
    gate_open(&owner->made);
    gate_wait_running(&owner->go_on);
}

Test(count, dropped_while_the_owner_runs)
{
    struct owner owner = {0};
    uint64_t hints = event_total(EVENT_HINT);

    worker_start(&owner.worker, own_and_run, &owner);
    gate_wait(&owner.made);
    ouro_decref(owner.node);
    cr_assert(wait_for_count(&nodes_destroyed, 2), "the owner's safepoint has not freed it");
    gate_open(&owner.go_on);
    worker_join(&owner.worker);
    cr_assert_gt(event_total(EVENT_HINT), hints);
    cr_assert_gt(event_total(EVENT_MERGE_DRAIN), 0);
}

static void own_without_safepoint(void *argument)
{
    struct owner *owner = argument;

    own(owner);
    gate_open(&owner->made);
    gate_wait_attached(&owner->go_on);
    ouro_safepoint();
    owner->destroyed = nodes_destroyed;
}

Test(count, dropped_before_one_safepoint_of_the_owner)
{
    struct owner owner = {0};

    worker_start(&owner.worker, own_without_safepoint, &owner);
    gate_wait(&owner.made);
    ouro_incref(owner.node);
    ouro_decref(owner.node);
    cr_assert_eq(ouro_refcount(owner.node), 1);
    ouro_decref(owner.node);
    gate_open(&owner.go_on);
    worker_join(&owner.worker);
    cr_assert_eq(owner.destroyed, 2);
}

static void own_and_sleep(void *argument)
{
    struct owner *owner = argument;

    own(owner);
    ouro_detach();
    gate_open(&owner->made);
    gate_wait(&owner->go_on);
    owner->destroyed = nodes_destroyed;
}

Test(count, dropped_while_the_owner_is_detached)
{
    struct owner owner = {0};

    worker_start(&owner.worker, own_and_sleep, &owner);
    gate_wait(&owner.made);
    ouro_decref(owner.node);
    cr_assert_eq(nodes_destroyed, 2, "it waits for the sleeping owner");
    cr_assert_gt(event_total(EVENT_HINT_DIRECT), 0);
    cr_assert_gt(event_total(EVENT_PROXY), 0);
    gate_open(&owner.go_on);
    worker_join(&owner.worker);
    cr_assert_eq(owner.destroyed, 2);
}

static void own_and_end(void *argument)
{
    own(argument);
}

Test(count, dropped_after_the_owner_ended)
{
    struct owner owner = {0};

    run_in_thread(own_and_end, &owner);
    cr_assert_eq(ouro_refcount(owner.node), 1);
    ouro_incref(owner.node);
    ouro_decref(owner.node);
    cr_assert_eq(nodes_destroyed, 0);
    ouro_decref(owner.node);
    cr_assert_eq(nodes_destroyed, 2);
}

static void sit_and_run(void *argument)
{
    struct owner *owner = argument;

    CHECK(ouro_thread_id() == owner->id);
    gate_open(&owner->made);
    gate_wait_running(&owner->go_on);
}

Test(count, dropped_after_another_thread_took_the_seat)
{
    struct owner owner = {0};

    run_in_thread(own_and_end, &owner);
    worker_start(&owner.worker, sit_and_run, &owner);
    gate_wait(&owner.made);
    ouro_decref(owner.node);
    cr_assert(wait_for_count(&nodes_destroyed, 2));
    gate_open(&owner.go_on);
    worker_join(&owner.worker);
}

static void sit_and_drop(void *argument)
{
    struct owner *owner = argument;

    CHECK(ouro_thread_id() == owner->id);
    CHECK(ouro_refcount(owner->node) == 1);
    ouro_decref(owner->node);
    CHECK(nodes_destroyed == 2);
}

Test(count, dropped_by_the_next_thread_in_the_seat)
{
    struct owner owner = {0};

    run_in_thread(own_and_end, &owner);
    run_in_thread(sit_and_drop, &owner);
    cr_assert_eq(nodes_destroyed, 2);
}

static void hold_until(void *argument)
{
    struct owner *owner = argument;

    ouro_incref(owner->node);
    gate_open(&owner->made);
    gate_wait(&owner->go_on);
    CHECK(ouro_refcount(owner->node) == 1);
    CHECK(ouro_is_unique(owner->node));
    CHECK(nodes_destroyed == 0);
    ouro_decref(owner->node);
    owner->destroyed = nodes_destroyed;
}

Test(count, the_owner_drops_before_the_others)
{
    struct owner owner = {.node = node_new(NULL, NULL)};
    uint64_t merged = event_total(EVENT_MERGE_OWNER);

    worker_start(&owner.worker, hold_until, &owner);
    gate_wait(&owner.made);
    ouro_decref(owner.node);
    cr_assert_eq(nodes_destroyed, 0);
    cr_assert_gt(event_total(EVENT_MERGE_OWNER), merged);
    gate_open(&owner.go_on);
    worker_join(&owner.worker);
    cr_assert_eq(owner.destroyed, 1);
}

/* --- for ever -------------------------------------------------------------------------------------- */

/* An immortal object survives any balanced counting, and the last of the references. */
static void outlive(struct node *node)
{
    unsigned char before[16];

    cr_assert_eq(ouro_refcount(node), OURO_COUNT_IMMORTAL);
    cr_assert_not(ouro_is_unique(node));
    cr_assert_not(ouro_disown(node));
    ouro_safepoint();
    memcpy(before, node, sizeof before);
    for (int i = 0; i < 70000; i++)
        ouro_incref(node);
    for (int i = 0; i < 70000; i++)
        ouro_decref(node);
    cr_assert_arr_eq(node, before, sizeof before, "counting an immortal object writes");
    ouro_decref(node);
    cr_assert_eq(ouro_refcount(node), OURO_COUNT_IMMORTAL);
    cr_assert_eq(ouro_collect(), 0);
    cr_assert_eq(nodes_destroyed, 0);
    cr_assert_eq(node->value, 4711);
    cr_assert_eq(live_objects(), 2);
    expect_left(2);
}

/* What it refers to is kept, too. */
static struct node *future_immortal(void)
{
    struct node *node = node_new(node_new(NULL, NULL), NULL);

    node->value = 4711;
    return node;
}

Test(count, immortal_by_its_owner)
{
    struct node *node = future_immortal();

    ouro_immortalize(node);
    outlive(node);
}

Test(count, immortal_twice_and_with_references_left)
{
    struct node *node = future_immortal();

    for (int i = 0; i < 5; i++)
        ouro_incref(node);
    ouro_immortalize(node);
    ouro_immortalize(node);
    for (int i = 0; i < 5; i++)
        ouro_decref(node);
    outlive(node);
}

static void immortalize(void *argument)
{
    struct node *node = argument;

    ouro_incref(node);
    ouro_immortalize(node);
    CHECK(ouro_refcount(node) == OURO_COUNT_IMMORTAL);
    ouro_immortalize(node);
    ouro_decref(node);
}

Test(count, immortal_by_another_thread)
{
    struct node *node = future_immortal();

    run_in_thread(immortalize, node);
    outlive(node);
}

Test(count, immortal_when_merged)
{
    struct node *node = future_immortal();

    cr_assert(ouro_disown(node));
    ouro_immortalize(node);
    outlive(node);
}

Test(count, immortal_when_merged_by_another_thread)
{
    struct node *node = future_immortal();

    cr_assert(ouro_disown(node));
    run_in_thread(immortalize, node);
    outlive(node);
}

Test(count, immortal_after_the_owner_ended)
{
    struct owner owner = {0};

    run_in_thread(own_and_end, &owner);
    owner.node->value = 4711;
    ouro_immortalize(owner.node);
    outlive(owner.node);
}

static void balance(void *argument)
{
    for (int i = 0; i < SCALE(100000, 10000); i++) {
        ouro_incref((struct node *)argument);
        ouro_decref((struct node *)argument);
    }
}

Test(count, immortal_while_others_count)
{
    struct node *node = future_immortal();
    struct worker workers[3];

    for (int i = 0; i < 3; i++)
        worker_start(&workers[i], balance, node);
    ouro_immortalize(node);
    balance(node);
    for (int i = 0; i < 3; i++)
        worker_join(&workers[i]);
    outlive(node);
}

/* --- a count that is too large ----------------------------------------------------------------------- */

static void raise_by_ten(void *argument)
{
    for (int i = 0; i < 10; i++)
        ouro_incref((struct node *)argument);
}

static void lower_by_ten(void *argument)
{
    for (int i = 0; i < 10; i++)
        ouro_decref((struct node *)argument);
}

Test(count, a_shared_count_that_is_full_makes_it_immortal)
{
    struct node *node = future_immortal();
    uint32_t nearly = ((UINT32_C(1) << 26) - 5) * OURO_SHARED_ONE;

    __atomic_store_n(&node->ouro.shared, nearly, __ATOMIC_RELAXED);
    cr_assert_eq(ouro_refcount(node), (UINT32_C(1) << 26) - 4);
    run_in_thread(raise_by_ten, node);
    cr_assert_gt(event_total(EVENT_SATURATED), 0);
    cr_assert_eq(ouro_refcount(node), OURO_COUNT_IMMORTAL);
    run_in_thread(lower_by_ten, node);
    outlive(node);
}
