/*
 * bench.h - the harness of the benchmarks: a clock, threads that start together, and a table in
 * which peers that do the same work stand below each other.
 *
 * The peers of a workload run one after the other, then all of them again (A B C A B C ...), so
 * that what disturbs the machine disturbs all alike. After a round that is not counted, unless each
 * run has a process of its own, the median and the least of the rounds are printed. The first peer
 * is the reference: `ratio` is the median of the ratios to it, each taken within one round.
 */
#ifndef BENCH_H
#define BENCH_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Figures that one run of a peer may report. */
enum { BENCH_FIGURES = 4 };

/* What the command line says. */
extern bool bench_quick; /* less work a run */

/* Does a peer's work once and reports what it cost; a figure it does not write has no line. */
typedef void (*bench_body)(void *argument, double *figures);

struct bench_peer {
    const char *name;
    bench_body body;
    void *argument;
};

struct bench_workload {
    struct {
        const char *name, *unit;
    } figure[BENCH_FIGURES]; /* ends at the first without a name */
    bool child;              /* each run in a process of its own; while main() is not registered */
    int runs;                /* 0: as many as the command line says */
};

/* Reads --quick and --runs N, prints the head of the table. Call it first. */
void bench_begin(int argc, char **argv, int runs, const char *note);

/* Runs the peers of a workload and prints their lines. */
void bench_compare(const struct bench_workload *workload, const struct bench_peer *peers,
                   size_t peer_count);

/* Ends the program with a sentence. */
void bench_fail(const char *what) __attribute__((noreturn, cold));

/* The monotonic clock. */
uint64_t bench_now_ns(void);

/* The time that the calling thread has been running. */
uint64_t bench_cpu_ns(void);

/* The first of them, or the second with --quick. */
static inline size_t bench_size(size_t full, size_t quick)
{
    return bench_quick ? quick : full;
}

/* Resident memory of this process, in bytes, from /proc/self/statm. */
double bench_resident_bytes(void);

/* The most that it ever was, in MiB (VmHWM). */
double bench_peak_megabytes(void);

/* --- without a table: programs that do one thing in one process ------------------------------- */

/* `--name value` sets one of the two. */
struct bench_option {
    const char *name; /* with the dashes */
    double *number;
    const char **text;
};

/* Reads options; ends the program with a list of them if one is not known. */
void bench_options(int argc, char **argv, const struct bench_option *options, size_t count);

/* How many cores the process may use. */
size_t bench_cores(void);

/* --- threads ---------------------------------------------------------------------------------- */

struct bench_start;

/* The work of one thread: prepares, calls bench_ready(), works; returns the figure it measured. */
typedef double (*bench_thread)(struct bench_start *start, size_t index, void *argument);

/* Waits until all threads of the group are ready; detached, if the caller is attached. */
void bench_ready(struct bench_start *start);

/* Runs `count` threads, each on a core of its own as far as there are cores, and writes what each
 * has returned. An attached caller waits detached. */
void bench_parallel(size_t count, bench_thread body, void *argument, double *results);

/* The same with the mean of the results. */
double bench_parallel_mean(size_t count, bench_thread body, void *argument);

/* --- against the compiler --------------------------------------------------------------------- */

/* The compiler has to believe that what p points to is read and written here. */
static inline void bench_keep(const void *p)
{
    __asm__ volatile("" : : "r"(p) : "memory");
}

/* --- pseudo-random numbers, the same in every run --------------------------------------------- */

static inline uint64_t bench_random(uint64_t *state)
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;

    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* Puts an array of pointers into an order that depends on the seed only. */
void bench_shuffle(void **pointers, size_t count, uint64_t seed);

/* An array of pointers that is not in the heap of any peer, since that is what is measured. */
void **bench_pointers(size_t count);
void bench_pointers_free(void **pointers, size_t count);

#endif
