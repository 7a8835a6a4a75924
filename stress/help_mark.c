/*
 * help_mark.c - collections that stopped threads take part in.
 *
 * Property: whoever takes part, and whenever he comes, a deep or full collection finds the same garbage as the program can
 * name: what is reached from the roots is alive and whole, all else is gone; each object is destroyed once; weak references are
 * cleared if what they refer to was garbage, and only then; a finalizer runs once, and finds all that its object reaches.
 *
 * One thread makes graphs: trees, lists, random ones, some that refer to a few nodes again and again; of nodes with two fields, with
 * forty, with more than fit onto the collector's stack beside others, and of nodes whose `visit` reports all references in one go
 * or one by one.  Some are held by immortal ones that look as if there were one reference to them.  It drops some roots, collects
 * with any number of helpers from 0 to 4, at once, in slices, with what is found saved, with all of it frozen, and counts.  In some
 * passes it waits for the first helper, or the others would seldom meet it.  They pass safepoints, detach and attach, and make
 * garbage of their own, a pair at a time.
 */
#include "stress.h"

#include "gc/collect.h"
#include "gc/parallel.h"
#include "gc/sets.h"

#include <ouro/finalize.h>
#include <ouro/gc.h>
#include <ouro/weak.h>

#include <sched.h>
#include <stddef.h>
#include <stdlib.h>

enum { NODES = 3000, EDGES = 60000, SOME = 40, MANY = 8000, ROOTS = 5, REFS = 20, IMMORTALS = 4 };
enum { PATIENCE_NS = 500000, FIND_ROUNDS = 20 };

enum kind { PLAIN, FINAL, FORTY, HUGE, ARRAY, SINGLE, KINDS };

struct node {
    ouro_header ouro;
    struct group *group;
    uint64_t mark; /* what it was made with */
    size_t count;
    struct node *next[];
};

/* All nodes of one graph: how many are destroyed, and finalized. */
struct group {
    counter destroyed, finalized;
};

static const ouro_type *types[KINDS];
static struct node *immortals[IMMORTALS];
static struct random waiting; /* of who collects */
static atomic_bool calm;      /* the others make nothing */
static counter graphs, collections, slices, saved, frozen, found, kept, cleared, finalized;

static uint64_t mark_of(const struct node *node)
{
    return mix((uint64_t)(uintptr_t)node);
}

static void visit_all(void *self, ouro_visitor *visitor)
{
    struct node *node = self;

    ouro_visit_array(visitor, node->next, node->count);
}

static void visit_each(void *self, ouro_visitor *visitor)
{
    struct node *node = self;

    for (size_t i = 0; i < node->count; i++)
        ouro_visit(visitor, &node->next[i]);
}

static void destroy(void *self)
{
    struct node *node = self;

    CHECK(node->mark == mark_of(node), "a node was overwritten");
    node->mark = 0;
    if (node->group)
        count_up(&node->group->destroyed);
}

static void finalize(void *self)
{
    struct node *node = self;

    CHECK(node->mark == mark_of(node), "a node was finalized after its end");
    for (size_t i = 0; i < node->count; i++)
        CHECK(!node->next[i] || node->next[i]->mark == mark_of(node->next[i]),
              "what a finalizer reaches was destroyed");
    count_up(&node->group->finalized);
}

static void register_fields(enum kind kind, uint16_t count)
{
    static uint16_t fields[MANY];
    ouro_type_spec spec = {.name = "fields",
                           .size = sizeof(struct node) + count * sizeof(struct node *),
                           .fields = fields,
                           .field_count = count,
                           .finalize = kind == FINAL ? finalize : NULL,
                           .destroy = destroy};

    for (uint16_t i = 0; i < count; i++)
        fields[i] = (uint16_t)(offsetof(struct node, next) + i * sizeof(struct node *));
    CHECK(!ouro_type_register(&spec, &types[kind]), "a type can't be registered");
}

