/*
 * graph.c - building the graph.
 *
 * It is built in steps, each of them by all workers, over the chunks that the files were cut into:
 *
 *     parse   stanzas become packages, whose needs are text
 *     name    packages and what they provide get into the index of names
 *     (the main thread numbers the packages; the graph takes them over)
 *     link    needs become dependencies, with references in both directions
 *     sort    the users of each package get into one order, whichever worker came first
 *
 * In the steps `name` and `link` workers write into objects that others made and write into too: a lock of
 * `stripes` protects the bucket of a name, and the users of a package.  Between two steps all workers end.
 */
#include "graph.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "parse.h"

#define STRIPES         64
#define MAX_THREADS     256
#define CHUNK_BYTES_MIN (16 << 10)
#define CHUNKS_A_THREAD 4

/* What the workers share while they build. */
struct build {
    struct chunk *chunks;
    size_t chunk_count;
    struct problems *problems;
    struct index *index; /* a reference of the build's own, until the graph has it */
    struct graph *graph;
    pthread_mutex_t stripes[STRIPES];
    bool (*step)(struct build *build, struct chunk *chunk);
    size_t next; /* [atomic] chunk to be taken */
    bool failed; /* [atomic] memory is out */
};

/* What a worker needs to find the targets of one dependency. */
struct targets {
    struct package **items; /* borrowed */
    size_t count;
    size_t room;
    uint32_t *seen; /* [package] the last dependency, plus 1, that had it as a target */
};

static const ouro_type *name_type, *provision_type, *package_type, *dependency_type, *index_type,
    *graph_type;

/* --- the types ----------------------------------------------------------------------------------- */

static const uint16_t name_fields[] = {
    OURO_FIELD(struct name, next),
    OURO_FIELD(struct name, versions),
    OURO_FIELD(struct name, provisions),
};

static const uint16_t provision_fields[] = {
    OURO_FIELD(struct provision, next),
    OURO_FIELD(struct provision, package),
};

static void package_visit(void *self, ouro_visitor *visitor)
{
    struct package *package = self;

    ouro_visit(visitor, &package->name);
    ouro_visit(visitor, &package->sibling);
    ouro_visit_array(visitor, package->users, package->user_count);
    ouro_visit_array(visitor, package->needs, package->need_count);
}

static void package_destroy(void *self)
{
    struct package *package = self;

    ouro_free(package->users);
    ouro_free(package->text);
}

static void dependency_visit(void *self, ouro_visitor *visitor)
{
    struct dependency *dependency = self;

    ouro_visit(visitor, &dependency->owner);
    ouro_visit_array(visitor, dependency->targets, dependency->count);
}

static void index_visit(void *self, ouro_visitor *visitor)
{
    struct index *index = self;

    ouro_visit_array(visitor, index->buckets, index->mask + 1);
}

static void graph_visit(void *self, ouro_visitor *visitor)
{
    struct graph *graph = self;

    ouro_visit(visitor, &graph->index);
    ouro_visit_array(visitor, graph->packages, graph->package_count);
}

bool graph_init(void)
{
    static const struct {
        ouro_type_spec spec;
        const ouro_type **type;
    } types[] = {
        {{.name = "name",
          .size = sizeof(struct name),
          .item_size = 1,
          .fields = name_fields,
          .field_count = sizeof name_fields / sizeof name_fields[0]},
         &name_type},
        {{.name = "provision",
          .size = sizeof(struct provision),
          .fields = provision_fields,
          .field_count = sizeof provision_fields / sizeof provision_fields[0]},
         &provision_type},
        {{.name = "package",
          .size = sizeof(struct package),
          .item_size = sizeof(struct dependency *),
          .visit = package_visit,
          .destroy = package_destroy},
         &package_type},
        {{.name = "dependency",
          .size = sizeof(struct dependency),
          .item_size = sizeof(struct package *),
          .visit = dependency_visit},
         &dependency_type},
        {{.name = "index",
          .size = sizeof(struct index),
          .item_size = sizeof(struct name *),
          .visit = index_visit},
         &index_type},
        {{.name = "graph",
          .size = sizeof(struct graph),
          .item_size = sizeof(struct package *),
          .visit = graph_visit},
         &graph_type},
    };

    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (ouro_type_register(&types[i].spec, types[i].type))
            return false;
    return true;
}

