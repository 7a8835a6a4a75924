/*
 * query.c - questions to a graph.
 *
 * The caller has borrowed the graph, which nobody changes and which keeps all that it leads to.  What is
 * borrowed is valid until the next safepoint, so a question that is answered in a few steps counts nothing
 * and passes none.  A thread that computes for long without one would hold up whoever wants to stop the
 * world; so after those steps a question takes a reference to the graph, one for all that it looks at, and
 * from then on passes safepoints.
 */
#include "query.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph.h"

#define NAMES_SHOWN 8
#define SHORT_STEPS 256 /* a question of fewer counts nothing and passes no safepoint */

/* A package whose needs the search for cycles is going through. */
struct frame {
    uint32_t package;
    uint32_t need;   /* index in package->needs */
    uint32_t target; /* index in need->targets */
};

/* --- working memory ------------------------------------------------------------------------------ */

/* Replaces an array by a larger one; what was in it is lost. False: memory is out. */
static bool remake(void *array_address, size_t count, size_t bytes)
{
    void *array;

    memcpy(&array, array_address, sizeof array);
    free(array);
    array = calloc(count + 1, bytes);
    memcpy(array_address, &array, sizeof array);
    return array != NULL;
}

bool query_prepare(struct query *query, const struct graph *graph)
{
    size_t packages = graph->package_count;
    size_t dependencies = graph->counts.dependencies;

    if (packages <= query->package_room && dependencies <= query->dependency_room &&
        query->round < UINT32_MAX / 2)
        return true;
    query->package_room = query->dependency_room = 0;
    query->round = 0;
    if (!remake(&query->seen, packages, sizeof(uint32_t)) ||
        !remake(&query->next, packages, sizeof(uint32_t)) ||
        !remake(&query->order, packages, sizeof(uint32_t)) ||
        !remake(&query->low, packages, sizeof(uint32_t)) ||
        !remake(&query->stack, packages, sizeof(uint32_t)) ||
        !remake(&query->path, packages, sizeof(struct frame)) ||
        !remake(&query->starts, packages, sizeof(uint32_t)) ||
        !remake(&query->answer, packages, sizeof(uint32_t)) ||
        !remake(&query->ends, packages, sizeof(uint32_t)) ||
        !remake(&query->touched, dependencies, sizeof(uint32_t)) ||
        !remake(&query->lost, dependencies, sizeof(uint32_t)))
        return false;
    query->package_room = packages;
    query->dependency_room = dependencies;
    return true;
}

/* Each loop below calls it once a round, with the graph that the question is put to. */
static void step(struct query *query, const struct graph *graph)
{
    if (!query->kept) {
        if (++query->steps < SHORT_STEPS)
            return;
        query->kept = ouro_incref((struct graph *)graph); /* changes nothing but its header */
    }
    ouro_safepoint();
}

bool query_end(struct query *query)
{
    bool was_long = query->kept != NULL;

    query->steps = 0;
    ouro_clear(&query->kept);
    return was_long;
}

void query_release(struct query *query)
{
    free(query->seen);
    free(query->next);
    free(query->order);
    free(query->low);
    free(query->stack);
    free(query->path);
    free(query->starts);
    free(query->answer);
    free(query->ends);
    free(query->touched);
    free(query->lost);
    *query = (struct query){0};
}

void query_start(struct query *query, uint32_t number)
{
    query->starts[0] = number;
    query->start_count = 1;
}

size_t query_find(struct query *query, const struct graph *graph, const char *text)
{
    const struct name *name = graph_find(graph, text, strlen(text));

    query->start_count = 0;
    if (!name)
        return 0;
    query->round++; /* a package may provide a name twice, in two versions */
    for (const struct package *p = name->versions; p; p = p->sibling)
        query->starts[query->start_count++] = p->number;
    for (const struct provision *p = name->provisions; p && !name->versions; p = p->next) {
        uint32_t number = p->package->number;

        if (query->seen[number] != query->round) {
            query->seen[number] = query->round;
            query->starts[query->start_count++] = number;
        }
    }
    return query->start_count;
}

/* Puts the starts into the answer, as the first ones to be looked at. */
static void begin_with_starts(struct query *query)
{
    query->round++;
    query->answer_count = 0;
    for (size_t i = 0; i < query->start_count; i++) {
        query->seen[query->starts[i]] = query->round;
        query->next[query->starts[i]] = query->starts[i];
        query->answer[query->answer_count++] = query->starts[i];
    }
}

