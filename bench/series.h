/*
 * series.h - what is measured many times in one run: pauses, gaps that another thread sees, garbage held. Each
 * value has the moment at which it was taken. And how programs of one workload print: a line a figure, tab-separated,
 * which tools/bench-gc turns into a table.
 */
#ifndef SERIES_H
#define SERIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct series {
    struct point {
        uint64_t at; /* bench_now_ns() */
        double value;
    } * points;       /* the first of them; more than there is room for are only counted */
    size_t count;     /* all */
    double sum, most; /* of all */
};

/* One writer at a time. */
void series_init(struct series *series);
void series_add(struct series *series, uint64_t at, double value);

/* Forgets what came before `at`: what the preparations of a workload caused. */
void series_begin_at(struct series *series, uint64_t at);

/* The value that `share` of the others are not above: 0.5 is the median. 0 if there is none. */
double series_quantile(const struct series *series, double share);

/* The greatest value in each third of the time from `start` to `end`. */
void series_thirds(const struct series *series, uint64_t start, uint64_t end, double most[3]);

/* Whether what the thirds held at most goes up and up, by half in the end. */
bool series_is_rising(const double most[3]);

/* Writes seconds since `start` and value, a line a point. */
void series_write(const struct series *series, uint64_t start, const char *path);

/* What stands in front of each figure from now on. */
void report_begin(const char *workload, const char *peer);

/* A line: workload, peer, figure, value, unit. Nothing if the value is not a number. */
void report(const char *figure, double value, const char *unit);

#endif
