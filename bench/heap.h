/*
 * heap.h - the heap under the programs gc_*.c. They are compiled once for each of four peers, since a collector keeps
 * the memory that it has once got, so each run has a process of its own:
 *
 *     HEAP_OURO     this library
 *     HEAP_BDWGC    a conservative collector without counts, with as many markers as it is told
 *     HEAP_ATOMIC   atomic counts over mimalloc (or malloc): what shared_ptr does; frees no cycle
 *     HEAP_PLAIN    plain counts over it: the lower bound; one thread alone may touch an object
 *
 * A node is 32 bytes for each of them: 16 of a header, two references, then a payload that nobody looks at.
 */
#ifndef HEAP_H
#define HEAP_H

#include "bench.h"
#include "series.h"

#include <ouro.h>

#define HEAP_OURO   1
#define HEAP_BDWGC  2
#define HEAP_ATOMIC 3
#define HEAP_PLAIN  4

#ifndef HEAP
#error "HEAP has to be one of the above"
#endif

#if HEAP == HEAP_BDWGC && __has_include(<gc.h>)
#define GC_THREADS
#define GC_NO_THREAD_REDIRECTS
#include <gc.h>
#define HEAP_IS_THERE 1
#elif HEAP == HEAP_BDWGC
#define HEAP_IS_THERE   0
#define GC_malloc(size) ((void)(size), NULL) /* heap_begin() has ended the program */
#else
#define HEAP_IS_THERE 1
#endif

#if HEAP >= HEAP_ATOMIC && __has_include(<mimalloc.h>)
#include <mimalloc.h>
#define HEAP_ALLOCATE(size) mi_zalloc(size)
#define HEAP_FREE(block)    mi_free(block)
#else
#include <stdlib.h>
#define HEAP_ALLOCATE(size) calloc(1, (size))
#define HEAP_FREE(block)    free(block)
#endif

struct node {
#if HEAP == HEAP_OURO
    ouro_header ouro;
#else
    uint32_t count, rest[3];
#endif
    struct node *left, *right;
};

_Static_assert(sizeof(struct node) == 32, "nodes of the same size");

extern const char *const heap_name;
extern const bool heap_collects; /* it has a collector */

/* Options that each program has: what heap_begin() needs to know. */
extern double heap_payload;       /* bytes after a node */
extern double heap_markers;       /* of bdwgc; 0: a marker for each core */
extern const char *heap_policy;   /* of Ouro: "default", "never", "OBJECTS:PERCENT" */
extern struct series heap_pauses; /* ms, as the collector itself reports them */

/* Prepares the heap for main(), which stays registered. Ends the program well if the peer is not installed. */
void heap_begin(void);

/* Each other thread that uses the heap. */
void heap_enter(void);
void heap_leave(void);

/* Memory outside the heap that refers into it: a table. */
void heap_add_roots(void *start, size_t bytes);

/* Bytes without references, never given back. */
void *heap_buffer(size_t bytes);

/* A collection of all garbage, where there is a collector; and one that looks at every object, for collectors that can do with less. */
void heap_collect(void);
void heap_collect_fully(void);

/* Automatic collections off and on. */
void heap_automatic(bool on);

/* Sleeps without holding up a collection. */
void heap_sleep_ms(unsigned ms);

/* Objects that exist beyond the `reachable` ones; not a number if the heap can't say, or not yet. */
double heap_garbage(double reachable);

/* How many collections there have been, and how many objects they have looked at that lived on (what counts
 * is the difference; bdwgc looks at all in each). */
uint64_t heap_collections(void);
double heap_survivors_examined(void);

/* --- a thread that looks on ------------------------------------------------------------------- */

struct watch {
    double reachable;      /* objects that are no garbage; not a number: no samples */
    bool spin;             /* read the clock all the time; if not, only take samples */
    bool looking;          /* [atomic] it has begun */
    size_t working;        /* [atomic] threads that are still at work */
    struct series gaps;    /* ms: where the clock has jumped by 10 us or more */
    struct series garbage; /* objects, every 10 ms */
};

/* `threads` are going to work. The watcher spins if it has a core of its own. */
void watch_init(struct watch *watch, size_t threads, double reachable);

/* Looks on until nobody works. By a thread of its own that has entered. */
void watch_run(struct watch *watch);

/* A thread waits until somebody looks on, and begins its work. Returns the time. */
uint64_t watch_start(struct watch *watch);

/* A thread has done its work. */
static inline void watch_done(struct watch *watch)
{
    __atomic_fetch_sub(&watch->working, 1, __ATOMIC_RELEASE);
}

/* Prints gaps, pauses, garbage and memory of what ran from `start` to `end`. */
void watch_report(struct watch *watch, uint64_t start, uint64_t end);

/* --- what runs all the time ------------------------------------------------------------------- */

#if HEAP == HEAP_OURO

extern const ouro_type *heap_type;

static inline struct node *heap_make(void)
{
    struct node *node = ouro_new(heap_type);

    if (!node)
        bench_fail("out of memory");
    return node;
}

static inline void heap_hold(struct node *node)
{
    ouro_incref(node);
}

static inline void heap_drop(struct node *node)
{
    ouro_decref(node);
}

static inline void heap_pass(void)
{
    ouro_safepoint();
}

#elif HEAP == HEAP_BDWGC

extern size_t heap_node_bytes;

static inline struct node *heap_make(void)
{
    struct node *node = GC_malloc(heap_node_bytes);

    if (!node)
        bench_fail("out of memory");
    return node;
}

static inline void heap_hold(struct node *node)
{
    (void)node;
}

static inline void heap_drop(struct node *node)
{
    (void)node;
}

static inline void heap_pass(void)
{
}

#else

extern size_t heap_node_bytes;

static inline struct node *heap_make(void)
{
    struct node *node = HEAP_ALLOCATE(heap_node_bytes);

    if (!node)
        bench_fail("out of memory");
    node->count = 1;
    return node;
}

static inline void heap_hold(struct node *node)
{
    if (HEAP == HEAP_ATOMIC)
        __atomic_fetch_add(&node->count, 1, __ATOMIC_RELAXED);
    else
        node->count++;
}

/* Takes off a reference and says whether it was the last. */
static inline bool heap_is_last(struct node *node)
{
    if (HEAP == HEAP_ATOMIC)
        return __atomic_fetch_sub(&node->count, 1, __ATOMIC_ACQ_REL) == 1;
    return --node->count == 0;
}

/* Frees a node whose last reference is gone, and what it was the last to refer to. */
void heap_free_dead(struct node *node);

static inline void heap_drop(struct node *node)
{
    if (heap_is_last(node))
        heap_free_dead(node);
}

static inline void heap_pass(void)
{
}

#endif

#endif
