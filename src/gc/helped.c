/*
 * gc/helped.c - the passes of a trial by several threads at once: who collects, and those that sleep in the stopped world.
 *
 * Who takes part, and how work goes from one to another, is in gc/parallel.c.  Here is what is done to objects:
 *
 *    walk, count   pages are claimed one by one.  A scratch word is made by a compare-exchange, and a reference taken off by
 *                  a subtraction: any order gives the same.
 *    reach         who makes the scratch word of an object has it: adds it to the set and looks into it
 *    mark          who turns a scratch word into 0 has the object, and looks into it
 *    condemn       pages are claimed; nobody touches an object of another page
 *
 * Each participant has a short stack.  What is more goes to the others, the oldest first, since most hangs below it; if
 * somebody waits, half of whatever there is.  Who is the only one with work uses plain loads and stores: a list has nothing to
 * share, and costs what it costs alone.  Neighbouring fields that are reported in one go, by a large object, are handed over
 * piece by piece and not one by one.
 *
 * HELD saturates as it does alone: a word that is at or above it is not subtracted from.  Between such a look and the
 * subtraction each of the others may wrap it, or subtract, once: it ends at most PLACES below the top, far above HELD.
 *
 * Headers are read by all, and no flag changes in any pass but the last.  docs/internals/parallel.md
 */
#include "gc/helped.h"

#include "gc/parallel.h"

#include <ouro/gc.h>

#include <stdalign.h>

enum {
    STACK_SHORT = 256, /* objects; the others get what is more */
    STACK_SHARE = 16,  /* with that many half is given as soon as somebody waits */
    LOOK = 64,         /* objects until it is looked whether somebody does */
    PATIENCE = 16, /* looks until less is given, for the first time; then twice as many each time */
    PATIENCE_MAX = 1024,
    FIELDS_PIECE = 256, /* of a large object at a time */
    FIELDS_LARGE = 1024,
};
static_assert(FIELDS_PIECE <= STACK_SHORT, "a piece fits onto an empty stack");

struct worker {
    alignas(64) ouro_visitor visitor;
    struct seat *self;
    bool special, alone;
    size_t members, marked;

    /* count */
    unsigned next;
    ouro_object *ring[TRIAL_RING];

    /* reach, mark: the stack is from `base` to `top`, what is given away is at the base */
    size_t base, top;
    uint32_t until_look, patience, looks;
    ouro_object *stack[TRIAL_STACK];
};

/* [stopped] each by its place, and by the collector when the pass is over */
static struct worker workers[PLACES];

/* [stopped] what the pass is, written before it begins */
static struct trial *trial_now;
static uint8_t mask_now, want_now; /* of the flags of members that have no scratch word yet */
static struct page *(*next_page)(struct page *page);
static bool (*claim_now)(struct worker *w, ouro_object *o);
static bool reaching;

static alignas(64) struct page *cursor; /* [atomic] the next page to claim */
static bool rescan_wanted;              /* [atomic] relaxed: read when the pass is over */

/* --- pages ------------------------------------------------------------------------------------------- */

static struct page *next_in_set(struct page *page)
{
    return page->condemned_next;
}

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

static struct page *next_in_areas(struct page *page)
{
    struct area *area = area_of(page);

    return find_in_areas(area, (size_t)(page - area->pages) + 1);
}

/* Relaxed: the list of pages stands still, and what is in them is ordered by the beginning and the end of the pass. */
static struct page *claim_page(void)
{
    struct page *page = load_relaxed(&cursor);

    while (page && !cas_relaxed(&cursor, &page, next_page(page)))
        ;
    return page;
}

static void join_set(struct page *page)
{
    bool no = false;

    if (load_relaxed(&page->in_set) || !cas_relaxed(&page->in_set, &no, true))
        return;
    page->condemned_next = load_relaxed(&trial_now->pages);
    while (!cas_relaxed(&trial_now->pages, &page->condemned_next, page))
        ;
}

/* --- a pass ------------------------------------------------------------------------------------------ */

static struct worker *worker_of(struct seat *self, unsigned place)
{
    workers[place].self = self;
    return &workers[place];
}

