/*
 * cycle_storm.c - stress: threads build, change, hand over and drop cyclic graphs while the collector runs.
 *
 * Shows that collections destroy everything that nobody can reach and nothing else.  A graph has one
 * holder at a time, who changes it at random, adds nodes, joins it to another, moves its root, and walks
 * it to verify the canary and serial number of every node that an edge leads to; nodes of one cycle
 * belong to several threads.  Some graphs are common: nobody changes them, and anybody refers to them.
 * Automatic collections, requested ones from several threads, callbacks.  After the end one collection
 * has to leave no object at all.
 */
#include "stress.h"

#include <stdlib.h>

enum {
    WORKERS_MAX = 64,
    HELD = 12,
    BOXES = 3,
    COMMONS = 6,
    BUILD_MAX = 12,
    FIXED_EDGES = 3,
    HUB_EDGES_MAX = 9,
    WALK = 12,
    THRESHOLD = 300,
};

#define CANARY UINT64_C(0xBADC0DE5C0FFEE11)

struct node;

struct edge {
    struct node *to;
    uint64_t serial; /* of that node */
};

/* Three types have this structure: nodes with three edges, hubs with any number, leaves without. */
struct node {
    ouro_header ouro;
    uint64_t canary;
    uint64_t serial;
    uint32_t edge_count;
    bool common; /* set before anyone else sees it, from then on the node is not changed */
    struct edge edges[];
};

struct worker {
    struct letter held[HELD];
    struct random *random;
    unsigned calls; /* of its own callback, which only it adds and removes */
    bool has_callback;
};

static const ouro_type *node_type, *hub_type, *leaf_type;
static struct worker workers[WORKERS_MAX];
static struct mailbox boxes[BOXES];
static pthread_mutex_t commons_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct node *commons[COMMONS]; /* [lock: commons_mutex] */
static counter made, destroyed, walked;

/* --- nodes --------------------------------------------------------------------------------------- */

static uint64_t canary_of(const struct node *node)
{
    return CANARY ^ (uintptr_t)node ^ node->serial;
}

static void node_check(const struct node *node, uint64_t serial)
{
    CHECK(node->canary == canary_of(node) && node->serial == serial,
          "node %llu was destroyed although it can be reached", (unsigned long long)serial);
}

/* Makes an object a node, the caller's reference to it is new. */
static struct node *node_init(struct node *node, uint32_t edge_count)
{
    CHECK(node, "memory is out");
    node->edge_count = edge_count;
    node->serial = count_up(&made);
    node->canary = canary_of(node);
    return node;
}

static struct node *leaf_new(void)
{
    return node_init(ouro_new(leaf_type), 0);
}

/* A new reference to a node whose edges lead nowhere. */
static struct node *node_new(struct random *random)
{
    switch (random_below(random, 8)) {
    case 0:
        return leaf_new();
    case 1: {
        uint32_t edge_count = 1 + random_below(random, HUB_EDGES_MAX);

        return node_init(ouro_new_array(hub_type, edge_count), edge_count);
    }
    default:
        return node_init(ouro_new(node_type), FIXED_EDGES);
    }
}

static void hub_visit(void *self, ouro_visitor *visitor)
{
    struct node *node = self;

    for (uint32_t i = 0; i < node->edge_count; i++)
        ouro_visit(visitor, &node->edges[i].to);
}

static void node_destroy(void *self)
{
    struct node *node = self;

    CHECK(node->canary == canary_of(node), "destroy was called for what is no node, or twice");
    for (uint32_t i = 0; i < node->edge_count; i++)
        CHECK(!node->edges[i].to, "destroy met a reference that was not dropped");
    if (node->edge_count > 0 && node->serial % 64 == 0) /* a destroy may create and drop */
        ouro_decref(leaf_new());
    node->canary = 0;
    count_up(&destroyed);
}

/* --- graphs: each has one holder, who may change what is not common ------------------------------ */

/* Takes over the reference to `to`; drops what the edge led to. */
static void edge_set(struct node *node, uint32_t i, struct node *to)
{
    struct node *old = node->edges[i].to;

    node->edges[i] = (struct edge){.to = to, .serial = to ? to->serial : 0};
    ouro_decref_or_null(old);
}

/* The same with a reference that is moved and not new. */
static void edge_move(struct node *node, uint32_t i, struct node *to)
{
    ouro_note(node);
    edge_set(node, i, to);
}

/* A borrowed reference to a node that is at most `steps` edges away; each node on the way is verified. */
static struct node *walk(struct node *node, unsigned steps, struct random *random)
{
    while (steps-- > 0 && node->edge_count > 0) {
        const struct edge *edge = &node->edges[random_below(random, node->edge_count)];

        if (edge->to) {
            node_check(edge->to, edge->serial);
            node = edge->to;
        }
        count_up(&walked);
    }
    return node;
}