static void register_visited(enum kind kind, void (*visit)(void *, ouro_visitor *))
{
    const ouro_type_spec spec = {.name = "visited",
                                 .size = sizeof(struct node),
                                 .item_size = sizeof(struct node *),
                                 .visit = visit,
                                 .destroy = destroy};

    CHECK(!ouro_type_register(&spec, &types[kind]), "a type can't be registered");
}

static void register_types(void)
{
    register_fields(PLAIN, 2);
    register_fields(FINAL, 2);
    register_fields(FORTY, SOME);
    register_fields(HUGE, MANY);
    register_visited(ARRAY, visit_all);
    register_visited(SINGLE, visit_each);
}

static struct node *make(struct group *group, enum kind kind, size_t count)
{
    struct node *node = kind >= ARRAY ? ouro_new_array(types[kind], count) : ouro_new(types[kind]);

    CHECK(node, "out of memory");
    node->group = group;
    node->mark = mark_of(node);
    node->count = count;
    return node;
}

/* --- immortal nodes --------------------------------------------------------------------------------- */

static void refer_to_immortals(unsigned index, struct random *random, void *unused)
{
    (void)index, (void)unused;
    enter("referrer");
    for (int i = 0; i < IMMORTALS; i++)
        ouro_incref(immortals[i]); /* counted as a foreign one, for ever */
    leave(random);
}

static void make_immortals(void)
{
    for (int i = 0; i < IMMORTALS; i++)
        immortals[i] = make(NULL, i % 2 ? ARRAY : SINGLE, ROOTS);
    run_threads(0, 1, 2, refer_to_immortals, NULL);
    for (int i = 0; i < IMMORTALS; i++)
        ouro_immortalize(immortals[i]);
}

/* --- the one who collects -------------------------------------------------------------------------- */

struct graph {
    struct group group;
    size_t count, edge_count;
    struct node *nodes[NODES];
    enum kind kinds[NODES];
    uint32_t first_edge[NODES];
    uint32_t edges[EDGES]; /* index + 1 */
    bool reached[NODES], finalized[NODES];
    uint32_t stack[NODES], due[NODES];
    size_t few; /* nodes that all references of a crowd go to */
    ouro_weakref *refs[REFS];
    size_t referred[REFS];
};

static void link_to(struct graph *g, size_t from, size_t field, size_t to)
{
    g->nodes[from]->next[field] = ouro_incref(g->nodes[to]);
    g->edges[g->first_edge[from] + field] = (uint32_t)to + 1;
}

static size_t random_node(const struct graph *g, struct random *random)
{
    return random_below(random, (uint32_t)(one_in(random, 2) ? g->few : g->count));
}

/* In a `large` graph node 0 refers to all, and the next ones have very many fields. */
static enum kind random_kind(size_t i, bool large, struct random *random)
{
    if (large && i > 0 && i <= 3)
        return HUGE;
    if ((large && i == 0) || one_in(random, 20))
        return one_in(random, 2) ? ARRAY : SINGLE;
    if (one_in(random, 20))
        return one_in(random, 2) ? FINAL : FORTY;
    return PLAIN;
}

static size_t random_degree(const struct graph *g, enum kind kind, size_t i, struct random *random)
{
    if (kind >= ARRAY)
        return i == 0 ? g->count : random_below(random, 12);
    return kind == HUGE ? MANY : kind == FORTY ? SOME : 2;
}

static void make_nodes(struct graph *g, bool large, struct random *random)
{
    g->edge_count = 0;
    for (size_t i = 0; i < g->count; i++) {
        enum kind kind = random_kind(i, large, random);
        size_t degree = random_degree(g, kind, i, random);

        if (g->edge_count + degree + 2 * NODES > EDGES) {
            kind = PLAIN;
            degree = 2;
        }
        g->nodes[i] = make(&g->group, kind, degree);
        g->kinds[i] = kind;
        g->finalized[i] = false;
        g->first_edge[i] = (uint32_t)g->edge_count;
        for (size_t f = 0; f < degree; f++)
            g->edges[g->edge_count++] = 0;
        if (one_in(random, 4))
            ouro_disown(g->nodes[i]);
    }
}