static void begin(struct trial *trial, parallel_work *work, unsigned helpers,
                  void (*fields)(ouro_visitor *, ouro_ref *, size_t))
{
    for (unsigned place = 0; place <= helpers; place++) {
        struct worker *w = &workers[place];

        w->visitor.fields = fields;
        w->special = w->alone = false;
        w->members = w->marked = 0;
        w->next = 0;
        w->base = w->top = 0;
        w->until_look = LOOK;
        w->patience = w->looks = PATIENCE;
    }
    trial_now = trial;
    store_relaxed(&rescan_wanted, false);
    parallel_begin(trial->self, work, helpers);
}

/* Ends the pass and adds up. */
static size_t end(struct trial *trial, unsigned helpers)
{
    unsigned came = parallel_end();
    size_t marked = 0;

    for (unsigned place = 0; place <= helpers; place++) {
        trial->members += workers[place].members;
        trial->special |= workers[place].special;
        marked += workers[place].marked;
    }
    if (came > trial->helpers)
        trial->helpers = came;
    return marked;
}

/* Of a large object: the first of them are the caller's, the rest is left for all. */
static size_t leave_fields(struct worker *w, ouro_ref *fields, size_t count)
{
    struct piece *piece = count < FIELDS_LARGE ? NULL : parallel_piece();

    if (!piece)
        return count;
    piece->fields = fields + FIELDS_PIECE;
    piece->count = count - FIELDS_PIECE;
    w->alone = false;
    parallel_put(w->self, piece);
    return FIELDS_PIECE;
}

/* Takes some of the fields of a piece, and leaves it if there are more. */
static size_t take_fields(struct worker *w, struct piece *piece, ouro_ref **fields)
{
    size_t count = piece->count < FIELDS_PIECE ? piece->count : FIELDS_PIECE;

    *fields = piece->fields;
    piece->fields += count;
    piece->count -= count;
    if (piece->count)
        parallel_put(w->self, piece);
    else
        parallel_give_back(piece);
    return count;
}

/* --- count ------------------------------------------------------------------------------------------- */

static inline void subtract(ouro_object *o)
{
    uint32_t scratch = load_relaxed(&o->ouro.gc);

    ASSERT(o->ouro.type != 0);
    if (!(scratch & SCRATCH_MEMBER)) {
        if ((o->ouro.flags & mask_now) != want_now)
            return;
        uint32_t made = scratch_of(o);
        uint32_t less = made < SCRATCH_HELD ? made - SCRATCH_ONE : made;

        if (cas_relaxed(&o->ouro.gc, &scratch, less))
            return;
    }
    if (OURO_LIKELY(scratch < SCRATCH_HELD))
        fetch_sub_relaxed(&o->ouro.gc, (uint32_t)SCRATCH_ONE);
}

static inline void subtract_later(struct worker *w, ouro_object *o)
{
    ouro_object **place = &w->ring[w->next++ % TRIAL_RING];
    ouro_object *old = *place;

    __builtin_prefetch(o, 1);
    *place = o;
    if (old)
        subtract(old);
}

static void subtract_rest(struct worker *w)
{
    for (size_t i = 0; i < TRIAL_RING; i++) {
        if (w->ring[i])
            subtract(w->ring[i]);
        w->ring[i] = NULL;
    }
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

    count_some(w, fields, leave_fields(w, fields, count));
}

static inline void count_object(struct worker *w, ouro_object *o)
{
    const struct ouro_type *type = type_of(o);

    if (OURO_UNLIKELY((load_relaxed(&o->ouro.shared) & OURO_WEAK) || type->finalize))
        w->special = true;
    for (size_t f = 0; f < type->field_count; f++) {
        ouro_object *target = *type_field(o, type->fields[f]);

        if (target)
            subtract_later(w, target);
    }
    if (OURO_UNLIKELY(type->visit != NULL))
        type->visit(o, &w->visitor);
}

