/*
 * bench_collect.c - what the cycle collector costs: collecting a heap that is all alive, alone and with
 * a stopped thread that helps, garbage in pairs, and the stops that another thread sees while pairs are made and dropped.
 *
 * The peer is bdwgc with one marker, if it is installed: a conservative collector without counts,
 * which is given nodes of the same 32 bytes. Each run of a peer has a process of its own.
 */
#include "bench.h"

#include <ouro.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#if __has_include(<gc.h>)
#define GC_THREADS
#define GC_NO_THREAD_REDIRECTS
#include <gc.h>
#define HAVE_BDWGC 1
#define MISSING    ""
#else
#define HAVE_BDWGC 0
#define MISSING    "; bdwgc is not there"
#endif

#define INLINE static inline __attribute__((always_inline))

/* Both peers use these; to bdwgc the header is 16 bytes without pointers. */
struct node {
    ouro_header ouro;
    struct node *left, *right;
};

enum { CHUNK = 1000 };

struct chunk {
    ouro_header ouro;
    struct chunk *next;
    struct node *items[CHUNK];
};

static const ouro_type *node_type, *chunk_type;

static size_t node_count(void)
{
    return bench_size(5000000, 500000) / CHUNK * CHUNK;
}

/* --- the two heaps, each as functions that are expanded where they are used ------------------- */

typedef void *make_function(void);
typedef void hold_function(void *node);

static void chunk_visit(void *self, ouro_visitor *visitor)
{
    struct chunk *chunk = self;

    ouro_visit(visitor, &chunk->next);
    ouro_visit_array(visitor, chunk->items, CHUNK);
}

static void register_self(void)
{
    static const uint16_t fields[] = {OURO_FIELD(struct node, left),
                                      OURO_FIELD(struct node, right)};
    static const ouro_type_spec node_spec = {
        .name = "node", .size = sizeof(struct node), .fields = fields, .field_count = 2};
    static const ouro_type_spec chunk_spec = {.name = "chunk",
                                              .size = sizeof(struct chunk),
                                              .visit = chunk_visit};

    if (ouro_thread_register("bench"))
        bench_fail("can't register a thread");
    if (!node_type && (ouro_type_register(&node_spec, &node_type) ||
                       ouro_type_register(&chunk_spec, &chunk_type)))
        bench_fail("can't register a type");
}

INLINE void *checked(void *block)
{
    if (!block)
        bench_fail("out of memory");
    return block;
}

INLINE void *make_ouro(void)
{
    return checked(ouro_new(node_type));
}

INLINE void *make_ouro_chunk(void)
{
    return checked(ouro_new(chunk_type));
}

INLINE void hold_ouro(void *node)
{
    ouro_incref((struct node *)node);
}

INLINE void drop_ouro(void *node)
{
    ouro_decref((struct node *)node);
}

INLINE void pass_ouro(void)
{
    ouro_safepoint();
}

#if HAVE_BDWGC

INLINE void *make_bdwgc(void)
{
    return checked(GC_malloc(sizeof(struct node)));
}

INLINE void *make_bdwgc_chunk(void)
{
    return checked(GC_malloc(sizeof(struct chunk)));
}

INLINE void pass_bdwgc(void)
{
}

/* bdwgc counts nothing. */
INLINE void ignore(void *node)
{
    (void)node;
}

static void begin_bdwgc(void)
{
    if (setenv("GC_MARKERS", "1", 1))
        bench_fail("can't set GC_MARKERS");
    GC_INIT();
    GC_allow_register_threads();
}

#endif

/* --- a heap that is all alive ----------------------------------------------------------------- */

/* What keeps the graph alive; bdwgc finds it among the static data. */
static struct node *root_node;
static struct chunk *root_chunks;

/* A balanced tree, made from the root down, left before right. */
#define TREE(name, make)                      \
    static struct node *name(size_t count)    \
    {                                         \
        struct node *node;                    \
        size_t left = (count - 1) / 2;        \
                                              \
        if (!count)                           \
            return NULL;                      \
        node = make();                        \
        node->left = name(left);              \
        node->right = name(count - 1 - left); \
        return node;                          \
    }

TREE(tree_ouro, make_ouro)
#if HAVE_BDWGC
TREE(tree_bdwgc, make_bdwgc)
#endif

