/*
 * article.c - what an article on Python's memory management shows, shown on this library.
 *
 * Each line gives what is claimed, what the article shows, and what came out here. The program
 * checks its own figures: a line that does not hold is marked, and the exit status is then 1. What
 * depends on the machine, such as times and addresses, is printed without a check.
 */
#include <inttypes.h>
#include <ouro.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* --- types of objects ------------------------------------------------------------------------- */

/* An object with one reference field, enough for a cycle of one or of several. */
struct node {
    ouro_header ouro;
    struct node *next;
};

/* Python's list: the references are in a buffer that it owns, so there is a `visit` function. */
struct list {
    ouro_header ouro;
    ouro_object **items;
    size_t count, capacity;
};

/* An exception holds its traceback, that one the frames, and a frame the exception it caught. */
struct exception {
    ouro_header ouro;
    struct traceback *traceback;
};

struct traceback {
    ouro_header ouro;
    struct traceback *next;
    struct frame *frame;
};

struct frame {
    ouro_header ouro;
    struct frame *back;
    struct exception *local;
};

static const ouro_type *node_type, *list_type, *exception_type, *traceback_type, *frame_type;

/* --- printing and checking -------------------------------------------------------------------- */

static int failures;

static void title(const char *text)
{
    printf("\n%s\n", text);
}

static void mark(bool holds)
{
    printf("%s\n", holds ? "" : "   <-- DOES NOT HOLD");
    if (!holds)
        failures++;
}

/* A number of the article, which has to come out here as well. */
static void same(const char *what, uint64_t article, uint64_t here)
{
    printf("  %-58s article: %-6" PRIu64 " here: %" PRIu64, what, article, here);
    mark(article == here);
}

/* A number that has to come out here, in a place where the article has none. */
static void equal(const char *what, uint64_t expected, uint64_t here)
{
    printf("  %-74s here: %" PRIu64, what, here);
    mark(expected == here);
}

/* A sentence that has to be true. */
static void __attribute__((format(printf, 2, 3))) claim(bool holds, const char *format, ...)
{
    va_list arguments;

    printf("  ");
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    mark(holds);
}

/* Ends the program if something that it can't go on without has failed. */
static void need(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "article: %s\n", what);
        exit(1);
    }
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* --- making objects --------------------------------------------------------------------------- */

static void *make(const ouro_type *type)
{
    void *o = ouro_new(type);

    need(o, "out of memory");
    return o;
}

static void list_visit(void *self, ouro_visitor *visitor)
{
    struct list *list = self;

    ouro_visit_array(visitor, list->items, list->count);
}

static void list_destroy(void *self)
{
    struct list *list = self;

    ouro_free(list->items);
}

