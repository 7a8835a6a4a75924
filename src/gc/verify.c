/*
 * gc/verify.c - verify mode: each collection checks the heap, and what it has decided, in another way than it decides.
 *
 * What it is for: mistakes of programs that only a collection would meet, and mistakes of the collector.  It shares nothing
 * with the collector but the walk over pages: no scratch word, no map, no candidates.
 *
 *   before the set is made
 *     mark      each block that is an object gets LIVE, or DEAD, in a table with a word for each 16 bytes of each area
 *     count     each reference of each live object adds one to its target's word.  No LIVE there: it dangles.  More than the
 *               target's count: it was stored without being counted, or `visit` reports it twice.
 *   after the decision
 *     garbage   each GARBAGE object has no more references than those that were counted; and none of a live object that is
 *               not GARBAGE.  So nothing outside can reach any of it, and no marking is needed to know that.
 *     missed    deep and full collections: what is referred to from outside, and what that reaches, is marked by a work list.
 *               What is left is garbage that was missed: a mistake after a full collection; after a deep one, references that
 *               were moved without a count and without ouro_note().
 *
 * The first half comes before the collection looks at anything, since a reference that dangles would mislead it, or worse.
 * Counts and fields don't change in between, but for the references that the collector adds itself: to what waits for a
 * finalizer or a callback, and to what is saved.
 *
 * Objects that are DEAD are half taken apart: references from them count as from outside.  So do those that frozen and acyclic
 * objects have when it is asked what was missed, since the collector does not look into these.
 *
 * The tables are mapped for one collection, and memory comes with the first touch: an area costs what its pages
 * that hold objects need, a quarter of those.  docs/internals/collector.md
 */
#include "gc/verify.h"

#include "base/os.h"
#include "gc/debug.h"
#include "heap/page.h"
#include "object/type.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    SMALL_HEAP = 100000, /* blocks: more is verified only if it was asked for */
    AREA_GRANULES = AREA_BYTES / GRANULE,
    DUPLICATES = 32,
};

/* A word of a table: how many references were found, and */
#define WORD_LIVE    (1u << 31)
#define WORD_DEAD    (1u << 30)
#define WORD_REACHED (1u << 29)
#define WORD_COUNT   (WORD_REACHED - 1)

enum wish { WISH_UNKNOWN, WISH_NONE, WISH_OFF, WISH_ON, WISH_TELL };

struct table {
    const struct area *area; /* NULL: this place of the hash table is free */
    uint32_t *words;
};

/* [stopped] */
static enum wish wish; /* OURO_VERIFY; by who has the claim */
static bool has_told;  /* that there is no memory */
static struct table *tables;
static size_t table_mask;
static struct table table_last; /* what was looked for last */
static size_t mapped_bytes;
static size_t objects;
static ouro_object **work; /* objects that are reached and not looked into yet */
static size_t work_count;

/* --- whether ----------------------------------------------------------------------------------------- */

static enum wish read_wish(void)
{
    const char *text = getenv("OURO_VERIFY");

    if (!text || !*text)
        return WISH_NONE;
    return text[0] == '0' ? WISH_OFF : text[0] == '2' ? WISH_TELL : WISH_ON;
}

static bool is_asked_for(void)
{
    if (wish == WISH_UNKNOWN)
        wish = read_wish();
    return wish == WISH_ON || wish == WISH_TELL || (debug_flags() & OURO_GC_VERIFY);
}

bool verify_is_on(void)
{
    return is_asked_for() || (CHECKING && wish == WISH_NONE);
}

/* --- the tables -------------------------------------------------------------------------------------- */

static void no_memory(size_t bytes)
{
    if (!has_told)
        check_say(
            "ouro: there is no memory for %zu bytes of tables to verify a collection with, so "
            "it is not verified; this is said once\n",
            bytes);
    has_told = true;
}

static size_t hash_of(const struct area *area)
{
    return (size_t)(((uintptr_t)area / AREA_BYTES * UINT64_C(0x9E3779B97F4A7C15)) >> 32);
}

static struct table *place_of(const struct area *area)
{
    size_t i = hash_of(area) & table_mask;

    while (tables[i].area && tables[i].area != area)
        i = (i + 1) & table_mask;
    return &tables[i];
}

