/*
 * gc/deep.c - a deep collection in slices: guess in many short stops, then prove.
 *
 * Between the slices the program runs, and nothing tells the collector what it does.  So what the slices find is a guess:
 *
 *    ROOTS    the candidates that there are, cut ones and others, become roots, and are no candidates any more; none is
 *             looked into before all have been taken
 *    CLOSURE  each object that the roots reach is looked into once: every reference to a member adds 1 to that one's sum
 *    HELD     a member that has more or fewer references than its sum is held; or if it is a candidate again, for then
 *             the program has had it in its hands since.  What is held is no member any more, and holds what it refers to
 *    PIECES   the members that are left are presumed to be garbage.  In each slice some roots and what they reach, as far
 *             as members go, is the set of an exact trial deletion.  Each member is in one such set; what it keeps
 *             is TRIED, and still a member, for something that refers to it may be garbage of another set
 *    proof    an exact trial deletion over all members that are left, in one stop
 *
 * If more are left after HELD than one stop should look at, their sums are made anew, from themselves alone, and HELD comes
 * again: what the program has only moved about meanwhile does not add up any more (AGAIN, SUMS).  If they are few enough there
 * is nothing but the proof.
 *
 * Why nothing that lives is freed: a trial is right for any set.  Why nothing is lost: garbage that was garbage when ROOTS
 * ended is never touched again, so its sums are exact, and it is in the last set; other garbage lost its last reference
 * after its root was taken, and so has a candidate that was noted afterwards.  docs/internals/generations.md
 *
 * Between slices the scratch word of a member is GUESSED, perhaps ROOT, and the sum; it has a bit in the map of the guessed.
 * The map of the cut says what is still to be looked into: nobody else needs it meanwhile.  Both may have bits of blocks
 * that are free or another object's by now: such a one is no member, since the scratch word of a block is 0 when it becomes
 * an object.  That of a free block or a DEAD object is a link: `type` and flags come first.  A page that is in no list has
 * no bits, and one that is in a list and taken for something else loses them (heap/area.c).
 *
 * Young collections run beside it, and no others: their sets are the NEW objects, and what is a member is no longer NEW.
 * A new object that is reached and is a candidate has no bit yet, and gets it: its candidature is not taken.  Other collections
 * would change the scratch words: deep_end() comes first, which notes the roots again.
 */
#include "gc/deep.h"

#include "base/os.h"
#include "gc/schedule.h"
#include "thread/world.h"

enum {
    ROOT = SCRATCH_OWN, /* it was a candidate */
    TRIED =
        SCRATCH_COMPLETE, /* it has been in the set of a slice, or in a piece that was too large */
    STEP_OBJECTS = 1000,  /* from one look at the clock to the next */
    PROOF_NS = 50,        /* for an object of the proof, about */
    PIECE_NS = 80,        /* the same, and to find it */
    PIECE_LOOKS = 4,      /* the same in objects and references, about */
    PIECE_MOST = 16384,   /* objects of a piece */
    END_OBJECTS = 20000,  /* that one stop of deep_end() looks at */
    ROUNDS = 2,           /* of making sums anew */
};

enum phase { NONE, ROOTS, CLOSURE, HELD, AGAIN, SUMS, PIECES };

/* [stopped] */
static enum phase phase; /* relaxed R by anyone */
static struct page *todo_first,
    *todo_last; /* pages with bits in the map of the cut; linked by cut_next */
static struct page *guess_first,
    *guess_last;             /* with bits in that of the guessed, or not; linked by guess_next */
static struct page *page_at; /* HELD, AGAIN: the page of the guessed that is being gone through */
static uint32_t granule_at;  /* and where */
static size_t members;       /* some of which have died */
static unsigned rounds;      /* how often sums have been made anew */

/* What a slice has asked for and not yet looked at. */
static struct {
    ouro_visitor visitor;
    struct deep_slice *slice;
    unsigned next;
    ouro_object *ring[TRIAL_RING];
} pass;

/* PIECES: the one that is being found, in the order in which it is reached. */
static struct {
    struct trial *trial;
    size_t most_ever; /* members of the set of a slice */
    size_t most;      /* of this one: less when it is late */
    bool cut;         /* something was left out */
    bool full;        /* the next one has no room in this slice */
    size_t count;
    ouro_object *objects[PIECE_MOST];
} piece;

