/*
 * gc/forced.c - collections at every n-th safepoint, whatever the schedule says.
 *
 * What it is for: tests of programs that use the library.  A reference too few, a borrow that outlives a safepoint, a
 * `visit` that reports less than there is: all need a collection at the wrong moment to be seen, and with this there is one
 * at every moment.  OURO_GC_EVERY=n, or ouro_gc_set_every().
 *
 *   on      the number is stored, then COLLECT set in the word of every seat, as if something were due.  Who attaches
 *           later sees the number, or the bit, or both [S1].
 *   count   each explicit safepoint where an automatic collection may run takes COLLECT out, adds one to the
 *           count of its seat, and puts COLLECT back.  At n it collects: young, old, deep, full in turn, all threads together.
 *   off     the number is 0; the next safepoint of each thread takes the last COLLECT out.
 *
 * So ouro_safepoint() itself knows nothing of it, and costs nothing while it is off.
 *
 * What may surprise: meanwhile the schedule makes no collections of its own (but for the soft limit), since it goes by
 * time, and the limits of forced ones are not those that were measured, but of a fixed speed: a program with one thread does the same each
 * time.  If another thread is collecting when one is due, the next safepoint looks again; waiting for it could block a program
 * that does not block without this.
 */
#include "gc/forced.h"

#include "gc/schedule.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

enum { KINDS = OURO_GC_FULL + 1 };

#define UNREAD SIZE_MAX

static size_t every =
    UNREAD;           /* [atomic] safepoints; 0: off; UNREAD: nobody has read the environment yet */
static uint32_t turn; /* [atomic] collections so far; its rest is the kind of the next one */
static pthread_once_t read_once = PTHREAD_ONCE_INIT;

static size_t number_in(const char *text)
{
    char *end;

    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (*text >= '0' && *text <= '9' && !*end && !errno && number < UNREAD)
        return (size_t)number;
    check_say("ouro: OURO_GC_EVERY is \"%s\": it has to be a number, of safepoints from one forced "
              "collection to the next, or 0 for none; it is ignored\n",
              text);
    return 0;
}

static void read_environment(void)
{
    const char *text = getenv("OURO_GC_EVERY");

    store_relaxed(&every, text && *text ? number_in(text) : (size_t)0);
}

static size_t number(void)
{
    size_t now = load_relaxed(&every);

    if (OURO_UNLIKELY(now == UNREAD)) {
        pthread_once(&read_once, read_environment);
        now = load_relaxed(&every);
    }
    return now;
}

bool forced_is_on(void)
{
    return number() != 0;
}

void forced_ask(struct seat *self)
{
    if (OURO_UNLIKELY(number() != 0) && !(load_relaxed(&self->word) & SEAT_COLLECT))
        /* [S1] nothing hangs on it: only this thread takes COLLECT out */
        fetch_or_acq_rel(&self->word, SEAT_COLLECT);
}

bool forced_is_due(struct seat *self)
{
    size_t limit = number();

    if (!limit || !schedule_is_enabled())
        return false;
    if (self->passed < limit)
        self->passed++;
    return self->passed >= limit;
}

ouro_gc_kind forced_take(struct seat *self)
{
    self->passed = 0;
    return (ouro_gc_kind)(fetch_add_relaxed(&turn, 1u) % KINDS);
}

/* In each word, seen to have it or not: who is seen to have COLLECT may just be taking it out, and has not seen the number. */
static void tell_all(void)
{
    mutex_lock(&seat_registry);
    for (uint32_t id = seat_count(); id > 0; id--)
        /* [S1] release: the number, to who takes COLLECT out, or attaches; run_user_code(), seat_attach() */
        fetch_or_acq_rel(&seat_by_id(id)->word, SEAT_COLLECT);
    mutex_unlock(&seat_registry);
}

void ouro_gc_set_every(size_t safepoints)
{
    (void)number(); /* the environment comes first, and is overruled */
    store_relaxed(&every, safepoints < UNREAD ? safepoints : UNREAD - 1);
    store_relaxed(&turn, 0u);
    if (seat_self)
        seat_self->passed = 0;
    if (safepoints)
        tell_all();
}

size_t ouro_gc_get_every(void)
{
    return number();
}
