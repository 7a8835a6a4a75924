/*
 * support.c - see support.h.
 */

#include "support.h"

#include "thread/seat.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

const ouro_type *node_type;
const ouro_type *array_type;
const ouro_type *leaf_type;
const ouro_type *box_type;

atomic_size_t nodes_destroyed;
atomic_size_t arrays_destroyed;
atomic_size_t leaves_destroyed;
atomic_size_t boxes_destroyed;

void (*on_node_destroy)(struct node *node);

static size_t expected_left;

void test_failed(const char *file, int line, const char *condition)
{
    fprintf(stderr, "%s:%d: `%s` is false\n", file, line, condition);
    abort();
}

/* --- types ------------------------------------------------------------------------------------- */

/* What a value becomes when its object is destroyed, so that a second time is noticed. */
#define GONE INT64_C(0x600d600d600d600d)

static void node_destroy(void *self)
{
    struct node *node = self;

    CHECK(!node->left && !node->right);
    CHECK(node->value != GONE);
    if (on_node_destroy)
        on_node_destroy(node);
    node->value = GONE;
    atomic_fetch_add(&nodes_destroyed, 1);
}

static void array_visit(void *self, ouro_visitor *visitor)
{
    struct array *array = self;

    ouro_visit_array(visitor, array->items, array->count);
}

static void array_destroy(void *self)
{
    struct array *array = self;

    for (size_t i = 0; i < array->count; i++)
        CHECK(!array->items[i]);
    atomic_fetch_add(&arrays_destroyed, 1);
}

static void leaf_destroy(void *self)
{
    struct leaf *leaf = self;

    CHECK(leaf->value != GONE);
    leaf->value = GONE;
    atomic_fetch_add(&leaves_destroyed, 1);
}

static void box_destroy(void *self)
{
    struct box *box = self;

    CHECK(!box->content);
    atomic_fetch_add(&boxes_destroyed, 1);
}

static const ouro_type *register_type(const ouro_type_spec *spec)
{
    const ouro_type *type;

    CHECK(ouro_type_register(spec, &type) == OURO_OK);
    return type;
}

static void register_types(void)
{
    static const uint16_t node_fields[] = {
        OURO_FIELD(struct node, left),
        OURO_FIELD(struct node, right),
    };
    static const uint16_t box_fields[] = {OURO_FIELD(struct box, content)};

    node_type = register_type(&(ouro_type_spec){
        .name = "node",
        .size = sizeof(struct node),
        .fields = node_fields,
        .field_count = 2,
        .destroy = node_destroy,
    });
    array_type = register_type(&(ouro_type_spec){
        .name = "array",
        .size = sizeof(struct array),
        .item_size = sizeof(ouro_object *),
        .visit = array_visit,
        .destroy = array_destroy,
    });
    leaf_type = register_type(&(ouro_type_spec){
        .name = "leaf",
        .size = sizeof(struct leaf),
        .destroy = leaf_destroy,
    });
    box_type = register_type(&(ouro_type_spec){
        .name = "box",
        .size = sizeof(struct box),
        .fields = box_fields,
        .field_count = 1,
        .destroy = box_destroy,
        .flags = OURO_TYPE_ACYCLIC,
    });
}

const ouro_type *bytes_type(size_t size, size_t item_size)
{
    return register_type(&(ouro_type_spec){.name = "bytes", .size = size, .item_size = item_size});
}

struct node *node_new(struct node *left, struct node *right)
{
    struct node *node = ouro_new(node_type);

    CHECK(node);
    node->left = left;
    node->right = right;
    return node;
}

struct array *array_new(size_t count)
{
    struct array *array = ouro_new_array(array_type, count);

    CHECK(array);
    array->count = count;
    return array;
}

struct leaf *leaf_new(int64_t value)
{
    struct leaf *leaf = ouro_new(leaf_type);

    CHECK(leaf);
    leaf->value = value;
    return leaf;
}

struct box *box_new(ouro_object *content)
{
    struct box *box = ouro_new(box_type);

    CHECK(box);
    box->content = content;
    return box;
}

struct node *chain_new(size_t length)
{
    struct node *first = NULL;

    while (length > 0) {
        first = node_new(first, NULL);
        first->value = (int64_t)--length;
    }
    return first;
}

