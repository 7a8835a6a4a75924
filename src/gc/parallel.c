/*
 * gc/parallel.c - threads that sleep in a stopped world take part in a pass of the collector.
 *
 * Three words carry it.
 *
 *    gate    OPEN, how many helpers are inside, how many have come                               [P1]
 *            shut --begin (collector)--> OPEN --end (collector)--> shut, and the collector waits for inside to be 0
 *            come    a helper, by compare-exchange, only if OPEN and a place is left: inside + 1, come + 1
 *            leave   inside - 1; the last one wakes the collector if it is shut
 *    crew    how many have work or look for it, how many sleep for want of it, how many pieces were put     [P2]
 *            working --idle--> asleep --a piece is there--> working
 *            put     a number goes up, so that who is about to sleep does not; if somebody sleeps, one is woken
 *    pieces  two maps, `unused` and `full`; a piece with neither bit is in somebody's hands        [P3]
 *            unused --parallel_piece()--> filled --parallel_put()--> full --parallel_take()--> read --back--> unused
 *
 * A pass is over when nobody is working.  Then there is no work: who has put a piece looks through the map before it
 * goes idle, so a full piece has a participant who is working; and who takes one is working before he does.  Somebody who comes
 * late, and is counted as working for a moment, finds nothing.
 *
 * Nobody is waited for who has not come: the collector does all the work if it has to.  Who has come may be stopped by the
 * system at any line; then what it has in its hands waits, a page, a piece or a short stack, and all else goes on.
 *
 * What may surprise: the gate does not tell one pass from the next.  A helper that was woken for one and comes in another
 * is welcome; it can't come in another *stop* before it has acknowledged that one, since the gate is open only while
 * all have.
 *
 * docs/internals/parallel.md, stress/models/parallel.pml
 */
#include "gc/parallel.h"

#include "base/os.h"

#include <ouro/gc.h>

#include <limits.h>

enum {
    LEAST_FIRST = 50000,
    AUTOMATIC = HELPERS_MAX + 1,
    AUTOMATIC_MAX = 3,
    TRY_AGAIN = 16, /* collections after which the other way is tried again */
    MAPS = PIECES / 64,

    /* gate */
    OPEN = 1 << 16,
    COME_ONE = 1 << 8,
    COUNT = 0xFF,

    /* crew */
    ASLEEP_ONE = 1 << 8,
    PUT_ONE = 1 << 16,
};

static uint32_t most = AUTOMATIC;  /* setting; relaxed: a number */
static size_t least = LEAST_FIRST; /* by a test */
static void (*opened)(void);       /* by a test */
static void (*coming)(void);       /* by a test; read with the gate open */
static struct {
    uint64_t ps[2];               /* an object, without and with helpers; 0: not known */
    unsigned since;               /* large ones since the other way was tried */
} lately[2];                      /* [collector] what candidates reach; everything */
static bool excused;              /* [collector] nobody is to help in this collection */
static unsigned limit;            /* helpers of this pass; [collector] before it opens the gate */
static parallel_work *pass;       /* the same */
static alignas(64) uint32_t gate; /* [atomic] [P1] */
static alignas(64) uint32_t crew; /* [atomic] [P2] */
static alignas(64) uint64_t full[MAPS]; /* [atomic] [P3] */
static uint64_t
    in_use[MAPS]; /* [atomic] [P3] the complement of `unused`: all are unused at first */
static struct piece pieces[PIECES]; /* who has taken its bit */

static unsigned working(uint32_t w)
{
    return w & COUNT;
}

static unsigned asleep(uint32_t w)
{
    return w / ASLEEP_ONE & COUNT;
}

/* --- settings ---------------------------------------------------------------------------------------- */

void ouro_gc_set_helpers(unsigned helpers)
{
    store_relaxed(&most, helpers < HELPERS_MAX ? (uint32_t)helpers : (uint32_t)HELPERS_MAX);
}