/* Puts a package into the answer, unless it is in there. */
static void meet(struct query *query, uint32_t number, uint32_t next)
{
    if (query->seen[number] == query->round)
        return;
    query->seen[number] = query->round;
    query->next[number] = next;
    query->answer[query->answer_count++] = number;
}

/* --- why ----------------------------------------------------------------------------------------- */

/* No package but itself needs it. */
static bool is_leaf(const struct package *package)
{
    for (uint32_t i = 0; i < package->user_count; i++)
        if (package->users[i]->owner != package)
            return false;
    return true;
}

void query_why(struct query *query, const struct graph *graph)
{
    uint32_t number;
    size_t length = 0;

    begin_with_starts(query);
    for (size_t i = 0; i < query->answer_count; i++) {
        const struct package *package = graph->packages[query->answer[i]];

        if (is_leaf(package)) { /* the chain of `next` ends at a start, which is its own */
            number = package->number;
            query->answer[length++] = number;
            while (query->next[number] != number)
                query->answer[length++] = number = query->next[number];
            break;
        }
        for (uint32_t k = 0; k < package->user_count; k++)
            meet(query, package->users[k]->owner->number, package->number);
        step(query, graph);
    }
    query->answer_count = length;
}

uint32_t query_farthest(struct query *query, const struct graph *graph)
{
    query->start_count = 0;
    for (size_t i = 0; i < graph->package_count; i++) {
        if (is_leaf(graph->packages[i]))
            query->starts[query->start_count++] = (uint32_t)i;
        step(query, graph);
    }
    begin_with_starts(query);
    for (size_t i = 0; i < query->answer_count; i++) {
        const struct package *package = graph->packages[query->answer[i]];

        for (uint32_t k = 0; k < package->need_count; k++)
            for (uint32_t t = 0; t < package->needs[k]->count; t++)
                meet(query, package->needs[k]->targets[t]->number, package->number);
        step(query, graph);
    }
    return query->answer_count ? query->answer[query->answer_count - 1] : 0;
}

/* --- what breaks --------------------------------------------------------------------------------- */

/* One target of a dependency is gone. True: it was the last one. */
static bool lose_target(struct query *query, const struct dependency *dependency)
{
    uint32_t number = dependency->number;

    if (query->touched[number] != query->round) {
        query->touched[number] = query->round;
        query->lost[number] = 0;
    }
    return ++query->lost[number] == dependency->count;
}

void query_breaks(struct query *query, const struct graph *graph)
{
    begin_with_starts(query);
    for (size_t i = 0; i < query->answer_count; i++) {
        const struct package *package = graph->packages[query->answer[i]];

        for (uint32_t k = 0; k < package->user_count; k++) {
            const struct dependency *dependency = package->users[k];

            if (lose_target(query, dependency))
                meet(query, dependency->owner->number, package->number);
        }
        step(query, graph);
    }
    query->answer_count -= query->start_count;
    memmove(query->answer, query->answer + query->start_count,
            query->answer_count * sizeof(uint32_t));
}

/* --- cycles -------------------------------------------------------------------------------------- */

/*
 * Tarjan's algorithm, with a stack of its own in place of recursion.  A package is met once, and gets the
 * next number in `order`.  `low` is the smallest such number that it is known to lead back to; if that is
 * its own when all its needs have been followed, then it and all that is above it on `stack` are a component.
 */
struct search {
    struct query *query;
    const struct graph *graph;
    uint32_t met;   /* packages so far */
    size_t stacked; /* in query->stack */
    size_t depth;   /* in query->path */
};

#define DONE UINT32_MAX /* in `order`: its component is known */

static void enter(struct search *search, uint32_t number)
{
    struct query *query = search->query;

    query->seen[number] = query->round;
    query->order[number] = query->low[number] = search->met++;
    query->stack[search->stacked++] = number;
    query->path[search->depth++] = (struct frame){.package = number};
}

/* Goes on with the package on top of the path. */
static void advance(struct search *search)
{
    struct query *query = search->query;
    struct frame *frame = &query->path[search->depth - 1];
    const struct package *package = search->graph->packages[frame->package];

    while (frame->need < package->need_count) {
        const struct dependency *need = package->needs[frame->need];

        while (frame->target < need->count) {
            uint32_t target = need->targets[frame->target++]->number;

            if (query->seen[target] != query->round) {
                enter(search, target);
                return;
            }
            if (query->order[target] != DONE && query->order[target] < query->low[frame->package])
                query->low[frame->package] = query->order[target];
        }
        frame->need++;
        frame->target = 0;
    }
}