/* False: it is not to be verified, or can't be. */
static bool map_tables(void)
{
    size_t areas = 0, blocks = 0, places = 2;

    for (struct area *area = area_first(); area; area = area->next) {
        areas++;
        for (size_t i = AREA_META_PAGES; i < AREA_PAGES; i++)
            blocks += page_object_count(&area->pages[i]);
    }
    if (blocks > SMALL_HEAP && !is_asked_for())
        return false;
    while (places < 2 * areas)
        places *= 2;
    mapped_bytes = areas * AREA_GRANULES * sizeof(uint32_t) + places * sizeof *tables;
    char *start = os_map(mapped_bytes, 1);
    if (!start) {
        no_memory(mapped_bytes);
        return false;
    }
    tables = (struct table *)(void *)start;
    table_mask = places - 1;
    table_last = (struct table){NULL, NULL};
    uint32_t *words = (uint32_t *)(void *)(start + places * sizeof *tables);
    for (struct area *area = area_first(); area; area = area->next) {
        *place_of(area) = (struct table){area, words};
        words += AREA_GRANULES;
    }
    return true;
}

static void unmap_tables(void)
{
    os_unmap(tables, mapped_bytes);
    tables = NULL;
}

/* NULL: there is no object at such an address. */
static uint32_t *word_of(const ouro_object *o)
{
    const struct area *area = area_of(o);

    if ((uintptr_t)o % GRANULE || !area)
        return NULL;
    if (table_last.area != area) {
        const struct table *table = place_of(area);

        if (!table->area)
            return NULL;
        table_last = *table;
    }
    return &table_last.words[((uintptr_t)o & (AREA_BYTES - 1)) / GRANULE];
}

/* --- walking ----------------------------------------------------------------------------------------- */

/* Calls `step` with each object that is in use, and its word. */
static void each_object(void (*step)(ouro_object *o, uint32_t *word))
{
    for (struct area *area = area_first(); area; area = area->next) {
        uint32_t *words = place_of(area)->words;

        for (size_t p = AREA_META_PAGES; p < AREA_PAGES; p++) {
            const struct page *page = &area->pages[p];
            uint32_t count = page_object_count(page), size = page_step(page);
            char *at = page->start;

            for (uint32_t i = 0; i < count; i++, at += size) {
                if (!block_is_free(at))
                    step((ouro_object *)(void *)at, &words[p * PAGE_GRANULES + granule_of(at)]);
            }
        }
    }
}

struct look {
    ouro_visitor visitor;
    void (*step)(ouro_object *holder, ouro_ref *field);
    ouro_object *holder;
};

static void look_fields(ouro_visitor *visitor, ouro_ref *fields, size_t count)
{
    const struct look *look = (const struct look *)visitor;

    for (size_t i = 0; i < count; i++) {
        if (fields[i])
            look->step(look->holder, &fields[i]);
    }
}

/* Calls `step` with each reference of an object that is not NULL. */
static void each_reference(ouro_object *o, void (*step)(ouro_object *holder, ouro_ref *field))
{
    const struct ouro_type *type = type_of(o);
    struct look look = {{look_fields}, step, o};

    for (size_t f = 0; f < type->field_count; f++)
        look_fields(&look.visitor, type_field(o, type->fields[f]), 1);
    if (type->visit)
        type->visit(o, &look.visitor);
}

static bool has_flags(const ouro_object *o, unsigned flags)
{
    return (load_relaxed(&o->ouro.flags) & flags) != 0;
}

static bool is_immortal(const ouro_object *o)
{
    return (load_relaxed(&o->ouro.shared) & OURO_IMMORTAL) ||
           OURO_OWNED_ID(load_relaxed(&o->ouro.owned)) == OURO_ID_IMMORTAL;
}

/* Of an object that is not immortal. Exact: nobody is in the middle of counting. */
static int64_t count_of(const ouro_object *o)
{
    uint32_t w = load_relaxed(&o->ouro.owned);
    int64_t count = OURO_SHARED_COUNT(load_relaxed(&o->ouro.shared));

    return OURO_OWNED_ID(w) == OURO_ID_MERGED ? count : count + OURO_OWNED_COUNT(w);
}

static const char *name_of(const ouro_object *o)
{
    return type_of(o)->name;
}

/* --- sentences --------------------------------------------------------------------------------------- */

enum { WHERE_BYTES = 96 };

/* "the field at offset 16", if it is inside of the object. */
static const char *where(const ouro_object *holder, const ouro_ref *field, char *text)
{
    const struct page *page = page_of(holder);
    size_t size = page_state(page) == PAGE_LARGE ? page->large_bytes : page->block_size;
    uintptr_t offset = (uintptr_t)field - (uintptr_t)holder;

    if (offset < size)
        snprintf(text, WHERE_BYTES, "the field at offset %zu", (size_t)offset);
    else
        snprintf(text, WHERE_BYTES, "the field at %p", (const void *)field);
    return text;
}