struct package *package_new(char *text, uint32_t need_count)
{
    struct package *package = ouro_new_array(package_type, need_count);

    if (package) {
        package->text = text;
        package->need_count = need_count;
    }
    return package;
}

/* --- workers ------------------------------------------------------------------------------------- */

void mutex_lock(pthread_mutex_t *mutex)
{
    if (pthread_mutex_trylock(mutex) != 0)
        OURO_DETACHED
        {
            pthread_mutex_lock(mutex);
        }
}

uint64_t clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Takes chunks as long as there are some. */
static void work(struct build *build)
{
    size_t i;

    while ((i = __atomic_fetch_add(&build->next, 1, __ATOMIC_RELAXED)) < build->chunk_count &&
           !__atomic_load_n(&build->failed, __ATOMIC_RELAXED))
        if (!build->step(build, &build->chunks[i]))
            __atomic_store_n(&build->failed, true, __ATOMIC_RELAXED);
}

static void *worker_main(void *argument)
{
    if (ouro_thread_register("worker"))
        return NULL; /* the others do its part */
    work(argument);
    ouro_thread_unregister();
    return NULL;
}

/* Does one step with the help of others; with less help if no more threads can be had. */
static bool run_step(struct build *build, unsigned threads,
                     bool (*step)(struct build *build, struct chunk *chunk))
{
    pthread_t helpers[MAX_THREADS];
    unsigned count = 0;

    build->step = step;
    build->next = 0;
    while (count + 1 < threads && count < MAX_THREADS && count + 1 < build->chunk_count &&
           pthread_create(&helpers[count], NULL, worker_main, build) == 0)
        count++;
    work(build);
    OURO_DETACHED
    { /* they may have to stop the world, so don't hold them up */
        while (count)
            pthread_join(helpers[--count], NULL);
    }
    return !build->failed;
}

static bool step_parse(struct build *build, struct chunk *chunk)
{
    return chunk_parse(chunk, build->problems);
}

/* --- names --------------------------------------------------------------------------------------- */

static uint32_t hash_of(const char *text, size_t length)
{
    uint32_t hash = 2166136261u;

    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)text[i]) * 16777619u;
    return hash ^ hash >> 15;
}

/* The name with that text, borrowed; NULL if there is none. */
static struct name *find_name(const struct index *index, const char *text, size_t length,
                              uint32_t hash)
{
    struct name *name = index->buckets[hash & index->mask];

    while (name && (name->hash != hash || strncmp(name->text, text, length) != 0 ||
                    name->text[length] != 0))
        name = name->next;
    return name;
}

const struct name *graph_find(const struct graph *graph, const char *text, size_t length)
{
    return find_name(graph->index, text, length, hash_of(text, length));
}

/* The name with that text, borrowed from the index, to which it is added if it is new. NULL: memory is
 * out. The caller holds the lock of the bucket. */
static struct name *intern_locked(struct build *build, struct chunk *chunk, struct slice text,
                                  uint32_t hash)
{
    struct name **bucket = &build->index->buckets[hash & build->index->mask];
    struct name *name = find_name(build->index, text.text, text.length, hash);

    if (name)
        return name;
    name = ouro_new_array(name_type, text.length + 1);
    if (!name)
        return NULL;
    memcpy(name->text, text.text, text.length);
    name->hash = hash;
    name->next = *bucket; /* the bucket's reference becomes the new name's ... */
    *bucket = name;       /* ... and the new reference the bucket's */
    chunk->names++;
    return name;
}

static bool is_known_locked(const struct name *name, const struct package *package)
{
    for (const struct package *p = name->versions; p; p = p->sibling)
        if (strcmp(p->version, package->version) == 0 &&
            strcmp(p->architecture, package->architecture) == 0)
            return true;
    return false;
}

static pthread_mutex_t *lock_name(struct build *build, uint32_t hash)
{
    pthread_mutex_t *lock = &build->stripes[hash & build->index->mask & (STRIPES - 1)];

    mutex_lock(lock);
    return lock;
}