struct node *ring_new(size_t length)
{
    struct node *last = node_new(NULL, NULL);
    struct node *first = last;

    for (size_t i = 1; i < length; i++)
        first = node_new(first, NULL);
    last->left = ouro_incref(first);
    return first;
}

struct node *tree_new(unsigned depth)
{
    struct node *left, *right;

    if (depth == 0)
        return node_new(NULL, NULL);
    left = tree_new(depth - 1);
    right = tree_new(depth - 1);
    return node_new(left, right);
}

void node_set_left(struct node *node, struct node *left)
{
    struct node *old = node->left;

    node->left = left;
    ouro_decref_or_null(old);
}

void node_set_right(struct node *node, struct node *right)
{
    struct node *old = node->right;

    node->right = right;
    ouro_decref_or_null(old);
}

/* --- a test's beginning and end ------------------------------------------------------------------ */

void enter_unregistered(void)
{
    register_types();
}

void enter(void)
{
    CHECK(ouro_thread_register("test") == OURO_OK);
    ouro_gc_disable();
    register_types();
}

void leave(void)
{
    ouro_collect();
    cr_assert_eq(live_objects(), expected_left, "objects are left: %zu", live_objects());
    cr_assert_eq(live_buffers(), 0, "buffers are left: %zu", live_buffers());
}

void expect_left(size_t objects)
{
    expected_left = objects;
}

ouro_gc_stats stats_now(void)
{
    ouro_gc_stats stats;

    ouro_gc_get_stats(&stats);
    return stats;
}

size_t live_objects(void)
{
    ouro_memory stats;

    ouro_safepoint();
    ouro_memory_stats(&stats);
    return stats.objects;
}

size_t live_buffers(void)
{
    ouro_memory stats;

    ouro_safepoint();
    ouro_memory_stats(&stats);
    return stats.buffers;
}

ouro_gc_info last_info;

static void remember_info(const ouro_gc_info *info, void *argument)
{
    (void)argument;
    last_info = *info;
}

size_t collect_kind(ouro_gc_kind kind)
{
    CHECK(ouro_gc_add_callback(remember_info, NULL) == OURO_OK);
    size_t collected = ouro_collect_kind(kind);

    CHECK(ouro_gc_remove_callback(remember_info, NULL) == OURO_OK);
    CHECK(last_info.kind == kind);
    CHECK(last_info.collected == collected);
    return collected;
}

/* --- threads ------------------------------------------------------------------------------------- */

/* Room for what a race detector needs of a stack. */
enum { EXTRA_STACK = SCALE(0, 256 * 1024) };

static void *worker_main(void *argument)
{
    struct worker *worker = argument;

    if (!worker->bare)
        CHECK(ouro_thread_register("worker") == OURO_OK);
    worker->run(worker->argument);
    if (!worker->bare)
        ouro_thread_unregister();
    return NULL;
}

static void start(struct worker *worker, size_t stack)
{
    pthread_attr_t attributes;

    CHECK(pthread_attr_init(&attributes) == 0);
    if (stack > 0)
        CHECK(pthread_attr_setstacksize(&attributes, stack) == 0);
    CHECK(pthread_create(&worker->thread, &attributes, worker_main, worker) == 0);
    pthread_attr_destroy(&attributes);
}

void worker_start(struct worker *worker, void (*run)(void *), void *argument)
{
    *worker = (struct worker){.run = run, .argument = argument};
    start(worker, 0);
}

void worker_start_bare(struct worker *worker, void (*run)(void *), void *argument)
{
    *worker = (struct worker){.run = run, .argument = argument, .bare = true};
    start(worker, 0);
}

void worker_join(struct worker *worker)
{
    bool attached = ouro_thread_state() == OURO_STATE_ATTACHED;

    if (attached)
        ouro_detach();
    CHECK(pthread_join(worker->thread, NULL) == 0);
    if (attached)
        ouro_attach();
}

/* The caller is detached from the beginning, so that the other thread never meets it half way. */
static void run_worker(struct worker worker, size_t stack)
{
    bool attached = ouro_thread_state() == OURO_STATE_ATTACHED;

    if (attached)
        ouro_detach();
    start(&worker, stack);
    CHECK(pthread_join(worker.thread, NULL) == 0);
    if (attached)
        ouro_attach();
}

