/*
 * bench_lock.c - what an object's lock costs: a pair of lock and unlock that nobody else wants, and two threads that
 * want the same one, with and without work in between.
 *
 * The peer is a pthread_mutex_t of the default kind, 40 bytes where the object's lock is one in its header.
 */
#include "bench.h"

#include <ouro.h>
#include <pthread.h>

struct cell {
    ouro_header ouro;
    uint64_t value; /* under the lock */
};

struct plain {
    pthread_mutex_t lock;
    uint64_t value; /* under the lock */
};

enum { BATCH = 1000 };

static const ouro_type *cell_type;
static struct cell *cell, *cell_two;
static struct plain plain = {.lock = PTHREAD_MUTEX_INITIALIZER};
static struct plain plain_two = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* What a thread does between two turns: a store and a load each, about 1 ns. */
static inline void work(unsigned amount)
{
    for (unsigned i = 0; i < amount; i++)
        bench_keep(&i);
}

/* A function for each kind, each with the same loop: BATCH turns. */
#define TURNS(name, before, after, what)  \
    static void name(unsigned amount)     \
    {                                     \
        for (int i = 0; i < BATCH; i++) { \
            before;                       \
            what->value++;                \
            bench_keep(what);             \
            after;                        \
            work(amount);                 \
        }                                 \
    }

TURNS(mutex_turns, pthread_mutex_lock(&plain.lock), pthread_mutex_unlock(&plain.lock), (&plain))
TURNS(ouro_turns, ouro_lock(cell), ouro_unlock(cell), cell)
TURNS(nothing_turns, (void)0, (void)0, cell)

static void ouro_try_turns(unsigned amount)
{
    for (int i = 0; i < BATCH; i++) {
        if (!ouro_trylock(cell))
            bench_fail("a lock is taken");
        cell->value++;
        bench_keep(cell);
        ouro_unlock(cell);
        work(amount);
    }
}

static void ouro_pair_turns(unsigned amount)
{
    for (int i = 0; i < BATCH; i++) {
        OURO_LOCKED_PAIR(cell, cell_two)
        {
            cell->value++;
            bench_keep(cell);
        }
        work(amount);
    }
}

static void mutex_pair_turns(unsigned amount)
{
    for (int i = 0; i < BATCH; i++) {
        pthread_mutex_lock(&plain.lock);
        pthread_mutex_lock(&plain_two.lock);
        plain.value++;
        bench_keep(&plain);
        pthread_mutex_unlock(&plain_two.lock);
        pthread_mutex_unlock(&plain.lock);
        work(amount);
    }
}

/* --- runs --------------------------------------------------------------------------------------- */

struct test {
    void (*turns)(unsigned amount);
    size_t threads;
    unsigned amount; /* of work between two turns */
    size_t batches;
};

static double test_thread(struct bench_start *start, size_t index, void *argument)
{
    const struct test *test = argument;
    uint64_t begin;
    double figure;

    (void)index;
    if (ouro_thread_register("bench"))
        bench_fail("can't register a thread");
    bench_ready(start);
    begin = bench_now_ns();
    for (size_t i = 0; i < test->batches; i++) {
        test->turns(test->amount);
        ouro_safepoint();
    }
    figure = (double)(bench_now_ns() - begin) / ((double)test->batches * BATCH);
    ouro_thread_unregister();
    return figure;
}

static void run_test(void *argument, double *figures)
{
    const struct test *test = argument;

    figures[0] = bench_parallel_mean(test->threads, test_thread, argument);
}

struct peer {
    const char *name;
    void (*turns)(unsigned amount);
};

static void compare(const char *name, const struct peer *peer, size_t count, size_t threads,
                    unsigned amount, size_t batches)
{
    struct bench_workload workload = {.figure = {{name, "ns"}}};
    struct bench_peer peers[4];
    struct test tests[4];

    for (size_t i = 0; i < count; i++) {
        tests[i] = (struct test){peer[i].turns, threads, amount, batches};
        peers[i] = (struct bench_peer){peer[i].name, run_test, &tests[i]};
    }
    bench_compare(&workload, peers, count);
}

int main(int argc, char **argv)
{
    static const ouro_type_spec spec = {.name = "cell", .size = sizeof(struct cell)};
    static const struct peer alone[] = {{"pthread_mutex_lock()", mutex_turns},
                                        {"ouro_lock()", ouro_turns},
                                        {"ouro_trylock()", ouro_try_turns},
                                        {"no lock", nothing_turns}};
    static const struct peer pairs[] = {{"two mutexes", mutex_pair_turns},
                                        {"OURO_LOCKED_PAIR", ouro_pair_turns}};
    static const struct peer both[] = {{"pthread_mutex_lock()", mutex_turns},
                                       {"ouro_lock()", ouro_turns}};

    bench_begin(argc, argv, 5, "lock: the lock that each object has");
    if (ouro_type_register(&spec, &cell_type) || ouro_thread_register("main"))
        bench_fail("out of memory");
    cell = ouro_new(cell_type);
    cell_two = ouro_new(cell_type);
    if (!cell || !cell_two)
        bench_fail("out of memory");

    compare("lock, add 1, unlock; nobody else wants it", alone, 4, 1, 0, bench_size(20000, 2000));
    compare("the same with two locks", pairs, 2, 1, 0, bench_size(10000, 1000));
    compare("two threads that do nothing else, each", both, 2, 2, 0, bench_size(3000, 500));
    compare("two threads, 0.1 us of work in between, each", both, 2, 2, 100, bench_size(3000, 500));
    compare("two threads, 1 us of work in between, each", both, 2, 2, 1000, bench_size(1000, 100));

    ouro_decref(cell);
    ouro_decref(cell_two);
    return ouro_shutdown() != OURO_OK;
}
