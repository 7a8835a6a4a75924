/*
 * object/count.c - the slow paths of counting, and what can be asked of a count. See object/count.h.
 */
#include "object/count.h"

#include "object/death.h"
#include "object/merge.h"
#include "object/note.h"
#include "object/type.h"
#include "object/weak.h"

enum {
    OVERFLOW_HALF = OURO_LOCAL_FULL / 2,
};

/* --- incref ------------------------------------------------------------------------------------------ */

void count_saturate(struct seat *self, ouro_object *o)
{
    (ouro_immortalize)(o);
    seat_event(self, EVENT_SATURATED);
}

static void shared_incref(struct seat *self, ouro_object *o, uint32_t references)
{
    /* Relaxed: the reference that it is made from is destroyed after it, so whoever sees all
     * destructions sees this; the proof is in docs/internals/count.md. */
    uint32_t old = fetch_add_relaxed(&o->ouro.shared, references * OURO_SHARED_ONE);

    if (old & OURO_IMMORTAL)
        fetch_sub_relaxed(&o->ouro.shared,
                          references * OURO_SHARED_ONE); /* the count may not run away */
    else if (OURO_SHARED_COUNT(old) + (int32_t)references >= SHARED_LIMIT)
        count_saturate(self, o);
}

void ouro_incref_slow(ouro_object *o, uint32_t w)
{
    struct seat *self = seat_required("ouro_incref()");

    if (OURO_OWNED_ID(w) != self->id) {
        shared_incref(self, o, 1);
        return;
    }
    /* The local count is full: half of it moves, into `shared` first, so that the sum is never too small. */
    shared_incref(self, o, OVERFLOW_HALF);
    seat_event(self, EVENT_OVERFLOW);
    w = load_relaxed(&o->ouro.owned);
    if (OURO_OWNED_ID(w) == self->id)
        store_relaxed(&o->ouro.owned, w - (OVERFLOW_HALF - 1));
}

/* --- decref ------------------------------------------------------------------------------------------ */

static void dropped_too_often(const ouro_object *o)
{
    check_failed("an ouro_decref() too many on an object of type \"%s\" at %p: each reference may "
                 "be given up once",
                 type_of(o)->name ? type_of(o)->name : "?", (const void *)o);
}

/* The owner's local count goes to 0 while others hold references, or held some. */
static bool owner_merges(struct seat *self, ouro_object *o)
{
    note_merged(self, o);
    /* In this order: after MERGED is set the last of the others frees it. */
    store_relaxed(&o->ouro.owned, 0u);
    /* [C2] acq_rel: this thread's uses, to who frees; their uses, if it is we who free */
    uint32_t s = fetch_or_acq_rel(&o->ouro.shared, OURO_MERGED) | OURO_MERGED;

    seat_event(self, EVENT_MERGE_OWNER);
    if (count_is_zero(s))
        return true;
    if (s & OURO_IMMORTAL) {
        store_relaxed(&o->ouro.owned, OURO_ID_IMMORTAL << 16);
        return false;
    }
    if (OURO_UNLIKELY(OURO_SHARED_COUNT(s) < 0))
        dropped_too_often(o);
    return false;
}

bool count_drop_slow(struct seat *self, ouro_object *o, uint32_t w)
{
    if (OURO_OWNED_ID(w) == OURO_ID_IMMORTAL)
        return false;
    if (OURO_OWNED_ID(w) == self->id) {
        uint32_t local = OURO_OWNED_COUNT(w);

        if (local >= 2) {
            if (w & OURO_FRESH)
                note_owned(self, o);
            store_relaxed(&o->ouro.owned, (w - 1u) & ~OURO_FRESH);
            return false;
        }
        if (local == 0)
            dropped_too_often(o);
        return owner_merges(self, o);
    }

    note_shared(self, o, w);
    /* [C2] acq_rel: this thread's uses, to who frees; all others' uses, if it is we who free. [C1] release */
    uint32_t s = fetch_sub_acq_rel(&o->ouro.shared, OURO_SHARED_ONE) - OURO_SHARED_ONE;

    if (count_is_zero(s))
        return true;
    /* From here on the object may be gone, unless it is immortal: only its address is used. */
    if (s & OURO_IMMORTAL)
        fetch_add_relaxed(&o->ouro.shared, OURO_SHARED_ONE);
    else if (OURO_SHARED_COUNT(s) < 0) {
        if (s & OURO_MERGED)
            check_failed("an ouro_decref() too many on an object at %p, which has no references "
                         "left: each reference "
                         "may be given up once",
                         (void *)o);
        merge_hint(self, o);
    }
    return false;
}

void ouro_decref_slow(ouro_object *o, uint32_t w)
{
    struct seat *self = seat_required("ouro_decref()");

    if (count_drop_last(self, o, w) || count_drop_slow(self, o, w))
        death_of(self, o);
    else if (OURO_UNLIKELY(self->dying != NULL))
        death_run(self);
}

/* --- questions and changes of state --------------------------------------------------------------------- */

