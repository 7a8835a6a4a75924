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
 * The set is a bitmap for each page, and the bit MEMBER in scratch words.  If membership can be told from the flags in a
 * header (all objects, all new ones) making the set and counting is one pass: a scratch word is made when it is first
 * needed.  Marking writes 0, so nothing has to be cleaned up.  Counts are unsigned and wrap to
 * "held": a `visit` function that reports a reference twice keeps garbage alive, it frees nothing that lives.
 *
 * Objects of which the count is 0 or less wait for the drain of a hint; they are held.  DEAD ones are somebody
 * else's; what they refer to has references from outside.  So it is with FROZEN ones (gc/freeze.c); a page in
 * which there is nothing else is skipped unread.
 *
 * Every pass asks for the line that it will need some steps before it needs it.  The mark stack is fixed; if it
 * is full an object is marked without having been looked into, and its page is walked again (`rescan`).
 * docs/internals/collector.md
 */
#include "gc/trial.h"

#include "gc/debug.h"
#include "gc/helped.h"
#include "gc/sets.h"
#include "object/finalize.h"
#include "object/weak.h"

/* [stopped] one collection at a time */
ouro_object *trial_stack[TRIAL_STACK];
static size_t stack_top;
static bool rescan_wanted;
static size_t marked;

/* --- count ------------------------------------------------------------------------------------------- */

struct count_pass {
    ouro_visitor visitor;
    uint8_t mask, want; /* members that have no scratch word yet are told by their flags */
    unsigned next;
    ouro_object *ring[TRIAL_RING];
};
static struct count_pass pass; /* [stopped] */

static inline void subtract(ouro_object *o)
{
    uint32_t scratch = o->ouro.gc;

    ASSERT(o->ouro.type != 0);
    if (!(scratch & SCRATCH_MEMBER)) {
        if ((o->ouro.flags & pass.mask) != pass.want)
            return;
        scratch = scratch_of(o);
    }
    if (OURO_LIKELY(scratch < SCRATCH_HELD))
        scratch -= SCRATCH_ONE;
    o->ouro.gc = scratch;
}

static inline void subtract_later(ouro_object *o)
{
    ouro_object **place = &pass.ring[pass.next++ % TRIAL_RING];
    ouro_object *old = *place;

    __builtin_prefetch(o, 1);
    *place = o;
    if (old)
        subtract(old);
}

static void count_fields(ouro_visitor *visitor, ouro_ref *fields, size_t count)
{
    (void)visitor;
    for (size_t i = 0; i < count; i++) {
        if (fields[i])
            subtract_later(fields[i]);
    }
}

static inline void count_object(struct trial *trial, ouro_object *o)
{
    const struct ouro_type *type = type_of(o);

    if (OURO_UNLIKELY((load_relaxed(&o->ouro.shared) & OURO_WEAK) || type->finalize))
        trial->special = true;
    for (size_t f = 0; f < type->field_count; f++) {
        ouro_object *target = *type_field(o, type->fields[f]);

        if (target)
            subtract_later(target);
    }
    if (OURO_UNLIKELY(type->visit != NULL))
        type->visit(o, &pass.visitor);
}

static void begin_pass(uint8_t mask, uint8_t want)
{
    pass = (struct count_pass){.visitor = {count_fields}, .mask = mask, .want = want};
}

void trial_begin(struct trial *trial, struct seat *self)
{
    *trial = (struct trial){.self = self};
    begin_pass(0, 1); /* no flags tell */
}

size_t trial_walk(struct trial *trial, struct page *page, uint8_t mask, uint8_t want)
{
    uint64_t *condemned = page_condemned(page);
    uint32_t count = page_object_count(page), step = page_step(page);
    size_t members = 0;
    char *at = page->start;

    pass.mask = mask;
    pass.want = want;
    for (uint32_t i = 0; i < count; i++, at += step) {
        ouro_object *o = (ouro_object *)(void *)at;

        if (block_is_free(o) || (o->ouro.flags & mask) != want)
            continue;
        map_set(condemned, o);
        members++;
        if (!(o->ouro.gc & SCRATCH_MEMBER))
            o->ouro.gc = scratch_of(o);
        count_object(trial, o);
    }
    trial->members += members;
    if (members && !page->in_set) {
        page->in_set = true;
        page->condemned_next = trial->pages;
        trial->pages = page;
    }
    return members;
}

void trial_walk_end(struct trial *trial)
{
    (void)trial;
    for (size_t i = 0; i < TRIAL_RING; i++) {
        if (pass.ring[i])
            subtract(pass.ring[i]);
    }
    begin_pass(0, 1);
}

void trial_count(struct trial *trial)
{
    if (helped_count(trial))
        return;
    begin_pass(0, 1);
    for (struct page *page = trial->pages; page; page = page->condemned_next) {
        const uint64_t *condemned = page_condemned(page);

        for (size_t word = 0; word < MAP_WORDS; word++) {
            for (uint64_t bits = condemned[word]; bits; bits &= bits - 1)
                count_object(trial, object_at(page, word, bits));
        }
    }
    trial_walk_end(trial);
}

/* --- mark -------------------------------------------------------------------------------------------- */

static void mark_overflow(ouro_object *o)
{
    if (!(o->ouro.gc & SCRATCH_MEMBER))
        return;
    o->ouro.gc = 0;
    marked++;
    page_of(o)->rescan = true;
    rescan_wanted = true;
}

static inline void mark_later(ouro_object *o)
{
    if (OURO_UNLIKELY(stack_top == TRIAL_STACK))
        mark_overflow(o);
    else
        trial_stack[stack_top++] = o;
}

