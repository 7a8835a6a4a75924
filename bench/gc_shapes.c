/*
 * gc_shapes.c - heaps of known shapes under the collector, one workload a process (--workload):
 *
 *     gcbench    after Boehm, Ellis and Kovac: temporary trees of depths 4 to 16, top-down and bottom-up, beside a
 *                long-lived tree of depth 16 and a long-lived array of 4 MB; each thread its own
 *     trees      40 trees of depth 16, one after the other, beside a long-lived one, each made from the root down, left
 *                before right; each thread its own
 *     trees-up   the same, made from the leaves up
 *     churn      pairs a <-> b made and given up beside a tree of 5 M nodes
 *     usual      the same, but each inner node of the tree has lost a reference once, as when one makes an object,
 *                stores it with a reference and gives up one's own, and nothing has been examined yet; it goes on until
 *                as many objects as live have been examined
 *     unchanged  a tree of 10 M nodes that nobody touches, collected again and again
 *     touched    a tree of --nodes, each of whose nodes has got and lost a reference before each collection
 *     full       a tree of --nodes, all of which are looked at, asked for or not
 *
 * --scale multiplies the amounts. Other shapes of live heaps are in bench_collect.c. Each peer has a process:
 * out/release/bench/gc_shapes_ouro, gc_shapes_bdwgc, gc_shapes_atomic, gc_shapes_plain.
 */
#include "heap.h"

#include <stdio.h>
#include <string.h>

enum { THREADS_MAX = 32 };

static double scale = 1, threads = 1, nodes;
static const char *workload, *name, *dots;

static size_t scaled(double full)
{
    double amount = full * scale;

    return amount < 1 ? 1 : (size_t)amount;
}

/* --- trees ------------------------------------------------------------------------------------ */

/* A safepoint for each 511 nodes, so that nobody who wants to stop all waits for a whole tree. */
static void pass_at(unsigned depth)
{
    if (depth == 8)
        heap_pass();
}

/* Depth 0 is one node. */
static struct node *bottom_up(unsigned depth)
{
    struct node *left = depth ? bottom_up(depth - 1) : NULL;
    struct node *right = depth ? bottom_up(depth - 1) : NULL;
    struct node *node = heap_make();

    pass_at(depth);
    node->left = left;
    node->right = right;
    return node;
}

static struct node *from_the_root(unsigned depth)
{
    struct node *node = heap_make();

    if (depth) {
        node->left = from_the_root(depth - 1);
        node->right = from_the_root(depth - 1);
    }
    pass_at(depth);
    return node;
}

static void grow(struct node *node, unsigned depth)
{
    if (!depth)
        return;
    node->left = heap_make();
    node->right = heap_make();
    grow(node->left, depth - 1);
    grow(node->right, depth - 1);
    pass_at(depth);
}

static struct node *top_down(unsigned depth)
{
    struct node *node = heap_make();

    grow(node, depth);
    return node;
}

/* A balanced tree, made from the root down. */
static struct node *balanced(size_t size)
{
    struct node *node;
    size_t left = (size - 1) / 2;

    if (!size)
        return NULL;
    node = heap_make();
    node->left = balanced(left);
    node->right = balanced(size - 1 - left);
    return node;
}

/* Stores a node with a reference of the field's own, then gives up the caller's. */
static void store(struct node **field, struct node *node)
{
    if (!node)
        return;
    heap_hold(node);
    *field = node;
    heap_drop(node);
}

static struct node *balanced_in_the_usual_way(size_t size)
{
    struct node *node;
    size_t left = (size - 1) / 2;

    if (!size)
        return NULL;
    node = heap_make();
    store(&node->left, balanced_in_the_usual_way(left));
    store(&node->right, balanced_in_the_usual_way(size - 1 - left));
    return node;
}

static size_t count_nodes(const struct node *node, unsigned depth)
{
    if (!node)
        return 0;
    size_t count = 1 + count_nodes(node->left, depth - 1) + count_nodes(node->right, depth - 1);
    pass_at(depth);
    return count;
}

static void touch(struct node *node)
{
    if (!node)
        return;
    heap_hold(node);
    heap_drop(node);
    touch(node->left);
    touch(node->right);
}

static size_t size_of(unsigned depth)
{
    return (2u << depth) - 1;
}

static void drop_counted(struct node *tree, unsigned depth)
{
    if (count_nodes(tree, depth) != size_of(depth))
        bench_fail("a tree is wrong");
    heap_drop(tree);
    heap_pass();
}

/* --- what several threads do, each for itself ------------------------------------------------- */

