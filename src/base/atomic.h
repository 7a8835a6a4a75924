/*
 * base/atomic.h - atomic operations with the memory order in the name.
 *
 * They work on plain integers and pointers, since public headers hold such fields and have to compile as
 * C++ too.  Each use with an order other than relaxed carries an id that is explained in
 * docs/internals/ordering.md.  Builds with OURO_YIELD give up the processor at random, seeded places in
 * front of each of them, so that rare interleavings become common.
 */
#ifndef OURO_BASE_ATOMIC_H
#define OURO_BASE_ATOMIC_H

#include <stdbool.h>
#include <stdint.h>

#if defined(OURO_YIELD) && OURO_YIELD
void yield_point(void); /* base/os.c */
#else
#define yield_point() ((void)0)
#endif

#define load_relaxed(p)         __atomic_load_n((p), __ATOMIC_RELAXED)
#define load_acquire(p)         (yield_point(), __atomic_load_n((p), __ATOMIC_ACQUIRE))
#define store_relaxed(p, v)     __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define store_release(p, v)     (yield_point(), __atomic_store_n((p), (v), __ATOMIC_RELEASE))
#define exchange_acq_rel(p, v)  (yield_point(), __atomic_exchange_n((p), (v), __ATOMIC_ACQ_REL))
#define fetch_add_relaxed(p, v) (yield_point(), __atomic_fetch_add((p), (v), __ATOMIC_RELAXED))
#define fetch_sub_relaxed(p, v) (yield_point(), __atomic_fetch_sub((p), (v), __ATOMIC_RELAXED))
#define fetch_or_relaxed(p, v)  (yield_point(), __atomic_fetch_or((p), (v), __ATOMIC_RELAXED))
#define fetch_add_acq_rel(p, v) (yield_point(), __atomic_fetch_add((p), (v), __ATOMIC_ACQ_REL))
#define fetch_sub_acq_rel(p, v) (yield_point(), __atomic_fetch_sub((p), (v), __ATOMIC_ACQ_REL))
#define fetch_or_acq_rel(p, v)  (yield_point(), __atomic_fetch_or((p), (v), __ATOMIC_ACQ_REL))
#define fetch_and_acq_rel(p, v) (yield_point(), __atomic_fetch_and((p), (v), __ATOMIC_ACQ_REL))

/* Compare and exchange; on failure *expected is what was there. */
#define cas_acq_rel(p, expected, v) \
    (yield_point(),                 \
     __atomic_compare_exchange_n((p), (expected), (v), false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
#define cas_acquire(p, expected, v) \
    (yield_point(),                 \
     __atomic_compare_exchange_n((p), (expected), (v), false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
#define cas_release(p, expected, v) \
    (yield_point(),                 \
     __atomic_compare_exchange_n((p), (expected), (v), false, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
#define cas_relaxed(p, expected, v) \
    (yield_point(),                 \
     __atomic_compare_exchange_n((p), (expected), (v), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))

/* A pause in a spin loop. */
static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
