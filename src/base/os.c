/*
 * base/os.c - memory, futexes, clock and processors of Linux.
 */
#include "base/os.h"

#include "base/atomic.h"
#include "base/check.h"
#include "base/fault.h"

#include <errno.h>
#include <linux/futex.h>
#include <limits.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { OS_PAGE = 4096 };

void *os_map(size_t bytes, size_t alignment)
{
    bytes = (bytes + OS_PAGE - 1) & ~(size_t)(OS_PAGE - 1);
    size_t room = alignment > OS_PAGE ? bytes + alignment : bytes;

    if (room < bytes || bytes == 0 || fault_hit())
        return NULL;
    char *start = mmap(NULL, room, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    if (room == bytes)
        return start;

    size_t skip = -(uintptr_t)start & (alignment - 1);
    if (skip)
        os_unmap(start, skip);
    if (room - skip - bytes)
        os_unmap(start + skip + bytes, room - skip - bytes);
    return start + skip;
}

void os_unmap(void *start, size_t bytes)
{
    int failed = munmap(start, bytes);

    /* The kernel may refuse to split a mapping when there are too many; then the addresses are lost. */
    (void)failed;
}

bool os_discard(void *start, size_t bytes)
{
    ASSERT(((uintptr_t)start | bytes) % OS_PAGE == 0);
    while (madvise(start, bytes, MADV_DONTNEED)) {
        if (errno != EAGAIN)
            return false;
    }
    return true;
}

bool os_futex_wait(const uint32_t *word, uint32_t expected, uint64_t timeout_ns)
{
    struct timespec limit = {(time_t)(timeout_ns / 1000000000u), (long)(timeout_ns % 1000000000u)};
    int saved = errno;
    long result =
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, timeout_ns ? &limit : NULL, NULL, 0);
    bool in_time = !(result && errno == ETIMEDOUT);

    errno = saved; /* a safepoint between a system call and its errno must not be felt */
    return in_time;
}

void os_futex_wake(const uint32_t *word, int count)
{
    int saved = errno;

    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
    errno = saved;
}

uint64_t os_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

unsigned os_processors(void)
{
    static unsigned known; /* relaxed: a cached number, the same whoever finds it */
    unsigned count = load_relaxed(&known);

    if (count == 0) {
        cpu_set_t set;

        count = sched_getaffinity(0, sizeof set, &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
        store_relaxed(&known, count);
    }
    return count;
}

#if defined(OURO_YIELD) && OURO_YIELD

/* Gives up the processor in front of one atomic operation in 64. OURO_SEED in the environment seeds it. */
void yield_point(void)
{
    static uint32_t threads;
    static __thread uint64_t state;

    if (state == 0) {
        const char *seed = getenv("OURO_SEED");
        uint64_t first = __atomic_add_fetch(&threads, 1, __ATOMIC_RELAXED);

        state = (first * 0x9E3779B97F4A7C15u) ^ (seed ? strtoull(seed, NULL, 0) : 1u);
        state |= 1;
    }
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    if ((state >> 33) % 64 == 0)
        sched_yield();
}

#endif

#if defined(OURO_CHECK) && OURO_CHECK

static uint64_t fault_countdown; /* relaxed: tests arm it while nothing else runs */
static bool fault_has_fired;

void fault_arm(uint64_t nth)
{
    store_relaxed(&fault_has_fired, false);
    store_relaxed(&fault_countdown, nth);
}

void fault_disarm(void)
{
    store_relaxed(&fault_countdown, 0);
}

bool fault_fired(void)
{
    return load_relaxed(&fault_has_fired);
}

bool fault_hit(void)
{
    uint64_t left = load_relaxed(&fault_countdown);

    do {
        if (left == 0)
            return false;
    } while (!cas_relaxed(&fault_countdown, &left, left - 1));
    if (left != 1)
        return false;
    store_relaxed(&fault_has_fired, true);
    return true;
}

#endif