struct group {
    double (*body)(void); /* returns the nodes that it made */
    struct watch watch;
    uint64_t start[THREADS_MAX], end[THREADS_MAX], cpu[THREADS_MAX];
    double made[THREADS_MAX];
};

static double gcbench(void)
{
    enum { LONG_LIVED = 16, SHALLOWEST = 4, DEEPEST = 16, STRETCH = 18, ARRAY = 500000 };
    struct node *tree = top_down(LONG_LIVED);
    double made = (double)size_of(LONG_LIVED);
    double *array = heap_buffer(ARRAY * sizeof *array);

    if (!array)
        bench_fail("out of memory");
    for (size_t i = 0; i < ARRAY; i++) {
        array[i] = 1 / (double)(i + 1);
        if (i % 512 == 0) /* a page: the system may take its time for each */
            heap_pass();
    }
    for (unsigned depth = SHALLOWEST; depth <= DEEPEST; depth += 2) {
        size_t size = size_of(depth);
        size_t rounds = scaled(2.0 * (double)size_of(STRETCH) / (double)size);

        for (size_t i = 0; i < rounds; i++)
            drop_counted(top_down(depth), depth);
        for (size_t i = 0; i < rounds; i++)
            drop_counted(bottom_up(depth), depth);
        made += 2 * (double)rounds * (double)size;
    }
    bench_keep(array);
    if (array[1000] != 1.0 / 1001)
        bench_fail("the array is wrong");
    drop_counted(tree, LONG_LIVED);
    return made;
}

static double binary_trees(struct node *(*make)(unsigned))
{
    enum { DEPTH = 16 };
    struct node *tree = make(DEPTH);
    size_t rounds = scaled(40);

    for (size_t i = 0; i < rounds; i++)
        drop_counted(make(DEPTH), DEPTH);
    drop_counted(tree, DEPTH);
    return (double)(rounds + 1) * (double)size_of(DEPTH);
}

static double trees_down(void)
{
    return binary_trees(from_the_root);
}

static double trees_up(void)
{
    return binary_trees(bottom_up);
}

static double group_thread(struct bench_start *start, size_t index, void *argument)
{
    struct group *group = argument;

    heap_enter();
    bench_ready(start);
    if (index == (size_t)threads) {
        watch_run(&group->watch);
    } else {
        group->start[index] = watch_start(&group->watch);
        group->cpu[index] = bench_cpu_ns();
        group->made[index] = group->body();
        group->cpu[index] = bench_cpu_ns() - group->cpu[index];
        group->end[index] = bench_now_ns();
        watch_done(&group->watch);
    }
    heap_leave();
    return 0;
}

static void run_group(double (*body)(void))
{
    static struct group group;
    static double results[THREADS_MAX + 1];
    uint64_t first = UINT64_MAX, last = 0;
    double per_node = 0, cpu = 0;
    size_t workers = (size_t)threads;

    group.body = body;
    watch_init(&group.watch, workers, NAN); /* trees under construction are no garbage */
    bench_parallel(workers + 1, group_thread, &group, results);
    for (size_t i = 0; i < workers; i++) {
        first = group.start[i] < first ? group.start[i] : first;
        last = group.end[i] > last ? group.end[i] : last;
        cpu += (double)group.cpu[i] / group.made[i] / threads;
        per_node += (double)(group.end[i] - group.start[i]) / group.made[i] / threads;
    }
    report("time", (double)(last - first) / 1e6, "ms");
    report("a node, of each thread's time", per_node, "ns");
    report("  while it was running", cpu, "ns");
    watch_report(&group.watch, first, last);
}

/* --- pairs beside a live tree ----------------------------------------------------------------- */

struct churn {
    size_t live, pairs;
    bool usual;
    struct watch watch;
    struct node *tree; /* where bdwgc finds it */
    uint64_t start, end, cpu;
    size_t made;
    double examined_before;
};

static void make_pair(void)
{
    struct node *a = heap_make(), *b = heap_make();

    heap_hold(b);
    a->left = b;
    heap_hold(a);
    b->left = a;
    heap_drop(a);
    heap_drop(b);
}

static bool go_on(const struct churn *churn)
{
    if (churn->made >= churn->pairs)
        return false;
    return !churn->usual || churn->made % 1024 ||
           heap_survivors_examined() - churn->examined_before < (double)churn->live;
}

