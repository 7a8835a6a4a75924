/*
 * parallel.h - for tests of passes that stopped threads take part in.
 *
 * Two threads pass safepoints all the time, and any set is large enough.  The collector waits, by a hook, until both
 * have come, so each pass is shared.
 */
#ifndef TESTS_PARALLEL_H
#define TESTS_PARALLEL_H

#include "support.h"

#include "base/events.h"
#include "gc/parallel.h"

#include <sched.h>

enum { BYSTANDERS = 2 };

static struct worker bystanders[BYSTANDERS];
static struct gate end;
static pthread_t collector;

static inline void stand_by(void *unused)
{
    (void)unused;
    gate_wait_running(&end);
}

/* All that were invited are there; a machine with much to do gets some time. */
static inline void await_helpers(void)
{
    double until = seconds() + 10;

    while (parallel_present() < BYSTANDERS && seconds() < until)
        sched_yield();
}

static inline void enter_shared(void)
{
    enter();
    collector = pthread_self();
    ouro_gc_set_helpers(BYSTANDERS);
    parallel_set_least(1);
    parallel_set_hooks(await_helpers, NULL);
    for (int i = 0; i < BYSTANDERS; i++)
        worker_start(&bystanders[i], stand_by, NULL);
    while (parallel_ready(seat_attached_self, 1) == 0) {
        ouro_world_stop();
        bool parked = parallel_ready(seat_attached_self, 1) == BYSTANDERS;
        ouro_world_start();
        if (parked)
            break;
        sleep_ms(1);
    }
}

static inline void leave_shared(void)
{
    gate_open(&end);
    for (int i = 0; i < BYSTANDERS; i++)
        worker_join(&bystanders[i]);
    parallel_set_hooks(NULL, NULL);
    leave();
}

static inline size_t shared(ouro_gc_kind kind)
{
    size_t collected = collect_kind(kind);

    cr_assert_eq(last_info.helpers, BYSTANDERS, "%u helped", last_info.helpers);
    return collected;
}

/* Alive, then garbage; by both kinds. */
static inline void assert_is_one(void *root, size_t count, ouro_gc_kind kind)
{
    size_t before = live_objects();

    cr_assert_eq(shared(kind), 0);
    cr_assert_eq(last_info.candidates, count);
    cr_assert_eq(shared(OURO_GC_FULL), 0);
    ouro_decref((ouro_object *)root);
    size_t collected = shared(kind);
    cr_assert_eq(collected, count, "%zu collected instead of %zu", collected, count);
    cr_assert_eq(live_objects(), before - count);
}

static atomic_bool may_come;

static inline void come_late(void)
{
    while (!atomic_load(&may_come))
        sched_yield();
}

/* Reports each reference `times` times, one by one. */
struct wide {
    ouro_header ouro;
    size_t count;
    unsigned times;
    ouro_object *items[];
};

static atomic_size_t visited_elsewhere;

static inline void visit_one_by_one(void *self, ouro_visitor *visitor)
{
    struct wide *wide = self;

    if (!pthread_equal(pthread_self(), collector))
        atomic_fetch_add(&visited_elsewhere, 1);
    for (size_t i = 0; i < wide->count; i++) {
        for (unsigned k = 0; k < wide->times; k++)
            ouro_visit(visitor, &wide->items[i]);
    }
}

/* Without items, and room for so many. */
static inline struct wide *wide_room(size_t room)
{
    static const ouro_type *type;
    static const ouro_type_spec spec = {.name = "wide",
                                        .size = sizeof(struct wide),
                                        .item_size = sizeof(ouro_object *),
                                        .visit = visit_one_by_one};

    if (!type)
        cr_assert_eq(ouro_type_register(&spec, &type), OURO_OK);
    struct wide *wide = ouro_new_array(type, room);
    cr_assert_not_null(wide);
    wide->times = 1;
    return wide;
}

static inline struct wide *wide_new(size_t count, unsigned times)
{
    struct wide *wide = wide_room(count);

    wide->times = times;
    for (; wide->count < count; wide->count++)
        wide->items[wide->count] = OURO_OF(node_new(NULL, NULL));
    return wide;
}

#endif
