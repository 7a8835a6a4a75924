/*
 * gc/debug.c - saying what the collector does, and keeping what it finds.
 *
 * What is kept has the flag SAVED and a reference that stands for it.  Giving it up takes the reference off again, in a
 * stopped world, where all objects may be walked over; what dies of that is destroyed afterwards.
 */
#include "gc/debug.h"

#include "object/count.h"
#include "object/death.h"
#include "object/type.h"
#include "thread/world.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

static unsigned flags; /* relaxed: a setting */

unsigned debug_flags(void)
{
    return load_relaxed(&flags);
}

void ouro_gc_set_debug(unsigned wanted)
{
    REQUIRE(!(wanted &
              ~(OURO_GC_PRINT_STATS | OURO_GC_PRINT_GARBAGE | OURO_GC_SAVE | OURO_GC_VERIFY)),
            "ouro_gc_set_debug() of %#x: there are no such flags", wanted);
    store_relaxed(&flags, wanted);
}

unsigned ouro_gc_get_debug(void)
{
    return debug_flags();
}

void debug_print_stats(const ouro_gc_info *info)
{
    fprintf(stderr,
            "ouro: collection %" PRIu64 " (%s): %zu examined, %zu destroyed, %zu saved, %zu wait "
            "for finalizers; stop %.3f ms, pause %.3f ms, all %.3f ms\n",
            info->number, info->reason == OURO_GC_AUTOMATIC ? "automatic" : "requested",
            info->candidates, info->collected, info->uncollectable, info->finalizers,
            (double)info->stop_ns / 1e6, (double)info->pause_ns / 1e6,
            (double)info->total_ns / 1e6);
}

void debug_print_garbage(struct seat *self, const struct trial *trial)
{
    for (struct page *page = trial->pages; page; page = page->condemned_next) {
        const uint64_t *condemned = page_condemned(page);

        for (size_t word = 0; word < MAP_WORDS; word++) {
            for (uint64_t bits = condemned[word]; bits; bits &= bits - 1) {
                size_t granule = word * 64 + (size_t)__builtin_ctzll(bits);
                const ouro_object *o = (const void *)(page->start + granule * GRANULE);

                fprintf(stderr, "ouro: garbage: \"%s\" at %p\n", type_of(o)->name, (const void *)o);
                seat_poll(self);
            }
        }
    }
}

void debug_print_saved(const ouro_object *o)
{
    dprintf(STDERR_FILENO, "ouro: garbage, kept: \"%s\" at %p\n", type_of(o)->name,
            (const void *)o);
}

/* --- what was kept ----------------------------------------------------------------------------------- */

static struct seat *enter(const char *what)
{
    struct seat *self = seat_at_safepoint(what);

    world_stop(self);
    return self;
}

/* False: `each` has had enough. */
static bool walk_page(struct seat *self, const struct page *page,
                      bool (*each)(struct seat *self, ouro_object *o, void *argument),
                      void *argument)
{
    uint32_t count = page_object_count(page), step = page_step(page);
    char *at = page->start;

    if (page->kind != KIND_TRACKED)
        return true;
    for (uint32_t i = 0; i < count; i++, at += step) {
        ouro_object *o = (ouro_object *)(void *)at;

        if (block_is_free(o) || !(o->ouro.flags & OURO_FLAG_SAVED) ||
            (o->ouro.flags & (OURO_FLAG_DEAD | OURO_FLAG_GARBAGE)))
            continue;
        if (!each(self, o, argument))
            return false;
    }
    return true;
}

static void walk(struct seat *self, bool (*each)(struct seat *self, ouro_object *o, void *argument),
                 void *argument)
{
    bool more = true;

    for (struct area *area = area_first(); area && more; area = area->next) {
        for (size_t i = AREA_META_PAGES; i < AREA_PAGES && more; i++)
            more = walk_page(self, &area->pages[i], each, argument);
    }
}

struct each_call {
    bool (*each)(ouro_object *o, void *argument);
    void *argument;
    size_t calls;
};

static bool call_each(struct seat *self, ouro_object *o, void *argument)
{
    struct each_call *call = argument;

    (void)self;
    call->calls++;
    return call->each(o, call->argument);
}

size_t ouro_gc_each_saved(bool (*each)(ouro_object *o, void *argument), void *argument)
{
    struct seat *self = enter("ouro_gc_each_saved()");
    struct each_call call = {each, argument, 0};

    walk(self, call_each, &call);
    world_start(self);
    return call.calls;
}

static bool drop(struct seat *self, ouro_object *o, void *argument)
{
    o->ouro.flags &= (uint8_t)~OURO_FLAG_SAVED;
    ++*(size_t *)argument;
    if (count_drop(self, o))
        death_queue(self, o);
    return true;
}

size_t ouro_gc_drop_saved(void)
{
    struct seat *self = enter("ouro_gc_drop_saved()");
    size_t count = 0;

    walk(self, drop, &count);
    world_start(self);
    return count;
}
