/*
 * object/death.c - destruction by a list, so that a chain of any length needs constant stack.
 *
 * An object without references goes onto its thread's list (or is taken apart at once, if that is empty): its
 * fields are set to NULL and what they referred to is dropped, which may put more onto the list; then
 * `destroy` runs; then the block is free.  What `destroy` itself drops goes onto the list, too.
 *
 * The link is in the dead header: the address has 48 bits that count, 32 of them go into `gc`, 16 into the
 * count of `owned`, under an id of 0 (the same link as in retire_block()).  Nobody else writes there: the collector leaves DEAD objects alone, a
 * stale hint looks at the id only.  `shared` stays what it was, since weak references may read it.
 *
 * Every 64 objects it looks whether the world is to be stopped, and then leaves the rest to the thread's next
 * safepoint; an object with very many fields may be left half done, its remaining fields are found again.
 */
#include "object/death.h"

#include "heap/heap.h"
#include "object/count.h"
#include "object/finalize.h"
#include "object/retire.h"
#include "object/lock.h"
#include "object/type.h"
#include "object/weak.h"

enum { POLL_OBJECTS = 64 };

/* --- the list ---------------------------------------------------------------------------------------- */

static void mark_dead(ouro_object *o)
{
    /* No read-modify-write: nobody else has a reference. */
    store_relaxed(&o->ouro.flags, (uint8_t)(load_relaxed(&o->ouro.flags) | OURO_FLAG_DEAD));
}

void death_push(ouro_object **list, ouro_object *o)
{
    uint64_t link = (uint64_t)(uintptr_t)*list >> 4;

    store_relaxed(&o->ouro.owned, (uint32_t)link & 0xFFFFu);
    o->ouro.gc = (uint32_t)(link >> 16);
    *list = o;
}

void death_join(ouro_object *last, ouro_object *list)
{
    death_push(&list, last);
}

ouro_object *death_pop(ouro_object **list)
{
    ouro_object *o = *list;
    uint64_t link = (uint64_t)o->ouro.gc << 16 | load_relaxed(&o->ouro.owned);

    *list = (ouro_object *)(uintptr_t)(link << 4);
    o->ouro.gc = 0;
    store_relaxed(&o->ouro.owned, 0u);
    return o;
}

void death_queue(struct seat *self, ouro_object *o)
{
    mark_dead(o);
    death_push(&self->dying, o);
}

/* --- taking apart ------------------------------------------------------------------------------------ */

static inline void drop_field(struct seat *self, ouro_ref *field)
{
    ouro_object *target = *field;

    if (!target)
        return;
    *field = NULL;
    if (count_drop(self, target))
        death_queue(self, target);
}

/* Backwards, so that what the first field refers to is taken apart first: mostly it was made first, too, and lies next
 * to it. */
static inline void drop_table(struct seat *self, ouro_object *o, const struct ouro_type *type)
{
    const uint16_t *fields = type->fields;

    for (size_t i = type->field_count; i > 0; i--)
        drop_field(self, type_field(o, fields[i - 1]));
}

struct drop_visitor {
    ouro_visitor visitor;
    struct seat *self;
    uint32_t until_poll;
    bool interrupted;
};

static void drop_fields(ouro_visitor *visitor, ouro_ref *fields, size_t count)
{
    struct drop_visitor *drop = (struct drop_visitor *)visitor;

    for (size_t i = 0; i < count && !drop->interrupted; i++) {
        if (!fields[i])
            continue;
        drop_field(drop->self, &fields[i]);
        /* Fields that are NULL don't count, so that each run after an interruption gets further. */
        if (--drop->until_poll == 0) {
            drop->until_poll = POLL_OBJECTS;
            drop->interrupted = seat_stop_wanted(drop->self);
        }
    }
}

/* False if it was interrupted: the fields that are left are not NULL. */
static bool drop_all(struct seat *self, ouro_object *o, const struct ouro_type *type)
{
    if (OURO_UNLIKELY(type->visit != NULL)) {
        struct drop_visitor drop = {{drop_fields}, self, POLL_OBJECTS, false};

        type->visit(o, &drop.visitor);
        return !drop.interrupted;
    }
    drop_table(self, o, type);
    return true;
}

