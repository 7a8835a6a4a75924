/*
 * test_deep_changes.c - what the program does between two slices of a deep collection: what was a member dies, is moved, comes back, refers to new objects.
 *
 * A test does it after 0, 1, 2... slices, so that it comes in every phase.
 */

#include "deep.h"

TestSuite(deep_changes, .init = begin_deep, .fini = leave, .timeout = 120);

/* --- what the program does meanwhile: each after 0, 1, 2... slices ---------------------------------------- */

/* A ring, of which the test has a reference to one member, which is a candidate. `change` makes garbage of it. */
static struct node *ring;

static bool changed_after(size_t count, void (*change)(void))
{
    struct node *tree = tree_new(5);

    ring = ring_new(RING);
    settle();
    candidates_in(tree);
    make_candidate(ring);
    make_candidate(ring->left->left);
    bool in_time = count == 0 || slices(count, STEP);
    cr_assert_eq(sum.found, 0);
    change();
    finish(STEP);
    check_nothing_left();
    cr_assert(sum.found == 0 || sum.found == RING, "%zu", sum.found);
    ouro_synchronize();
    finish(STEP);
    cr_assert_eq(sum.found, RING, "%zu are found, changed after %zu slices", sum.found, count);
    check_nothing_left();
    cr_assert_eq(live_objects(), 63);
    ouro_decref(tree);
    return in_time;
}

static void changed_at_any_time(void (*change)(void))
{
    size_t count = 0;

    while (changed_after(count, change))
        count++;
    cr_assert_gt(count, 8);
}

static void drop_ring(void)
{
    ouro_decref(ring);
}

static void drop_it(void *argument)
{
    ouro_decref((struct node *)argument);
}

static void drop_elsewhere(void)
{
    run_in_thread(drop_it, ring);
}

static void disown_and_drop(void)
{
    (void)ouro_disown(OURO_OF(ring));
    ouro_decref(ring);
}

static void take_another_way_in(void)
{
    struct node *other = ouro_incref(ring->left->left->left);

    ouro_decref(ring);
    young();
    ouro_decref(other);
}

/* The last way in is moved into the ring. */
static void move_it_in(void)
{
    ouro_move(ring->left, &ring->left->right, ring);
}

Test(deep_changes, dropped)
{
    changed_at_any_time(drop_ring);
}

Test(deep_changes, dropped_elsewhere)
{
    changed_at_any_time(drop_elsewhere);
}

Test(deep_changes, disowned)
{
    changed_at_any_time(disown_and_drop);
}

Test(deep_changes, another_way_in)
{
    changed_at_any_time(take_another_way_in);
}

Test(deep_changes, moved_in)
{
    changed_at_any_time(move_it_in);
}

/* An old ring becomes partly new: a member is replaced. */
static void make_partly_new(void)
{
    struct node *rest = ouro_incref(ring->left->left), *fresh = node_new(rest, NULL);

    node_set_left(ring, fresh);
    ouro_decref(ring);
}

Test(deep_changes, partly_new)
{
    changed_at_any_time(make_partly_new);
}

static void make_partly_new_and_look(void)
{
    make_partly_new();
    young();
}

Test(deep_changes, partly_new_and_young_beside_it)
{
    changed_at_any_time(make_partly_new_and_look);
}

/* Garbage that is dropped while it is looked at is saved, and given up again. */
Test(deep_changes, saved)
{
    struct node *old = ring_new(RING);

    settle();
    ouro_decref(old);
    cr_assert(slices(3, STEP));
    ouro_gc_set_debug(OURO_GC_SAVE);
    finish(STEP);
    cr_assert_eq(sum.found, 0);
    cr_assert_eq(sum.uncollectable, RING);
    ouro_gc_set_debug(0);
    check_nothing_left();
    cr_assert_eq(ouro_gc_drop_saved(), RING);
    finish(STEP);
    cr_assert_eq(sum.found, RING);
}

Test(deep_changes, immortal)
{
    for (size_t count = 0; count < 20; count++) {
        ring = ring_new(RING);
        settle();
        make_candidate(ring);
        slices(count, STEP);
        ouro_immortalize(OURO_OF(ring));
        ouro_decref(ring);
        finish(STEP);
        finish(STEP);
        cr_assert_eq(sum.found, 0);
        check_nothing_left();
    }
    expect_left((size_t)20 * RING);
}

/* --- members that die ------------------------------------------------------------------------------------- */

