/*
 * support.h - what several test files need: object types whose deaths are counted, builders of graphs,
 * threads that register, gates that they wait at, a leak check after each test, captured output.
 *
 * A suite that says `.init = enter, .fini = leave` runs its tests in an attached thread, with automatic
 * collections disabled once; `leave` collects and fails the test if an object or a buffer is left that
 * the test has not announced with expect_left().
 */
#ifndef TESTS_SUPPORT_H
#define TESTS_SUPPORT_H

#include <criterion/criterion.h>
#include <ouro.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#ifdef __has_feature
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#if __has_feature(address_sanitizer)
#define UNDER_ASAN 1
#endif
#endif
#ifdef __SANITIZE_THREAD__
#define UNDER_TSAN 1
#endif
#ifdef __SANITIZE_ADDRESS__
#define UNDER_ASAN 1
#endif
#ifndef UNDER_TSAN
#define UNDER_TSAN 0
#endif
#ifndef UNDER_ASAN
#define UNDER_ASAN 0
#endif

/* How often something is done: the second number where a sanitizer makes each step slow. */
#define SCALE(plain, race_detector)    (UNDER_TSAN ? (race_detector) : (plain))
#define SCALE_MEMORY(plain, sanitizer) (UNDER_TSAN || UNDER_ASAN ? (sanitizer) : (plain))

/* Like cr_assert(), for any thread and for functions that the library calls. */
#define CHECK(condition) ((condition) ? (void)0 : test_failed(__FILE__, __LINE__, #condition))

void test_failed(const char *file, int line, const char *condition) __attribute__((noreturn));

/* --- types ------------------------------------------------------------------------------------- */

/* Two fields in a table. */
struct node {
    ouro_header ouro;
    struct node *left, *right;
    int64_t value;
};

/* References that follow the instance, reported by a visit function. */
struct array {
    ouro_header ouro;
    size_t count;
    ouro_object *items[];
};

/* No references: untracked. */
struct leaf {
    ouro_header ouro;
    int64_t value;
};

/* A reference, and the promise to be in no cycle. */
struct box {
    ouro_header ouro;
    ouro_object *content;
};

extern const ouro_type *node_type;
extern const ouro_type *array_type;
extern const ouro_type *leaf_type;
extern const ouro_type *box_type;

/* How many of each were destroyed. */
extern atomic_size_t nodes_destroyed;
extern atomic_size_t arrays_destroyed;
extern atomic_size_t leaves_destroyed;
extern atomic_size_t boxes_destroyed;

/* If set, called at the end of a node's destroy. Set it before there are other threads. */
extern void (*on_node_destroy)(struct node *node);

/* All of them end the test if memory is out. References that are handed in are stolen. */
struct node *node_new(struct node *left, struct node *right);
struct array *array_new(size_t count);
struct leaf *leaf_new(int64_t value);
struct box *box_new(ouro_object *content);

/* Registers an untracked type of that many bytes. */
const ouro_type *bytes_type(size_t size, size_t item_size);

/* A list through `left`: the first node has the value 0, the last one length - 1. */
struct node *chain_new(size_t length);

/* A list through `left` that ends where it begins. The caller's reference is to one member. */
struct node *ring_new(size_t length);

/* A full binary tree of 2^(depth + 1) - 1 nodes. */
struct node *tree_new(unsigned depth);

/* Puts a value into a field, which takes over a reference, and drops what was there. */
void node_set_left(struct node *node, struct node *left);
void node_set_right(struct node *node, struct node *right);

/* --- a test's beginning and end ------------------------------------------------------------------ */

void enter(void);
void leave(void);

/* Registers the types only; for suites that begin unregistered. */
void enter_unregistered(void);

/* How many objects are meant to be left at the end, immortal ones for example. */
void expect_left(size_t objects);

/* Passes a safepoint and counts, in all threads. */
size_t live_objects(void);
size_t live_buffers(void);

/* Of the collector; passes no safepoint. */
ouro_gc_stats stats_now(void);

/* One collection; returns how many were garbage, and leaves the figures of its last callback in `last_info`. */
extern ouro_gc_info last_info;
size_t collect_kind(ouro_gc_kind kind);

/* --- threads ------------------------------------------------------------------------------------- */

struct worker {
    pthread_t thread;
    void (*run)(void *argument);
    void *argument;
    bool bare;
};

/* Starts a thread that registers, runs the function and unregisters; a bare one leaves that to the function.
 * Neither function is a safepoint. */
void worker_start(struct worker *worker, void (*run)(void *), void *argument);
void worker_start_bare(struct worker *worker, void (*run)(void *), void *argument);

/* Waits for its end, detached if the caller was attached. */
void worker_join(struct worker *worker);

/* All in one; the caller, if attached, is detached from before the start until after the end. The last one
 * gives a stack of that many bytes, and room for what a race detector needs. */
void run_in_thread(void (*run)(void *), void *argument);
void run_in_bare_thread(void (*run)(void *), void *argument);
void run_on_stack(size_t stack, void (*run)(void *), void *argument);

/* A place to wait at until it is opened. What was done before opening has happened for who has passed. */
struct gate {
    atomic_bool open;
};

void gate_open(struct gate *gate);
void gate_wait(struct gate *gate);          /* detached, if the caller was attached */
void gate_wait_attached(struct gate *gate); /* passes no safepoint */
void gate_wait_running(struct gate *gate);  /* passes one safepoint after another */

/* Until that many threads sleep on their way to being attached, in a stopped world. No safepoint; false after 20 seconds. */
bool await_waiting(uint32_t threads);

/* Waits, detached if the caller was attached, until the counter has that value; false after 20 seconds. */
bool wait_for_count(atomic_size_t *counter, size_t value);

void sleep_ms(unsigned milliseconds);
double seconds(void);

/* --- output, and ends of processes ---------------------------------------------------------------- */

/* From here on standard error goes into a buffer. */
void capture_start(void);

/* Puts standard error back; the text is cut to the size. */
void capture_stop(char *text, size_t size);

/* Runs the function in a child process. True if it ended by abort(); what it wrote is in `text`. */
bool aborts(void (*misuse)(void), char *text, size_t size);

/* --- chance --------------------------------------------------------------------------------------- */

/* The next of a sequence of pseudo-random numbers, below the limit. */
uint32_t random_below(uint64_t *state, uint32_t limit);

/* For models of graphs: marks a node and all that it reaches, but what is marked already and behind. Each node has so many references, one
 * row each; negative ones are none. */
void model_reach(const int *refers, int nodes, int each, int from, bool *reached);

#endif
