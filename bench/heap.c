/*
 * heap.c - the four peers and the thread that looks on; see heap.h.
 */
#include "heap.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

double heap_payload, heap_markers;
const char *heap_policy = "default";
struct series heap_pauses;
const bool heap_collects = HEAP == HEAP_OURO || HEAP == HEAP_BDWGC;

/* --- the peers -------------------------------------------------------------------------------- */

#if HEAP == HEAP_OURO

const char *const heap_name = "Ouro";
const ouro_type *heap_type;
static double survivors; /* [atomic] written by whoever collects, one at a time */

/* Collections come one after the other, so the series has one writer at a time. */
static void note_collection(const ouro_gc_info *info, void *argument)
{
    double sum;

    (void)argument;
    if (info->phase != OURO_GC_STOP)
        return;
    series_add(&heap_pauses, bench_now_ns(), (double)(info->stop_ns + info->pause_ns) / 1e6);
    __atomic_load(&survivors, &sum, __ATOMIC_RELAXED);
    sum += (double)(info->candidates - info->collected);
    __atomic_store(&survivors, &sum, __ATOMIC_RELAXED);
}

static void set_policy(void)
{
    size_t objects;
    unsigned percent;
    char rest;

    if (!strcmp(heap_policy, "never"))
        ouro_gc_set_threshold(0, 0);
    else if (sscanf(heap_policy, "%zu:%u%c", &objects, &percent, &rest) == 2)
        ouro_gc_set_threshold(objects, percent);
    else if (strcmp(heap_policy, "default") != 0)
        bench_fail("--policy wants default, never or OBJECTS:PERCENT");
}

void heap_enter(void)
{
    if (ouro_thread_register("bench"))
        bench_fail("can't register a thread");
}

void heap_leave(void)
{
    ouro_thread_unregister();
}

void heap_begin(void)
{
    static const uint16_t fields[] = {OURO_FIELD(struct node, left),
                                      OURO_FIELD(struct node, right)};
    const ouro_type_spec spec = {.name = "node",
                                 .size = sizeof(struct node) + (size_t)heap_payload,
                                 .fields = fields,
                                 .field_count = 2};

    series_init(&heap_pauses);
    set_policy();
    heap_enter();
    if (ouro_type_register(&spec, &heap_type) || ouro_gc_add_callback(note_collection, NULL))
        bench_fail("can't register a type or a callback");
}

/* References from outside count. */
void heap_add_roots(void *start, size_t bytes)
{
    (void)start;
    (void)bytes;
}

void *heap_buffer(size_t bytes)
{
    return ouro_alloc(bytes);
}

void heap_collect(void)
{
    ouro_collect();
}

void heap_collect_fully(void)
{
    ouro_collect_kind(OURO_GC_FULL);
}

void heap_automatic(bool on)
{
    if (on)
        ouro_gc_enable();
    else
        ouro_gc_disable();
}

double heap_garbage(double reachable)
{
    ouro_memory stats;
    double more;

    ouro_memory_stats(&stats);
    more = (double)stats.objects - reachable;
    return more > 0 ? more : 0;
}

uint64_t heap_collections(void)
{
    ouro_gc_stats stats;

    ouro_gc_get_stats(&stats);
    return stats.collections;
}

double heap_survivors_examined(void)
{
    double sum;

    __atomic_load(&survivors, &sum, __ATOMIC_RELAXED);
    return sum;
}

#elif HEAP == HEAP_BDWGC && HEAP_IS_THERE

const char *const heap_name = "bdwgc";
size_t heap_node_bytes;

/* Called under bdwgc's own lock. */
static void note_event(GC_EventType event)
{
    static uint64_t stopped;

    if (event == GC_EVENT_PRE_STOP_WORLD)
        stopped = bench_now_ns();
    if (event == GC_EVENT_POST_START_WORLD) {
        uint64_t now = bench_now_ns();

        series_add(&heap_pauses, now, (double)(now - stopped) / 1e6);
    }
}

void heap_enter(void)
{
    struct GC_stack_base base;

    if (GC_get_stack_base(&base) != GC_SUCCESS || GC_register_my_thread(&base) != GC_SUCCESS)
        bench_fail("can't register a thread with bdwgc");
}

void heap_leave(void)
{
    GC_unregister_my_thread();
}

void heap_begin(void)
{
    char markers[32];

    series_init(&heap_pauses);
    heap_node_bytes = sizeof(struct node) + (size_t)heap_payload;
    snprintf(markers, sizeof markers, "%.0f", heap_markers > 0 ? heap_markers : bench_cores());
    if (setenv("GC_MARKERS", markers, 1)) /* GC_set_markers_count() is not in each version */
        bench_fail("can't set GC_MARKERS");
    GC_INIT();
    GC_allow_register_threads();
    GC_set_on_collection_event(note_event);
}

void heap_add_roots(void *start, size_t bytes)
{
    GC_add_roots(start, (char *)start + bytes);
}

void *heap_buffer(size_t bytes)
{
    return GC_malloc_atomic(bytes);
}

void heap_collect(void)
{
    GC_gcollect();
}

void heap_collect_fully(void)
{
    GC_gcollect();
}

void heap_automatic(bool on)
{
    if (on)
        GC_enable();
    else
        GC_disable();
}

/* While as much lives on as before, what has been made since the last collection is garbage by now; if there has
 * been one since the first question. */
double heap_garbage(double reachable)
{
    static GC_word first;
    struct GC_prof_stats_s stats;

    (void)reachable;
    GC_get_prof_stats(&stats, sizeof stats); /* under its lock: both figures of one moment */
    if (!first)
        first = stats.gc_no + 1;
    return stats.gc_no < first ? NAN : (double)(stats.bytes_allocd_since_gc / heap_node_bytes);
}

uint64_t heap_collections(void)
{
    return GC_get_gc_no();
}

double heap_survivors_examined(void)
{
    return (double)GC_get_gc_no() * 1e12;
}

#else

const char *const heap_name = HEAP == HEAP_BDWGC    ? "bdwgc"
                              : HEAP == HEAP_ATOMIC ? "atomic counts"
                                                    : "plain counts";
size_t heap_node_bytes;

void heap_enter(void)
{
}

void heap_leave(void)
{
}

void heap_begin(void)
{
    if (!HEAP_IS_THERE) {
        fprintf(stderr, "%s is not installed\n", heap_name);
        exit(0);
    }
    series_init(&heap_pauses);
    heap_node_bytes = sizeof(struct node) + (size_t)heap_payload;
}

void heap_add_roots(void *start, size_t bytes)
{
    (void)start;
    (void)bytes;
}

void *heap_buffer(size_t bytes)
{
    return HEAP_ALLOCATE(bytes);
}

void heap_collect(void)
{
}

void heap_collect_fully(void)
{
}

void heap_automatic(bool on)
{
    (void)on;
}

double heap_garbage(double reachable)
{
    (void)reachable;
    return NAN;
}

uint64_t heap_collections(void)
{
    return 0;
}

double heap_survivors_examined(void)
{
    return 0;
}

#if HEAP >= HEAP_ATOMIC
/* A chain may be long, a tree is not deep. */
void heap_free_dead(struct node *node)
{
    do {
        struct node *left = node->left, *right = node->right;

        HEAP_FREE(node);
        if (right && heap_is_last(right))
            heap_free_dead(right);
        node = left;
    } while (node && heap_is_last(node));
}
#endif

#endif
