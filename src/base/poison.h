/*
 * base/poison.h - tells AddressSanitizer which blocks are free. Nothing in other builds.
 */
#ifndef OURO_BASE_POISON_H
#define OURO_BASE_POISON_H

#include <stdbool.h>
#include <stddef.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define OURO_ASAN 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define OURO_ASAN 1
#endif

#ifdef OURO_ASAN
#include <sanitizer/asan_interface.h>
#define poison(start, bytes)   __asan_poison_memory_region((start), (bytes))
#define unpoison(start, bytes) __asan_unpoison_memory_region((start), (bytes))
#define is_poisoned(p)         (__asan_address_is_poisoned(p) != 0)
#else
#define poison(start, bytes)   ((void)(start), (void)(bytes))
#define unpoison(start, bytes) ((void)(start), (void)(bytes))
#define is_poisoned(p)         ((void)(p), false)
#endif

#endif