/* Their blocks become new objects of the same size, in front of a list that is a member. */
Test(deep_changes, blocks_of_members_are_used_again)
{
    for (size_t limit = 20; limit < 2000; limit = limit * 3 / 2) {
        struct node *list = chain_new(3000), *old = ring_new(RING);
        size_t length = 3000;

        settle();
        for (struct node *node = list; node; node = node->left)
            make_candidate(node);
        ouro_decref(old);
        forget();
        while (slice(limit)) {
            for (int i = 0; i < 7 && length > 1; i++, length--) {
                struct node *next = ouro_incref(list->left);
                ouro_decref(list);
                list = next;
            }
            for (int i = 0; i < 6; i++, length++)
                list = node_new(list, NULL);
            if (sum.slices % 3 == 0)
                young();
        }
        cr_assert_eq(length_of(list), length);
        cr_assert_eq(sum.found, RING);
        check_nothing_left();
        ouro_decref(list);
    }
}

/* Its data look like headers of members, at any granule. */
struct wide {
    ouro_header ouro;
    struct wide *next;
    uint64_t padding;
    uint32_t data[4 * 16];
};

static const ouro_type *wide_type;

static void register_wide(void)
{
    static const uint16_t fields[] = {OURO_FIELD(struct wide, next)};
    ouro_type_spec spec = {
        .name = "wide", .size = sizeof(struct wide), .fields = fields, .field_count = 1};

    CHECK(ouro_type_register(&spec, &wide_type) == OURO_OK);
}

static const uint32_t like_a_member[4] = {5, 0, SCRATCH_GUESSED | 3 * SCRATCH_ONE, 1};

static struct wide *wide_new(struct wide *next)
{
    struct wide *wide = ouro_new(wide_type);

    CHECK(wide);
    wide->next = next;
    for (size_t i = 0; i < 16; i++)
        memcpy(&wide->data[4 * i], like_a_member, sizeof like_a_member);
    return wide;
}

static size_t check_wide(const struct wide *wide)
{
    size_t count = 0;

    for (; wide; wide = wide->next, count++) {
        for (size_t i = 0; i < 16; i++)
            CHECK(memcmp(&wide->data[4 * i], like_a_member, sizeof like_a_member) == 0);
    }
    return count;
}

enum { PAGES_TAKEN = 12, WIDES = 3000 };

/* The pages of a list that dies are taken by objects of another size; true if one was. */
static bool pages_change_hands_after(size_t count, bool *in_time)
{
    struct node *list = chain_new((size_t)PAGES_TAKEN * PAGE_NODES);
    struct page *pages[PAGES_TAKEN];
    struct wide *wide = NULL;
    bool taken = false;
    size_t i = 0;

    for (struct node *node = list; node && i < PAGES_TAKEN; node = node->left) {
        if (i == 0 || page_of(node) != pages[i - 1])
            pages[i++] = page_of(node);
    }
    settle();
    for (struct node *node = list; node; node = node->left)
        make_candidate(node);
    *in_time = slices(count, 1000);
    ouro_decref(list);
    ouro_synchronize();
    ouro_trim();
    ouro_synchronize();
    for (i = 0; i < WIDES; i++)
        wide = wide_new(wide);
    for (i = 0; i < PAGES_TAKEN; i++)
        taken = taken || pages[i]->block_size >= sizeof *wide;
    finish(1000);
    CHECK(check_wide(wide) == WIDES);
    check_nothing_left();
    ouro_decref(wide);
    return taken;
}

Test(deep_changes, pages_of_members_change_hands)
{
    bool in_time = true, taken = false;

    register_wide();
    for (size_t count = 1; in_time; count += 11)
        taken = pages_change_hands_after(count, &in_time) || taken;
    cr_assert(taken);
}

/* --- finalizers and weak references -------------------------------------------------------------------- */

static const ouro_type *phoenix_type;
static struct node *risen;
static size_t calls;

static void rise(void *self)
{
    risen = ouro_incref((struct node *)self);
}

static void count_call(ouro_weakref *ref, ouro_object *argument)
{
    (void)argument;
    CHECK(ouro_weakref_is_cleared(ref));
    calls++;
}

static void register_phoenix(void)
{
    static const uint16_t fields[] = {OURO_FIELD(struct node, left),
                                      OURO_FIELD(struct node, right)};
    ouro_type_spec spec = {.name = "phoenix",
                           .size = sizeof(struct node),
                           .fields = fields,
                           .field_count = 2,
                           .finalize = rise};

    CHECK(ouro_type_register(&spec, &phoenix_type) == OURO_OK);
    CHECK(ouro_finalizer_set_mode(OURO_FINALIZE_ON_REQUEST) == OURO_OK);
}

