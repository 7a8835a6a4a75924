/*
 * gc/hooks.c - the calls from lower layers to higher ones, all of them.
 */
#include "gc/collect.h"
#include "gc/forced.h"
#include "gc/parallel.h"
#include "gc/schedule.h"
#include "heap/heap.h"
#include "object/death.h"
#include "object/finalize.h"
#include "object/merge.h"
#include "object/retire.h"
#include "thread/hooks.h"

static void quiesced(struct seat *self)
{
    area_ripen(self);
    retire_ripen(self);
}

static void attached(struct seat *self)
{
    retire_look(self);
    finalize_look(self);
    forced_ask(self);
}

static size_t waiting(struct seat *self)
{
    struct area_stats areas;

    area_stats(&areas);
    return retire_figures(self).waiting + areas.waiting;
}

const struct thread_hooks thread_hooks = {
    .seat_made = heap_init,
    .drain = merge_drain,
    .destroy = death_run,
    .quiesced = quiesced,
    .close = retire_close,
    .attached = attached,
    .retire = retire_work,
    .retire_pass_on = retire_pass_on,
    .waiting = waiting,
    .flush = heap_flush,
    .pass_on = finalize_pass_on,
    .abandon = finalize_abandon,
    .finalize = finalize_some,
    .collect = collect_automatic,
    .help = parallel_help,
};

/* Memory is out, and this is no safepoint: what died elsewhere, and what is on this thread's list, can go. */
static void starved(struct seat *self)
{
    /* [S1] acquire: what was put in before INBOX was set */
    if (fetch_and_acq_rel(&self->word, ~(uint32_t)SEAT_INBOX) & SEAT_INBOX)
        merge_drain(self, self, false);
    /* What is ripe was borrowed by nobody since each thread's last safepoint, this one's included. */
    retire_close(self);
    retire_ripen(self);
    death_run(self);
    area_ripen(self);
}

static void figures(struct seat *self, ouro_memory *stats)
{
    struct retire_figures retired = retire_figures(self);

    stats->waiting_bytes += retired.waiting;
    stats->metadata_bytes += retired.metadata;
    stats->reserved_bytes += retired.metadata;
}

const struct heap_hooks heap_hooks = {
    .grew = schedule_grew,
    .noted = schedule_noted,
    .starved = starved,
    .figures = figures,
};
