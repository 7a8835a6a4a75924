/*
 * test_finalize.c - finalizers: when they run and when not, once only, resurrection, the three modes, threads that leave.
 */
#include "support.h"

#include "thread/seat.h"

/* A node with a finalizer. */
struct fin {
    ouro_header ouro;
    struct fin *next;
    ouro_object *content;
    int64_t value;
};

/* One with items, and one without references, which the collector does not look at. */
struct fin_array {
    ouro_header ouro;
    size_t count;
    struct fin *items[];
};

struct fin_leaf {
    ouro_header ouro;
    int64_t value;
};

enum { ORDER_MAX = 64 };

static const ouro_type *fin_type, *fin_array_type, *fin_leaf_type;
static void (*on_finalize)(struct fin *fin);
static atomic_size_t finalized, destroyed;
static int64_t order[ORDER_MAX]; /* of the first ones: their values */

static void note(int64_t value)
{
    size_t place = atomic_fetch_add(&finalized, 1);

    if (place < ORDER_MAX)
        order[place] = value;
}

static void fin_finalize(void *self)
{
    struct fin *fin = self;

    CHECK(ouro_thread_state() == OURO_STATE_ATTACHED);
    CHECK(ouro_is_finalized(fin));
    CHECK(ouro_refcount(fin) >= 1);
    note(fin->value);
    if (on_finalize)
        on_finalize(fin);
}

static void fin_destroy(void *self)
{
    const struct fin *fin = self;

    CHECK(!fin->next && !fin->content);
    atomic_fetch_add(&destroyed, 1);
}

static void array_visit(void *self, ouro_visitor *visitor)
{
    struct fin_array *array = self;

    ouro_visit_array(visitor, array->items, array->count);
}

static void array_finalize(void *self)
{
    const struct fin_array *array = self;

    for (size_t i = 0; i < array->count; i++)
        CHECK(!array->items[i] || array->items[i]->value == (int64_t)i);
    note(-1);
}

static void leaf_finalize(void *self)
{
    note(((struct fin_leaf *)self)->value);
}

static void count_destroy(void *self)
{
    (void)self;
    atomic_fetch_add(&destroyed, 1);
}

static const ouro_type *type_of_spec(const ouro_type_spec *spec)
{
    const ouro_type *type;

    CHECK(ouro_type_register(spec, &type) == OURO_OK);
    return type;
}

static void enter_test(void)
{
    static const uint16_t fields[] = {OURO_FIELD(struct fin, next),
                                      OURO_FIELD(struct fin, content)};

    enter();
    fin_type = type_of_spec(&(ouro_type_spec){.name = "fin",
                                              .size = sizeof(struct fin),
                                              .fields = fields,
                                              .field_count = 2,
                                              .destroy = fin_destroy,
                                              .finalize = fin_finalize});
    fin_array_type = type_of_spec(&(ouro_type_spec){.name = "fin array",
                                                    .size = sizeof(struct fin_array),
                                                    .item_size = sizeof(struct fin *),
                                                    .visit = array_visit,
                                                    .destroy = count_destroy,
                                                    .finalize = array_finalize});
    fin_leaf_type = type_of_spec(&(ouro_type_spec){.name = "fin leaf",
                                                   .size = sizeof(struct fin_leaf),
                                                   .destroy = count_destroy,
                                                   .finalize = leaf_finalize});
}

TestSuite(finalize, .init = enter_test, .fini = leave);

static struct fin *fin_new(int64_t value)
{
    struct fin *fin = ouro_new(fin_type);

    CHECK(fin);
    fin->value = value;
    return fin;
}

/* The caller's reference is to the one with the value 0; each refers to the next, the last one to the first if it is a ring. */
static struct fin *fins_new(size_t count, bool ring)
{
    struct fin *first = NULL, *last = NULL;

    while (count > 0) {
        struct fin *fin = fin_new((int64_t)--count);

        fin->next = first;
        first = fin;
        if (!last)
            last = fin;
    }
    if (ring)
        last->next = ouro_incref(first);
    return first;
}

/* --- when --------------------------------------------------------------------------------------------- */

Test(finalize, at_the_next_safepoint_and_once)
{
    struct fin *fin = fin_new(7);

    cr_assert_not(ouro_is_finalized(fin));
    ouro_safepoint();
    cr_assert_eq(finalized, 0);
    ouro_decref(fin);
    cr_assert_eq(finalized, 0, "a finalizer ran inside of a decref");
    cr_assert_eq(ouro_finalizers_waiting(), 1);
    cr_assert_eq(live_objects(), 0);
    cr_assert_eq(finalized, 1);
    cr_assert_eq(destroyed, 1);
    cr_assert_eq(order[0], 7);
    cr_assert_eq(ouro_finalizers_waiting(), 0);
    ouro_safepoint();
    cr_assert_eq(finalized, 1);
}