Test(deep_changes, finalizers_and_weak_references)
{
    register_phoenix();
    struct node *old = ring_new(RING), *phoenix = ouro_new(phoenix_type);
    cr_assert(phoenix);
    phoenix->left = ouro_incref(old);
    node_set_right(old->left, phoenix);
    ouro_weakref *ref = ouro_weakref_new_callback(OURO_OF(old->left->left), count_call, NULL);
    cr_assert(ref);
    settle();

    ouro_decref(old);
    while (slice(STEP))
        cr_assert_not(ouro_weakref_is_cleared(ref));
    cr_assert_eq(sum.finalizers, 1);
    cr_assert_eq(sum.found, 0);
    cr_assert(ouro_weakref_is_cleared(ref));
    check_nothing_left();
    ouro_run_finalizers();
    cr_assert_eq(calls, 1);
    cr_assert_eq(risen, phoenix);

    finish(STEP);
    cr_assert_eq(sum.found, 0);
    cr_assert_eq(live_objects(), RING + 2);
    ouro_decref(risen);
    finish(STEP);
    cr_assert_eq(sum.found, RING + 1);
    check_nothing_left();
    ouro_decref(ref);
}

/* It dies by counting, and lives on for its finalizer, while it is a member; then it is garbage. */
Test(deep_changes, a_member_that_comes_back)
{
    register_phoenix();
    for (size_t count = 0; count < 12; count++) {
        struct node *phoenix = ouro_new(phoenix_type);

        cr_assert(phoenix);
        phoenix->left = chain_new(RING);
        settle();
        make_candidate(phoenix);
        slices(count, STEP / 2);
        if (count % 2) {
            struct node *holder = node_new(phoenix, NULL); /* it dies from a list, or at once */
            ouro_decref(holder);
        } else {
            ouro_decref(phoenix);
        }
        slices(count / 2, STEP / 2);
        ouro_run_finalizers();
        cr_assert_eq(risen, phoenix);
        phoenix->right = ouro_incref(phoenix);
        ouro_decref(risen);
        finish(STEP);
        finish(STEP);
        cr_assert_geq(sum.found, 1, "after %zu slices", count);
        check_nothing_left();
        cr_assert_eq(live_objects(), 0);
    }
}

/* --- new objects ----------------------------------------------------------------------------------------- */

/* Stored at the end of a list before that is reached. If it has lost a reference before, nobody but its bit knows. */
Test(deep_changes, a_new_object_is_reached)
{
    struct node *list = chain_new(500), *last = list;

    while (last->left)
        last = last->left;
    settle();
    make_candidate(list);
    cr_assert(slices(3, 20));
    struct node *fresh = node_new(NULL, NULL), *noted = node_new(NULL, NULL);
    node_set_left(last, fresh);
    node_set_left(fresh, noted);
    make_candidate(noted);
    cr_assert(is_new(fresh) && is_new(noted));
    for (size_t i = 0; is_new(noted); i++) {
        cr_assert_lt(i, 100);
        cr_assert(slice(20));
    }
    cr_assert_not(is_new(fresh));
    cr_assert_neq(scratch(fresh), 0);
    cr_assert_neq(scratch(noted), 0);
    young();
    cr_assert_neq(scratch(fresh), 0, "it is a young collection's");
    finish(20);
    cr_assert_eq(sum.found, 0);
    check_nothing_left();
    cr_assert_not(has_bit(page_candidates(page_of(fresh)), fresh));
    cr_assert(has_bit(page_candidates(page_of(noted)), noted));
    ouro_decref(list);
}

/* The ring is garbage before it begins, and has a new member, which is the only candidate but for one that leads to it. */
Test(deep_changes, garbage_with_a_new_candidate)
{
    struct node *list = chain_new(100), *old = ring_new(RING), *last = list;

    while (last->left)
        last = last->left;
    settle();
    make_candidate(old->left);
    struct node *fresh = node_new(old, NULL); /* old's last reference from outside */
    last->right = ouro_incref(fresh);
    old->right = ouro_incref(fresh);
    make_candidate(list);
    cr_assert(slices(2, 20));
    node_set_right(last, NULL);
    ouro_decref(fresh); /* new, so without a bit */
    finish(20);
    check_nothing_left();
    finish(20);
    young();
    finish(20);
    cr_assert_eq(sum.found, RING + 1);
    check_nothing_left();
    ouro_decref(list);
}

