/*
 * forced.c - stress: collections at every n-th safepoint, of every kind in turn, while threads do everything else.
 *
 * Shows that no moment is wrong for a collection.  Threads build, share and drop graphs with cycles, through handles, locked
 * fields and slots; there are finalizers, some of which bring their object back, weak references with and without
 * callbacks, moves, freezing, locks, detached regions.  Each edge knows the serial number of its target, so whatever is reached is
 * known to be whole.
 *
 * The time goes by in phases.  In each one the threads run anew, with another n, another policy, another pause budget (often so
 * small that old collections are cut).  In every other one there are young and old ones only, since a full one would find what these
 * have lost.  After each the main thread, alone, follows everything that can be reached, and
 * then there may be no other object; now and then it drops all, and then nothing may be left, in objects and in bytes.
 */
#include "stress.h"

#include <sched.h>
#include <stdlib.h>

enum {
    WORKERS_MAX = 64,
    HELD = 6,
    WEAKS = 6,
    ROOTS = 8,
    FIXED_EDGES = 3,
    HUB_EDGES_MAX = 8,
    BUILD_MAX = 10,
    CHAIN = 1000, /* more than one stop looks at, young or old */
    LIVE_MAX = 3500,
    PHASE_MS = 120,
    WALK = 6,
};

struct cell;

struct edge {
    struct cell *to;
    uint64_t serial; /* of that cell */
};

struct cell {
    ouro_header ouro;
    uint64_t serial; /* these three don't change until it is destroyed */
    uint64_t canary;
    uint32_t edge_count;
    bool finalized;         /* [lock: cell] from here on */
    uint64_t word, inverse; /* always the opposite of each other */
    uint64_t mark;          /* the main thread's, while it is alone */
    struct edge *edges;     /* `fixed`, or a buffer */
    struct edge fixed[FIXED_EDGES];
    ouro_slot slot; /* anybody's */
};

struct weak {
    ouro_weakref *ref;
    uint64_t serial;
    struct cell *argument; /* of the callback, not counted */
    bool is_gone;          /* it has returned NULL */
};

/* What a thread leaves its successor in the next phase. */
struct worker {
    struct edge held[HELD];
    struct weak weak[WEAKS];
};

static const ouro_type *plain_type, *phoenix_type, *hub_type;
static struct worker workers[WORKERS_MAX];
static ouro_slot roots[ROOTS];
static counter made, destroyed, finalized, came_back, called, passed;

/* --- cells ----------------------------------------------------------------------------------------- */

static uint64_t canary_of(const struct cell *cell)
{
    return mix(cell->serial ^ (uintptr_t)cell);
}

static void check_any(const struct cell *cell)
{
    CHECK(cell->canary == canary_of(cell), "a cell can be reached and is none any more");
}

static void check(const struct cell *cell, uint64_t serial)
{
    CHECK(cell->serial == serial && cell->canary == canary_of(cell),
          "cell %llu was destroyed although it can be reached", (unsigned long long)serial);
}

static bool is_crowded(void)
{
    return count_of(&made) - count_of(&destroyed) > LIVE_MAX;
}

static struct cell *cell_new(const ouro_type *type, uint32_t edge_count)
{
    struct cell *cell = ouro_new(type);

    CHECK(cell, "memory is out");
    cell->edges = type == hub_type ? ouro_calloc(edge_count, sizeof *cell->edges) : cell->fixed;
    CHECK(cell->edges, "memory is out");
    cell->edge_count = edge_count;
    cell->serial = count_up(&made);
    cell->canary = canary_of(cell);
    cell->word = cell->serial;
    cell->inverse = ~cell->serial;
    return cell;
}

static struct cell *any_cell_new(struct random *random)
{
    switch (random_below(random, 8)) {
    case 0:
        return cell_new(hub_type, 1 + random_below(random, HUB_EDGES_MAX));
    case 1:
    case 2:
        return cell_new(phoenix_type, FIXED_EDGES);
    default:
        return cell_new(plain_type, FIXED_EDGES);
    }
}

static void hub_visit(void *self, ouro_visitor *visitor)
{
    struct cell *cell = self;

    for (uint32_t i = 0; i < cell->edge_count; i++)
        ouro_visit(visitor, &cell->edges[i].to);
    ouro_visit_slot(visitor, &cell->slot);
}