/* Random references; so few that much is reached through one only. */
static void link_at_random(struct graph *g, size_t i, struct random *random)
{
    struct node *node = g->nodes[i];
    size_t every = g->kinds[i] == HUGE && one_in(random, 2) ? 50 : 2;

    for (size_t f = 0; f < node->count; f++) {
        if (node->next[f] || !one_in(random, (uint32_t)every))
            continue;
        if (one_in(random, 30))
            node->next[f] = ouro_incref(immortals[random_below(random, IMMORTALS)]);
        else
            link_to(g, i, f, random_node(g, random));
    }
}

static void link_nodes(struct graph *g, struct random *random)
{
    unsigned shape = random_below(random, 6);

    for (size_t i = 0; i < g->count; i++) {
        struct node *node = g->nodes[i];

        if (shape <= 1 && 2 * i + 2 < g->count && node->count >= 2) { /* a tree */
            link_to(g, i, 0, 2 * i + 1);
            link_to(g, i, 1, 2 * i + 2);
        } else if (shape == 2 && node->count > 0) { /* a list */
            link_to(g, i, 0, (i + 1) % g->count);
        } else if (i == 0 && node->count == g->count) { /* all, or a few again and again */
            for (size_t f = 0; f < g->count; f++)
                link_to(g, i, f, f % g->few);
        }
        if (shape >= 3 || one_in(random, 50))
            link_at_random(g, i, random);
    }
}

static void fill(struct graph *g, struct random *random)
{
    g->count = 200 + random_below(random, NODES - 200);
    g->few = one_in(random, 2) ? 1 + random_below(random, 6) : g->count;
    atomic_store_explicit(&g->group.destroyed, 0, memory_order_relaxed);
    atomic_store_explicit(&g->group.finalized, 0, memory_order_relaxed);
    make_nodes(g, one_in(random, 3), random);
    link_nodes(g, random);
    for (size_t i = 0; i < REFS; i++) {
        g->referred[i] = random_below(random, (uint32_t)g->count);
        g->refs[i] = ouro_weakref_new(g->nodes[g->referred[i]]);
        CHECK(g->refs[i], "out of memory");
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
        size_t end = i + 1 < g->count ? g->first_edge[i + 1] : g->edge_count;

        for (size_t e = g->first_edge[i]; e < end; e++) {
            uint32_t to = g->edges[e];

            if (to && !g->reached[to - 1]) {
                g->reached[to - 1] = true;
                g->stack[top++] = to - 1;
            }
        }
    }
}

static void reach_roots(struct graph *g, const size_t *roots, size_t count)
{
    for (size_t i = 0; i < g->count; i++)
        g->reached[i] = false;
    for (size_t i = 0; i < count; i++)
        reach(g, roots[i]);
}

/* --- collections and what they have to find ---------------------------------------------------------- */

static void check_whole(const struct graph *g)
{
    for (size_t i = 0; i < g->count; i++) {
        if (g->reached[i])
            CHECK(g->nodes[i]->mark == mark_of(g->nodes[i]),
                  "a node that is reached was destroyed");
    }
}

static void check(struct graph *g, const char *when)
{
    size_t dead = 0;

    for (size_t i = 0; i < g->count; i++)
        dead += !g->reached[i];
    check_whole(g);
    CHECK(count_of(&g->group.destroyed) == dead, "%s %llu of %zu were destroyed, not %zu", when,
          (unsigned long long)count_of(&g->group.destroyed), g->count, dead);
}

