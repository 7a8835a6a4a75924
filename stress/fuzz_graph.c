/*
 * fuzz_graph.c - stress and fuzzing: bytes become edits of one graph by three threads in a fixed order.
 *
 * Four bytes are a step: who, what, to which objects.  The threads take turns, so a sequence of bytes always does
 * the same; who has no turn waits detached, running, or still.  Beside the objects there is a shadow graph: what it can reach is
 * never destroyed, and everything else is gone after ouro_collect().
 *
 * Two mains: random bytes from a seed, like any stress program; or, with FUZZ_MAIN, libFuzzer's (`ninja fuzz`).  A
 * failure prints the bytes.
 */
#include "stress.h"

#include "gc/collect.h"
#include "gc/sets.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>

enum {
    OBJECTS = 48,
    FIELDS = 3,
    REFERENCES = FIELDS + 1,
    NOBODY = -1,
    PLAYERS = 3,
    BYTES_MAX = 4096
};

struct node {
    ouro_header ouro;
    int number;
    ouro_object *fields[FIELDS];
    ouro_slot slot; /* the last reference */
};

static const ouro_type *plain_type, *phoenix_type;
static ouro_object *objects[OBJECTS];
static bool exists[OBJECTS];
static atomic_bool destroyed[OBJECTS]; /* who waits may drain a hint, and destroy */
static int refers[OBJECTS][REFERENCES];
static unsigned roots[OBJECTS]; /* references of the program */
static bool reachable[OBJECTS];
static ouro_weakref *weak[OBJECTS];
static bool frozen;

static const uint8_t *input;
static size_t input_size;
static uint64_t made, steps;

_Noreturn static void wrong(const char *what, int i)
{
    fprintf(stderr, "the bytes, %zu:", input_size);
    for (size_t at = 0; at < input_size; at++)
        fprintf(stderr, "%02x", input[at]);
    fprintf(stderr, "\n");
    fail("%s: object %d", what, i);
}

/* --- the shadow graph -------------------------------------------------------------------------------- */

static void reach_from(int i, bool *reached)
{
    int stack[OBJECTS], depth = 0;

    if (!reached[i])
        stack[depth++] = i;
    reached[i] = true;
    while (depth > 0) {
        int from = stack[--depth];

        for (int r = 0; r < REFERENCES; r++) {
            int to = refers[from][r];

            if (to != NOBODY && !reached[to]) {
                reached[to] = true;
                stack[depth++] = to;
            }
        }
    }
}

static void check_alive(void)
{
    memset(reachable, 0, sizeof reachable);
    for (int i = 0; i < OBJECTS; i++)
        if (roots[i])
            reach_from(i, reachable);
    for (int i = 0; i < OBJECTS; i++)
        if (reachable[i] && destroyed[i])
            wrong("destroyed although it can be reached", i);
}

static void node_destroy(void *self)
{
    struct node *node = self;

    for (int f = 0; f < FIELDS; f++)
        if (node->fields[f])
            wrong("destroy met a reference", node->number);
    if (destroyed[node->number])
        wrong("destroyed twice", node->number);
    destroyed[node->number] = true;
}

/* Every other one comes back. */
static void node_finalize(void *self)
{
    struct node *node = self;
    bool reached[OBJECTS] = {false};

    reach_from(node->number, reached);
    for (int i = 0; i < OBJECTS; i++)
        if (reached[i] && destroyed[i])
            wrong("destroyed although what has a finalizer refers to it", i);
    if (node->number % 2) {
        (void)ouro_incref(node);
        roots[node->number]++;
    }
}

/* --- steps --------------------------------------------------------------------------------------------- */

static struct node *at(int i)
{
    return (struct node *)(void *)objects[i];
}

static int pick(uint8_t byte)
{
    for (int i = 0; i < OBJECTS; i++)
        if (reachable[(byte + i) % OBJECTS])
            return (byte + i) % OBJECTS;
    return NOBODY;
}

static void make(uint8_t byte)
{
    for (int i = 0; i < OBJECTS; i++) {
        if ((exists[i] && !destroyed[i]) || weak[i])
            continue;
        struct node *node = ouro_new(byte % 4 ? plain_type : phoenix_type);

        CHECK(node, "memory is out");
        node->number = i;
        objects[i] = (ouro_object *)node;
        exists[i] = true;
        destroyed[i] = false;
        for (int r = 0; r < REFERENCES; r++)
            refers[i][r] = NOBODY;
        roots[i] = 1;
        made++;
        return;
    }
}

