/*
 * bench_alloc.c - what objects cost: making and dropping them, one at a time, in batches, as trees,
 * and by another thread; and the memory that they take.
 *
 * The peers are malloc and free, of mimalloc if it is installed and of glibc, of a node of the same
 * 32 bytes: 16 of a header, which is written, and two fields, which are zeroed. To drop a node they
 * decrement its count atomically and test it; they don't look at the fields, as Ouro does. No
 * collection runs by itself unless a line says so. Each run has a process of its own, so that no
 * peer finds memory that another, or another workload, has left in disorder.
 */
#include "bench.h"

#include <dlfcn.h>
#include <ouro.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#if __has_include(<mimalloc.h>)
#include <mimalloc.h>
#define HAVE_MIMALLOC 1
#define MISSING       ""
#else
#define HAVE_MIMALLOC 0
#define MISSING       "; mimalloc is not there"
#endif

#define INLINE static inline __attribute__((always_inline))

struct node {
    ouro_header ouro;
    struct node *left, *right;
};

/* The peers' node. */
struct counted {
    uint32_t count, rest[3];
    struct counted *left, *right;
};

_Static_assert(sizeof(struct node) == sizeof(struct counted), "peers of the same size");
_Static_assert(offsetof(struct node, left) == offsetof(struct counted, left), "the same fields");

/* --- the allocators, each as two functions that are expanded where they are used -------------- */

typedef void *make_function(void);
typedef void drop_function(void *node);

static const ouro_type *node_type;

INLINE void *make_ouro(void)
{
    void *node = ouro_new(node_type);

    if (!node)
        bench_fail("out of memory");
    return node;
}

INLINE void drop_ouro(void *node)
{
    ouro_decref((struct node *)node);
}

INLINE void *fill_counted(struct counted *node)
{
    if (!node)
        bench_fail("out of memory");
    *node = (struct counted){.count = 1};
    return node;
}

INLINE bool is_last(struct counted *node)
{
    return __atomic_fetch_sub(&node->count, 1, __ATOMIC_ACQ_REL) == 1;
}

#if HAVE_MIMALLOC

INLINE void *make_mimalloc(void)
{
    return fill_counted(mi_malloc(sizeof(struct counted)));
}

INLINE void drop_mimalloc(void *node)
{
    if (is_last(node))
        mi_free(node);
}

#endif

/* Linked mimalloc stands in for malloc itself, so glibc's is looked up in its own library. */
static void *(*glibc_malloc)(size_t bytes);
static void (*glibc_free)(void *block);

static void find_glibc(void)
{
    void *library = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);

    if (!library)
        bench_fail("can't find libc.so.6");
    *(void **)&glibc_malloc = dlsym(library, "malloc");
    *(void **)&glibc_free = dlsym(library, "free");
    if (!glibc_malloc || !glibc_free)
        bench_fail("can't find malloc in libc.so.6");
    glibc_free(glibc_malloc(1)); /* its handling of fork() relies on having been used before */
}

INLINE void *make_glibc(void)
{
    return fill_counted(glibc_malloc(sizeof(struct counted)));
}

INLINE void drop_glibc(void *node)
{
    if (is_last(node))
        glibc_free(node);
}

/* --- threads and Ouro ------------------------------------------------------------------------- */

/* Any thread in any state may do this; here main(), before it makes processes. */
static void register_type(void)
{
    static const uint16_t fields[] = {OURO_FIELD(struct node, left),
                                      OURO_FIELD(struct node, right)};
    static const ouro_type_spec spec = {
        .name = "node", .size = sizeof(struct node), .fields = fields, .field_count = 2};

    if (ouro_type_register(&spec, &node_type))
        bench_fail("can't register a type");
}

static void register_self(void)
{
    if (ouro_thread_register("bench"))
        bench_fail("can't register a thread");
}

/* A loop that one thread runs, or each of several at once. */
struct job {
    size_t threads;
    size_t size;
    double (*loop)(size_t size);
    bool collect; /* with automatic collections */
};

/* The loop runs twice. The first is not counted, and leaves the memory that the second uses. */
static double run_warm(const struct job *job)
{
    job->loop(job->size);
    return job->loop(job->size);
}

static double peer_thread(struct bench_start *start, size_t index, void *argument)
{
    const struct job *job = argument;

    (void)index;
    job->loop(job->size);
    bench_ready(start);
    return job->loop(job->size);
}

static double ouro_thread(struct bench_start *start, size_t index, void *argument)
{
    double figure;

    register_self();
    figure = peer_thread(start, index, argument);
    ouro_thread_unregister();
    return figure;
}