static bool is_finished(const struct search *search)
{
    const struct frame *frame = &search->query->path[search->depth - 1];

    return frame->need == search->graph->packages[frame->package]->need_count;
}

/* Takes the package on top off the path, and its component off the stack if it is the last one of it. */
static void leave(struct search *search)
{
    struct query *query = search->query;
    uint32_t number = query->path[--search->depth].package;
    size_t begin = search->stacked;

    if (search->depth) {
        uint32_t *low = &query->low[query->path[search->depth - 1].package];
        if (query->low[number] < *low)
            *low = query->low[number];
    }
    if (query->low[number] != query->order[number])
        return;
    do
        query->order[query->stack[--begin]] = DONE;
    while (query->stack[begin] != number);
    if (search->stacked - begin > 1) {
        memcpy(query->answer + query->answer_count, query->stack + begin,
               (search->stacked - begin) * sizeof(uint32_t));
        query->answer_count += search->stacked - begin;
        query->ends[query->group_count++] = (uint32_t)query->answer_count;
    }
    search->stacked = begin;
}

void query_cycles(struct query *query, const struct graph *graph)
{
    struct search search = {.query = query, .graph = graph};

    query->round++;
    query->answer_count = 0;
    query->group_count = 0;
    for (size_t i = 0; i < graph->package_count; i++) {
        if (query->seen[i] == query->round)
            continue;
        enter(&search, (uint32_t)i);
        while (search.depth) {
            advance(&search);
            if (is_finished(&search))
                leave(&search);
            step(query, graph);
        }
    }
}

/* --- answers in words ---------------------------------------------------------------------------- */

struct grouped grouped(uint64_t number)
{
    struct grouped result = {""};
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%llu", (unsigned long long)number);
    char *to = result.text;

    for (int i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0)
            *to++ = ',';
        *to++ = digits[i];
    }
    return result;
}

/* Prints the first few names of an answer, and how many more there are. */
static void print_names(const struct graph *graph, const uint32_t *numbers, size_t count,
                        const char *between)
{
    for (size_t i = 0; i < count && i < NAMES_SHOWN; i++)
        printf("%s%s", i ? between : "", graph->packages[numbers[i]]->name->text);
    if (count > NAMES_SHOWN)
        printf("%s... (%s more)", between, grouped(count - NAMES_SHOWN).text);
    printf("\n");
}

/* Explains a chain: what each package says that it needs, for which the next one is good. */
static void print_chain(const struct graph *graph, const struct query *query)
{
    for (size_t i = 0; i + 1 < query->answer_count; i++) {
        const struct package *package = graph->packages[query->answer[i]];

        for (uint32_t k = 0; k < package->need_count; k++) {
            const struct dependency *need = package->needs[k];
            uint32_t t = 0;

            while (t < need->count && need->targets[t]->number != query->answer[i + 1])
                t++;
            if (t == need->count)
                continue;
            printf("    %s needs %s\n", package->name->text, need->text);
            break;
        }
    }
}

void answer_why(struct query *query, const struct graph *graph, const char *name)
{
    query_why(query, graph);
    printf("  Why is %s there?\n", name);
    if (query->answer_count == 0)
        printf("    Only packages need it that need each other, and nothing else needs those.\n");
    else if (query->answer_count == 1)
        printf("    Nothing needs it: it is there for its own sake.\n");
    else
        print_chain(graph, query);
}

void answer_breaks(struct query *query, const struct graph *graph, const char *name)
{
    query_breaks(query, graph);
    printf("  What breaks without %s?\n    %s of the %s other packages%s", name,
           grouped(query->answer_count).text,
           grouped(graph->package_count - query->start_count).text,
           query->answer_count ? ": " : "\n");
    if (query->answer_count)
        print_names(graph, query->answer, query->answer_count, ", ");
}

void answer_cycles(struct query *query, const struct graph *graph, size_t limit)
{
    size_t begin = 0;

    query_cycles(query, graph);
    printf("  Which packages need each other?\n");
    if (query->group_count == 0)
        printf("    None: there is no cycle.\n");
    for (size_t i = 0; i < query->group_count && i < limit; i++) {
        printf("    ");
        print_names(graph, query->answer + begin, query->ends[i] - begin, ", ");
        begin = query->ends[i];
    }
    if (query->group_count > limit)
        printf("    ... and %s more groups (--cycles shows all)\n",
               grouped(query->group_count - limit).text);
}
