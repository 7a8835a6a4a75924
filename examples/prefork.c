/*
 * prefork.c - a server that builds its data once and forks workers: how much memory each of them has of its own.
 *
 * Parent and child share pages until one of them writes.  A reference counter writes whenever it counts, a collector when it
 * looks.  The program makes a tree of a million nodes in each of three fresh processes, and
 *
 *     plain      forks
 *     frozen     says ouro_freeze(0) first: collections don't write to what is frozen
 *     immortal   says ouro_freeze(OURO_FREEZE_IMMORTAL): counting doesn't either
 *
 * Each worker makes garbage and collects it (in full: a young collection looks at what is new only, and dirties little
 * anyway), then walks over the tree, taking and dropping a reference to every
 * node, and says after each how much memory it has dirtied.  The table comes from the kernel (Private_Dirty).
 */
#include <ouro.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DEPTH = 19, WORKERS = 2, GARBAGE = 1000 };

struct node {
    ouro_header ouro;
    struct node *left, *right;
};

static const ouro_type *node_type;

/* What a worker has of its own, in KiB: when it begins, after a collection, after the walk. */
struct report {
    long start, collected, walked;
    size_t nodes;
};

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static long private_dirty(void)
{
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    char line[200];
    long kib = -1;

    if (!file)
        die("/proc/self/smaps_rollup");
    while (kib < 0 && fgets(line, sizeof line, file))
        sscanf(line, "Private_Dirty: %ld", &kib);
    fclose(file);
    return kib;
}

static struct node *node_new(struct node *left, struct node *right)
{
    struct node *node = ouro_new(node_type);

    if (!node)
        die("ouro_new");
    node->left = left;
    node->right = right;
    return node;
}

static struct node *tree_new(int depth)
{
    struct node *left = depth > 0 ? tree_new(depth - 1) : NULL;
    struct node *right = depth > 0 ? tree_new(depth - 1) : NULL;

    return node_new(left, right);
}

/* Takes and drops a reference to every node, as code does that passes them around. */
static size_t walk(struct node *node)
{
    size_t count = 1;

    ouro_incref(node);
    if (node->left)
        count += walk(node->left);
    if (node->right)
        count += walk(node->right);
    ouro_decref(node);
    return count;
}

static void make_garbage(void)
{
    for (int i = 0; i < GARBAGE; i++) {
        struct node *node = node_new(NULL, NULL);

        node->left = node_new(NULL, ouro_incref(node));
        ouro_decref(node);
    }
}

static void work(struct node *tree, int output)
{
    struct report report = {.start = private_dirty()};

    make_garbage();
    if (ouro_collect_kind(OURO_GC_FULL) < (size_t)GARBAGE * 2)
        exit(1);
    report.collected = private_dirty();
    report.nodes = walk(tree);
    report.walked = private_dirty();
    if (write(output, &report, sizeof report) != sizeof report)
        exit(1);
    _exit(0);
}

/* Forks workers and reads the last one's report. */
static struct report serve(struct node *tree)
{
    struct report report;
    int ends[2], status;

    for (int i = 0; i < WORKERS; i++) {
        if (pipe(ends))
            die("pipe");
        pid_t pid = fork(); /* with the handlers of ouro_fork_install() */
        if (pid < 0)
            die("fork");
        if (pid == 0)
            work(tree, ends[1]);
        close(ends[1]);
        if (read(ends[0], &report, sizeof report) != sizeof report)
            die("the report of a worker");
        close(ends[0]);
        if (waitpid(pid, &status, 0) != pid || status != 0)
            die("a worker");
    }
    return report;
}

/* One way, in a process of its own, since what is immortal stays so. */
static void parent(const char *way, int output)
{
    static const uint16_t fields[] = {OURO_FIELD(struct node, left),
                                      OURO_FIELD(struct node, right)};
    ouro_type_spec spec = {
        .name = "node", .size = sizeof(struct node), .fields = fields, .field_count = 2};

    if (ouro_fork_install() || ouro_thread_register("parent") ||
        ouro_type_register(&spec, &node_type))
        exit(1);
    struct node *tree = tree_new(DEPTH);

    ouro_collect_kind(OURO_GC_FULL); /* what is garbage is not to be frozen */
    if (!strcmp(way, "frozen"))
        ouro_freeze(0);
    else if (!strcmp(way, "immortal"))
        ouro_freeze(OURO_FREEZE_IMMORTAL);
    struct report report = serve(tree);

    printf("%-10s %10zu %14ld %14ld %14ld\n", way, report.nodes, report.start, report.collected,
           report.walked);
    fflush(stdout);
    if (write(output, &report, sizeof report) != sizeof report)
        exit(1);
    _exit(0);
}

static struct report run(const char *way)
{
    struct report report;
    int ends[2], status;

    fflush(stdout);
    if (pipe(ends))
        die("pipe");
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0)
        parent(way, ends[1]);
    close(ends[1]);
    if (read(ends[0], &report, sizeof report) != sizeof report)
        die("the report of a parent");
    close(ends[0]);
    if (waitpid(pid, &status, 0) != pid || status != 0)
        die("a parent");
    return report;
}

int main(void)
{
    printf("private memory of a worker that was forked, KiB:\n");
    printf("%-10s %10s %14s %14s %14s\n", "before", "nodes", "at start", "collected", "walked");
    struct report plain = run("plain");
    struct report frozen = run("frozen");
    struct report immortal = run("immortal");

    long plain_dirtied = plain.walked - plain.start;
    long immortal_dirtied = immortal.walked - immortal.start;
    bool collections_spare = (frozen.collected - frozen.start) * 4 < plain.collected - plain.start;

    printf("dirtied: %ld KiB plain, %ld KiB frozen and immortal\n", plain_dirtied,
           immortal_dirtied);
    if (!collections_spare || immortal_dirtied * 10 > plain_dirtied) {
        printf("freezing does not help: something is wrong\n");
        return 1;
    }
    return 0;
}