static void store(int from, int r, int to)
{
    ouro_object *o = to == NOBODY ? NULL : objects[to];

    refers[from][r] = to;
    if (r == FIELDS) {
        CHECK((ouro_slot_store)(&at(from)->slot, o) == OURO_OK, "memory is out");
        return;
    }
    ouro_object *old = at(from)->fields[r];
    at(from)->fields[r] = o ? ouro_incref(o) : NULL;
    ouro_decref_or_null(old);
}

static void move(int from, int r, int to)
{
    if (roots[to] == 0)
        return;
    roots[to]--;
    refers[from][r] = to;
    if (r == FIELDS)
        CHECK((ouro_slot_store_steal)(&at(from)->slot, objects[to]) == OURO_OK, "memory is out");
    else
        ouro_move(at(from), &at(from)->fields[r], objects[to]);
}

static void drop(int i)
{
    if (roots[i] == 0)
        return;
    roots[i]--;
    ouro_decref(objects[i]);
}

/* Makes a weak reference; or takes what one refers to, even if nothing else does any more; or drops one. */
static void change_weak(int i, uint8_t byte)
{
    int any = byte % OBJECTS;

    if (!weak[i]) {
        weak[i] = (ouro_weakref_new)(objects[i]);
        CHECK(weak[i], "memory is out");
    } else if (weak[any]) {
        ouro_object *o = ouro_weakref_get(weak[any]);

        if (o) {
            if (o != objects[any] || destroyed[any])
                wrong("a weak reference gave what is destroyed", any);
            roots[any]++;
        }
        if (!o || byte & 64) {
            ouro_decref(weak[any]);
            weak[any] = NULL;
        }
    }
}

static void store_locked(int from, int r, int to)
{
    ouro_lock(at(from));
    store(from, r, to);
    ouro_unlock(at(from));
}

/* What needs all other threads to pass safepoints. */
static void stop(uint8_t what, uint8_t a, uint8_t b)
{
    struct sets_limit limit = {1 + a % 32u, 1 + b % 16u, 0};

    switch (what % 8) {
    case 0:
    case 1:
        collect_set_limits(a < 128 ? &limit : NULL);
        (void)ouro_collect_kind(what % 8 ? OURO_GC_OLD : OURO_GC_YOUNG);
        break;
    case 2:
        (void)ouro_collect_kind((ouro_gc_kind)(a % 4));
        break;
    case 3:
        frozen = !frozen;
        (void)(frozen ? ouro_freeze(0) : ouro_unfreeze());
        break;
    case 4:
        ouro_synchronize();
        break;
    case 5:
        (void)ouro_run_finalizers();
        break;
    case 6:
        (void)ouro_collect_step(0);
        break;
    default:
        ouro_safepoint();
    }
}

static void change(uint8_t what, uint8_t a, uint8_t b)
{
    int from = pick(a), to = pick(b), r = a / OBJECTS % REFERENCES;

    if (from == NOBODY || what % 16 < 3) {
        make(b);
        return;
    }
    switch (what % 16) {
    case 3:
    case 4:
    case 5:
        store(from, r, to);
        break;
    case 6:
        store(from, r, NOBODY);
        break;
    case 7:
        store_locked(from, r, to);
        break;
    case 8:
    case 9:
        move(from, r, to);
        break;
    case 10:
        (void)ouro_incref(objects[from]);
        roots[from]++;
        break;
    case 11:
        if (roots[from])
            (void)ouro_disown(objects[from]);
        break;
    case 12:
        change_weak(from, b);
        break;
    default:
        drop(from);
    }
}

/* --- turns ---------------------------------------------------------------------------------------------- */

static atomic_int turn; /* who; -1: the game is over */
static struct {
    uint8_t what, a, b;
    bool stops;
} move_now;            /* written by who gives the turn away, read by who gets it */
static atomic_int how; /* 0: wait detached, 1: running, 2: still */

static void await_turn(int who)
{
    for (int now; (now = atomic_load(&turn)) != who && now != -1;) {
        int way = atomic_load(&how);

        if (way == 0)
            OURO_DETACHED sched_yield();
        else if (way == 1)
            ouro_safepoint();
        sched_yield();
    }
}

static void act(void)
{
    if (move_now.stops)
        stop(move_now.what, move_now.a, move_now.b);
    else
        change(move_now.what, move_now.a, move_now.b);
    check_alive();
}

static void play(unsigned index, struct random *random, void *argument)
{
    (void)random;
    (void)argument;
    enter("player");
    for (;;) {
        await_turn((int)index);
        if (atomic_load(&turn) == -1)
            break;
        act();
        atomic_store(&turn, 0);
    }
    ouro_thread_unregister();
}

