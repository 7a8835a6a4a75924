/*
 * gc/collect.h - a collection from beginning to end.
 */
#ifndef OURO_GC_COLLECT_H
#define OURO_GC_COLLECT_H

struct seat;

/* At a safepoint of a thread whose word has COLLECT: collects if it is due and nobody else is at it. */
void collect_automatic(struct seat *self);

#endif