/* Those to what is reached are as they were; `only`: and all others are cleared. */
static void check_refs(const struct graph *g, bool only)
{
    for (size_t i = 0; i < REFS; i++) {
        struct node *node = ouro_weakref_get(g->refs[i]);
        bool reached = g->reached[g->referred[i]];

        if (only)
            CHECK(!node || reached, "a weak reference to garbage was not cleared");
        else
            CHECK(node || !reached, "a weak reference to what is reached was cleared");
        if (node)
            ouro_decref(node);
        else
            count_up(&cleared);
    }
}

/* By who collects, when helpers have been woken. */
static void await_first(void)
{
    uint64_t until = now_ns() + PATIENCE_NS;

    if (!atomic_load_explicit(&calm, memory_order_relaxed) && one_in(&waiting, 2))
        return;
    while (parallel_present() == 0 && now_ns() < until)
        sched_yield();
}

static void collect_in_slices(struct random *random)
{
    const struct sets_limit limit = {.objects = 20 + random_below(random, 1000), .cap = 256};

    do
        ouro_collect_kind(OURO_GC_YOUNG);
    while (sets_has_new());
    collect_set_limits(&limit);
    while (collect_slice())
        count_up(&slices);
    collect_set_limits(NULL);
}

static void collect(struct random *random)
{
    unsigned choice = random_below(random, 10);

    ouro_gc_set_helpers(random_below(random, 5));
    if (choice < 2)
        collect_in_slices(random);
    else
        ouro_collect_kind(choice < 6 ? OURO_GC_FULL : OURO_GC_DEEP);
    count_up(&collections);
}

/* Saved, or frozen, all of it is there afterwards, and the next collection finds it. */
static void collect_in_vain(struct graph *g, struct random *random)
{
    uint64_t destroyed = count_of(&g->group.destroyed);

    if (one_in(random, 2)) {
        ouro_gc_set_debug(OURO_GC_SAVE);
        collect(random);
        ouro_gc_set_debug(0);
        count_up(&saved);
        ouro_gc_drop_saved();
    } else {
        ouro_freeze(0);
        collect(random);
        count_up(&frozen);
        ouro_unfreeze();
    }
    CHECK(count_of(&g->group.destroyed) == destroyed, "saved or frozen, and destroyed");
}

/* What the roots reach, and, until it has been finalized, what garbage with a finalizer reaches. */
static void collect_and_check(struct graph *g, const size_t *roots, size_t count,
                              struct random *random)
{
    size_t due = 0;

    collect(random);
    reach_roots(g, roots, count);
    check_refs(g, false);
    for (size_t i = 0; i < g->count; i++) {
        if (g->kinds[i] == FINAL && !g->reached[i] && !g->finalized[i]) {
            g->finalized[i] = true;
            g->due[due++] = (uint32_t)i;
        }
    }
    for (size_t i = 0; i < due; i++)
        reach(g, g->due[i]);
    check_refs(g, true);
    check(g, "before finalizers");
    CHECK(count_of(&g->group.finalized) == 0, "a finalizer has run unasked");
    /* What was queued is held until it has been finalized. */
    while (ouro_run_finalizers() > 0)
        collect(random);
    CHECK(count_of(&g->group.finalized) == due, "%llu finalizers have run, not %zu",
          (unsigned long long)count_of(&g->group.finalized), due);
    atomic_fetch_add_explicit(&finalized, due, memory_order_relaxed);
    atomic_store_explicit(&g->group.finalized, 0, memory_order_relaxed);
    reach_roots(g, roots, count);
    check(g, "after finalizers");
}

/* All of it is alive, and one node beside it is garbage: who is counted twice when he is marked hides it, for nothing else is there
 * that could be found. */
static void find_one(struct random *random)
{
    struct group one = {0};

    atomic_store_explicit(&calm, true, memory_order_relaxed);
    for (int round = 0; round < FIND_ROUNDS; round++) {
        struct node *node = make(&one, PLAIN, 2);

        node->next[0] = node; /* the only reference */
        ouro_gc_set_helpers(1 + random_below(random, 4));
        ouro_collect_kind(OURO_GC_FULL);
        CHECK(count_of(&one.destroyed) == (uint64_t)round + 1, "one node was not found");
    }
    atomic_store_explicit(&calm, false, memory_order_relaxed);
}