static void run_input(const uint8_t *bytes, size_t size)
{
    input = bytes;
    input_size = size;
    for (size_t i = 0; i + 4 <= size; i += 4, steps++) {
        int who = bytes[i] % PLAYERS, way = bytes[i] / PLAYERS % 3;

        move_now.stops = bytes[i] >= 192;
        move_now.what = bytes[i + 1];
        move_now.a = bytes[i + 2];
        move_now.b = bytes[i + 3];
        /* Nobody may be still while the world is to be stopped. */
        atomic_store(&how, move_now.stops ? way % 2 : way);
        if (who == 0) {
            act();
        } else {
            atomic_store(&turn, who);
            await_turn(0);
        }
    }
    atomic_store(&how, 0);
}

static void check_exact(void)
{
    ouro_memory memory;
    size_t count = 0;

    (void)ouro_unfreeze();
    frozen = false;
    /* What a finalizer lets go may wait for another thread's next safepoint. */
    for (int idle = 0; idle < 3; idle++) {
        ouro_synchronize();
        (void)ouro_collect();
        if (ouro_run_finalizers() > 0)
            idle = 0;
    }
    check_alive();
    for (int i = 0; i < OBJECTS; i++) {
        if (exists[i] && !destroyed[i] && !reachable[i])
            wrong("garbage, and alive after a collection", i);
        count += (exists[i] && !destroyed[i]) + (weak[i] != NULL);
    }
    ouro_memory_stats(&memory);
    CHECK(memory.objects == count, "%zu objects are left, %zu are known", memory.objects, count);
}

/* One input, from nothing to nothing. By thread 0, attached. */
static void one(const uint8_t *bytes, size_t size)
{
    run_input(bytes, size);
    check_exact();
    for (int round = 0; round < 2; round++) { /* what comes back does so once */
        for (int i = 0; i < OBJECTS; i++) {
            if (weak[i])
                ouro_decref(weak[i]);
            weak[i] = NULL;
            while (roots[i])
                drop(i);
        }
        check_exact();
    }
}

static void prepare(void)
{
    static const uint16_t fields[] = {OURO_FIELD(struct node, fields[0]),
                                      OURO_FIELD(struct node, fields[1]),
                                      OURO_FIELD(struct node, fields[2]),
                                      OURO_SLOT_FIELD(struct node, slot)};
    ouro_type_spec spec = {.name = "plain",
                           .size = sizeof(struct node),
                           .fields = fields,
                           .field_count = REFERENCES,
                           .destroy = node_destroy};

    CHECK(ouro_type_register(&spec, &plain_type) == OURO_OK, "a type can't be registered");
    spec.name = "phoenix";
    spec.finalize = node_finalize;
    CHECK(ouro_type_register(&spec, &phoenix_type) == OURO_OK, "a type can't be registered");
    CHECK(ouro_finalizer_set_mode(OURO_FINALIZE_ON_REQUEST) == OURO_OK, "the mode is refused");
    ouro_gc_disable(); /* an automatic one would come when it likes */
}

#ifdef FUZZ_MAIN

static pthread_t players[PLAYERS];

static void *player(void *argument)
{
    play((unsigned)(uintptr_t)argument, NULL, NULL);
    return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static bool prepared;

    if (!prepared) {
        prepared = true;
        stress.name = "fuzz_graph";
        enter("main");
        prepare();
        for (uintptr_t i = 1; i < PLAYERS; i++)
            CHECK(pthread_create(&players[i], NULL, player, (void *)i) == 0, "no thread");
    }
    one(bytes, size < BYTES_MAX ? size : BYTES_MAX);
    return 0;
}

#else

/* Thread 0: random inputs until the time is up. */
static void lead(struct random *random)
{
    static uint8_t bytes[BYTES_MAX];

    do {
        size_t size = 4 + random_below(random, one_in(random, 8) ? BYTES_MAX - 3 : 400);

        for (size_t i = 0; i < size; i++)
            bytes[i] = (uint8_t)random_next(random);
        one(bytes, size);
    } while (!time_is_up());
    atomic_store(&turn, -1);
}

static void body(unsigned index, struct random *random, void *argument)
{
    if (index > 0) {
        play(index, random, argument);
        return;
    }
    enter("main");
    lead(random);
    ouro_thread_unregister();
}

int main(int argc, char **argv)
{
    stress_begin(argc, argv, "fuzz_graph", PLAYERS, PLAYERS);
    prepare();
    run_threads(0, PLAYERS, 0, body, NULL);
    stress_value("steps", steps);
    stress_value("made", made);
    stress_event(EVENT_COLLECT, 2);
    stress_event(EVENT_FINALIZED, 1);
    stress_end();
    return 0;
}

#endif
