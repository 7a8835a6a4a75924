/*
 * watch.c - a thread that looks on while others work: how long it is kept waiting, and how much garbage is held.
 *
 * It reads the clock in a loop with safepoints. A gap of 10 us or more is kept: shorter ones are what the loop itself
 * and interrupts do. Every 10 ms it asks how many objects exist. With Ouro that stops the world for a moment, which is
 * not counted as a gap, unless a collection ran meanwhile, since then that was what it waited for.
 */
#include "heap.h"

#include <sched.h>
#include <time.h>

enum { GAP_NS = 10000, SAMPLE_NS = 10000000, SAMPLE_MS = 10 };

void heap_sleep_ms(unsigned ms)
{
    const struct timespec time = {.tv_nsec = (long)ms * 1000000};

    if (HEAP == HEAP_OURO)
        ouro_detach();
    nanosleep(&time, NULL); /* if a signal ends it early, all the better */
    if (HEAP == HEAP_OURO)
        ouro_attach();
}

void watch_init(struct watch *watch, size_t threads, double reachable)
{
    *watch =
        (struct watch){.reachable = reachable, .spin = threads < bench_cores(), .working = threads};
    series_init(&watch->gaps);
    series_init(&watch->garbage);
}

static void note_gap(struct watch *watch, uint64_t last, uint64_t now)
{
    if (now - last >= GAP_NS)
        series_add(&watch->gaps, now, (double)(now - last) / 1e6);
}

/* Returns the moment from which the next gap counts. */
static uint64_t sample(struct watch *watch, uint64_t last)
{
    uint64_t collections = heap_collections(), now;
    double garbage = isnan(watch->reachable) ? NAN : heap_garbage(watch->reachable);

    now = bench_now_ns();
    if (!isnan(garbage))
        series_add(&watch->garbage, now, garbage);
    if (heap_collections() != collections)
        note_gap(watch, last, now);
    return now;
}

uint64_t watch_start(struct watch *watch)
{
    while (!__atomic_load_n(&watch->looking, __ATOMIC_ACQUIRE)) {
        sched_yield();
        heap_pass();
    }
    return bench_now_ns();
}

void watch_run(struct watch *watch)
{
    uint64_t last = bench_now_ns(), sampled = last;

    __atomic_store_n(&watch->looking, true, __ATOMIC_RELEASE);
    while (__atomic_load_n(&watch->working, __ATOMIC_ACQUIRE)) {
        uint64_t now;

        if (!watch->spin) {
            heap_sleep_ms(SAMPLE_MS);
            last = bench_now_ns();
        }
        heap_pass();
        now = bench_now_ns();
        if (watch->spin)
            note_gap(watch, last, now);
        if (now - sampled >= SAMPLE_NS || !watch->spin)
            sampled = now = sample(watch, now);
        last = now;
    }
}

static void report_garbage(const struct watch *watch, uint64_t start, uint64_t end)
{
    double most[3];

    if (!watch->garbage.count)
        return;
    series_thirds(&watch->garbage, start, end, most);
    report("most garbage held", watch->garbage.most, "objects");
    report("  in the run's first third", most[0], "objects");
    report("  in its second", most[1], "objects");
    report("  in its last", most[2], "objects");
    report("  it rises (1) or is stable (0)", series_is_rising(most), "");
}

void watch_report(struct watch *watch, uint64_t start, uint64_t end)
{
    series_begin_at(&heap_pauses, start);
    if (watch->spin) {
        report("gaps of 10 us or more, seen by another thread", (double)watch->gaps.count, "");
        report("  median", series_quantile(&watch->gaps, 0.5), "ms");
        report("  p99", series_quantile(&watch->gaps, 0.99), "ms");
        report("  longest gap", watch->gaps.most, "ms");
    }
    if (heap_collects) {
        report("pauses reported by the collector", (double)heap_pauses.count, "");
        report("  median pause", series_quantile(&heap_pauses, 0.5), "ms");
        report("  p99 pause", series_quantile(&heap_pauses, 0.99), "ms");
        report("  longest pause", heap_pauses.most, "ms");
        report("  share of the time", heap_pauses.sum * 1e8 / (double)(end - start), "%");
        report_garbage(watch, start, end);
    }
    report("most memory resident", bench_peak_megabytes(), "MiB");
}