static void cell_destroy(void *self)
{
    struct cell *cell = self;

    CHECK(cell->canary == canary_of(cell), "destroy was called for what is no cell, or twice");
    CHECK(cell->word == ~cell->inverse, "what a lock guards is torn");
    for (uint32_t i = 0; i < cell->edge_count; i++)
        CHECK(!cell->edges[i].to, "destroy met a reference that was not dropped");
    if (cell->edges != cell->fixed)
        ouro_free(cell->edges);
    cell->canary = 0;
    count_up(&destroyed);
}

/* All that it refers to is whole. One in three comes back. */
static void phoenix_finalize(void *self)
{
    struct cell *cell = self;

    check_any(cell);
    OURO_LOCKED(cell)
    {
        CHECK(!cell->finalized, "finalized twice");
        cell->finalized = true;
        for (uint32_t i = 0; i < cell->edge_count; i++)
            if (cell->edges[i].to)
                check(cell->edges[i].to, cell->edges[i].serial);
    }
    count_up(&finalized);
    if (cell->serial % 3 == 0) {
        CHECK(ouro_slot_store(&roots[cell->serial / 3 % ROOTS], OURO_OF(cell)) == OURO_OK,
              "memory is out");
        count_up(&came_back);
    }
}

/* Takes over the reference to `to`. The lock is the caller's, or nobody else knows the cell. */
static struct cell *edge_set(struct edge *edge, struct cell *to)
{
    struct cell *old = edge->to;

    *edge = (struct edge){to, to ? to->serial : 0};
    return old;
}

/* --- graphs ------------------------------------------------------------------------------------------ */

/* Counted, so no need to note: what is moved is a reference that was just made. */
static struct cell *build(struct random *random)
{
    struct cell *cells[BUILD_MAX];
    unsigned count = 1 + random_below(random, BUILD_MAX);

    for (unsigned i = 0; i < count; i++)
        cells[i] = any_cell_new(random);
    for (unsigned i = 0; i < count; i++) {
        for (uint32_t e = 0; e < cells[i]->edge_count; e++)
            if (!one_in(random, 4))
                ouro_decref_or_null(
                    edge_set(&cells[i]->edges[e], ouro_incref(cells[random_below(random, count)])));
        if (one_in(random, 4))
            CHECK(ouro_slot_store(&cells[i]->slot, OURO_OF(cells[random_below(random, count)])) ==
                      OURO_OK,
                  "memory is out");
        if (one_in(random, 4))
            ouro_safepoint();
    }
    for (unsigned i = 1; i < count; i++)
        ouro_decref(cells[i]);
    return cells[0];
}

/* A ring that is too large for one stop. */
static struct cell *chain(struct random *random)
{
    struct cell *last = any_cell_new(random), *first = last;

    for (unsigned i = 1; i < CHAIN; i++) {
        struct cell *cell = cell_new(plain_type, FIXED_EDGES);

        (void)edge_set(&cell->edges[0], first);
        first = cell;
    }
    (void)edge_set(&last->edges[0], ouro_incref(first));
    return first;
}

/* Two that refer to each other, by moves alone: no drop tells that they are garbage. */
static void tie(struct random *random)
{
    struct cell *a = any_cell_new(random), *b = any_cell_new(random);

    for (uint32_t i = random_below(random, 4); i > 0; i--)
        ouro_safepoint();
    a->edges[0].serial = b->serial;
    ouro_move(a, &a->edges[0].to, b);
    b->edges[0].serial = a->serial;
    ouro_move(b, &b->edges[0].to, a);
}

static void hold(struct edge *held, struct cell *cell)
{
    ouro_decref_or_null(edge_set(held, cell));
}

/* A new reference to what an edge of the cell leads to, or NULL. */
static struct cell *step_along(struct cell *cell, struct random *random)
{
    struct edge edge;

    OURO_LOCKED(cell)
    {
        edge = cell->edges[random_below(random, cell->edge_count)];
        if (edge.to) {
            check(edge.to, edge.serial);
            (void)ouro_incref(edge.to);
        }
    }
    return edge.to;
}

