/*
 * gc/trial.h - trial deletion: which objects of a set are held by each other only.
 *
 * A collection makes a set (gc/sets.h) and has it tried here.  In a stopped world, all of it.
 */
#ifndef OURO_GC_TRIAL_H
#define OURO_GC_TRIAL_H

#include "heap/page.h"
#include "object/count.h"
#include "object/type.h"
#include "thread/seat.h"

enum {
    TRIAL_RING = 32,    /* how many steps ahead the passes ask for a line */
    TRIAL_STACK = 8192, /* objects on the stack: 64 KiB */

    /* The scratch word of a member: a count in the upper 28 bits, and */
    SCRATCH_MEMBER = 1,
    SCRATCH_OWN = 2,      /* of the exploration that is under way; gc/sets.c */
    SCRATCH_LATER = 2,    /* to be looked into; gc/mark.c, where nothing is OWN */
    SCRATCH_COMPLETE = 4, /* all that it reaches is in the set */
    SCRATCH_GUESSED = 8,  /* not a member: gc/deep.c */
    SCRATCH_ONE = 16,

    /* Objects in no set. */
    EXCLUDED = OURO_FLAG_DEAD | OURO_FLAG_GARBAGE | OURO_FLAG_FROZEN | OURO_FLAG_UNTRACKED,
};
#define SCRATCH_HELD (1u << 31)

/* What becomes of members that are kept. */
enum trial_keep {
    KEEP_AS_IS,
    KEEP_YOUNG,    /* no longer NEW; in the map if a candidate */
    KEEP_EXAMINED, /* the same, and no candidate: all that it reaches was in the set */
    KEEP_GUESSED,  /* they are part of a deep collection in slices again: gc/deep.h */
};

struct trial {
    struct seat *self;
    enum trial_keep keep;
    unsigned debugging; /* OURO_GC_... */
    bool special;       /* some member has weak references, or a type with a finalizer */
    bool shared;        /* stopped threads may help, if the set is large: gc/pass.h */
    bool everything;    /* all objects are in the set */
    unsigned helpers;   /* how many have, at most, in one pass */

    size_t members; /* objects that were examined */
    size_t garbage; /* those of them that nothing outside holds */
    size_t
        queued; /* objects whose finalizer has been queued; they and what they reach have survived */
    size_t saved; /* objects that would be garbage, and got a reference instead */
    struct page
        *pages; /* linked by condemned_next; at first those with members, then those with garbage */
};

void trial_begin(struct trial *trial, struct seat *self);

/* Counts the members of a set that was made by trial_add() or reach_root(), and the references between them. */
void trial_count(struct trial *trial);

/* The same for a set of everything but EXCLUDED, which it makes. */
void trial_everything(struct trial *trial);

/* Finds the garbage: clears weak references to it, queues finalizers, marks the rest of it with OURO_FLAG_GARBAGE, or
 * with OURO_FLAG_SAVED if all is to be saved. Afterwards all scratch words are 0. Allocates nothing, can't fail, runs
 * no user code but `visit`. */
void trial_decide(struct trial *trial);

static inline bool trial_is_immortal(const ouro_object *o)
{
    return (load_relaxed(&o->ouro.shared) & OURO_IMMORTAL) ||
           OURO_OWNED_ID(load_relaxed(&o->ouro.owned)) == OURO_ID_IMMORTAL;
}

static inline uint32_t scratch_of(const ouro_object *o)
{
    uint32_t w = load_relaxed(&o->ouro.owned);
    uint32_t s = load_relaxed(&o->ouro.shared);
    int32_t count = count_sum(w, s);

    if (OURO_UNLIKELY(count <= 0 || (s & OURO_IMMORTAL) || OURO_OWNED_ID(w) == OURO_ID_IMMORTAL))
        return SCRATCH_HELD | SCRATCH_MEMBER;
    return (uint32_t)count * SCRATCH_ONE | SCRATCH_MEMBER;
}

/* The object at a bit of a page's map. */
static inline ouro_object *object_at(const struct page *page, size_t word, uint64_t bits)
{
    return (ouro_object *)(void *)(page->start +
                                   (word * 64 + (size_t)__builtin_ctzll(bits)) * GRANULE);
}

static inline void map_set(uint64_t *map, const ouro_object *o)
{
    map[granule_of(o) / 64] |= (uint64_t)1 << granule_of(o) % 64;
}

static inline void map_clear(uint64_t *map, const ouro_object *o)
{
    map[granule_of(o) / 64] &= ~((uint64_t)1 << granule_of(o) % 64);
}

/* Writes only to words that have bits. */
static inline void map_empty(uint64_t *map)
{
    for (size_t word = 0; word < MAP_WORDS; word++) {
        if (map[word])
            map[word] = 0;
    }
}

/* Makes a member of an object that is none. */
static inline void trial_add(struct trial *trial, ouro_object *o)
{
    struct page *page = page_of(o);

    o->ouro.gc = scratch_of(o);
    trial->members++;
    map_set(page_condemned(page), o);
    if (!page->in_set) {
        page->in_set = true;
        page->condemned_next = trial->pages;
        trial->pages = page;
    }
}

#endif
