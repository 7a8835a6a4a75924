/*
 * bench_count.c - what counting costs: a pair of incref and decref on objects that are the thread's
 * own, another thread's, nobody's, immortal; and a safepoint.
 *
 * The peers are a count in a structure of the same 32 bytes: a plain one, which only one thread may
 * change, and an atomic one (relaxed addition, acquire-release subtraction, as in shared_ptr).
 */
#include "bench.h"

#include <ouro.h>
#include <stdio.h>
#include <stdlib.h>

struct node {
    ouro_header ouro;
    struct node *left, *right;
};

/* The same size, with a count of one of two kinds. */
struct counted {
    uint32_t count, rest[3];
    struct counted *left, *right;
};

_Static_assert(sizeof(struct node) == sizeof(struct counted), "peers of the same size");

static const ouro_type *node_type;

static struct node *make_node(void)
{
    struct node *node = ouro_new(node_type);

    if (!node)
        bench_fail("out of memory");
    return node;
}

static void register_self(void)
{
    if (ouro_thread_register("bench"))
        bench_fail("can't register a thread");
}

/* --- one pair of each kind -------------------------------------------------------------------- */

static inline __attribute__((always_inline)) void plain_pair(struct counted *p)
{
    p->count++;
    bench_keep(p);
    if (--p->count == 0)
        bench_fail("a count is wrong");
    bench_keep(p);
}

static inline __attribute__((always_inline)) void atomic_pair(struct counted *p)
{
    __atomic_fetch_add(&p->count, 1, __ATOMIC_RELAXED);
    bench_keep(p);
    if (__atomic_fetch_sub(&p->count, 1, __ATOMIC_ACQ_REL) == 1)
        bench_fail("a count is wrong");
    bench_keep(p);
}

static inline __attribute__((always_inline)) void ouro_pair(struct node *p)
{
    ouro_incref(p);
    bench_keep(p);
    ouro_decref(p);
    bench_keep(p);
}

/* ns for each of n pairs on one object; a function for each kind, each with the same loop. */
#define HOT_LOOP(name, type, pair)                           \
    static double name(type *p, size_t n)                    \
    {                                                        \
        uint64_t start = bench_now_ns();                     \
                                                             \
        for (size_t i = 0; i < n; i++)                       \
            pair(p);                                         \
        return (double)(bench_now_ns() - start) / (double)n; \
    }

HOT_LOOP(plain_hot, struct counted, plain_pair)
HOT_LOOP(atomic_hot, struct counted, atomic_pair)
HOT_LOOP(ouro_hot, struct node, ouro_pair)

static size_t hot_pairs(void)
{
    return bench_size(50000000, 5000000);
}

/* Where two threads write one cache line a pair takes ten times as long. */
static size_t contended_pairs(void)
{
    return bench_size(5000000, 500000);
}

/* --- one thread ------------------------------------------------------------------------------- */

static void run_plain_hot(void *argument, double *figures)
{
    figures[0] = plain_hot(argument, hot_pairs());
}

static void run_atomic_hot(void *argument, double *figures)
{
    figures[0] = atomic_hot(argument, hot_pairs());
}

static void run_ouro_hot(void *argument, double *figures)
{
    figures[0] = ouro_hot(argument, hot_pairs());
}

static void compare_hot(struct node *own, struct node *merged, struct node *immortal,
                        struct counted *plain, struct counted *atomic)
{
    struct bench_workload workload = {.figure = {{"incref+decref, one hot object, owner", "ns"}}};
    struct bench_peer owner[] = {{"plain int", run_plain_hot, plain},
                                 {"ouro", run_ouro_hot, own},
                                 {"atomic int", run_atomic_hot, atomic}};
    struct bench_peer nobodys[] = {{"atomic int", run_atomic_hot, atomic},
                                   {"ouro", run_ouro_hot, merged}};
    struct bench_peer immortals[] = {{"plain int", run_plain_hot, plain},
                                     {"ouro", run_ouro_hot, immortal}};