static void walk(struct edge *held, struct random *random)
{
    for (unsigned i = 0; i < WALK; i++) {
        struct cell *next = step_along(held->to, random);

        if (next)
            hold(held, next);
        if (one_in(random, 8))
            ouro_safepoint();
    }
}

/* Borrowed from slot to slot, and kept at the end, or not. */
static void read_slots(struct edge *held, struct random *random)
{
    struct cell *keep = NULL;

    OURO_READING
    {
        struct cell *cell = ouro_slot_borrow(&roots[random_below(random, ROOTS)]);

        for (unsigned i = 0; i < WALK && cell; i++) {
            check_any(cell);
            if (one_in(random, 4))
                keep = cell;
            cell = ouro_slot_borrow(&cell->slot);
        }
        if (keep)
            (void)ouro_incref(keep);
    }
    if (keep)
        hold(held, keep);
}

static void write_slot(ouro_slot *slot, struct edge *held, struct random *random)
{
    ouro_object *o = held->to ? OURO_OF(held->to) : NULL, *old = NULL;
    ouro_status status;

    switch (random_below(random, 5)) {
    case 0:
        status = (ouro_slot_store)(slot, NULL);
        break;
    case 1:
        status = (ouro_slot_store)(slot, o);
        break;
    case 2:
        status = (ouro_slot_store_steal)(slot, o);
        held->to = NULL;
        break;
    case 3:
        status = (ouro_slot_take)(slot, o, &old);
        held->to = NULL;
        if (old) {
            check_any((struct cell *)(void *)old);
            (void)edge_set(held, (struct cell *)(void *)old);
        }
        break;
    default:
        status = (ouro_slot_compare_exchange)(slot, ouro_slot_borrow(slot), o);
        if (status == OURO_OK)
            held->to = NULL;
        else if (status == OURO_BUSY) /* others are faster */
            status = OURO_OK;
    }
    CHECK(status == OURO_OK, "memory is out");
}

/* Something about one or two cells that are held: the edges, or what the lock guards. */
static void change(struct edge *a, struct edge *b, struct random *random)
{
    struct cell *from = a->to, *old = NULL;
    uint32_t e = random_below(random, from->edge_count);

    switch (b->to && b != a ? random_below(random, 6) : 5) {
    case 0:
    case 1:
        OURO_LOCKED(from) old = edge_set(&from->edges[e], ouro_incref(b->to));
        ouro_decref_or_null(old);
        break;
    case 2: /* moved, and not counted */
        OURO_LOCKED(from)
        {
            from->edges[e].serial = b->serial;
            ouro_move(from, &from->edges[e].to, b->to);
        }
        b->to = NULL;
        break;
    case 3: /* swapped, and not counted */
        OURO_LOCKED_PAIR(from, b->to)
        {
            struct edge *other = &b->to->edges[0], moved = *other;

            ouro_note(from);
            ouro_note(b->to);
            *other = from->edges[e];
            from->edges[e] = moved;
        }
        break;
    case 4:
        if (ouro_trylock(from)) {
            from->word += 12345;
            ouro_safepoint(); /* which collects nothing */
            from->inverse = ~from->word;
            ouro_unlock(from);
        }
        break;
    default:
        OURO_LOCKED(from) old = edge_set(&from->edges[e], NULL);
        ouro_decref_or_null(old);
    }
}

/* --- weak references ----------------------------------------------------------------------------------- */

static void on_gone(ouro_weakref *ref, ouro_object *argument)
{
    CHECK(!ouro_weakref_get(ref), "a callback before its weak reference is cleared");
    if (argument)
        check_any((struct cell *)(void *)argument);
    count_up(&called);
}

static void weak_make(struct weak *weak, struct edge *held, struct cell *argument,
                      struct random *random)
{
    struct cell *target = held->to;

    *weak = (struct weak){.serial = held->serial};
    if (one_in(random, 2)) {
        weak->ref = ouro_weakref_new(target);
    } else {
        weak->argument = argument;
        weak->ref = (ouro_weakref_new_callback)(OURO_OF(target), on_gone,
                                                argument ? OURO_OF(argument) : NULL);
    }
    CHECK(weak->ref, "memory is out");
}

