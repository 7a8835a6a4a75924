/*
 * test_deep_pieces.c - deep collections in slices that presume more garbage than one stop may look at: it is proved in pieces.
 */

#include "deep.h"

#include "gc/schedule.h"

#include <ouro/finalize.h>
#include <ouro/weak.h>

TestSuite(deep_pieces, .init = begin_deep, .fini = leave, .timeout = 120);

enum { RINGS = 40, LENGTH = 150, LIMIT = 2000 }; /* three of them are a piece's worth */

static size_t found_before_the_end; /* by slices after which it was still under way */

static void look_at_slice(const ouro_gc_info *info)
{
    if (info->phase == OURO_GC_STOP && info->under_way)
        found_before_the_end += info->collected;
}

static void begin_pieces(void)
{
    settle();
    found_before_the_end = 0;
    in_callback = look_at_slice;
}

static void rings_new(struct node **rings, size_t length)
{
    for (int i = 0; i < RINGS; i++)
        rings[i] = ring_new(length);
}

static void rings_drop(struct node **rings)
{
    for (int i = 0; i < RINGS; i++)
        ouro_decref(rings[i]);
}

static void finish_within(size_t limit)
{
    while (slice(limit))
        cr_assert_leq(sum.most, limit + BEYOND);
}

Test(deep_pieces, many_small_ones_are_found_in_many_stops)
{
    struct node *rings[RINGS];

    rings_new(rings, LENGTH);
    begin_pieces();
    rings_drop(rings);
    finish_within(LIMIT);
    cr_assert_leq(sum.most, LIMIT + BEYOND, "the proof had to look at %zu", sum.most);
    cr_assert_eq(found_before_the_end, RINGS * LENGTH);
    cr_assert_eq(sum.found, RINGS * LENGTH);
    check_nothing_left();
}

Test(deep_pieces, few_enough_for_one_stop_are_proved_in_one)
{
    struct node *rings[RINGS];

    rings_new(rings, 10);
    begin_pieces();
    rings_drop(rings);
    finish_within(LIMIT);
    cr_assert_eq(found_before_the_end, 0);
    cr_assert_eq(sum.found, RINGS * 10);
    check_nothing_left();
}

Test(deep_pieces, one_that_is_too_large_is_proved_in_the_end)
{
    enum { LARGE = 20000 }; /* more than the list of a piece has room for, too */
    struct node *rings[RINGS], *large = ring_new(LARGE);

    rings_new(rings, LENGTH);
    begin_pieces();
    make_candidate(large->left->left); /* a second root of the same piece */
    ouro_decref(large);
    rings_drop(rings);
    finish(LIMIT);
    cr_assert_eq(found_before_the_end, RINGS * LENGTH);
    cr_assert_eq(sum.found, RINGS * LENGTH + LARGE);
    check_nothing_left();

    /* with as much room as it likes, but for that list */
    large = ring_new(LARGE);
    begin_pieces();
    ouro_decref(large);
    while (slice(deep_is_under_way() ? LARGE - 1 : LIMIT)) {
    }
    cr_assert_eq(sum.found, LARGE);
    check_nothing_left();
}

/* Each ring refers to the one that was made before it, so what comes first is held by what comes later. The last is dropped, and each
 * of them has been a candidate. */
Test(deep_pieces, what_other_garbage_refers_to)
{
    struct node *before = NULL;

    for (int i = 0; i < RINGS; i++) {
        struct node *ring = ring_new(LENGTH);

        node_set_right(ring, before);
        before = ring;
    }
    begin_pieces();
    for (struct node *ring = before; ring; ring = ring->right)
        make_candidate(ring);
    ouro_decref(before);
    finish(LIMIT);
    cr_assert_eq(sum.found, RINGS * LENGTH);
    check_nothing_left();
    expect_left(0);
}

/* The rings are presumed to be garbage, and then one of them turns out to be held: a reference was taken from a weak one while the
 * others were proved. */