bool deep_is_under_way(void)
{
    return load_relaxed(&phase) != NONE;
}

static void go_on_with(enum phase next)
{
    store_relaxed(&phase, next);
    page_at = guess_first;
    granule_at = 0;
}

/* --- members and what is to be done ------------------------------------------------------------------- */

static inline bool is_alive(const ouro_object *o)
{
    return !block_is_free(o) && !(o->ouro.flags & EXCLUDED);
}

static inline bool is_member(const ouro_object *o)
{
    return is_alive(o) && (o->ouro.gc & SCRATCH_GUESSED);
}

static void append_todo(struct page *page)
{
    if (page->in_cut)
        return;
    page->in_cut = true;
    page->cut_next = NULL;
    *(todo_last ? &todo_last->cut_next : &todo_first) = page;
    todo_last = page;
}

static inline void will_do(struct page *page, const ouro_object *o)
{
    map_set(page_cut(page), o);
    append_todo(page);
}

static struct page *take_todo(void)
{
    struct page *page = todo_first;

    if (!page)
        return NULL;
    todo_first = page->cut_next;
    if (!todo_first)
        todo_last = NULL;
    page->in_cut = false;
    return page;
}

static void make_member(ouro_object *o, uint32_t scratch)
{
    struct page *page = page_of(o);

    o->ouro.gc = scratch;
    members++;
    map_set(page_guessed(page), o);
    will_do(page, o);
    if (page->in_guess)
        return;
    page->in_guess = true;
    page->guess_next = NULL;
    *(guess_last ? &guess_last->guess_next : &guess_first) = page;
    guess_last = page;
}

/* It may be one already, and have become a candidate again since. */
static void make_root(ouro_object *o)
{
    if (!(o->ouro.gc & SCRATCH_GUESSED) && !trial_is_immortal(o))
        make_member(o, SCRATCH_GUESSED | ROOT);
}

static void hold(ouro_object *o)
{
    struct page *page = page_of(o);

    o->ouro.gc = 0;
    members--;
    map_clear(page_guessed(page), o);
    will_do(page, o);
}

/* --- looking into objects ------------------------------------------------------------------------------ */

/* It joins the members, if it may. A young collection will not have it. */
static void enter(ouro_object *o)
{
    if (trial_is_immortal(o))
        return;
    if (o->ouro.flags & OURO_FLAG_NEW) {
        o->ouro.flags &= (uint8_t)~OURO_FLAG_NEW;
        pass.slice->fresh++;
        if (sets_is_candidate(o))
            sets_note(page_of(o), o);
    }
    make_member(o, SCRATCH_GUESSED + SCRATCH_ONE);
}

/* It becomes part of the piece that is being found, if it may. */
static void join(ouro_object *o)
{
    if (o->ouro.gc & TRIED)
        return;
    if (piece.count == PIECE_MOST || piece.trial->members + piece.count == piece.most) {
        piece.cut = true;
        return;
    }
    o->ouro.gc |= TRIED;
    piece.objects[piece.count++] = o;
}

/* A member refers to it, or in HELD something that is held. */
static inline void reached(ouro_object *o)
{
    if (o->ouro.flags & EXCLUDED)
        return;
    uint32_t scratch = o->ouro.gc;

    if (!(scratch & SCRATCH_GUESSED)) {
        if (phase == CLOSURE)
            enter(o);
    } else if (phase == HELD) {
        hold(o);
    } else if (phase == PIECES) {
        join(o);
    } else if (OURO_LIKELY(scratch < SCRATCH_HELD)) {
        o->ouro.gc = scratch + SCRATCH_ONE;
    }
}

static inline void reached_later(ouro_object *o)
{
    ouro_object **place = &pass.ring[pass.next++ % TRIAL_RING];
    ouro_object *old = *place;

    __builtin_prefetch(o, 1);
    *place = o;
    if (old)
        reached(old);
}

