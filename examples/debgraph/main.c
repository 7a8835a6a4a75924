/*
 * main.c - debgraph: the packages of a Debian system and what they need of each other.
 *
 * It reads package indexes into a graph of Ouro objects, answers questions about it, and then does both
 * at once for a while: threads ask questions while the main thread reads the files again and again and
 * replaces the graph.  The graph is in a slot, which the askers read without a lock and without counting.
 * The old one is dropped when each thread has passed a safepoint and the last long question to it has been
 * answered; it is full of cycles, and the collector frees them.
 */
#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <ouro.h>

#include "graph.h"
#include "parse.h"
#include "query.h"

#define THREADS_MAX        256
#define QUESTIONS_A_SEARCH 2000 /* until a thread asks for all cycles again, which takes long */
#define COLLECTIONS_SHOWN  8

/* A whole distribution is half a million objects, none of which dies while they are made. With the usual
 * threshold, which suits a program that makes and drops small things, loading them would set off two dozen
 * collections that find nothing. */
#define GC_OBJECTS 100000
#define GC_PERCENT 50

struct options {
    unsigned threads;
    double seconds;
    long reloads; /* -1: as many as the time allows */
    const char *why;
    const char *breaks;
    bool cycles;
    char **paths;
    size_t path_count;
};

/* The last collections that there were, as the collector told them. */
struct collections {
    pthread_mutex_t lock;
    size_t count; /* [lock] */
    struct ouro_gc_info
        recent[COLLECTIONS_SHOWN]; /* [lock] the next one goes to count % COLLECTIONS_SHOWN */
};

/* A thread that asks. */
struct asker {
    pthread_t thread;
    const bool *stop; /* [atomic] */
    uint64_t random;
    uint64_t why, breaks, cycles; /* questions answered */
    uint64_t counted; /* those that took a reference to the graph, since they took long */
    uint64_t wrong;
    bool no_memory;
};

/* The graph that questions are put to. Only the main thread stores, so it may use what it has borrowed until
 * it does. */
static ouro_slot current;

static bool out_of_memory(void)
{
    fputs("debgraph: out of memory\n", stderr);
    return false;
}

/* --- options ------------------------------------------------------------------------------------- */

static const char usage[] =
    "usage: debgraph [option]... [file]...\n"
    "\n"
    "Reads Debian package indexes (Packages files or a dpkg status file; default: "
    "/var/lib/dpkg/status)\n"
    "into a graph of objects, and answers questions about it while it is replaced again and "
    "again.\n"
    "\n"
    "  --why PKG      why is PKG there? a shortest chain from a package that nothing needs\n"
    "  --breaks PKG   what can't work any more without PKG?\n"
    "  --cycles       which packages need each other?\n"
    "                 (with none of these: a sample of each)\n"
    "  --threads N    threads that read, and threads that ask (default: the number of processors)\n"
    "  --seconds S    how long they ask (default: 2; 0: not at all)\n"
    "  --reloads N    read the files again that many times (default: as often as the time allows)\n"
    "  --help         this text\n"
    "\n"
    "Exit status: 0; 1 if no package could be read, PKG is not there, memory is out, or an object "
    "was\n"
    "left at the end; 2 if it is called wrongly. Errors in the files are reported, and don't "
    "count.\n";

static bool parse_number(const char *text, double lowest, double highest, double *number)
{
    char *end;

    errno = 0;
    *number = strtod(text, &end);
    return end != text && *end == 0 && errno == 0 && *number >= lowest && *number <= highest;
}

