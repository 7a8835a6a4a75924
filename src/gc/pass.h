/*
 * gc/pass.h - one pass of a trial over a set: by who collects and, if the set is large, by threads that sleep in the stopped
 * world, too.
 */
#ifndef OURO_GC_PASS_H
#define OURO_GC_PASS_H

#include "gc/parallel.h"
#include "gc/trial.h"

#include <stdalign.h>

enum { PASS_FOUND = 8 };

/* What a pass counts. */
struct pass_sum {
    size_t members, marked, garbage;
    bool special; /* see struct trial */
};

/* Who takes part. Number 0 is the collector. */
struct worker {
    alignas(64) ouro_visitor visitor;
    struct seat *self;
    bool shared;  /* others may take part in this pass */
    bool walking; /* trial.c: members are told by their flags */
    struct pass_sum sum;

    /* trial.c: references on their way, and those that are found but not taken off yet; empty between passes */
    unsigned next;
    ouro_object *ring[TRIAL_RING];
    struct found {
        ouro_object *target;
        uint32_t count;
    } found[PASS_FOUND];

    /* mark.c: the stack is from `base` to `top`; what is given away is at the base */
    size_t base, top, limit;
    uint32_t until_look, patience, looks;
    ouro_object *stack[TRIAL_STACK];
};

struct pass {
    void (*work)(struct worker *w); /* until there is nothing left to take */
    void (*page)(struct worker *w, struct page *page);
    struct page *(*next)(struct page *page);
    void (*fields)(ouro_visitor *, ouro_ref *, size_t);
};

/* [stopped] each by its place; by the collector between passes */
extern struct worker workers[PLACES];

/* Makes a pass over the pages from `first` on; helped if there are so many `objects` that it is worth it. True: it was. */
bool pass_run(struct trial *trial, const struct pass *pass, struct page *first, size_t objects,
              struct pass_sum *sum);

/* The same in steps: begun by the caller alone, who may ask for help at any time; true: it was. */
struct worker *pass_begin(struct trial *trial, const struct pass *pass, struct page *first);
bool pass_share(size_t objects);
bool pass_end(struct pass_sum *sum);

/* In a pass: claims a page, which is the caller's from then on, and does `page`; false: there is none left. */
bool pass_page(struct worker *w);

/* For `work`: that for all pages. */
void pass_pages(struct worker *w);

/* For `next`: the pages of the set. */
struct page *pass_next_in_set(struct page *page);

/* Adds a page to the set if it isn't in it. */
void pass_join_set(struct page *page);

/* Neighbouring references of an object: how many of them, the first ones, are the caller's; the rest is left for all. */
size_t pass_leave_fields(struct worker *w, ouro_ref *fields, size_t count);

/* Takes some of the references of a piece, and leaves it if there are more. */
size_t pass_take_fields(struct worker *w, struct piece *piece, ouro_ref **fields);

#endif
