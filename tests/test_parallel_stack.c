/*
 * test_parallel_stack.c - the stack of a worker: how much it may hold, what is left for later if there is no room on it.
 *
 * Each by the collector alone, by one that shares and whose helpers come when all is over, and with helpers.
 */

#include "parallel.h"

#include "heap/page.h"

#include <stddef.h>
#include <stdlib.h>

TestSuite(parallel_stack, .init = enter_shared, .fini = leave_shared);

enum mode { ALONE, LATE, HELPED, MODES };

static size_t collect_by(enum mode mode, ouro_gc_kind kind)
{
    ouro_gc_set_helpers(mode == ALONE ? 0 : BYSTANDERS);
    parallel_set_hooks(mode == HELPED ? await_helpers : NULL, mode == LATE ? come_late : NULL);
    atomic_store(&may_come, false);
    size_t collected = collect_kind(kind);
    cr_assert_eq(last_info.helpers, mode == HELPED ? BYSTANDERS : 0);
    atomic_store(&may_come, true);
    ouro_world_stop(); /* they are stopped again: back from there */
    ouro_world_start();
    return collected;
}

/* The root reaches `count` objects, and is the only candidate; then all of it is garbage. */
static void assert_is_found(enum mode mode, void *root, size_t count, ouro_gc_kind kind)
{
    cr_assert_eq(collect_by(mode, OURO_GC_FULL), 0, "alive, and collected; mode %d", mode);
    ouro_decref(ouro_incref((ouro_object *)root));
    cr_assert_eq(collect_by(mode, OURO_GC_DEEP), 0, "alive, and collected; mode %d", mode);
    cr_assert_eq(last_info.candidates, count, "%zu of %zu were reached; mode %d",
                 last_info.candidates, count, mode);
    ouro_decref((ouro_object *)root);
    size_t collected = collect_by(mode, kind);
    cr_assert_eq(collected, count, "%zu of %zu were collected; mode %d", collected, count, mode);
}

/* --- later -------------------------------------------------------------------------------------------- */

enum { MANY = 8000, LARGE = 4 };

static struct node *many_new(void)
{
    static const ouro_type *type;
    static uint16_t fields[MANY];
    const ouro_type_spec spec = {.name = "many",
                                 .size = sizeof(ouro_header) + MANY * sizeof(ouro_object *),
                                 .fields = fields,
                                 .field_count = MANY};

    for (size_t i = 0; i < MANY; i++)
        fields[i] = (uint16_t)(sizeof(ouro_header) + i * sizeof(ouro_object *));
    if (!type)
        cr_assert_eq(ouro_type_register(&spec, &type), OURO_OK);
    ouro_object *many = ouro_new(type);
    cr_assert_not_null(many);
    ouro_object **items = (ouro_object **)(void *)((char *)many + sizeof(ouro_header));
    for (size_t i = 0; i < MANY; i++)
        items[i] = OURO_OF(node_new(NULL, NULL));
    return (struct node *)(void *)many;
}

/* There is room for what one of them refers to, not for two. */
Test(parallel_stack, types_with_very_many_fields)
{
    for (enum mode mode = ALONE; mode < MODES; mode++) {
        for (int kind = OURO_GC_DEEP; kind <= OURO_GC_FULL; kind++) {
            uint64_t rescans = event_total(EVENT_RESCAN);
            struct array *root = array_new(LARGE + 1);

            for (size_t i = 0; i < LARGE; i++)
                root->items[i] = OURO_OF(many_new());
            root->items[LARGE] = ouro_incref(OURO_OF(root));
            assert_is_found(mode, root, 1 + (MANY + 1) * LARGE, (ouro_gc_kind)kind);
            cr_assert_gt(event_total(EVENT_RESCAN), rescans, "none was left for later");
        }
    }
}

enum { FILLERS = 40000, LOWER = 20, MORE = 140 };