Test(finalize, not_at_a_point_that_is_not_explicit)
{
    ouro_decref(fin_new(1));
    ouro_decref(node_new(NULL, NULL));
    ouro_world_stop();
    ouro_world_start();
    OURO_DETACHED sleep_ms(1);
    ouro_synchronize();
    cr_assert_eq(finalized, 0);
    ouro_safepoint();
    cr_assert_eq(finalized, 1);
}

Test(finalize, not_while_the_thread_holds_a_lock)
{
    ouro_decref(fin_new(1));
    seat_self->held_count = 1;
    ouro_safepoint();
    cr_assert_eq(ouro_run_finalizers(), 0);
    ouro_collect();
    cr_assert_eq(finalized, 0);
    seat_self->held_count = 0;
    ouro_safepoint();
    cr_assert_eq(finalized, 1);
}

static void run_some(struct node *node)
{
    (void)node;
    ouro_decref(fin_new(2));
    CHECK(ouro_run_finalizers() == 0);
    CHECK(finalized == 0);
}

Test(finalize, not_in_a_destroy)
{
    on_node_destroy = run_some;
    ouro_decref(node_new(NULL, NULL));
    cr_assert_eq(finalized, 0);
    cr_assert_eq(ouro_run_finalizers(), 1);
}

static void kill_and_ask(struct fin *fin)
{
    size_t before = finalized;

    if (fin->value >= 10)
        return;
    ouro_decref(fin_new(fin->value + 10));
    ouro_safepoint();
    CHECK(ouro_run_finalizers() == 0);
    CHECK(ouro_collect() == 0);
    CHECK(finalized == before);
    CHECK(ouro_finalizers_waiting() > 0);
}

Test(finalize, not_nested)
{
    on_finalize = kill_and_ask;
    ouro_decref(fin_new(1));
    ouro_decref(fin_new(2));
    cr_assert_eq(ouro_run_finalizers(), 2, "it runs what waited when it was called");
    cr_assert_eq(ouro_run_finalizers(), 2);
    cr_assert_eq(ouro_run_finalizers(), 0);
    cr_assert_eq(destroyed, 4);
}

/* A chain: what an object refers to is alive when its finalizer runs. */
static void look_at_next(struct fin *fin)
{
    CHECK(!fin->next || (fin->next->value == fin->value + 1 && !ouro_is_finalized(fin->next)));
}

Test(finalize, a_chain_from_its_head)
{
    on_finalize = look_at_next;
    ouro_decref(fins_new(50, false));
    while (ouro_finalizers_waiting())
        ouro_safepoint();
    cr_assert_eq(finalized, 50);
    cr_assert_eq(destroyed, 50);
    for (int64_t i = 0; i < 50; i++)
        cr_assert_eq(order[i], i);
}

Test(finalize, a_chain_that_one_collect_finishes)
{
    ouro_decref(fins_new(90, false));
    ouro_collect();
    cr_assert_eq(destroyed, 90);
}

static void look_at_ring(struct fin *fin)
{
    const struct fin *at = fin;

    for (int i = 0; i < 100; i++, at = at->next)
        CHECK(at && at->value == (fin->value + i) % 100);
    CHECK(at == fin);
}

Test(finalize, a_ring_by_one_collect)
{
    on_finalize = look_at_ring;
    ouro_decref(fins_new(100, true));
    cr_assert_eq(ouro_collect(), 100);
    cr_assert_eq(finalized, 100);
    cr_assert_eq(destroyed, 100);
    cr_assert_eq(live_objects(), 0);
}

/* Whatever a finalizer can reach is whole, though it has no finalizer itself. */
static void look_at_children(struct fin *fin)
{
    struct node *node = (struct node *)(void *)fin->content;

    CHECK(node->value == 0 && node->left->value == 1 && node->left->left->value == 2);
    CHECK(node->left->left->left == node || !node->left->left->left);
    CHECK(nodes_destroyed == 0);
}

Test(finalize, what_it_reaches_is_whole)
{
    struct fin *fin = fin_new(1);
    struct node *ring = ring_new(3);

    for (int i = 0; i < 3; i++, ring = ring->left)
        ring->value = i;
    on_finalize = look_at_children;
    fin->content = OURO_OF(ring);
    ring->right = (struct node *)(void *)fin;
    cr_assert_eq(ouro_collect(), 4);
    cr_assert_eq(finalized, 1);
    atomic_store(&nodes_destroyed, 0);
    fin = fin_new(1);
    fin->content = OURO_OF(chain_new(3));
    ouro_decref(fin);
    cr_assert_eq(nodes_destroyed, 0);
    ouro_safepoint();
    cr_assert_eq(finalized, 2);
    cr_assert_eq(nodes_destroyed, 3);
}