/* A root is held by the thread or by an immortal node. */
static void one_graph(struct graph *g, struct random *random)
{
    size_t count = one_in(random, 4) ? 0 : 1 + random_below(random, ROOTS), roots[ROOTS];
    struct node *holder = one_in(random, 2) ? immortals[random_below(random, IMMORTALS)] : NULL;

    fill(g, random);
    for (size_t i = 0; i < count; i++) {
        roots[i] = random_below(random, (uint32_t)g->count);
        struct node *root = ouro_incref(g->nodes[roots[i]]);
        if (holder)
            holder->next[i] = root;
    }
    if (one_in(random, 2))
        collect(random); /* all alive */
    else if (one_in(random, 2))
        find_one(random);
    for (size_t i = 0; i < g->count; i++)
        ouro_decref(g->nodes[i]);
    reach_roots(g, roots, count);
    if (one_in(random, 5))
        collect_in_vain(g, random);
    collect_and_check(g, roots, count, random);
    for (size_t i = 0; i < g->count; i++)
        count_up(g->reached[i] ? &kept : &found);
    for (size_t i = 0; i < count; i++) {
        if (holder)
            holder->next[i] = NULL;
        ouro_decref(g->nodes[roots[i]]);
    }
    collect_and_check(g, roots, 0, random);
    for (size_t i = 0; i < REFS; i++)
        ouro_decref(g->refs[i]);
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
    } else if (choice < 10 && !atomic_load_explicit(&calm, memory_order_relaxed)) {
        struct node *a = make(NULL, PLAIN, 2), *b = make(NULL, PLAIN, 2);

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
        while (!time_is_up())
            stand_by(random);
    }
    leave(random);
}

static bool has_found(void)
{
    return count_of(&slices) > 0 && count_of(&saved) > 0 && count_of(&frozen) > 0 &&
           count_of(&found) > 0 && count_of(&kept) > 0 && count_of(&cleared) > 0 &&
           count_of(&finalized) > 0;
}

static bool is_shown(void)
{
    return has_found() && event_total(EVENT_HELP) > 0 && event_total(EVENT_HELP_PIECE) > 0 &&
           event_total(EVENT_RESCAN) > 0;
}

int main(int argc, char **argv)
{
    stress_begin(argc, argv, "help_mark", 3, 6);
    stress_shows(is_shown);
    waiting.state = mix(stress.seed);
    enter("main");
    register_types();
    CHECK(!ouro_finalizer_set_mode(OURO_FINALIZE_ON_REQUEST), "a mode can't be set");
    ouro_gc_disable();
    parallel_set_least(1);
    parallel_set_hooks(await_first, NULL);
    make_immortals();
    run_threads(0, stress.threads, 1, body, NULL);
    ouro_collect_kind(OURO_GC_FULL);
    ouro_memory memory;
    ouro_memory_stats(&memory);
    CHECK(memory.objects == IMMORTALS, "%zu objects are left", (size_t)memory.objects);
    ouro_thread_unregister();
    stress_value("graphs", count_of(&graphs));
    stress_value("collections", count_of(&collections));
    stress_value("slices", count_of(&slices));
    stress_value("saved", count_of(&saved));
    stress_value("frozen", count_of(&frozen));
    stress_value("found", count_of(&found));
    stress_value("kept", count_of(&kept));
    stress_value("cleared", count_of(&cleared));
    stress_value("finalized", count_of(&finalized));
    CHECK(has_found(), "nothing was cut, saved, frozen, found, kept, cleared or finalized");
    stress_event(EVENT_HELP, 1);
    stress_event(EVENT_HELP_PIECE, 1);
    stress_event(EVENT_HELP_LATE, 0);
    stress_event(EVENT_RESCAN, 1);
    stress_end();
    return 0;
}
