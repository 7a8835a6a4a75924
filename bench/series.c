/*
 * series.c - values with their moments; see series.h.
 */
#include "series.h"

#include "bench.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Room for 16 MiB of points, of which only what is written exists. */
enum { ROOM = 1 << 20 };

static const char *workload_name, *peer_name;

void series_init(struct series *series)
{
    void *points = mmap(NULL, ROOM * sizeof *series->points, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (points == MAP_FAILED)
        bench_fail("out of memory");
    *series = (struct series){.points = points};
}

void series_add(struct series *series, uint64_t at, double value)
{
    if (series->count < ROOM)
        series->points[series->count] = (struct point){at, value};
    series->count++;
    series->sum += value;
    if (value > series->most)
        series->most = value;
}

static size_t kept(const struct series *series)
{
    return series->count < ROOM ? series->count : ROOM;
}

void series_begin_at(struct series *series, uint64_t at)
{
    const struct series old = *series;

    series->count = 0;
    series->sum = series->most = 0;
    for (size_t i = 0; i < kept(&old); i++) {
        if (old.points[i].at >= at)
            series_add(series, old.points[i].at, old.points[i].value);
    }
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double series_quantile(const struct series *series, double share)
{
    size_t count = kept(series);
    double *values, value;

    if (!count)
        return 0;
    values = malloc(count * sizeof *values);
    if (!values)
        bench_fail("out of memory");
    for (size_t i = 0; i < count; i++)
        values[i] = series->points[i].value;
    qsort(values, count, sizeof *values, compare_doubles);
    value = values[(size_t)(share * (double)(count - 1) + 0.5)];
    free(values);
    return value;
}

void series_thirds(const struct series *series, uint64_t start, uint64_t end, double most[3])
{
    double length = (double)(end - start);

    memset(most, 0, 3 * sizeof *most);
    for (size_t i = 0; i < kept(series); i++) {
        const struct point *point = &series->points[i];
        double share = length > 0 ? (double)(point->at - start) / length : 0;
        size_t third = share < 1.0 / 3 ? 0 : share < 2.0 / 3 ? 1 : 2;

        if (point->at >= start && point->value > most[third])
            most[third] = point->value;
    }
}

bool series_is_rising(const double most[3])
{
    return most[0] < most[1] && most[1] < most[2] && most[2] > 1.5 * most[0];
}

void series_write(const struct series *series, uint64_t start, const char *path)
{
    FILE *file = fopen(path, "w");

    if (!file)
        bench_fail("can't write the file of points");
    for (size_t i = 0; i < kept(series); i++) {
        const struct point *point = &series->points[i];

        fprintf(file, "%.6f\t%.6f\n", ((double)point->at - (double)start) / 1e9, point->value);
    }
    if (fclose(file))
        bench_fail("can't write the file of points");
}

void report_begin(const char *workload, const char *peer)
{
    workload_name = workload;
    peer_name = peer;
}

void report(const char *figure, double value, const char *unit)
{
    if (!isnan(value))
        printf("%s\t%s\t%s\t%.4f\t%s\n", workload_name, peer_name, figure, value, unit);
}
