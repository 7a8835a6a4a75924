/*
 * gc/trial.c - trial deletion over a set of objects, in a stopped world.
 *
 *   count     for each member: its scratch word becomes its reference count, and each reference that it has to
 *             another member takes one off that one's.  What is left is the number of references from outside the set.
 *   mark      members with something left are held; what they reach is held, too.
 *   condemn   the rest is garbage.  Its weak references are cleared.  What has a finalizer that has not run is queued, with
 *             a reference, and is held from then on with all that it reaches.
 *
 * It is safe on any set: a reference from an object that is not in it counts as one from outside, so what is missing in the
 * set can only keep something alive.
 *
 * The set is a bitmap for each page, and the bit MEMBER in scratch words.  If everything is in the set, making it and counting
 * is one pass for one worker: a scratch word is made when it is first needed.  Several workers make all of them first.  Marking
 * writes 0, so nothing has to be cleaned up.
 *
 * Objects of which the count is 0 or less wait for the drain of a hint; they are held.  DEAD ones are somebody
 * else's; what they refer to has references from outside.  So it is with FROZEN ones (gc/freeze.c); a page in
 * which there is nothing else is skipped unread.
 *
 * Counts are unsigned: if a `visit` function reports more references than there are, the word wraps and looks held.  That
 * it reports each once is its contract all the same: two reports of one reference hide another one.
 *
 * Every pass asks for the line that it will need some steps before it needs it.  Each may be made by several workers (gc/pass.h); what
 * the passes do with weak references and finalizers is the collector's alone.
 * docs/internals/collector.md
 */
#include "gc/trial.h"

#include "gc/debug.h"
#include "gc/deep.h"
#include "gc/mark.h"
#include "gc/pass.h"
#include "gc/sets.h"
#include "object/finalize.h"
#include "object/weak.h"

#include <ouro/gc.h>

/* --- count ------------------------------------------------------------------------------------------- */

static void take_off(struct found *found)
{
    if (found->target)
        fetch_sub_relaxed(&found->target->ouro.gc, found->count * SCRATCH_ONE);
    found->target = NULL;
}

/* Some references to the same few objects become one subtraction: that many refer to a hub, and each subtraction by several
 * workers costs a trip of its line between processors. */
static inline void take_off_later(struct worker *w, ouro_object *o)
{
    struct found *found = &w->found[granule_of(o) % PASS_FOUND];

    if (found->target == o) {
        found->count++;
        return;
    }
    take_off(found);
    *found = (struct found){o, 1};
}

/* Who reads a count of one has found the last reference that is left, since each is taken off once: nobody else writes to the
 * word, and it needs no locked instruction. */
static inline void subtract(struct worker *w, ouro_object *o)
{
    uint32_t scratch = load_relaxed(&o->ouro.gc);

    ASSERT(o->ouro.type != 0);
    if (!(scratch & SCRATCH_MEMBER)) {
        if (!w->walking || (o->ouro.flags & EXCLUDED))
            return;
        scratch = scratch_of(o);
    }
    if (OURO_UNLIKELY(scratch >= SCRATCH_HELD)) {
        if (w->walking)
            o->ouro.gc = scratch;
    } else if (scratch < 2 * SCRATCH_ONE || !w->shared) {
        store_relaxed(&o->ouro.gc, scratch - SCRATCH_ONE);
    } else {
        take_off_later(w, o);
    }
}

static inline void subtract_later(struct worker *w, ouro_object *o)
{
    ouro_object **place = &w->ring[w->next++ % TRIAL_RING];
    ouro_object *old = *place;

    __builtin_prefetch(o, 1);
    *place = o;
    if (old)
        subtract(w, old);
}

static void subtract_rest(struct worker *w)
{
    for (size_t i = 0; i < TRIAL_RING; i++) {
        if (w->ring[i])
            subtract(w, w->ring[i]);
        w->ring[i] = NULL;
    }
    for (size_t i = 0; i < PASS_FOUND; i++)
        take_off(&w->found[i]);
}

static void count_some(struct worker *w, ouro_ref *fields, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (fields[i])
            subtract_later(w, fields[i]);
    }
}

static void count_fields(ouro_visitor *visitor, ouro_ref *fields, size_t count)
{
    struct worker *w = (struct worker *)(void *)visitor;

    count_some(w, fields, pass_leave_fields(w, fields, count));
}

static inline void count_object(struct worker *w, ouro_object *o)
{
    const struct ouro_type *type = type_of(o);

    if (OURO_UNLIKELY((load_relaxed(&o->ouro.shared) & OURO_WEAK) || type->finalize))
        w->sum.special = true;
    for (size_t f = 0; f < type->field_count; f++) {
        ouro_object *target = *type_field(o, type->fields[f]);

        if (target)
            subtract_later(w, target);
    }
    if (OURO_UNLIKELY(type->visit != NULL))
        type->visit(o, &w->visitor);
}

