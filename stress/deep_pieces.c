/*
 * deep_pieces.c - stress: deep collections whose presumed garbage is too much for one stop, while threads change the graph.
 *
 * Shows that the proof in pieces (gc/deep.c) frees nothing that lives, and leaves nothing that is garbage, whatever happens
 * between two pieces.  Each thread keeps many small rings and drops all of them at once, so that there is much garbage in many
 * parts; and it moves references from ring to ring, by itself and through slots that all threads share, so that a guess is often
 * wrong.  Weak references bring back what is presumed to be garbage; others die by their counts while they are members.
 *
 * Collections are forced, so that a deep one begins every few safepoints.  After each phase the main thread, alone, follows
 * everything that can be reached, and then there may be no other object.
 */
#include "stress.h"

#include <sched.h>
#include <stdlib.h>

enum {
    WORKERS_MAX = 16,
    HERD = 250, /* rings of a thread */
    RING_MAX = 12,
    LONG_RING = 400, /* too long for a piece */
    ROOTS = 32,
    WEAKS = 32,
    WALK = 6,
    PHASE_MS = 150,
};

struct node {
    ouro_header ouro;
    uint64_t canary;
    ouro_slot next, other; /* anybody's */
    uint64_t mark;         /* the main thread's, while it is alone */
};

struct worker {
    struct node *herd[HERD];
    ouro_weakref *weak[WEAKS];
};

static const ouro_type *node_type;
static struct worker workers[WORKERS_MAX];
static ouro_slot roots[ROOTS];
static counter made, destroyed, brought_back, dropped_all;

/* --- nodes ------------------------------------------------------------------------------------------- */

static uint64_t canary_of(const struct node *node)
{
    return mix((uintptr_t)node);
}

static void check(const struct node *node)
{
    CHECK(node->canary == canary_of(node), "a node can be reached and is none any more");
}

static void node_destroy(void *self)
{
    struct node *node = self;

    check(node);
    CHECK(!ouro_slot_borrow(&node->next) && !ouro_slot_borrow(&node->other),
          "destroy met a reference that was not dropped");
    node->canary = 0;
    count_up(&destroyed);
}

static struct node *node_new(void)
{
    struct node *node = ouro_new(node_type);

    CHECK(node, "memory is out");
    node->canary = canary_of(node);
    count_up(&made);
    return node;
}

static void steal(ouro_slot *slot, struct node *node)
{
    CHECK((ouro_slot_store_steal)(slot, node ? OURO_OF(node) : NULL) == OURO_OK, "memory is out");
}

/* What was in the slot, as a reference of the caller's. */
static struct node *take(ouro_slot *slot, struct node *node)
{
    ouro_object *old;

    CHECK((ouro_slot_take)(slot, node ? OURO_OF(node) : NULL, &old) == OURO_OK, "memory is out");
    return (struct node *)(void *)old;
}

static struct node *ring_new(struct random *random)
{
    struct node *last = node_new(), *first = last;

    for (uint32_t i = one_in(random, 60) ? LONG_RING : random_below(random, RING_MAX); i > 0; i--) {
        struct node *node = node_new();

        steal(&node->next, first);
        first = node;
    }
    CHECK(ouro_slot_store(&last->next, OURO_OF(first)) == OURO_OK, "memory is out");
    return first;
}

/* --- what a worker does ------------------------------------------------------------------------------ */

static void put(struct node **place, struct node *node)
{
    struct node *old = *place;

    *place = node;
    ouro_decref_or_null(old);
}

static void drop_all_rings(struct worker *w)
{
    for (unsigned i = 0; i < HERD; i++)
        put(&w->herd[i], NULL);
    count_up(&dropped_all);
}

/* Borrowed from slot to slot, kept where it ends. */
static void walk(struct node **place, struct random *random)
{
    OURO_READING
    {
        struct node *node = *place;

        for (uint32_t i = random_below(random, WALK); i > 0; i--) {
            struct node *next = ouro_slot_borrow(one_in(random, 3) ? &node->other : &node->next);

            if (!next)
                break;
            check(next);
            node = next;
        }
        put(place, ouro_incref(node));
    }
}

/* Each reference leaves one slot for another, and is nowhere else meanwhile but with this thread. */
static void move(struct node *from, struct node *to, struct random *random)
{
    struct node *moved = take(one_in(random, 8) ? &from->next : &from->other, NULL);

    if (one_in(random, 8))
        ouro_safepoint();
    steal(&to->other, moved);
}

static void weak_step(struct worker *w, struct node *node, struct random *random)
{
    ouro_weakref **weak = &w->weak[random_below(random, WEAKS)];

    if (!*weak) {
        *weak = ouro_weakref_new(node);
        CHECK(*weak, "memory is out");
        return;
    }
    struct node *target = ouro_weakref_get(*weak);
    if (target) {
        check(target);
        count_up(&brought_back);
        put(&w->herd[random_below(random, HERD)], target);
    } else {
        ouro_decref(*weak);
        *weak = NULL;
    }
}

static void step(struct worker *w, struct random *random)
{
    struct node **place = &w->herd[random_below(random, HERD)];
    struct node **other = &w->herd[random_below(random, HERD)];

    if (!*place || !*other) {
        put(place, ring_new(random));
        return;
    }
    check(*place);
    switch (random_below(random, 10)) {
    case 0:
    case 1:
    case 2:
    case 3:
        move(*place, *other, random);
        break;
    case 4:
        CHECK(ouro_slot_store(&(*place)->other, OURO_OF(*other)) == OURO_OK, "memory is out");
        break;
    case 5:
        put(place, take(&roots[random_below(random, ROOTS)], ouro_incref(*place)));
        break;
    case 6:
        walk(place, random);
        break;
    case 7:
    case 8:
        weak_step(w, *place, random);
        break;
    default:
        put(place, NULL);
    }
}

