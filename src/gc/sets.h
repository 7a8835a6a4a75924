/*
 * gc/sets.h - which objects a collection examines, and when an object stops being a candidate. In a stopped world.
 */
#ifndef OURO_GC_SETS_H
#define OURO_GC_SETS_H

#include "gc/trial.h"

/* What is frozen is looked at again when it is no longer: see gc/freeze.c. */
static inline bool sets_page_in_use(const struct page *page)
{
    uint8_t state = page_state(page);

    return (state == PAGE_ACTIVE || state == PAGE_LARGE) && page->kind == KIND_TRACKED &&
           !page->frozen;
}

static inline bool sets_has_owner(uint32_t w)
{
    return OURO_OWNED_ID(w) != OURO_ID_MERGED && OURO_OWNED_ID(w) != OURO_ID_IMMORTAL;
}

static inline bool sets_is_candidate(const ouro_object *o)
{
    uint32_t w = load_relaxed(&o->ouro.owned);

    return (o->ouro.flags & OURO_FLAG_NOTED) || (sets_has_owner(w) && !(w & OURO_FRESH));
}

/* Limits of one stop, in objects looked at; SIZE_MAX: none. */
struct sets_limit {
    size_t objects;
    size_t cap;  /* objects that are explored from one candidate */
    uint64_t ns; /* of a slice: time; 0: no limit */
};

/* Each makes the set, with the references inside counted, and returns how many objects it has looked at. */

/* The new objects, page by page, until the limit is reached. */
size_t sets_young(struct trial *trial, const struct sets_limit *limit);

/* Candidates, page by page, until the limit is reached, and for each what it reaches, breadth first, up to the cap. A candidate
 * of which that was all is no candidate any more; another one is cut: it waits for sets_reachable(). */
size_t sets_old(struct trial *trial, const struct sets_limit *limit);

/* All new objects, all candidates, those that were cut, too, and all that they reach. */
size_t sets_reachable(struct trial *trial);

/* All tracked objects. sets_full_done() after trial_decide(). */
size_t sets_full(struct trial *trial);
void sets_full_done(void);

/* For a collection in slices: hands the candidates that there are at the `first` call, cut ones and others, to `root`, which are none any
 * more, page by page until the limit is reached. True: those were all. Others that are noted meanwhile in pages that still wait are
 * handed over, too. */
typedef void (*sets_root)(ouro_object *o);
bool sets_roots(sets_root root, bool first, const struct sets_limit *limit, size_t *looked);

/* A candidate, and in the map: a collection will look at it. */
bool sets_is_noted(const ouro_object *o);

/* A member was kept by a trial; `examined`: all that it reaches was in the set. */
void sets_kept(ouro_object *o, bool examined);

/* Puts an object that is a candidate into the map. */
void sets_note(struct page *page, ouro_object *o);

/* Candidates that were cut, about. By anyone. */
size_t sets_cut_count(void);

/* How many candidates have been taken out of the maps since the start. */
size_t sets_taken(void);

/* How many young collections have put in. */
size_t sets_put(void);

/* True if there is something that sets_young(), or sets_old(), would look at. By anyone, roughly. */
bool sets_has_new(void);
bool sets_has_candidates(void);

#endif
