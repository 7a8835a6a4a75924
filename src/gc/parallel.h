/*
 * gc/parallel.h - threads that sleep in a stopped world take part in a pass of the collector: who takes part, what is handed
 * from one to another, when a pass is over.
 *
 * What a pass is, is in gc/pass.h.
 */
#ifndef OURO_GC_PARALLEL_H
#define OURO_GC_PARALLEL_H

#include "thread/seat.h"

enum {
    HELPERS_MAX = 15,
    PLACES = HELPERS_MAX + 1, /* 0: who collects */
    PIECE_OBJECTS = 64,       /* objects that are handed over at a time */
    PIECES = 256,
};

/* Work that anyone may take: objects, or neighbouring fields of a large one. */
struct piece {
    size_t count;
    ouro_ref *fields; /* NULL: `objects` */
    ouro_object *objects[PIECE_OBJECTS];
};

/* What a participant does in a pass: until parallel_idle() says that it is over. */
typedef void parallel_work(struct seat *self, unsigned place);

/* In a stopped world, by who collects: how many helpers there could be for so many objects. 0: it isn't worth it, nobody sleeps
 * there, or none are wanted. */
unsigned parallel_ready(const struct seat *self, size_t objects);

/* By who collects, before and after a collection that helpers may take part in: whether they do, if the program has not said
 * how many, depends on what an object took lately with and without them. Collections of everything are another thing than those of what
 * candidates reach. Not for slices, which are shared with whoever is there. */
void parallel_choose(bool everything);
void parallel_learn(bool everything, size_t objects, uint64_t pause_ns, unsigned helpers);

/* Begins a pass, and wakes helpers: place 0 is the caller's, who does the work, too, and then ends the pass. Waits for no one who
 * has not come. When it has ended all others are out. Returns how many have come. */
void parallel_begin(const struct seat *self, parallel_work *work, unsigned helpers);
unsigned parallel_end(void);

/* A participant has nothing, and has found nothing to take. Sleeps. True: there may be something to take. False: the pass is
 * over. */
bool parallel_idle(void);

/* True if somebody waits for work. A hint. */
bool parallel_is_wanted(void);

/* A piece to fill, then put; NULL: all are in use. */
struct piece *parallel_piece(void);
void parallel_put(struct seat *self, struct piece *piece);

/* A piece to read, then give back, or put again with what is left; NULL: there is none. */
struct piece *parallel_take(void);
void parallel_give_back(struct piece *piece);

/* Hook of the thread layer: the caller sleeps in a stopped world, or did when it was woken. */
void parallel_help(struct seat *self);

/* For tests: sets smaller than that are not worth it (0: what it is at first); `opened` is called when helpers have been woken, `coming` by
 * each of them before it comes. Not while a collection runs. */
void parallel_set_least(size_t objects);
void parallel_set_hooks(void (*opened)(void), void (*coming)(void));
unsigned parallel_present(void); /* helpers that are in the pass */

#endif