static void walk_page(struct worker *w, struct page *page)
{
    uint64_t *condemned = page_condemned(page);
    uint32_t count = page_object_count(page), step = page_step(page);
    size_t members = 0;
    char *at = page->start;

    for (uint32_t i = 0; i < count; i++, at += step) {
        ouro_object *o = (ouro_object *)(void *)at;
        uint32_t none = 0;

        if (block_is_free(o) || (o->ouro.flags & mask_now) != want_now)
            continue;
        map_set(condemned, o);
        members++;
        if (!(load_relaxed(&o->ouro.gc) & SCRATCH_MEMBER))
            cas_relaxed(&o->ouro.gc, &none, scratch_of(o)); /* or a reference was first */
        count_object(w, o);
    }
    w->members += members;
    if (members)
        join_set(page);
}

static void count_page(struct worker *w, struct page *page)
{
    const uint64_t *condemned = page_condemned(page);

    for (size_t word = 0; word < MAP_WORDS; word++) {
        for (uint64_t bits = condemned[word]; bits; bits &= bits - 1)
            count_object(w, object_at(page, word, bits));
    }
}

static void count_pages(struct worker *w, void (*one)(struct worker *w, struct page *page))
{
    struct page *page;

    while ((page = claim_page()) != NULL)
        one(w, page);
    for (struct piece *piece; (piece = parallel_take()) != NULL;) {
        ouro_ref *fields;
        size_t count = take_fields(w, piece, &fields);

        count_some(w, fields, count);
    }
    subtract_rest(w);
}

static void walk_work(struct seat *self, unsigned place)
{
    do
        count_pages(worker_of(self, place), walk_page);
    while (parallel_idle());
}

static void count_work(struct seat *self, unsigned place)
{
    do
        count_pages(worker_of(self, place), count_page);
    while (parallel_idle());
}

/* Objects that a walk would look at; no more are counted than it takes to see that it is worth it. */
static unsigned helpers_of_heap(const struct seat *self)
{
    size_t objects = 0;

    for (struct area *area = area_first(); area; area = area->next) {
        for (size_t i = AREA_META_PAGES; i < AREA_PAGES; i++) {
            if (is_walked(&area->pages[i]))
                objects += page_object_count(&area->pages[i]);
        }
    }
    return parallel_ready(self, objects);
}

bool helped_walk(struct trial *trial, uint8_t mask, uint8_t want)
{
    if (!ouro_gc_get_helpers())
        return false; /* the pages need not be counted */
    unsigned helpers = helpers_of_heap(trial->self);
    if (!helpers)
        return false;
    mask_now = mask;
    want_now = want;
    next_page = next_in_areas;
    store_relaxed(&cursor, find_in_areas(area_first(), AREA_META_PAGES));
    begin(trial, walk_work, helpers, count_fields);
    walk_work(trial->self, 0);
    end(trial, helpers);
    return true;
}

bool helped_count(struct trial *trial)
{
    unsigned helpers = trial->shared ? parallel_ready(trial->self, trial->members) : 0;

    if (!helpers)
        return false;
    mask_now = 0; /* no flags tell */
    want_now = 1;
    next_page = next_in_set;
    store_relaxed(&cursor, trial->pages);
    begin(trial, count_work, helpers, count_fields);
    count_work(trial->self, 0);
    end(trial, helpers);
    return true;
}

/* --- reach, mark: whose an object is ------------------------------------------------------------------- */

static inline bool claim_to_mark(struct worker *w, ouro_object *o)
{
    uint32_t scratch = load_relaxed(&o->ouro.gc);

    if (!(scratch & SCRATCH_MEMBER)) /* not in the set, or held already */
        return false;
    if (w->alone) /* plain: a race detector sees it if somebody else is there */
        o->ouro.gc = 0;
    else if (!cas_relaxed(&o->ouro.gc, &scratch, 0u))
        return false;
    w->marked++;
    return true;
}

static inline bool claim_to_add(struct worker *w, ouro_object *o)
{
    uint32_t none = 0;

    if (load_relaxed(&o->ouro.gc) || (o->ouro.flags & EXCLUDED) || trial_is_immortal(o))
        return false;
    struct page *page = page_of(o);
    uint64_t *word = &page_condemned(page)[granule_of(o) / 64];
    uint64_t bit = (uint64_t)1 << granule_of(o) % 64;

    if (w->alone) {
        o->ouro.gc = scratch_of(o);
        *word |= bit;
    } else if (cas_relaxed(&o->ouro.gc, &none, scratch_of(o))) {
        fetch_or_relaxed(word, bit);
    } else {
        return false;
    }
    w->members++;
    join_set(page);
    return true;
}

