/*
 * object/jobs.c - what waits to be finalized or called back: the storage of the queue of object/finalize.c.
 *
 * Callbacks are linked through the weak references.  An object has its bit in the map of its page, and pages that have
 * bits are linked, so a page is in the list once, however many of its objects wait.
 *
 * What may surprise: an object that is put into a page which is in the list already is taken before those in pages that
 * came in between.  The order of what waits is promised to nobody.
 */
#include "object/jobs.h"

#include "heap/page.h"

static struct page *first_page, *last_page;  /* [lock: queue] pages with bits */
static ouro_weakref *first_call, *last_call; /* [lock: queue] */

void jobs_put_object_locked(ouro_object *o)
{
    struct page *page = page_of(o);
    uint32_t granule = granule_of(o);

    page_finalizable(page)[granule / 64] |= (uint64_t)1 << granule % 64;
    if (page->finalizable)
        return;
    page->finalizable = true;
    page->finalizable_next = NULL;
    *(last_page ? &last_page->finalizable_next : &first_page) = page;
    last_page = page;
}

size_t jobs_put_calls_locked(ouro_weakref *first)
{
    ouro_weakref *last = first;
    size_t count = 1;

    for (; last->next; last = last->next)
        count++;
    *(last_call ? &last_call->next : &first_call) = first;
    last_call = last;
    return count;
}

static ouro_object *take_call_locked(void)
{
    ouro_weakref *ref = first_call;

    first_call = ref->next;
    if (!first_call)
        last_call = NULL;
    ref->next = NULL;
    return (ouro_object *)&ref->ouro;
}

static ouro_object *take_object_locked(void)
{
    struct page *page = first_page;
    uint64_t *map = page_finalizable(page);
    size_t word = 0;

    while (!map[word])
        word++;
    size_t granule = word * 64 + (size_t)__builtin_ctzll(map[word]);
    map[word] &= map[word] - 1;
    while (word < MAP_WORDS && !map[word])
        word++;
    if (word == MAP_WORDS) {
        page->finalizable = false;
        first_page = page->finalizable_next;
        if (!first_page)
            last_page = NULL;
    }
    return (ouro_object *)(void *)(page->start + granule * GRANULE);
}

ouro_object *jobs_take_locked(void)
{
    return first_call ? take_call_locked() : take_object_locked();
}
