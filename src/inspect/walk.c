/*
 * inspect/walk.c - all objects, by walking over pages in a stopped world.
 */
#include <ouro/inspect.h>

#include "heap/page.h"
#include "thread/seat.h"
#include "thread/world.h"

/* False: `each` has had enough. */
static bool walk_page(const struct page *page, bool (*each)(ouro_object *o, void *argument),
                      void *argument, size_t *calls)
{
    uint32_t count = page_object_count(page), step = page_step(page);
    char *at = page->start;

    for (uint32_t i = 0; i < count; i++, at += step) {
        ouro_object *o = (ouro_object *)(void *)at;

        if (block_is_free(o) ||
            (load_relaxed(&o->ouro.flags) & (OURO_FLAG_DEAD | OURO_FLAG_GARBAGE)))
            continue;
        ++*calls;
        if (!each(o, argument))
            return false;
    }
    return true;
}

size_t ouro_each_object(bool (*each)(ouro_object *o, void *argument), void *argument)
{
    struct seat *self = seat_at_safepoint("ouro_each_object()");
    size_t calls = 0;
    bool more = true;

    world_stop(self);
    for (struct area *area = area_first(); area && more; area = area->next) {
        for (size_t i = AREA_META_PAGES; i < AREA_PAGES && more; i++)
            more = walk_page(&area->pages[i], each, argument, &calls);
    }
    world_start(self);
    return calls;
}
