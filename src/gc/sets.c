/*
 * gc/sets.c - which objects a collection examines, and when an object stops being a candidate.
 *
 * Cyclic garbage comes to be only when one of its members loses a reference and lives on, and that one is noted as a
 * candidate (object/note.h).  So it is enough to look at what candidates reach.
 *
 * The rule that nothing is lost by: an object stops being a candidate when it dies, or when a trial has kept it *and all
 * that it reaches was in the set*.  A young collection has only the new objects in its set, so it takes nobody's
 * candidature away; what is kept goes into the map of candidates.  An old one explores from each candidate, breadth first,
 * at most `cap` objects; if that was all, the rule holds for each of those; if not, the candidate is cut, stays one, and
 * waits in the map of the cut.  Small garbage is found in this way whatever hangs below it.
 *
 * What an exploration does not follow is in no garbage: immortal and frozen objects, and those of types that are
 * acyclic or have no references.
 *
 * Candidates' bits are left in the maps when they die; the block may be free, or another object's by now.  That is looked
 * at in vain.  docs/internals/generations.md has the argument in full.
 */
#include "gc/sets.h"

#include "gc/mark.h"
#include "heap/dirty.h"
#include "heap/heap.h"

#include <string.h>

enum { CAP_MAX = 1024 };

/* Lists in which the page that has waited longest comes first: what a limit leaves over is looked at next time. */
struct pages {
    struct page *first, *last;
};

/* [stopped] */
static struct pages
    recent; /* linked by new_next: pages of which blocks have been handed out since the last time, or still are */
static struct pages new_pages;   /* linked by new_next: those of before that a limit left over */
static struct pages noted_pages; /* linked by noted_next */
static struct page *cut_pages;   /* linked by cut_next */
static struct page
    *roots_last; /* of the noted pages, the last that sets_roots() is to look at; NULL: none */
static size_t cut_count;          /* relaxed R by anyone: bits in the maps of the cut, about */
static size_t taken;              /* candidates taken out of the maps */
static size_t put;                /* candidates that young collections have put into them */
static bool passed_over;          /* those of before got nothing in the last young collection */
static bool young_left, old_left; /* relaxed R by anyone: the last of its kind came to its limit */

static void append_new(struct pages *list, struct page *page)
{
    page->new_next = NULL;
    *(list->last ? &list->last->new_next : &list->first) = page;
    list->last = page;
}

static struct page *take_new(struct pages *list)
{
    struct page *page = list->first;

    if (page && (list->first = page->new_next) == NULL)
        list->last = NULL;
    return page;
}

static void append_noted(struct page *page)
{
    page->noted_next = NULL;
    *(noted_pages.last ? &noted_pages.last->noted_next : &noted_pages.first) = page;
    noted_pages.last = page;
}

static void remove_first_noted(void)
{
    struct page *page = noted_pages.first;

    page->in_noted = 0;
    noted_pages.first = page->noted_next;
    if (!noted_pages.first)
        noted_pages.last = NULL;
}

/* Takes what was pushed since the last collection. */
static void take_dirty(void)
{
    struct page *page;

    while ((page = dirty_new) != NULL) {
        dirty_new = page->new_next;
        append_new(&recent, page);
    }
    while ((page = dirty_noted) != NULL) {
        dirty_noted = page->noted_next;
        append_noted(page);
    }
    store_relaxed(&old_left, noted_pages.first != NULL);
}

/* --- candidates -------------------------------------------------------------------------------------- */

/* Its bit in the maps is the caller's business. */
static void no_candidate(ouro_object *o)
{
    uint32_t w = load_relaxed(&o->ouro.owned);

    if (sets_has_owner(w) && !(w & OURO_FRESH))
        store_relaxed(&o->ouro.owned, w | OURO_FRESH);
    if (o->ouro.flags & OURO_FLAG_NOTED)
        o->ouro.flags &= (uint8_t)~OURO_FLAG_NOTED;
}

void sets_note(struct page *page, ouro_object *o)
{
    map_set(page_candidates(page), o);
    dirty_mark_noted(page);
    put++;
}

bool sets_is_noted(const ouro_object *o)
{
    const uint64_t *map = page_candidates(page_of(o));

    return sets_is_candidate(o) && (map[granule_of(o) / 64] >> granule_of(o) % 64 & 1);
}

void sets_kept(ouro_object *o, bool examined)
{
    bool was_new = (o->ouro.flags & OURO_FLAG_NEW) != 0;

    if (was_new)
        o->ouro.flags &= (uint8_t)~OURO_FLAG_NEW;
    if (examined) {
        no_candidate(o);
    } else if (was_new && sets_is_candidate(o)) {
        sets_note(page_of(o), o);
    }
}

