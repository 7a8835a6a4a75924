/*
 * stress.c - options, generators, threads, mailboxes and the report of the stress programs.
 */
#include "stress.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct stress stress;

enum { MORE_SECONDS = 20 };

static counter deadline_ns;
static uint64_t last_deadline_ns;
static bool (*shown)(void);
static char line[1024];
static size_t line_length;

static const char *const event_names[EVENT_COUNT] = {
    [EVENT_HINT] = "hint",
    [EVENT_HINT_DIRECT] = "hint_direct",
    [EVENT_PROXY] = "proxy",
    [EVENT_MERGE_DRAIN] = "merge_drain",
    [EVENT_MERGE_OWNER] = "merge_owner",
    [EVENT_OVERFLOW] = "overflow",
    [EVENT_SATURATED] = "saturated",
    [EVENT_PARK] = "park",
    [EVENT_ATTACH_WAIT] = "attach_wait",
    [EVENT_STOP] = "stop",
    [EVENT_GRACE] = "grace",
    [EVENT_FOREIGN_FREE] = "foreign_free",
    [EVENT_PAGE_TAKEN] = "page_taken",
    [EVENT_PAGE_RETIRED] = "page_retired",
    [EVENT_PAGE_RIPE] = "page_ripe",
    [EVENT_DEATH_POLL] = "death_poll",
    [EVENT_RESCAN] = "rescan",
    [EVENT_COLLECT] = "collect",
    [EVENT_VERIFIED] = "verified",
    [EVENT_SLICE] = "slice",
    [EVENT_PIECES] = "pieces",
    [EVENT_PIECES_KEPT] = "pieces_kept",
    [EVENT_HELP] = "help",
    [EVENT_HELP_LATE] = "help_late",
    [EVENT_HELP_PIECE] = "help_piece",
    [EVENT_LOCK_WAIT] = "lock_wait",
    [EVENT_WEAK_CLEARED] = "weak_cleared",
    [EVENT_WEAK_REFUSED] = "weak_refused",
    [EVENT_WEAK_GIVEN_BACK] = "weak_given_back",
    [EVENT_WEAK_CALL] = "weak_call",
    [EVENT_FINALIZED] = "finalized",
    [EVENT_BLOCK_WAITED] = "block_waited",
};

void fail(const char *format, ...)
{
    char text[512];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "%s: %s (replay: --seed 0x%llx --seconds %u --threads %u)\n", stress.name, text,
            (unsigned long long)stress.seed, stress.seconds, stress.threads);
    _exit(1);
}

/* --- options and report -------------------------------------------------------------------------- */

static void on_alarm(int signal_number)
{
    static const char text[] =
        ": it hangs: somebody waits for ever, or everything is far too slow\n";

    (void)signal_number;
    if (write(STDERR_FILENO, stress.name, strlen(stress.name)) < 0 ||
        write(STDERR_FILENO, text, sizeof text - 1) < 0)
        _exit(4);
    _exit(3);
}

static _Noreturn void usage(void)
{
    fprintf(stderr, "usage: %s [--seed N] [--seconds S] [--threads N]\n", stress.name);
    exit(2);
}

static uint64_t number_option(const char *text, uint64_t least, uint64_t most)
{
    char *end;
    unsigned long long value;

    if (!text || *text < '0' || *text > '9')
        usage();
    errno = 0;
    value = strtoull(text, &end, 0);
    if (errno || *end || value < least || value > most)
        usage();
    return value;
}

void stress_begin(int argc, char **argv, const char *name, unsigned least, unsigned most)
{
    stress = (struct stress){.name = name, .seed = 1, .seconds = 2};
    for (int i = 1; i < argc; i += 2) {
        if (!strcmp(argv[i], "--seed"))
            stress.seed = number_option(argv[i + 1], 0, UINT64_MAX);
        else if (!strcmp(argv[i], "--seconds"))
            stress.seconds = (unsigned)number_option(argv[i + 1], 1, 1000000);
        else if (!strcmp(argv[i], "--threads"))
            stress.threads = (unsigned)number_option(argv[i + 1], least, 64);
        else
            usage();
    }
    if (!stress.threads)
        stress.threads = least + (unsigned)(mix(stress.seed) % (most - least + 1));
    deadline_ns = now_ns() + stress.seconds * UINT64_C(1000000000);
    last_deadline_ns = deadline_ns + MORE_SECONDS * UINT64_C(1000000000);
    signal(SIGALRM, on_alarm);
    alarm(stress.seconds * 2 + 30);
    setvbuf(stdout, NULL, _IOLBF, 0);
}

static void line_add(const char *key, uint64_t value)
{
    int length = snprintf(line + line_length, sizeof line - line_length, " %s=%llu", key,
                          (unsigned long long)value);

    CHECK(length > 0 && line_length + (size_t)length < sizeof line,
          "the line of output is too long");
    line_length += (size_t)length;
}

void stress_shows(bool (*is_shown)(void))
{
    shown = is_shown;
}

void stress_value(const char *key, uint64_t value)
{
    line_add(key, value);
}

void stress_event(enum event event, uint64_t least)
{
    uint64_t total = event_total(event);

    CHECK(total >= least,
          "nothing was shown: the event '%s' has to happen %llu times and happened %llu times",
          event_names[event], (unsigned long long)least, (unsigned long long)total);
    line_add(event_names[event], total);
}