/* --- reach, mark: the stacks --------------------------------------------------------------------------- */

/* Gives the oldest away; false: all pieces are in use. */
static bool give(struct worker *w, size_t count)
{
    struct piece *piece = parallel_piece();

    if (!piece)
        return false;
    piece->fields = NULL;
    piece->count = count;
    for (size_t i = 0; i < count; i++)
        piece->objects[i] = w->stack[w->base + i];
    w->base += count;
    w->alone = false;
    parallel_put(w->self, piece);
    return true;
}

static __attribute__((noinline)) void make_room(struct worker *w, ouro_object *o)
{
    bool given = w->top - w->base >= PIECE_OBJECTS && give(w, PIECE_OBJECTS);

    if (!given && w->top == TRIAL_STACK && w->base == 0) {
        if (claim_now(w, o)) {
            store_relaxed(&page_of(o)->rescan, (uint8_t)1);
            store_relaxed(&rescan_wanted, true);
        }
        return;
    }
    if (w->top == TRIAL_STACK) {
        for (size_t i = w->base; i < w->top; i++)
            w->stack[i - w->base] = w->stack[i];
        w->top -= w->base;
        w->base = 0;
    }
    w->stack[w->top++] = o;
}

static inline void push(struct worker *w, ouro_object *o)
{
    if (OURO_UNLIKELY(w->top - w->base >= STACK_SHORT || w->top == TRIAL_STACK))
        make_room(w, o);
    else
        w->stack[w->top++] = o;
}

static void push_some(struct worker *w, ouro_ref *fields, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (fields[i])
            push(w, fields[i]);
    }
}

static void push_fields(ouro_visitor *visitor, ouro_ref *fields, size_t count)
{
    struct worker *w = (struct worker *)(void *)visitor;

    push_some(w, fields, leave_fields(w, fields, count));
}

static inline void look_into(struct worker *w, ouro_object *o)
{
    const struct ouro_type *type = type_of(o);

    for (size_t f = 0; f < type->field_count; f++) {
        ouro_object *target = *type_field(o, type->fields[f]);

        if (target)
            push(w, target);
    }
    if (OURO_UNLIKELY(type->visit != NULL))
        type->visit(o, &w->visitor);
}

/* Whether the others want something. A long stack is halved at once.  True: what is on its way is to be put back, since too little
 * is on the stack and somebody has waited for long. */
static __attribute__((noinline)) bool look_around(struct worker *w)
{
    size_t count = w->top - w->base;

    w->until_look = LOOK;
    /* Pieces, and when marking pages, are all that there is to take. Who comes now finds neither. */
    w->alone = (reaching || !load_relaxed(&cursor)) && parallel_is_alone();
    if (!parallel_is_wanted())
        return false;
    if (count >= STACK_SHARE) {
        give(w, count / 2 < PIECE_OBJECTS ? count / 2 : (size_t)PIECE_OBJECTS);
        return false;
    }
    if (--w->looks)
        return false;
    if (w->patience < PATIENCE_MAX)
        w->patience *= 2;
    w->looks = w->patience;
    return true;
}

static void give_half(struct worker *w)
{
    size_t count = w->top - w->base;

    if (count >= 2)
        give(w, count / 2);
}

/* Empties the stack through a ring of objects whose lines are on their way. */
static inline __attribute__((always_inline)) void drain(struct worker *w,
                                                        bool (*claim)(struct worker *w,
                                                                      ouro_object *o))
{
    ouro_object *ring[TRIAL_RING];
    unsigned first = 0, count = 0;

    for (;;) {
        while (count < TRIAL_RING && w->top > w->base) {
            ouro_object *o = w->stack[--w->top];

            __builtin_prefetch(o, 1);
            ring[(first + count++) % TRIAL_RING] = o;
        }
        if (w->top == w->base)
            w->top = w->base = 0;
        if (count == 0)
            return;
        if (OURO_UNLIKELY(--w->until_look == 0) && look_around(w)) {
            while (count > 0)
                push(w, ring[(first + --count) % TRIAL_RING]);
            give_half(w);
            continue;
        }
        ouro_object *o = ring[first++ % TRIAL_RING];

        count--;
        if (claim(w, o))
            look_into(w, o);
    }
}

