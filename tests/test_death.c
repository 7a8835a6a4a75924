/*
 * test_death.c - destruction: long and wide structures on a small stack, what destroy may do, once each.
 */

#include "support.h"

#include "base/events.h"
#include "thread/seat.h"

#include <sched.h>
#include <stdlib.h>

TestSuite(death, .init = enter, .fini = leave);

enum { SMALL_STACK = 64 << 10 };

/* As small as a node of a list can be. */
struct link {
    ouro_header ouro;
    struct link *next;
};

static atomic_size_t links_destroyed;
static bool first_awaits_stop; /* set while there are no other threads */

static void link_destroy(void *self)
{
    CHECK(!((struct link *)self)->next);
    if (atomic_fetch_add_explicit(&links_destroyed, 1, memory_order_relaxed) == 0)
        while (first_awaits_stop && !seat_stop_wanted(seat_attached_self))
            sched_yield();
}

static void link_visit(void *self, ouro_visitor *visitor)
{
    ouro_visit(visitor, &((struct link *)self)->next);
}

/* The same list, described by a table or by a function, with or without a destroy. */
static const ouro_type *link_type(bool by_visit, bool with_destroy)
{
    static const uint16_t fields[] = {OURO_FIELD(struct link, next)};
    ouro_type_spec spec = {.name = "link", .size = sizeof(struct link)};
    const ouro_type *type;

    if (by_visit) {
        spec.visit = link_visit;
    } else {
        spec.fields = fields;
        spec.field_count = 1;
    }
    if (with_destroy)
        spec.destroy = link_destroy;
    CHECK(ouro_type_register(&spec, &type) == OURO_OK);
    return type;
}

static struct link *links_new(const ouro_type *type, size_t length)
{
    struct link *first = NULL;

    for (; length > 0; length--) {
        struct link *link = ouro_new(type);

        CHECK(link);
        link->next = first;
        first = link;
    }
    return first;
}

/* --- constant stack -------------------------------------------------------------------------------- */

struct list {
    const ouro_type *type;
    size_t length;
    size_t left;
};

static void make_and_drop(void *argument)
{
    struct list *list = argument;
    struct link *first = links_new(list->type, list->length);

    CHECK(live_objects() == list->length);
    ouro_decref(first);
    list->left = live_objects();
}

static void drop_long_list(bool by_visit, bool with_destroy, size_t length)
{
    struct list list = {.type = link_type(by_visit, with_destroy), .length = length};

    run_on_stack(SMALL_STACK, make_and_drop, &list);
    cr_assert_eq(list.left, 0);
    cr_assert_eq(links_destroyed, with_destroy ? length : 0);
}

Test(death, ten_million_in_a_list)
{
    drop_long_list(false, false, SCALE_MEMORY(10000000, 500000));
}

Test(death, a_list_with_destroy)
{
    drop_long_list(false, true, SCALE(1000000, 200000));
}

Test(death, a_list_by_visit)
{
    drop_long_list(true, true, SCALE(1000000, 200000));
}

static void drop_in_thread(void *argument)
{
    ouro_decref((ouro_object *)argument);
    ouro_safepoint();
}

static void drop_in_small_thread(void *o)
{
    run_on_stack(SMALL_STACK, drop_in_thread, o);
    ouro_safepoint();
}

/* The list goes now through this field, now through that, now through an item of an array. */
Test(death, a_list_that_changes_its_way)
{
    size_t length = SCALE(600000, 60000);
    ouro_object *last = NULL;

    for (size_t i = 0; i < length; i++) {
        if (i % 3 == 0) {
            last = OURO_OF(node_new(NULL, (struct node *)(void *)last));
        } else if (i % 3 == 1) {
            struct array *array = array_new(5);

            array->items[i % 5] = last;
            array->items[(i + 2) % 5] = OURO_OF(leaf_new(1));
            last = OURO_OF(array);
        } else {
            last = OURO_OF(box_new(last));
        }
    }
    drop_in_small_thread(last);
    cr_assert_eq(nodes_destroyed, length / 3);
    cr_assert_eq(arrays_destroyed, length / 3);
    cr_assert_eq(leaves_destroyed, length / 3);
    cr_assert_eq(boxes_destroyed, length / 3);
}

Test(death, a_hub)
{
    size_t count = SCALE(1000000, 100000);
    struct array *hub = array_new(count);

    for (size_t i = 0; i < count; i++)
        hub->items[i] = OURO_OF(node_new(NULL, NULL));
    ouro_decref(hub);
    ouro_safepoint();
    cr_assert_eq(nodes_destroyed, count);
}

