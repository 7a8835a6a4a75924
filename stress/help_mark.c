/*
 * help_mark.c - collections that stopped threads take part in.
 *
 * Property: whoever takes part, and whenever he comes, a deep or full collection finds the same garbage as the program can
 * name: what is reached from the roots is alive and whole, all else is gone; each object is destroyed once.
 *
 * One thread makes graphs (trees, random ones, lists, hubs whose `visit` reports all children in one go, wide ones that
 * report one by one), drops some roots, collects with any number of helpers from 0 to 4, and counts.  The others pass
 * safepoints, detach and attach, and make garbage of their own that is never more than a pair at a time.
 */
#include "stress.h"

#include "gc/parallel.h"

#include <ouro/gc.h>

#include <sched.h>
#include <stdlib.h>

enum { NODES = 3000, FIELDS = 2 };

struct node {
    ouro_header ouro;
    struct node *next[FIELDS];
    struct group *group;
    uint64_t mark; /* what it was made with */
    size_t count;
    bool one_by_one;
    struct node *more[];
};

/* All nodes of one graph: how many are destroyed. */
struct group {
    counter destroyed;
};

static const ouro_type *node_type, *hub_type;
static counter graphs, collections, found, kept;
static counter bystanders;

static void visit_hub(void *self, ouro_visitor *visitor)
{
    struct node *hub = self;

    ouro_visit_array(visitor, hub->next, FIELDS);
    if (!hub->one_by_one) {
        ouro_visit_array(visitor, hub->more, hub->count);
        return;
    }
    for (size_t i = 0; i < hub->count; i++)
        ouro_visit(visitor, &hub->more[i]);
}

static void destroy(void *self)
{
    struct node *node = self;

    CHECK(node->mark == mix((uint64_t)(uintptr_t)node), "a node was overwritten");
    node->mark = 0;
    if (node->group)
        count_up(&node->group->destroyed);
}

static void register_types(void)
{
    static const uint16_t fields[] = {OURO_FIELD(struct node, next[0]),
                                      OURO_FIELD(struct node, next[1])};
    const ouro_type_spec node = {.name = "node",
                                 .size = sizeof(struct node),
                                 .fields = fields,
                                 .field_count = FIELDS,
                                 .destroy = destroy};
    const ouro_type_spec hub = {.name = "hub",
                                .size = sizeof(struct node),
                                .item_size = sizeof(struct node *),
                                .visit = visit_hub,
                                .destroy = destroy};

    CHECK(!ouro_type_register(&node, &node_type) && !ouro_type_register(&hub, &hub_type),
          "a type can't be registered");
}

static struct node *make(struct group *group, size_t count)
{
    struct node *node = count ? ouro_new_array(hub_type, count) : ouro_new(node_type);

    CHECK(node, "out of memory");
    node->group = group;
    node->mark = mix((uint64_t)(uintptr_t)node);
    node->count = count;
    return node;
}

/* --- the one who collects -------------------------------------------------------------------------- */

struct graph {
    struct group group;
    size_t count;
    struct node *nodes[NODES];
    bool reached[NODES];
    uint32_t edges[NODES][FIELDS]; /* index + 1 */
    uint32_t stack[NODES];
    size_t hubs;
    size_t few; /* nodes that all references of a crowd go to */
};

static void link_to(struct graph *g, size_t from, unsigned field, size_t to)
{
    g->nodes[from]->next[field] = ouro_incref(g->nodes[to]);
    g->edges[from][field] = (uint32_t)to + 1;
}

/* A hub refers to all nodes, each once, or to a few of them, again and again, so that many threads change the same scratch
 * word. It is node 0. */
static void fill(struct graph *g, struct random *random)
{
    unsigned shape = random_below(random, 7);

    g->count = 200 + random_below(random, NODES - 200);
    g->hubs = shape >= 4;
    g->few = shape >= 5 ? 1 + random_below(random, 6) : g->count;
    atomic_store_explicit(&g->group.destroyed, 0, memory_order_relaxed);
    for (size_t i = 0; i < g->count; i++) {
        g->nodes[i] = make(&g->group, i == 0 && g->hubs ? g->count : 0);
        g->edges[i][0] = g->edges[i][1] = 0;
    }
    for (size_t i = 0; i < g->count; i++) {
        if (shape == 0 && 2 * i + 2 < g->count) {
            link_to(g, i, 0, 2 * i + 1);
            link_to(g, i, 1, 2 * i + 2);
        } else if (shape == 1) {
            link_to(g, i, 0, (i + 1) % g->count);
        } else if (shape >= 2 && one_in(random, 3)) {
            link_to(g, i, 0, random_below(random, (uint32_t)g->few));
            if (one_in(random, 2))
                link_to(g, i, 1, random_below(random, (uint32_t)g->count));
        }
    }
    if (g->hubs) {
        g->nodes[0]->one_by_one = one_in(random, 3);
        for (size_t i = 0; i < g->count; i++)
            g->nodes[0]->more[i] = ouro_incref(g->nodes[i % g->few]);
    }
}

