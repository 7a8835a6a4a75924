/*
 * object/note.c - noting candidates. See object/note.h.
 */
#include "object/note.h"

#include "heap/dirty.h"
#include "heap/heap.h"
#include "object/type.h"

enum {
    REPORT = 256
}; /* candidates that a thread notes before it looks whether there are too many */

void note_in_map(struct seat *self, ouro_object *o)
{
    struct page *page = page_of(o);
    uint32_t granule = granule_of(o);
    uint64_t *word = &page_candidates(page)[granule / 64];
    uint64_t bit = (uint64_t)1 << granule % 64;

    if (load_relaxed(word) & bit)
        return;
    fetch_or_relaxed(word, bit);
    dirty_mark_noted(page);
    if (++self->notes % REPORT == 0)
        heap_hooks.noted(self, REPORT);
}

void note_flag(struct seat *self, ouro_object *o)
{
    uint8_t flags = fetch_or_relaxed(&o->ouro.flags, (uint8_t)OURO_FLAG_NOTED);

    if (!(flags & (OURO_FLAG_NOTED | OURO_FLAG_NEW)))
        note_in_map(self, o);
}

void(ouro_note)(ouro_object *holder)
{
    struct seat *self = seat_required("ouro_note()");
    uint32_t w = load_relaxed(&holder->ouro.owned);

    if (OURO_OWNED_ID(w) == self->id && (w & OURO_FRESH)) {
        note_owned(self, holder);
        store_relaxed(&holder->ouro.owned, w & ~OURO_FRESH);
    } else if (OURO_OWNED_ID(w) != OURO_ID_IMMORTAL) {
        note_shared(self, holder, w);
    }
}

void ouro_move_ref(ouro_object *holder, ouro_ref *field, ouro_object *o)
{
    ouro_object *before = *field;

    (ouro_note)(holder);
    *field = o;
    if (before)
        (ouro_decref)(before);
}