static void weak_look(struct weak *weak, struct edge *held, struct random *random)
{
    struct cell *cell = ouro_weakref_get(weak->ref);

    if (cell) {
        CHECK(!weak->is_gone, "a weak reference has its target back");
        check(cell, weak->serial);
        hold(held, cell);
    }
    weak->is_gone = !cell;
    if (one_in(random, cell ? 8 : 3)) {
        ouro_decref(weak->ref);
        weak->ref = NULL;
    }
}

/* --- what a worker does -------------------------------------------------------------------------------- */

static void set_limits(struct random *random)
{
    CHECK(ouro_gc_set_policy((ouro_gc_policy)random_below(random, 3)) == OURO_OK,
          "there is a policy less");
    CHECK(ouro_gc_set_pause_budget(one_in(random, 3) ? 500000 : 1) == OURO_OK,
          "a pause budget is refused");
}

static void seldom(struct random *random)
{
    switch (random_below(random, 8)) {
    case 0:
        (void)ouro_freeze(0);
        break;
    case 1:
        (void)ouro_unfreeze();
        break;
    case 2:
        (void)ouro_collect_kind((ouro_gc_kind)random_below(random, 3));
        break;
    case 3:
        (void)ouro_collect_step(random_below(random, 300000));
        break;
    case 4:
        ouro_gc_disable();
        ouro_safepoint();
        ouro_gc_enable();
        break;
    case 5:
        (void)ouro_run_finalizers();
        break;
    default:
        set_limits(random);
    }
}

static void step(struct worker *w, struct random *random)
{
    struct edge *held = &w->held[random_below(random, HELD)];
    struct edge *other = &w->held[random_below(random, HELD)];
    struct weak *weak = &w->weak[random_below(random, WEAKS)];

    if (one_in(random, 200))
        seldom(random);
    if (one_in(random, 30))
        OURO_DETACHED sched_yield();
    if (one_in(random, 50))
        tie(random);
    if (one_in(random, 200) && !is_crowded())
        ouro_decref(chain(random)); /* garbage at once, and the parts of it become old one by one */
    if (!held->to) {
        if (one_in(random, 2) || is_crowded())
            read_slots(held, random);
        else
            hold(held, one_in(random, 100) ? chain(random) : build(random));
        return;
    }
    check(held->to, held->serial);
    switch (random_below(random, is_crowded() ? 13 : 11)) {
    case 0:
    case 1:
    case 2:
        change(held, other, random);
        break;
    case 3:
        walk(held, random);
        break;
    case 4:
        read_slots(held, random);
        break;
    case 5:
        write_slot(&roots[random_below(random, ROOTS)], held, random);
        break;
    case 6:
        if (other != held)
            write_slot(&held->to->slot, other, random);
        break;
    case 7:
    case 8:
        if (weak->ref)
            weak_look(weak, held, random);
        else
            weak_make(weak, held, other->to, random);
        break;
    default:
        hold(held, NULL);
    }
}

static void life(unsigned index, struct random *random, void *argument)
{
    uint64_t end = *(const uint64_t *)argument;

    enter("worker");
    while (now_ns() < end) {
        step(&workers[index], random);
        ouro_safepoint();
        count_up(&passed);
    }
    leave(random);
}

/* --- the callback ---------------------------------------------------------------------------------------- */

/* Plain, since collections don't overlap. */
static uint64_t forced; /* since the turn began */
static uint64_t of_kind[4], cuts, garbage;
static bool is_partial; /* this phase: the turn begins anew after each old one */

static void watch(const ouro_gc_info *info, void *argument)
{
    (void)argument;
    if (info->phase == OURO_GC_START)
        return;
    garbage += info->collected;
    if (info->reason == OURO_GC_REQUESTED)
        return;
    /* While a deep one is under way it is a slice of that, whatever but a young one would be next. */
    CHECK(info->kind == (ouro_gc_kind)(forced % 4) ||
              (forced % 4 != OURO_GC_YOUNG && info->kind == OURO_GC_DEEP),
          "a forced collection is not the one in turn");
    forced++;
    of_kind[info->kind]++;
    if (is_partial && info->kind == OURO_GC_OLD) {
        ouro_gc_set_every(ouro_gc_get_every());
        forced = 0;
    }
    cuts += info->kind == OURO_GC_OLD && info->cut > 0;
}