/* At the end of each slice, too: afterwards these objects may die. */
static void reach_all_asked_for(void)
{
    for (size_t i = 0; i < TRIAL_RING; i++) {
        if (pass.ring[i])
            reached(pass.ring[i]);
        pass.ring[i] = NULL;
    }
}

static void look_at_fields(ouro_visitor *visitor, ouro_ref *fields, size_t count)
{
    (void)visitor;
    pass.slice->looked += count;
    for (size_t i = 0; i < count; i++) {
        if (fields[i])
            reached_later(fields[i]);
    }
}

static void look_into(ouro_object *o)
{
    const struct ouro_type *type = type_of(o);

    pass.slice->looked += 1 + type->field_count;
    for (size_t f = 0; f < type->field_count; f++) {
        ouro_object *target = *type_field(o, type->fields[f]);

        if (target)
            reached_later(target);
    }
    if (type->visit)
        type->visit(o, &pass.visitor);
}

/* False: the limit was reached. */
static bool look_into_page(struct page *page, size_t limit)
{
    uint64_t *map = page_cut(page);

    for (size_t word = 0; word < MAP_WORDS; word++) {
        while (map[word]) {
            if (pass.slice->looked >= limit)
                return false;
            ouro_object *o = object_at(page, word, map[word]);

            map[word] &= map[word] - 1;
            if (phase == HELD ? is_alive(o) : is_member(o))
                look_into(o);
            else
                pass.slice->looked++;
        }
    }
    pass.slice->looked++;
    return true;
}

/* True: nothing is left to be looked into. A page that gets bits while it is looked at is appended again. */
static bool look_into_all(size_t limit)
{
    struct page *page;

    do {
        while ((page = take_todo()) != NULL) {
            if (!sets_page_in_use(page)) {
                map_empty(page_cut(page));
            } else if (!look_into_page(page, limit)) {
                append_todo(page);
                break;
            }
        }
        reach_all_asked_for();
    } while (!page && todo_first);
    return !page;
}

/* --- held by others ------------------------------------------------------------------------------------ */

static bool is_held(const ouro_object *o)
{
    uint32_t s = load_relaxed(&o->ouro.shared);
    int32_t count = count_sum(load_relaxed(&o->ouro.owned), s);

    return o->ouro.gc >= SCRATCH_HELD || count <= 0 ||
           (uint32_t)count != o->ouro.gc / SCRATCH_ONE || trial_is_immortal(o) || sets_is_noted(o);
}

/* Calls `step` with the members of the page from granule_at on. False: the limit was reached, or `step` said so; it is called with that one again. */
static bool go_through_page(struct page *page, size_t limit, bool (*step)(ouro_object *o))
{
    uint64_t *map = page_guessed(page);

    for (; granule_at < PAGE_GRANULES; granule_at++) {
        uint64_t bits = map[granule_at / 64] >> granule_at % 64;

        if (!bits) {
            granule_at |= 63;
            continue;
        }
        if (pass.slice->looked >= limit)
            return false;
        pass.slice->looked++;
        granule_at += (uint32_t)__builtin_ctzll(bits);
        ouro_object *o = object_at(page, granule_at / 64, (uint64_t)1 << granule_at % 64);
        if (!is_member(o))
            map_clear(map, o);
        else if (!step(o))
            return false;
    }
    pass.slice->looked++;
    return true;
}

/* The same with the rest of page_at; true if it is through, and the next one's turn. */
static bool go_on_through_page(size_t limit, bool (*step)(ouro_object *o))
{
    if (!sets_page_in_use(page_at))
        map_empty(page_guessed(page_at));
    else if (!go_through_page(page_at, limit, step))
        return false;
    page_at = page_at->guess_next;
    granule_at = 0;
    return true;
}

static bool hold_if_held(ouro_object *o)
{
    if (is_held(o))
        hold(o);
    return true;
}

/* What is reached first, so that little is to be done at any time. */
static bool hold_all(size_t limit)
{
    for (;;) {
        if (!look_into_all(limit))
            return false;
        if (!page_at)
            return true;
        if (!go_on_through_page(limit, hold_if_held))
            return false;
    }
}

static bool begin_again(ouro_object *o)
{
    o->ouro.gc &= SCRATCH_GUESSED | ROOT;
    will_do(page_of(o), o);
    return true;
}

