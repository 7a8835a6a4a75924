/*
 * gc/dissolve.c - garbage is taken apart in bulk.
 *
 * All references to garbage come from garbage.  So nothing is counted inside of the set:
 *
 *   fields   for each object, each field: a target that is GARBAGE is skipped, another is dropped; the field
 *            becomes NULL
 *   destroy  for each object whose type has a `destroy`
 *   free     each block
 *
 * Only this thread knows these objects, so the rest of the world runs meanwhile; between objects it parks when it
 * is asked to.  Owners' seats don't matter: the blocks go back like any block that another thread frees.
 */
#include "gc/dissolve.h"

#include "gc/schedule.h"
#include "heap/heap.h"
#include "object/count.h"
#include "object/death.h"
#include "object/lock.h"
#include "object/type.h"

enum { POLL_OBJECTS = 64 };

struct clear_visitor {
    ouro_visitor visitor;
    struct seat *self;
    uint32_t until_poll;
};

static void settle(struct seat *self)
{
    if (self->dying || self->half_dead)
        death_run(self);
    seat_poll(self);
}

static inline void clear_field(struct seat *self, ouro_ref *field)
{
    ouro_object *target = *field;

    if (!target)
        return;
    *field = NULL;
    /* Relaxed: set in a stopped world, and garbage is not freed before all fields are clear. */
    if (load_relaxed(&target->ouro.flags) & OURO_FLAG_GARBAGE)
        return;
    if (count_drop(self, target))
        death_queue(self, target);
}

static void clear_fields(ouro_visitor *visitor, ouro_ref *fields, size_t count)
{
    struct clear_visitor *clear = (struct clear_visitor *)visitor;

    for (size_t i = 0; i < count; i++) {
        clear_field(clear->self, &fields[i]);
        /* Nobody else knows the object, so the world may stop and go on while it is half clear. */
        if (--clear->until_poll == 0) {
            clear->until_poll = POLL_OBJECTS;
            settle(clear->self);
        }
    }
}

static void clear_object(struct seat *self, ouro_object *o)
{
    const struct ouro_type *type = type_of(o);

    for (size_t f = 0; f < type->field_count; f++)
        clear_field(self, type_field(o, type->fields[f]));
    if (type->visit) {
        struct clear_visitor clear = {{clear_fields}, self, POLL_OBJECTS};

        type->visit(o, &clear.visitor);
    }
}

static void destroy_object(struct seat *self, ouro_object *o)
{
    AUDIT(lock_check_dying(o));
    if (!type_of(o)->destroy)
        return;
    /* What it drops goes to the list, and is destroyed when it has returned. */
    self->running = true;
    death_call_destroy(self, o);
    self->running = false;
}

static void each_object(struct seat *self, struct page *page,
                        void (*step)(struct seat *, ouro_object *), uint32_t *until_poll)
{
    const uint64_t *condemned = page_condemned(page);

    for (size_t word = 0; word < MAP_WORDS; word++) {
        for (uint64_t bits = condemned[word]; bits; bits &= bits - 1) {
            step(self, object_at(page, word, bits));
            if (--*until_poll == 0) {
                *until_poll = POLL_OBJECTS;
                settle(self);
            }
        }
    }
}

/* Takes the bits out of a page's map and frees the objects; with the last one the page may change hands. True if it
 * was a large one. */
static bool free_page_objects(struct seat *self, struct page *page, uint32_t *until_poll)
{
    uint64_t *condemned = page_condemned(page);
    uint64_t map[MAP_WORDS];
    uint32_t count = 0;
    bool large = page_state(page) == PAGE_LARGE;
    char *start = page->start;

    for (size_t word = 0; word < MAP_WORDS; word++) {
        map[word] = condemned[word];
        if (map[word])
            condemned[word] = 0;
        count += (uint32_t)__builtin_popcountll(map[word]);
    }
    if (!large) {
        /* Whoever finds these blocks later does not report them. Large ones report themselves. */
        fetch_add_relaxed(&page->prepaid, count);
        schedule_freed(count, (size_t)count * page->block_size);
    }
    for (size_t word = 0; word < MAP_WORDS; word++) {
        for (uint64_t bits = map[word]; bits; bits &= bits - 1) {
            heap_free_object(
                self, (ouro_object *)(void *)(start + (word * 64 + (size_t)__builtin_ctzll(bits)) *
                                                          GRANULE));
            if (--*until_poll == 0) {
                *until_poll = POLL_OBJECTS;
                settle(self);
            }
        }
    }
    return large;
}

size_t dissolve(struct seat *self, struct trial *trial)
{
    uint32_t until_poll = POLL_OBJECTS;
    size_t large = 0;

    for (struct page *page = trial->pages; page; page = page->condemned_next)
        each_object(self, page, clear_object, &until_poll);
    for (struct page *page = trial->pages; page; page = page->condemned_next)
        each_object(self, page, destroy_object, &until_poll);
    for (struct page *page = trial->pages, *next; page; page = next) {
        next = page->condemned_next;
        large += free_page_objects(self, page, &until_poll);
    }
    heap_flush(self);
    settle(self);
    return large;
}