/* Returns an exit status, or -1 to go on. */
static int parse_options(int argc, char **argv, struct options *options)
{
    static const struct option known[] = {
        {"threads", required_argument, NULL, 't'}, {"seconds", required_argument, NULL, 's'},
        {"reloads", required_argument, NULL, 'r'}, {"why", required_argument, NULL, 'w'},
        {"breaks", required_argument, NULL, 'b'},  {"cycles", no_argument, NULL, 'c'},
        {"help", no_argument, NULL, 'h'},          {NULL, 0, NULL, 0},
    };
    static char default_path[] = "/var/lib/dpkg/status";
    static char *default_paths[] = {default_path};
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    double number = 0;
    bool good = true;
    int c;

    *options = (struct options){.seconds = 2, .reloads = -1};
    options->threads = processors < 1             ? 1
                       : processors > THREADS_MAX ? THREADS_MAX
                                                  : (unsigned)processors;
    while (good && (c = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (c) {
        case 't':
            good = parse_number(optarg, 1, THREADS_MAX, &number);
            options->threads = (unsigned)number;
            break;
        case 's':
            good = parse_number(optarg, 0, 1e6, &options->seconds);
            break;
        case 'r':
            good = parse_number(optarg, 0, 1e6, &number);
            options->reloads = (long)number;
            break;
        case 'w':
            options->why = optarg;
            break;
        case 'b':
            options->breaks = optarg;
            break;
        case 'c':
            options->cycles = true;
            break;
        case 'h':
            fputs(usage, stdout);
            return 0;
        default: /* getopt_long() has said it */
            fputs("Try debgraph --help.\n", stderr);
            return 2;
        }
        if (!good)
            fprintf(stderr, "debgraph: \"%s\" is no number that fits here; try --help\n", optarg);
    }
    options->paths = optind < argc ? argv + optind : default_paths;
    options->path_count = optind < argc ? (size_t)(argc - optind) : 1;
    return good ? -1 : 2;
}

/* --- printing ------------------------------------------------------------------------------------ */

static double ms(uint64_t ns)
{
    return (double)ns / 1e6;
}

static double mb(size_t bytes)
{
    return (double)bytes / 1e6;
}

static void print_loaded(const struct graph *graph, const struct load *load,
                         const struct query *query, unsigned threads)
{
    const struct graph_counts *counts = &graph->counts;
    uint32_t largest = 0;
    ouro_memory memory;

    for (size_t i = 0; i < query->group_count; i++) {
        uint32_t size = query->ends[i] - (i ? query->ends[i - 1] : 0);
        largest = size > largest ? size : largest;
    }
    printf("Loaded %.1f MB by %u thread%s in %.0f ms: read %.1f, parse %.1f, link %.1f\n",
           mb(load->bytes), threads, threads > 1 ? "s" : "",
           ms(load->read_ns + load->parse_ns + load->link_ns), ms(load->read_ns),
           ms(load->parse_ns), ms(load->link_ns));
    printf("  packages     %10s   under %s names", grouped(graph->package_count).text,
           grouped(counts->names - counts->virtual_names).text);
    if (counts->not_installed)
        printf("; %s more are not installed", grouped(counts->not_installed).text);
    if (counts->duplicates)
        printf("; %s were there twice", grouped(counts->duplicates).text);
    printf("\n  dependencies %10s   %s of them fulfilled by nothing here\n",
           grouped(counts->dependencies).text, grouped(counts->unmet).text);
    printf("  edges        %10s   from a package to one that can fulfil a dependency\n",
           grouped(counts->edges).text);
    printf("  provides     %10s   with %s names that no package has\n",
           grouped(counts->provides).text, grouped(counts->virtual_names).text);
    printf("  cycles       %10s   groups of packages that need each other",
           grouped(query->group_count).text);
    if (largest)
        printf(", the largest of %u", largest);
    ouro_memory_stats(&memory);
    printf("\n  memory       %10.1f   MB, %.1f of it in %s objects, %.1f in %s buffers\n",
           mb(memory.page_bytes), mb(memory.object_bytes), grouped(memory.objects).text,
           mb(memory.buffer_bytes), grouped(memory.buffers).text);
}

/* --- answers ------------------------------------------------------------------------------------- */

/* Makes a name what the next question is about. False: there is no such package. */
static bool find(struct query *query, const struct graph *graph, const char *name)
{
    if (query_find(query, graph, name))
        return true;
    printf("  There is no package %s here, and none provides it.\n", name);
    return false;
}

/* Answers a question of each kind. */
static void answer_samples(struct query *query, const struct graph *graph)
{
    uint32_t needed = 0; /* the package that can fulfil the most dependencies */

    query_start(query, query_farthest(query, graph));
    answer_why(query, graph, graph->packages[query->starts[0]]->name->text);
    for (uint32_t i = 0; i < graph->package_count; i++)
        if (graph->packages[i]->user_count > graph->packages[needed]->user_count)
            needed = i;
    query_find(query, graph, graph->packages[needed]->name->text);
    answer_breaks(query, graph, graph->packages[needed]->name->text);
    answer_cycles(query, graph, 5);
}

/* Answers what was asked for, or if nothing was, samples. False: there is no such package. */
static bool answer(const struct options *options, struct query *query, const struct graph *graph)
{
    bool found = true;

    printf("\nAnswers\n");
    if (options->why) {
        if (find(query, graph, options->why))
            answer_why(query, graph, options->why);
        else
            found = false;
    }
    if (options->breaks) {
        if (find(query, graph, options->breaks))
            answer_breaks(query, graph, options->breaks);
        else
            found = false;
    }
    if (options->cycles)
        answer_cycles(query, graph, SIZE_MAX);
    if (!options->why && !options->breaks && !options->cycles)
        answer_samples(query, graph);
    query_end(query);
    return found;
}

/* --- collections --------------------------------------------------------------------------------- */

/* The collector calls it. It takes a lock that is never held where a collection can begin. */
static void note_collection(const ouro_gc_info *info, void *argument)
{
    struct collections *collections = argument;

    if (info->phase != OURO_GC_STOP)
        return;
    pthread_mutex_lock(&collections->lock);
    collections->recent[collections->count++ % COLLECTIONS_SHOWN] = *info;
    pthread_mutex_unlock(&collections->lock);
}

static void print_collections(struct collections *collections)
{
    ouro_gc_stats stats;
    struct collections copy;
    size_t first;

    pthread_mutex_lock(&collections->lock);
    copy.count = collections->count;
    memcpy(copy.recent, collections->recent, sizeof copy.recent);
    pthread_mutex_unlock(&collections->lock);
    ouro_gc_get_stats(&stats);
    first = copy.count > COLLECTIONS_SHOWN ? copy.count - COLLECTIONS_SHOWN : 0;
    printf("\nCollections: %s, %s of them automatic; the last ones\n",
           grouped(stats.collections).text, grouped(stats.automatic).text);
    printf("  %7s  %-9s %11s %11s %12s %10s %10s\n", "no", "reason", "examined", "collected",
           "to stop ms", "pause ms", "total ms");
    for (size_t i = first; i < copy.count; i++) {
        const ouro_gc_info *info = &copy.recent[i % COLLECTIONS_SHOWN];

        printf("  %7s  %-9s %11s %11s %12.3f %10.3f %10.3f\n", grouped(info->number).text,
               info->reason == OURO_GC_AUTOMATIC ? "automatic" : "requested",
               grouped(info->candidates).text, grouped(info->collected).text, ms(info->stop_ns),
               ms(info->pause_ns), ms(info->total_ns));
    }
    printf("  all together %29s %12.3f %10.3f %10.3f\n", grouped(stats.collected).text,
           ms(stats.stop_ns_total), ms(stats.pause_ns_total), ms(stats.total_ns));
    printf("  the longest  %29s %12.3f %10.3f\n", "", ms(stats.stop_ns_max),
           ms(stats.pause_ns_max));
}

static void print_memory(const char *when, const ouro_memory *memory)
{
    printf("  %-17s %9s %11.1f %10s %11.1f %9.1f\n", when, grouped(memory->objects).text,
           mb(memory->object_bytes), grouped(memory->buffers).text, mb(memory->buffer_bytes),
           mb(memory->page_bytes));
}

/* Prints what there was and what there is, collects, and prints what is left: one graph. Its empty pages
 * are kept for the next objects, until they are trimmed. */
static void print_memories(const ouro_memory *loaded)
{
    ouro_memory memory;

    printf("\n%-19s %9s %11s %10s %11s %9s\n", "Memory", "objects", "MB", "buffers", "MB",
           "pages MB");
    print_memory("with one graph", loaded);
    ouro_memory_stats(&memory);
    print_memory("after replacing", &memory);
    ouro_collect();
    ouro_memory_stats(&memory);
    print_memory("after collecting", &memory);
    ouro_trim();
    ouro_memory_stats(&memory);
    print_memory("after trimming", &memory);
}

/* --- questions while the graph is replaced ------------------------------------------------------- */

/* The next number of a simple random sequence (xorshift). */
static uint64_t draw(struct asker *asker)
{
    asker->random ^= asker->random << 13;
    asker->random ^= asker->random >> 7;
    asker->random ^= asker->random << 17;
    return asker->random;
}

/* Asks about a package at random, and now and then for the cycles, whose number is known. */
static void ask(struct asker *asker, struct query *query, const struct graph *graph)
{
    uint64_t turn = asker->why + asker->breaks + asker->cycles;

    query_start(query, (uint32_t)(draw(asker) % graph->package_count));
    if (turn % QUESTIONS_A_SEARCH == 0) {
        query_cycles(query, graph);
        asker->cycles++;
        asker->wrong += query->group_count != graph->cycle_count;
    } else if (turn % 2) {
        query_why(query, graph);
        asker->why++;
    } else {
        query_breaks(query, graph);
        asker->breaks++;
    }
    asker->counted += query_end(query);
}

static void *asker_main(void *argument)
{
    struct asker *asker = argument;
    struct query query = {0};

    if (ouro_thread_register("asker")) {
        asker->no_memory = true;
        return NULL;
    }
    while (!asker->no_memory && !__atomic_load_n(asker->stop, __ATOMIC_RELAXED)) {
        const struct graph *graph = ouro_slot_borrow(&current);

        if (query_prepare(&query, graph))
            ask(asker, &query, graph);
        else
            asker->no_memory = true;
        ouro_safepoint(); /* the borrowed graph may be gone from here on */
    }
    ouro_thread_unregister();
    query_release(&query);
    return NULL;
}

/* Makes a graph the current one. The reference is stolen. False: memory is out; the old one stays. */
static bool replace(struct graph *graph)
{
    if (ouro_slot_store_steal(&current, graph)) {
        ouro_decref(graph);
        return false;
    }
    return true;
}

/* Reads the files again and replaces the graph. False: memory is out. */
static bool reload(const struct options *options, struct query *query)
{
    struct problems quiet = {.lock = PTHREAD_MUTEX_INITIALIZER, .quiet = true};
    struct load load;
    struct graph *graph =
        graph_load(options->paths, options->path_count, options->threads, &quiet, &load);

    if (graph && graph->package_count && query_prepare(query, graph)) {
        query_cycles(query, graph);
        graph->cycle_count = query->group_count;
        query_end(query);
        load.no_memory = !replace(graph);
    } else if (
        graph) { /* nothing in the files any more, while somebody writes them: keep the old one */
        load.no_memory = load.no_memory || graph->package_count != 0;
        ouro_decref(graph);
    }
    ouro_synchronize(); /* nobody has the old one borrowed any more, and it is dropped ... */
    ouro_collect();     /* ... and its cycles are garbage, unless a long question keeps it */
    return !load.no_memory;
}

/* Replaces the graph until the time is over, or as often as was asked for. */
static bool reload_for_a_while(const struct options *options, struct query *query, long *reloads,
                               uint64_t *reload_ns)
{
    uint64_t begin = clock_ns();
    uint64_t end = begin + (uint64_t)(options->seconds * 1e9);
    bool good = true;

    while (good && (options->reloads < 0 ? clock_ns() < end : *reloads < options->reloads)) {
        good = reload(options, query);
        ++*reloads;
        ouro_safepoint();
    }
    *reload_ns = clock_ns() - begin;
    OURO_DETACHED
    {
        while (good && clock_ns() < end)
            usleep(1000);
    }
    return good;
}

static bool print_asked(const struct asker *askers, unsigned count, double seconds, long reloads,
                        uint64_t reload_ns)
{
    struct asker sum = {0};

    for (unsigned i = 0; i < count; i++) {
        sum.why += askers[i].why;
        sum.breaks += askers[i].breaks;
        sum.cycles += askers[i].cycles;
        sum.counted += askers[i].counted;
        sum.wrong += askers[i].wrong;
        sum.no_memory |= askers[i].no_memory;
    }
    printf("\nAsked for %.1f s by %u thread%s without a lock, while another replaced the graph\n",
           seconds, count, count == 1 ? "" : "s");
    printf("  questions    %10s   a second: %s why, %s what breaks, %s for all cycles\n",
           grouped((uint64_t)((double)(sum.why + sum.breaks + sum.cycles) / seconds)).text,
           grouped((uint64_t)((double)sum.why / seconds)).text,
           grouped((uint64_t)((double)sum.breaks / seconds)).text,
           grouped((uint64_t)((double)sum.cycles / seconds)).text);
    printf("  counted      %10s   questions that took long, so the graph was counted for them\n",
           grouped(sum.counted).text);
    printf("  replaced     %10ld   times", reloads);
    if (reloads)
        printf(", %.1f ms each, with the collection", ms(reload_ns) / (double)reloads);
    printf("\n  wrong        %10s   answers for cycles that don't fit the graph\n",
           grouped(sum.wrong).text);
    if (sum.no_memory)
        return out_of_memory();
    return sum.wrong == 0;
}

static bool ask_for_a_while(const struct options *options, struct query *query)
{
    struct asker *askers = calloc(options->threads, sizeof *askers);
    bool stop = false, good;
    uint64_t begin = clock_ns(), reload_ns = 0;
    long reloads = 0;
    unsigned count = 0;

    if (!askers)
        return out_of_memory();
    for (; count < options->threads; count++) {
        askers[count] = (struct asker){.stop = &stop, .random = 0x9E3779B97F4A7C15u * (count + 1)};
        if (pthread_create(&askers[count].thread, NULL, asker_main, &askers[count]))
            break;
    }
    good = reload_for_a_while(options, query, &reloads, &reload_ns);
    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    OURO_DETACHED
    {
        for (unsigned i = 0; i < count; i++)
            pthread_join(askers[i].thread, NULL);
    }
    if (!good)
        out_of_memory();
    if (!print_asked(askers, count, (double)(clock_ns() - begin) / 1e9, reloads, reload_ns))
        good = false;
    free(askers);
    return good;
}

/* --- main ---------------------------------------------------------------------------------------- */

/* Loads and shows the graph, and makes it the current one: borrowed. NULL: it is said why. */
static const struct graph *first_load(const struct options *options, struct query *query)
{
    struct problems problems = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct load load;
    struct graph *graph =
        graph_load(options->paths, options->path_count, options->threads, &problems, &load);

    if (problems.count > problems.shown)
        fprintf(stderr, "debgraph: %zu errors, of which the first %zu are shown\n", problems.count,
                problems.shown);
    else if (problems.count)
        fprintf(stderr, "debgraph: %zu error%s\n", problems.count, problems.count == 1 ? "" : "s");
    if (load.no_memory || (graph && !query_prepare(query, graph))) {
        out_of_memory();
        ouro_decref_or_null(graph);
        return NULL;
    }
    if (!graph) {
        fprintf(stderr, "debgraph: %s\n",
                load.files ? "no package in what was read" : "no file could be read");
        return NULL;
    }
    query_cycles(query, graph);
    graph->cycle_count = query->group_count;
    query_end(query);
    print_loaded(graph, &load, query, options->threads);
    if (!replace(graph)) {
        out_of_memory();
        return NULL;
    }
    return graph;
}

/* Gives up the graph, ends the library, and sees that nothing is left. */
static bool end(void)
{
    ouro_memory memory;
    ouro_status status = ouro_slot_clear(&current);

    ouro_synchronize();
    if (!status)
        status = ouro_shutdown(); /* collects what the graph has left */
    ouro_memory_stats(&memory);
    printf("\nAt the end: objects %zu, buffers %zu\n", memory.objects, memory.buffers);
    if (status)
        fprintf(stderr, "debgraph: %s\n", ouro_status_text(status));
    return status == OURO_OK && memory.objects == 0 && memory.buffers == 0;
}

int main(int argc, char **argv)
{
    struct collections collections = {.lock = PTHREAD_MUTEX_INITIALIZER};
    struct query query = {0};
    const struct graph *graph;
    struct options options;
    ouro_memory loaded;
    int status = parse_options(argc, argv, &options);
    bool good;

    if (status >= 0)
        return status;
    if (!graph_init() || ouro_thread_register("main") ||
        ouro_gc_add_callback(note_collection, &collections)) {
        out_of_memory();
        return 1;
    }
    ouro_gc_set_threshold(GC_OBJECTS, GC_PERCENT);
    graph = first_load(&options, &query);
    good = graph != NULL;
    ouro_memory_stats(&loaded);
    if (good && graph->package_count) {
        good = answer(&options, &query, graph);
        if (options.seconds > 0) {
            good = ask_for_a_while(&options, &query) && good;
            print_memories(&loaded);
            print_collections(&collections);
        }
    }
    query_release(&query);
    if (!end())
        good = false;
    return good && fflush(stdout) == 0 ? 0 : 1;
}