static double churn_thread(struct bench_start *start, size_t index, void *argument)
{
    struct churn *churn = argument;

    heap_enter();
    if (index) {
        bench_ready(start);
        watch_run(&churn->watch);
        heap_leave();
        return 0;
    }
    if (churn->usual) {
        heap_automatic(false);
        churn->tree = balanced_in_the_usual_way(churn->live);
        churn->examined_before = heap_survivors_examined();
    } else {
        churn->tree = balanced(churn->live);
        heap_collect();
    }
    bench_ready(start);
    churn->start = watch_start(&churn->watch);
    churn->cpu = bench_cpu_ns();
    if (churn->usual)
        heap_automatic(true);
    while (go_on(churn)) {
        make_pair();
        churn->made++;
        heap_pass();
    }
    churn->cpu = bench_cpu_ns() - churn->cpu;
    churn->end = bench_now_ns();
    watch_done(&churn->watch);
    heap_leave();
    return 0;
}

static void run_churn(bool usual)
{
    static struct churn churn;
    double results[2];

    if (!heap_collects)
        bench_fail("counts alone free no pairs");
    churn.live = scaled(5e6);
    churn.pairs = scaled(usual ? 2e7 : 1.5e7);
    churn.usual = usual;
    watch_init(&churn.watch, 1, (double)churn.live);
    bench_parallel(2, churn_thread, &churn, results);
    report("pairs", (double)churn.made * 1e3 / (double)(churn.end - churn.start), "M/s");
    report("  of the time that it was running", (double)churn.made * 1e3 / (double)churn.cpu,
           "M/s");
    if (usual) {
        report("pairs until as many as live were examined", (double)churn.made / 1e6, "M");
        report("time", (double)(churn.end - churn.start) / 1e6, "ms");
    }
    watch_report(&churn.watch, churn.start, churn.end);
    if (dots)
        series_write(&heap_pauses, churn.start, dots);
}

/* --- a live heap, collected again and again --------------------------------------------------- */

static void run_collections(size_t size, bool touched, void (*collect)(void))
{
    static struct node *tree;
    struct series times;
    size_t rounds = size < 1000000 ? 21 : 5;

    if (!heap_collects)
        bench_fail("counts alone have nothing to collect with");
    heap_automatic(false);
    tree = balanced(size);
    heap_automatic(true);
    heap_collect();
    series_init(&times);
    for (size_t i = 0; i < rounds; i++) {
        uint64_t start;

        if (touched)
            touch(tree);
        start = bench_now_ns();
        collect();
        series_add(&times, start, (double)(bench_now_ns() - start));
    }
    bench_keep(tree);
    report("a collection", series_quantile(&times, 0.5) / 1e6, "ms");
    report("  the longest", times.most / 1e6, "ms");
    report("  a node", series_quantile(&times, 0.5) / (double)size, "ns");
    report("most memory resident", bench_peak_megabytes(), "MiB");
    if (dots) { /* nodes, and ns a node */
        FILE *file = fopen(dots, "a");

        if (!file ||
            fprintf(file, "%zu\t%.3f\n", size, series_quantile(&times, 0.5) / (double)size) < 0 ||
            fclose(file))
            bench_fail("can't write the file of points");
    }
}

int main(int argc, char **argv)
{
    static const struct bench_option options[] = {
        {"--workload", NULL, &workload},  {"--payload", &heap_payload, NULL},
        {"--scale", &scale, NULL},        {"--threads", &threads, NULL},
        {"--nodes", &nodes, NULL},        {"--markers", &heap_markers, NULL},
        {"--policy", NULL, &heap_policy}, {"--name", NULL, &name},
        {"--dots", NULL, &dots}};

    bench_options(argc, argv, options, sizeof options / sizeof *options);
    if (!workload || threads < 1 || threads > THREADS_MAX)
        bench_fail("--workload says which, --threads is from 1 to 32");
    heap_begin();
    report_begin(name ? name : workload, heap_name);
    if (!strcmp(workload, "gcbench"))
        run_group(gcbench);
    else if (!strcmp(workload, "trees"))
        run_group(trees_down);
    else if (!strcmp(workload, "trees-up"))
        run_group(trees_up);
    else if (!strcmp(workload, "churn"))
        run_churn(false);
    else if (!strcmp(workload, "usual"))
        run_churn(true);
    else if (!strcmp(workload, "unchanged"))
        run_collections(scaled(1e7), false, heap_collect);
    else if (!strcmp(workload, "touched"))
        run_collections(nodes >= 1 ? (size_t)nodes : scaled(1e6), true, heap_collect);
    else if (!strcmp(workload, "full"))
        run_collections(nodes >= 1 ? (size_t)nodes : scaled(1e6), false, heap_collect_fully);
    else
        bench_fail(
            "--workload is gcbench, trees, trees-up, churn, usual, unchanged, touched or full");
    return 0;
}
