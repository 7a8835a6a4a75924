/*
 * ouro.h - the whole public interface of Ouro, a memory-management runtime for threads.
 *
 * Objects begin with a 16-byte header, are counted by whoever refers to them, die promptly, and cycles of
 * them are found by a collector.  References may be held by any thread.
 *
 * Each declaration says what it is for, what state the calling thread has to be in, who owns which
 * reference, and which of these two it is:
 *
 *   never a safepoint   it parks nobody, starts no collection and runs no user code but `destroy`;
 *   a safepoint         it may wait for a stopped world, and some safepoints run user code, as they say.
 *
 * Thread states: *unregistered*; *attached* (may touch objects); *detached* (registered, may not touch
 * objects, holds nobody up).  A function that gives no other rule wants an attached thread; a call from
 * another is reported by a sentence on standard error, and ends the program.
 */
#ifndef OURO_H
#define OURO_H

#include <ouro/base.h>
#include <ouro/object.h>
#include <ouro/type.h>
#include <ouro/slot.h>
#include <ouro/weak.h>
#include <ouro/finalize.h>
#include <ouro/weakmap.h>
#include <ouro/thread.h>
#include <ouro/lock.h>
#include <ouro/memory.h>
#include <ouro/gc.h>
#include <ouro/fork.h>
#include <ouro/inspect.h>

#endif