Test(finalize, objects_of_all_kinds)
{
    static const size_t counts[] = {0, 3, 2000, 200000};

    for (size_t i = 0; i < 4; i++) {
        struct fin_array *array = ouro_new_array(fin_array_type, counts[i]);

        cr_assert_not_null(array);
        array->count = counts[i];
        if (counts[i] > 1)
            array->items[1] = fin_new(1);
        ouro_decref(array);
        while (ouro_finalizers_waiting())
            ouro_safepoint();
        cr_assert_eq(live_objects(), 0);
    }
    cr_assert_eq(finalized, 7);
    for (int i = 0; i < 1000; i++) {
        struct fin_leaf *leaf = ouro_new(fin_leaf_type);

        cr_assert_not_null(leaf);
        ouro_decref(leaf);
    }
    cr_assert_eq(ouro_run_finalizers(), 1000);
    cr_assert_eq(live_objects(), 0);
}

/* --- resurrection ------------------------------------------------------------------------------------- */

static ouro_slot slot;
static struct fin *kept;

static void store_in_slot(struct fin *fin)
{
    CHECK(ouro_slot_store(&slot, fin) == OURO_OK);
}

static void keep_one(struct fin *fin)
{
    if (fin->value == 3)
        kept = ouro_incref(fin);
}

Test(finalize, resurrected_by_count)
{
    on_finalize = store_in_slot;
    ouro_decref(fin_new(1));
    ouro_safepoint();
    cr_assert_eq(destroyed, 0);
    struct fin *fin = ouro_slot_load(&slot);
    cr_assert(ouro_is_finalized(fin));
    cr_assert_eq(fin->value, 1);
    ouro_decref(fin);
    ouro_collect();
    cr_assert_eq(destroyed, 0);
    cr_assert_eq(ouro_slot_clear(&slot), OURO_OK);
    ouro_synchronize();
    cr_assert_eq(finalized, 1, "it was finalized twice");
    cr_assert_eq(destroyed, 1);
}

Test(finalize, resurrected_by_collection)
{
    on_finalize = keep_one;
    ouro_decref(fins_new(10, true));
    cr_assert_eq(ouro_collect(), 0);
    cr_assert_eq(finalized, 10);
    cr_assert_eq(destroyed, 0);
    struct fin *at = kept;
    for (int i = 0; i < 10; i++, at = at->next)
        cr_assert_eq(at->value, (3 + i) % 10);
    ouro_decref(kept);
    cr_assert_eq(ouro_collect(), 10);
    cr_assert_eq(finalized, 10);
    cr_assert_eq(destroyed, 10);
}

static void break_ring(struct fin *fin)
{
    ouro_clear(&fin->next);
}

Test(finalize, a_finalizer_that_takes_its_ring_apart)
{
    on_finalize = break_ring;
    ouro_decref(fins_new(10, true));
    cr_assert_eq(ouro_collect(), 0, "there was no cycle any more");
    cr_assert_eq(destroyed, 10);
}

static void join_garbage(struct fin *fin)
{
    if (!kept)
        kept = fin_new(100);
    ouro_decref_or_null(fin->content);
    fin->content = OURO_OF(ouro_incref(kept)); /* garbage holds something that lives */
}

Test(finalize, a_finalizer_that_gives_garbage_a_reference)
{
    on_finalize = join_garbage;
    ouro_decref(fins_new(5, true));
    cr_assert_eq(ouro_collect(), 5);
    cr_assert_eq(ouro_refcount(kept), 1);
    on_finalize = NULL;
    ouro_decref(kept);
    ouro_safepoint();
    cr_assert_eq(destroyed, 6);
}

/* --- what a finalizer may do -------------------------------------------------------------------------- */

static void do_all(struct fin *fin)
{
    if (fin->value != 1)
        return;
    ouro_decref(ring_new(10));
    CHECK(ouro_collect() == 10);
    OURO_DETACHED sleep_ms(1);
    ouro_synchronize();
    ouro_weakref *ref = ouro_weakref_new(fin);
    CHECK(ref);
    struct fin *got = ouro_weakref_get(ref);
    CHECK(got == fin);
    ouro_decref(got);
    ouro_decref(ref);
    ouro_decref(fins_new(3, true)); /* with finalizers: queued by the next collection */
    CHECK(ouro_collect() == 0);
    CHECK(ouro_finalizers_waiting() == 3);
    CHECK(ouro_run_finalizers() == 0);
    ouro_world_stop();
    ouro_world_start();
}