static int by_address(const void *a, const void *b)
{
    uintptr_t left = (uintptr_t) * (struct node *const *)a;
    uintptr_t right = (uintptr_t) * (struct node *const *)b;

    return (left > right) - (left < right);
}

/* Nodes of one page, by their addresses. */
static void neighbours_new(struct node **nodes)
{
    enum { TRIED = 2 * PAGE_BYTES / sizeof(struct node) };
    struct node *tried[TRIED];
    size_t count = 0;

    for (size_t i = 0; i < TRIED; i++)
        tried[i] = node_new(NULL, NULL);
    const struct page *page = page_of(OURO_OF(tried[TRIED / 2]));
    qsort(tried, TRIED, sizeof tried[0], by_address);
    for (size_t i = 0; i < TRIED; i++) {
        if (page_of(OURO_OF(tried[i])) == page && count < LOWER + 1 + MORE)
            nodes[count++] = tried[i];
        else
            ouro_decref(tried[i]);
    }
    cr_assert_eq(count, LOWER + 1 + MORE, "a page has too little room for this test");
}

static void fill_up(struct wide *wide, struct node *filler)
{
    while (wide->count < FILLERS)
        wide->items[wide->count++] = ouro_incref(OURO_OF(filler));
}

/* The first wide one fills the stack, and leaves one of the middle of a page, and all above it, for later.  When these are looked into a
 * second wide one fills the stack again, and those below are left, which have been passed by then. */
static struct wide *later_twice_new(size_t *count)
{
    struct node *nodes[LOWER + 1 + MORE], *filler = node_new(NULL, NULL);
    struct wide *first = wide_room(FILLERS + 1 + MORE), *second = wide_room(FILLERS + LOWER);

    neighbours_new(nodes);
    filler->left = (struct node *)(void *)ouro_incref(OURO_OF(first));
    fill_up(first, filler);
    fill_up(second, filler);
    for (size_t i = 0; i < LOWER + 1 + MORE; i++) {
        struct wide *from = i < LOWER ? second : first;

        from->items[from->count++] = OURO_OF(nodes[i]);
        nodes[i]->left = i == LOWER ? (struct node *)(void *)second : node_new(NULL, NULL);
    }
    ouro_decref(filler);
    *count = 3 + 2 * (LOWER + MORE) + 1;
    return first;
}

Test(parallel_stack, what_is_left_for_later_in_a_page_that_is_walked_again)
{
    for (enum mode mode = ALONE; mode < MODES; mode++) {
        for (int kind = OURO_GC_DEEP; kind <= OURO_GC_FULL; kind++) {
            uint64_t rescans = event_total(EVENT_RESCAN);
            size_t count;
            struct wide *root = later_twice_new(&count);

            assert_is_found(mode, root, count, (ouro_gc_kind)kind);
            if (mode != HELPED)
                cr_assert_gt(event_total(EVENT_RESCAN), rescans + 3, "each time twice");
        }
    }
}

/* --- late helpers ------------------------------------------------------------------------------------- */

/* Alone the collector runs out of pieces and of its stack. */
Test(parallel_stack, helpers_that_come_late_and_a_stack_that_is_full)
{
    size_t count = SCALE(60000, 40000);
    uint64_t rescans = event_total(EVENT_RESCAN), late = event_total(EVENT_HELP_LATE);
    struct wide *wide = wide_new(count, 1);

    for (int kind = OURO_GC_DEEP; kind <= OURO_GC_FULL; kind++) {
        cr_assert_eq(collect_by(LATE, (ouro_gc_kind)kind), 0);
        cr_assert_eq(last_info.candidates, count + 1);
    }
    cr_assert_gt(event_total(EVENT_RESCAN), rescans, "the stack was never full");
    cr_assert_gt(event_total(EVENT_HELP_LATE), late, "nobody came late");
    cr_assert_eq(collect_by(HELPED, OURO_GC_FULL), 0);
    ouro_decref(wide);
}

