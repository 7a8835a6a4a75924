/*
 * gc_cycles.c - structures made and given up all the time, some of them closed into cycles, beside others that live.
 *
 * A structure is a chain or a tree of --cycle-size nodes, each with --payload bytes. Of --cyclic percent of them the last
 * node refers to the first. Each thread has a table of structures with --live objects between them all, and replaces
 * one at random with each that it makes, so those die at any age. It goes on for --seconds, or until each thread has
 * made --count objects. One more thread looks on: see watch.c.
 *
 * Each peer has a process: out/release/bench/gc_cycles_ouro, gc_cycles_bdwgc, gc_cycles_atomic, gc_cycles_plain. The
 * last two free no cycles, so they take --cyclic 0 only.
 */
#include "heap.h"

#include <stdio.h>
#include <string.h>

enum { CYCLE_MAX = 4096, THREADS_MAX = 32, BETWEEN_CLOCKS = 64 };

static double cycle_size = 8, live = 100000, cyclic = 100, threads = 1, seconds = 2, count;
static const char *shape = "chain", *name = "cycles", *dots;
static bool trees;

struct run {
    struct watch watch;
    uint64_t start[THREADS_MAX], end[THREADS_MAX], cpu[THREADS_MAX];
    size_t made[THREADS_MAX]; /* objects */
};

/* Returns a reference to the first node. */
static struct node *make_structure(size_t size, bool close)
{
    struct node *nodes[CYCLE_MAX];

    for (size_t i = 0; i < size; i++) {
        nodes[i] = heap_make();
        if (i && trees && i % 2 == 0)
            nodes[(i - 1) / 2]->right = nodes[i];
        else if (i)
            nodes[trees ? (i - 1) / 2 : i - 1]->left = nodes[i];
    }
    if (close) {
        heap_hold(nodes[0]);
        nodes[size - 1]->left = nodes[0];
    }
    return nodes[0];
}

/* Puts a structure into a place of the table. */
static void replace(struct node **place, struct node *structure)
{
    struct node *old = *place;

    *place = structure;
    if (old)
        heap_drop(old);
}

static bool is_cyclic(uint64_t *seed)
{
    return (double)(bench_random(seed) % 10000) < cyclic * 100;
}

static void work(struct run *run, struct bench_start *start, size_t index)
{
    size_t size = (size_t)cycle_size, places = (size_t)(live / threads) / size;
    struct node **table = (struct node **)bench_pointers(places + 1);
    uint64_t seed = index + 1, until = UINT64_MAX;
    size_t made = 0, limit = count > 0 ? (size_t)count : SIZE_MAX;

    heap_add_roots(table, (places + 1) * sizeof *table);
    for (size_t i = 0; i < places; i++) {
        replace(&table[i], make_structure(size, is_cyclic(&seed)));
        heap_pass();
    }
    heap_collect(); /* so that the collector knows what lives */
    bench_ready(start);
    run->start[index] = watch_start(&run->watch);
    run->cpu[index] = bench_cpu_ns();
    if (count <= 0)
        until = run->start[index] + (uint64_t)(seconds * 1e9);
    do {
        for (size_t i = 0; i < BETWEEN_CLOCKS && made < limit; i++) {
            size_t place = places ? (size_t)(bench_random(&seed) % places) : 0;

            replace(&table[place], make_structure(size, is_cyclic(&seed)));
            made += size;
            heap_pass();
        }
        run->end[index] = bench_now_ns();
    } while (made < limit && run->end[index] < until);
    run->cpu[index] = bench_cpu_ns() - run->cpu[index];
    run->made[index] = made;
    watch_done(&run->watch);
}

static double thread_main(struct bench_start *start, size_t index, void *argument)
{
    struct run *run = argument;

    heap_enter();
    if (index < (size_t)threads) {
        work(run, start, index);
    } else {
        bench_ready(start);
        watch_run(&run->watch);
    }
    heap_leave();
    return 0;
}

static void check_options(void)
{
    if (cycle_size < 1 || cycle_size > CYCLE_MAX || threads < 1 || threads > THREADS_MAX ||
        cyclic > 100)
        bench_fail("--cycle-size is from 1 to 4096, --threads from 1 to 32, --cyclic up to 100");
    if (!heap_collects && cyclic > 0)
        bench_fail("counts alone free no cycle: --cyclic 0");
    if (HEAP == HEAP_BDWGC && heap_payload > 0 && (size_t)heap_payload % 8)
        bench_fail("--payload has to be a multiple of 8");
    trees = !strcmp(shape, "tree");
    if (!trees && strcmp(shape, "chain") != 0)
        bench_fail("--shape is chain or tree");
}

int main(int argc, char **argv)
{
    static struct run run;
    static double results[THREADS_MAX + 1];
    static const struct bench_option options[] = {{"--cycle-size", &cycle_size, NULL},
                                                  {"--payload", &heap_payload, NULL},
                                                  {"--live", &live, NULL},
                                                  {"--cyclic", &cyclic, NULL},
                                                  {"--threads", &threads, NULL},
                                                  {"--seconds", &seconds, NULL},
                                                  {"--count", &count, NULL},
                                                  {"--markers", &heap_markers, NULL},
                                                  {"--policy", NULL, &heap_policy},
                                                  {"--shape", NULL, &shape},
                                                  {"--name", NULL, &name},
                                                  {"--dots", NULL, &dots}};
    uint64_t first = UINT64_MAX, last = 0;
    double made = 0, per_object = 0, cpu = 0;
    size_t workers;

    bench_options(argc, argv, options, sizeof options / sizeof *options);
    check_options();
    workers = (size_t)threads;
    heap_begin();
    watch_init(&run.watch, workers,
               (double)workers * (double)((size_t)(live / threads) / (size_t)cycle_size) *
                   cycle_size);
    bench_parallel(workers + 1, thread_main, &run, results);
    for (size_t i = 0; i < workers; i++) {
        first = run.start[i] < first ? run.start[i] : first;
        last = run.end[i] > last ? run.end[i] : last;
        made += (double)run.made[i];
        cpu += (double)run.cpu[i] / (double)run.made[i] / threads;
        per_object += (double)(run.end[i] - run.start[i]) / (double)run.made[i] / threads;
    }
    report_begin(name, heap_name);
    report("time", (double)(last - first) / 1e9, "s");
    report("an object, of each thread's time", per_object, "ns");
    report("  while it was running", cpu, "ns");
    report("objects made", made * 1e3 / (double)(last - first), "M/s");
    watch_report(&run.watch, first, last);
    if (dots)
        series_write(&heap_pauses, first, dots);
    return 0;
}