Test(deep_pieces, one_that_has_been_taken_back)
{
    struct node *rings[RINGS];
    ouro_weakref *ref;
    size_t found_before = 0; /* by pieces, before it was taken back */

    rings_new(rings, LENGTH);
    ref = ouro_weakref_new(rings[RINGS / 2]->left);
    cr_assert_not_null(ref);
    for (size_t taken_after = 1;; taken_after++) {
        struct node *taken = NULL;

        begin_pieces();
        forget();
        for (int i = 0; i < RINGS; i++) {
            if (rings[i])
                ouro_decref(rings[i]);
            rings[i] = NULL;
        }
        for (size_t count = 0; count < taken_after && slice(LIMIT); count++) {
        }
        if (deep_is_under_way())
            taken = ouro_weakref_get(ref);
        if (taken)
            found_before = sum.found;
        finish(LIMIT);
        check_nothing_left();
        if (!taken)
            break;
        cr_assert_eq(sum.found, (RINGS - 1) * LENGTH, "after %zu slices: %zu", taken_after,
                     sum.found);
        ouro_decref(taken);
        forget();
        finish(LIMIT);
        cr_assert_eq(sum.found, LENGTH);
        rings_new(rings, LENGTH);
        ouro_decref(ref);
        ref = ouro_weakref_new(rings[RINGS / 2]->left);
        cr_assert_not_null(ref);
    }
    cr_assert_eq(sum.found, RINGS * LENGTH);
    cr_assert_gt(found_before, 0);
    cr_assert_null(ouro_weakref_get(ref));
    ouro_decref(ref);
}

/* Ended before all of them have been tried: those that were kept, and what is left of them, are candidates again. */
Test(deep_pieces, ended_in_the_middle)
{
    struct seat *self = seat_attached_self;
    size_t found_before = 0;
    bool in_time = true;

    for (size_t count = 1; in_time; count++) {
        struct node *before = NULL;

        for (int i = 0; i < RINGS; i++) { /* as above: pieces that are kept */
            struct node *ring = ring_new(LENGTH);

            node_set_right(ring, before);
            before = ring;
        }
        begin_pieces();
        for (struct node *ring = before; ring; ring = ring->right)
            make_candidate(ring);
        ouro_decref(before);
        in_time = slices(count, LIMIT);
        if (in_time)
            found_before = sum.found;
        collect_claim_wait(self);
        deep_end(self);
        collect_claim_release();
        check_nothing_left();
        finish(LIMIT);
        cr_assert_eq(sum.found, RINGS * LENGTH, "ended after %zu slices: %zu", count, sum.found);
        check_nothing_left();
    }
    cr_assert_gt(found_before, 0);
    expect_left(0);
}

static size_t finalized;

static void count_finalized(void *self)
{
    (void)self;
    finalized++;
}

Test(deep_pieces, finalizers)
{
    static const uint16_t fields[] = {OURO_FIELD(struct node, left),
                                      OURO_FIELD(struct node, right)};
    const ouro_type_spec spec = {.name = "finalized",
                                 .size = sizeof(struct node),
                                 .fields = fields,
                                 .field_count = 2,
                                 .finalize = count_finalized};
    const ouro_type *type;
    struct node *rings[RINGS];

    cr_assert_eq(ouro_type_register(&spec, &type), OURO_OK);
    rings_new(rings, LENGTH);
    for (int i = 0; i < RINGS; i++) {
        struct node *node = ouro_new(type);

        cr_assert_not_null(node);
        node->left = ouro_incref(rings[i]->left);
        node_set_right(rings[i], node);
    }
    begin_pieces();
    rings_drop(rings);
    finish(LIMIT);
    ouro_run_finalizers();
    cr_assert_eq(finalized, RINGS);
    check_nothing_left();
    finish(LIMIT);
    cr_assert_eq(sum.found, RINGS * (LENGTH + 1));
    cr_assert_eq(finalized, RINGS);
    check_nothing_left();
}

/* The clock, and not a number of objects, is the limit of automatic ones. */
Test(deep_pieces, automatic)
{
    enum { MANY = 300, LONG = 400 };
    struct node *rings[MANY];

    for (int i = 0; i < MANY; i++)
        rings[i] = ring_new(LONG);
    settle();
    for (int i = 0; i < MANY; i++)
        ouro_decref(rings[i]);
    found_before_the_end = 0;
    in_callback = look_at_slice;
    struct sets_limit limit = {SIZE_MAX / 2, 256, 200000};
    collect_set_limits(&limit);
    while (collect_slice()) {
    }
    collect_set_limits(NULL);
    cr_assert_eq(sum.found, MANY * LONG);
    cr_assert_gt(found_before_the_end, MANY * LONG / 2);
    check_nothing_left();
}

static size_t
    most_in_pieces; /* of what slices have looked at that found something before the end */

