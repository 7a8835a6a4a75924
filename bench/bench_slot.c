/*
 * bench_slot.c - what a reference costs that others replace: one field read through it, while nobody or one
 * other thread replaces the object, now and then or all the time; and what replacing costs.  Peers replace at
 * different speeds, and a reader has to fetch each new object from the other core, so see how often it was.
 *
 * The peers do the same with a pointer to a structure of the same 32 bytes: a bare atomic load, which is the
 * bound, since it could not tell when an object may be freed; QSBR of liburcu, if it is there; a mutex under
 * which the reader takes a count, as one does without any of this; std::atomic<std::shared_ptr> of C++, if there is a
 * compiler for it (shared_ptr.cc).  Readers pass a safepoint, or announce a
 * quiescent state, every 1,000 reads, the writer every 1,000 writes.
 */
#include "bench.h"

#include <ouro.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#if __has_include(<urcu-qsbr.h>)
#define URCU_INLINE_SMALL_FUNCTIONS /* its reads are inline too */
#include <urcu-qsbr.h>
#define HAVE_URCU 1
#define MISSING   ""
#else
#define HAVE_URCU 0
#define MISSING   "; liburcu is not there"
#endif

/* Reads, or writes, between two safepoints. */
enum { BATCH = 1000 };

/* Objects that the bare load is shown in turn. */
enum { POOL = 4096 };

struct node {
    ouro_header ouro;
    uint64_t value, rest;
};

static const ouro_type *node_type;

static struct node *make_node(uint64_t value)
{
    struct node *node = ouro_new(node_type);

    if (!node)
        bench_fail("out of memory");
    node->value = node->rest = value;
    return node;
}

/* The object of the peers. */
struct plain {
#if HAVE_URCU
    struct rcu_head rcu; /* 16 bytes, as the header of ours */
#else
    void *unused[2];
#endif
    uint64_t value;
    uint64_t count; /* [atomic] */
};

_Static_assert(sizeof(struct node) == sizeof(struct plain), "peers of the same size");

static struct plain *make_plain(uint64_t value)
{
    struct plain *plain = malloc(sizeof *plain);

    if (!plain)
        bench_fail("out of memory");
    plain->value = value;
    plain->count = 1;
    return plain;
}

static void drop_plain(struct plain *plain)
{
    if (__atomic_fetch_sub(&plain->count, 1, __ATOMIC_ACQ_REL) == 1)
        free(plain);
}

/* --- what is shared ----------------------------------------------------------------------------- */

/* Each on a line of its own, so that no peer's writes disturb another one. */
static struct {
    _Alignas(64) ouro_slot slot;
    _Alignas(64) struct plain *bare; /* [atomic] points into `pool` */
    _Alignas(64) struct plain pool[POOL];
    _Alignas(64) struct plain *rcu; /* [atomic] */
    _Alignas(64) pthread_mutex_t lock;
    struct plain *locked;   /* [lock] */
    _Alignas(64) bool stop; /* [atomic] the reader has read enough */
} shared = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* How a thread takes part, and what it does once. */
struct method {
    void (*enter)(bool writes);
    void (*leave)(void);
    void (*quiet)(void); /* a safepoint or the like */
    uint64_t (*read)(size_t count);
    void (*write)(uint64_t value);
};

struct test {
    const struct method *method;
    size_t readers;
    bool writer;     /* one more thread replaces the object all the time ... */
    uint64_t period; /* ... or if not 0, once in so many ns */
    size_t batches;
};

static void nothing(void)
{
}

static void enter_nothing(bool writes)
{
    (void)writes;
}

/* --- ouro --------------------------------------------------------------------------------------- */

static void ouro_enter(bool writes)
{
    (void)writes;
    if (ouro_thread_register("bench"))
        bench_fail("can't register a thread");
}

static void ouro_quiet(void)
{
    ouro_safepoint();
}

static uint64_t ouro_read(size_t count)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < count; i++) {
        const struct node *node = ouro_slot_borrow(&shared.slot);

        sum += node->value;
        bench_keep(node);
    }
    return sum;
}

static uint64_t ouro_read_owned(size_t count)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < count; i++) {
        struct node *node = ouro_slot_load(&shared.slot);

        sum += node->value;
        bench_keep(node);
        ouro_decref(node);
    }
    return sum;
}