/* Nodes in the order in which they were made. */
INLINE void **make_all(make_function *make, size_t count)
{
    void **nodes = bench_pointers(count);

    for (size_t i = 0; i < count; i++)
        nodes[i] = make();
    return nodes;
}

/* The nodes are made first, then linked to a tree as if in another order. */
INLINE void build_shuffled_tree(make_function *make, size_t count)
{
    void **nodes = make_all(make, count);

    bench_shuffle(nodes, count, 1);
    for (size_t i = 0; i < count; i++) {
        struct node *node = nodes[i];

        if (2 * i + 1 < count)
            node->left = nodes[2 * i + 1];
        if (2 * i + 2 < count)
            node->right = nodes[2 * i + 2];
    }
    root_node = nodes[0];
    bench_pointers_free(nodes, count);
}

/* Each field refers to a node that is picked at random. Returns all nodes, with the reference that
 * came with each. */
INLINE void **build_random_graph(make_function *make, hold_function *hold, size_t count)
{
    void **nodes = make_all(make, count);
    uint64_t seed = 1;

    for (size_t i = 0; i < count; i++) {
        struct node *node = nodes[i];

        node->left = nodes[bench_random(&seed) % count];
        hold(node->left);
        node->right = nodes[bench_random(&seed) % count];
        hold(node->right);
    }
    return nodes;
}

/* Hands the references over to objects that are arrays of 1,000. */
INLINE void keep_in_chunks(make_function *make_chunk, void **nodes, size_t count)
{
    for (size_t i = 0; i < count; i += CHUNK) {
        struct chunk *chunk = make_chunk();

        for (size_t j = 0; j < CHUNK; j++)
            chunk->items[j] = nodes[i + j];
        chunk->next = root_chunks;
        root_chunks = chunk;
    }
    bench_pointers_free(nodes, count);
}

INLINE void build_list(make_function *make, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct node *node = make();

        node->left = root_node;
        root_node = node;
    }
}

enum shape { TREE_IN_ORDER, TREE_SHUFFLED, RANDOM_IN_CHUNKS, RANDOM_FROM_C, LIST };

static void build_ouro(enum shape shape, size_t count)
{
    switch (shape) {
    case TREE_IN_ORDER:
        root_node = tree_ouro(count);
        break;
    case TREE_SHUFFLED:
        build_shuffled_tree(make_ouro, count);
        break;
    case RANDOM_IN_CHUNKS:
        keep_in_chunks(make_ouro_chunk, build_random_graph(make_ouro, hold_ouro, count), count);
        break;
    case RANDOM_FROM_C:
        build_random_graph(make_ouro, hold_ouro, count); /* which nobody gives up */
        break;
    case LIST:
        build_list(make_ouro, count);
        break;
    }
}

static void collect_live_ouro(void *argument, double *figures)
{
    size_t count = node_count();
    uint64_t start;

    register_self();
    ouro_gc_disable();
    build_ouro(*(const enum shape *)argument, count);
    ouro_collect_kind(OURO_GC_FULL); /* not counted */
    start = bench_now_ns();
    if (ouro_collect_kind(OURO_GC_FULL))
        bench_fail("live nodes were collected");
    figures[0] = (double)(bench_now_ns() - start) / (double)count;
}

#if HAVE_BDWGC

static void build_bdwgc(enum shape shape, size_t count)
{
    void **nodes;

    switch (shape) {
    case TREE_IN_ORDER:
        root_node = tree_bdwgc(count);
        break;
    case TREE_SHUFFLED:
        build_shuffled_tree(make_bdwgc, count);
        break;
    case RANDOM_IN_CHUNKS:
        keep_in_chunks(make_bdwgc_chunk, build_random_graph(make_bdwgc, ignore, count), count);
        break;
    case RANDOM_FROM_C:
        nodes = build_random_graph(make_bdwgc, ignore, count);
        GC_add_roots(nodes, nodes + count);
        break;
    case LIST:
        build_list(make_bdwgc, count);
        break;
    }
}

static void collect_live_bdwgc(void *argument, double *figures)
{
    size_t count = node_count();
    uint64_t start;

    begin_bdwgc();
    GC_disable();
    build_bdwgc(*(const enum shape *)argument, count);
    GC_enable();
    GC_gcollect(); /* not counted */
    start = bench_now_ns();
    GC_gcollect();
    figures[0] = (double)(bench_now_ns() - start) / (double)count;
}