/* --- help that comes in the middle -------------------------------------------------------------------- */

enum { LEAVES = 118, HUB = 1024, PIECE = 256, TARGETS = 256 };

static atomic_bool armed, came_back, timed_out;
static atomic_size_t helped;

static void await(bool (*come_true)(void))
{
    double until = seconds() + 10;

    while (!come_true()) {
        if (seconds() > until) {
            atomic_store(&timed_out, true);
            return;
        }
        sched_yield();
    }
}

static bool somebody_helped(void)
{
    return atomic_load(&helped) > 0;
}

static void await_one(void)
{
    double until = seconds() + 10;

    while (parallel_present() == 0 && seconds() < until)
        sched_yield();
}

static bool collector_waits_or_has_some(void)
{
    return atomic_load(&came_back) || parallel_is_wanted();
}

/* The collector waits here until the other has work, and he, at each, until the collector has none, or has had some of his. */
static void visit_meeting(void *self, ouro_visitor *visitor)
{
    struct box *box = self;

    ouro_visit(visitor, &box->content);
    if (!atomic_load(&armed))
        return;
    if (!pthread_equal(pthread_self(), collector)) {
        atomic_fetch_add(&helped, 1);
        await(collector_waits_or_has_some);
    } else if (box->content) {
        await(somebody_helped);
    } else {
        atomic_store(&came_back, true);
    }
}

static ouro_object *meeting_new(struct array *content)
{
    static const ouro_type *type;
    static const ouro_type_spec spec = {.name = "meeting",
                                        .size = sizeof(struct box),
                                        .visit = visit_meeting};

    if (!type)
        cr_assert_eq(ouro_type_register(&spec, &type), OURO_OK);
    struct box *box = ouro_new(type);
    cr_assert_not_null(box);
    box->content = content ? OURO_OF(content) : NULL;
    return OURO_OF(box);
}

/* Leaves come first, and help comes among them, when some are on the collector's stack, and less and less from there on.  Then an object
 * with many references, of which the collector's share is NULL, and one where he waits. */
static struct array *late_help_new(void)
{
    struct array *root = array_new(2 + LEAVES), *hub = array_new(HUB);

    root->items[0] = meeting_new(ouro_incref(root));
    root->items[1] = OURO_OF(hub);
    for (size_t i = 0; i < LEAVES; i++)
        root->items[2 + i] = OURO_OF(node_new(NULL, NULL));
    for (size_t i = 0; i < TARGETS; i++)
        hub->items[PIECE + i] = meeting_new(NULL);
    return root;
}

/* Whether they met: the system may stop either of them so long that the other does all there is. */
static bool reached_with_late_help(struct array *root, size_t count)
{
    atomic_store(&helped, 0);
    atomic_store(&came_back, false);
    ouro_decref(ouro_incref(root)); /* the only candidate */
    atomic_store(&armed, true);
    cr_assert_eq(collect_kind(OURO_GC_DEEP), 0);
    atomic_store(&armed, false);
    cr_assert_eq(last_info.candidates, count);
    cr_assert(!timed_out, "one waited for the other in vain");
    return last_info.helpers == 1 && came_back;
}

/* What the collector takes from the other is more than he had on his stack when help came. */
Test(parallel_stack, help_comes_late_in_reach)
{
    struct array *root = late_help_new();
    size_t count = live_objects();
    double until = seconds() + 60;
    unsigned met = 0;

    setenv("OURO_VERIFY", "0", 1); /* which looks into the objects before others come */
    parallel_set_hooks(await_one, NULL);
    ouro_gc_set_helpers(1);
    cr_assert_eq(collect_kind(OURO_GC_FULL), 0);
    while (met < 3 && seconds() < until)
        met += reached_with_late_help(root, count);
    cr_assert_gt(met, 0, "they never met");
    ouro_decref(root);
    cr_assert_eq(collect_kind(OURO_GC_DEEP), count);
}
