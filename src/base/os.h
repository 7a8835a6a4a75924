/*
 * base/os.h - the whole contract with the operating system: memory, futexes, clock, processors.
 */
#ifndef OURO_BASE_OS_H
#define OURO_BASE_OS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zeroed memory, `bytes` rounded up to pages, at a multiple of `alignment` (a power of two, at least a
 * page). Takes address space only; memory comes with the first touch. NULL if there is none. */
void *os_map(size_t bytes, size_t alignment);
void os_unmap(void *start, size_t bytes);

/* Gives the memory back and keeps the addresses; the content is zero afterwards. Whole pages. False if the system
 * refuses, as it does for locked memory: then nothing has changed. */
bool os_discard(void *start, size_t bytes);

/* Sleeps while *word is `expected`, at most `timeout_ns` (0: no limit); may wake early. False: time is up. */
bool os_futex_wait(const uint32_t *word, uint32_t expected, uint64_t timeout_ns);
void os_futex_wake(const uint32_t *word, int count);

uint64_t os_now_ns(void); /* monotonic */
unsigned os_processors(void);

#endif