/* The next object in a map of candidates, without its bit; NULL: there is none in this word. */
static ouro_object *take_bit(struct page *page, uint64_t *map, size_t word)
{
    while (map[word]) {
        ouro_object *o = object_at(page, word, map[word]);

        map[word] &= map[word] - 1;
        taken++;
        if (!block_is_free(o) && !(o->ouro.flags & EXCLUDED) && sets_is_candidate(o))
            return o;
    }
    return NULL;
}

/* --- young ------------------------------------------------------------------------------------------- */

static void each_new(struct trial *trial, struct page *page,
                     void (*step)(struct trial *trial, ouro_object *o))
{
    uint32_t count = page_object_count(page), size = page_step(page);
    char *at = page->start;

    for (uint32_t i = 0; i < count; i++, at += size) {
        ouro_object *o = (ouro_object *)(void *)at;

        if (!block_is_free(o) && (o->ouro.flags & (EXCLUDED | OURO_FLAG_NEW)) == OURO_FLAG_NEW)
            step(trial, o);
    }
}

static void add_new(struct trial *trial, ouro_object *o)
{
    trial_add(trial, o);
}

/* Puts the page into `open` if blocks of it are still to be handed out; else it is no longer in any list of new ones. */
static void is_through_new(struct pages *open, struct page *page)
{
    if (sets_page_in_use(page) && page->free)
        append_new(open, page);
    else
        page->in_new = false;
}

/* The recent ones behind those of before. */
static void leave_recent(void)
{
    if (!recent.first)
        return;
    *(new_pages.last ? &new_pages.last->new_next : &new_pages.first) = recent.first;
    new_pages.last = recent.last;
    recent.first = recent.last = NULL;
}

static void look_at_new(struct trial *trial, struct pages *list, size_t limit, size_t *looked,
                        struct pages *open)
{
    struct page *page;

    while (*looked < limit && (page = take_new(list)) != NULL) {
        if (sets_page_in_use(page)) {
            size_t found = trial->members;

            each_new(trial, page, add_new);
            found = trial->members - found;
            *looked += found + page_object_count(page) / 16; /* others are passed over fast */
            /* Blocks that are still to be handed out would become new objects behind our back; if none did since the last
             * time, they are put back. */
            if (found == 0)
                heap_unhand(page);
        }
        is_through_new(open, page);
    }
}

/* What has just been made is mostly garbage, so it has half of the limit though others have waited longer: behind a million new
 * objects that live it would pile up. If that half was a page that left the others nothing it is their turn. */
size_t sets_young(struct trial *trial, const struct sets_limit *limit)
{
    struct pages open = {NULL, NULL};
    size_t looked = 0;

    take_dirty();
    trial->keep = KEEP_YOUNG;
    bool waits = new_pages.first != NULL;
    if (!waits || !passed_over)
        look_at_new(trial, &recent, waits ? (limit->objects + 1) / 2 : limit->objects, &looked,
                    &open);
    passed_over = waits && looked >= limit->objects;
    leave_recent();
    look_at_new(trial, &new_pages, limit->objects, &looked, &open);
    store_relaxed(&young_left, new_pages.first != NULL);
    recent = open;
    trial_count(trial);
    return looked;
}

/* --- old --------------------------------------------------------------------------------------------- */

struct exploration {
    ouro_visitor visitor;
    struct trial *trial;
    size_t cap;
    size_t count;
    bool cut;
    ouro_object *queue[CAP_MAX];
};

static inline void consider(struct exploration *e, ouro_object *o)
{
    if ((o->ouro.gc & (SCRATCH_OWN | SCRATCH_COMPLETE)) || (o->ouro.flags & EXCLUDED) ||
        trial_is_immortal(o))
        return;
    if (e->count == e->cap) {
        e->cut = true;
        return;
    }
    if (!(o->ouro.gc & SCRATCH_MEMBER))
        trial_add(e->trial, o);
    o->ouro.gc |= SCRATCH_OWN;
    e->queue[e->count++] = o;
}

static void explore_fields(ouro_visitor *visitor, ouro_ref *fields, size_t count)
{
    struct exploration *e = (struct exploration *)visitor;

    for (size_t i = 0; i < count && !e->cut; i++) {
        if (fields[i])
            consider(e, fields[i]);
    }
}