#endif

static void compare_live(void)
{
    static const char *const names[] = {[TREE_IN_ORDER] = "collect a live tree, a node",
                                        [TREE_SHUFFLED] = "same, tree in shuffled memory",
                                        [RANDOM_IN_CHUNKS] = "same, random graph, held by objects",
                                        [RANDOM_FROM_C] =
                                            "same, random graph, each node held from C",
                                        [LIST] = "same, list"};

    for (enum shape shape = TREE_IN_ORDER; shape <= LIST; shape++) {
        const struct bench_workload workload = {.figure = {{names[shape], "ns"}}, .child = true};
        const struct bench_peer peers[] = {
#if HAVE_BDWGC
            {"bdwgc, one marker", collect_live_bdwgc, &shape},
#endif
            {"ouro", collect_live_ouro, &shape}
        };

        bench_compare(&workload, peers, sizeof peers / sizeof *peers);
    }
}

/* --- the same with a stopped thread that helps -------------------------------------------------- */

enum { HUB = LIST + 1 }; /* one object of a field for each node, and a reference back from each */

struct shared {
    int shape;
    unsigned helpers;
};

struct hub {
    ouro_header ouro;
    size_t count;
    struct node *items[];
};

static void hub_visit(void *self, ouro_visitor *visitor)
{
    struct hub *hub = self;

    ouro_visit_array(visitor, hub->items, hub->count);
}

static void build_hub(size_t count)
{
    static const ouro_type_spec spec = {.name = "hub",
                                        .size = sizeof(struct hub),
                                        .item_size = sizeof(struct node *),
                                        .visit = hub_visit};
    const ouro_type *type;

    if (ouro_type_register(&spec, &type))
        bench_fail("can't register a type");
    struct hub *hub = checked(ouro_new_array(type, count));
    hub->count = count;
    for (size_t i = 0; i < count; i++) {
        hub->items[i] = make_ouro();
        hub->items[i]->left = (struct node *)(void *)hub;
        hold_ouro(hub);
    }
    root_node = (struct node *)(void *)hub;
}

static bool bystander_runs, bystander_ends; /* [atomic] */

static void *stand_by(void *unused)
{
    register_self();
    __atomic_store_n(&bystander_runs, true, __ATOMIC_RELEASE);
    while (!__atomic_load_n(&bystander_ends, __ATOMIC_ACQUIRE))
        ouro_safepoint();
    ouro_thread_unregister();
    return unused;
}