static bool begin_all_again(size_t limit)
{
    while (page_at) {
        if (!go_on_through_page(limit, begin_again))
            return false;
    }
    return true;
}

/* --- pieces -------------------------------------------------------------------------------------------- */

/* True if all of the piece has been found: nothing was left out. */
static bool find_piece(ouro_object *root)
{
    piece.count = 0;
    piece.cut = false;
    join(root);
    for (size_t i = 0; i < piece.count && !piece.cut;) {
        while (i < piece.count)
            look_into(piece.objects[i++]);
        reach_all_asked_for();
    }
    return !piece.cut;
}

/* False: there is no room for it beside others, or no time; it is for the next slice. */
static bool make_piece(ouro_object *root)
{
    if (!(root->ouro.gc & ROOT) || (root->ouro.gc & TRIED))
        return true;
    if (find_piece(root)) {
        for (size_t i = 0; i < piece.count; i++) {
            map_clear(page_guessed(page_of(piece.objects[i])), piece.objects[i]);
            trial_add(piece.trial, piece.objects[i]);
        }
    } else if (piece.count < PIECE_MOST && (piece.trial->members || piece.most < piece.most_ever)) {
        for (size_t i = 0; i < piece.count; i++)
            piece.objects[i]->ouro.gc &= ~(uint32_t)TRIED;
        piece.full = true;
        return false;
    }
    return true;
}

/* True: all roots have been looked at. */
static bool make_pieces(struct trial *trial, const struct sets_limit *limit)
{
    piece.trial = trial;
    trial->keep = KEEP_GUESSED;
    while (page_at) {
        if (!go_on_through_page(limit->objects, make_piece))
            return false;
    }
    return true;
}

void deep_keep(struct page *page, ouro_object *o)
{
    o->ouro.gc = SCRATCH_GUESSED | TRIED;
    map_set(page_guessed(page), o);
}

void deep_decided(const struct trial *trial)
{
    if (trial->keep == KEEP_GUESSED)
        members -= trial->garbage < members ? trial->garbage : members;
}

/* --- the end ------------------------------------------------------------------------------------------- */

static struct page *take_guess(void)
{
    struct page *page = guess_first;

    if (!page)
        return NULL;
    guess_first = page->guess_next;
    if (!guess_first)
        guess_last = NULL;
    page->in_guess = false;
    return page;
}

/* Empties the page's map, and calls `step` with its members. Returns the number of bits. */
static size_t each_member(struct trial *trial, struct page *page,
                          void (*step)(struct trial *trial, ouro_object *o))
{
    uint64_t *map = page_guessed(page);
    bool in_use = sets_page_in_use(page);
    size_t count = 0;

    for (size_t word = 0; word < MAP_WORDS; word++) {
        uint64_t bits = map[word];

        if (bits)
            map[word] = 0;
        for (; bits; bits &= bits - 1, count++) {
            ouro_object *o = object_at(page, word, bits);

            if (in_use && is_member(o))
                step(trial, o);
        }
    }
    return count;
}

static void is_over(void)
{
    ASSERT(!todo_first && !guess_first);
    members = 0;
    rounds = 0;
    go_on_with(NONE);
}

static void presume(struct trial *trial, ouro_object *o)
{
    trial_add(trial, o);
}

static void prove(struct trial *trial)
{
    struct page *page;

    trial->keep = KEEP_AS_IS;
    trial->shared = true;
    while ((page = take_guess()) != NULL)
        pass.slice->looked += each_member(trial, page, presume);
    trial_count(trial);
    is_over();
}

static void forget(struct trial *trial, ouro_object *o)
{
    (void)trial;
    if (o->ouro.gc & (ROOT | TRIED)) { /* it, or what leads there, was a candidate */
        o->ouro.flags |= OURO_FLAG_NOTED;
        sets_note(page_of(o), o);
    }
    o->ouro.gc = 0;
}

/* True: that was all. */
static bool forget_some(void)
{
    struct page *page;
    size_t looked = 0;

    while (looked < END_OBJECTS && (page = take_todo()) != NULL) {
        map_empty(page_cut(page));
        looked += 16;
    }
    while (looked < END_OBJECTS && (page = take_guess()) != NULL)
        looked += 16 + each_member(NULL, page, forget);
    if (todo_first || guess_first)
        return false;
    is_over();
    return true;
}