static void explore_object(struct exploration *e, ouro_object *o)
{
    const struct ouro_type *type = type_of(o);

    for (size_t f = 0; f < type->field_count && !e->cut; f++) {
        ouro_object *target = *type_field(o, type->fields[f]);

        if (target)
            consider(e, target);
    }
    if (type->visit)
        type->visit(o, &e->visitor);
}

/* True if all that it reaches is in the set now; then none of that is a candidate any more. */
static bool explore(struct exploration *e, ouro_object *candidate)
{
    e->count = 0;
    e->cut = false;
    consider(e, candidate);
    for (size_t i = 0; i < e->count && !e->cut; i++)
        explore_object(e, e->queue[i]);
    for (size_t i = 0; i < e->count; i++) {
        ouro_object *o = e->queue[i];

        o->ouro.gc &= ~(uint32_t)SCRATCH_OWN;
        if (e->cut)
            continue;
        o->ouro.gc |= SCRATCH_COMPLETE;
        if (sets_is_candidate(o)) {
            map_clear(page_candidates(page_of(o)), o);
            map_clear(page_cut(page_of(o)), o);
            no_candidate(o);
        }
    }
    return !e->cut;
}

static void mark_cut(struct page *page, const ouro_object *o)
{
    map_set(page_cut(page), o);
    store_relaxed(&cut_count, cut_count + 1);
    if (!page->in_cut) {
        page->in_cut = true;
        page->cut_next = cut_pages;
        cut_pages = page;
    }
}

/* The page that was cut last, no longer in the list; NULL: there is none. */
static struct page *take_cut(void)
{
    struct page *page;

    while ((page = cut_pages) != NULL) {
        cut_pages = page->cut_next;
        page->in_cut = false;
        if (sets_page_in_use(page))
            break;
        map_empty(page_cut(page));
    }
    return page;
}

/* False: the limit was reached. Bits of what has died are looked at, too, so they count. */
static bool explore_page(struct exploration *e, struct page *page, size_t limit, size_t *looked)
{
    uint64_t *candidates = page_candidates(page);

    ++*looked;
    for (size_t word = 0; word < MAP_WORDS; word++) {
        ouro_object *o;

        while (candidates[word]) {
            if (*looked >= limit)
                return false;
            size_t before = taken;

            o = take_bit(page, candidates, word);
            *looked += taken - before;
            if (!o)
                break;
            if (!explore(e, o))
                mark_cut(page, o);
            *looked += e->count;
        }
    }
    return true;
}

size_t sets_old(struct trial *trial, const struct sets_limit *limit)
{
    static struct exploration e; /* [stopped] */
    struct page *page;
    size_t looked = 0;

    take_dirty();
    trial->keep = KEEP_AS_IS;
    e.visitor.fields = explore_fields;
    e.trial = trial;
    e.cap = limit->cap < CAP_MAX ? limit->cap : CAP_MAX;
    while ((page = noted_pages.first) != NULL) {
        if (!sets_page_in_use(page))
            map_empty(page_candidates(page));
        else if (!explore_page(&e, page, limit->objects, &looked))
            break;
        remove_first_noted();
    }
    trial_count(trial);
    store_relaxed(&old_left, page != NULL);
    return looked;
}

/* --- all that candidates reach ----------------------------------------------------------------------- */

static void reach_new(struct trial *trial, ouro_object *o)
{
    (void)trial;
    reach_root(o);
}

static void reach_map(struct trial *trial, struct page *page, uint64_t *map)
{
    (void)trial;
    for (size_t word = 0; word < MAP_WORDS; word++) {
        ouro_object *o;

        while ((o = take_bit(page, map, word)) != NULL)
            reach_root(o);
    }
}

/* Pages of which blocks are still to be handed out stay. */
static void leave_new_pages(void (*step)(struct trial *trial, ouro_object *o), struct trial *trial)
{
    struct pages open = {NULL, NULL};
    struct page *page;

    leave_recent();
    while ((page = take_new(&new_pages)) != NULL) {
        if (sets_page_in_use(page))
            each_new(trial, page, step);
        is_through_new(&open, page);
    }
    recent = open;
    store_relaxed(&young_left, false);
}

static void leave_noted_pages(void (*each)(struct trial *trial, struct page *page, uint64_t *map),
                              struct trial *trial)
{
    struct page *page;

    while ((page = noted_pages.first) != NULL) {
        remove_first_noted();
        if (sets_page_in_use(page))
            each(trial, page, page_candidates(page));
        else
            map_empty(page_candidates(page));
    }
    while ((page = take_cut()) != NULL)
        each(trial, page, page_cut(page));
    store_relaxed(&cut_count, (size_t)0);
    store_relaxed(&old_left, false);
}