    bench_compare(&workload, owner, 3);
    workload.figure[0].name = "same, a merged object (nobody's)";
    bench_compare(&workload, nobodys, 2);
    workload.figure[0].name = "same, an immortal object";
    bench_compare(&workload, immortals, 2);
}

/* --- one thread, many objects ----------------------------------------------------------------- */

enum { MANY = 1000000 };

static double per_object(uint64_t start, size_t rounds)
{
    return (double)(bench_now_ns() - start) / ((double)rounds * MANY);
}

static size_t random_rounds(void)
{
    return bench_size(5, 1);
}

static void run_plain_random(void *argument, double *figures)
{
    void **order = argument;
    uint64_t start = bench_now_ns();

    for (size_t round = 0; round < random_rounds(); round++) {
        for (size_t i = 0; i < MANY; i++)
            plain_pair(order[i]);
    }
    figures[0] = per_object(start, random_rounds());
}

static void run_atomic_random(void *argument, double *figures)
{
    void **order = argument;
    uint64_t start = bench_now_ns();

    for (size_t round = 0; round < random_rounds(); round++) {
        for (size_t i = 0; i < MANY; i++)
            atomic_pair(order[i]);
    }
    figures[0] = per_object(start, random_rounds());
}

static void run_ouro_random(void *argument, double *figures)
{
    void **order = argument;
    uint64_t start = bench_now_ns();

    for (size_t round = 0; round < random_rounds(); round++) {
        for (size_t i = 0; i < MANY; i++)
            ouro_pair(order[i]);
    }
    figures[0] = per_object(start, random_rounds());
}

static void compare_random(void)
{
    static const struct bench_workload workload = {
        .figure = {{"same, 1 M objects in random order", "ns"}}};
    struct counted *nodes = aligned_alloc(64, MANY * sizeof *nodes);
    void **theirs = bench_pointers(MANY), **ours = bench_pointers(MANY);
    struct bench_peer peers[] = {{"plain int", run_plain_random, theirs},
                                 {"ouro", run_ouro_random, ours},
                                 {"atomic int", run_atomic_random, theirs}};

    if (!nodes)
        bench_fail("out of memory");
    for (size_t i = 0; i < MANY; i++) {
        nodes[i] = (struct counted){.count = 1};
        theirs[i] = &nodes[i];
        ours[i] = make_node();
    }
    bench_shuffle(theirs, MANY, 1); /* the same order for both */
    bench_shuffle(ours, MANY, 1);
    bench_compare(&workload, peers, 3);
    for (size_t i = 0; i < MANY; i++)
        ouro_decref((struct node *)ours[i]);
    bench_pointers_free(theirs, MANY);
    bench_pointers_free(ours, MANY);
    free(nodes);
}

/* --- several threads -------------------------------------------------------------------------- */

struct shared {
    void *object;
    size_t threads;
    size_t pairs;
};

static double plain_thread(struct bench_start *start, size_t index, void *argument)
{
    const struct shared *shared = argument;
    struct counted mine = {.count = 1}; /* a plain count is one thread's own */

    (void)index;
    bench_ready(start);
    return plain_hot(&mine, shared->pairs);
}

static double atomic_thread(struct bench_start *start, size_t index, void *argument)
{
    const struct shared *shared = argument;

    (void)index;
    bench_ready(start);
    return atomic_hot(shared->object, shared->pairs);
}

static double ouro_thread(struct bench_start *start, size_t index, void *argument)
{
    const struct shared *shared = argument;
    double figure;

    (void)index;
    register_self();
    bench_ready(start);
    figure = ouro_hot(shared->object, shared->pairs);
    ouro_thread_unregister();
    return figure;
}

static void run_plain_threads(void *argument, double *figures)
{
    const struct shared *shared = argument;

    figures[0] = bench_parallel_mean(shared->threads, plain_thread, argument);
}

static void run_atomic_threads(void *argument, double *figures)
{
    const struct shared *shared = argument;

    figures[0] = bench_parallel_mean(shared->threads, atomic_thread, argument);
}