/* The same, but no further than to the last node that the holder may change and that has edges; or NULL. */
static struct node *walk_own(struct node *node, unsigned steps, struct random *random)
{
    if (node->common || node->edge_count == 0)
        return NULL;
    while (steps-- > 0) {
        const struct edge *edge = &node->edges[random_below(random, node->edge_count)];

        if (!edge->to)
            continue;
        node_check(edge->to, edge->serial);
        if (!edge->to->common && edge->to->edge_count > 0)
            node = edge->to;
    }
    return node;
}

/* A new reference to one of some new nodes with random edges; what it does not reach is dropped. */
static struct node *build(bool common, struct random *random)
{
    struct node *nodes[BUILD_MAX];
    unsigned count = 1 + random_below(random, BUILD_MAX);

    for (unsigned i = 0; i < count; i++)
        nodes[i] = node_new(random);
    for (unsigned i = 0; i < count; i++)
        for (uint32_t j = 0; j < nodes[i]->edge_count; j++)
            if (!one_in(random, 4))
                edge_set(nodes[i], j, ouro_incref(nodes[random_below(random, count)]));
    for (unsigned i = 0; i < count; i++)
        nodes[i]->common = common;
    for (unsigned i = 1; i < count; i++)
        ouro_decref(nodes[i]);
    return nodes[0];
}

/* A new reference to a common graph, or NULL. */
static struct node *common_take(struct random *random)
{
    struct node *node;

    mutex_lock_politely(&commons_mutex, random);
    node = commons[random_below(random, COMMONS)];
    if (node)
        (void)ouro_incref(node);
    pthread_mutex_unlock(&commons_mutex);
    return node;
}

static void common_replace(struct random *random)
{
    struct node *node = build(true, random);
    struct node **place = &commons[random_below(random, COMMONS)];
    struct node *old;

    mutex_lock_politely(&commons_mutex, random);
    old = *place;
    *place = node;
    pthread_mutex_unlock(&commons_mutex);
    ouro_decref_or_null(old);
}

/* --- what a worker does -------------------------------------------------------------------------- */

static void hold(struct letter *held, struct node *root)
{
    *held = (struct letter){.thing = root, .serial = root->serial, .count = 1};
}

static void let_go(struct letter *held)
{
    struct node *root = held->thing;

    held->thing = NULL;
    while (held->count-- > 0)
        ouro_decref(root);
}

/* Makes another node of the graph the one that is held. */
static void move_root(struct letter *held, struct random *random)
{
    struct node *root = ouro_incref(walk(held->thing, WALK, random));

    let_go(held);
    hold(held, root);
}

/* Makes one edge lead to another node of the graph, to a new one, to a common graph, or nowhere. */
static void change(struct letter *held, struct random *random)
{
    struct node *from = walk_own(held->thing, WALK, random);
    struct node *to = NULL;

    if (!from)
        return;
    switch (random_below(random, 8)) {
    case 0:
        break;
    case 1:
        to = common_take(random);
        break;
    case 2:
    case 3:
    case 4:
        to = node_new(random);
        for (uint32_t i = 0; i < to->edge_count; i++)
            if (one_in(random, 2))
                edge_set(to, i, ouro_incref(walk(held->thing, WALK, random)));
        break;
    default:
        to = ouro_incref(walk(held->thing, WALK, random));
    }
    edge_set(from, random_below(random, from->edge_count), to);
}

/* Makes a graph part of another one, by moving the reference to its root. */
static void join(struct letter *held, struct letter *other, struct random *random)
{
    struct node *from = other->thing && other != held ? walk_own(held->thing, WALK, random) : NULL;

    if (!from)
        return;
    while (other->count > 1) {
        other->count--;
        ouro_decref((struct node *)other->thing);
    }
    edge_move(from, random_below(random, from->edge_count), other->thing);
    other->thing = NULL;
}

static void count_call(const ouro_gc_info *info, void *argument)
{
    struct worker *w = argument;

    (void)info;
    __atomic_fetch_add(&w->calls, 1, __ATOMIC_RELAXED);
}

static void toggle_callback(struct worker *w)
{
    if (w->has_callback) {
        CHECK(ouro_gc_remove_callback(count_call, w) == OURO_OK, "a callback can't be removed");
        CHECK(ouro_gc_remove_callback(count_call, w) == OURO_ABSENT, "a callback is still there");
    } else {
        CHECK(ouro_gc_add_callback(count_call, w) == OURO_OK, "a callback can't be added");
        CHECK(ouro_gc_add_callback(count_call, w) == OURO_BUSY, "a callback is not there");
    }
    w->has_callback = !w->has_callback;
}

