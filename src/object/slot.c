/*
 * object/slot.c - references that any number of threads load and store at once.
 *
 * A slot's reference is counted like any other, so a borrower needs no conditional increment: as long as the
 * slot, or the queue of retired references, has that count the object lives.  What is taken out is retired: its
 * count goes down after a grace period (object/retire.c).
 *
 * Relaxed increments by borrowers are enough: each is made before that thread's next safepoint, which happens before the
 * end of the grace period, which happens before the retired reference is dropped [G1, G3].
 */
#include "object/retire.h"

#include "thread/seat.h"

#include <ouro/slot.h>

void *ouro_slot_load(const ouro_slot *slot)
{
    seat_required("ouro_slot_load()");
    ouro_object *o = ouro_slot_borrow(slot);

    return o ? (ouro_incref)(o) : NULL;
}

/* The caller's reference becomes the slot's without being counted. */
static void note_moved(ouro_object *o)
{
    if (o)
        (ouro_note)(o);
}

/* Puts `o` in, with its count; what was there is retired. After retire_reserve(). */
static ouro_object *slot_exchange(struct seat *self, ouro_slot *slot, ouro_object *o)
{
    /* [L1] acq_rel: the object as it is, for who borrows it; as it was stored, for who gets the old one. The stamp
     * of the batch comes later [G2]: whoever borrows after that grace period has begun sees this exchange. */
    ouro_object *old = exchange_acq_rel(&slot->value, o);

    if (old)
        retire_reference(self, old);
    return old;
}

ouro_status(ouro_slot_store)(ouro_slot *slot, ouro_object *o)
{
    struct seat *self = seat_required("ouro_slot_store()");

    /* Counted first: a count that saturates may run a `destroy`, which may use up the place. */
    if (o)
        (ouro_incref)(o);
    if (!retire_reserve(self)) {
        if (o)
            (ouro_decref)(o);
        return OURO_NO_MEMORY;
    }
    slot_exchange(self, slot, o);
    return OURO_OK;
}

ouro_status(ouro_slot_store_steal)(ouro_slot *slot, ouro_object *o)
{
    struct seat *self = seat_required("ouro_slot_store_steal()");

    if (!retire_reserve(self))
        return OURO_NO_MEMORY;
    note_moved(o);
    slot_exchange(self, slot, o);
    return OURO_OK;
}

ouro_status(ouro_slot_exchange)(ouro_slot *slot, ouro_object *o, ouro_object **old)
{
    struct seat *self = seat_required("ouro_slot_exchange()");

    if (!retire_reserve(self))
        return OURO_NO_MEMORY;
    note_moved(o);
    *old = slot_exchange(self, slot, o);
    return OURO_OK;
}

ouro_status(ouro_slot_take)(ouro_slot *slot, ouro_object *o, ouro_object **old)
{
    ouro_status status = (ouro_slot_exchange)(slot, o, old);

    /* It is retired, so it is alive until this thread's next safepoint at least. */
    if (status == OURO_OK && *old)
        (ouro_incref)(*old);
    return status;
}

ouro_status(ouro_slot_compare_exchange)(ouro_slot *slot, const void *expected, ouro_object *o)
{
    struct seat *self = seat_required("ouro_slot_compare_exchange()");
    ouro_object *old = (ouro_object *)(uintptr_t)expected;

    if (!retire_reserve(self))
        return OURO_NO_MEMORY;
    note_moved(o);
    /* [L1] acq_rel: as in slot_exchange() */
    if (!cas_acq_rel(&slot->value, &old, o))
        return OURO_BUSY;
    if (old)
        retire_reference(self, old);
    return OURO_OK;
}
