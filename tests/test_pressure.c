/*
 * test_pressure.c - memory over the soft limit: what is collected, and in which order the program is told.
 */
#include "support.h"

#include "gc/schedule.h"

static void begin(void);

TestSuite(pressure, .init = begin, .fini = leave, .timeout = 100);

/* Of all collections since forget(). */
static struct {
    size_t stops;
    size_t deep;     /* at their end */
    unsigned causes; /* bits */
} sum;

static void add_up(const ouro_gc_info *info, void *argument)
{
    (void)argument;
    if (info->phase != OURO_GC_STOP)
        return;
    sum.stops++;
    sum.deep += info->kind == OURO_GC_DEEP && !info->under_way;
    sum.causes |= 1u << info->cause;
}

static void begin(void)
{
    enter();
    CHECK(ouro_gc_add_callback(add_up, NULL) == OURO_OK);
}

static void forget(void)
{
    memset(&sum, 0, sizeof sum);
}

/* --- the limit ------------------------------------------------------------------------------------------- */

static size_t pressed, pressed_used, pressed_limit;

static void press(size_t used, size_t limit, void *argument)
{
    CHECK(argument == &pressed);
    CHECK(ouro_thread_state() == OURO_STATE_ATTACHED);
    pressed++;
    pressed_used = used;
    pressed_limit = limit;
}

enum {
    LIMIT = 4 << 20,
    STOP_MOST =
        500 +
        (64 << 10) /
            sizeof(
                struct
                node), /* what one stop looks at, at most: the least of a limit, and a page of nodes */
};

static void make_pressure(void)
{
    cr_assert_eq(ouro_gc_set_soft_limit(1023, press, NULL), OURO_INVALID);
    cr_assert_eq(ouro_gc_set_soft_limit(LIMIT, press, &pressed), OURO_OK);
    ouro_gc_set_threshold(1000000, 1000000); /* nothing else makes a collection due */
    ouro_gc_enable();
    forget();
}

static void end_pressure(void)
{
    cr_assert_eq(ouro_gc_set_soft_limit(0, NULL, NULL), OURO_OK);
    ouro_gc_disable();
}

Test(pressure, with_garbage)
{
    make_pressure();
    for (int i = 0; i < 3 * LIMIT / 48; i++) {
        ouro_decref(ring_new(1));
        ouro_safepoint();
    }
    cr_assert_eq(pressed, 0, "a collection was enough");
    cr_assert(sum.deep >= 2 && sum.deep <= 4, "%zu", sum.deep);
    end_pressure();
}

Test(pressure, without_garbage)
{
    struct node *chain = NULL;
    size_t count = 2 * LIMIT / 48; /* bytes of a block for a node */

    make_pressure();
    for (size_t i = 0; i < count; i++) {
        chain = node_new(chain, NULL);
        ouro_safepoint();
        if (pressed == 1 && i * 48 < LIMIT + LIMIT / 20)
            cr_assert(pressed_used > LIMIT && pressed_used < LIMIT + LIMIT / 10);
    }
    /* At the limit, and whenever a tenth of it is used in addition. */
    cr_assert(pressed >= 8 && pressed <= 11, "%zu times", pressed);
    cr_assert_eq(pressed_limit, LIMIT);
    /* What it collected first may have been enough once. */
    cr_assert(sum.deep >= pressed && sum.deep <= pressed + 2, "%zu, %zu", sum.deep, pressed);
    end_pressure();
    ouro_decref(chain);
}

Test(pressure, counts_external_bytes)
{
    make_pressure();
    ouro_adjust_external_bytes(2 * LIMIT);
    ouro_safepoint();
    cr_assert_eq(pressed, 1);
    cr_assert_geq(pressed_used, 2 * LIMIT);
    ouro_safepoint();
    cr_assert_eq(pressed, 1);
    schedule_press(0); /* by another thread that found the same at the same time */
    cr_assert_eq(pressed, 1);
    ouro_adjust_external_bytes(-2 * LIMIT);
    end_pressure();
}

static void make_pairs(size_t count)
{
    for (size_t i = 0; i < count; i++)
        ouro_decref(ring_new(2));
}