static void look_at_pieces(const ouro_gc_info *info)
{
    look_at_slice(info);
    if (info->phase == OURO_GC_STOP && info->under_way && info->collected &&
        info->candidates > most_in_pieces)
        most_in_pieces = info->candidates;
}

/* There is room for one and two thirds of them: the second is left for the next slice, and not looked for again and again in this one. */
Test(deep_pieces, one_without_room_ends_the_slice)
{
    enum { LONG = LIMIT * 3 / 20 };
    struct node *rings[RINGS];

    rings_new(rings, LONG);
    begin_pieces();
    in_callback = look_at_pieces;
    rings_drop(rings);
    finish_within(LIMIT);
    cr_assert_eq(found_before_the_end, RINGS * LONG);
    cr_assert_lt(most_in_pieces, LIMIT);
    check_nothing_left();
}

/* --- what the schedule makes of it ----------------------------------------------------------------------- */

/* An old collection is due then, if there is a candidate. */
static bool heap_has_grown(struct node *old)
{
    ouro_gc_kind kind;

    make_candidate(old);
    return schedule_is_due(&kind);
}

/* What the heap has grown by is measured against what it was at the beginning, less the garbage that pieces have found. */
Test(deep_pieces, garbage_that_is_found_is_no_part_of_what_is_settled)
{
    enum { LONG = 500, FRESH = RINGS * LONG, MORE = 40000 };
    struct node *rings[RINGS], *old = node_new(NULL, NULL), *fresh = NULL;
    size_t first;
    unsigned percent;

    ouro_gc_get_threshold(&first, &percent);
    ouro_gc_set_threshold(1000000,
                          percent); /* no young ones, no others by the number of candidates */
    rings_new(rings, LONG);
    begin_pieces();
    rings_drop(rings);
    cr_assert(slice(LIMIT));
    fresh = chain_new(FRESH);
    finish(LIMIT);
    cr_assert_eq(found_before_the_end, RINGS * LONG);
    ouro_gc_enable();
    cr_assert_not(heap_has_grown(old));
    struct node *more = chain_new(MORE);
    cr_assert(heap_has_grown(old), "against what there was at the beginning it has not");
    ouro_gc_disable();
    ouro_gc_set_threshold(first, percent);
    ouro_decref(more);
    ouro_decref(fresh);
    ouro_decref(old);
}

static bool is_slow;

/* Once, when it has been asked for, the stop is long, and so is the rest after it. */
static void visit_slowly(void *self, ouro_visitor *visitor)
{
    struct node *node = self;

    if (is_slow)
        sleep_ms(50);
    is_slow = false;
    ouro_visit(visitor, &node->left);
}

/* Two thirds of the heap are garbage. When half of that is found less is presumed than there was, less what was found: no hurry. */
Test(deep_pieces, there_are_rests_while_garbage_is_found)
{
    const ouro_type_spec spec = {.name = "slow",
                                 .size = sizeof(struct node),
                                 .visit = visit_slowly};
    const ouro_type *type;
    struct node *rings[RINGS], *kept = chain_new(RINGS * LENGTH / 2);
    ouro_gc_kind kind;
    size_t first;
    unsigned percent;

    cr_assert_eq(ouro_type_register(&spec, &type), OURO_OK);
    ouro_gc_get_threshold(&first, &percent);
    ouro_gc_set_threshold(1000000, percent);
    uint64_t budget = ouro_gc_get_pause_budget();
    cr_assert_eq(ouro_gc_set_pause_budget(1000000000), OURO_OK);
    rings_new(rings, LENGTH);
    for (int i = 0; i < RINGS; i++) {
        struct node *slow = ouro_new(type);

        cr_assert_not_null(slow);
        slow->left = ouro_incref(rings[i]->left);
        node_set_right(rings[i], slow);
    }
    begin_pieces();
    rings_drop(rings);
    while (found_before_the_end < RINGS * LENGTH / 2)
        cr_assert(slice(LIMIT));
    is_slow = true;
    cr_assert(slice(LIMIT));
    cr_assert_not(is_slow);
    ouro_gc_enable();
    cr_assert_not(schedule_is_due(&kind), "it has four times as long as the stop was");
    ouro_gc_disable();
    finish(LIMIT);
    cr_assert_eq(sum.found, RINGS * (LENGTH + 1));
    cr_assert_eq(ouro_gc_set_pause_budget(budget), OURO_OK);
    ouro_gc_set_threshold(first, percent);
    ouro_decref(kept);
}