void deep_end(struct seat *self)
{
    while (deep_is_under_way()) {
        size_t put = sets_put();

        world_stop(self);
        forget_some();
        world_start(self);
        schedule_noted(self, sets_put() - put);
    }
}

/* --- a slice ------------------------------------------------------------------------------------------- */

/* Goes on in the phase that it is in; true if that is over. */
static bool go_on(struct trial *trial, const struct sets_limit *limit, bool first)
{
    switch (phase) {
    case ROOTS:
        return sets_roots(make_root, first, limit, &pass.slice->looked);
    case CLOSURE:
    case SUMS:
        return look_into_all(limit->objects);
    case AGAIN:
        return begin_all_again(limit->objects);
    case PIECES:
        return make_pieces(trial, limit);
    default:
        return hold_all(limit->objects);
    }
}

/* What comes after the phase that is over; NONE: the proof. */
static enum phase next_phase(size_t one_stop)
{
    static const enum phase next[] = {
        [ROOTS] = CLOSURE, [CLOSURE] = HELD, [AGAIN] = SUMS, [SUMS] = HELD};

    if (phase != HELD || members <= one_stop)
        return phase == HELD || phase == PIECES ? NONE : next[phase];
    if (rounds == ROUNDS)
        return PIECES;
    rounds++;
    return AGAIN;
}

/* Whether the proof is short enough for the rest of this slice, or for one of its own. */
static bool proof_fits(const struct sets_limit *limit, uint64_t left_ns)
{
    if (limit->ns)
        return members <= left_ns / PROOF_NS;
    return pass.slice->looked + members <= limit->objects;
}

/* Up to so many objects. True: the slice is over. */
static bool go_on_to(struct trial *trial, const struct sets_limit *limit, size_t objects,
                     bool first, uint64_t end)
{
    const struct sets_limit step = {.objects = objects};

    while (go_on(trial, &step, first)) {
        if (trial->members) /* pieces, the last ones */
            return true;
        enum phase next = next_phase(limit->ns ? limit->ns / PROOF_NS : limit->objects);
        if (next != NONE) {
            go_on_with(next);
            if (next == PIECES) /* they have a slice of their own */
                return true;
            continue;
        }
        uint64_t now = limit->ns ? os_now_ns() : 0;
        /* It is one stop, however many there are: not at the end of one that has done much. */
        if (pass.slice->looked == 0 || proof_fits(limit, now < end ? end - now : 0))
            prove(trial);
        return true;
    }
    return pass.slice->looked >= limit->objects || piece.full;
}

/* What is left of the slice's time when its trial has been made. */
static uint64_t time_left(const struct trial *trial, uint64_t end)
{
    uint64_t then = os_now_ns() + trial->members * PROOF_NS;

    return then < end ? end - then : 0;
}

void deep_slice(struct trial *trial, const struct sets_limit *limit, struct deep_slice *slice)
{
    uint64_t start = os_now_ns();
    uint64_t end = limit->ns && limit->ns < UINT64_MAX - start ? start + limit->ns : UINT64_MAX;
    bool first = phase == NONE, over;

    *slice = (struct deep_slice){0};
    pass.visitor.fields = look_at_fields;
    pass.slice = slice;
    piece.full = false;
    piece.most_ever = (limit->ns ? limit->ns / PIECE_NS : limit->objects / PIECE_LOOKS) + 1;
    piece.most = piece.most_ever;
    if (first)
        go_on_with(ROOTS);
    do {
        size_t left = limit->objects - slice->looked;
        size_t step = limit->ns && left > STEP_OBJECTS ? STEP_OBJECTS : left;

        over = go_on_to(trial, limit, slice->looked + step, first, end);
        first = false;
        if (limit->ns && !over) {
            uint64_t left_ns = time_left(trial, end);

            piece.most = trial->members + left_ns / PIECE_NS + 1;
            over = left_ns == 0;
        }
    } while (!over);
    if (phase == PIECES)
        trial_count(trial);
    slice->members = members;
}
