/*
 * parse.h - reading package indexes: files, stanzas, the terms of a dependency, versions.
 */
#ifndef DEBGRAPH_PARSE_H
#define DEBGRAPH_PARSE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct package;

/* Where errors in the input go: to standard error, until there are too many. */
struct problems {
    pthread_mutex_t lock;
    size_t count; /* [lock] */
    size_t shown; /* [lock] */
    bool quiet;   /* only count */
};

/* A file in memory. */
struct file {
    const char *path;
    char *text; /* by malloc() */
    size_t size;
};

/* A part of a file that holds whole stanzas, and what a worker made of it. */
struct chunk {
    const struct file *file;
    const char *begin;
    const char *end;
    struct package **packages; /* by malloc(); each a reference that the chunk owns */
    size_t count;
    size_t room;
    size_t provides;
    size_t not_installed;
    /* Filled in when the packages are linked: their place in graph->packages, and sums. */
    size_t first;
    size_t kept;
    size_t names;
    size_t edges;
    size_t unmet;
};

/* Text that is not terminated by 0. */
struct slice {
    const char *text;
    size_t length;
};

enum relation { ANY, EARLIER, EARLIER_OR_SAME, SAME, LATER_OR_SAME, LATER };

/* One alternative of a dependency: "libc6:any (>= 2.36)". */
struct term {
    struct slice name;
    enum relation relation;
    struct slice version;
};

/* Reads a whole file. False: it can't be read, which is reported, or memory is out (*no_memory).
 * Attached; a safepoint. */
bool file_read(struct file *file, const char *path, struct problems *problems, bool *no_memory);

/* Makes packages of the stanzas of a chunk. False: memory is out. Attached; a safepoint. */
bool chunk_parse(struct chunk *chunk, struct problems *problems);

/* Takes one term from *at on, and moves *at to the '|' behind it, or to the end. */
bool term_parse(const char **at, const char *end, struct term *term);

/* Does a version fulfil what the term asks for? `version.text` may be NULL: nothing is known of it. */
bool term_matches(const struct term *term, struct slice version);

#endif