void death_call_destroy(struct seat *self, ouro_object *o)
{
    bool before = self->in_destroy;

    /* It may count itself, which is not to be the end of it a second time: counting an immortal object writes nothing. */
    store_relaxed(&o->ouro.owned, OURO_ID_IMMORTAL << 16);
    self->in_destroy = true;
    type_of(o)->destroy(o);
    self->in_destroy = before;
}

/* Before anything of it is taken apart: its weak references are cleared, its finalizer is queued. True if it lives on for that. */
static OURO_COLD bool last_rites(struct seat *self, ouro_object *o)
{
    if (load_relaxed(&o->ouro.shared) & OURO_WEAK)
        weak_clear(self, o);
    if (!finalize_is_due(o))
        return false;
    finalize_queue_dead(self, o);
    return true;
}

/* True if this is done with: the object is gone, or lives on. */
static __attribute__((noinline)) bool take_apart_slow(struct seat *self, ouro_object *o,
                                                      const struct ouro_type *type)
{
    if (((load_relaxed(&o->ouro.shared) & OURO_WEAK) || type->finalize) && last_rites(self, o))
        return true;
    AUDIT(lock_check_dying(o));
    if (!drop_all(self, o, type)) {
        self->half_dead = o;
        seat_event(self, EVENT_DEATH_POLL);
        return false;
    }
    if (type->destroy)
        death_call_destroy(self, o);
    /* A weak get may still be looking at it. */
    if (load_relaxed(&o->ouro.shared) & OURO_WEAK)
        retire_block(self, o);
    else
        heap_free_object(self, o);
    return true;
}

/* Nothing is called, and nothing looks at the object meanwhile. */
static inline bool is_plain(const ouro_object *o, const struct ouro_type *type)
{
    return type->plain && !(load_relaxed(&o->ouro.shared) & OURO_WEAK);
}

/* Few instructions: a processor that waits for the cache line of this object gets to the next one meanwhile. */
static inline void take_plain_apart(struct seat *self, ouro_object *o, const struct ouro_type *type)
{
    AUDIT(lock_check_dying(o));
    drop_table(self, o, type);
    heap_free_object(self, o);
}

static bool take_apart(struct seat *self, ouro_object *o)
{
    const struct ouro_type *type = type_of(o);

    if (OURO_UNLIKELY(!is_plain(o, type)))
        return take_apart_slow(self, o, type);
    take_plain_apart(self, o, type);
    return true;
}

static void run(struct seat *self)
{
    uint32_t until_poll = POLL_OBJECTS;

    for (;;) {
        ouro_object *o = self->half_dead;

        if (o)
            self->half_dead = NULL;
        else if (self->dying)
            o = death_pop(&self->dying);
        else
            return;
        if (!take_apart(self, o))
            return;
        if (--until_poll == 0) {
            if (seat_stop_wanted(self)) {
                seat_event(self, EVENT_DEATH_POLL);
                return;
            }
            until_poll = POLL_OBJECTS;
        }
    }
}

void death_run(struct seat *self)
{
    if (self->running)
        return;
    self->running = true;
    run(self);
    self->running = false;
}

void death_of(struct seat *self, ouro_object *o)
{
    const struct ouro_type *type = type_of(o);

    if (self->running) {
        death_queue(self, o);
        return;
    }
    if (OURO_LIKELY(is_plain(o, type))) {
        /* It is not marked as dead: it is gone before the world can stop. */
        take_plain_apart(self, o, type);
        if (OURO_UNLIKELY(self->dying != NULL))
            death_run(self);
        return;
    }
    self->running = true;
    mark_dead(o);
    if (self->half_dead) /* one that was interrupted: there is one place for that */
        death_queue(self, o);
    else if (take_apart(self, o) && OURO_UNLIKELY(self->dying != NULL))
        run(self);
    self->running = false;
}

void death_adopt(struct seat *self, struct seat *from)
{
    ouro_object *half = from->half_dead;

    if (half) { /* the fields that are left are not NULL */
        from->half_dead = NULL;
        death_queue(self, half);
    }
    while (from->dying)
        death_queue(self, death_pop(&from->dying));
}