static void run_ouro_threads(void *argument, double *figures)
{
    const struct shared *shared = argument;

    figures[0] = bench_parallel_mean(shared->threads, ouro_thread, argument);
}

static void compare_threads(struct node *own, struct node *merged, struct node *immortal,
                            struct counted *atomic)
{
    struct bench_workload workload = {
        .figure = {{"same, another thread's object, by one thread", "ns"}}};
    struct shared foreign = {own, 1, hot_pairs() / 5};
    struct shared atomic_one = {atomic, 1, hot_pairs() / 5};
    struct shared merged_two = {merged, 2, contended_pairs()};
    struct shared foreign_two = {own, 2, contended_pairs()};
    struct shared atomic_two = {atomic, 2, contended_pairs()};
    struct shared immortal_two = {immortal, 2, hot_pairs()};
    struct bench_peer one[] = {{"atomic int", run_atomic_threads, &atomic_one},
                               {"ouro", run_ouro_threads, &foreign}};
    struct bench_peer two[] = {{"atomic int", run_atomic_threads, &atomic_two},
                               {"ouro, merged", run_ouro_threads, &merged_two},
                               {"ouro, owned by a third", run_ouro_threads, &foreign_two}};
    struct bench_peer flat[] = {{"plain int, each thread its own", run_plain_threads,
                                 &immortal_two},
                                {"ouro, immortal", run_ouro_threads, &immortal_two}};

    bench_compare(&workload, one, 2);
    workload.figure[0].name = "same, two threads on one object, each";
    bench_compare(&workload, two, 3);
    bench_compare(&workload, flat, 2);
}

/* --- safepoints ------------------------------------------------------------------------------- */

static void run_word_loop(void *argument, double *figures)
{
    const uint32_t *word = argument;
    size_t n = hot_pairs();
    uint64_t start = bench_now_ns();

    for (size_t i = 0; i < n; i++) {
        if (__atomic_load_n(word, __ATOMIC_RELAXED) != 1)
            bench_fail("a word is wrong");
        bench_keep(word);
    }
    figures[0] = (double)(bench_now_ns() - start) / (double)n;
}

static void run_safepoint_loop(void *argument, double *figures)
{
    size_t n = hot_pairs();
    uint64_t start = bench_now_ns();

    for (size_t i = 0; i < n; i++) {
        ouro_safepoint();
        bench_keep(argument);
    }
    figures[0] = (double)(bench_now_ns() - start) / (double)n;
}

static void compare_safepoint(void)
{
    static const struct bench_workload workload = {
        .figure = {{"safepoint, nobody wants one", "ns"}}};
    static uint32_t word = 1;
    const struct bench_peer peers[] = {{"a load, a compare, a branch", run_word_loop, &word},
                                       {"ouro", run_safepoint_loop, &word}};

    bench_compare(&workload, peers, 2);
}

int main(int argc, char **argv)
{
    static const uint16_t fields[] = {OURO_FIELD(struct node, left),
                                      OURO_FIELD(struct node, right)};
    static const ouro_type_spec spec = {
        .name = "node", .size = sizeof(struct node), .fields = fields, .field_count = 2};
    static _Alignas(64) struct counted plain = {.count = 1};
    static _Alignas(64) struct counted atomic = {.count = 1};
    struct node *own, *merged, *immortal;

    bench_begin(argc, argv, 7, "a pair is an increment and a decrement with its test for zero");
    register_self();
    if (ouro_type_register(&spec, &node_type))
        bench_fail("can't register a type");
    own = make_node();
    merged = make_node();
    immortal = make_node();
    if (!ouro_disown(merged))
        bench_fail("can't disown an object");
    ouro_immortalize(immortal);
    ouro_safepoint();

    compare_hot(own, merged, immortal, &plain, &atomic);
    compare_random();
    compare_threads(own, merged, immortal, &atomic);
    compare_safepoint();

    ouro_decref(own);
    ouro_decref(merged);
    return 0;
}