/* Gives a package its name, unless the same package is there already. False: memory is out. */
static bool name_package(struct build *build, struct chunk *chunk, struct package *package)
{
    struct slice text = {package->text, strlen(package->text)};
    uint32_t hash = hash_of(text.text, text.length);
    pthread_mutex_t *lock = lock_name(build, hash);
    struct name *name = intern_locked(build, chunk, text, hash);

    if (name && !is_known_locked(name, package)) {
        package->name = ouro_incref(name);
        package->sibling = name->versions; /* moved */
        name->versions = ouro_incref(package);
    }
    pthread_mutex_unlock(lock);
    return name != NULL;
}

/* Adds a package to those that provide a name. False: memory is out. */
static bool add_provision(struct build *build, struct chunk *chunk, struct package *package,
                          const struct term *term)
{
    struct provision *provision = ouro_new(provision_type);
    uint32_t hash = hash_of(term->name.text, term->name.length);
    pthread_mutex_t *lock;
    struct name *name;

    if (!provision)
        return false;
    provision->package = ouro_incref(package);
    provision->version = term->version.text;
    provision->version_length = term->version.length;
    lock = lock_name(build, hash);
    name = intern_locked(build, chunk, term->name, hash);
    if (name) {
        provision->next = name->provisions; /* moved */
        name->provisions = provision;       /* the new reference goes with it */
    }
    pthread_mutex_unlock(lock);
    if (!name)
        ouro_decref(provision);
    return name != NULL;
}

static bool step_name(struct build *build, struct chunk *chunk)
{
    for (size_t i = 0; i < chunk->count; i++) {
        struct package *package = chunk->packages[i];
        const char *item = package->provides;

        if (!name_package(build, chunk, package))
            return false;
        if (!package->name) { /* it is there already */
            chunk->provides -= package->provide_count;
            continue;
        }
        chunk->kept++;
        for (uint32_t k = 0; k < package->provide_count; k++) {
            const char *end = item + strlen(item);
            struct term term;

            if (term_parse(&item, end, &term) && !add_provision(build, chunk, package, &term))
                return false;
            item = end + 1;
        }
        ouro_safepoint();
    }
    return true;
}

/* --- numbers ------------------------------------------------------------------------------------- */

/* Makes the index, with a bucket for each name that there can be. False: memory is out. */
static bool make_index(struct build *build)
{
    size_t names = 0, buckets = STRIPES;

    for (size_t i = 0; i < build->chunk_count; i++)
        names += build->chunks[i].count + build->chunks[i].provides;
    while (buckets < names)
        buckets *= 2;
    build->index = ouro_new_array(index_type, buckets);
    if (build->index)
        build->index->mask = buckets - 1;
    return build->index != NULL;
}

/* Makes the root, which takes over the references to the index and to the packages. The numbers follow the
 * order in the files, whoever parsed what. False: memory is out. */
static bool make_graph(struct build *build)
{
    size_t kept = 0;
    uint32_t needs = 0;
    struct graph *graph;

    for (size_t i = 0; i < build->chunk_count; i++)
        kept += build->chunks[i].kept;
    build->graph = graph = ouro_new_array(graph_type, kept);
    if (!graph)
        return false;
    graph->index = build->index;
    build->index = NULL;
    for (struct chunk *chunk = build->chunks; chunk < build->chunks + build->chunk_count; chunk++) {
        chunk->first = graph->package_count;
        for (size_t i = 0; i < chunk->count; i++) {
            struct package *package = chunk->packages[i];

            if (!package->name) {
                graph->counts.duplicates++;
                ouro_decref(package);
                continue;
            }
            package->number = (uint32_t)graph->package_count;
            package->first_need = needs;
            needs += package->need_count;
            graph->packages[graph->package_count++] = package;
        }
        chunk->count = 0;
        graph->counts.not_installed += chunk->not_installed;
        graph->counts.names += chunk->names;
        ouro_safepoint();
    }
    graph->counts.dependencies = needs;
    return true;
}

/* --- links --------------------------------------------------------------------------------------- */