/* --- the main thread, alone ------------------------------------------------------------------------------- */

static struct cell **stack;
static size_t depth, room, reached;

static void reach(struct cell *cell, uint64_t mark)
{
    if (cell->mark == mark)
        return;
    cell->mark = mark;
    reached++;
    if (depth == room) {
        room = room ? 2 * room : 1024;
        stack = realloc(stack, room * sizeof(struct cell *));
        CHECK(stack, "memory is out");
    }
    stack[depth++] = cell;
}

static void reach_edge(const struct edge *edge, uint64_t mark)
{
    if (!edge->to)
        return;
    check(edge->to, edge->serial);
    reach(edge->to, mark);
}

static void reach_slot(const ouro_slot *slot, uint64_t mark)
{
    struct cell *cell = ouro_slot_borrow(slot);

    if (!cell)
        return;
    check_any(cell);
    reach(cell, mark);
}

static void follow(uint64_t mark)
{
    while (depth > 0) {
        struct cell *cell = stack[--depth];

        CHECK(cell->word == ~cell->inverse, "what a lock guards is torn");
        for (uint32_t e = 0; e < cell->edge_count; e++)
            reach_edge(&cell->edges[e], mark);
        reach_slot(&cell->slot, mark);
    }
}

/* The number of weak references, which several threads may share. */
static size_t count_weak(void)
{
    const ouro_weakref *seen[WORKERS_MAX * WEAKS];
    size_t count = 0;

    for (unsigned i = 0; i < stress.threads * WEAKS; i++) {
        const ouro_weakref *ref = workers[i / WEAKS].weak[i % WEAKS].ref;
        size_t at = 0;

        while (at < count && seen[at] != ref)
            at++;
        if (ref && at == count)
            seen[count++] = ref;
    }
    return count;
}

static void follow_all(void)
{
    static uint64_t mark;

    mark++;
    reached = 0;
    for (unsigned i = 0; i < ROOTS; i++)
        reach_slot(&roots[i], mark);
    for (unsigned i = 0; i < stress.threads; i++) {
        for (unsigned j = 0; j < HELD; j++)
            reach_edge(&workers[i].held[j], mark);
        for (unsigned j = 0; j < WEAKS; j++) {
            const struct weak *weak = &workers[i].weak[j];

            if (weak->ref && weak->argument && !ouro_weakref_is_cleared(weak->ref))
                reach(weak->argument, mark);
        }
    }
    follow(mark);
}

/* Until nothing happens any more: what a finalizer lets go may wait for a grace period, and then for another finalizer. */
static void settle(void)
{
    uint64_t before;

    (void)ouro_unfreeze();
    do {
        before = count_of(&destroyed) + count_of(&finalized) + count_of(&called);
        ouro_synchronize();
        (void)ouro_collect();
        (void)ouro_run_finalizers();
    } while (count_of(&destroyed) + count_of(&finalized) + count_of(&called) != before);
}

/* What can be reached is whole, and nothing else is there. */
static void check_exact(void)
{
    ouro_memory memory;

    settle();
    follow_all();
    ouro_memory_stats(&memory);
    CHECK(count_of(&made) - count_of(&destroyed) == reached,
          "%llu cells are alive, %zu can be reached",
          (unsigned long long)(count_of(&made) - count_of(&destroyed)), reached);
    CHECK(memory.objects == reached + count_weak(), "%zu objects are there, %zu are known",
          memory.objects, reached + count_weak());
}

/* From everything to nothing. What comes back does so once, but may hold others that have not yet. */
static void drop_all(const ouro_memory *start)
{
    ouro_memory memory;
    uint64_t before;

    do {
        before = count_of(&came_back);
        for (unsigned i = 0; i < stress.threads; i++) {
            for (unsigned j = 0; j < HELD; j++)
                hold(&workers[i].held[j], NULL);
            for (unsigned j = 0; j < WEAKS; j++) {
                ouro_decref_or_null(workers[i].weak[j].ref);
                workers[i].weak[j].ref = NULL;
            }
        }
        for (unsigned i = 0; i < ROOTS; i++)
            CHECK((ouro_slot_store)(&roots[i], NULL) == OURO_OK, "memory is out");
        settle();
    } while (count_of(&came_back) != before);
    ouro_memory_stats(&memory);
    CHECK(memory.objects == start->objects && memory.buffers == start->buffers,
          "%zu objects and %zu buffers are left", memory.objects, memory.buffers);
    CHECK(memory.object_bytes == start->object_bytes && memory.buffer_bytes == start->buffer_bytes,
          "%zu and %zu bytes are left", memory.object_bytes, memory.buffer_bytes);
}