/* Appends a reference of the list's own; the caller keeps his. */
static void list_append(struct list *list, ouro_object *item)
{
    if (list->count == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 4;
        ouro_object **items = ouro_realloc(list->items, capacity * sizeof *items);

        need(items, "out of memory");
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = ouro_incref(item);
}

/* An object that refers to itself, and that nothing else refers to. */
static void make_self_cycle(void)
{
    struct node *x = make(node_type);

    x->next = ouro_incref(x);
    ouro_decref(x);
}

static void register_type(const ouro_type_spec *spec, const ouro_type **type)
{
    ouro_status status = ouro_type_register(spec, type);

    need(status == OURO_OK, ouro_status_text(status));
}

static void register_types(void)
{
    static const uint16_t node_fields[] = {OURO_FIELD(struct node, next)};
    static const uint16_t exception_fields[] = {OURO_FIELD(struct exception, traceback)};
    static const uint16_t traceback_fields[] = {OURO_FIELD(struct traceback, next),
                                                OURO_FIELD(struct traceback, frame)};
    static const uint16_t frame_fields[] = {OURO_FIELD(struct frame, back),
                                            OURO_FIELD(struct frame, local)};

    register_type(&(ouro_type_spec){.name = "node",
                                    .size = sizeof(struct node),
                                    .fields = node_fields,
                                    .field_count = 1},
                  &node_type);
    register_type(&(ouro_type_spec){.name = "list",
                                    .size = sizeof(struct list),
                                    .visit = list_visit,
                                    .destroy = list_destroy},
                  &list_type);
    register_type(&(ouro_type_spec){.name = "exception",
                                    .size = sizeof(struct exception),
                                    .fields = exception_fields,
                                    .field_count = 1},
                  &exception_type);
    register_type(&(ouro_type_spec){.name = "traceback",
                                    .size = sizeof(struct traceback),
                                    .fields = traceback_fields,
                                    .field_count = 2},
                  &traceback_type);
    register_type(&(ouro_type_spec){.name = "frame",
                                    .size = sizeof(struct frame),
                                    .fields = frame_fields,
                                    .field_count = 2},
                  &frame_type);
}

/* --- looking ---------------------------------------------------------------------------------- */

/* What stands at an address, as somebody sees it who knows nothing but the address. */
static ouro_header_info at_address(uintptr_t address)
{
    unsigned char bytes[sizeof(ouro_header)];
    ouro_header_info info;

    memcpy(bytes, (const void *)address, sizeof bytes);
    ouro_header_decode(bytes, &info);
    return info;
}

struct wanted {
    uintptr_t address;
    bool found;
};

static bool is_wanted(ouro_object *o, void *argument)
{
    struct wanted *wanted = argument;

    wanted->found = (uintptr_t)o == wanted->address;
    return !wanted->found;
}

/* Whether a live object is there. Asks the library, since a freed block may not be read. */
static bool is_alive(uintptr_t address)
{
    struct wanted wanted = {address, false};

    ouro_each_object(is_wanted, &wanted);
    return wanted.found;
}

static size_t objects_alive(void)
{
    ouro_memory memory;

    ouro_memory_stats(&memory);
    return memory.objects;
}

/* --- a second thread that holds references ---------------------------------------------------- */

struct holder {
    struct node *object;
    unsigned references; /* how many it takes */
    pthread_barrier_t taken, looked_at;
    pthread_t thread;
};

static void holder_wait(pthread_barrier_t *barrier)
{
    OURO_DETACHED
    {
        pthread_barrier_wait(barrier);
    }
}

static void *holder_main(void *argument)
{
    struct holder *holder = argument;
    ouro_status status = ouro_thread_register("holder");

    need(status == OURO_OK, ouro_status_text(status));
    for (unsigned i = 0; i < holder->references; i++)
        ouro_incref(holder->object);
    holder_wait(&holder->taken);
    holder_wait(&holder->looked_at);
    for (unsigned i = 0; i < holder->references; i++)
        ouro_decref(holder->object);
    ouro_thread_unregister();
    return NULL;
}

/* Starts a thread that takes references to an object, and returns when it has them. */
static void holder_start(struct holder *holder, struct node *object, unsigned references)
{
    holder->object = object;
    holder->references = references;
    need(!pthread_barrier_init(&holder->taken, NULL, 2), "can't make a barrier");
    need(!pthread_barrier_init(&holder->looked_at, NULL, 2), "can't make a barrier");
    need(!pthread_create(&holder->thread, NULL, holder_main, holder), "can't start a thread");
    holder_wait(&holder->taken);
}

/* Lets it drop them again, and returns when it has ended. */
static void holder_end(struct holder *holder)
{
    holder_wait(&holder->looked_at);
    OURO_DETACHED
    {
        pthread_join(holder->thread, NULL);
    }
    pthread_barrier_destroy(&holder->taken);
    pthread_barrier_destroy(&holder->looked_at);
}

/* --- the claims ------------------------------------------------------------------------------- */

/* sys.getrefcount(): the argument of the call is a reference too, counted while the call runs. */
static uint32_t getrefcount(struct node *x)
{
    struct node *argument = ouro_incref(x);
    uint32_t count = ouro_refcount(argument);

    ouro_decref(argument);
    return count;
}

static void show_counts(void)
{
    struct node *x = make(node_type);
    struct node *y;
    ouro_header_info info;
    struct holder holder;

    title("Reference counts. As in Python, the argument of getrefcount() counts as one more.");
    same("x = Node(); getrefcount(x)", 2, getrefcount(x));
    y = ouro_incref(x);
    same("y = x;      getrefcount(x)", 3, getrefcount(x));
    ouro_decref(y);
    same("del y;      getrefcount(x)", 2, getrefcount(x));
    equal("ouro_refcount(x), which takes no reference", 1, ouro_refcount(x));

    printf("  A count has two halves: the owner's, and that of all other threads.\n");
    holder_start(&holder, x, 3);
    info = at_address((uintptr_t)x);
    equal("a second thread holds 3 references; the owner's half", 1, info.owned_count);
    equal("                                    the shared half", 3, (uint64_t)info.shared_count);
    equal("                                    their sum, ouro_refcount(x)", 4, ouro_refcount(x));
    holder_end(&holder);
    equal("it has dropped them; ouro_refcount(x)", 1, ouro_refcount(x));
    ouro_decref(x);
}

static void show_raw_address(void)
{
    struct node *x = make(node_type);
    uintptr_t address = (uintptr_t)x;
    char text[200];

    title("An object's memory starts with its count, which can be read at the raw address.");
    equal("the article: ctypes.c_long.from_address(id(x)).value", 1,
          (uint64_t)at_address(address).count);
    x->next = ouro_incref(x);
    equal("the same after one reference more", 2, (uint64_t)at_address(address).count);
    ouro_describe((const void *)address, text, sizeof text);
    printf("  ouro_describe(): %s\n", text);
    ouro_clear(&x->next);
    ouro_decref(x);
}

static void show_self_reference(void)
{
    struct list *x = make(list_type);
    uintptr_t address = (uintptr_t)x;
    size_t before = objects_alive();

    title("A list that contains itself keeps itself alive after its name is gone.");
    list_append(x, OURO_OF(x));
    same("x = []; x.append(x); the count at the address of x", 2,
         (uint64_t)at_address(address).count);
    ouro_decref(x);
    same("del x;               the count at that address", 1, (uint64_t)at_address(address).count);
    claim(is_alive(address), "it is alive, although no name leads to it");
    equal("gc.collect()", 1, ouro_collect());
    claim(!is_alive(address), "it is gone");
    equal("objects fewer than before", 1, before - objects_alive());
}

static void show_reachability(void)
{
    struct node *a = make(node_type), *b = make(node_type);
    struct node *c = make(node_type), *d = make(node_type);
    uintptr_t addresses[] = {(uintptr_t)a, (uintptr_t)b};

    title("The collector finds and frees what no code can reach, and nothing else.");
    a->next = ouro_incref(b);
    b->next = ouro_incref(a);
    c->next = ouro_incref(d);
    d->next = ouro_incref(c);
    ouro_decref(a);
    ouro_decref(b);
    ouro_decref(d);
    printf("  Two cycles a <-> b and c <-> d; only c is still a name.\n");
    equal("gc.collect()", 2, ouro_collect());
    claim(!is_alive(addresses[0]) && !is_alive(addresses[1]), "a and b are gone");
    claim(is_alive((uintptr_t)c) && c->next->next == c && ouro_refcount(c) == 2,
          "c and d are alive, and their counts are what they were");
    ouro_decref(c);
    equal("del c; gc.collect()", 2, ouro_collect());
}

/* --- collections that nobody asks for --------------------------------------------------------- */

enum { LOG_SIZE = 16 };

/* What the callback writes down. It runs on the thread that collects, here the main thread. */
struct log {
    unsigned starts, stops; /* calls by phase */
    size_t made;            /* objects made so far, by the loop that is being watched */
    size_t made_at[LOG_SIZE];
    unsigned runs; /* entries of made_at */
    ouro_gc_info last;
    bool print;
};

static void on_collection(const ouro_gc_info *info, void *argument)
{
    struct log *log = argument;

    if (info->phase == OURO_GC_START) {
        log->starts++;
        return;
    }
    log->stops++;
    log->last = *info;
    if (log->runs < LOG_SIZE)
        log->made_at[log->runs++] = log->made;
    if (log->print)
        printf("  gc: phase stop, generation %u, number %" PRIu64 ", %s: %zu new, %zu collected,"
               " %zu uncollectable, %.0f us\n",
               info->generation, info->number,
               info->reason == OURO_GC_AUTOMATIC ? "automatic" : "requested", info->net_new,
               info->collected, info->uncollectable, (double)info->total_ns / 1e3);
}

/* Makes self-cycles, each of them garbage at once, with a safepoint after each. */
static void make_self_cycles(struct log *log, size_t count)
{
    log->runs = 0;
    for (log->made = 0; log->made < count;) {
        make_self_cycle();
        log->made++;
        ouro_safepoint();
    }
}

/* Whether each collection came that many objects after the one before it, or the start. */
static bool is_spaced(const struct log *log, size_t least, size_t most)
{
    size_t before = 0;

    for (unsigned i = 0; i < log->runs; i++) {
        size_t between = log->made_at[i] - before;

        if (between < least || between > most)
            return false;
        before = log->made_at[i];
    }
    return log->runs > 0;
}

static void show_thresholds(struct log *log)
{
    size_t objects, left;
    unsigned percent;
    ouro_gc_stats before, after;

    title("It runs by itself after about 2,000 net new objects: 5,000 self-cycles in a loop.");
    ouro_gc_get_threshold(&objects, &percent);
    same("gc.get_threshold()[0]", 2000, objects);
    equal("percent of the survivors, if that is more", 25, percent);

    ouro_collect(); /* so that counting starts at 0 */
    ouro_gc_get_stats(&before);
    log->print = true;
    make_self_cycles(log, 5000);
    log->print = false;
    ouro_gc_get_stats(&after);
    left = ouro_collect();
    equal("runs that nobody asked for", 2, after.automatic - before.automatic);
    for (unsigned i = 0; i < log->runs && i < 2; i++)
        printf("  run %u came after %zu objects\n", i + 1, log->made_at[i]);
    claim(log->made_at[0] >= 1900 && log->made_at[0] <= 2200 &&
              log->made_at[1] - log->made_at[0] >= 1900 &&
              log->made_at[1] - log->made_at[0] <= 2200,
          "between runs: about 2,000 (1,900 to 2,200 accepted)");
    printf("  The count moves in steps of up to 128: blocks are counted when a thread takes a "
           "batch of\n"
           "  them, so that making an object counts nothing.\n");
    equal("found by these and by a gc.collect() after the loop", 5000,
          after.collected - before.collected + left);

    ouro_gc_set_threshold(500, 0);
    ouro_gc_get_threshold(&objects, &percent);
    equal("gc.set_threshold(500); gc.get_threshold()[0]", 500, objects);
    make_self_cycles(log, 5000);
    claim(is_spaced(log, 350, 700), "with 500: %u runs in 5,000 objects, each after 350 to 700",
          log->runs);
    ouro_gc_set_threshold(2000, 25);
    ouro_collect();
}

static void show_callbacks(struct log *log)
{
    unsigned starts = log->starts, stops = log->stops;
    const ouro_gc_info *info = &log->last;
    uint64_t before;

    title("Callbacks get a phase and a record of what happened, and each run can be timed.");
    for (int i = 0; i < 100; i++)
        make_self_cycle();
    before = now_ns();
    ouro_collect();
    before = now_ns() - before;
    equal("gc.callbacks: calls with phase \"start\"", 1, log->starts - starts);
    equal("              calls with phase \"stop\"", 1, log->stops - stops);
    equal("info[\"generation\"] of a gc.collect(): 2 stands for all objects", 2, info->generation);
    equal("info[\"collected\"] after 100 self-cycles", 100, info->collected);
    equal("info[\"uncollectable\"]", 0, info->uncollectable);
    claim(info->stop_ns + info->pause_ns <= info->total_ns && info->total_ns <= before,
          "here also durations: to stop %.1f us, pause %.1f us, all %.1f us; from outside %.1f us",
          (double)info->stop_ns / 1e3, (double)info->pause_ns / 1e3, (double)info->total_ns / 1e3,
          (double)before / 1e3);
}

/* --- the layout ------------------------------------------------------------------------------- */

/* What CPython's default build has in front of an object that its collector tracks. */
struct cpython_tracked {
    void *_gc_next;
    void *_gc_prev;
    int64_t ob_refcnt;
    void *ob_type;
};

static void print_bytes(const char *what, const unsigned char *bytes)
{
    printf("  %-26s", what);
    for (size_t i = 0; i < sizeof(ouro_header); i++)
        printf("%s%02x", i % 4 ? " " : "  ", bytes[i]);
    putchar('\n');
}

static bool count_node(ouro_object *o, void *argument)
{
    size_t *nodes = argument;

    if (ouro_type_of(o) == node_type)
        ++*nodes;
    return true;
}

static void show_layout(void)
{
    struct node *chain = NULL;
    unsigned char bytes[sizeof(ouro_header)];
    ouro_header_info info;
    size_t nodes = 0;

    title("What stands in front of a tracked object.");
    for (int i = 0; i < 1000; i++) {
        struct node *node = make(node_type);

        node->next = chain;
        chain = node;
    }
    memcpy(bytes, chain, sizeof bytes);
    ouro_header_decode(bytes, &info);
    printf("  CPython, byte %2zu  _gc_next         here, byte %2zu  owned: owner's id, its count\n",
           offsetof(struct cpython_tracked, _gc_next), offsetof(ouro_header, owned));
    printf("          byte %2zu  _gc_prev               byte %2zu  shared: count of the others, "
           "flags\n",
           offsetof(struct cpython_tracked, _gc_prev), offsetof(ouro_header, shared));
    printf("          byte %2zu  ob_refcnt              byte %2zu  gc: the collector's scratch\n",
           offsetof(struct cpython_tracked, ob_refcnt), offsetof(ouro_header, gc));
    printf("          byte %2zu  ob_type                byte %2zu  type, byte %zu lock, byte %zu "
           "flags\n",
           offsetof(struct cpython_tracked, ob_type), offsetof(ouro_header, type),
           offsetof(ouro_header, lock), offsetof(ouro_header, flags));
    printf("  %-58s article: %-6zu here: %zu", "bytes in all", sizeof(struct cpython_tracked),
           sizeof(ouro_header));
    mark(sizeof(struct cpython_tracked) == 32 && sizeof(ouro_header) == 16);
    print_bytes("the bytes of a node:", bytes);
    printf("  decoded: owner %u, owned %u, shared %d, type %u (%s), lock %u, flags %u\n",
           info.owner, info.owned_count, info.shared_count, info.type, info.type_name, info.lock,
           info.flags);
    claim(info.owner == ouro_thread_id() && info.count == 1 && !strcmp(info.type_name, "node"),
          "owner is this thread, the count 1, the type \"node\"");
    ouro_each_object(count_node, &nodes);
    equal("no list leads through the objects: a walk over the pages finds, of 1,000,", 1000, nodes);
    ouro_decref(chain);
}

/* --- exceptions ------------------------------------------------------------------------------- */

/* A frame that was entered from another one; gives up the caller's reference to that. */
static struct frame *enter(struct frame *back)
{
    struct frame *frame = make(frame_type);

    frame->back = back;
    return frame;
}

static struct traceback *trace(struct traceback *next, struct frame *frame)
{
    struct traceback *traceback = make(traceback_type);

    traceback->next = next;
    traceback->frame = ouro_incref(frame);
    return traceback;
}

/*
 * def inner(): raise Exception
 * def outer():
 *     try: inner()
 *     except Exception as e: saved = e      # a local variable that outlives the handler
 *
 * When outer() returns, exception -> traceback -> frame of outer() -> exception is a cycle. Makes 5
 * objects.
 */
static void raise_and_catch(void)
{
    struct frame *outer = enter(NULL);
    struct frame *inner = enter(ouro_incref(outer));
    struct exception *e = make(exception_type);

    e->traceback = trace(trace(NULL, inner), outer);
    ouro_decref(inner);
    outer->local = e;
    ouro_decref(outer);
}

static void show_exceptions(void)
{
    enum { ROUNDS = 10000, OBJECTS = 5 };
    size_t before = objects_alive();
    ouro_gc_stats first, last;
    size_t by_request;

    title("Exceptions make cycles: exception -> traceback -> frame -> exception, 10,000 times.");
    ouro_gc_get_stats(&first);
    for (int i = 0; i < ROUNDS; i++) {
        raise_and_catch();
        ouro_safepoint();
    }
    ouro_gc_get_stats(&last);
    by_request = ouro_collect();
    printf("  automatic collections: %" PRIu64 ", which found %" PRIu64
           " objects; a last gc.collect() found %zu\n",
           last.automatic - first.automatic, last.collected - first.collected, by_request);
    claim(last.automatic > first.automatic, "they were found while the program was running");
    equal("all together", (uint64_t)ROUNDS * OBJECTS,
          last.collected - first.collected + by_request);
    equal("objects alive, more than before", 0, objects_alive() - before);
}

/* --- the price of a stop ---------------------------------------------------------------------- */

/* A thread that works, and looks at the clock all the time to see when it was stopped. */
struct worker {
    bool ready, end; /* [atomic] */
    uint64_t turns;
    uint64_t longest_gap_ns;
};

static void *worker_main(void *argument)
{
    struct worker *worker = argument;
    ouro_status status = ouro_thread_register("worker");
    struct node *node;
    uint64_t before;

    need(status == OURO_OK, ouro_status_text(status));
    node = make(node_type);
    before = now_ns();
    while (!__atomic_load_n(&worker->end, __ATOMIC_ACQUIRE)) {
        uint64_t now;

        ouro_decref(ouro_incref(node));
        ouro_safepoint();
        now = now_ns();
        if (now - before > worker->longest_gap_ns)
            worker->longest_gap_ns = now - before;
        before = now;
        worker->turns++;
        __atomic_store_n(&worker->ready, true, __ATOMIC_RELEASE);
    }
    ouro_decref(node);
    ouro_thread_unregister();
    return NULL;
}

static void show_stop(const struct log *log)
{
    enum { LIVE = 200000, COLLECTIONS = 10 };
    struct worker worker = {0};
    struct list *root = make(list_type);
    uint64_t stop_max = 0, pause_max = 0;
    bool plausible = true;
    pthread_t thread;

    title("A collection stops the world: 200,000 live objects, and a second thread that runs.");
    for (int i = 0; i < LIVE; i++) {
        struct node *node = make(node_type);

        list_append(root, OURO_OF(node));
        ouro_decref(node);
    }
    need(!pthread_create(&thread, NULL, worker_main, &worker), "can't start a thread");
    while (!__atomic_load_n(&worker.ready, __ATOMIC_ACQUIRE)) {
        OURO_DETACHED
        {
            nanosleep(&(struct timespec){0, 100000}, NULL);
        }
    }
    for (int i = 0; i < COLLECTIONS; i++) {
        size_t found = ouro_collect_kind(OURO_GC_FULL);
        const ouro_gc_info *info = &log->last;

        plausible = plausible && found == 0 && info->candidates > LIVE &&
                    info->stop_ns + info->pause_ns <= info->total_ns && info->pause_ns > 0;
        if (info->stop_ns > stop_max)
            stop_max = info->stop_ns;
        if (info->pause_ns > pause_max)
            pause_max = info->pause_ns;
    }
    __atomic_store_n(&worker.end, true, __ATOMIC_RELEASE);
    OURO_DETACHED
    {
        pthread_join(thread, NULL);
    }
    claim(plausible, "%d collections looked at more than %d objects each, and found no garbage",
          COLLECTIONS, LIVE);
    printf("  longest time to stop: %.1f us; longest pause: %.3f ms, %.1f ns an object\n",
           (double)stop_max / 1e3, (double)pause_max / 1e6, (double)pause_max / LIVE);
    claim(worker.turns > 0, "the other thread's longest gap: %.3f ms, in %" PRIu64 " turns",
          (double)worker.longest_gap_ns / 1e6, worker.turns);
    ouro_decref(root);
}

/* --- free threading --------------------------------------------------------------------------- */

static void show_biased_counts(void)
{
    struct node *x = make(node_type);
    unsigned char alone[sizeof(ouro_header)], owner[sizeof alone], foreign[sizeof alone];
    struct holder holder;
    ouro_header from, to;

    title("Biased counts: a thread that is not the owner changes other bytes than the owner.");
    memcpy(alone, x, sizeof alone);
    ouro_incref(x);
    memcpy(owner, x, sizeof owner);
    holder_start(&holder, x, 1);
    memcpy(foreign, x, sizeof foreign);
    print_bytes("one reference:", alone);
    print_bytes("the owner's second:", owner);
    print_bytes("another thread's one:", foreign);
    memcpy(&from, alone, sizeof from);
    memcpy(&to, owner, sizeof to);
    claim(to.owned - from.owned == 1 && !memcmp(alone + 2, owner + 2, 14),
          "the owner's: bytes 0 and 1 are greater by 1, no other has changed");
    memcpy(&from, foreign, sizeof from);
    claim(from.shared - to.shared == OURO_SHARED_ONE && !memcmp(owner, foreign, 4) &&
              !memcmp(owner + 8, foreign + 8, 8),
          "another's: bytes 4 to 7 are greater by %u, no other has changed", OURO_SHARED_ONE);
    holder_end(&holder);
    ouro_decref(x);
    ouro_decref(x);
}

static bool count_mortal(ouro_object *o, void *argument)
{
    size_t *mortal = argument;

    if (ouro_refcount(o) != OURO_COUNT_IMMORTAL)
        ++*mortal;
    return true;
}

/* The one object that this program leaves behind is made last, when all else is seen to be gone. */
static void show_end(void)
{
    struct node *none;
    unsigned char before[sizeof(ouro_header)], after[sizeof before];
    size_t mortal = 0;
    ouro_status status;

    title("The end.");
    ouro_collect();
    equal("objects alive", 0, objects_alive());

    none = make(node_type);
    ouro_immortalize(none);
    ouro_safepoint();
    memcpy(before, none, sizeof before);
    ouro_decref(ouro_incref(none));
    ouro_decref(none);
    memcpy(after, none, sizeof after);
    claim(ouro_refcount(none) == OURO_COUNT_IMMORTAL && !memcmp(before, after, sizeof before),
          "an immortal object, as None is in Python: counting it writes nothing");

    status = ouro_shutdown();
    claim(status == OURO_OK, "ouro_shutdown(): %s", ouro_status_text(status));
    ouro_each_object(count_mortal, &mortal);
    equal("objects alive, beside the immortal one", 0, mortal);
}

int main(void)
{
    static struct log log;
    ouro_status status = ouro_thread_register("main");

    need(status == OURO_OK, ouro_status_text(status));
    register_types();
    status = ouro_gc_add_callback(on_collection, &log);
    need(status == OURO_OK, ouro_status_text(status));
    printf("Python's memory management, on ouro %s\n", ouro_version());

    show_counts();
    show_raw_address();
    show_self_reference();
    show_reachability();
    show_thresholds(&log);
    show_callbacks(&log);
    show_layout();
    show_exceptions();
    show_stop(&log);
    show_biased_counts();
    show_end();

    printf("\n%s\n", failures ? "Some of this does not hold." : "All of this holds.");
    return failures != 0;
}