unsigned ouro_gc_get_helpers(void)
{
    unsigned number = load_relaxed(&most);

    if (number == AUTOMATIC) {
        number = os_processors() - 1;
        if (number > AUTOMATIC_MAX)
            number = AUTOMATIC_MAX;
    }
    return number;
}

void parallel_set_least(size_t objects)
{
    least = objects ? objects : LEAST_FIRST;
}

void parallel_set_hooks(void (*when_opened)(void), void (*when_coming)(void))
{
    opened = when_opened;
    store_relaxed(&coming, when_coming);
}

unsigned parallel_present(void)
{
    return load_relaxed(&gate) & COUNT;
}

/* --- whether it is worth it ---------------------------------------------------------------------------- */

/* Alone at first, then with helpers, then as it was faster. How fast depends on the graph, on how far the processors are from each other, and
 * on what else they do. */
void parallel_choose(bool everything)
{
    const uint64_t *ps = lately[everything].ps;

    if (load_relaxed(&most) != AUTOMATIC)
        return;
    excused = ps[0] == 0 || (ps[1] != 0 && ps[0] <= ps[1]);
    if (lately[everything].since == TRY_AGAIN - 1)
        excused = !excused;
}

void parallel_learn(bool everything, size_t objects, uint64_t pause_ns, unsigned helpers)
{
    uint64_t *ps = lately[everything].ps, *one = &ps[helpers > 0];

    excused = false;
    if (objects < least)
        return;
    uint64_t now = pause_ns * 1000 / objects + 1;
    *one = *one ? (3 * *one + now) / 4 : now;
    if (ps[0] && ps[1])
        lately[everything].since = (lately[everything].since + 1) % TRY_AGAIN;
}

/* --- the pass ---------------------------------------------------------------------------------------- */

unsigned parallel_ready(const struct seat *self, size_t objects)
{
    unsigned wanted = objects < least || excused ? 0 : ouro_gc_get_helpers(), found = 0;

    for (uint32_t id = seat_count(); id > 0 && found < wanted; id--) {
        const struct seat *seat = seat_by_id(id);

        found += seat != self && (load_relaxed(&seat->word) & SEAT_WAIT);
    }
    return found;
}

void parallel_begin(const struct seat *self, parallel_work *work, unsigned helpers)
{
    ASSERT(load_relaxed(&gate) == 0);
    limit = helpers;
    pass = work;
    store_relaxed(&crew, 1u); /* the caller is working */
    /* [P1] release: all that was laid out for this pass; come() */
    fetch_or_acq_rel(&gate, (uint32_t)OPEN);
    for (uint32_t id = seat_count(); id > 0 && helpers > 0; id--) {
        struct seat *seat = seat_by_id(id);

        if (seat != self && seat_invite(seat))
            helpers--;
    }
    if (OURO_UNLIKELY(opened))
        opened();
}

unsigned parallel_end(void)
{
    /* [P1] acquire: all that those did who have left. Nobody comes from here on. */
    uint32_t w = fetch_and_acq_rel(&gate, ~(uint32_t)OPEN) & ~(uint32_t)OPEN;
    unsigned helpers = w / COME_ONE & COUNT;

    while (w & COUNT) {
        os_futex_wait(&gate, w, 0);
        w = load_acquire(&gate); /* [P1] acquire, the same */
    }
    store_relaxed(&gate, 0u);
    ASSERT(working(load_relaxed(&crew)) == 0);
    return helpers < limit ? helpers : limit;
}

/* The place; 0: there is no pass, or no place in it. */
static unsigned come(void)
{
    uint32_t w = load_relaxed(&gate);

    for (;;) {
        unsigned place = (w / COME_ONE & COUNT) + 1;

        /* Read again below: they may change until the gate is seen open by a read-modify-write. */
        if (!(w & OPEN) || place > HELPERS_MAX)
            return 0;
        /* [P1] acquire: what was laid out for this pass; parallel_begin() */
        if (cas_acq_rel(&gate, &w, w + COME_ONE + 1))
            return place;
    }
}