static void ouro_write(uint64_t value)
{
    if (ouro_slot_store_steal(&shared.slot, make_node(value)))
        bench_fail("out of memory");
}

static const struct method borrow = {ouro_enter, ouro_thread_unregister, ouro_quiet, ouro_read,
                                     ouro_write};
static const struct method load = {ouro_enter, ouro_thread_unregister, ouro_quiet, ouro_read_owned,
                                   ouro_write};

/* --- a bare load -------------------------------------------------------------------------------- */

static uint64_t bare_read(size_t count)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < count; i++) {
        const struct plain *plain = __atomic_load_n(&shared.bare, __ATOMIC_ACQUIRE);

        sum += __atomic_load_n(&plain->value, __ATOMIC_RELAXED); /* it may be in use again */
        bench_keep(plain);
    }
    return sum;
}

/* Makes an object and frees it, as the others do, but shows another one, which stays. */
static void bare_write(uint64_t value)
{
    struct plain *unused = make_plain(value), *shown = &shared.pool[value % POOL];

    bench_keep(unused);
    __atomic_store_n(&shown->value, value, __ATOMIC_RELAXED);
    __atomic_store_n(&shared.bare, shown, __ATOMIC_RELEASE);
    free(unused);
}

static const struct method bare = {enter_nothing, nothing, nothing, bare_read, bare_write};

/* --- a mutex and a count ------------------------------------------------------------------------ */

static uint64_t mutex_read(size_t count)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < count; i++) {
        struct plain *plain;

        pthread_mutex_lock(&shared.lock);
        plain = shared.locked;
        __atomic_fetch_add(&plain->count, 1, __ATOMIC_RELAXED);
        pthread_mutex_unlock(&shared.lock);
        sum += plain->value;
        bench_keep(plain);
        drop_plain(plain);
    }
    return sum;
}

static void mutex_write(uint64_t value)
{
    struct plain *old, *plain = make_plain(value);

    pthread_mutex_lock(&shared.lock);
    old = shared.locked;
    shared.locked = plain;
    pthread_mutex_unlock(&shared.lock);
    drop_plain(old);
}

static const struct method mutex = {enter_nothing, nothing, nothing, mutex_read, mutex_write};

/* --- liburcu ------------------------------------------------------------------------------------ */

#if HAVE_URCU

static void rcu_enter(bool writes)
{
    (void)writes;
    rcu_register_thread();
}

static void rcu_leave(void)
{
    rcu_unregister_thread();
}

static void rcu_quiet(void)
{
    rcu_quiescent_state();
}

static uint64_t rcu_read(size_t count)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < count; i++) {
        const struct plain *plain;

        rcu_read_lock();
        plain = rcu_dereference(shared.rcu);
        sum += plain->value;
        bench_keep(plain);
        rcu_read_unlock();
    }
    return sum;
}

static void rcu_free(struct rcu_head *head)
{
    free(head); /* the first member */
}

/* A thread of liburcu's frees what is replaced. */
static void rcu_write_call(uint64_t value)
{
    struct plain *old = rcu_xchg_pointer(&shared.rcu, make_plain(value));

    call_rcu(&old->rcu, rcu_free);
}

/* The writer is no reader: it may wait for a mutex that is held during a grace period. */
static void defer_enter(bool writes)
{
    if (!writes)
        rcu_register_thread();
    else if (rcu_defer_register_thread())
        bench_fail("can't register a thread");
}

static void defer_quiet(void)
{
    if (rcu_read_ongoing()) /* registered as a reader */
        rcu_quiescent_state();
}

static void defer_leave(void)
{
    if (rcu_read_ongoing())
        rcu_unregister_thread();
    else
        rcu_defer_unregister_thread(); /* waits for a grace period */
}

/* The writer itself frees, each time its queue of 4,096 is full. */
static void rcu_write_defer(uint64_t value)
{
    defer_rcu(free, rcu_xchg_pointer(&shared.rcu, make_plain(value)));
}

static const struct method call = {rcu_enter, rcu_leave, rcu_quiet, rcu_read, rcu_write_call};
static const struct method defer = {defer_enter, defer_leave, defer_quiet, rcu_read,
                                    rcu_write_defer};

#endif

/* --- C++ ---------------------------------------------------------------------------------------- */

/* NULL if shared_ptr.cc could not be compiled. */
uint64_t shared_ptr_read(size_t count) __attribute__((weak));
void shared_ptr_write(uint64_t value) __attribute__((weak));

