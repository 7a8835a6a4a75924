/*
 * gc/debug.c - saying what the collector does, and keeping what it finds.
 *
 * What is kept has the flag SAVED and a reference that stands for it.  Giving it up takes the reference off again, in a
 * stopped world, where all objects may be walked over; what dies of that is destroyed afterwards.
 */
#include "gc/debug.h"

#include "heap/walk.h"
#include "object/count.h"
#include "object/death.h"
#include "object/type.h"
#include "thread/world.h"

#include <inttypes.h>
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

static const char *kind_name(ouro_gc_kind kind)
{
    static const char *const names[] = {"young", "old", "deep", "full"};

    return names[kind];
}

static const char *cause_name(ouro_gc_cause cause)
{
    static const char *const names[] = {"call", "objects", "bytes", "left",  "candidates",
                                        "cut",  "growth",  "slice", "limit", "every"};

    return names[cause];
}

void debug_print_stats(const ouro_gc_info *info)
{
    check_say("ouro: collection %" PRIu64 " (%s, %s: %s): %zu examined, %zu destroyed, %zu saved, "
              "%zu wait for finalizers; stop %.3f ms, pause %.3f ms, all %.3f ms; %zu objects and "
              "%zu bytes new, %zu candidates, %zu cut, %zu bytes used\n",
              info->number, info->reason == OURO_GC_AUTOMATIC ? "automatic" : "requested",
              kind_name(info->kind), cause_name(info->cause), info->candidates, info->collected,
              info->uncollectable, info->finalizers, (double)info->stop_ns / 1e6,
              (double)info->pause_ns / 1e6, (double)info->total_ns / 1e6, info->net_new,
              info->net_new_bytes, info->noted, info->cut, info->bytes);
}

void debug_print_garbage(struct seat *self, const struct trial *trial)
{
    for (struct page *page = trial->pages; page; page = page->condemned_next) {
        const uint64_t *condemned = page_condemned(page);

        for (size_t word = 0; word < MAP_WORDS; word++) {
            for (uint64_t bits = condemned[word]; bits; bits &= bits - 1) {
                const ouro_object *o = object_at(page, word, bits);

                check_say("ouro: garbage: \"%s\" at %p\n", type_of(o)->name, (const void *)o);
                seat_poll(self);
            }
        }
    }
}

void debug_print_saved(const ouro_object *o)
{
    check_say("ouro: garbage, kept: \"%s\" at %p\n", type_of(o)->name, (const void *)o);
}

/* --- what was kept ----------------------------------------------------------------------------------- */

struct each_call {
    bool (*each)(ouro_object *o, void *argument);
    void *argument;
    size_t calls;
};

static bool call_each(ouro_object *o, void *argument)
{
    struct each_call *call = argument;

    if (!(o->ouro.flags & OURO_FLAG_SAVED))
        return true;
    call->calls++;
    return call->each(o, call->argument);
}

size_t ouro_gc_each_saved(bool (*each)(ouro_object *o, void *argument), void *argument)
{
    struct seat *self = seat_at_safepoint("ouro_gc_each_saved()");
    struct each_call call = {each, argument, 0};

    world_stop(self);
    walk_objects_stopped(call_each, &call);
    world_start(self);
    return call.calls;
}

/* By the thread that has stopped the world. */
static bool drop(ouro_object *o, void *argument)
{
    struct seat *self = seat_attached_self;

    if (!(o->ouro.flags & OURO_FLAG_SAVED))
        return true;
    o->ouro.flags &= (uint8_t)~OURO_FLAG_SAVED;
    ++*(size_t *)argument;
    if (count_drop(self, o))
        death_queue(self, o);
    return true;
}

size_t ouro_gc_drop_saved(void)
{
    struct seat *self = seat_at_safepoint("ouro_gc_drop_saved()");
    size_t count = 0;

    world_stop(self);
    walk_objects_stopped(drop, &count);
    world_start(self);
    return count;
}