size_t sets_reachable(struct trial *trial)
{
    take_dirty();
    trial->keep = KEEP_EXAMINED;
    trial->shared = true;
    reach_begin(trial);
    leave_new_pages(reach_new, trial);
    leave_noted_pages(reach_map, trial);
    reach_end(trial);
    trial_count(trial);
    return trial->members;
}

/* --- everything -------------------------------------------------------------------------------------- */

size_t sets_full(struct trial *trial)
{
    take_dirty();
    trial->keep = KEEP_AS_IS;
    trial->shared = true;
    trial_everything(trial);
    return trial->members;
}

static void settle_new(struct trial *trial, ouro_object *o)
{
    (void)trial;
    sets_kept(o, true);
}

static void settle_map(struct trial *trial, struct page *page, uint64_t *map)
{
    ouro_object *o;

    (void)trial;
    for (size_t word = 0; word < MAP_WORDS; word++) {
        while ((o = take_bit(page, map, word)) != NULL)
            no_candidate(o);
    }
}

void sets_full_done(void)
{
    leave_new_pages(settle_new, NULL);
    leave_noted_pages(settle_map, NULL);
}

/* --- for a collection in slices ----------------------------------------------------------------------- */

/* It may be NEW, under a bit that was left by who died in its place: no young collection is to have it any more. */
static void take_root(ouro_object *o, sets_root root)
{
    o->ouro.flags &= (uint8_t)~OURO_FLAG_NEW;
    no_candidate(o);
    root(o);
}

/* `root` may set bits in the map of the cut: each word is emptied before its objects are handed over. */
static void roots_of_cut_page(struct page *page, sets_root root)
{
    uint64_t *map = page_cut(page);

    for (size_t word = 0; word < MAP_WORDS; word++) {
        uint64_t bits = map[word];

        if (bits)
            map[word] = 0;
        for (; bits; bits &= bits - 1) {
            ouro_object *o = object_at(page, word, bits);

            if (!block_is_free(o) && !(o->ouro.flags & EXCLUDED) && sets_is_candidate(o))
                take_root(o, root);
        }
    }
}

static void roots_of_noted_page(struct page *page, sets_root root)
{
    uint64_t *map = page_candidates(page);

    for (size_t word = 0; word < MAP_WORDS; word++) {
        ouro_object *o;

        while ((o = take_bit(page, map, word)) != NULL)
            take_root(o, root);
    }
}

static size_t bits_of(const uint64_t *map)
{
    size_t bits = 0;

    for (size_t word = 0; word < MAP_WORDS; word++)
        bits += (size_t)__builtin_popcountll(map[word]);
    return bits;
}

/* Who stops half way leaves candidates that are cut, and they have to count. */
static void count_cut_taken(size_t bits)
{
    size_t left = cut_count > bits ? cut_count - bits : 1;

    store_relaxed(&cut_count, cut_pages ? left : 0);
}

/* Pages that are noted after the first call are not waited for: a program that notes faster than we look would keep us here for ever. */
bool sets_roots(sets_root root, bool first, const struct sets_limit *limit, size_t *looked)
{
    struct page *page;

    if (first) {
        take_dirty();
        roots_last = noted_pages.last;
    }
    while (*looked < limit->objects && (page = take_cut()) != NULL) {
        size_t bits = bits_of(page_cut(page));

        *looked += 1 + bits;
        roots_of_cut_page(page, root);
        count_cut_taken(bits);
    }
    if (!cut_pages)
        store_relaxed(&cut_count, (size_t)0);
    while (*looked < limit->objects && roots_last) {
        page = noted_pages.first;
        remove_first_noted();
        if (page == roots_last)
            roots_last = NULL;
        *looked += 1 + bits_of(page_candidates(page));
        if (sets_page_in_use(page))
            roots_of_noted_page(page, root);
        else
            map_empty(page_candidates(page));
    }
    store_relaxed(&old_left, noted_pages.first != NULL);
    return !cut_pages && !roots_last;
}

size_t sets_cut_count(void)
{
    return load_relaxed(&cut_count);
}

size_t sets_taken(void)
{
    return taken;
}

size_t sets_put(void)
{
    return put;
}

bool sets_has_new(void)
{
    return load_relaxed(&young_left);
}

bool sets_has_candidates(void)
{
    return load_relaxed(&old_left) || load_relaxed(&dirty_noted);
}