Test(death, a_hub_of_lists)
{
    size_t count = 3000;
    struct array *hub = array_new(count);

    for (size_t i = 0; i < count; i++)
        hub->items[i] = OURO_OF(chain_new(1 + i % 100));
    size_t live = live_objects();
    drop_in_small_thread(hub);
    cr_assert_eq(nodes_destroyed, live - 1);
    cr_assert_eq(arrays_destroyed, 1);
}

Test(death, a_tree)
{
    unsigned depth = SCALE(18, 14);

    drop_in_small_thread(tree_new(depth));
    cr_assert_eq(nodes_destroyed, ((size_t)2 << depth) - 1);
}

/* Each level refers to the next one twice: 2^levels ways to the last one. */
Test(death, many_ways_to_the_same_objects)
{
    struct node *top = node_new(NULL, NULL);

    for (int i = 0; i < 10000; i++)
        top = node_new(top, ouro_incref(top));
    drop_in_small_thread(top);
    cr_assert_eq(nodes_destroyed, 10001);
}

Test(death, what_others_hold_stays)
{
    struct node *chain = chain_new(1000);
    struct node *middle = chain;

    while (middle->value < 500)
        middle = middle->left;
    ouro_incref(middle);
    ouro_decref(chain);
    cr_assert_eq(nodes_destroyed, 500);
    cr_assert_eq(ouro_refcount(middle), 1);
    cr_assert_eq(middle->left->value, 501);
    ouro_decref(middle);
    cr_assert_eq(nodes_destroyed, 1000);
}

/* --- what destroy may do --------------------------------------------------------------------------- */

/* Keeps a reference that the library does not know of. */
struct secret {
    ouro_header ouro;
    struct secret *hidden;
};

static int nesting;
static atomic_size_t secrets_destroyed;

static void secret_destroy(void *self)
{
    struct secret *secret = self;

    CHECK(++nesting == 1);
    ouro_decref_or_null(secret->hidden);
    CHECK(--nesting == 0);
    atomic_fetch_add(&secrets_destroyed, 1);
}

static void secrets_make_and_drop(void *argument)
{
    ouro_type_spec spec = {.name = "secret",
                           .size = sizeof(struct secret),
                           .destroy = secret_destroy};
    size_t length = *(size_t *)argument;
    struct secret *first = NULL;
    const ouro_type *type;

    CHECK(ouro_type_register(&spec, &type) == OURO_OK);
    for (size_t i = 0; i < length; i++) {
        struct secret *secret = ouro_new(type);

        CHECK(secret);
        secret->hidden = first;
        first = secret;
    }
    ouro_decref(first);
    ouro_safepoint();
}

Test(death, a_list_that_only_destroy_knows)
{
    size_t length = SCALE(1000000, 100000);

    run_on_stack(SMALL_STACK, secrets_make_and_drop, &length);
    cr_assert_eq(secrets_destroyed, length);
}

static struct node *saved;
static size_t successors;

/* Each dying node of an odd value makes a few: some die at once, one is kept. */
static void make_successors(struct node *node)
{
    int64_t value = node->value;

    if (value % 2 == 0)
        return;
    void *buffer = ouro_alloc(100);
    CHECK(buffer);
    ouro_free(buffer);
    ouro_decref(node_new(node_new(NULL, NULL), NULL));
    saved = node_new(saved, NULL);
    successors++;
}

Test(death, destroy_makes_objects)
{
    struct node *chain = chain_new(1000);

    on_node_destroy = make_successors;
    ouro_decref(chain);
    on_node_destroy = NULL;
    ouro_safepoint();
    cr_assert_eq(successors, 500);
    cr_assert_eq(nodes_destroyed, 1000 + 2 * 500);
    ouro_decref(saved);
    cr_assert_eq(nodes_destroyed, 1000 + 3 * 500);
}

static struct node *bystander;

static void count_bystander(struct node *node)
{
    (void)node;
    ouro_incref(bystander);
    CHECK(ouro_refcount(bystander) == 2);
    ouro_decref(bystander);
}

Test(death, destroy_counts)
{
    bystander = node_new(NULL, NULL);
    on_node_destroy = count_bystander;
    ouro_decref(chain_new(100));
    cr_assert_eq(ouro_refcount(bystander), 1);
    on_node_destroy = NULL;
    ouro_decref(bystander);
    cr_assert_eq(nodes_destroyed, 101);
}

/* --- a long destruction holds nobody up -------------------------------------------------------------- */

struct dropper {
    struct worker worker;
    const ouro_type *type;
    size_t length;
    struct gate ready, go_on;
    bool detach;
    atomic_bool done;
};

