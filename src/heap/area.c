/*
 * heap/area.c - the pages of all areas: taking, retiring, giving back.
 *
 * One mutex, taken once for 64 KiB or more.  Pages that have become empty wait in a queue, in the order of their
 * stamps, until a grace period has passed and no seat has them in a stack any more (then nobody but us knows
 * them).  A block that fits into no area is one of its own, which waits for the next such block when it is free.
 */
#include "heap/page.h"

#include "base/fault.h"
#include "base/os.h"
#include "thread/grace.h"
#include "thread/seat.h"

#include <string.h>

enum {
    RUN_MAX = AREA_PAGES - AREA_META_PAGES, /* pages; more is an area of its own */
    WAITING_BEGIN = 16,                     /* so many waiting pages are worth a grace period */
};

mutex heap_lock = MUTEX_INIT;
static struct area *areas;         /* [lock: heap] W; [H1] */
static struct area *with_free;     /* [lock: heap] where the last page was found */
static struct page *waiting_first; /* [lock: heap] queue of retired pages */
static struct page *waiting_last;
static size_t waiting_pages;
static struct area
    *free_huge; /* [lock: heap] areas of their own that are free; given back, if possible */
static size_t free_used_pages; /* [lock: heap] free, but not given back */
static size_t
    free_used_least; /* [lock: heap] least of those since area_trim_unused() was called last */
static size_t area_count;
static size_t reserved_bytes;

struct area *area_first(void)
{
    return load_acquire(&areas); /* [H1] acquire: its descriptors; area_publish_locked() */
}

static bool bit_get(const uint64_t *map, size_t i)
{
    return map[i / 64] >> (i % 64) & 1;
}

static void bit_set(uint64_t *map, size_t i)
{
    map[i / 64] |= (uint64_t)1 << (i % 64);
}

static void bit_clear(uint64_t *map, size_t i)
{
    map[i / 64] &= ~((uint64_t)1 << (i % 64));
}

static void area_publish_locked(struct area *area, size_t mapped)
{
    area->mapped = mapped;
    area->next = areas;
    area_count++;
    reserved_bytes += mapped;
    store_release(&areas, area); /* [H1] release: its descriptors; area_first() */
}

static struct area *area_map(size_t bytes)
{
    struct area *area = os_map(bytes, AREA_BYTES);

    for (size_t i = 0; area && i < AREA_PAGES; i++)
        area->pages[i].start = (char *)area + i * PAGE_BYTES;
    return area;
}

static struct area *area_new_locked(void)
{
    struct area *area = area_map(AREA_BYTES);

    if (!area)
        return NULL;
    for (size_t i = AREA_META_PAGES; i < AREA_PAGES; i++) {
        area->pages[i].state = PAGE_FREE;
        bit_set(area->free, i);
    }
    area->free_count = AREA_PAGES - AREA_META_PAGES;
    area_publish_locked(area, AREA_BYTES);
    with_free = area;
    return area;
}

/* --- taking ------------------------------------------------------------------------------------------ */

/* Index of the first of `run` free pages in a row; 0: there are none. */
static size_t find_run(const struct area *area, size_t run)
{
    size_t found = 0;

    if (area->free_count < run)
        return 0;
    for (size_t i = AREA_META_PAGES; i < AREA_PAGES; i++) {
        if (run == 1 && i % 64 == 0 && area->free[i / 64] == 0) {
            i += 63;
            continue;
        }
        found = bit_get(area->free, i) ? found + 1 : 0;
        if (found == run)
            return i + 1 - run;
    }
    return 0;
}

static void reset_map(uint64_t *map)
{
    for (size_t i = 0; i < MAP_WORDS; i++) {
        if (load_relaxed(&map[i]))
            store_relaxed(&map[i], (uint64_t)0);
    }
}

/* Descriptors as new, maps empty. Nobody else knows these pages, but the collector's lists may still have them. */
static void reset_page(struct page *page)
{
    struct page before = *page;

    memset(page, 0, sizeof *page);
    page->start = before.start;
    page->was_used = before.was_used;
    page->new_next = before.new_next;
    page->noted_next = before.noted_next;
    page->in_new = before.in_new;
    page->in_noted = before.in_noted;
    page->cut_next = before.cut_next;
    page->in_cut = before.in_cut;
    page->guess_next = before.guess_next;
    page->in_guess = before.in_guess;
    reset_map(page_hints(page));
    if (before.in_noted)
        reset_map(page_candidates(page));
    if (before.in_cut)
        reset_map(page_cut(page));
    if (before.in_guess)
        reset_map(page_guessed(page));
}

static struct page *take_from_locked(struct area *area, size_t first, size_t run, bool *fresh)
{
    struct page *pages = &area->pages[first];

