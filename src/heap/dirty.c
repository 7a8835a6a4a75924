/*
 * heap/dirty.c - lists of pages that a collection has to look at. See heap/dirty.h.
 */
#include "heap/dirty.h"

struct page *dirty_new;
struct page *dirty_noted;

void dirty_push_new(struct page *page)
{
    struct page *first = load_relaxed(&dirty_new);

    page->in_new = true;
    do
        page->new_next = first;
    while (!cas_relaxed(&dirty_new, &first, page));
}

void dirty_push_noted(struct page *page)
{
    struct page *first = load_relaxed(&dirty_noted);
    uint8_t before = 0;

    if (!cas_relaxed(&page->in_noted, &before, (uint8_t)1))
        return;
    do
        page->noted_next = first;
    while (!cas_relaxed(&dirty_noted, &first, page));
}