/* A root that is new, under the bit of who died in its place: no young collection may have it. */
Test(deep_changes, a_new_root)
{
    struct node *old = node_new(NULL, NULL), *dead = node_new(NULL, NULL), *tree = tree_new(6);

    settle();
    ouro_incref(dead);
    ouro_decref(dead);
    cr_assert(has_bit(page_candidates(page_of(dead)), dead));
    ouro_decref(dead);
    struct node *fresh = NULL, *others[2 * PAGE_NODES];
    size_t count = 0;
    while (fresh != dead) {
        cr_assert_lt(count, 2 * PAGE_NODES);
        fresh = node_new(NULL, NULL);
        others[count++] = fresh;
    }
    count--;
    old->left = ouro_incref(fresh);
    fresh->left = old;
    ouro_decref(fresh); /* from here on they are garbage, and the bit is all that tells of it */
    cr_assert(is_new(fresh));
    make_candidate(tree);
    cr_assert(slice(1));
    cr_assert_neq(scratch(fresh), 0);
    young();
    finish(5);
    finish(5);
    cr_assert_eq(sum.found, 2);
    check_nothing_left();
    for (size_t i = 0; i < count; i++)
        ouro_decref(others[i]);
    ouro_decref(tree);
}

/* --- guessed wrongly --------------------------------------------------------------------------------------- */

/* The program takes a list out of a queue after the queue has been looked into: nobody sees that. */
static size_t moved_after(size_t count, size_t length, size_t limit, bool *in_time)
{
    struct node *queue = node_new(chain_new(length), NULL);

    settle();
    make_candidate(queue);
    *in_time = slices(count, limit);
    struct node *batch = queue->left;
    queue->left = NULL;
    atomic_store(&nodes_destroyed, 0);
    finish(limit);
    cr_assert_eq(atomic_load(&nodes_destroyed), 0, "moved after %zu slices", count);
    cr_assert_eq(sum.found, 0);
    cr_assert_leq(sum.most, limit + BEYOND, "%zu", sum.most);
    cr_assert_eq(length_of(batch), length);
    check_nothing_left();
    size_t made = sum.slices;
    ouro_decref(batch);
    ouro_decref(queue);
    return made;
}

/* A large one: sums are made anew, and it is held by what is missing in them. */
Test(deep_changes, a_large_list_is_moved)
{
    bool in_time = true;
    size_t usual = moved_after(0, 5000, 500, &in_time), most = 0;

    in_time = true;
    for (size_t count = 1; in_time; count += 3) {
        size_t made = moved_after(count, 5000, 500, &in_time);
        most = made > most ? made : most;
    }
    cr_assert_gt(most, usual + 10, "%zu, and %zu", most, usual);
}

/* A small one: that is for the proof to say. */
Test(deep_changes, a_small_list_is_moved)
{
    bool in_time = true;

    for (size_t count = 1; in_time; count++)
        moved_after(count, 80, 100, &in_time);
}

/* The ring changes while roots are still being taken; had it been looked into by then, its sums would be of no use, and the candidate that
 * the change has made would be a root like the others. */
Test(deep_changes, all_roots_are_taken_first)
{
    struct node *first = node_new(NULL, NULL), *filler = chain_new(3 * (size_t)PAGE_NODES);
    struct node *beside = node_new(NULL, NULL), *second = node_new(ouro_incref(first), NULL);

    cr_assert_neq(page_of(first), page_of(second));
    cr_assert_eq(page_of(beside), page_of(second));
    first->left = ouro_incref(second);
    first->right = ouro_incref(second);
    settle();
    make_candidate(beside); /* the page that is noted last comes first */
    ouro_decref(first);
    cr_assert(slice(1));
    cr_assert_neq(scratch(first), 0);
    cr_assert_eq(scratch(beside), 0);
    node_set_right(first, NULL);
    ouro_decref(second);
    finish(1000);
    finish(1000);
    cr_assert_eq(sum.found, 2);
    check_nothing_left();
    ouro_decref(beside);
    ouro_decref(filler);
}

/* A program that notes faster than it is looked at: roots are those of the beginning. */
Test(deep_changes, roots_are_not_waited_for_for_ever)
{
    enum { PAGES = 10 };
    struct node *list = chain_new((size_t)PAGES * PAGE_NODES);

    settle();
    for (struct node *node = list; node; node = node->left)
        make_candidate(node);
    for (size_t i = 0; slice(i < 100 ? 1 : 5000); i++) {
        cr_assert_lt(i, 1000);
        for (struct node *node = list; node; node = node->left)
            make_candidate(node);
        ouro_decref(node_new(NULL, NULL));
        young();
    }
    cr_assert_eq(sum.found, 0);
    check_nothing_left();
    ouro_decref(list);
}
