/*
 * heap/walk.c - all objects that are alive, by walking over pages in a stopped world. No list leads through the objects.
 */
#include "heap/walk.h"

#include "heap/page.h"

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

size_t walk_objects_stopped(bool (*each)(ouro_object *o, void *argument), void *argument)
{
    size_t calls = 0;
    bool more = true;

    for (struct area *area = area_first(); area && more; area = area->next) {
        for (size_t i = AREA_META_PAGES; i < AREA_PAGES && more; i++)
            more = walk_page(&area->pages[i], each, argument, &calls);
    }
    return calls;
}