    *fresh = true;
    for (size_t i = 0; i < run; i++) {
        ASSERT(page_state(&pages[i]) == PAGE_FREE);
        bit_clear(area->free, first + i);
        if (pages[i].was_used) {
            free_used_pages--;
            *fresh = false;
        }
        reset_page(&pages[i]);
        pages[i].was_used = true;
        store_relaxed(&pages[i].state, (uint8_t)PAGE_TAIL);
    }
    if (free_used_least > free_used_pages)
        free_used_least = free_used_pages;
    area->free_count -= (uint32_t)run;
    pages->run = (uint16_t)run;
    unpoison(pages->start, run * PAGE_BYTES);
    return pages;
}

static struct page *take_run_locked(size_t run, bool *fresh)
{
    size_t first;

    if (with_free && (first = find_run(with_free, run)) != 0)
        return take_from_locked(with_free, first, run, fresh);
    for (struct area *area = areas; area; area = area->next) {
        if ((first = find_run(area, run)) != 0) {
            with_free = area;
            return take_from_locked(area, first, run, fresh);
        }
    }
    if (!area_new_locked())
        return NULL;
    return take_from_locked(with_free, AREA_META_PAGES, run, fresh);
}

/* Of the free ones the smallest that is large enough, and not twice as large. */
static struct area *take_free_huge_locked(size_t mapped)
{
    struct area **best = NULL;

    for (struct area **link = &free_huge; *link; link = &(*link)->next_huge) {
        if ((*link)->mapped >= mapped && (*link)->mapped / 2 < mapped &&
            (!best || (*link)->mapped < (*best)->mapped))
            best = link;
    }
    if (!best)
        return NULL;
    struct area *area = *best;
    *best = area->next_huge;
    reset_page(&area->pages[AREA_META_PAGES]);
    return area;
}

static struct page *take_huge_locked(size_t bytes, bool *fresh)
{
    size_t mapped = bytes + AREA_META_PAGES * (size_t)PAGE_BYTES;

    if (mapped < bytes || mapped > SIZE_MAX - AREA_BYTES)
        return NULL;
    mapped = (mapped + AREA_BYTES - 1) & ~(size_t)(AREA_BYTES - 1);

    struct area *area = take_free_huge_locked(mapped);
    if (!area) {
        area = area_map(mapped);
        if (!area)
            return NULL;
        for (size_t i = AREA_META_PAGES; i < AREA_PAGES; i++)
            area->pages[i].state = PAGE_TAIL;
        area_publish_locked(area, mapped);
    }
    struct page *page = &area->pages[AREA_META_PAGES];

    *fresh = !page->was_used;
    page->was_used = true;
    page->run = AREA_PAGES - AREA_META_PAGES;
    unpoison(page->start, area->mapped - AREA_META_PAGES * (size_t)PAGE_BYTES);
    return page;
}

static bool ripen_locked(size_t *ripe, struct area **huge);
static void give_back_huge(struct area *huge);

struct page *area_take(struct seat *self, size_t bytes, bool *fresh)
{
    size_t run = bytes / PAGE_BYTES + (bytes % PAGE_BYTES != 0);
    struct area *huge = NULL;
    struct page *page;
    size_t ripe = 0;

    if (fault_hit())
        return NULL;
    mutex_lock(&heap_lock);
    bool unripe = ripen_locked(&ripe, &huge);
    page = run > RUN_MAX ? take_huge_locked(bytes, fresh) : take_run_locked(run, fresh);
    mutex_unlock(&heap_lock);
    give_back_huge(huge);
    if (unripe)
        grace_begin(self);
    if (ripe)
        seat_event(self, EVENT_PAGE_RIPE);
    if (page)
        seat_event(self, EVENT_PAGE_TAKEN);
    return page;
}

/* --- retiring ---------------------------------------------------------------------------------------- */

void area_retire(struct seat *self, struct page *page)
{
    store_relaxed(&page->state, (uint8_t)PAGE_RETIRED);
    uint64_t stamp = grace_stamp();

    page->frozen = false;
    mutex_lock(&heap_lock);
    /* Stamps are taken outside of the mutex, so that the queue is not quite in their order. It need not be:
     * who waits behind a later stamp waits a little longer. */
    page->stamp = stamp;
    page->waiting_next = NULL;
    if (waiting_last)
        waiting_last->waiting_next = page;
    else
        waiting_first = page;
    waiting_last = page;
    waiting_pages += page->run;
    bool begin = waiting_pages % WAITING_BEGIN == 0;
    mutex_unlock(&heap_lock);

    seat_event(self, EVENT_PAGE_RETIRED);
    if (begin)
        grace_begin(self);
}

/* A run becomes free; an area of its own goes to *huge, for give_back_huge(). */
static void free_run_locked(struct page *page, struct area **huge)
{
    struct area *area = area_of(page);
    size_t first = (size_t)(page - area->pages);
    size_t run = page->run;

    if (area->mapped > AREA_BYTES) {
        store_relaxed(&page->state, (uint8_t)PAGE_TAIL);
        area->next_huge = *huge;
        *huge = area;
        return;
    }
    for (size_t i = first; i < first + run; i++) {
        area->pages[i].was_used = true;
        store_relaxed(&area->pages[i].state, (uint8_t)PAGE_FREE);
        bit_set(area->free, i);
    }
    area->free_count += (uint32_t)run;
    free_used_pages += run;
    poison(page->start, run * PAGE_BYTES);
}

