/*
 * inspect/refs.c - who refers to whom: what an object's fields refer to, and which objects have a field that refers to it.
 *
 * Both look in a stopped world, since fields are plain memory that other threads may write to, and `visit` may rely on
 * that.  The first looks at one object, the second at all that are alive: there are no back references.
 * What may surprise: `visit` can't be told to stop, so when `each` has had enough the rest of the fields is passed over.
 * Weak references are no fields; who holds an object by a variable does not show up, either.
 */
#include <ouro/inspect.h>

#include "object/type.h"
#include "thread/seat.h"
#include "thread/world.h"

/* Calls `step` for the fields of an object, those that are NULL included. */
struct field_visitor {
    ouro_visitor visitor;
    void (*step)(struct field_visitor *visitor, ouro_object *target);
};

static void visit_fields(ouro_visitor *visitor, ouro_ref *fields, size_t count)
{
    struct field_visitor *each = (struct field_visitor *)visitor;

    for (size_t i = 0; i < count; i++)
        each->step(each, fields[i]);
}

static void each_field(ouro_object *o, struct field_visitor *visitor)
{
    const struct ouro_type *type = type_of(o);

    for (size_t i = 0; i < type->field_count; i++)
        visitor->step(visitor, *type_field(o, type->fields[i]));
    if (type->visit)
        type->visit(o, &visitor->visitor);
}

/* --- what it refers to ------------------------------------------------------------------------------- */

struct referents {
    struct field_visitor visitor;
    bool (*each)(ouro_object *o, void *argument);
    void *argument;
    size_t calls;
    bool enough;
};

static void call_for_referent(struct field_visitor *visitor, ouro_object *target)
{
    struct referents *referents = (struct referents *)visitor;

    if (!target || referents->enough)
        return;
    referents->calls++;
    referents->enough = !referents->each(target, referents->argument);
}

size_t(ouro_each_referent)(const ouro_object *o, bool (*each)(ouro_object *o, void *argument),
                           void *argument)
{
    struct seat *self = seat_at_safepoint("ouro_each_referent()");
    ouro_object *counted = (ouro_object *)(void *)o; /* to be kept while this waits for the world */
    struct referents referents = {.visitor = {{visit_fields}, call_for_referent},
                                  .each = each,
                                  .argument = argument};

    (ouro_incref)(counted);
    world_stop(self);
    each_field(counted, &referents.visitor);
    world_start(self);
    (ouro_decref)(counted);
    return referents.calls;
}

/* --- what refers to it ------------------------------------------------------------------------------- */

struct referrers {
    struct field_visitor visitor;
    bool (*each)(ouro_object *o, void *argument);
    void *argument;
    const ouro_object *target;
    size_t calls;
    bool found;
};

static void compare(struct field_visitor *visitor, ouro_object *target)
{
    struct referrers *referrers = (struct referrers *)visitor;

    referrers->found |= target == referrers->target;
}

static bool call_for_referrer(ouro_object *o, void *argument)
{
    struct referrers *referrers = argument;

    referrers->found = false;
    each_field(o, &referrers->visitor);
    if (!referrers->found)
        return true;
    referrers->calls++;
    return referrers->each(o, referrers->argument);
}

size_t(ouro_each_referrer)(const ouro_object *o, bool (*each)(ouro_object *o, void *argument),
                           void *argument)
{
    ouro_object *counted = (ouro_object *)(void *)o;
    struct referrers referrers = {
        .visitor = {{visit_fields}, compare}, .each = each, .argument = argument, .target = o};

    seat_at_safepoint("ouro_each_referrer()");
    (ouro_incref)(counted);
    ouro_each_object(call_for_referrer, &referrers);
    (ouro_decref)(counted);
    return referrers.calls;
}