/* --- phases ------------------------------------------------------------------------------------------------- */

static void phase(unsigned number, struct random *random)
{
    static const size_t every[] = {1, 2, 3, 7, 50};
    size_t n = every[number % 5];
    uint64_t done = of_kind[OURO_GC_YOUNG];
    uint64_t end = time_slice(PHASE_MS), before = count_of(&passed);

    set_limits(random);
    is_partial = number % 2 == 1;
    forced = 0; /* nobody else is there: not even a thread for finalizers */
    ouro_gc_set_every(n);
    CHECK(ouro_gc_get_every() == n, "it is not as often as was said");
    CHECK(ouro_finalizer_set_mode((ouro_finalizer_mode)(number / 5 % 3)) == OURO_OK,
          "the mode of finalizers is refused");
    run_threads(0, stress.threads, number, life, &end);
    CHECK(ouro_finalizer_set_mode(OURO_FINALIZE_AT_SAFEPOINTS) == OURO_OK,
          "the mode of finalizers is refused"); /* so the library's own thread has ended */
    CHECK(of_kind[OURO_GC_YOUNG] > done || count_of(&passed) - before < 200 * stress.threads,
          "none of many safepoints was forced to collect");
    check_exact();
}

static void prepare(void)
{
    static const uint16_t fields[] = {OURO_FIELD(struct cell, fixed[0].to),
                                      OURO_FIELD(struct cell, fixed[1].to),
                                      OURO_FIELD(struct cell, fixed[2].to),
                                      OURO_SLOT_FIELD(struct cell, slot)};
    ouro_type_spec spec = {.name = "plain",
                           .size = sizeof(struct cell),
                           .fields = fields,
                           .field_count = FIXED_EDGES + 1,
                           .destroy = cell_destroy};

    CHECK(ouro_type_register(&spec, &plain_type) == OURO_OK, "a type can't be registered");
    spec.name = "phoenix";
    spec.finalize = phoenix_finalize;
    CHECK(ouro_type_register(&spec, &phoenix_type) == OURO_OK, "a type can't be registered");
    spec = (ouro_type_spec){
        .name = "hub", .size = sizeof(struct cell), .visit = hub_visit, .destroy = cell_destroy};
    CHECK(ouro_type_register(&spec, &hub_type) == OURO_OK, "a type can't be registered");
}

int main(int argc, char **argv)
{
    struct random random;
    ouro_memory start;
    unsigned phases = 0;

    stress_begin(argc, argv, "forced", 2, 4);
    random.state = mix(stress.seed) | 1;
    enter("main");
    prepare();
    ouro_memory_stats(&start);
    CHECK(ouro_gc_add_callback(watch, NULL) == OURO_OK, "a callback can't be added");
    do {
        phase(phases++, &random);
        if (phases % 4 == 0)
            drop_all(&start);
    } while (!time_is_up());
    drop_all(&start);
    ouro_thread_unregister();

    CHECK(garbage > 0 && count_of(&finalized) > 0, "nothing was shown: no garbage, no finalizer");
    stress_value("phases", phases);
    stress_value("made", count_of(&made));
    stress_value("garbage", garbage);
    stress_value("cuts", cuts);
    stress_value("came_back", count_of(&came_back));
    stress_value("called", count_of(&called));
    stress_value("young", of_kind[0]);
    stress_value("old", of_kind[1]);
    stress_value("deep", of_kind[2]);
    stress_value("full", of_kind[3]);
    stress_event(EVENT_FINALIZED, 1);
    stress_event(EVENT_STOP, 2);
    stress_event(EVENT_SLICE, 1);
    stress_end();
    return 0;
}