static int compare_figures(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* In pauses: what the collector does while the other thread is stopped. */
static double pause_of(ouro_gc_kind kind, size_t count)
{
    ouro_gc_stats before, after;

    ouro_gc_get_stats(&before);
    if (ouro_collect_kind(kind))
        bench_fail("live nodes were collected");
    ouro_gc_get_stats(&after);
    return (double)(after.pause_ns_total - before.pause_ns_total) / (double)count;
}

static void collect_shared(void *argument, double *figures)
{
    const struct shared *shared = argument;
    size_t count = node_count();
    double full[7];
    pthread_t bystander;

    register_self();
    ouro_gc_disable();
    ouro_gc_set_helpers(shared->helpers);
    if (shared->shape == HUB)
        build_hub(count);
    else
        build_ouro((enum shape)shared->shape, count);
    if (pthread_create(&bystander, NULL, stand_by, NULL))
        bench_fail("can't start a thread");
    while (!__atomic_load_n(&bystander_runs, __ATOMIC_ACQUIRE))
        ouro_safepoint();
    figures[1] = pause_of(OURO_GC_DEEP, count);
    for (size_t i = 0; i < 7; i++)
        full[i] = pause_of(OURO_GC_FULL, count);
    qsort(full, 7, sizeof *full, compare_figures);
    figures[0] = full[3];
    __atomic_store_n(&bystander_ends, true, __ATOMIC_RELEASE);
    OURO_DETACHED
    {
        pthread_join(bystander, NULL);
    }
}

static void compare_shared(void)
{
    static const char *const names[] = {[TREE_IN_ORDER] = "pause for a live tree, a node",
                                        [TREE_SHUFFLED] = "same, tree in shuffled memory",
                                        [RANDOM_IN_CHUNKS] = "same, random graph, held by objects",
                                        [RANDOM_FROM_C] =
                                            "same, random graph, each node held from C",
                                        [LIST] = "same, list",
                                        [HUB] = "same, one object that refers to all nodes"};

    for (int shape = TREE_IN_ORDER; shape <= HUB; shape++) {
        const struct bench_workload workload = {
            .figure = {{names[shape], "ns"}, {"  deep, all of it new", "ns"}}, .child = true};
        struct shared alone = {shape, 0}, helped = {shape, 1};
        const struct bench_peer peers[] = {{"ouro, alone", collect_shared, &alone},
                                           {"ouro, a stopped thread helps", collect_shared,
                                            &helped}};

        bench_compare(&workload, peers, sizeof peers / sizeof *peers);
    }
}

/* --- garbage in pairs ------------------------------------------------------------------------- */

/* Two nodes that refer to each other, and that nothing else refers to. */
INLINE void make_pair(make_function *make, hold_function *hold, hold_function *drop)
{
    struct node *a = make(), *b = make();

    hold(b);
    a->left = b;
    hold(a);
    b->left = a;
    drop(a);
    drop(b);
}

/* Two rounds. The second counts, in memory that the first has used: bdwgc sweeps it only then. */
static void collect_pairs_ouro(void *argument, double *figures)
{
    size_t count = node_count();

    (void)argument;
    register_self();
    ouro_gc_disable();
    for (int round = 0; round < 2; round++) {
        uint64_t start = bench_now_ns(), made;
        ouro_gc_stats before, after;

        for (size_t i = 0; i < count; i += 2)
            make_pair(make_ouro, hold_ouro, drop_ouro);
        ouro_gc_get_stats(&before);
        made = bench_now_ns();
        if (ouro_collect_kind(OURO_GC_FULL) != count)
            bench_fail("garbage was not found");
        figures[0] = (double)(bench_now_ns() - start) / (double)count;
        figures[1] = (double)(bench_now_ns() - made) / (double)count;
        ouro_gc_get_stats(&after);
        figures[2] = (double)(after.pause_ns_total - before.pause_ns_total) / (double)count;
    }
}

#if HAVE_BDWGC
static void collect_pairs_bdwgc(void *argument, double *figures)
{
    size_t count = node_count();

    (void)argument;
    begin_bdwgc();
    GC_disable();
    for (int round = 0; round < 2; round++) {
        uint64_t start = bench_now_ns();

        for (size_t i = 0; i < count; i += 2)
            make_pair(make_bdwgc, ignore, ignore);
        GC_enable();
        GC_gcollect();
        GC_disable();
        figures[0] = (double)(bench_now_ns() - start) / (double)count;
    }
}
#endif

static void compare_pairs(void)
{
    static const struct bench_workload workload = {
        .figure = {{"garbage pairs: made, collected; a node", "ns"},
                   {"  of it the collection (making not counted)", "ns"},
                   {"  of it while the world was stopped", "ns"}},
        .child = true};
    static const struct bench_peer peers[] = {
#if HAVE_BDWGC
        {"bdwgc, one marker", collect_pairs_bdwgc, NULL},
#endif
        {"ouro", collect_pairs_ouro, NULL}
    };

    bench_compare(&workload, peers, sizeof peers / sizeof *peers);
}

/* --- pairs made and dropped, seen from another thread ----------------------------------------- */

struct churn {
    size_t pairs;
    size_t live; /* nodes of a tree that lives all the time */
    bool linked; /* if not, nothing has to be collected: what the machine itself does to a clock */
    bool finished; /* [atomic] */
};

/* Thread 1: looks at the clock until the other has finished, and returns the longest gap in ms. */
INLINE double watch(struct churn *churn, void (*pass)(void))
{
    uint64_t last = bench_now_ns(), longest = 0;

    while (!__atomic_load_n(&churn->finished, __ATOMIC_ACQUIRE)) {
        uint64_t now;

        pass();
        now = bench_now_ns();
        if (now - last > longest)
            longest = now - last;
        last = now;
    }
    return (double)longest / 1e6;
}

/* Thread 0: millions of pairs a second. */
INLINE double make_pairs(struct churn *churn, make_function *make, hold_function *hold,
                         hold_function *drop, void (*pass)(void))
{
    uint64_t start = bench_now_ns();

    for (size_t i = 0; i < churn->pairs; i++) {
        if (churn->linked) {
            make_pair(make, hold, drop);
        } else {
            drop(make());
            drop(make());
        }
        pass();
    }
    start = bench_now_ns() - start;
    __atomic_store_n(&churn->finished, true, __ATOMIC_RELEASE);
    return (double)churn->pairs * 1e3 / (double)start;
}

static double churn_thread_ouro(struct bench_start *start, size_t index, void *argument)
{
    struct churn *churn = argument;
    double figure;

    register_self();
    bench_ready(start);
    if (index)
        figure = watch(churn, pass_ouro);
    else
        figure = make_pairs(churn, make_ouro, hold_ouro, drop_ouro, pass_ouro);
    ouro_thread_unregister();
    return figure;
}

static void churn_ouro(void *argument, double *figures)
{
    struct churn churn = *(const struct churn *)argument;
    ouro_gc_stats before, after;

    register_self();
    if (churn.live) {
        root_node = tree_ouro(churn.live);
        ouro_collect(); /* the threshold depends on what has survived */
    }
    ouro_gc_get_stats(&before);
    if (!churn.linked)
        ouro_gc_disable();
    bench_parallel(2, churn_thread_ouro, &churn, figures);
    ouro_gc_get_stats(&after);
    figures[2] = bench_peak_megabytes();
    if (!churn.linked)
        return;
    if (after.automatic == before.automatic)
        bench_fail("no collection ran by itself");
    if (!churn.live) /* else the greatest is that of the collection above */
        figures[3] = (double)(after.stop_ns_max + after.pause_ns_max) / 1e6;
}

#if HAVE_BDWGC

static double churn_thread_bdwgc(struct bench_start *start, size_t index, void *argument)
{
    struct churn *churn = argument;
    struct GC_stack_base base;
    double figure;

    if (GC_get_stack_base(&base) != GC_SUCCESS || GC_register_my_thread(&base) != GC_SUCCESS)
        bench_fail("can't register a thread with bdwgc");
    bench_ready(start);
    if (index)
        figure = watch(churn, pass_bdwgc);
    else
        figure = make_pairs(churn, make_bdwgc, ignore, ignore, pass_bdwgc);
    GC_unregister_my_thread();
    return figure;
}

static void churn_bdwgc(void *argument, double *figures)
{
    struct churn churn = *(const struct churn *)argument;

    begin_bdwgc();
    if (churn.live) {
        root_node = tree_bdwgc(churn.live);
        GC_gcollect();
    }
    bench_parallel(2, churn_thread_bdwgc, &churn, figures);
    figures[2] = bench_peak_megabytes();
}

#endif

static void compare_churn(void)
{
    static const struct bench_workload workloads[] = {
        {.figure = {{"pairs made and dropped, automatic collection", "M pairs/s"},
                    {"  longest gap that a second thread sees", "ms"},
                    {"  most memory resident", "MiB"},
                    {"  longest stop and pause by its own account", "ms"}},
         .child = true},
        {.figure = {{"same, while as many nodes live as above", "M pairs/s"},
                    {"  longest gap that a second thread sees", "ms"},
                    {"  most memory resident", "MiB"}},
         .child = true}};

    for (int live = 0; live < 2; live++) {
        struct churn pairs = {.linked = true};
        struct churn quiet;

        pairs.pairs = live ? bench_size(5000000, 500000) : bench_size(20000000, 1000000);
        pairs.live = live ? node_count() : 0;
        quiet = pairs;
        quiet.linked = false;
        const struct bench_peer peers[] = {
#if HAVE_BDWGC
            {"bdwgc, one marker", churn_bdwgc, &pairs},
#endif
            {"ouro", churn_ouro, &pairs},
            {"ouro, not linked, so not collected", churn_ouro, &quiet}
        };

        bench_compare(&workloads[live], peers, sizeof peers / sizeof *peers);
    }
}

int main(int argc, char **argv)
{
    bench_begin(argc, argv, 5,
                "5 M nodes of two fields (0.5 M with --quick); one thread, or two where a line "
                "says so" MISSING);
    compare_live();
    compare_shared();
    compare_pairs();
    compare_churn();
    return 0;
}
