/*
 * gc/freeze.c - objects that are kept out of collections.
 *
 * What it is for: a program that has built its long-lived objects and is about to fork.  A collection that neither
 * reads nor writes them leaves their pages shared between parent and child.
 *
 *   freeze     in a stopped world each tracked object that is alive gets FROZEN.  It is a member of no set then: the
 *              references that it has count as from outside, so what it refers to is held.  It is still counted.
 *   page       a page in which all objects are frozen gets `frozen`, if whatever it hands out next needs refill(), which
 *              takes the mark away.  The collector skips such a page without reading a block of it.
 *   immortal   on request all objects get the flag, and at once the id that the fast paths compare with: in a stopped
 *              world anybody may write `owned`.  From then on counting writes nothing.
 *
 * What may surprise: an object whose counts add up to 0 or less stays mortal.  Its last reference has gone and a
 * hint waits for it; when that is drained it dies.
 *
 * The collector's claim keeps collections away meanwhile, so no object is GARBAGE. docs/internals/collector.md
 */
#include "gc/collect.h"
#include "gc/deep.h"
#include "gc/schedule.h"
#include "gc/sets.h"
#include "heap/page.h"
#include "object/count.h"
#include "thread/seat.h"
#include "thread/world.h"

#include <ouro/gc.h>

/* The claim, unless a callback of this thread's own collection is the caller; then the stop. */
static struct seat *begin(const char *what, bool to_change)
{
    struct seat *self = seat_at_safepoint(what);

    if (!self->collecting)
        collect_claim_wait(self);
    if (to_change)
        deep_end(self); /* its members would be neither in it nor out of it */
    world_stop(self);
    return self;
}

static void end(struct seat *self)
{
    world_start(self);
    if (!self->collecting)
        collect_claim_release();
}

/* Calls `step` with each page of objects, and adds up what it returns. */
static size_t each_page(size_t (*step)(struct page *page, unsigned flags), unsigned flags)
{
    size_t sum = 0;

    for (struct area *area = area_first(); area; area = area->next) {
        for (size_t i = AREA_META_PAGES; i < AREA_PAGES; i++) {
            if (page_object_count(&area->pages[i]))
                sum += step(&area->pages[i], flags);
        }
    }
    return sum;
}

static void make_immortal(ouro_object *o)
{
    uint32_t w = load_relaxed(&o->ouro.owned);
    uint32_t s = load_relaxed(&o->ouro.shared);

    if (OURO_OWNED_ID(w) == OURO_ID_IMMORTAL)
        return;
    if (count_sum(w, s) <= 0 && !(s & OURO_IMMORTAL)) /* a hint waits for it */
        return;
    store_relaxed(&o->ouro.shared, s | OURO_IMMORTAL);
    store_relaxed(&o->ouro.owned, OURO_ID_IMMORTAL << 16);
}

static size_t freeze_page(struct page *page, unsigned flags)
{
    uint32_t count = page_object_count(page), step = page_step(page);
    char *at = page->start;
    size_t frozen = 0;
    bool all = true;

    for (uint32_t i = 0; i < count; i++, at += step) {
        ouro_object *o = (ouro_object *)(void *)at;

        if (block_is_free(o))
            continue;
        if (o->ouro.flags & (OURO_FLAG_DEAD | OURO_FLAG_GARBAGE)) {
            all = false; /* it may live on for its finalizer */
            continue;
        }
        if (page->kind == KIND_TRACKED && !(o->ouro.flags & OURO_FLAG_FROZEN)) {
            o->ouro.flags |= OURO_FLAG_FROZEN;
            frozen++;
        }
        if (flags & OURO_FREEZE_IMMORTAL)
            make_immortal(o);
    }
    page->frozen = page->kind == KIND_TRACKED && page->free == 0 && all;
    return frozen;
}

/* It may have become garbage meanwhile, and nobody would have noticed: so it is a candidate now, and nothing else. */
static void unfreeze_object(struct page *page, ouro_object *o)
{
    o->ouro.flags &= (uint8_t) ~(OURO_FLAG_FROZEN | OURO_FLAG_NEW);
    o->ouro.flags |= OURO_FLAG_NOTED;
    sets_note(page, o);
}

static bool is_frozen(const ouro_object *o)
{
    return !block_is_free(o) &&
           (o->ouro.flags & (OURO_FLAG_FROZEN | OURO_FLAG_DEAD)) == OURO_FLAG_FROZEN;
}

static size_t unfreeze_page(struct page *page, unsigned flags)
{
    uint32_t count = page_object_count(page), step = page_step(page);
    char *at = page->start;
    size_t unfrozen = 0;

    (void)flags;
    if (page->frozen)
        page->frozen = false;
    for (uint32_t i = 0; i < count; i++, at += step) {
        ouro_object *o = (ouro_object *)(void *)at;

        if (is_frozen(o)) {
            unfreeze_object(page, o);
            unfrozen++;
        } else if (!block_is_free(o) && (o->ouro.flags & OURO_FLAG_FROZEN)) {
            o->ouro.flags &=
                (uint8_t)~OURO_FLAG_FROZEN; /* DEAD: it may live on for its finalizer */
        }
    }
    return unfrozen;
}

static size_t count_page(struct page *page, unsigned flags)
{
    uint32_t count = page_object_count(page), step = page_step(page);
    const char *at = page->start;
    size_t frozen = 0;

    (void)flags;
    for (uint32_t i = 0; i < count; i++, at += step)
        frozen += is_frozen((const ouro_object *)(const void *)at);
    return frozen;
}

size_t ouro_freeze(unsigned flags)
{
    REQUIRE(!(flags & ~OURO_FREEZE_IMMORTAL),
            "ouro_freeze() with flags 0x%x: there is 0, and OURO_FREEZE_IMMORTAL", flags);
    struct seat *self = begin("ouro_freeze()", true);
    size_t frozen = each_page(freeze_page, flags);

    end(self);
    return frozen;
}

size_t ouro_unfreeze(void)
{
    struct seat *self = begin("ouro_unfreeze()", true);
    size_t unfrozen = each_page(unfreeze_page, 0);

    end(self);
    schedule_noted(self, unfrozen);
    return unfrozen;
}

size_t ouro_frozen_count(void)
{
    struct seat *self = begin("ouro_frozen_count()", false);
    size_t frozen = each_page(count_page, 0);

    end(self);
    return frozen;
}
