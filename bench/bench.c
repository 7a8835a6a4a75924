/*
 * bench.c - the harness; see bench.h.
 */
#include "bench.h"

#include <errno.h>
#include <ouro.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_RUNS = 101, MAX_PEERS = 8, MAX_THREADS = 64 };

bool bench_quick;
static int default_runs;
static cpu_set_t cores; /* those that the process may use */

/* --- output ----------------------------------------------------------------------------------- */

void bench_fail(const char *what)
{
    fflush(stdout);
    fprintf(stderr, "bench: %s\n", what);
    exit(1);
}

/* A peer that does not report a figure has no line for it. */
static void print_line(const char *workload, const char *peer, double middle, double least,
                       const char *unit, double ratio)
{
    if (isnan(middle))
        return;
    printf("%-46s %-36s %9.2f %9.2f %-9s ", workload, peer, middle, least, unit);
    if (isnan(ratio))
        printf("%6s\n", "-");
    else
        printf("%6.2f\n", ratio);
    fflush(stdout);
}

static void usage(const char *program)
{
    fprintf(stderr, "usage: %s [--quick] [--runs N]    N from 1 to %d\n", program, MAX_RUNS);
    exit(2);
}

void bench_begin(int argc, char **argv, int runs, const char *note)
{
    default_runs = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--quick")) {
            bench_quick = true;
        } else if (!strcmp(argv[i], "--runs") && i + 1 < argc) {
            char *end;
            long n = strtol(argv[++i], &end, 10);

            if (*end || n < 1 || n > MAX_RUNS)
                usage(argv[0]);
            default_runs = (int)n;
        } else {
            usage(argv[0]);
        }
    }
    if (!default_runs)
        default_runs = bench_quick ? 3 : runs;
    printf("# ouro %s, %zu cores; median of %d runs%s, peers in turn, after one that is not "
           "counted\n",
           ouro_version(), bench_cores(), default_runs, bench_quick ? " (quick)" : "");
    printf("# ratio: to the first peer of the workload\n# %s\n\n", note);
    printf("%-46s %-36s %9s %9s %-9s %6s\n", "workload", "peer", "median", "least", "unit",
           "ratio");
}

void bench_options(int argc, char **argv, const struct bench_option *options, size_t count)
{
    for (int i = 1; i < argc; i += 2) {
        const struct bench_option *option = options;
        char *end = NULL;

        while (option < options + count && strcmp(argv[i], option->name))
            option++;
        if (option == options + count || i + 1 == argc) {
            fprintf(stderr, "usage: %s", argv[0]);
            for (size_t j = 0; j < count; j++)
                fprintf(stderr, " [%s %s]", options[j].name, options[j].text ? "TEXT" : "N");
            fprintf(stderr, "\n");
            exit(2);
        }
        if (option->text) {
            *option->text = argv[i + 1];
            continue;
        }
        *option->number = strtod(argv[i + 1], &end);
        if (end == argv[i + 1] || *end || !(*option->number >= 0))
            bench_fail("an option wants a number that is not negative");
    }
}

/* --- figures ---------------------------------------------------------------------------------- */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* The median of what is a number; the values are sorted afterwards. */
static double median(double *values, int count)
{
    int numbers = 0;

    for (int i = 0; i < count; i++) {
        if (!isnan(values[i]))
            values[numbers++] = values[i];
    }
    if (!numbers)
        return NAN;
    qsort(values, (size_t)numbers, sizeof *values, compare_doubles);
    return numbers % 2 ? values[numbers / 2] : (values[numbers / 2 - 1] + values[numbers / 2]) / 2;
}

/* Reads or writes all bytes of the figures; false if the other end is gone. */
static bool transfer(int fd, double *figures, bool writing)
{
    char *at = (char *)figures;
    size_t left = BENCH_FIGURES * sizeof *figures;

    while (left) {
        ssize_t n = writing ? write(fd, at, left) : read(fd, at, left);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        at += n;
        left -= (size_t)n;
    }
    return true;
}

/* Runs a body in a process of its own. The caller must not be registered. */
static void run_in_child(const struct bench_peer *peer, double *figures)
{
    int ends[2], status;
    pid_t child;
    bool got;

    fflush(stdout);
    if (pipe(ends) || (child = fork()) < 0)
        bench_fail("can't make a process");
    if (!child) {
        close(ends[0]);
        peer->body(peer->argument, figures);
        _exit(transfer(ends[1], figures, true) ? 0 : 1);
    }
    close(ends[1]);
    got = transfer(ends[0], figures, false);
    close(ends[0]);
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR)
            bench_fail("can't wait for a process");
    }
    if (!got || !WIFEXITED(status) || WEXITSTATUS(status))
        bench_fail("a process that ran a peer has failed");
}

static void run_once(const struct bench_workload *workload, const struct bench_peer *peer,
                     double *figures)
{
    for (int i = 0; i < BENCH_FIGURES; i++)
        figures[i] = NAN;
    if (workload->child)
        run_in_child(peer, figures);
    else
        peer->body(peer->argument, figures);
}