/* Everything, one collection of any kind, or a small step; now and then what matters more changes, and with it the limits. */
static void collect_somehow(struct random *random)
{
    switch (random_below(random, 4)) {
    case 0:
        (void)ouro_collect();
        break;
    case 1:
        (void)ouro_collect_step(random_below(random, 1000000));
        break;
    case 2:
        CHECK(ouro_gc_set_policy((ouro_gc_policy)random_below(random, 3)) == OURO_OK,
              "there is a policy less");
        CHECK(ouro_gc_set_pause_budget(1 + random_below(random, 500000)) == OURO_OK,
              "a pause budget is refused");
        break;
    default:
        (void)ouro_collect_kind((ouro_gc_kind)random_below(random, 4));
    }
}

static void step(struct worker *w)
{
    struct random *random = w->random;
    struct letter *held = &w->held[random_below(random, HELD)];
    uint32_t dice = random_below(random, 1024);

    if (dice == 0 && one_in(random, 2))
        collect_somehow(random);
    else if (dice == 1)
        toggle_callback(w);
    else if (dice == 2)
        OURO_DETACHED
        {
            sleep_us(random_below(random, 1000));
        }
    else if (dice < 16)
        common_replace(random);
    else if (dice < 400)
        ouro_safepoint();

    if (!held->thing) {
        if (one_in(random, 2) || !mailbox_take(&boxes[random_below(random, BOXES)], random, held))
            hold(held, build(false, random));
        return;
    }
    node_check(held->thing, held->serial);
    (void)walk(held->thing, 2 * WALK, random);
    switch (dice % 12) {
    case 0:
    case 1:
    case 2:
    case 3:
        change(held, random);
        break;
    case 4:
        join(held, &w->held[random_below(random, HELD)], random);
        break;
    case 5:
    case 6:
        move_root(held, random);
        break;
    case 7:
        (void)ouro_incref((struct node *)held->thing);
        held->count++;
        break;
    case 8:
    case 9:
    case 10:
        if (mailbox_post(&boxes[random_below(random, BOXES)], random, *held))
            held->thing = NULL;
        break;
    default:
        let_go(held);
    }
}

/* One thread's time in a seat. What it holds at the end its successor holds. */
static void life(unsigned index, struct random *random, void *argument)
{
    struct worker *w = argument;
    unsigned steps = 200u << random_below(random, 6);

    (void)index;
    w->random = random;
    enter("worker");
    for (unsigned i = 0; i < steps && (i % 16 || !time_is_up()); i++)
        step(w);
    leave(random);
}

static void worker(unsigned index, struct random *random, void *argument)
{
    (void)argument;
    while (!time_is_up())
        run_threads(index, 1, random_next(random), life, &workers[index]);
}

/* --- the callback that watches all collections --------------------------------------------------- */

/* Plain, since collections don't overlap: ThreadSanitizer sees it if they do. */
static bool collecting;
static uint64_t collections, automatic, collected;

static void watch(const ouro_gc_info *info, void *argument)
{
    (void)argument;
    if (info->phase == OURO_GC_START) {
        CHECK(!collecting, "a collection began inside of another");
        collecting = true;
    } else {
        CHECK(collecting, "a collection ended that had not begun");
        collecting = false;
        collections++;
        automatic += info->reason == OURO_GC_AUTOMATIC;
        collected += info->collected;
        CHECK(info->collected <= info->candidates, "%zu objects were examined, %zu collected",
              info->candidates, info->collected);
        CHECK(info->pause_ns <= info->total_ns, "a pause longer than the whole collection");
    }
    CHECK(info->generation == (info->kind < OURO_GC_DEEP ? (unsigned)info->kind : 2u),
          "a collection of kind %d and generation %u", (int)info->kind, info->generation);
    CHECK(info->number == collections + collecting, "collection %llu is the %llu-th",
          (unsigned long long)info->number, (unsigned long long)(collections + collecting));
    CHECK(ouro_collect() == 0, "a collection inside of a callback found something");
    ouro_decref(leaf_new());
}

/* --- the events, for certain --------------------------------------------------------------------- */

static struct node *shown;