/* Adds a target of the dependency of that number, unless it is one already. False: memory is out. */
static bool add_target(struct targets *targets, struct package *package, uint32_t number)
{
    if (targets->seen[package->number] == number + 1)
        return true;
    targets->seen[package->number] = number + 1;
    if (targets->count == targets->room) {
        size_t room = targets->room ? targets->room * 2 : 64;
        struct package **items = realloc(targets->items, room * sizeof(struct package *));

        if (!items)
            return false;
        targets->items = items;
        targets->room = room;
    }
    targets->items[targets->count++] = package;
    return true;
}

/* Finds all packages that can fulfil an item. False: memory is out. */
static bool find_targets(const struct build *build, struct targets *targets, const char *item,
                         uint32_t number)
{
    const char *end = item + strlen(item);
    struct term term;

    targets->count = 0;
    for (const char *at = item; at < end && term_parse(&at, end, &term); at++) {
        const struct name *name = graph_find(build->graph, term.name.text, term.name.length);

        if (!name)
            continue;
        for (struct package *p = name->versions; p; p = p->sibling)
            if (term_matches(&term, (struct slice){p->version, strlen(p->version)}) &&
                !add_target(targets, p, number))
                return false;
        for (struct provision *p = name->provisions; p; p = p->next)
            if (term_matches(&term, (struct slice){p->version, p->version_length}) &&
                !add_target(targets, p->package, number))
                return false;
    }
    return true;
}

/* Notes in a package that it can fulfil a dependency, which is counted. False: memory is out. */
static bool add_user(struct build *build, struct package *package, struct dependency *dependency)
{
    pthread_mutex_t *lock = &build->stripes[package->number % STRIPES];
    bool done = true;

    mutex_lock(lock);
    if (package->user_count == package->user_room) {
        uint32_t room = package->user_room ? package->user_room * 2 : 2;
        struct dependency **users =
            ouro_realloc(package->users, room * sizeof(struct dependency *));

        if (users) {
            package->users = users;
            package->user_room = room;
        } else {
            done = false;
        }
    }
    if (done)
        package->users[package->user_count++] = ouro_incref(dependency);
    pthread_mutex_unlock(lock);
    return done;
}

/* Turns the needs of a package into dependencies. False: memory is out. */
static bool link_package(struct build *build, struct chunk *chunk, struct package *package,
                         struct targets *targets)
{
    const char *item = package->depends;

    for (uint32_t i = 0; i < package->need_count; i++, item += strlen(item) + 1) {
        uint32_t number = package->first_need + i;
        struct dependency *dependency;

        if (!find_targets(build, targets, item, number))
            return false;
        dependency = ouro_new_array(dependency_type, targets->count);
        if (!dependency)
            return false;
        package->needs[i] = dependency; /* the new reference is the package's */
        dependency->owner = ouro_incref(package);
        dependency->text = item;
        dependency->number = number;
        dependency->count = (uint32_t)targets->count;
        for (size_t k = 0; k < targets->count; k++)
            dependency->targets[k] = ouro_incref(targets->items[k]);
        for (size_t k = 0; k < targets->count; k++)
            if (!add_user(build, dependency->targets[k], dependency))
                return false;
        chunk->edges += targets->count;
        chunk->unmet += targets->count == 0;
    }
    return true;
}

static bool step_link(struct build *build, struct chunk *chunk)
{
    struct targets targets = {0};
    bool done = true;

    targets.seen = calloc(build->graph->package_count + 1, sizeof(uint32_t));
    if (!targets.seen)
        return false;
    for (size_t i = 0; i < chunk->kept && done; i++) {
        done = link_package(build, chunk, build->graph->packages[chunk->first + i], &targets);
        ouro_safepoint();
    }
    free(targets.items);
    free(targets.seen);
    return done;
}

static int compare_dependencies(const void *a, const void *b)
{
    const struct dependency *const *one = a, *const *other = b;

    return ((*one)->number > (*other)->number) - ((*one)->number < (*other)->number);
}

static bool step_sort(struct build *build, struct chunk *chunk)
{
    for (size_t i = 0; i < chunk->kept; i++) {
        struct package *package = build->graph->packages[chunk->first + i];

        if (package->user_count > 1)
            qsort(package->users, package->user_count, sizeof(struct dependency *),
                  compare_dependencies);
        ouro_safepoint();
    }
    return true;
}