static void run_peer(void *argument, double *figures)
{
    const struct job *job = argument;

    figures[0] = job->threads == 1 ? run_warm(job)
                                   : bench_parallel_mean(job->threads, peer_thread, argument);
}

static void run_ouro(void *argument, double *figures)
{
    const struct job *job = argument;

    register_self();
    if (!job->collect)
        ouro_gc_disable();
    figures[0] = job->threads == 1 ? run_warm(job)
                                   : bench_parallel_mean(job->threads, ouro_thread, argument);
}

static double ns_each(uint64_t start, size_t count)
{
    return (double)(bench_now_ns() - start) / (double)count;
}

/* Expands a loop for the three allocators. */
#if HAVE_MIMALLOC
#define EXPAND_MIMALLOC(loop)                            \
    static double loop##_mimalloc(size_t size)           \
    {                                                    \
        return loop(make_mimalloc, drop_mimalloc, size); \
    }
#else
#define EXPAND_MIMALLOC(loop)
#endif
#define EXPAND(loop)                               \
    static double loop##_ouro(size_t size)         \
    {                                              \
        return loop(make_ouro, drop_ouro, size);   \
    }                                              \
    EXPAND_MIMALLOC(loop)                          \
    static double loop##_glibc(size_t size)        \
    {                                              \
        return loop(make_glibc, drop_glibc, size); \
    }