/* Gives the content of such areas back to the operating system, which may take long, and keeps the addresses. */
static void give_back_huge(struct area *huge)
{
    for (struct area *area = huge, *next; area; area = next) {
        struct page *page = &area->pages[AREA_META_PAGES];
        size_t bytes = area->mapped - AREA_META_PAGES * (size_t)PAGE_BYTES;

        next = area->next_huge;
        unpoison(page->start, bytes);
        page->was_used = !os_discard(page->start, bytes);
        poison(page->start, bytes);
        mutex_lock(&heap_lock);
        area->next_huge = free_huge;
        free_huge = area;
        mutex_unlock(&heap_lock);
    }
}

void area_free(struct page *page)
{
    struct area *huge = NULL;

    mutex_lock(&heap_lock);
    free_run_locked(page, &huge);
    mutex_unlock(&heap_lock);
    give_back_huge(huge);
}

/* Frees what may be, adds its pages to *ripe; true if something waits that is not ripe. */
static bool ripen_locked(size_t *ripe, struct area **huge)
{
    struct page **link = &waiting_first;
    struct page *previous = NULL;
    bool unripe = false;

    while (*link) {
        struct page *page = *link;

        if (!grace_is_ripe(page->stamp)) {
            unripe = true;
            break;
        }
        /* [H2] acquire: who took it out of a stack is through with it; merge_drain(), take_returned() */
        if (load_acquire(&page->in_inbox) || load_acquire(&page->in_returned)) {
            previous = page;
            link = &page->waiting_next;
            continue;
        }
        *link = page->waiting_next;
        if (waiting_last == page)
            waiting_last = previous;
        waiting_pages -= page->run;
        *ripe += page->run;
        free_run_locked(page, huge);
    }
    return unripe;
}

void area_ripen(struct seat *self)
{
    struct area *huge = NULL;
    size_t ripe = 0;

    mutex_lock(&heap_lock);
    bool unripe = ripen_locked(&ripe, &huge);
    mutex_unlock(&heap_lock);
    give_back_huge(huge);

    if (ripe)
        seat_event(self, EVENT_PAGE_RIPE);
    if (unripe) {
        grace_begin(self);
        grace_watch(self);
    }
}

/* --- giving back ------------------------------------------------------------------------------------- */

/* Gives back at most *excess free pages of an area; returns how many pages that was. */
static size_t trim_area_locked(struct area *area, size_t *excess)
{
    size_t given = 0;

    for (size_t i = AREA_META_PAGES; i<AREA_PAGES && * excess> 0;) {
        size_t end = i;

        while (end<AREA_PAGES && * excess> 0 && bit_get(area->free, end) &&
               area->pages[end].was_used) {
            end++;
            --*excess;
        }
        if (end > i) {
            char *start = area->pages[i].start;
            size_t bytes = (end - i) * PAGE_BYTES;

            unpoison(start, bytes);
            bool done = os_discard(start, bytes);
            poison(start, bytes);
            for (size_t j = i; done && j < end; j++)
                area->pages[j].was_used = false;
            given += done ? end - i : 0;
        }
        i = end + 1;
    }
    return given;
}

size_t area_trim(size_t keep)
{
    size_t pages = 0;

    /* The mutex is let go between areas, so that nobody waits long for a page. */
    for (struct area *area = area_first(); area; area = area->next) {
        mutex_lock(&heap_lock);
        size_t excess =
            free_used_pages > keep / PAGE_BYTES ? free_used_pages - keep / PAGE_BYTES : 0;
        size_t given = trim_area_locked(area, &excess);
        free_used_pages -= given;
        mutex_unlock(&heap_lock);
        pages += given;
    }
    return pages * PAGE_BYTES;
}

size_t area_trim_unused(size_t keep)
{
    mutex_lock(&heap_lock);
    size_t unused = free_used_least * PAGE_BYTES;
    size_t all = free_used_pages * PAGE_BYTES;
    free_used_least = free_used_pages;
    mutex_unlock(&heap_lock);
    return unused > keep ? area_trim(all - (unused - keep)) : 0;
}

void area_stats(struct area_stats *stats)
{
    mutex_lock(&heap_lock);
    stats->reserved = reserved_bytes;
    stats->metadata = area_count * AREA_META_PAGES * PAGE_BYTES;
    stats->empty = (free_used_pages + waiting_pages) * PAGE_BYTES;
    stats->waiting = waiting_pages * PAGE_BYTES;
    mutex_unlock(&heap_lock);
}

void area_fork_prepare(void)
{
    mutex_lock(&heap_lock);
}

void area_fork_done(void)
{
    mutex_unlock(&heap_lock);
}
