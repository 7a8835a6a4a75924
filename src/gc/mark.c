/*
 * gc/mark.c - following references from object to object, by one worker or several.
 *
 *    mark     a member that is reached loses its scratch word, and is looked into
 *    reach    an object that is reached gets one, and is looked into
 *
 * Two workers may come to the same object at the same time; a compare-exchange says whose it is.  If there is only one
 * reference to it a plain store does: most of a tree or a list costs no locked instruction.
 *
 * From the stack objects go through a ring, where their lines are asked for some steps ahead.  A worker that shares has a
 * short stack.  What is more goes to the others, the oldest first, since most hangs below it; if somebody waits, half of
 * whatever there is.
 *
 * The stack is fixed.  An object whose references have no room on it is left for LATER, and its page is walked again when the
 * pass is over (`rescan`).  So is the target of a reference that `visit` reports when the stack is full.
 *
 * docs/internals/collector.md, docs/internals/parallel.md
 */
#include "gc/mark.h"

#include "gc/pass.h"

enum {
    STACK_SHORT = 256, /* objects, of a worker that shares */
    STACK_SHARE = 16,  /* with that many half is given as soon as somebody waits */
    AHEAD = 128,       /* objects of a page's own before what they reach is looked at */
    LOOK = 64,         /* objects until it is looked whether somebody waits */
    PATIENCE = 16, /* looks until less is given, for the first time; then twice as many each time */
    PATIENCE_MAX = 1024,
    SHARE_STEP = 10000, /* reached objects until it is looked again whether somebody could help */
};
static_assert((int)PIECE_OBJECTS <= (int)STACK_SHORT, "a piece fits onto an empty stack");

typedef bool claim(struct worker *w, ouro_object *o);

static claim *claim_now;   /* [stopped] of this pass */
static size_t share_at;    /* [collector] reached objects at which help is asked for */
static bool rescan_wanted; /* [atomic] relaxed: read when the pass is over */

/* --- whose an object is ------------------------------------------------------------------------------ */

/* Whether others may come to the object at the same time: not if there is but one reference to it. The count of an immortal
 * object says nothing. */
static inline bool is_contended(const struct worker *w, const ouro_object *o)
{
    return w->shared && count_sum(load_relaxed(&o->ouro.owned), load_relaxed(&o->ouro.shared)) != 1;
}

static inline bool claim_to_mark(struct worker *w, ouro_object *o)
{
    uint32_t scratch = load_relaxed(&o->ouro.gc);

    if (!(scratch & SCRATCH_MEMBER)) /* not in the set, or held already */
        return false;
    if (scratch < SCRATCH_HELD && !is_contended(w, o)) /* HELD may be an immortal one */
        store_relaxed(&o->ouro.gc, 0u);
    else if (!cas_relaxed(&o->ouro.gc, &scratch, 0u))
        return false;
    w->sum.marked++;
    return true;
}

/* A root may be had by two, since nobody's reference leads there: both add it, and look into it. Members are counted later. */
static inline bool claim_to_reach(struct worker *w, ouro_object *o)
{
    uint32_t none = 0;

    if (load_relaxed(&o->ouro.gc) || (o->ouro.flags & EXCLUDED) || trial_is_immortal(o))
        return false;
    if (!is_contended(w, o))
        store_relaxed(&o->ouro.gc, scratch_of(o));
    else if (!cas_relaxed(&o->ouro.gc, &none, scratch_of(o)))
        return false;
    struct page *page = page_of(o);
    uint64_t *word = &page_condemned(page)[granule_of(o) / 64];
    uint64_t bit = (uint64_t)1 << granule_of(o) % 64;

    if (w->shared)
        fetch_or_relaxed(word, bit);
    else
        *word |= bit;
    w->sum.members++;
    pass_join_set(page);
    return true;
}

/* --- the stack --------------------------------------------------------------------------------------- */

static void open_stack(struct worker *w)
{
    w->limit = w->shared ? STACK_SHORT : TRIAL_STACK;
    w->until_look = w->shared || claim_now == claim_to_reach ? LOOK : 0;
    w->patience = w->looks = PATIENCE;
}

/* Gives the oldest away; if all pieces are in use it keeps them. */
static void give(struct worker *w, size_t count)
{
    struct piece *piece = parallel_piece();

    if (!piece)
        return;
    piece->fields = NULL;
    piece->count = count;
    for (size_t i = 0; i < count; i++)
        piece->objects[i] = w->stack[w->base + i];
    w->base += count;
    parallel_put(w->self, piece);
}

static void move_to_bottom(struct worker *w)
{
    for (size_t i = w->base; i < w->top; i++)
        w->stack[i - w->base] = w->stack[i];
    w->top -= w->base;
    w->base = 0;
}

/* Its references are looked at when the pass is over. */
static void leave_for_later(ouro_object *o)
{
    store_relaxed(&o->ouro.gc, load_relaxed(&o->ouro.gc) | SCRATCH_LATER);
    /* [P4] release: the word, and that it is a member; rescan_page() */
    store_release(&page_of(o)->rescan, (uint8_t)1);
    store_relaxed(&rescan_wanted, true);
}

