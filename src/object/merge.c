/*
 * object/merge.c - hints and merging.
 *
 * A foreign decrement that takes `shared` below zero may have been the last: only who has the owner's seat can tell.
 * It leaves a hint: the block's bit in the map of its page, and the page on the stack of the seat, its
 * inbox.  A hint is no reference.  It may be stale in every way, the block may be free or another object by
 * the time somebody looks; and there is at most one per block, so nothing can run out.
 *
 *    put    1 set the bit   2 in_inbox := 1, and if it was 0:   3 push the page   4 set INBOX in the seat's word
 *    drain  1 clear INBOX   2 take the stack; for each page:    3 in_inbox := 0   4 take the words of the map
 *
 * A bit that is set after drain 4 finds in_inbox 0 (drain 3 comes first), and pushes again.
 *
 * Nobody in the seat: whoever put the hint holds the seat (HELD) and does it, at most 256 blocks at a time.  Then
 * no map and no stack are needed for the block itself.  Nothing runs user code in here: what died goes to
 * the list of the thread that works.
 */
#include "object/merge.h"

#include "heap/heap.h"
#include "object/count.h"
#include "object/death.h"
#include "object/note.h"

enum { HOLD_BLOCKS = 256 };

/* One block, by who has the seat. */
static void merge_one(struct seat *seat, struct seat *self, ouro_object *o)
{
    uint32_t w;
    uint32_t s;

    if (is_poisoned(o))
        return;
    w = load_relaxed(&o->ouro.owned);
    if (OURO_OWNED_ID(w) != seat->id)
        return; /* free, merged, immortal, or destroyed */
    /* Relaxed: DEAD was set by this seat, GARBAGE in a stopped world. */
    if (load_relaxed(&o->ouro.flags) & (OURO_FLAG_DEAD | OURO_FLAG_GARBAGE))
        return;

    /* [C3] acquire: the flag that ouro_immortalize() has set before it left the hint */
    s = load_acquire(&o->ouro.shared);
    if (s & OURO_IMMORTAL) {
        store_relaxed(&o->ouro.owned, OURO_ID_IMMORTAL << 16);
        return;
    }
    if (!(w & OURO_FRESH))
        note_merged(self, o);
    /* In this order: after MERGED is set whoever drops the last reference frees it. */
    store_relaxed(&o->ouro.owned, 0u);
    uint32_t merged;
    do {
        merged = (s + OURO_OWNED_COUNT(w) * OURO_SHARED_ONE) | OURO_MERGED;
        /* [C2] acq_rel: the owner's uses, to who frees; the others' uses, if it is dead now */
    } while (!cas_acq_rel(&o->ouro.shared, &s, merged));
    seat_event(self, EVENT_MERGE_DRAIN);

    if (count_is_zero(merged))
        death_queue(self, o);
    else if (merged & OURO_IMMORTAL)
        store_relaxed(&o->ouro.owned, OURO_ID_IMMORTAL << 16);
}

static void push_inbox(struct seat *seat, struct page *page)
{
    struct page *first = load_relaxed(&seat->inbox);

    do {
        page->inbox_next = first;
        /* [M1] release: the link; merge_drain() */
    } while (!cas_acq_rel(&seat->inbox, &first, page));
}

void merge_hint(struct seat *self, ouro_object *o)
{
    struct page *page = page_of(o);
    struct seat *seat = page->seat;
    uint32_t granule = granule_of(o);

    if (seat_hold_try(seat, self)) {
        merge_one(seat, self, o);
        seat_release(seat, self);
        seat_event(self, EVENT_HINT_DIRECT);
        return;
    }
    seat_event(self, EVENT_HINT);
    /* [M2] release: the decrement before it; drain_page() */
    fetch_or_acq_rel(&page_hints(page)[granule / 64], (uint64_t)1 << granule % 64);
    /* [M3] acq_rel: the bit, for who clears the marker before he takes the map; merge_drain() */
    if (exchange_acq_rel(&page->in_inbox, (uint8_t)1))
        return; /* whoever has set it pushes, or whoever takes the page off looks at the map */
    push_inbox(seat, page);
    seat_put_inbox(seat, self);
}

/* Looks at the hinted blocks of a page; false if the budget ran out in the middle. */
static bool drain_page(struct seat *seat, struct seat *self, struct page *page, uint32_t *budget)
{
    uint64_t *hints = page_hints(page);

    for (size_t word = 0; word < MAP_WORDS; word++) {
        if (!load_relaxed(&hints[word]))
            continue;
        if (*budget == 0)
            return false;
        /* [M2] acquire: the decrements before the bits; merge_hint() */
        uint64_t bits = exchange_acq_rel(&hints[word], (uint64_t)0);

        for (; bits; bits &= bits - 1) {
            size_t granule = word * 64 + (size_t)__builtin_ctzll(bits);

            merge_one(seat, self, (ouro_object *)(void *)(page->start + granule * GRANULE));
            *budget -= *budget > 0;
        }
    }
    return true;
}

/* Puts back the rest of a stack that was taken; its pages are still marked. */
static void put_back(struct seat *seat, struct page *rest)
{
    while (rest) {
        struct page *next = rest->inbox_next;

        push_inbox(seat, rest);
        rest = next;
    }
    /* [S1] acq_rel: what was put back */
    fetch_or_acq_rel(&seat->word, SEAT_INBOX);
}

void merge_drain(struct seat *seat, struct seat *self, bool bounded)
{
    /* [M1] acquire: the links; push_inbox() */
    struct page *page = exchange_acq_rel(&seat->inbox, NULL);
    uint32_t budget = bounded ? HOLD_BLOCKS : UINT32_MAX;

    while (page) {
        struct page *next = page->inbox_next;
        bool retired = page_state(page) == PAGE_RETIRED;

        if (budget == 0) {
            put_back(seat, page);
            return;
        }
        /* [M3] acq_rel: hints from now on push the page again. [H2] release: we are through with it if it is
         * retired, for then all hints are stale, and the map is emptied when the page is taken; ripen_locked() */
        exchange_acq_rel(&page->in_inbox, (uint8_t)0);
        if (!retired && !drain_page(seat, self, page, &budget)) {
            /* [M3] acq_rel: as in merge_hint(); somebody may have been faster */
            if (!exchange_acq_rel(&page->in_inbox, (uint8_t)1))
                push_inbox(seat, page);
            put_back(seat, next);
            return;
        }
        page = next;
    }
}
