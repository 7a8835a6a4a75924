/*
 * cache.c - what several threads find out about documents is kept for as long as the documents live, and no longer.
 *
 *   a weak map        from documents to their statistics: an entry goes with its document
 *   an object's lock  so that two threads that want the same statistics don't both work them out
 *   a finalizer       saves a document that was changed, when nobody has it any more
 *   a weak reference  with a callback: somebody else wants to know that a document is gone
 */
#include <ouro.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { DOCUMENTS = 1000, THREADS = 4, ROUNDS = 3 };

struct document {
    ouro_header ouro;
    struct document *see_also; /* a reference, or NULL */
    bool changed;
    char text[96];
};

struct statistics {
    ouro_header ouro;
    unsigned words;
};

static const ouro_type *document_type, *statistics_type;
static ouro_weakmap *cache; /* a reference */
static struct document *documents[DOCUMENTS];
static ouro_weakref *watching[DOCUMENTS];
static atomic_uint worked_out, asked, saved, gone, dropped;

static void fail(const char *what)
{
    fprintf(stderr, "cache: %s\n", what);
    exit(1);
}

/* Nobody refers to the document any more, but it is whole. */
static void document_finalize(void *self)
{
    atomic_fetch_add(&saved, ((struct document *)self)->changed);
}

static void statistics_destroy(void *self)
{
    (void)self;
    atomic_fetch_add(&dropped, 1);
}

static void document_is_gone(ouro_weakref *ref, ouro_object *unused)
{
    (void)ref, (void)unused;
    atomic_fetch_add(&gone, 1);
}

static ouro_status register_types(void)
{
    static const uint16_t fields[] = {OURO_FIELD(struct document, see_also)};
    const ouro_type_spec document = {.name = "document",
                                     .size = sizeof(struct document),
                                     .fields = fields,
                                     .field_count = 1,
                                     .finalize = document_finalize};
    const ouro_type_spec statistics = {.name = "statistics",
                                       .size = sizeof(struct statistics),
                                       .destroy = statistics_destroy};
    ouro_status status = ouro_type_register(&document, &document_type);

    return status ? status : ouro_type_register(&statistics, &statistics_type);
}

/* A new reference. */
static struct statistics *work_out(const struct document *document)
{
    struct statistics *statistics = ouro_new(statistics_type);

    if (!statistics)
        fail("out of memory");
    statistics->words = 1;
    for (const char *c = document->text; *c; c++)
        statistics->words += *c == ' ';
    atomic_fetch_add(&worked_out, 1);
    return statistics;
}

/* A new reference. The statistics must not refer to the document, or it would live for ever. */
static struct statistics *statistics_of(struct document *document)
{
    struct statistics *statistics = NULL;

    atomic_fetch_add(&asked, 1);
    OURO_LOCKED(document)
    {
        statistics = ouro_weakmap_get(cache, document);
        if (!statistics) {
            statistics = work_out(document);
            if (ouro_weakmap_set(cache, document, statistics) != OURO_OK)
                fail("out of memory");
        }
    }
    return statistics;
}

static void make_documents(void)
{
    ouro_object *nothing = NULL;

    for (unsigned i = 0; i < DOCUMENTS; i++) {
        struct document *document = documents[i] = ouro_new(document_type);

        if (document)
            watching[i] = ouro_weakref_new_callback(document, document_is_gone, nothing);
        if (!document || !watching[i])
            fail("out of memory");
        document->changed = i % 4 == 0;
        snprintf(document->text, sizeof document->text, "this is document %u of %d", i, DOCUMENTS);
    }
}

/* The documents are kept by the main thread, which waits. */
static void *read_documents(void *argument)
{
    unsigned first = *(const unsigned *)argument * DOCUMENTS / THREADS;
    unsigned long words = 0;

    if (ouro_thread_register("reader"))
        fail("a thread can't be registered");
    for (unsigned i = 0; i < ROUNDS * DOCUMENTS; i++) {
        struct statistics *statistics = statistics_of(documents[(first + i) % DOCUMENTS]);

        words += statistics->words;
        ouro_decref(statistics);
        ouro_safepoint();
    }
    if (words != ROUNDS * DOCUMENTS * 6)
        fail("a document has lost a word");
    return NULL; /* a thread that ends is unregistered */
}

static void read_in_threads(void)
{
    static unsigned numbers[THREADS];
    pthread_t threads[THREADS];

    OURO_DETACHED
    {
        for (unsigned i = 0; i < THREADS; i++) {
            numbers[i] = i;
            if (pthread_create(&threads[i], NULL, read_documents, &numbers[i]))
                fail("a thread can't be started");
        }
        for (unsigned i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
    }
}

static void report(const char *when)
{
    printf("%-28s %4zu entries, %4u statistics dropped, %4u documents gone, %3u saved\n", when,
           ouro_weakmap_count(cache), dropped, gone, saved);
}

int main(void)
{
    if (ouro_thread_register("main") || register_types() || !(cache = ouro_weakmap_new()))
        fail("it can't begin");
    make_documents();
    read_in_threads();
    printf("%d threads asked %u times, %u times it was worked out\n", THREADS, asked, worked_out);
    report("all documents in use:");

    for (unsigned i = 0; i < DOCUMENTS / 2; i++)
        ouro_clear(&documents[i]);
    report("half of them given up:"); /* gone from the cache at once ... */
    ouro_safepoint();
    ouro_run_finalizers(); /* ... and the rest at safepoints */
    report("after a safepoint:");

    for (unsigned i = DOCUMENTS / 2; i < DOCUMENTS; i += 2) { /* pairs that refer to each other */
        struct document *one = documents[i], *two = documents[i + 1];

        ouro_move(one, &one->see_also, two); /* the last ways to both are moved, so no drop tells */
        ouro_move(two, &two->see_also, one);
    }
    report("the others in cycles:");
    ouro_collect(); /* would happen by itself at some safepoint */
    report("after a collection:");

    for (unsigned i = 0; i < DOCUMENTS; i++)
        ouro_clear(&watching[i]);
    ouro_decref(cache);
    ouro_memory left;
    ouro_status status = ouro_shutdown();
    ouro_memory_stats(&left);
    if (left.objects || worked_out != DOCUMENTS || gone != DOCUMENTS)
        fail("something is left, or was done twice");
    return status != OURO_OK;
}