static const struct method shared_ptr = {enter_nothing, nothing, nothing, shared_ptr_read,
                                         shared_ptr_write};

/* Frees what waits for a grace period, so that no run has another one's work to do. */
static void settle(void)
{
    ouro_synchronize();
#if HAVE_URCU
    rcu_barrier();
#endif
}

/* --- reading ------------------------------------------------------------------------------------ */

static double reader(const struct test *test, struct bench_start *start)
{
    const struct method *method = test->method;
    uint64_t begin, sum = 0, ns;

    bench_ready(start);
    begin = bench_now_ns();
    for (size_t i = 0; i < test->batches; i++) {
        sum += method->read(BATCH);
        method->quiet();
    }
    ns = bench_now_ns() - begin;
    __atomic_store_n(&shared.stop, true, __ATOMIC_RELAXED);
    if (sum < test->batches * BATCH) /* no value is less than 1 */
        bench_fail("a value is wrong");
    return (double)ns / ((double)test->batches * BATCH);
}

/* Replaces the object until a reader has done. Returns how often a second. */
static double writer(const struct test *test, struct bench_start *start)
{
    const struct method *method = test->method;
    int batch = test->period ? 1 : BATCH;
    uint64_t begin, value = 0;

    bench_ready(start);
    begin = bench_now_ns();
    while (!__atomic_load_n(&shared.stop, __ATOMIC_RELAXED)) {
        for (int i = 0; i < batch; i++)
            method->write(++value);
        method->quiet();
        while (test->period && bench_now_ns() < begin + value * test->period)
            ;
    }
    return (double)value * 1e9 / (double)(bench_now_ns() - begin);
}

static double test_thread(struct bench_start *start, size_t index, void *argument)
{
    const struct test *test = argument;
    double figure;

    test->method->enter(index >= test->readers);
    figure = index < test->readers ? reader(test, start) : writer(test, start);
    test->method->leave();
    return figure;
}

static void run_test(void *argument, double *figures)
{
    const struct test *test = argument;
    double results[3], sum = 0;

    __atomic_store_n(&shared.stop, false, __ATOMIC_RELAXED);
    bench_parallel(test->readers + test->writer, test_thread, argument, results);
    for (size_t i = 0; i < test->readers; i++)
        sum += results[i];
    figures[0] = sum / (double)test->readers;
    if (test->writer)
        figures[1] = results[test->readers] / 1e6;
    settle();
}

static const struct {
    const char *name;
    const struct method *method;
    bool slow; /* by far: a fiftieth of the reads */
} methods[] = {
    {"a bare load, nothing is freed", &bare, false},
    {"ouro_slot_borrow()", &borrow, false},
#if HAVE_URCU
    {"liburcu QSBR, call_rcu()", &call, false},
    {"liburcu QSBR, defer_rcu()", &defer, false},
#endif
    {"ouro_slot_load(), decref", &load, true},
    {"mutex and count", &mutex, true},
    {"std::atomic<std::shared_ptr>", &shared_ptr, true},
};

enum { METHODS = sizeof methods / sizeof methods[0] };

static void compare_reads(const char *name, size_t readers, bool with_writer, uint64_t period)
{
    struct bench_workload workload = {.figure = {{name, "ns"}}};
    struct test tests[METHODS];
    struct bench_peer peers[METHODS];
    size_t batches = bench_size(100000, 10000), count = 0;

    if (with_writer) {
        workload.figure[1].name = "... replaced, million times";
        workload.figure[1].unit = "/s";
    }
    for (size_t i = 0; i < METHODS; i++) {
#if HAVE_URCU
        if (methods[i].method == &defer && !with_writer) /* reads are the same */
            continue;
#endif
        if (!methods[i].method->read)
            continue;
        tests[count] = (struct test){.method = methods[i].method,
                                     .readers = readers,
                                     .writer = with_writer,
                                     .period = period,
                                     .batches = methods[i].slow ? batches / 50 : batches};
        peers[count] = (struct bench_peer){methods[i].name, run_test, &tests[count]};
        count++;
    }
    bench_compare(&workload, peers, count);
}

/* --- replacing ---------------------------------------------------------------------------------- */