static void leave(void)
{
    /* [P1] release: all that this helper did; parallel_end() */
    uint32_t w = fetch_sub_acq_rel(&gate, 1u) - 1;

    if (!(w & OPEN) && (w & COUNT) == 0)
        os_futex_wake(&gate, 1);
}

void parallel_help(struct seat *self)
{
    void (*hook)(void) = load_relaxed(&coming);

    if (OURO_UNLIKELY(hook))
        hook();
    unsigned place = come();

    if (place == 0) {
        seat_event(self, EVENT_HELP_LATE);
        return;
    }
    if (place <= limit) {
        /* [P2] acq_rel: counted as working before it looks for work */
        fetch_add_acq_rel(&crew, 1u);
        seat_event(self, EVENT_HELP);
        pass(self, place);
    }
    leave();
}

bool parallel_idle(void)
{
    /* [P2] acq_rel: what this one did, to who sees that the pass is over; what was put before it, to this one */
    uint32_t w = fetch_add_acq_rel(&crew, (uint32_t)(ASLEEP_ONE - 1)) + (ASLEEP_ONE - 1);

    if (working(w) == 0)
        os_futex_wake(&crew, INT_MAX);
    for (;;) {
        if (working(w) == 0) {
            /* [P2] acquire: what the others did */
            fetch_sub_acq_rel(&crew, (uint32_t)ASLEEP_ONE);
            return false;
        }
        for (unsigned i = 0; i < MAPS; i++) {
            if (load_relaxed(&full[i])) {
                /* [P2] acq_rel: counted as working before it takes a piece */
                fetch_sub_acq_rel(&crew, (uint32_t)(ASLEEP_ONE - 1));
                return true;
            }
        }
        os_futex_wait(&crew, w, 0);
        w = load_acquire(&crew); /* [P2] acquire: what was put; parallel_put() */
    }
}

bool parallel_is_wanted(void)
{
    return asleep(load_relaxed(&crew)) != 0;
}

/* --- pieces ------------------------------------------------------------------------------------------ */

static uint64_t bit_of(const struct piece *piece)
{
    return (uint64_t)1 << (piece - pieces) % 64;
}

static size_t map_of(const struct piece *piece)
{
    return (size_t)(piece - pieces) / 64;
}

struct piece *parallel_piece(void)
{
    for (size_t i = 0; i < MAPS; i++) {
        uint64_t unused = ~load_relaxed(&in_use[i]);

        while (unused) {
            uint64_t bit = unused & -unused;

            /* [P3] acquire: who had it before has read it; parallel_give_back() */
            unused = ~fetch_or_acq_rel(&in_use[i], bit);
            if (unused & bit)
                return &pieces[i * 64 + (size_t)__builtin_ctzll(bit)];
        }
    }
    return NULL;
}

void parallel_put(struct seat *self, struct piece *piece)
{
    /* [P3] release: what is in it; parallel_take() */
    fetch_or_acq_rel(&full[map_of(piece)], bit_of(piece));
    /* [P2] acq_rel: the piece, to who is about to sleep; or it is asleep by now and is woken. parallel_idle() */
    if (asleep(fetch_add_acq_rel(&crew, (uint32_t)PUT_ONE)))
        os_futex_wake(&crew, 1);
    seat_event(self, EVENT_HELP_PIECE);
}

struct piece *parallel_take(void)
{
    for (size_t i = 0; i < MAPS; i++) {
        /* [P3] acquire: who finds no piece that he has put sees that its taker was working before, and so he is not the last
         * to go idle */
        uint64_t there = load_acquire(&full[i]);

        while (there) {
            uint64_t bit = there & -there;

            /* [P3] acquire: what is in it; parallel_put() */
            there = fetch_and_acq_rel(&full[i], ~bit);
            if (there & bit)
                return &pieces[i * 64 + (size_t)__builtin_ctzll(bit)];
        }
    }
    return NULL;
}

void parallel_give_back(struct piece *piece)
{
    /* [P3] release: it has been read; parallel_piece() */
    fetch_and_acq_rel(&in_use[map_of(piece)], ~bit_of(piece));
}