Test(finalize, a_finalizer_may_do_anything)
{
    on_finalize = do_all;
    ouro_decref(fin_new(1));
    cr_assert_eq(ouro_run_finalizers(), 1);
    on_finalize = NULL;
    cr_assert_eq(ouro_collect(), 3);
    cr_assert_eq(finalized, 4);
    cr_assert_eq(destroyed, 4);
}

static void make_next(struct fin *fin)
{
    if (fin->value > 0) {
        struct fin *next = fin_new(fin->value - 1);

        next->next = ouro_incref(next);
        ouro_decref(next);
    }
}

Test(finalize, one_that_makes_the_next)
{
    on_finalize = make_next;
    ouro_decref(fin_new(20));
    ouro_collect();
    cr_assert_eq(finalized, 21);
    cr_assert_eq(destroyed, 21);
}

static void make_for_ever(struct fin *fin)
{
    ouro_decref(fin_new(fin->value));
}

Test(finalize, one_that_makes_the_next_for_ever)
{
    on_finalize = make_for_ever;
    ouro_decref(fin_new(1));
    ouro_collect(); /* a hundred times at most */
    cr_assert_geq(finalized, 10);
    cr_assert_eq(ouro_finalizers_waiting(), 1);
    on_finalize = NULL;
    ouro_safepoint();
    cr_assert_eq(destroyed, finalized);
}

/* --- many --------------------------------------------------------------------------------------------- */

enum { MANY = SCALE(100000, 5000) };

struct stopper {
    struct worker worker;
    atomic_size_t stops;
    atomic_bool end;
};

static void stop_often(void *argument)
{
    struct stopper *stopper = argument;

    while (!atomic_load(&stopper->end)) {
        ouro_world_stop();
        ouro_world_start();
        atomic_fetch_add(&stopper->stops, 1);
        OURO_DETACHED sleep_ms(1);
    }
}

Test(finalize, a_long_queue_and_stops_meanwhile)
{
    struct stopper stopper = {.stops = 0};
    struct fin *fin = NULL;

    for (int i = 0; i < MANY; i++) {
        ouro_decref_or_null(fin);
        fin = fin_new(i);
    }
    ouro_decref(fin);
    cr_assert_eq(ouro_finalizers_waiting(), MANY);
    ouro_safepoint(); /* some of them, so that no safepoint takes long */
    cr_assert_gt(finalized, 0);
    cr_assert_lt(finalized, MANY);
    worker_start(&stopper.worker, stop_often, &stopper);
    while (ouro_finalizers_waiting())
        ouro_safepoint();
    cr_assert(wait_for_count(&finalized, MANY));
    atomic_store(&stopper.end, true);
    worker_join(&stopper.worker);
    cr_assert_gt(stopper.stops, 0);
    ouro_safepoint();
    cr_assert_eq(destroyed, MANY);
}

Test(finalize, a_large_ring)
{
    ouro_decref(fins_new(MANY, true));
    cr_assert_eq(ouro_collect(), MANY);
    cr_assert_eq(finalized, MANY);
    cr_assert_eq(destroyed, MANY);
}

/* --- misuse ------------------------------------------------------------------------------------------- */

static void detach_for_ever(struct fin *fin)
{
    (void)fin;
    ouro_detach();
}

static void change_mode(struct fin *fin)
{
    (void)fin;
    CHECK(ouro_finalizer_set_mode(OURO_FINALIZE_IN_THREAD) == OURO_OK);
}

static void shut_down(struct fin *fin)
{
    (void)fin;
    CHECK(ouro_shutdown() == OURO_OK);
}

static void run_one(void)
{
    ouro_decref(fin_new(1));
    ouro_safepoint();
}

static void run_in_stopped_world(void)
{
    ouro_world_stop();
    ouro_run_finalizers();
}

static void assert_sentence(void (*misuse)(void), const char *sentence)
{
    char text[500];

    cr_assert(aborts(misuse, text, sizeof text), "it has not aborted: %s", text);
    cr_assert(strstr(text, sentence), "another sentence: %s", text);
}

Test(finalize, misuse)
{
    on_finalize = detach_for_ever;
    assert_sentence(run_one, "has returned detached: put back what was, by ouro_restore()");
    on_finalize = change_mode;
    assert_sentence(run_one, "ouro_finalizer_set_mode() in a finalizer");
    on_finalize = shut_down;
    assert_sentence(run_one, "ouro_shutdown() in a callback of the collector, a finalizer");
    assert_sentence(run_in_stopped_world,
                    "ouro_run_finalizers() by the thread \"test\", which has stopped");
    cr_assert_eq(ouro_finalizer_set_mode((ouro_finalizer_mode)3), OURO_INVALID);
}