static __attribute__((noinline)) void push_beyond_limit(struct worker *w, ouro_object *o)
{
    if (w->shared && w->top - w->base >= PIECE_OBJECTS)
        give(w, PIECE_OBJECTS);
    if (w->top == TRIAL_STACK && w->base > 0)
        move_to_bottom(w);
    if (w->top == TRIAL_STACK) {
        if (claim_now(w, o))
            leave_for_later(o);
        return;
    }
    w->limit = TRIAL_STACK;
    if (w->shared && w->top + PIECE_OBJECTS < TRIAL_STACK)
        w->limit = w->top + PIECE_OBJECTS;
    w->stack[w->top++] = o;
}

static inline void push(struct worker *w, ouro_object *o)
{
    if (OURO_UNLIKELY(w->top == w->limit))
        push_beyond_limit(w, o);
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

/* What roots reach, or are about to, is so much that help is welcome. */
static void ask_for_help(struct worker *w, size_t objects)
{
    if (objects < share_at)
        return;
    if (pass_share(objects)) /* what is taken later has to be below the limit, too */
        w->limit = w->top > STACK_SHORT ? w->top : (size_t)STACK_SHORT;
    else
        share_at = objects + SHARE_STEP;
}

static void push_fields(ouro_visitor *visitor, ouro_ref *fields, size_t count)
{
    struct worker *w = (struct worker *)(void *)visitor;

    if (count >= TRIAL_STACK / 2 && !w->shared)
        ask_for_help(w, w->sum.members + count);
    push_some(w, fields, pass_leave_fields(w, fields, count));
}

static inline bool has_room(const struct worker *w, const struct ouro_type *type)
{
    return w->top + type->field_count <= TRIAL_STACK;
}

static inline void look_into(struct worker *w, ouro_object *o)
{
    const struct ouro_type *type = type_of(o);

    if (OURO_UNLIKELY(!has_room(w, type)) && w->top > w->base) {
        leave_for_later(o);
        return;
    }
    for (size_t f = 0; f < type->field_count; f++) {
        ouro_object *target = *type_field(o, type->fields[f]);

        if (target)
            push(w, target);
    }
    if (OURO_UNLIKELY(type->visit != NULL))
        type->visit(o, &w->visitor);
}

/* --- sharing ----------------------------------------------------------------------------------------- */

/* Whether the others want something. A long stack is halved at once. True: what is on its way is to be put back, since too little
 * is on the stack and somebody has waited for long. */
static __attribute__((noinline)) bool look_around(struct worker *w)
{
    size_t count = w->top - w->base;

    w->until_look = LOOK;
    if (!w->shared) {
        ask_for_help(w, w->sum.members);
        return false;
    }
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

/* What was in a piece is on the stack afterwards, which was empty. */
static bool take(struct worker *w)
{
    struct piece *piece = w->shared ? parallel_take() : NULL;
    ouro_ref *fields;

    if (!piece)
        return false;
    if (piece->fields) {
        size_t count = pass_take_fields(w, piece, &fields);

        push_some(w, fields, count);
        return true;
    }
    for (size_t i = 0; i < piece->count; i++)
        w->stack[w->top++] = piece->objects[i];
    ASSERT(w->top <= w->limit);
    parallel_give_back(piece);
    return true;
}

/* Empties the stack through a ring of objects whose lines are on their way. */
static inline __attribute__((always_inline)) void drain(struct worker *w, claim *claim_it)
{
    ouro_object *ring[TRIAL_RING];
    unsigned first = 0, count = 0;

    for (;;) {
        while (count < TRIAL_RING && w->top > w->base) {
            ouro_object *o = w->stack[--w->top];

            __builtin_prefetch(o, 1);
            ring[(first + count++) % TRIAL_RING] = o;
        }
        if (OURO_UNLIKELY(w->base) && w->top == w->base) {
            w->top = w->base = 0;
            w->limit = STACK_SHORT;
        }
        if (count == 0)
            return;
        if (OURO_UNLIKELY(--w->until_look == 0) && look_around(w)) {
            while (count > 0)
                push(w, ring[(first + --count) % TRIAL_RING]);
            if (w->top - w->base >= 2)
                give(w, (w->top - w->base) / 2);
            continue;
        }
        ouro_object *o = ring[first++ % TRIAL_RING];

        count--;
        if (claim_it(w, o))
            look_into(w, o);
    }
}

static __attribute__((noinline)) void drain_marking(struct worker *w)
{
    drain(w, claim_to_mark);
}

static __attribute__((noinline)) void drain_reaching(struct worker *w)
{
    drain(w, claim_to_reach);
}

static void follow(struct worker *w, void (*drain_it)(struct worker *w))
{
    if (w->limit == 0)
        open_stack(w);
    do {
        while (pass_page(w)) {
            if (w->top - w->base >= AHEAD)
                drain_it(w);
        }
        drain_it(w);
    } while (take(w));
}

/* An object of a page that is walked: what it refers to is pushed, and followed if enough has come together. */
static inline void look_into_next(struct worker *w, ouro_object *o,
                                  void (*drain_it)(struct worker *w))
{
    if (w->top - w->base >= AHEAD || !has_room(w, type_of(o)))
        drain_it(w);
    look_into(w, o);
}

/* Those that were left for later. */
static void rescan_page(struct worker *w, struct page *page, void (*drain_it)(struct worker *w))
{
    const uint64_t *condemned = page_condemned(page);

    /* [P4] acquire: who has set it has left an object there, which is seen now; who sets it after this wants another round */
    if (!load_relaxed(&page->rescan) || !exchange_acq_rel(&page->rescan, (uint8_t)0))
        return;
    seat_event(w->self, EVENT_RESCAN);
    for (size_t word = 0; word < MAP_WORDS; word++) {
        for (uint64_t bits = load_relaxed(&condemned[word]); bits; bits &= bits - 1) {
            ouro_object *o = object_at(page, word, bits);
            uint32_t scratch = load_relaxed(&o->ouro.gc);

            if (!(scratch & SCRATCH_LATER))
                continue;
            store_relaxed(&o->ouro.gc, scratch & ~(uint32_t)SCRATCH_LATER);
            look_into_next(w, o, drain_it);
        }
    }
}

/* Until nothing is left for later. What is counted is added to `all`. */
static void rescan(struct trial *trial, const struct pass *pass, struct pass_sum *all)
{
    struct pass_sum sum;

    while (load_relaxed(&rescan_wanted)) {
        store_relaxed(&rescan_wanted, false);
        pass_run(trial, pass, trial->pages, trial->members, &sum);
        all->members += sum.members;
        all->marked += sum.marked;
    }
}

/* --- mark -------------------------------------------------------------------------------------------- */

static void mark_work(struct worker *w)
{
    follow(w, drain_marking);
}

static void mark_page(struct worker *w, struct page *page)
{
    const uint64_t *condemned = page_condemned(page);

    for (size_t word = 0; word < MAP_WORDS; word++) {
        for (uint64_t bits = condemned[word]; bits; bits &= bits - 1) {
            ouro_object *o = object_at(page, word, bits);

            /* held already, or no reference from outside? */
            if (load_relaxed(&o->ouro.gc) >= SCRATCH_ONE && claim_to_mark(w, o))
                look_into_next(w, o, drain_marking);
        }
    }
}

static void mark_page_again(struct worker *w, struct page *page)
{
    rescan_page(w, page, drain_marking);
}

static const struct pass marking = {
    .work = mark_work, .page = mark_page, .next = pass_next_in_set, .fields = push_fields};
static const struct pass marking_again = {
    .work = mark_work, .page = mark_page_again, .next = pass_next_in_set, .fields = push_fields};
static void expect_to_mark(void)
{
    claim_now = claim_to_mark;
    share_at = SIZE_MAX;
    store_relaxed(&rescan_wanted, false);
}

bool mark_held(struct trial *trial)
{
    struct pass_sum sum;

    expect_to_mark();
    pass_run(trial, &marking, trial->pages, trial->members, &sum);
    rescan(trial, &marking_again, &sum);
    ASSERT(sum.marked <= trial->members);
    return sum.marked < trial->members;
}

void mark_begin(struct trial *trial)
{
    expect_to_mark();
    open_stack(pass_begin(trial, &marking, NULL));
}

void mark_member(ouro_object *o)
{
    struct worker *w = &workers[0];

    if (claim_to_mark(w, o))
        look_into_next(w, o, drain_marking);
}

void mark_end(struct trial *trial)
{
    struct pass_sum sum;

    pass_end(&sum);
    rescan(trial, &marking_again, &sum);
}

/* --- reach ------------------------------------------------------------------------------------------- */

static void reach_work(struct worker *w)
{
    follow(w, drain_reaching);
}

static void reach_page_again(struct worker *w, struct page *page)
{
    rescan_page(w, page, drain_reaching);
}

/* Pages that come into the set while one of these passes is under way are in front of its first page; what is left for later in one of them wants
 * another round. */
static const struct pass reaching = {.work = reach_work,
                                     .next = pass_next_in_set,
                                     .fields = push_fields};
static const struct pass reaching_again = {
    .work = reach_work, .page = reach_page_again, .next = pass_next_in_set, .fields = push_fields};

void reach_begin(struct trial *trial)
{
    claim_now = claim_to_reach;
    share_at = 1;
    store_relaxed(&rescan_wanted, false);
    open_stack(pass_begin(trial, &reaching, NULL));
}

void reach_root(ouro_object *o)
{
    struct worker *w = &workers[0];

    push(w, o);
    if (w->top - w->base >= AHEAD)
        drain_reaching(w);
}

void reach_end(struct trial *trial)
{
    struct pass_sum sum;

    pass_end(&sum);
    trial->members = sum.members;
    rescan(trial, &reaching_again, &sum);
    trial->members = sum.members;
}