/* Whether an object could be at that address, had it not been freed. */
static bool was_object(const ouro_object *o)
{
    const struct page *page = page_of(o);
    uint8_t state = page_state(page);
    size_t offset = (size_t)((const char *)o - page->start);

    if (page_index(o) < AREA_META_PAGES || page->kind == KIND_RAW)
        return false;
    if (page->block_size == 0)
        return (state == PAGE_LARGE || state == PAGE_RETIRED) && offset == 0;
    return (state == PAGE_ACTIVE || state == PAGE_RETIRED) && offset % page->block_size == 0;
}

_Noreturn static void dangles(const ouro_object *holder, const ouro_ref *field,
                              const uint32_t *word)
{
    char text[WHERE_BYTES];
    const char *what =
        "is no object: the field was overwritten, or what it referred to has long been freed";

    if (word && (*word & WORD_DEAD))
        what = "is an object that is being destroyed: its last reference was given up while this "
               "one was left, so a reference was stored without being counted: ouro_incref() it";
    else if (word && was_object(*field))
        what = "is the address of an object that has been freed: its last reference was given up "
               "while this one was left, so a reference was stored without being counted: "
               "ouro_incref() it";
    check_failed("%s of an object of type \"%s\" at %p holds %p, which %s",
                 where(holder, field, text), name_of(holder), (const void *)holder,
                 (const void *)*field, what);
}

/* All references to the object that has too many: how many there are, and whether one is reported twice. */
static struct {
    const ouro_object *target, *holder;
    const ouro_ref *seen[DUPLICATES]; /* of this holder */
    size_t seen_count;
    const ouro_ref *twice;
    const ouro_object *twice_holder;
    size_t found;
} suspect; /* [stopped] */

static void suspect_reference(ouro_object *holder, ouro_ref *field)
{
    if (*field != suspect.target)
        return;
    suspect.found++;
    if (suspect.holder != holder) {
        suspect.holder = holder;
        suspect.seen_count = 0;
    }
    for (size_t i = 0; i < suspect.seen_count; i++) {
        if (suspect.seen[i] == field) {
            suspect.twice = field;
            suspect.twice_holder = holder;
        }
    }
    if (suspect.seen_count < DUPLICATES)
        suspect.seen[suspect.seen_count++] = field;
}

static void suspect_object(ouro_object *o, uint32_t *word)
{
    if (*word & WORD_LIVE)
        each_reference(o, suspect_reference);
}

_Noreturn static void too_many(const ouro_object *holder, const ouro_ref *field)
{
    const ouro_object *target = *field;
    char text[WHERE_BYTES];

    suspect.target = target;
    each_object(suspect_object);
    if (suspect.twice)
        check_failed("the `visit` function of type \"%s\" reports %s of the object at %p twice: it "
                     "has to report each reference once",
                     name_of(suspect.twice_holder),
                     where(suspect.twice_holder, suspect.twice, text),
                     (const void *)suspect.twice_holder);
    check_failed("an object of type \"%s\" at %p has a count of %" PRId64
                 ", but %zu fields refer to it; one is %s of an object of type \"%s\" at %p. A "
                 "reference was stored without being counted: ouro_incref() it; or it was given up "
                 "while a field still held it",
                 name_of(target), (const void *)target, count_of(target), suspect.found,
                 where(holder, field, text), name_of(holder), (const void *)holder);
}

/* --- before ------------------------------------------------------------------------------------------ */

static void mark_object(ouro_object *o, uint32_t *word)
{
    REQUIRE(o->ouro.type <= type_count() && (uintptr_t)o % GRANULE == 0,
            "the header of an object at %p says that its type is %u, and there is no such type: it "
            "was overwritten, perhaps over the end of the object before it",
            (void *)o, o->ouro.type);
    *word = has_flags(o, OURO_FLAG_DEAD) ? WORD_DEAD : WORD_LIVE;
    objects++;
}

static void count_reference(ouro_object *holder, ouro_ref *field)
{
    uint32_t *word = word_of(*field);

    if (!word || !(*word & WORD_LIVE))
        dangles(holder, field, word);
    if ((*word & WORD_COUNT) == WORD_COUNT || is_immortal(*field))
        return;
    ++*word;
    if (OURO_UNLIKELY((*word & WORD_COUNT) > count_of(*field)))
        too_many(holder, field);
}

static void count_object(ouro_object *o, uint32_t *word)
{
    if (*word & WORD_LIVE)
        each_reference(o, count_reference);
}

void verify_heap_stopped(void)
{
    ASSERT(!tables);
    objects = 0;
    if (!verify_is_on() || !map_tables())
        return;
    each_object(mark_object);
    each_object(count_object);
}