static void count_page(struct worker *w, struct page *page)
{
    const uint64_t *condemned = page_condemned(page);

    for (size_t word = 0; word < MAP_WORDS; word++) {
        w->sum.members += (size_t)__builtin_popcountll(condemned[word]);
        for (uint64_t bits = condemned[word]; bits; bits &= bits - 1)
            count_object(w, object_at(page, word, bits));
    }
}

static void count_work(struct worker *w)
{
    struct piece *piece;
    ouro_ref *fields;

    pass_pages(w);
    while (w->shared && (piece = parallel_take()) != NULL) {
        size_t count = pass_take_fields(w, piece, &fields);

        count_some(w, fields, count);
    }
    subtract_rest(w);
}

static const struct pass counting = {
    .work = count_work, .page = count_page, .next = pass_next_in_set, .fields = count_fields};

void trial_begin(struct trial *trial, struct seat *self)
{
    *trial = (struct trial){.self = self};
}

void trial_count(struct trial *trial)
{
    struct pass_sum sum;

    pass_run(trial, &counting, trial->pages, trial->members, &sum);
    trial->members = sum.members;
    trial->special = sum.special;
}

/* --- count, if everything is in the set --------------------------------------------------------------- */

static bool is_walked(const struct page *page)
{
    return page->kind == KIND_TRACKED && !page->frozen && page_object_count(page);
}

static struct page *find_in_areas(struct area *area, size_t i)
{
    for (; area; area = area->next, i = AREA_META_PAGES) {
        for (; i < AREA_PAGES; i++) {
            if (is_walked(&area->pages[i]))
                return &area->pages[i];
        }
    }
    return NULL;
}

static struct page *first_in_areas(void)
{
    return find_in_areas(area_first(), AREA_META_PAGES);
}

static struct page *next_in_areas(struct page *page)
{
    struct area *area = area_of(page);

    return find_in_areas(area, (size_t)(page - area->pages) + 1);
}

static inline __attribute__((always_inline)) void walk_page_with(
    struct worker *w, struct page *page, void (*step)(struct worker *w, ouro_object *o))
{
    uint64_t *condemned = page_condemned(page);
    uint32_t count = page_object_count(page), size = page_step(page);
    size_t members = 0;
    char *at = page->start;

    for (uint32_t i = 0; i < count; i++, at += size) {
        ouro_object *o = (ouro_object *)(void *)at;

        if (block_is_free(o) || (o->ouro.flags & EXCLUDED))
            continue;
        map_set(condemned, o);
        members++;
        step(w, o);
    }
    w->sum.members += members;
    if (members)
        pass_join_set(page);
}

static inline void make_and_count(struct worker *w, ouro_object *o)
{
    if (!(o->ouro.gc & SCRATCH_MEMBER))
        o->ouro.gc = scratch_of(o);
    count_object(w, o);
}

static void walk_page(struct worker *w, struct page *page)
{
    walk_page_with(w, page, make_and_count);
}

static void walk_work(struct worker *w)
{
    w->walking = true;
    pass_pages(w);
    subtract_rest(w);
}

static inline void make(struct worker *w, ouro_object *o)
{
    (void)w;
    o->ouro.gc = scratch_of(o);
}

static void make_page(struct worker *w, struct page *page)
{
    walk_page_with(w, page, make);
}

static const struct pass walking = {
    .work = walk_work, .page = walk_page, .next = next_in_areas, .fields = count_fields};
static const struct pass making = {.work = pass_pages, .page = make_page, .next = next_in_areas};

static size_t objects_in_areas(void)
{
    size_t objects = 0;

    for (struct page *page = first_in_areas(); page; page = next_in_areas(page))
        objects += page_object_count(page);
    return objects;
}

void trial_everything(struct trial *trial)
{
    struct pass_sum sum;
    size_t objects = ouro_gc_get_helpers() ? objects_in_areas() : 0;

    trial->everything = true;
    if (trial->shared && parallel_ready(trial->self, objects)) {
        pass_run(trial, &making, first_in_areas(), objects, &sum);
        trial->members = sum.members;
        trial_count(trial);
    } else {
        pass_run(trial, &walking, first_in_areas(), 0, &sum);
        trial->members = sum.members;
        trial->special = sum.special;
    }
}

/* --- what has to be done with some of the garbage ----------------------------------------------------- */

static void each_garbage(struct seat *self, struct trial *trial,
                         void (*step)(struct seat *self, struct trial *trial, ouro_object *o))
{
    for (struct page *page = trial->pages; page; page = page->condemned_next) {
        const uint64_t *condemned = page_condemned(page);

        for (size_t word = 0; word < MAP_WORDS; word++) {
            for (uint64_t bits = condemned[word]; bits; bits &= bits - 1) {
                ouro_object *o = object_at(page, word, bits);

                if (o->ouro.gc != 0)
                    step(self, trial, o);
            }
        }
    }
}