static void life(unsigned index, struct random *random, void *argument)
{
    uint64_t end = *(const uint64_t *)argument;

    enter("worker");
    while (now_ns() < end) {
        for (uint32_t i = 1 + random_below(random, 10); i > 0; i--)
            step(&workers[index], random);
        if (one_in(random, 80))
            drop_all_rings(&workers[index]);
        if (one_in(random, 500))
            (void)(one_in(random, 2) ? ouro_freeze(0) : ouro_unfreeze());
        if (one_in(random, 30))
            OURO_DETACHED sched_yield();
        ouro_safepoint();
    }
    leave(random);
}

/* --- the main thread, alone ---------------------------------------------------------------------------- */

static struct node **stack;
static size_t depth, room, reached;

static void reach(struct node *node, uint64_t mark)
{
    if (!node || node->mark == mark)
        return;
    check(node);
    node->mark = mark;
    reached++;
    if (depth == room) {
        room = room ? 2 * room : 1024;
        stack = realloc(stack, room * sizeof(struct node *));
        CHECK(stack, "memory is out");
    }
    stack[depth++] = node;
}

static void follow_all(void)
{
    static uint64_t mark;

    mark++;
    reached = 0;
    for (unsigned i = 0; i < ROOTS; i++)
        reach(ouro_slot_borrow(&roots[i]), mark);
    for (unsigned i = 0; i < stress.threads; i++) {
        for (unsigned j = 0; j < HERD; j++)
            reach(workers[i].herd[j], mark);
    }
    while (depth > 0) {
        struct node *node = stack[--depth];

        reach(ouro_slot_borrow(&node->next), mark);
        reach(ouro_slot_borrow(&node->other), mark);
    }
}

/* What slots have given up is dropped after a grace period, and may be garbage then. */
static void settle(void)
{
    uint64_t before;

    (void)ouro_unfreeze();
    do {
        before = count_of(&destroyed);
        ouro_synchronize();
        (void)ouro_collect();
    } while (count_of(&destroyed) != before);
}

/* What can be reached is whole, and no other node is there. */
static void check_exact(void)
{
    settle();
    follow_all();
    CHECK(count_of(&made) - count_of(&destroyed) == reached,
          "%llu nodes are alive, %zu can be reached",
          (unsigned long long)(count_of(&made) - count_of(&destroyed)), reached);
}

static void drop_everything(void)
{
    for (unsigned i = 0; i < stress.threads; i++) {
        drop_all_rings(&workers[i]);
        for (unsigned j = 0; j < WEAKS; j++) {
            ouro_decref_or_null(workers[i].weak[j]);
            workers[i].weak[j] = NULL;
        }
    }
    for (unsigned i = 0; i < ROOTS; i++)
        steal(&roots[i], NULL);
    settle();
}

/* Alone: so much garbage in so many parts that it comes to pieces for certain, which the random part may not under a sanitizer. */
static void script(struct random *random)
{
    struct worker *w = &workers[0];

    for (unsigned i = 0; i < HERD; i++)
        put(&w->herd[i], ring_new(random));
    settle();
    w->weak[0] = ouro_weakref_new(w->herd[0]);
    CHECK(w->weak[0], "memory is out");
    drop_all_rings(w);
    ouro_gc_set_every(1);
    for (unsigned i = 0; i < 1000 && event_total(EVENT_PIECES) == 0; i++)
        ouro_safepoint();
    ouro_gc_set_every(0);
    check_exact();
}

int main(int argc, char **argv)
{
    static const uint16_t fields[] = {OURO_SLOT_FIELD(struct node, next),
                                      OURO_SLOT_FIELD(struct node, other)};
    static const size_t every[] = {1, 2, 4, 10};
    const ouro_type_spec spec = {.name = "node",
                                 .size = sizeof(struct node),
                                 .fields = fields,
                                 .field_count = 2,
                                 .destroy = node_destroy};
    struct random random;
    ouro_memory start, end;
    unsigned phases = 0;

    stress_begin(argc, argv, "deep_pieces", 2, 4);
    CHECK(stress.threads <= WORKERS_MAX, "at most %d threads", WORKERS_MAX);
    enter("main");
    CHECK(ouro_type_register(&spec, &node_type) == OURO_OK, "a type can't be registered");
    CHECK(ouro_gc_set_pause_budget(1) == OURO_OK, "a pause budget is refused");
    ouro_memory_stats(&start);
    random.state = mix(stress.seed) | 1;
    script(&random);
    do {
        uint64_t until = time_slice(PHASE_MS);

        ouro_gc_set_every(every[phases % 4]);
        run_threads(0, stress.threads, phases, life, &until);
        ouro_gc_set_every(0);
        check_exact();
        phases++;
    } while (!time_is_up());
    drop_everything();
    ouro_memory_stats(&end);
    CHECK(end.objects == start.objects && end.object_bytes == start.object_bytes,
          "%zu objects are left, %zu bytes", end.objects, end.object_bytes);
    ouro_thread_unregister();
    free(stack);

    stress_value("phases", phases);
    stress_value("made", count_of(&made));
    stress_value("dropped_all", count_of(&dropped_all));
    stress_value("brought_back", count_of(&brought_back));
    stress_event(EVENT_PIECES, 1);
    stress_event(EVENT_PIECES_KEPT, 0);
    stress_event(EVENT_SLICE, 1);
    stress_event(EVENT_WEAK_CLEARED, 1);
    stress_event(EVENT_STOP, 2);
    stress_end();
    return 0;
}