uint32_t(ouro_refcount)(const ouro_object *o)
{
    seat_required("ouro_refcount()");
    uint32_t w = load_relaxed(&o->ouro.owned);
    uint32_t s = load_relaxed(&o->ouro.shared);
    int32_t count = count_sum(w, s);

    if (OURO_OWNED_ID(w) == OURO_ID_IMMORTAL || (s & OURO_IMMORTAL))
        return OURO_COUNT_IMMORTAL;
    return count > 0 ? (uint32_t)count : 0;
}

bool(ouro_is_unique)(const ouro_object *o)
{
    struct seat *self = seat_required("ouro_is_unique()");
    uint32_t w = load_relaxed(&o->ouro.owned);

    /* [C1] acquire: all that others did before they dropped theirs; count_drop_slow() */
    uint32_t s = load_acquire(&o->ouro.shared);
    if (OURO_OWNED_ID(w) == self->id)
        return OURO_OWNED_COUNT(w) == 1 && s == 0;
    return OURO_OWNED_ID(w) == OURO_ID_MERGED && s == (OURO_SHARED_ONE | OURO_MERGED) &&
           !weak_is_reference(o);
}

void(ouro_immortalize)(ouro_object *o)
{
    struct seat *self = seat_required("ouro_immortalize()");

    /* The flag guarantees it: every test for zero compares the whole word. [C3] acq_rel: sees the `owned` that an
     * earlier merge wrote; later merges see the flag and write the id. */
    fetch_or_acq_rel(&o->ouro.shared, OURO_IMMORTAL);

    /* The id is the copy that the fast paths compare with. It is written by who may write `owned`. */
    uint32_t id = OURO_OWNED_ID(load_relaxed(&o->ouro.owned));
    if (id == OURO_ID_MERGED || id == self->id)
        store_relaxed(&o->ouro.owned, OURO_ID_IMMORTAL << 16);
    else if (id != OURO_ID_IMMORTAL)
        merge_hint(self, o);
    if (OURO_UNLIKELY(self->dying != NULL))
        death_run(self);
}

bool(ouro_disown)(ouro_object *o)
{
    struct seat *self = seat_required("ouro_disown()");
    uint32_t w = load_relaxed(&o->ouro.owned);

    if (OURO_OWNED_ID(w) == OURO_ID_MERGED)
        return (ouro_is_unique)(o);
    if (OURO_OWNED_ID(w) != self->id || OURO_OWNED_COUNT(w) != 1)
        return false;
    /* [C1] acquire: as in ouro_is_unique(); then nobody else can reach it, and plain order is enough */
    if (load_acquire(&o->ouro.shared) != 0)
        return false;
    if (!(w & OURO_FRESH))
        note_merged(self, o);
    store_relaxed(&o->ouro.owned, 0u);
    store_relaxed(&o->ouro.shared, OURO_SHARED_ONE | OURO_MERGED);
    return true;
}

/* --- with checks ------------------------------------------------------------------------------------- */

static void check_object(const ouro_object *o, const char *what)
{
    REQUIRE(o, "%s of NULL: test the pointer first", what);
    REQUIRE((uintptr_t)o % 16 == 0,
            "%s of %p, which is no object: the address is not a multiple of 16", what,
            (const void *)o);
    seat_required(what);
    REQUIRE(o->ouro.type != 0,
            "%s of %p, an object that has been freed: somebody kept a pointer without a reference",
            what, (const void *)o);
    REQUIRE(o->ouro.type <= type_count(), "%s of %p, which is no object: there is no type %u", what,
            (const void *)o, o->ouro.type);
}

ouro_object *ouro_incref_checked(ouro_object *o)
{
    check_object(o, "ouro_incref()");
    uint8_t flags = load_relaxed(&o->ouro.flags);
    REQUIRE(!(flags & (OURO_FLAG_DEAD | OURO_FLAG_GARBAGE)),
            "ouro_incref() of an object of type \"%s\" that is being destroyed", type_of(o)->name);

    uint32_t w = load_relaxed(&o->ouro.owned);
    if (((w ^ ouro_self.tag) & (0xFFFF0000u | OURO_LOCAL_FULL)) == 0)
        store_relaxed(&o->ouro.owned, w + 1u);
    else if (OURO_OWNED_ID(w) != OURO_ID_IMMORTAL)
        ouro_incref_slow(o, w);
    return o;
}

void ouro_decref_checked(ouro_object *o)
{
    check_object(o, "ouro_decref()");
    uint8_t flags = load_relaxed(&o->ouro.flags);
    REQUIRE(!(flags & (OURO_FLAG_DEAD | OURO_FLAG_GARBAGE)),
            "ouro_decref() of an object of type \"%s\" that is being destroyed already",
            type_of(o)->name);
    uint32_t w = load_relaxed(&o->ouro.owned);
    if (OURO_OWNED_ID(w) != OURO_ID_IMMORTAL)
        ouro_decref_slow(o, w);
}
