/*
 * graph.h - the objects that the graph is made of, and how it is built.
 *
 *     graph ---> index ---> name ---> package ---> dependency ---> package
 *        \________________________________^   <---            <---
 *
 * An arrow is a counted reference.  A package knows what it needs and what needs it, and both know it, so
 * nearly everything is part of a cycle: a graph that is given up is freed by the collector.
 *
 * A graph is built by several threads.  After graph_load() has returned it nobody changes it any more, so
 * whoever has borrowed the graph may follow all references in it, without counting and without a lock, until
 * his next safepoint, and whoever holds a reference to it, across safepoints too: the graph keeps them.
 */
#ifndef DEBGRAPH_GRAPH_H
#define DEBGRAPH_GRAPH_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <ouro.h>

struct package;
struct dependency;
struct problems;

/* A package's promise to stand in for a name. */
struct provision {
    ouro_header ouro;
    struct provision *next; /* of the same name */
    struct package *package;
    const char *version; /* in package->text, not terminated by 0; NULL if none is promised */
    size_t version_length;
};

/* A name that packages have or provide. */
struct name {
    ouro_header ouro;
    struct name *next;            /* in the same bucket of the index */
    struct package *versions;     /* the packages of this name, linked by `sibling` */
    struct provision *provisions; /* those that provide it */
    uint32_t hash;
    char text[];
};

/* One version of a package. */
struct package {
    ouro_header ouro;
    struct name *name;
    struct package *sibling;   /* another version, or the same one of another architecture */
    struct dependency **users; /* what can be fulfilled by this package; a buffer of ours */
    char *text;                /* all text below, each piece with a final 0; a buffer of ours */
    const char *version;       /* in `text`, which begins with the name */
    const char *architecture;  /* in `text` */
    const char *provides;      /* in `text`, one after the other */
    const char *depends;       /* in `text`, one after the other */
    uint32_t number;           /* index in graph->packages */
    uint32_t first_need;       /* number of the first of `needs` */
    uint32_t user_count;
    uint32_t user_room;
    uint32_t provide_count;
    uint32_t need_count;
    struct dependency *needs[];
};

/* One need of a package, "a (>= 1.0) | b", with all the packages that can fulfil it. */
struct dependency {
    ouro_header ouro;
    struct package *owner;
    const char *text; /* in owner->text */
    uint32_t number;
    uint32_t count; /* of targets; 0: it can't be fulfilled */
    struct package *targets[];
};

/* The names, by their hash. */
struct index {
    ouro_header ouro;
    size_t mask; /* number of buckets - 1 */
    struct name *buckets[];
};

/* What is in a graph. */
struct graph_counts {
    size_t names;
    size_t virtual_names; /* those that no package has */
    size_t provides;
    size_t dependencies;
    size_t unmet; /* dependencies without a target */
    size_t edges; /* targets of all dependencies */
    size_t duplicates;
    size_t not_installed; /* stanzas that were left out, because their Status says so */
};

/* The root of everything. */
struct graph {
    ouro_header ouro;
    struct index *index;
    struct graph_counts counts;
    size_t cycle_count; /* as the thread that loaded the graph found them */
    size_t package_count;
    struct package *packages[];
};

/* How a load went. */
struct load {
    size_t files; /* that could be read */
    size_t bytes;
    uint64_t read_ns;
    uint64_t parse_ns;
    uint64_t link_ns;
    bool no_memory;
};

/* Registers the types. False: memory is out. Any thread, once, before all else. */
bool graph_init(void);

/*
 * Reads the files with so many threads and builds the graph. Returns a new reference. NULL: there was
 * no package in the files, or memory was out. Attached; a safepoint.
 */
struct graph *graph_load(char *const *paths, size_t path_count, unsigned threads,
                         struct problems *problems, struct load *load);

/* The name with that text, borrowed from the graph; NULL if there is none. */
const struct name *graph_find(const struct graph *graph, const char *text, size_t length);

/* Makes a package that owns `text`, a buffer by ouro_alloc(). A new reference; NULL: memory is out, and
 * the text is still the caller's. Attached; never a safepoint. */
struct package *package_new(char *text, uint32_t need_count);

/* Locks a mutex that may be held for longer. A thread that blocks while it is attached would hold up
 * everyone who wants to stop the world, so it detaches if it has to wait. Attached; a safepoint. */
void mutex_lock(pthread_mutex_t *mutex);

/* A monotonic clock, in nanoseconds. */
uint64_t clock_ns(void);

#endif