void stress_end(void)
{
    printf("%s seed=0x%llx threads=%u%s ok\n", stress.name, (unsigned long long)stress.seed,
           stress.threads, line);
}

/* --- time ---------------------------------------------------------------------------------------- */

uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

bool time_is_up(void)
{
    uint64_t deadline = count_of(&deadline_ns);

    if (now_ns() < deadline)
        return false;
    if (!shown || deadline >= last_deadline_ns || shown())
        return true;
    /* Whoever comes first; slices of time may be longer from here on. */
    atomic_compare_exchange_strong_explicit(&deadline_ns, &deadline,
                                            deadline + UINT64_C(1000000000), memory_order_relaxed,
                                            memory_order_relaxed);
    return false;
}

uint64_t time_slice(unsigned milliseconds)
{
    uint64_t end = now_ns() + milliseconds * UINT64_C(1000000), deadline = count_of(&deadline_ns);

    return end < deadline ? end : deadline;
}

void sleep_us(unsigned microseconds)
{
    struct timespec duration = {.tv_sec = microseconds / 1000000u,
                                .tv_nsec = (long)(microseconds % 1000000u) * 1000};

    nanosleep(&duration, NULL);
}

/* --- random numbers ------------------------------------------------------------------------------ */

uint64_t mix(uint64_t x)
{
    x += UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ x >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ x >> 27) * UINT64_C(0x94D049BB133111EB);
    return x ^ x >> 31;
}

uint64_t random_next(struct random *random)
{
    uint64_t x = random->state;

    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    random->state = x;
    return x * UINT64_C(0x2545F4914F6CDD1D);
}

uint32_t random_below(struct random *random, uint32_t n)
{
    return (uint32_t)(((random_next(random) >> 32) * n) >> 32);
}

bool one_in(struct random *random, uint32_t n)
{
    return random_below(random, n) == 0;
}

/* --- threads ------------------------------------------------------------------------------------- */

struct job {
    pthread_t thread;
    unsigned index;
    struct random random;
    thread_body *body;
    void *argument;
};

static void *job_run(void *argument)
{
    struct job *job = argument;

    job->body(job->index, &job->random, job->argument);
    return NULL;
}

void run_threads(unsigned first, unsigned count, uint64_t salt, thread_body *body, void *argument)
{
    struct job jobs[64];
    bool attached = ouro_thread_state() == OURO_STATE_ATTACHED;

    CHECK(count <= 64, "more than 64 threads were asked for");
    if (attached)
        (void)ouro_detach();
    for (unsigned i = 0; i < count; i++) {
        uint64_t state = mix(stress.seed ^ mix(salt ^ mix(first + i)));

        jobs[i] = (struct job){
            .index = first + i,
            .random = {state ? state : 1},
            .body = body,
            .argument = argument,
        };
        CHECK(pthread_create(&jobs[i].thread, NULL, job_run, &jobs[i]) == 0,
              "a thread can't be started");
    }
    for (unsigned i = 0; i < count; i++)
        pthread_join(jobs[i].thread, NULL);
    if (attached)
        (void)ouro_attach();
}

void enter(const char *name)
{
    ouro_status status = ouro_thread_register(name);

    CHECK(status == OURO_OK, "a thread can't be registered: %s", ouro_status_text(status));
}

void leave(struct random *random)
{
    switch (random_below(random, 4)) {
    case 0: /* the thread ends registered and attached */
        break;
    case 1: /* or registered and detached */
        (void)ouro_detach();
        break;
    case 2:
        (void)ouro_detach();
        ouro_thread_unregister();
        break;
    default:
        ouro_thread_unregister();
    }
}

static atomic_uint step_now;

void step_restart(void)
{
    atomic_store(&step_now, 0);
}

void step_reached(unsigned step)
{
    atomic_store_explicit(&step_now, step, memory_order_release);
}

bool step_passed(unsigned step)
{
    return atomic_load_explicit(&step_now, memory_order_acquire) >= step;
}

void step_await(unsigned step)
{
    while (!step_passed(step))
        sched_yield();
}

/* --- mailboxes ----------------------------------------------------------------------------------- */

void mailbox_init(struct mailbox *box)
{
    *box = (struct mailbox){.count = 0};
    CHECK(pthread_mutex_init(&box->mutex, NULL) == 0, "a mutex can't be made");
}

void mutex_lock_politely(pthread_mutex_t *mutex, struct random *random)
{
    if (one_in(random, 8)) {
        OURO_DETACHED
        {
            pthread_mutex_lock(mutex);
        }
        return;
    }
    while (pthread_mutex_trylock(mutex) != 0) {
        ouro_safepoint();
        sched_yield();
    }
}

bool mailbox_post(struct mailbox *box, struct random *random, struct letter letter)
{
    bool posted = false;

    mutex_lock_politely(&box->mutex, random);
    if (box->count < MAILBOX_LETTERS) {
        box->letters[box->count++] = letter;
        posted = true;
    }
    pthread_mutex_unlock(&box->mutex);
    return posted;
}

bool mailbox_take(struct mailbox *box, struct random *random, struct letter *letter)
{
    bool taken = false;

    mutex_lock_politely(&box->mutex, random);
    if (box->count > 0) {
        struct letter *chosen = &box->letters[random_below(random, box->count)];

        *letter = *chosen;
        *chosen = box->letters[--box->count];
        taken = true;
    }
    pthread_mutex_unlock(&box->mutex);
    return taken;
}
