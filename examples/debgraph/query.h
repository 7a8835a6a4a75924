/*
 * query.h - questions to a graph, and their answers.
 *
 * The answers are numbers of packages.  The caller is attached and has borrowed the graph.  A question that
 * takes long takes a reference to the graph and passes safepoints, so from the first question until
 * query_end() the graph is there, and what else the caller had borrowed may not be.
 */
#ifndef DEBGRAPH_QUERY_H
#define DEBGRAPH_QUERY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct graph;
struct frame;

/* The working memory of one thread. The arrays have an entry for each package or dependency. */
struct query {
    struct graph *kept; /* a reference of its own, once it has passed a safepoint; NULL before */
    uint32_t steps;     /* since query_end() */
    size_t package_room;
    size_t dependency_room;
    uint32_t round;     /* counts questions; an entry that says otherwise is from an earlier one */
    uint32_t *seen;     /* [package] the round in which it was met */
    uint32_t *next;     /* [package] the one after it on the chain */
    uint32_t *touched;  /* [dependency] the round in which it lost a target */
    uint32_t *lost;     /* [dependency] how many of its targets are gone */
    uint32_t *order;    /* [package] when the search for cycles met it */
    uint32_t *low;      /* [package] the earliest that it leads back to */
    uint32_t *stack;    /* packages whose component is not known yet */
    struct frame *path; /* what the search for cycles has to come back to */
    uint32_t *starts;   /* packages that a question is about */
    size_t start_count;
    uint32_t *answer;
    size_t answer_count;
    uint32_t *ends; /* of the groups in `answer` that query_cycles() found */
    size_t group_count;
};

/* Makes room for questions to that graph. False: memory is out. */
bool query_prepare(struct query *query, const struct graph *graph);
void query_release(struct query *query);

/* There will be no more questions to that graph, and its answers have been used. Returns whether they took
 * long, so that the graph was counted. May free the graph. Never a safepoint. */
bool query_end(struct query *query);

/* The question is about one package. */
void query_start(struct query *query, uint32_t number);

/* The question is about all packages of that name, or if there are none, all that provide it. Returns
 * their number. */
size_t query_find(struct query *query, const struct graph *graph, const char *name);

/* Why are the starts there? The answer is a shortest chain of needs, from a package that no other one
 * needs to a start. Empty: all that need them need each other. */
void query_why(struct query *query, const struct graph *graph);

/* What can't be fulfilled any more without the starts? The answer is all those packages, without the
 * starts, in the order in which they break. */
void query_breaks(struct query *query, const struct graph *graph);

/* Which packages need each other? The answer is the strongly connected components of more than one
 * package, one after the other; `ends` has the end of each. */
void query_cycles(struct query *query, const struct graph *graph);

/* The package that is farthest from all those that no other one needs. */
uint32_t query_farthest(struct query *query, const struct graph *graph);

/* The same three as text: they ask what the starts are set for, and print the answer to standard output.
 * `name` is what the starts are called. */
void answer_why(struct query *query, const struct graph *graph, const char *name);
void answer_breaks(struct query *query, const struct graph *graph, const char *name);
void answer_cycles(struct query *query, const struct graph *graph, size_t limit);

/* A number with commas: printf("%s", grouped(1234567).text). */
struct grouped {
    char text[32];
};
struct grouped grouped(uint64_t number);

#endif