/* What was in a piece is on the stack afterwards, which was empty. */
static bool take(struct worker *w)
{
    struct piece *piece = parallel_take();
    ouro_ref *fields;

    if (!piece)
        return false;
    w->alone = false;
    if (piece->fields) {
        size_t count = take_fields(w, piece, &fields);

        push_some(w, fields, count);
        return true;
    }
    for (size_t i = 0; i < piece->count; i++)
        w->stack[w->top++] = piece->objects[i];
    parallel_give_back(piece);
    return true;
}

/* --- mark -------------------------------------------------------------------------------------------- */

static void mark_page(struct worker *w, struct page *page)
{
    const uint64_t *condemned = page_condemned(page);

    for (size_t word = 0; word < MAP_WORDS; word++) {
        for (uint64_t bits = condemned[word]; bits; bits &= bits - 1) {
            ouro_object *o = object_at(page, word, bits);

            if (load_relaxed(&o->ouro.gc) < SCRATCH_ONE || !claim_to_mark(w, o))
                continue;
            look_into(w, o);
            drain(w, claim_to_mark);
        }
    }
}

static void mark_work(struct seat *self, unsigned place)
{
    struct worker *w = worker_of(self, place);
    struct page *page;

    do {
        for (;;) {
            if (take(w))
                drain(w, claim_to_mark);
            else if ((page = claim_page()) != NULL)
                mark_page(w, page);
            else
                break;
        }
        w->alone = false;
    } while (parallel_idle());
}

bool helped_mark(struct trial *trial, size_t *marked, bool *rescan)
{
    unsigned helpers = trial->shared ? parallel_ready(trial->self, trial->members) : 0;

    if (!helpers)
        return false;
    next_page = next_in_set;
    claim_now = claim_to_mark;
    reaching = false;
    store_relaxed(&cursor, trial->pages);
    begin(trial, mark_work, helpers, push_fields);
    mark_work(trial->self, 0);
    *marked = end(trial, helpers);
    *rescan = load_relaxed(&rescan_wanted);
    return true;
}

/* --- reach ------------------------------------------------------------------------------------------- */

static unsigned reach_helpers; /* [stopped] of the pass that is under way */

static void reach_work(struct seat *self, unsigned place)
{
    struct worker *w = worker_of(self, place);

    do {
        drain(w, claim_to_add);
        while (take(w))
            drain(w, claim_to_add);
        w->alone = false;
    } while (parallel_idle());
}

bool helped_reach_begin(struct trial *trial, ouro_object **begun, size_t count)
{
    unsigned helpers = parallel_ready(trial->self, trial->members);

    if (!helpers)
        return false;
    reach_helpers = helpers;
    claim_now = claim_to_add;
    reaching = true;
    begin(trial, reach_work, helpers, push_fields);
    struct worker *w = worker_of(trial->self, 0);
    for (size_t i = 0; i < count; i++)
        look_into(w, begun[i]);
    return true;
}

void helped_root(ouro_object *o)
{
    struct worker *w = &workers[0];

    push(w, o);
    if (w->top - w->base >= STACK_SHORT / 2)
        drain(w, claim_to_add);
}

bool helped_reach_end(void)
{
    reach_work(trial_now->self, 0);
    end(trial_now, reach_helpers);
    return load_relaxed(&rescan_wanted);
}

/* --- condemn ----------------------------------------------------------------------------------------- */

static void condemn_work(struct seat *self, unsigned place)
{
    struct page *page;

    (void)self, (void)place;
    do {
        while ((page = claim_page()) != NULL)
            page->in_set = trial_condemn_page(trial_now, page) != 0;
    } while (parallel_idle());
}

bool helped_condemn(struct trial *trial)
{
    unsigned helpers = trial->shared ? parallel_ready(trial->self, trial->members) : 0;

    if (!helpers)
        return false;
    next_page = next_in_set;
    store_relaxed(&cursor, trial->pages);
    begin(trial, condemn_work, helpers, push_fields);
    condemn_work(trial->self, 0);
    end(trial, helpers);
    return true;
}