static void drop_slowly(void *argument)
{
    struct dropper *dropper = argument;
    struct link *first = links_new(dropper->type, dropper->length);

    gate_open(&dropper->ready);
    ouro_decref(first);
    if (dropper->detach) {
        OURO_DETACHED sleep_ms(1);
    }
    atomic_store(&dropper->done, true);
    /* What is left then is destroyed at the latest when the thread unregisters. */
}

static void stop_while_dropping(bool detach)
{
    struct dropper dropper = {.type = link_type(false, true),
                              .length = SCALE(1000000, 200000),
                              .detach = detach};
    uint64_t polls = event_total(EVENT_DEATH_POLL);

    first_awaits_stop = true;
    worker_start(&dropper.worker, drop_slowly, &dropper);
    gate_wait(&dropper.ready);
    ouro_world_stop();
    cr_assert(links_destroyed > 0 && links_destroyed < dropper.length, "%zu", links_destroyed);
    ouro_world_start();
    while (!dropper.done) {
        ouro_world_stop();
        ouro_world_start();
    }
    worker_join(&dropper.worker);
    cr_assert_eq(links_destroyed, dropper.length);
    cr_assert_eq(live_objects(), 0);
    cr_assert_gt(event_total(EVENT_DEATH_POLL), polls, "no destruction was interrupted");
}

Test(death, a_stop_gets_in_between)
{
    stop_while_dropping(false);
}

Test(death, a_stop_gets_in_between_before_detaching)
{
    stop_while_dropping(true);
}

/* --- objects that change hands ------------------------------------------------------------------------ */

enum { SLOTS = 64 };

static _Atomic(struct node *) slots[SLOTS];
static atomic_size_t made;

static void trade(void *argument)
{
    uint64_t seed = (uintptr_t)argument;
    int steps = SCALE(100000, 10000);

    for (int i = 0; i < steps; i++) {
        struct node *node = node_new(NULL, NULL);

        atomic_fetch_add(&made, 1);
        if (random_below(&seed, 4) == 0)
            (void)!ouro_disown(node);
        for (uint32_t extra = random_below(&seed, 3); extra > 0; extra--) {
            struct node *old =
                atomic_exchange(&slots[random_below(&seed, SLOTS)], ouro_incref(node));
            ouro_decref_or_null(old);
        }
        ouro_decref(node);
        if (random_below(&seed, 500) == 0) {
            OURO_DETACHED sleep_ms(1);
        } else if (random_below(&seed, 16) == 0) {
            ouro_safepoint();
        }
    }
}

Test(death, objects_that_change_hands_die_once)
{
    struct worker workers[4];

    for (uintptr_t i = 0; i < 4; i++)
        worker_start(&workers[i], trade, (void *)(i + 1));
    for (int i = 0; i < 4; i++)
        worker_join(&workers[i]);
    for (int i = 0; i < SLOTS; i++)
        ouro_decref_or_null(slots[i]);
    cr_assert_eq(live_objects(), 0);
    cr_assert_eq(nodes_destroyed, made);
}

/* --- memory does not wait for a blocked owner -------------------------------------------------------- */

struct heap_owner {
    struct worker worker;
    struct node **nodes;
    size_t count;
    struct gate made, go_on;
};

static void make_many_and_sleep(void *argument)
{
    struct heap_owner *owner = argument;

    for (size_t i = 0; i < owner->count; i++)
        owner->nodes[i] = node_new(NULL, NULL);
    OURO_DETACHED
    {
        gate_open(&owner->made);
        gate_wait(&owner->go_on);
    }
}

Test(death, a_sleeping_owner_keeps_no_memory)
{
    struct heap_owner owner = {.count = SCALE_MEMORY(1000000, 20000)};
    size_t start = live_objects();
    ouro_memory before, after;

    owner.nodes = calloc(owner.count, sizeof *owner.nodes);
    cr_assert_not_null(owner.nodes);
    worker_start(&owner.worker, make_many_and_sleep, &owner);
    gate_wait(&owner.made);
    ouro_memory_stats(&before);
    cr_assert_eq(before.objects, start + owner.count);
    for (size_t i = 0; i < owner.count; i++)
        ouro_decref(owner.nodes[i]);
    cr_assert_eq(nodes_destroyed, owner.count);
    ouro_memory_stats(&after);
    cr_assert_eq(after.objects, start);
    cr_assert_leq(after.object_bytes, before.object_bytes - owner.count * sizeof(struct node));

    /* The pages go back, too, without the owner. */
    ouro_trim();
    ouro_safepoint();
    ouro_trim();
    ouro_memory_stats(&after);
    cr_assert_lt(after.page_bytes + after.empty_bytes, before.page_bytes / 2);
    gate_open(&owner.go_on);
    worker_join(&owner.worker);
    free(owner.nodes);
}
