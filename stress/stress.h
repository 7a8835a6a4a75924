/*
 * stress.h - what the stress programs share: options, seeded generators, threads, mailboxes, the report.
 *
 * A program begins with stress_begin(), runs its threads until time_is_up(), adds figures and the events
 * that it is there for to its one line of output, and ends with stress_end().  Whatever is wrong goes to
 * fail(), which ends the program.  Every random decision of a thread comes from its own generator, seeded
 * by the program's seed and the thread's place, so a seed replays all decisions, though not the schedule.
 */
#ifndef STRESS_H
#define STRESS_H

#include <ouro.h>
#include "base/events.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The options, after stress_begin(). */
struct stress {
    const char *name;
    uint64_t seed;
    unsigned seconds;
    unsigned threads;
};

extern struct stress stress;

/*
 * Reads --seed N, --seconds S and --threads N. Without --threads the seed picks a number from `least` to
 * `most`. From here on a program that takes far longer than asked for ends itself with a sentence.
 */
void stress_begin(int argc, char **argv, const char *name, unsigned least, unsigned most);

/*
 * Says how to tell that what the program is there for has happened. Until then time is not up: a busy machine gets more of it,
 * a second at a time, at most 20 in all. Called by any thread, often. Before there are threads.
 */
void stress_shows(bool (*shown)(void));

/* Adds ` key=value` to the line. */
void stress_value(const char *key, uint64_t value);

/* Adds an event's total to the line; the program has failed if it is below `least`. */
void stress_event(enum event event, uint64_t least);

/* Prints the line. */
void stress_end(void);

/* Says what is wrong, with the command that replays it, and ends the program. Any thread. */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* If the condition does not hold: fail() with the sentence that follows. */
#define CHECK(condition, ...)  \
    do {                       \
        if (!(condition))      \
            fail(__VA_ARGS__); \
    } while (0)

/*
 * Counters of what happened. Relaxed on purpose: anything stronger would order threads that the library has
 * to order, and hide from ThreadSanitizer what it forgets.
 */
typedef _Atomic(uint64_t) counter;

static inline uint64_t count_up(counter *c)
{
    return atomic_fetch_add_explicit(c, 1, memory_order_relaxed);
}

static inline uint64_t count_of(counter *c)
{
    return atomic_load_explicit(c, memory_order_relaxed);
}

/* --- time ---------------------------------------------------------------------------------------- */

uint64_t now_ns(void);

/* True when the seconds that were asked for are over, and see stress_shows(). */
bool time_is_up(void);

/* The next time that is `milliseconds` from now, or the end of the program's time if that is earlier. */
uint64_t time_slice(unsigned milliseconds);

void sleep_us(unsigned microseconds);

/* --- random numbers ------------------------------------------------------------------------------ */

struct random {
    uint64_t state;
};

/* A well mixed function of its argument: for seeds, and for patterns in memory. */
uint64_t mix(uint64_t x);

uint64_t random_next(struct random *random);

/* From 0 to n - 1. */
uint32_t random_below(struct random *random, uint32_t n);

/* True once in n times. */
bool one_in(struct random *random, uint32_t n);

/* --- threads ------------------------------------------------------------------------------------- */

/* Runs in a fresh thread, which is not registered. */
typedef void thread_body(unsigned index, struct random *random, void *argument);

/*
 * Starts `count` threads with the numbers from `first` on, and joins them; the caller is detached
 * meanwhile if it is attached. `salt` makes the generators differ between two calls.
 */
void run_threads(unsigned first, unsigned count, uint64_t salt, thread_body *body, void *argument);

/* Registers the calling thread; fails if it can't be. */
void enter(const char *name);

/* Ends the registration in one of the ways in which that can be done; sometimes leaves it to the thread's end. */
void leave(struct random *random);

/*
 * A script for a few threads that has to go in one order: step_reached(n) lets those go on that are in
 * step_await(n). Waiting is by yielding, without a safepoint, in whatever state the thread is.
 */
void step_restart(void);
void step_reached(unsigned step);
void step_await(unsigned step);
bool step_passed(unsigned step);

/* --- mailboxes ----------------------------------------------------------------------------------- */

/* A reference, or several to the same thing, on its way to another thread. */
struct letter {
    void *thing;
    uint64_t serial; /* which thing: an address may be used again */
    uint32_t count;  /* number of references */
    uint32_t kind;
    size_t bytes;
};

enum { MAILBOX_LETTERS = 32 };

struct mailbox {
    pthread_mutex_t mutex;
    unsigned count;
    struct letter letters[MAILBOX_LETTERS];
};

void mailbox_init(struct mailbox *box);

/*
 * Locks without ever waiting attached: either tries, with safepoints in between, or waits detached. So
 * it is a safepoint; nothing borrowed survives it.
 */
void mutex_lock_politely(pthread_mutex_t *mutex, struct random *random);

/* Puts a letter in; false if the box is full. A safepoint. */
bool mailbox_post(struct mailbox *box, struct random *random, struct letter letter);

/* Takes any letter out; false if there is none. A safepoint. */
bool mailbox_take(struct mailbox *box, struct random *random, struct letter *letter);

#endif