static void mark_fields(ouro_visitor *visitor, ouro_ref *fields, size_t count)
{
    (void)visitor;
    for (size_t i = 0; i < count; i++) {
        if (fields[i])
            mark_later(fields[i]);
    }
}

static inline void mark_targets(ouro_object *o)
{
    const struct ouro_type *type = type_of(o);

    for (size_t f = 0; f < type->field_count; f++) {
        ouro_object *target = *type_field(o, type->fields[f]);

        if (target)
            mark_later(target);
    }
    if (OURO_UNLIKELY(type->visit != NULL)) {
        ouro_visitor visitor = {mark_fields};

        type->visit(o, &visitor);
    }
}

/* Empties the stack through a ring of objects whose lines are on their way. */
static void mark_reached(void)
{
    ouro_object *ring[TRIAL_RING];
    unsigned first = 0, count = 0;

    for (;;) {
        while (count < TRIAL_RING && stack_top > 0) {
            ouro_object *o = trial_stack[--stack_top];

            __builtin_prefetch(o, 1);
            ring[(first + count++) % TRIAL_RING] = o;
        }
        if (count == 0)
            return;
        ouro_object *o = ring[first++ % TRIAL_RING];

        count--;
        if (!(o->ouro.gc & SCRATCH_MEMBER)) /* not in the set, or held already */
            continue;
        o->ouro.gc = 0;
        marked++;
        mark_targets(o);
    }
}

static void mark_held(const struct trial *trial)
{
    for (struct page *page = trial->pages; page; page = page->condemned_next) {
        const uint64_t *condemned = page_condemned(page);

        for (size_t word = 0; word < MAP_WORDS; word++) {
            for (uint64_t bits = condemned[word]; bits; bits &= bits - 1) {
                ouro_object *o = object_at(page, word, bits);

                if (o->ouro.gc < SCRATCH_ONE) /* held already, or no reference from outside */
                    continue;
                o->ouro.gc = 0;
                marked++;
                mark_targets(o);
                mark_reached();
            }
        }
    }
}

static void rescan_page(struct seat *self, struct page *page)
{
    const uint64_t *condemned = page_condemned(page);

    page->rescan = false;
    seat_event(self, EVENT_RESCAN);
    for (size_t word = 0; word < MAP_WORDS; word++) {
        for (uint64_t bits = condemned[word]; bits; bits &= bits - 1) {
            ouro_object *o = object_at(page, word, bits);

            if (o->ouro.gc == 0) {
                mark_targets(o);
                mark_reached();
            }
        }
    }
}

static void mark_rest(struct seat *self, const struct trial *trial)
{
    while (rescan_wanted) {
        rescan_wanted = false;
        for (struct page *page = trial->pages; page; page = page->condemned_next) {
            if (page->rescan)
                rescan_page(self, page);
        }
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
    if (finalize_is_due(o)) {
        o->ouro.gc = 0;
        marked++;
        mark_targets(o);
        mark_reached();
    }
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
    each_garbage(self, trial, keep_queued);
    mark_rest(self, trial);
}

static void save(struct seat *self, struct trial *trial, ouro_object *o)
{
    (void)self;
    o->ouro.gc = 0;
    marked++;
    trial->saved++;
    o->ouro.flags |= OURO_FLAG_SAVED;
    if (trial->debugging & OURO_GC_PRINT_GARBAGE)
        debug_print_saved(o);
    store_relaxed(&o->ouro.shared, load_relaxed(&o->ouro.shared) + OURO_SHARED_ONE);
}

/* --- condemn ----------------------------------------------------------------------------------------- */

size_t trial_condemn_page(const struct trial *trial, struct page *page)
{
    uint64_t *condemned = page_condemned(page), *hints = page_hints(page);
    size_t count = 0;

    for (size_t word = 0; word < MAP_WORDS; word++) {
        uint64_t garbage = 0;

        for (uint64_t bits = condemned[word]; bits; bits &= bits - 1) {
            ouro_object *o = object_at(page, word, bits);

            if (o->ouro.gc == 0) {
                if (trial->keep != KEEP_AS_IS)
                    sets_kept(o, trial->keep == KEEP_EXAMINED);
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
    return count;
}

static void check_condemned(const struct trial *trial)
{
    size_t garbage = 0;

    for (struct page *page = trial->pages; page; page = page->condemned_next) {
        for (size_t word = 0; word < MAP_WORDS; word++)
            garbage += (size_t)__builtin_popcountll(page_condemned(page)[word]);
    }
    ASSERT(garbage == trial->garbage);
}

static void condemn(struct trial *trial)
{
    struct page **link = &trial->pages;
    bool looks = trial->garbage || trial->keep != KEEP_AS_IS;
    bool helped = looks && helped_condemn(trial);

    for (struct page *page = trial->pages; page; page = page->condemned_next) {
        bool has_garbage = false;

        if (helped)
            has_garbage = page->in_set;
        else if (looks)
            has_garbage = trial_condemn_page(trial, page) != 0;
        else
            map_empty(page_condemned(page));
        page->in_set = false;
        if (has_garbage) {
            *link = page;
            link = &page->condemned_next;
        }
    }
    *link = NULL;
    AUDIT(check_condemned(trial));
}

void trial_decide(struct trial *trial)
{
    stack_top = 0;
    rescan_wanted = false;
    marked = 0;
    if (!helped_mark(trial, &marked, &rescan_wanted))
        mark_held(trial);
    mark_rest(trial->self, trial);
    if (trial->special && marked < trial->members)
        queue_finalizers(trial->self, trial);
    if (OURO_UNLIKELY(trial->debugging & OURO_GC_SAVE))
        each_garbage(trial->self, trial, save);
    ASSERT(marked <= trial->members);
    trial->survivors = marked;
    trial->garbage = trial->members - marked;
    condemn(trial);
}