/* Compares what EXPAND(loop) has made; mimalloc is the reference if it is there. */
#if HAVE_MIMALLOC
#define COMPARE(workload, loop, thread_count, job_size) \
    compare((workload), (thread_count), (job_size), loop##_mimalloc, loop##_ouro, loop##_glibc)
#else
#define COMPARE(workload, loop, thread_count, job_size) \
    compare((workload), (thread_count), (job_size), NULL, loop##_ouro, loop##_glibc)
#endif

static void compare(const char *name, size_t threads, size_t size, double (*mimalloc)(size_t),
                    double (*ouro)(size_t), double (*glibc)(size_t))
{
    struct bench_workload workload = {.figure = {{name, "ns"}}, .child = true};
    struct job jobs[] = {{threads, size, mimalloc, false},
                         {threads, size, ouro, false},
                         {threads, size, glibc, false}};
    struct bench_peer peers[] = {{"mimalloc, atomic count", run_peer, &jobs[0]},
                                 {"ouro", run_ouro, &jobs[1]},
                                 {"glibc, atomic count", run_peer, &jobs[2]}};

    bench_compare(&workload, mimalloc ? peers : peers + 1, mimalloc ? 3 : 2);
}

/* --- one node at a time, and batches ---------------------------------------------------------- */

INLINE double one_by_one(make_function *make, drop_function *drop, size_t size)
{
    uint64_t start = bench_now_ns();

    for (size_t i = 0; i < size; i++) {
        void *node = make();

        bench_keep(node);
        drop(node);
    }
    return ns_each(start, size);
}

EXPAND(one_by_one)

/* Room for the pointers of a batch, and an order in which to drop them. */
enum { BATCH_MAX = 100000 };
static void **batch;
static void **batch_order; /* indices, as pointers into batch */
static bool batch_shuffled;

/* Batches of `size` nodes, until enough nodes have been made. */
INLINE double batches(make_function *make, drop_function *drop, size_t size)
{
    size_t rounds = bench_size(5000000, 500000) / size;
    uint64_t start = bench_now_ns();

    for (size_t round = 0; round < rounds; round++) {
        for (size_t i = 0; i < size; i++)
            batch[i] = make();
        if (batch_shuffled) {
            for (size_t i = 0; i < size; i++)
                drop(*(void **)batch_order[i]);
        } else {
            for (size_t i = 0; i < size; i++)
                drop(batch[i]);
        }
    }
    return ns_each(start, rounds * size);
}

EXPAND(batches)

static void compare_batches(void)
{
    static const struct {
        const char *in_order, *shuffled;
        size_t size;
    } kinds[] = {{"1,000 new, then dropped in order", "the same in random order", 1000},
                 {"100,000 new, then dropped in order", "the same in random order", BATCH_MAX}};

    batch = bench_pointers(BATCH_MAX);
    batch_order = bench_pointers(BATCH_MAX);
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        for (size_t i = 0; i < kinds[k].size; i++)
            batch_order[i] = &batch[i];
        bench_shuffle(batch_order, kinds[k].size, 1);
        batch_shuffled = false;
        COMPARE(kinds[k].in_order, batches, 1, kinds[k].size);
        batch_shuffled = true;
        COMPARE(kinds[k].shuffled, batches, 1, kinds[k].size);
    }
    bench_pointers_free(batch, BATCH_MAX);
    bench_pointers_free(batch_order, BATCH_MAX);
}

/* --- memory of live nodes --------------------------------------------------------------------- */

/* Makes a list of nodes and returns the bytes by which the process has grown, for each. */
INLINE double grow(make_function *make, drop_function *drop, size_t size)
{
    double before = bench_resident_bytes();
    struct counted *list = NULL;

    (void)drop; /* the process ends */
    for (size_t i = 0; i < size; i++) {
        struct counted *node = make();

        node->left = list;
        list = node;
    }
    bench_keep(list);
    return (bench_resident_bytes() - before) / (double)size;
}

/* The same for Ouro, whose nodes are of another type. */
static double grow_ouro(size_t size, double *said_to_grow)
{
    ouro_memory before_stats, stats;
    double before;
    struct node *list = NULL;

    register_self();
    ouro_gc_disable();
    ouro_memory_stats(&before_stats);
    before = bench_resident_bytes();
    for (size_t i = 0; i < size; i++) {
        struct node *node = make_ouro();

        node->left = list;
        list = node;
    }
    bench_keep(list);
    before = bench_resident_bytes() - before;
    ouro_memory_stats(&stats);
    if (stats.objects - before_stats.objects != size)
        bench_fail("objects are missing");
    *said_to_grow = (double)(stats.page_bytes + stats.metadata_bytes - before_stats.page_bytes -
                             before_stats.metadata_bytes) /
                    (double)size;
    return before / (double)size;
}

static size_t live_nodes(void)
{
    return bench_size(5000000, 500000);
}

static void run_memory_ouro(void *argument, double *figures)
{
    (void)argument;
    figures[0] = grow_ouro(live_nodes(), &figures[1]);
}

#if HAVE_MIMALLOC
static void run_memory_mimalloc(void *argument, double *figures)
{
    (void)argument;
    figures[0] = grow(make_mimalloc, drop_mimalloc, live_nodes());
}
#endif

static void run_memory_glibc(void *argument, double *figures)
{
    (void)argument;
    figures[0] = grow(make_glibc, drop_glibc, live_nodes());
}

static void compare_memory(void)
{
    static const struct bench_workload workload = {
        .figure = {{"memory of a live node, resident", "bytes"},
                   {"same, pages and metadata by its own account", "bytes"}},
        .child = true,
        .runs = 3};
    static const struct bench_peer peers[] = {
#if HAVE_MIMALLOC
        {"mimalloc", run_memory_mimalloc, NULL},
#endif
        {"ouro", run_memory_ouro, NULL},
        {"glibc", run_memory_glibc, NULL}
    };

    bench_compare(&workload, peers, sizeof peers / sizeof *peers);
}

/* --- binary trees ----------------------------------------------------------------------------- */

enum { TREE_DEPTH = 16 };

static struct node *ouro_tree(unsigned depth)
{
    struct node *node = make_ouro();

    if (depth) {
        node->left = ouro_tree(depth - 1);
        node->right = ouro_tree(depth - 1);
    }
    return node;
}

static size_t count_ouro_tree(const struct node *node)
{
    return node ? 1 + count_ouro_tree(node->left) + count_ouro_tree(node->right) : 0;
}

/* Builds, counts and drops trees while one of the same size lives; ms for all. */
static double trees_ouro(size_t size)
{
    struct node *long_lived = ouro_tree(TREE_DEPTH);
    uint64_t start = bench_now_ns();
    double ms;

    for (size_t i = 0; i < size; i++) {
        struct node *tree = ouro_tree(TREE_DEPTH);

        ouro_safepoint();
        if (count_ouro_tree(tree) != (2u << TREE_DEPTH) - 1)
            bench_fail("a tree is wrong");
        ouro_decref(tree);
    }
    ms = (double)(bench_now_ns() - start) / 1e6;
    ouro_decref(long_lived);
    return ms;
}

INLINE struct counted *new_counted(make_function *make)
{
    return make();
}

static size_t count_peer_tree(const struct counted *node)
{
    return node ? 1 + count_peer_tree(node->left) + count_peer_tree(node->right) : 0;
}

/* The peers' trees: recursion to build and, in `free`, to give back, with and without counts. */
#define PEER_TREES(name, make_node, is_dead, give_back)          \
    static struct counted *build_##name(unsigned depth)          \
    {                                                            \
        struct counted *node = make_node();                      \
                                                                 \
        if (depth) {                                             \
            node->left = build_##name(depth - 1);                \
            node->right = build_##name(depth - 1);               \
        }                                                        \
        return node;                                             \
    }                                                            \
    static void drop_##name(struct counted *node)                \
    {                                                            \
        if (node && is_dead(node)) {                             \
            drop_##name(node->left);                             \
            drop_##name(node->right);                            \
            give_back(node);                                     \
        }                                                        \
    }                                                            \
    static double trees_##name(size_t size)                      \
    {                                                            \
        struct counted *long_lived = build_##name(TREE_DEPTH);   \
        uint64_t start = bench_now_ns();                         \
        double ms;                                               \
                                                                 \
        for (size_t i = 0; i < size; i++) {                      \
            struct counted *tree = build_##name(TREE_DEPTH);     \
                                                                 \
            if (count_peer_tree(tree) != (2u << TREE_DEPTH) - 1) \
                bench_fail("a tree is wrong");                   \
            drop_##name(tree);                                   \
        }                                                        \
        ms = (double)(bench_now_ns() - start) / 1e6;             \
        drop_##name(long_lived);                                 \
        return ms;                                               \
    }

INLINE bool always(const struct counted *node)
{
    (void)node;
    return true;
}

#if HAVE_MIMALLOC
INLINE struct counted *new_mimalloc(void)
{
    return new_counted(make_mimalloc);
}
PEER_TREES(mimalloc_plain, new_mimalloc, always, mi_free)
PEER_TREES(mimalloc_atomic, new_mimalloc, is_last, mi_free)
#endif

INLINE struct counted *new_glibc(void)
{
    return new_counted(make_glibc);
}
PEER_TREES(glibc_plain, new_glibc, always, glibc_free)

static void compare_trees(void)
{
    struct bench_workload workload = {
        .figure = {{"binary trees of depth 16, 40 beside a live one", "ms"}}, .child = true};
    size_t trees = bench_size(40, 8);
    struct job jobs[] = {
#if HAVE_MIMALLOC
        {1, trees, trees_mimalloc_plain, false},
        {1, trees, trees_mimalloc_atomic, false},
#endif
        {1, trees, trees_glibc_plain, false},
        {1, trees, trees_ouro, false},
        {1, trees, trees_ouro, true}
    };
    static const char *const names[] = {
#if HAVE_MIMALLOC
        "mimalloc, no counts",
        "mimalloc, atomic counts",
#endif
        "glibc, no counts",
        "ouro",
        "ouro, with automatic collections"
    };
    enum { PEERS = sizeof jobs / sizeof *jobs };
    struct bench_peer peers[PEERS];

    for (size_t threads = 1; threads <= 2; threads++) {
        for (size_t i = 0; i < PEERS; i++) {
            jobs[i].threads = threads;
            peers[i] = (struct bench_peer){names[i], i < PEERS - 2 ? run_peer : run_ouro, &jobs[i]};
        }
        if (bench_quick)
            workload.figure[0].name = "binary trees of depth 16, 8 beside a live one";
        if (threads == 2)
            workload.figure[0].name = "same, two threads, each its own trees";
        bench_compare(&workload, peers, PEERS);
    }
}

/* --- one thread makes, another drops ---------------------------------------------------------- */

enum { RING = 4096, PUBLISH = 64 };

/* A queue with one writer and one reader; each publishes its place every 64 pointers. */
struct ring {
    size_t nodes;                 /* that are to pass */
    bool disown;                  /* Ouro: hand over what nobody owns */
    _Alignas(128) size_t written; /* [atomic] */
    _Alignas(128) size_t read;    /* [atomic] */
    _Alignas(128) void *slots[RING];
};

/* What both do after 64 nodes, and while they wait. */
INLINE void pass_peer(void)
{
}

INLINE void pass_ouro(void)
{
    ouro_safepoint();
}

/* Lets the other one run, if it needs this core. */
INLINE void wait_passing(void (*pass)(void))
{
    pass();
    sched_yield();
}

INLINE void write_ring(struct ring *ring, make_function *make, void (*hand_over)(void *),
                       void (*pass)(void))
{
    size_t written = 0;

    while (written < ring->nodes) {
        while (written - __atomic_load_n(&ring->read, __ATOMIC_ACQUIRE) > RING - PUBLISH)
            wait_passing(pass);
        for (size_t i = 0; i < PUBLISH; i++, written++) {
            void *node = make();

            hand_over(node);
            ring->slots[written % RING] = node;
        }
        __atomic_store_n(&ring->written, written, __ATOMIC_RELEASE);
        pass();
    }
    while (__atomic_load_n(&ring->read, __ATOMIC_ACQUIRE) < written)
        wait_passing(pass);
}

INLINE void read_ring(struct ring *ring, drop_function *drop, void (*pass)(void))
{
    size_t read = 0;

    while (read < ring->nodes) {
        while (__atomic_load_n(&ring->written, __ATOMIC_ACQUIRE) == read)
            wait_passing(pass);
        for (size_t i = 0; i < PUBLISH; i++, read++)
            drop(ring->slots[read % RING]);
        __atomic_store_n(&ring->read, read, __ATOMIC_RELEASE);
        pass();
    }
}

INLINE void keep(void *node)
{
    bench_keep(node);
}

INLINE void disown(void *node)
{
    if (!ouro_disown((struct node *)node))
        bench_fail("can't disown a node");
}

static double ring_ouro(struct bench_start *start, size_t index, void *argument)
{
    struct ring *ring = argument;
    uint64_t begin;

    register_self();
    bench_ready(start);
    begin = bench_now_ns();
    if (index)
        read_ring(ring, drop_ouro, pass_ouro);
    else if (ring->disown)
        write_ring(ring, make_ouro, disown, pass_ouro);
    else
        write_ring(ring, make_ouro, keep, pass_ouro);
    ouro_thread_unregister(); /* takes in what is left in the inbox */
    return ns_each(begin, ring->nodes);
}

#if HAVE_MIMALLOC
static double ring_mimalloc(struct bench_start *start, size_t index, void *argument)
{
    struct ring *ring = argument;
    uint64_t begin;

    bench_ready(start);
    begin = bench_now_ns();
    if (index)
        read_ring(ring, drop_mimalloc, pass_peer);
    else
        write_ring(ring, make_mimalloc, keep, pass_peer);
    return ns_each(begin, ring->nodes);
}
#endif

static double ring_glibc(struct bench_start *start, size_t index, void *argument)
{
    struct ring *ring = argument;
    uint64_t begin;

    bench_ready(start);
    begin = bench_now_ns();
    if (index)
        read_ring(ring, drop_glibc, pass_peer);
    else
        write_ring(ring, make_glibc, keep, pass_peer);
    return ns_each(begin, ring->nodes);
}

struct ring_job {
    bench_thread body;
    bool disown;
};

/* The writer's time, which ends after the reader's last drop. */
static void run_ring(void *argument, double *figures)
{
    static struct ring ring;
    const struct ring_job *job = argument;
    double results[2];

    ring.nodes = bench_size(4000000, 400000) / PUBLISH * PUBLISH;
    ring.disown = job->disown;
    ring.written = ring.read = 0;
    bench_parallel(2, job->body, &ring, results);
    figures[0] = results[0];
}

static void compare_ring(void)
{
    static const struct bench_workload workload = {
        .figure = {{"one thread makes, another drops, a node", "ns"}}, .child = true};
    static struct ring_job jobs[] = {
#if HAVE_MIMALLOC
        {ring_mimalloc, false},
#endif
        {ring_ouro, true},
        {ring_ouro, false},
        {ring_glibc, false}
    };
    static const char *const names[] = {
#if HAVE_MIMALLOC
        "mimalloc, atomic count",
#endif
        "ouro, disowned",
        "ouro, owned: through the inbox",
        "glibc, atomic count"
    };
    enum { PEERS = sizeof jobs / sizeof *jobs };
    struct bench_peer peers[PEERS];

    for (size_t i = 0; i < PEERS; i++)
        peers[i] = (struct bench_peer){names[i], run_ring, &jobs[i]};
    bench_compare(&workload, peers, PEERS);
}

int main(int argc, char **argv)
{
    size_t one_by_one_nodes;

    bench_begin(argc, argv, 7,
                "a node: 32 bytes, of which two fields; one thread unless a line says two" MISSING);
    find_glibc();
    register_type();
    compare_memory();
    one_by_one_nodes = bench_size(20000000, 2000000);
    COMPARE("new+drop of a node", one_by_one, 1, one_by_one_nodes);
    COMPARE("same, two threads, each", one_by_one, 2, one_by_one_nodes);
    compare_batches();
    compare_trees();
    compare_ring();
    return 0;
}