/* --- all together -------------------------------------------------------------------------------- */

/* Cuts a file at blank lines. False: memory is out. */
static bool cut_file(struct build *build, const struct file *file, unsigned threads)
{
    size_t part = file->size / ((size_t)threads * CHUNKS_A_THREAD) + 1;
    const char *at = file->text;
    const char *file_end = file->text + file->size;

    if (part < CHUNK_BYTES_MIN)
        part = CHUNK_BYTES_MIN;
    while (at < file_end) {
        const char *end = file_end;
        struct chunk *chunks =
            realloc(build->chunks, (build->chunk_count + 1) * sizeof(struct chunk));

        if (!chunks)
            return false;
        build->chunks = chunks;
        if ((size_t)(file_end - at) > part) {
            const char *blank = memmem(at + part, (size_t)(file_end - at) - part, "\n\n", 2);
            end = blank ? blank + 2 : file_end;
        }
        chunks[build->chunk_count++] = (struct chunk){.file = file, .begin = at, .end = end};
        at = end;
    }
    return true;
}

static size_t count_virtual_names(const struct index *index)
{
    size_t count = 0;

    for (size_t i = 0; i <= index->mask; i++) {
        for (const struct name *name = index->buckets[i]; name; name = name->next)
            count += !name->versions;
        ouro_safepoint();
    }
    return count;
}

/* Builds a graph of the chunks in build->graph. False: memory is out, or there was no stanza at all. */
static bool build_graph(struct build *build, unsigned threads, struct load *load)
{
    uint64_t begin = clock_ns();
    size_t stanzas = 0;

    if (!run_step(build, threads, step_parse))
        return false;
    for (size_t i = 0; i < build->chunk_count; i++)
        stanzas += build->chunks[i].count + build->chunks[i].not_installed;
    load->parse_ns = clock_ns() - begin;
    if (stanzas == 0)
        return false;
    if (!make_index(build) || !run_step(build, threads, step_name) || !make_graph(build) ||
        !run_step(build, threads, step_link) || !run_step(build, threads, step_sort)) {
        build->failed = true;
        return false;
    }
    for (size_t i = 0; i < build->chunk_count; i++) {
        build->graph->counts.provides += build->chunks[i].provides;
        build->graph->counts.edges += build->chunks[i].edges;
        build->graph->counts.unmet += build->chunks[i].unmet;
    }
    build->graph->counts.virtual_names = count_virtual_names(build->graph->index);
    load->link_ns = clock_ns() - begin - load->parse_ns;
    return true;
}

/* Gives back what the build still has. What was linked by then is full of cycles: garbage. */
static void build_end(struct build *build)
{
    for (size_t i = 0; i < build->chunk_count; i++) {
        for (size_t k = 0; k < build->chunks[i].count; k++)
            ouro_decref(build->chunks[i].packages[k]);
        free(build->chunks[i].packages);
    }
    free(build->chunks);
    ouro_decref_or_null(build->index);
    for (int i = 0; i < STRIPES; i++)
        pthread_mutex_destroy(&build->stripes[i]);
}

struct graph *graph_load(char *const *paths, size_t path_count, unsigned threads,
                         struct problems *problems, struct load *load)
{
    struct build build = {.problems = problems};
    struct file *files = calloc(path_count, sizeof(struct file));
    uint64_t begin = clock_ns();

    *load = (struct load){.no_memory = !files};
    for (int i = 0; i < STRIPES; i++)
        pthread_mutex_init(&build.stripes[i], NULL);
    for (size_t i = 0; files && i < path_count && !load->no_memory; i++)
        if (file_read(&files[i], paths[i], problems, &load->no_memory)) {
            load->files++;
            load->bytes += files[i].size;
            if (!cut_file(&build, &files[i], threads))
                load->no_memory = true;
        }
    load->read_ns = clock_ns() - begin;
    if (!load->no_memory && !build_graph(&build, threads, load)) {
        load->no_memory = build.failed;
        ouro_decref_or_null(build.graph);
        build.graph = NULL;
    }
    build_end(&build);
    for (size_t i = 0; files && i < path_count; i++)
        free(files[i].text);
    free(files);
    return build.graph;
}