/* --- after: is all of the garbage garbage? ----------------------------------------------------------- */

static size_t garbage;

static void check_garbage(ouro_object *o, uint32_t *word)
{
    if (!has_flags(o, OURO_FLAG_GARBAGE))
        return;
    garbage++;
    REQUIRE((*word & WORD_LIVE) && !has_flags(o, OURO_FLAG_DEAD | OURO_FLAG_FROZEN) &&
                !is_immortal(o),
            "internal error of the collector: an object of type \"%s\" at %p was taken for "
            "garbage, though it is dead, frozen or immortal",
            name_of(o), (void *)o);
    REQUIRE(count_of(o) == (*word & WORD_COUNT),
            "internal error of the collector: an object of type \"%s\" at %p was taken for "
            "garbage, though it has a count of %" PRId64 ", and only %u fields refer to it",
            name_of(o), (void *)o, count_of(o), *word & WORD_COUNT);
}

static void check_reference(ouro_object *holder, ouro_ref *field)
{
    char text[WHERE_BYTES];

    REQUIRE(!has_flags(*field, OURO_FLAG_GARBAGE),
            "internal error of the collector: an object of type \"%s\" at %p was taken for "
            "garbage, though %s of an object of type \"%s\" at %p, which was not, refers to it",
            name_of(*field), (void *)*field, where(holder, field, text), name_of(holder),
            (void *)holder);
}

static void check_holder(ouro_object *o, uint32_t *word)
{
    if ((*word & WORD_LIVE) && !has_flags(o, OURO_FLAG_GARBAGE))
        each_reference(o, check_reference);
}

/* --- after: is all garbage found? -------------------------------------------------------------------- */

static struct {
    const ouro_object *first;
    size_t count;
} missed; /* [stopped] */

static void reach(ouro_object *o, uint32_t *word)
{
    const struct ouro_type *type = type_of(o);

    if (*word & WORD_REACHED)
        return;
    *word |= WORD_REACHED;
    if (type->field_count || type->visit)
        work[work_count++] = o;
}

static void reach_reference(ouro_object *holder, ouro_ref *field)
{
    (void)holder;
    reach(*field, word_of(*field));
}

/* What has a reference from outside, and what the collector does not look into; with all that these reach. An object whose count is 0 or
 * less waits for the drain of a hint. */
static void reach_root(ouro_object *o, uint32_t *word)
{
    if (!(*word & WORD_LIVE) || has_flags(o, OURO_FLAG_GARBAGE))
        return;
    if (!has_flags(o, OURO_FLAG_FROZEN | OURO_FLAG_UNTRACKED) && !is_immortal(o) &&
        count_of(o) > 0 && count_of(o) <= (*word & WORD_COUNT))
        return;
    reach(o, word);
    while (work_count > 0)
        each_reference(work[--work_count], reach_reference);
}

static void find_missed(ouro_object *o, uint32_t *word)
{
    if ((*word & (WORD_LIVE | WORD_REACHED)) != WORD_LIVE || has_flags(o, OURO_FLAG_GARBAGE))
        return;
    if (missed.count++ == 0)
        missed.first = o;
}

static void look_for_missed(ouro_gc_kind kind)
{
    size_t bytes = objects * sizeof(void *);

    if (objects == 0)
        return;
    work = os_map(bytes, 1);
    if (!work) {
        no_memory(bytes);
        return;
    }
    work_count = 0;
    missed.count = 0;
    each_object(reach_root);
    each_object(find_missed);
    os_unmap(work, bytes);
    if (missed.count == 0)
        return;
    REQUIRE(kind != OURO_GC_FULL,
            "internal error of the collector: a full collection has missed %zu objects that "
            "nothing outside refers to; one is of type \"%s\", at %p",
            missed.count, name_of(missed.first), (const void *)missed.first);
    if (wish == WISH_TELL)
        check_say("ouro: a deep collection has missed %zu objects that nothing outside refers to; "
                  "one is of type \"%s\", at %p. A reference was moved without being counted: "
                  "ouro_move() or ouro_note()\n",
                  missed.count, name_of(missed.first), (const void *)missed.first);
}

void verify_decision_stopped(struct seat *self, ouro_gc_kind kind)
{
    if (!tables)
        return;
    garbage = 0;
    each_object(check_garbage);
    if (garbage)
        each_object(check_holder);
    if (kind == OURO_GC_DEEP || kind == OURO_GC_FULL)
        look_for_missed(kind);
    unmap_tables();
    seat_event(self, EVENT_VERIFIED);
}
