/*
 * heap/dirty.h - pages that a collection has to look at, so that one with nothing to do looks at none.
 *
 * Two lists of all threads.  A page gets onto the first when blocks of it are handed out, onto the second when one of its
 * objects is noted as a candidate; at most once, until the collector takes it off in a stopped world.  So
 * everything here is relaxed: stopping the world orders it.  A page may be on a list and no longer in use, or in use
 * for something else.
 */
#ifndef OURO_HEAP_DIRTY_H
#define OURO_HEAP_DIRTY_H

#include "heap/page.h"

extern struct page *dirty_new;   /* [atomic] linked by new_next */
extern struct page *dirty_noted; /* [atomic] linked by noted_next */

void dirty_push_new(struct page *page);
void dirty_push_noted(struct page *page);

/* Blocks of it are being handed out, by who has its seat. */
static inline void dirty_mark_new(struct page *page)
{
    if (OURO_UNLIKELY(!page->in_new))
        dirty_push_new(page);
}

/* A bit has been set in its map of candidates, by anyone. */
static inline void dirty_mark_noted(struct page *page)
{
    if (OURO_UNLIKELY(!load_relaxed(&page->in_noted)))
        dirty_push_noted(page);
}

#endif
