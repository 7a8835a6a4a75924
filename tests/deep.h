/*
 * deep.h - for tests of deep collections in slices: slice() makes one with a limit, sum says what slices have done.
 */
#ifndef TESTS_DEEP_H
#define TESTS_DEEP_H

#include "support.h"

#include "gc/collect.h"
#include "gc/deep.h"
#include "gc/sets.h"
#include "heap/heap.h"

/* Of the rings, and what a slice may look at, if it does not matter how large. */
enum { RING = 60, STEP = 25 };

enum {
    PAGE_NODES = PAGE_BYTES / 48, /* in a page */
    /* what a slice may look at beyond its limit: a page of roots, the fields of an object */
    BEYOND = PAGE_NODES + 8,
    SLICES_MOST = 100000, /* of one collection */
};

/* Of the slices since forget(). */
static struct {
    size_t slices, most, found;
    size_t finalizers, uncollectable;
    bool under_way;
} sum;

static void (*in_callback)(const ouro_gc_info *info);

static inline void add_up(const ouro_gc_info *info, void *argument)
{
    (void)argument;
    if (in_callback)
        in_callback(info);
    if (info->phase != OURO_GC_STOP)
        return;
    sum.found += info->collected;
    sum.finalizers += info->finalizers;
    sum.uncollectable += info->uncollectable;
    if (info->kind != OURO_GC_DEEP)
        return;
    sum.slices++;
    sum.under_way = info->under_way;
    if (info->candidates > sum.most)
        sum.most = info->candidates;
}

static inline void begin_deep(void)
{
    enter();
    CHECK(ouro_gc_add_callback(add_up, NULL) == OURO_OK);
}

static inline void forget(void)
{
    memset(&sum, 0, sizeof sum);
}

/* --- slices ------------------------------------------------------------------------------------------- */

static inline void set_limit(size_t objects)
{
    struct sets_limit limit = {objects, 256, 0};

    collect_set_limits(&limit);
}

/* True: it is still under way. */
static inline bool slice(size_t objects)
{
    set_limit(objects);
    bool under_way = collect_slice();

    CHECK(sum.under_way == under_way || in_callback);
    CHECK(under_way == deep_is_under_way());
    collect_set_limits(NULL);
    return under_way;
}

/* So many at most; true: it is still under way. */
static inline bool slices(size_t count, size_t objects)
{
    bool under_way = deep_is_under_way();

    while (count-- > 0 && (under_way = slice(objects))) {
    }
    return under_way;
}

static inline void finish(size_t objects)
{
    CHECK(!slices(SLICES_MOST, objects));
}

static inline void young(void)
{
    collect_kind(OURO_GC_YOUNG);
}

/* After it what exists is not new, and no candidate. */
static inline void settle(void)
{
    ouro_collect();
    forget();
}

static inline bool has_bit(const uint64_t *map, const void *o)
{
    return map[granule_of(o) / 64] >> granule_of(o) % 64 & 1;
}

static inline uint32_t scratch(const void *o)
{
    return ((const ouro_object *)o)->ouro.gc;
}

static inline bool is_new(const void *o)
{
    return ((const ouro_object *)o)->ouro.flags & OURO_FLAG_NEW;
}

static inline void make_candidate(void *node)
{
    (ouro_decref)((ouro_incref)(node));
}

static inline void check_page(struct page *page)
{
    const uint64_t *guessed = page_guessed(page), *cut = page_cut(page);
    uint32_t count = page_object_count(page);

    CHECK(!page->in_guess);
    for (size_t word = 0; word < MAP_WORDS; word++)
        CHECK(!guessed[word] && !cut[word]);
    for (uint32_t i = 0; i < count; i++) {
        const ouro_object *o =
            (const ouro_object *)(const void *)(page->start + (size_t)i * page_step(page));

        CHECK(block_is_free(o) || (o->ouro.flags & OURO_FLAG_DEAD) || o->ouro.gc == 0);
    }
}

/* Nothing is left over of it: no scratch words, no bits. For who has not made old collections, which cut. */
static inline void check_nothing_left(void)
{
    CHECK(!deep_is_under_way());
    for (struct area *area = area_first(); area; area = area->next) {
        for (size_t i = AREA_META_PAGES; i < AREA_PAGES; i++)
            check_page(&area->pages[i]);
    }
}

static inline size_t length_of(const struct node *chain)
{
    size_t length = 0;

    for (; chain; chain = chain->left)
        length++;
    return length;
}

static inline void candidates_in(struct node *tree)
{
    make_candidate(tree);
    if (tree->left)
        candidates_in(tree->left);
    if (tree->right)
        candidates_in(tree->right);
}

#endif