void bench_compare(const struct bench_workload *workload, const struct bench_peer *peers,
                   size_t peer_count)
{
    static double all[MAX_PEERS][BENCH_FIGURES][MAX_RUNS];
    int runs = workload->runs && workload->runs < default_runs ? workload->runs : default_runs;

    if (peer_count > MAX_PEERS)
        bench_fail("too many peers");
    for (int run = -1; run < runs; run++) {
        for (size_t p = 0; p < peer_count; p++) {
            double figures[BENCH_FIGURES];

            /* What runs in a fresh process has nothing to warm up. */
            if (run < 0 && workload->child)
                continue;
            run_once(workload, &peers[p], figures);
            for (int f = 0; f < BENCH_FIGURES && run >= 0; f++)
                all[p][f][run] = figures[f];
        }
    }
    for (int f = 0; f < BENCH_FIGURES && workload->figure[f].name; f++) {
        double ratios[MAX_PEERS][MAX_RUNS];

        for (size_t p = 0; p < peer_count; p++) {
            for (int run = 0; run < runs; run++)
                ratios[p][run] = all[p][f][run] / all[0][f][run];
        }
        for (size_t p = 0; p < peer_count; p++) {
            double middle = median(all[p][f], runs); /* sorts */

            print_line(workload->figure[f].name, peers[p].name, middle, all[p][f][0],
                       workload->figure[f].unit, median(ratios[p], runs));
        }
    }
}

/* --- clock and memory ------------------------------------------------------------------------- */

uint64_t bench_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t bench_cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

double bench_resident_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long size, resident;

    if (!file || fscanf(file, "%lu %lu", &size, &resident) != 2)
        bench_fail("can't read /proc/self/statm");
    fclose(file);
    return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

double bench_peak_megabytes(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    unsigned long kib = 0;

    while (file && fgets(line, sizeof line, file) && sscanf(line, "VmHWM: %lu", &kib) != 1)
        ;
    if (!kib)
        bench_fail("can't read VmHWM in /proc/self/status");
    fclose(file);
    return (double)kib / 1024;
}

void bench_shuffle(void **pointers, size_t count, uint64_t seed)
{
    for (size_t i = count; i > 1; i--) {
        size_t j = (size_t)(bench_random(&seed) % i);
        void *p = pointers[i - 1];

        pointers[i - 1] = pointers[j];
        pointers[j] = p;
    }
}

void **bench_pointers(size_t count)
{
    void *p = mmap(NULL, count * sizeof(void *), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    if (p == MAP_FAILED)
        bench_fail("out of memory");
    return p;
}

void bench_pointers_free(void **pointers, size_t count)
{
    munmap(pointers, count * sizeof *pointers);
}

/* --- threads ---------------------------------------------------------------------------------- */

struct bench_start {
    pthread_barrier_t barrier;
};

struct thread {
    pthread_t thread;
    struct bench_start *start;
    bench_thread body;
    size_t index;
    void *argument;
    double result;
};

size_t bench_cores(void)
{
    if (!CPU_COUNT(&cores) && sched_getaffinity(0, sizeof cores, &cores))
        bench_fail("can't ask for the cores");
    return (size_t)CPU_COUNT(&cores);
}

static void pin_to(size_t index)
{
    cpu_set_t one;
    size_t seen = 0;

    for (int core = 0; core < CPU_SETSIZE; core++) {
        if (CPU_ISSET(core, &cores) && seen++ == index) {
            CPU_ZERO(&one);
            CPU_SET(core, &one);
            if (pthread_setaffinity_np(pthread_self(), sizeof one, &one))
                bench_fail("can't pin a thread");
            return;
        }
    }
}

static void *thread_main(void *argument)
{
    struct thread *thread = argument;

    if (CPU_COUNT(&cores) > 1)
        pin_to(thread->index % (size_t)CPU_COUNT(&cores));
    thread->result = thread->body(thread->start, thread->index, thread->argument);
    return NULL;
}

void bench_ready(struct bench_start *start)
{
    bool attached = ouro_thread_state() == OURO_STATE_ATTACHED;

    if (attached)
        ouro_detach();
    pthread_barrier_wait(&start->barrier);
    if (attached)
        ouro_attach();
}

void bench_parallel(size_t count, bench_thread body, void *argument, double *results)
{
    struct thread threads[MAX_THREADS];
    struct bench_start start;
    bool attached = ouro_thread_state() == OURO_STATE_ATTACHED;

    bench_cores();
    if (count > MAX_THREADS || pthread_barrier_init(&start.barrier, NULL, (unsigned)count))
        bench_fail("can't start threads");
    for (size_t i = 0; i < count; i++) {
        threads[i] = (struct thread){
            .start = &start, .body = body, .index = i, .argument = argument, .result = NAN};
        if (pthread_create(&threads[i].thread, NULL, thread_main, &threads[i]))
            bench_fail("can't start a thread");
    }
    if (attached)
        ouro_detach();
    for (size_t i = 0; i < count; i++)
        pthread_join(threads[i].thread, NULL);
    if (attached)
        ouro_attach();
    for (size_t i = 0; i < count; i++)
        results[i] = threads[i].result;
    pthread_barrier_destroy(&start.barrier);
}

double bench_parallel_mean(size_t count, bench_thread body, void *argument)
{
    double results[MAX_THREADS], sum = 0;

    bench_parallel(count, body, argument, results);
    for (size_t i = 0; i < count; i++)
        sum += results[i];
    return sum / (double)count;
}
