/*
 * gc/pass.c - one pass of a trial over a set of objects.
 *
 * A pass is made by workers: who collects, alone if the set is small, with threads that sleep in the stopped world if it is
 * large.  Who takes part, and how work goes from one to another, is in gc/parallel.c; what is done to objects, in trial.c
 * and mark.c.
 *
 *    pages    are claimed one by one; maps, and flags of the objects, are written by who has claimed the page
 *    objects  of any page: only the scratch word is written, by relaxed stores and subtractions.  Each pass is such that
 *             any order of them gives the same.
 *
 * All of it is relaxed: the list of pages stands still, and the rest is ordered by the beginning and the end of the pass [P1].
 * docs/internals/parallel.md
 */
#include "gc/pass.h"

enum {
    FIELDS_PIECE = 256, /* of a large object at a time */
    FIELDS_LARGE = 1024,
};

struct worker workers[PLACES];

/* [stopped] written before others are asked */
static struct trial *trial_now;
static const struct pass *pass_now;
static unsigned helpers; /* that were asked */

static alignas(64) struct page *cursor; /* [atomic] the next page to claim */

/* --- a pass ------------------------------------------------------------------------------------------ */

static void prepare(struct worker *w, bool shared)
{
    w->visitor.fields = pass_now->fields;
    w->shared = shared;
    w->walking = false;
    w->sum = (struct pass_sum){0};
    w->base = w->top = w->limit = 0;
    w->until_look = 0;
}

static void take_part(struct seat *self, unsigned place)
{
    struct worker *w = &workers[place];

    w->self = self;
    do
        pass_now->work(w);
    while (w->shared && parallel_idle());
}

struct worker *pass_begin(struct trial *trial, const struct pass *pass, struct page *first)
{
    trial_now = trial;
    pass_now = pass;
    helpers = 0;
    store_relaxed(&cursor, first);
    prepare(&workers[0], false);
    workers[0].self = trial->self;
    return &workers[0];
}

bool pass_share(size_t objects)
{
    helpers = trial_now->shared ? parallel_ready(trial_now->self, objects) : 0;
    if (helpers == 0)
        return false;
    for (unsigned place = 1; place <= helpers; place++)
        prepare(&workers[place], true);
    workers[0].shared = true;
    parallel_begin(trial_now->self, take_part, helpers);
    return true;
}

bool pass_end(struct pass_sum *sum)
{
    take_part(trial_now->self, 0);
    if (helpers) {
        unsigned came = parallel_end();

        if (came > trial_now->helpers)
            trial_now->helpers = came;
    }
    *sum = (struct pass_sum){0};
    for (unsigned place = 0; place <= helpers; place++) {
        const struct pass_sum *one = &workers[place].sum;

        sum->members += one->members;
        sum->marked += one->marked;
        sum->garbage += one->garbage;
        sum->special |= one->special;
    }
    return helpers > 0;
}

bool pass_run(struct trial *trial, const struct pass *pass, struct page *first, size_t objects,
              struct pass_sum *sum)
{
    pass_begin(trial, pass, first);
    pass_share(objects);
    return pass_end(sum);
}

/* --- pages ------------------------------------------------------------------------------------------- */

struct page *pass_next_in_set(struct page *page)
{
    return page->condemned_next;
}

bool pass_page(struct worker *w)
{
    struct page *page = load_relaxed(&cursor);

    while (page && !cas_relaxed(&cursor, &page, pass_now->next(page)))
        ;
    if (page)
        pass_now->page(w, page);
    return page != NULL;
}

void pass_pages(struct worker *w)
{
    while (pass_page(w))
        ;
}

void pass_join_set(struct page *page)
{
    bool no = false;

    if (load_relaxed(&page->in_set) || !cas_relaxed(&page->in_set, &no, true))
        return;
    page->condemned_next = load_relaxed(&trial_now->pages);
    while (!cas_relaxed(&trial_now->pages, &page->condemned_next, page))
        ;
}

/* --- large objects ----------------------------------------------------------------------------------- */

size_t pass_leave_fields(struct worker *w, ouro_ref *fields, size_t count)
{
    struct piece *piece = w->shared && count >= FIELDS_LARGE ? parallel_piece() : NULL;

    if (!piece)
        return count;
    piece->fields = fields + FIELDS_PIECE;
    piece->count = count - FIELDS_PIECE;
    parallel_put(w->self, piece);
    return FIELDS_PIECE;
}

size_t pass_take_fields(struct worker *w, struct piece *piece, ouro_ref **fields)
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