static void reach(struct graph *g, size_t root)
{
    size_t top = 0;

    if (g->reached[root])
        return;
    g->reached[root] = true;
    g->stack[top++] = (uint32_t)root;
    while (top > 0) {
        size_t i = g->stack[--top];

        for (unsigned f = 0; f < FIELDS; f++) {
            uint32_t to = g->edges[i][f];

            if (to && !g->reached[to - 1]) {
                g->reached[to - 1] = true;
                g->stack[top++] = to - 1;
            }
        }
        for (size_t k = 0; i == 0 && g->hubs && k < g->few; k++) {
            if (!g->reached[k]) {
                g->reached[k] = true;
                g->stack[top++] = (uint32_t)k;
            }
        }
    }
}

static void check(struct graph *g, const char *when)
{
    size_t dead = 0;

    for (size_t i = 0; i < g->count; i++) {
        dead += !g->reached[i];
        if (g->reached[i])
            CHECK(g->nodes[i]->mark == mix((uint64_t)(uintptr_t)g->nodes[i]),
                  "a node that is reached was destroyed");
    }
    CHECK(count_of(&g->group.destroyed) == dead, "%s %llu of %zu were destroyed, not %zu", when,
          (unsigned long long)count_of(&g->group.destroyed), g->count, dead);
}

static void collect(struct random *random)
{
    ouro_gc_set_helpers(random_below(random, 5));
    ouro_collect_kind(one_in(random, 2) ? OURO_GC_FULL : OURO_GC_DEEP);
    count_up(&collections);
}

static void one_graph(struct graph *g, struct random *random)
{
    size_t roots = one_in(random, 4) ? 0 : 1 + random_below(random, 5), held[5];

    fill(g, random);
    for (size_t i = 0; i < g->count; i++)
        g->reached[i] = false;
    for (size_t i = 0; i < roots; i++) {
        held[i] = random_below(random, (uint32_t)g->count);
        ouro_incref(g->nodes[held[i]]);
    }
    if (one_in(random, 2))
        collect(random); /* all alive */
    for (size_t i = 0; i < g->count; i++)
        ouro_decref(g->nodes[i]);
    for (size_t i = 0; i < roots; i++)
        reach(g, held[i]);
    collect(random);
    check(g, "with roots");
    for (size_t i = 0; i < g->count; i++)
        count_up(g->reached[i] ? &kept : &found);
    for (size_t i = 0; i < roots; i++)
        ouro_decref(g->nodes[held[i]]);
    for (size_t i = 0; i < g->count; i++)
        g->reached[i] = false;
    collect(random);
    check(g, "without roots");
    count_up(&graphs);
}

/* --- the others ---------------------------------------------------------------------------------------- */

static void stand_by(struct random *random)
{
    unsigned choice = random_below(random, 200);

    if (choice == 0) {
        OURO_DETACHED
        {
            sleep_us(random_below(random, 200));
        }
    } else if (choice < 10) {
        struct node *a = make(NULL, 0), *b = make(NULL, 0);

        a->next[0] = b;
        b->next[0] = ouro_incref(a);
        ouro_decref(a);
    } else if (choice < 100) {
        sched_yield();
    }
    ouro_safepoint();
}

static void body(unsigned index, struct random *random, void *unused)
{
    (void)unused;
    enter(index ? "bystander" : "collector");
    if (index == 0) {
        struct graph *g = malloc(sizeof *g);

        CHECK(g, "out of memory");
        while (!time_is_up())
            one_graph(g, random);
        free(g);
    } else {
        count_up(&bystanders);
        while (!time_is_up())
            stand_by(random);
    }
    leave(random);
}

int main(int argc, char **argv)
{
    stress_begin(argc, argv, "help_mark", 3, 6);
    enter("main");
    register_types();
    ouro_gc_disable();
    parallel_set_least(1);
    run_threads(0, stress.threads, 1, body, NULL);
    ouro_collect_kind(OURO_GC_FULL);
    ouro_memory memory;
    ouro_memory_stats(&memory);
    CHECK(memory.objects == 0, "%zu objects are left", (size_t)memory.objects);
    ouro_thread_unregister();
    stress_value("graphs", count_of(&graphs));
    stress_value("collections", count_of(&collections));
    stress_value("found", count_of(&found));
    stress_value("kept", count_of(&kept));
    stress_event(EVENT_HELP, 1);
    stress_event(EVENT_HELP_PIECE, 1);
    stress_event(EVENT_HELP_LATE, 0);
    stress_end();
    return 0;
}
