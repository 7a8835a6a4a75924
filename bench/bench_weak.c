/*
 * bench_weak.c - what it costs to get a reference to the target of a weak reference and to drop it again: by the
 * target's owner, by another thread, by two at once; the same for a slot that is loaded.
 *
 * The peer is what std::weak_ptr::lock() does, written out: a pointer to a block with a count, which is taken by
 * compare-exchange unless it is 0 and dropped by an acquire-release subtraction.
 */
#include "bench.h"

#include <ouro.h>
#include <stdlib.h>

struct node {
    ouro_header ouro;
    uint64_t value, rest;
};

/* The peer's object. */
struct counted {
    uint32_t count; /* [atomic] */
    uint32_t rest[7];
};

struct weak_pointer {
    struct counted *target;
};

_Static_assert(sizeof(struct node) == sizeof(struct counted), "peers of the same size");

static const ouro_type *node_type;

/* Each on a line of its own. The owner of the node is the main thread. */
static struct {
    _Alignas(64) ouro_weakref *ref;
    _Alignas(64) ouro_slot slot;
    _Alignas(64) struct weak_pointer weak;
    _Alignas(64) struct counted counted;
} shared;

static void ouro_pairs(size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct node *node = ouro_weakref_get(shared.ref);

        bench_keep(node);
        ouro_decref(node);
    }
}

static void load_pairs(size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct node *node = ouro_slot_load(&shared.slot);

        bench_keep(node);
        ouro_decref(node);
    }
}

static inline struct counted *lock(struct weak_pointer *weak)
{
    struct counted *target = weak->target;
    uint32_t count = __atomic_load_n(&target->count, __ATOMIC_RELAXED);

    do {
        if (count == 0)
            return NULL;
    } while (!__atomic_compare_exchange_n(&target->count, &count, count + 1, true, __ATOMIC_ACQ_REL,
                                          __ATOMIC_RELAXED));
    return target;
}

static void lock_pairs(size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct counted *target = lock(&shared.weak);

        bench_keep(target);
        if (__atomic_fetch_sub(&target->count, 1, __ATOMIC_ACQ_REL) == 1)
            bench_fail("a count is wrong");
        bench_keep(&shared.weak);
    }
}

/* --- the runs ----------------------------------------------------------------------------------- */

struct peer {
    void (*pairs)(size_t count);
    size_t threads; /* 0: the main thread, which is the owner */
};

static double measure(const struct peer *peer, size_t count)
{
    uint64_t start = bench_now_ns();

    peer->pairs(count);
    return (double)(bench_now_ns() - start) / (double)count;
}

static double peer_thread(struct bench_start *start, size_t index, void *argument)
{
    const struct peer *peer = argument;
    double figure;

    (void)index;
    if (ouro_thread_register("bench"))
        bench_fail("can't register a thread");
    bench_ready(start);
    figure = measure(peer, bench_size(5000000, 500000));
    ouro_thread_unregister();
    return figure;
}

static void run(void *argument, double *figures)
{
    const struct peer *peer = argument;

    figures[0] = peer->threads ? bench_parallel_mean(peer->threads, peer_thread, argument)
                               : measure(peer, bench_size(20000000, 2000000));
}

static void compare(const char *name, size_t threads)
{
    const struct bench_workload workload = {.figure = {{name, "ns"}}};
    struct peer peers[] = {{lock_pairs, threads}, {ouro_pairs, threads}, {load_pairs, threads}};
    const struct bench_peer table[] = {{"count taken unless 0, dropped", run, &peers[0]},
                                       {"ouro_weakref_get(), decref", run, &peers[1]},
                                       {"ouro_slot_load(), decref", run, &peers[2]}};

    bench_compare(&workload, table, 3);
}

int main(int argc, char **argv)
{
    static const ouro_type_spec spec = {.name = "node", .size = sizeof(struct node)};
    ouro_memory memory;
    struct node *node, *other;

    bench_begin(argc, argv, 5, "weak: a reference that does not keep alive");
    if (ouro_type_register(&spec, &node_type) || ouro_thread_register("main") ||
        !(node = ouro_new(node_type)) || !(other = ouro_new(node_type)) ||
        !(shared.ref = ouro_weakref_new(node)) || ouro_slot_store(&shared.slot, other))
        bench_fail("out of memory");
    shared.counted.count = 1;
    shared.weak.target = &shared.counted;

    compare("get and drop, by the owner", 0);
    compare("get and drop, by another thread", 1);
    compare("get and drop, by two others, each", 2);

    ouro_decref(node);
    ouro_decref(other);
    ouro_decref(shared.ref);
    if (ouro_slot_clear(&shared.slot) || ouro_shutdown())
        bench_fail("a thread is left");
    ouro_memory_stats(&memory);
    if (memory.objects)
        bench_fail("an object is left");
    return 0;
}