/* A cycle of two owners: one reference each way, none from outside. And a hint. */
static void prologue(unsigned index, struct random *random, void *argument)
{
    (void)random;
    (void)argument;
    enter("prologue");
    if (index == 0) {
        shown = node_init(ouro_new(node_type), FIXED_EDGES);
        edge_set(shown, 0, leaf_new());
        (void)ouro_detach();
        step_reached(1);
        step_await(2);
        (void)ouro_attach();
        ouro_decref(shown);
        CHECK(count_of(&destroyed) == 1, "a node of a cycle was destroyed by counting");
        (void)ouro_detach();
        step_reached(3);
        step_await(4);
    } else {
        struct node *other = node_init(ouro_new(node_type), FIXED_EDGES);

        step_await(1);
        edge_set(shown, 0, NULL); /* a leaf of the other's: leaves a hint */
        CHECK(count_of(&destroyed) == 1, "a leaf without references is alive");
        edge_set(other, 1, ouro_incref(shown));
        edge_set(shown, 2, other);
        CHECK(ouro_collect() == 0, "a cycle was collected that is held from outside");
        step_reached(2);
        step_await(3);
        CHECK(ouro_collect() == 2, "a cycle of two was not collected");
        CHECK(count_of(&destroyed) == count_of(&made), "%llu were made, %llu destroyed",
              (unsigned long long)count_of(&made), (unsigned long long)count_of(&destroyed));
        step_reached(4);
    }
    ouro_thread_unregister();
}

static const ouro_type *register_type(const ouro_type_spec *spec)
{
    const ouro_type *type;

    CHECK(ouro_type_register(spec, &type) == OURO_OK, "a type can't be registered");
    return type;
}

static void register_types(void)
{
    static const uint16_t fields[] = {
        OURO_FIELD(struct node, edges[0].to),
        OURO_FIELD(struct node, edges[1].to),
        OURO_FIELD(struct node, edges[2].to),
    };

    node_type = register_type(&(ouro_type_spec){
        .name = "node",
        .size = sizeof(struct node) + FIXED_EDGES * sizeof(struct edge),
        .fields = fields,
        .field_count = FIXED_EDGES,
        .destroy = node_destroy,
    });
    hub_type = register_type(&(ouro_type_spec){
        .name = "hub",
        .size = sizeof(struct node),
        .item_size = sizeof(struct edge),
        .visit = hub_visit,
        .destroy = node_destroy,
    });
    leaf_type = register_type(&(ouro_type_spec){
        .name = "leaf",
        .size = sizeof(struct node),
        .destroy = node_destroy,
    });
}

int main(int argc, char **argv)
{
    struct random random = {1};
    struct letter letter;
    ouro_memory memory;
    ouro_gc_stats stats;

    stress_begin(argc, argv, "cycle_storm", 3, 5);
    register_types();
    for (unsigned i = 0; i < BOXES; i++)
        mailbox_init(&boxes[i]);

    run_threads(0, 2, 0, prologue, NULL);
    ouro_gc_get_stats(&stats);
    collections = stats.collections;
    collected = stats.collected;
    CHECK(ouro_gc_add_callback(watch, NULL) == OURO_OK, "a callback can't be added");
    ouro_gc_set_threshold(THRESHOLD, 10);
    run_threads(0, stress.threads, 1, worker, NULL);

    enter("main");
    for (unsigned i = 0; i < stress.threads; i++)
        for (unsigned j = 0; j < HELD; j++)
            if (workers[i].held[j].thing)
                let_go(&workers[i].held[j]);
    for (unsigned i = 0; i < BOXES; i++)
        while (mailbox_take(&boxes[i], &random, &letter))
            let_go(&letter);
    for (unsigned i = 0; i < COMMONS; i++)
        ouro_decref_or_null(commons[i]);
    (void)ouro_collect();
    ouro_memory_stats(&memory);
    ouro_gc_get_stats(&stats);
    CHECK(memory.objects == 0, "%zu objects are left after a collection", memory.objects);
    CHECK(count_of(&made) == count_of(&destroyed), "%llu were made, %llu destroyed",
          (unsigned long long)count_of(&made), (unsigned long long)count_of(&destroyed));
    CHECK(stats.collections == collections && stats.collected == collected,
          "%llu collections of %llu objects, the callback saw %llu of %llu",
          (unsigned long long)stats.collections, (unsigned long long)stats.collected,
          (unsigned long long)collections, (unsigned long long)collected);
    CHECK(collected > 0, "nothing was shown: no garbage was found");
    ouro_thread_unregister();

    stress_value("made", count_of(&made));
    stress_value("collected", collected);
    stress_value("automatic", automatic);
    stress_value("walked", count_of(&walked));
    stress_event(EVENT_COLLECT, 2);
    stress_event(EVENT_STOP, 2);
    stress_event(EVENT_HINT, 1);
    stress_end();
    return 0;
}
