/*
 * thread/hooks.h - calls from the thread layer upwards. One table, filled in by src/gc/hooks.c.
 */
#ifndef OURO_THREAD_HOOKS_H
#define OURO_THREAD_HOOKS_H

#include <stdbool.h>
#include <stddef.h>

struct seat;

struct thread_hooks {
    /* Makes the heap of a new seat. Can't fail. */
    void (*seat_made)(struct seat *seat);

    /* Takes in what is in the inbox of `seat`, which the caller has; `self` is the caller's own. What died goes
     * to the list of `self`. With `bounded` it may stop early, put the rest back and set INBOX. */
    void (*drain)(struct seat *seat, struct seat *self, bool bounded);

    /* Goes on with destroying what waits on the list of `self`, until nothing waits or STOP is set. */
    void (*destroy)(struct seat *self);

    /* A grace period was acknowledged at a safepoint: what waited for it may be ripe, or need another. */
    void (*quiesced)(struct seat *self);

    /* The thread leaves, or parks: what it has retired and not closed has to be left to all. */
    void (*close)(struct seat *self);

    /* The thread is attached: if something waits for a grace period it has to look after it, nobody else may be there; and it may
     * have to look for finalizers, or be forced to collect. */
    void (*attached)(struct seat *self);

    /* RETIRE was set, or the thread leaves. */
    void (*retire)(struct seat *self);

    /* The thread leaves, and may not go on with what waits for a grace period: if something does, others have to look. */
    void (*retire_pass_on)(struct seat *self);

    /* Bytes that wait for a grace period: retired references and buffers, empty pages. */
    size_t (*waiting)(struct seat *self);

    /* Hands over blocks of other seats that are still gathered. */
    void (*flush)(struct seat *self);

    /* The thread leaves, and has queued finalizers or weak callbacks: others have to look. */
    void (*pass_on)(struct seat *self);

    /* The thread ends inside of a finalizer or a weak callback. Attached. */
    void (*abandon)(struct seat *self);

    /* FINALIZE was set, and this is a point where finalizers may run. */
    void (*finalize)(struct seat *self);

    /* COLLECT was set, and this is a point where a collection may run. */
    void (*collect)(struct seat *self);

    /* HELP was set while the thread slept in a stopped world: takes part in what the collector is at, if that still goes on. */
    void (*help)(struct seat *self);
};

extern const struct thread_hooks thread_hooks;

#endif