void run_in_thread(void (*run)(void *), void *argument)
{
    run_worker((struct worker){.run = run, .argument = argument}, 0);
}

void run_in_bare_thread(void (*run)(void *), void *argument)
{
    run_worker((struct worker){.run = run, .argument = argument, .bare = true}, 0);
}

void run_on_stack(size_t stack, void (*run)(void *), void *argument)
{
    run_worker((struct worker){.run = run, .argument = argument}, stack + EXTRA_STACK);
}

void gate_open(struct gate *gate)
{
    atomic_store(&gate->open, true);
}

void gate_wait(struct gate *gate)
{
    bool attached = ouro_thread_state() == OURO_STATE_ATTACHED;

    if (attached)
        ouro_detach();
    while (!atomic_load(&gate->open))
        usleep(50);
    if (attached)
        ouro_attach();
}

void gate_wait_attached(struct gate *gate)
{
    while (!atomic_load(&gate->open))
        usleep(50);
}

void gate_wait_running(struct gate *gate)
{
    while (!atomic_load(&gate->open)) {
        ouro_safepoint();
        sched_yield();
    }
}

bool await_waiting(uint32_t threads)
{
    double end = seconds() + 20;
    uint32_t waiting;

    do {
        sched_yield();
        waiting = 0;
        for (uint32_t id = seat_count(); id > 0; id--)
            waiting += (load_relaxed(&seat_by_id(id)->word) & SEAT_WAIT) != 0;
    } while (waiting < threads && seconds() < end);
    return waiting == threads;
}

bool wait_for_count(atomic_size_t *counter, size_t value)
{
    bool attached = ouro_thread_state() == OURO_STATE_ATTACHED;
    double end = seconds() + 20;

    if (attached)
        ouro_detach();
    while (atomic_load(counter) != value && seconds() < end)
        usleep(100);
    if (attached)
        ouro_attach();
    return atomic_load(counter) == value;
}

void sleep_ms(unsigned milliseconds)
{
    usleep(milliseconds * 1000);
}

double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* --- output, and ends of processes ---------------------------------------------------------------- */

static int capture_file = -1;
static int capture_stderr = -1;

/* Reads a file from its beginning into a string. */
static void read_all(int file, char *text, size_t size)
{
    ssize_t bytes = pread(file, text, size - 1, 0);

    CHECK(bytes >= 0);
    text[bytes] = '\0';
}

void capture_start(void)
{
    fflush(stderr);
    capture_file = memfd_create("stderr", MFD_CLOEXEC);
    capture_stderr = dup(STDERR_FILENO);
    CHECK(capture_file >= 0 && capture_stderr >= 0);
    CHECK(dup2(capture_file, STDERR_FILENO) == STDERR_FILENO);
}

void capture_stop(char *text, size_t size)
{
    fflush(stderr);
    CHECK(dup2(capture_stderr, STDERR_FILENO) == STDERR_FILENO);
    read_all(capture_file, text, size);
    close(capture_stderr);
    close(capture_file);
}

bool aborts(void (*misuse)(void), char *text, size_t size)
{
    int file = memfd_create("stderr", MFD_CLOEXEC);
    int status;

    CHECK(file >= 0);
    fflush(NULL);

    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        CHECK(dup2(file, STDERR_FILENO) == STDERR_FILENO);
        misuse();
        _exit(0);
    }
    while (waitpid(pid, &status, 0) < 0)
        CHECK(errno == EINTR);
    read_all(file, text, size);
    close(file);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT;
}

/* --- chance --------------------------------------------------------------------------------------- */

uint32_t random_below(uint64_t *state, uint32_t limit)
{
    /* splitmix64 */
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    z ^= z >> 31;
    return (uint32_t)((z >> 32) * limit >> 32);
}

void model_reach(const int *refers, int nodes, int each, int from, bool *reached)
{
    int *stack = calloc((size_t)nodes, sizeof *stack), depth = 0;

    CHECK(stack);
    if (!reached[from])
        stack[depth++] = from;
    reached[from] = true;
    while (depth > 0) {
        const int *row = &refers[stack[--depth] * each];

        for (int r = 0; r < each; r++) {
            int to = row[r];

            if (to >= 0 && !reached[to]) {
                reached[to] = true;
                stack[depth++] = to;
            }
        }
    }
    free(stack);
}