/* More than a stop looks at, at the end of each. */
static void make_more(const ouro_gc_info *info, void *argument)
{
    (void)argument;
    if (info->phase == OURO_GC_STOP && sum.stops < 2000)
        make_pairs(2 * STOP_MOST);
}

Test(pressure, while_others_make_garbage)
{
    make_pressure();
    cr_assert_eq(ouro_gc_set_pause_budget(1), OURO_OK);
    make_pairs(2 * STOP_MOST);
    ouro_adjust_external_bytes(2 * LIMIT);
    cr_assert_eq(ouro_gc_add_callback(make_more, NULL), OURO_OK);
    ouro_safepoint();
    cr_assert_eq(pressed, 1);
    cr_assert_lt(sum.stops, 500, "%zu stops in one safepoint", sum.stops);
    cr_assert_eq(ouro_gc_remove_callback(make_more, NULL), OURO_OK);
    ouro_adjust_external_bytes(-2 * LIMIT);
    end_pressure();
}

/* --- finalizers ------------------------------------------------------------------------------------------ */

struct holder {
    ouro_header ouro;
    struct holder *next;
    bool finalized;
};

static void holder_finalize(void *self)
{
    struct holder *holder = self;

    holder->finalized = true;
}

static void holder_destroy(void *self)
{
    struct holder *holder = self;

    CHECK(holder->finalized);
    ouro_adjust_external_bytes(-(1 << 20));
}

static const ouro_type *holder_type(void (*finalize)(void *self))
{
    static const uint16_t fields[] = {OURO_FIELD(struct holder, next)};
    const ouro_type *type;

    cr_assert_eq(ouro_type_register(&(ouro_type_spec){.name = "holder",
                                                      .size = sizeof(struct holder),
                                                      .fields = fields,
                                                      .field_count = 1,
                                                      .finalize = finalize,
                                                      .destroy = holder_destroy},
                                    &type),
                 OURO_OK);
    return type;
}

/* Cyclic garbage that has a mebibyte elsewhere. */
static void holder_drop(const ouro_type *type)
{
    struct holder *holder = ouro_new(type);

    cr_assert(holder);
    ouro_adjust_external_bytes(1 << 20);
    holder->next = ouro_incref(holder);
    ouro_decref(holder);
}

/* What waits for its finalizer is not held by the program: these run before it is told. */
Test(pressure, finalizers_come_first)
{
    const ouro_type *type = holder_type(holder_finalize);

    make_pressure();
    for (int i = 0; i < 100; i++) {
        holder_drop(type);
        ouro_safepoint();
        cr_assert_leq(stats_now().external_bytes, 5u << 20);
    }
    cr_assert_eq(pressed, 0);
    cr_assert_eq(sum.causes, 1u << OURO_GC_CAUSE_LIMIT);
    end_pressure();
}

static struct gate go, has_it, give_it_back;
static _Thread_local bool is_other;

static void keep_it(const ouro_gc_info *info, void *argument)
{
    (void)argument;
    if (info->phase == OURO_GC_START && is_other) {
        gate_open(&has_it);
        gate_wait(&give_it_back);
    }
}

static void collect_by_other(void *argument)
{
    (void)argument;
    is_other = true;
    gate_wait(&go);
    ouro_collect();
}

static void let_other_collect(void *self)
{
    holder_finalize(self);
    gate_open(&go);
    gate_wait(&has_it);
}

/* Another thread collects by the time the finalizers have run: nobody is told before a safepoint has found that it was not enough. */
Test(pressure, another_thread_collects_after_the_finalizers)
{
    struct worker worker;

    cr_assert_eq(ouro_gc_add_callback(keep_it, NULL), OURO_OK);
    worker_start(&worker, collect_by_other, NULL);
    make_pressure();
    holder_drop(holder_type(let_other_collect));
    ouro_adjust_external_bytes(2 * LIMIT);
    ouro_safepoint();
    cr_assert_eq(pressed, 0);
    cr_assert_eq(sum.deep, 1);
    gate_open(&give_it_back);
    worker_join(&worker);
    ouro_safepoint();
    cr_assert_eq(pressed, 1);
    ouro_adjust_external_bytes(-2 * LIMIT);
    end_pressure();
}