static void clear_weak(struct seat *self, struct trial *trial, ouro_object *o)
{
    (void)trial;
    if (load_relaxed(&o->ouro.shared) & OURO_WEAK)
        weak_clear_stopped(self, o);
}

static void queue_finalizer(struct seat *self, struct trial *trial, ouro_object *o)
{
    if (finalize_is_due(o)) {
        finalize_queue_garbage(self, o);
        trial->queued++;
    }
}

static void keep_queued(struct seat *self, struct trial *trial, ouro_object *o)
{
    (void)self, (void)trial;
    if (finalize_is_due(o))
        mark_member(o);
}

/* In this order: no weak reference to any of it is left when the first finalizer may look; and objects with finalizers are
 * queued even if another one reaches them, or a ring of them would take as many collections. */
static void queue_finalizers(struct seat *self, struct trial *trial)
{
    each_garbage(self, trial, clear_weak);
    each_garbage(self, trial, queue_finalizer);
    finalize_announce(self);
    if (trial->queued == 0)
        return;
    mark_begin(trial);
    each_garbage(self, trial, keep_queued);
    mark_end(trial);
}

static void save(struct seat *self, struct trial *trial, ouro_object *o)
{
    (void)self;
    o->ouro.gc = 0;
    trial->saved++;
    o->ouro.flags |= OURO_FLAG_SAVED;
    if (trial->debugging & OURO_GC_PRINT_GARBAGE)
        debug_print_saved(o);
    store_relaxed(&o->ouro.shared, load_relaxed(&o->ouro.shared) + OURO_SHARED_ONE);
}

/* --- condemn ----------------------------------------------------------------------------------------- */

static enum trial_keep keep_now; /* [stopped] of the pass */

static void condemn_page(struct worker *w, struct page *page)
{
    uint64_t *condemned = page_condemned(page), *hints = page_hints(page);
    enum trial_keep keep = keep_now;
    size_t count = 0;

    for (size_t word = 0; word < MAP_WORDS; word++) {
        uint64_t garbage = 0;

        for (uint64_t bits = condemned[word]; bits; bits &= bits - 1) {
            ouro_object *o = object_at(page, word, bits);

            if (o->ouro.gc == 0) {
                if (keep == KEEP_GUESSED)
                    deep_keep(page, o);
                else if (keep != KEEP_AS_IS)
                    sets_kept(o, keep == KEEP_EXAMINED);
                continue;
            }
            o->ouro.gc = 0;
            o->ouro.flags |= OURO_FLAG_GARBAGE;
            garbage |= bits & -bits;
            count++;
        }
        if (condemned[word] != garbage)
            condemned[word] = garbage;
        /* Hints at garbage are without meaning, and nobody is to look at these blocks any more. */
        if (garbage && (load_relaxed(&hints[word]) & garbage))
            store_relaxed(&hints[word], load_relaxed(&hints[word]) & ~garbage);
    }
    w->sum.garbage += count;
    page->in_set = count != 0;
}

static void forget_page(struct worker *w, struct page *page)
{
    (void)w;
    map_empty(page_condemned(page));
    page->in_set = false;
}

static const struct pass condemning = {.work = pass_pages,
                                       .page = condemn_page,
                                       .next = pass_next_in_set};
static const struct pass forgetting = {.work = pass_pages,
                                       .page = forget_page,
                                       .next = pass_next_in_set};

static void check_condemned(const struct trial *trial)
{
    size_t garbage = 0;

    for (struct page *page = trial->pages; page; page = page->condemned_next) {
        for (size_t word = 0; word < MAP_WORDS; word++)
            garbage += (size_t)__builtin_popcountll(page_condemned(page)[word]);
    }
    ASSERT(garbage == trial->garbage);
}

/* Leaves the pages with garbage in the list. */
static void condemn(struct trial *trial, bool looks)
{
    struct page **link = &trial->pages;
    struct pass_sum sum;

    ASSERT(trial->keep != KEEP_YOUNG ||
           !trial->shared); /* what is noted is counted by the collector */
    keep_now = trial->keep;
    pass_run(trial, looks ? &condemning : &forgetting, trial->pages, trial->members, &sum);
    trial->garbage = sum.garbage;
    for (struct page *page = trial->pages; page; page = page->condemned_next) {
        if (page->in_set) {
            page->in_set = false;
            *link = page;
            link = &page->condemned_next;
        }
    }
    *link = NULL;
    AUDIT(check_condemned(trial));
}

void trial_decide(struct trial *trial)
{
    bool some = mark_held(trial);

    if (trial->special && some)
        queue_finalizers(trial->self, trial);
    if (OURO_UNLIKELY(trial->debugging & OURO_GC_SAVE))
        each_garbage(trial->self, trial, save);
    condemn(trial, some || trial->keep != KEEP_AS_IS);
    ASSERT(trial->garbage <= trial->members);
}