/* One thread replaces the object and nobody reads. */
static double store_thread(struct bench_start *start, size_t index, void *argument)
{
    const struct method *method = argument;
    size_t count = bench_size(3000000, 300000);
    uint64_t begin;
    double figure;

    (void)index;
    method->enter(true);
    bench_ready(start);
    begin = bench_now_ns();
    for (size_t i = 0; i < count; i++) {
        method->write(i + 1);
        if (i % BATCH == 0)
            method->quiet();
    }
    figure = (double)(bench_now_ns() - begin) / (double)count;
    method->leave();
    return figure;
}

static void run_stores(void *argument, double *figures)
{
    figures[0] = bench_parallel_mean(1, store_thread, argument);
    settle();
}

/* Two objects that stay take turns: the store, and dropping what was there, without making and freeing. */
static void run_swaps(void *argument, double *figures)
{
    struct node *both[2] = {make_node(1), make_node(2)};
    size_t count = bench_size(3000000, 300000);
    uint64_t begin = bench_now_ns();

    (void)argument;
    for (size_t i = 0; i < count; i++) {
        if (ouro_slot_store(&shared.slot, both[i % 2]))
            bench_fail("out of memory");
        if (i % BATCH == 0)
            ouro_safepoint();
    }
    figures[0] = (double)(bench_now_ns() - begin) / (double)count;
    ouro_decref(both[0]);
    ouro_decref(both[1]);
    settle();
}

/* What making and freeing costs, which the stores above contain. */
static void run_news(void *argument, double *figures)
{
    size_t count = bench_size(3000000, 300000);
    uint64_t begin = bench_now_ns();

    (void)argument;
    for (size_t i = 0; i < count; i++) {
        struct node *node = make_node(i + 1);

        bench_keep(node);
        ouro_decref(node);
        if (i % BATCH == 0)
            ouro_safepoint();
    }
    figures[0] = (double)(bench_now_ns() - begin) / (double)count;
}

static void compare_stores(void)
{
    static const struct bench_workload workload = {
        .figure = {{"make an object and store it, nobody reads", "ns"}}};
    static const struct bench_workload without = {.figure = {{"one thread alone", "ns"}}};
    struct bench_peer peers[METHODS];
    const struct bench_peer alone[] = {{"ouro_new(), decref", run_news, NULL},
                                       {"ouro_slot_store(), of two in turn", run_swaps, NULL}};
    size_t count = 0;

    for (size_t i = 0; i < METHODS; i++) {
        if (methods[i].method == &load || methods[i].method == &bare || /* the same; nothing made */
            !methods[i].method->write)
            continue;
        peers[count++] =
            (struct bench_peer){methods[i].method == &borrow ? "ouro_slot_store_steal()"
                                                             : methods[i].name,
                                run_stores, (void *)(uintptr_t)methods[i].method};
    }
    bench_compare(&workload, peers, count);
    bench_compare(&without, alone, 2);
}

/* --- main --------------------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
    static const ouro_type_spec spec = {.name = "node", .size = sizeof(struct node)};
    ouro_memory memory;

    bench_begin(argc, argv, 5, "slot: a reference that others replace" MISSING);
    if (ouro_type_register(&spec, &node_type) || ouro_thread_register("main"))
        bench_fail("out of memory");
#if HAVE_URCU
    if (!get_default_call_rcu_data()) /* its thread starts here, where it is on no core of its own */
        bench_fail("can't start liburcu");
#endif
    for (size_t i = 0; i < POOL; i++)
        shared.pool[i].value = i + 1;
    shared.bare = &shared.pool[0];
    shared.locked = make_plain(1);
    shared.rcu = make_plain(1);
    ouro_write(1);
    if (shared_ptr.write)
        shared_ptr.write(1);

    compare_reads("read a field, one reader", 1, false, 0);
    compare_reads("read a field, two readers, each", 2, false, 0);
    compare_reads("read a field, replaced once a microsecond", 1, true, 1000);
    compare_reads("read a field, replaced all the time", 1, true, 0);
    compare_reads("two readers, replaced all the time", 2, true, 0);
    compare_stores();

    if (ouro_slot_clear(&shared.slot))
        bench_fail("out of memory");
    settle();
    free(shared.rcu);
    free(shared.locked);
    if (ouro_shutdown())
        bench_fail("a thread is left");
    ouro_memory_stats(&memory);
    if (memory.objects)
        bench_fail("an object is left");
    return 0;
}
