/*
 * ouro/memory.h - buffers that objects own, and figures about memory.
 *
 * Buffers come from the calling thread's own heap and may be freed by any attached thread.
 */
#ifndef OURO_MEMORY_H
#define OURO_MEMORY_H

#include <ouro/base.h>

OURO_BEGIN_DECLS

/* A buffer of that many bytes, aligned to 16, with any content. NULL if memory is out. 0 bytes: a buffer that
 * may be freed. Attached; never a safepoint. */
OURO_API OURO_NODISCARD void *ouro_alloc(size_t bytes) __attribute__((malloc));

/* The same for an array, all zero; NULL also if the product is too large. Attached; never a safepoint. */
OURO_API OURO_NODISCARD void *ouro_calloc(size_t count, size_t bytes) __attribute__((malloc));

/* A buffer of another size with the same content as far as it goes; NULL: the old one is as it was.
 * `buffer` may be NULL. Attached; never a safepoint. */
OURO_API OURO_NODISCARD void *ouro_realloc(void *buffer, size_t bytes);

/* Gives a buffer back, NULL does nothing. Attached; never a safepoint. */
OURO_API void ouro_free(void *buffer);

/* Memory, in bytes unless the name says otherwise. */
typedef struct ouro_memory {
    size_t objects;      /* number of objects that are alive, garbage not yet found included */
    size_t object_bytes; /* blocks that they occupy */
    size_t buffers;      /* number of buffers */
    size_t buffer_bytes; /* blocks that they occupy */
    /* Of both: what waits for a grace period. What was retired twice counts twice. */
    size_t waiting_bytes;
    size_t page_bytes;  /* pages that hold at least one of these, or are kept for the next ones */
    size_t empty_bytes; /* pages that hold none and have not been given back */
    size_t metadata_bytes; /* descriptors, seats, records: at most so much has been touched */
    size_t reserved_bytes; /* address space, used or not */
    size_t seats;          /* places for threads, in use or not (a number) */
    size_t threads;        /* registered threads (a number) */
} ouro_memory;

/* Fills in the figures, exact as of one moment, for which it stops the world; in time proportional to the
 * number of pages, not of objects. Attached; a safepoint. */
OURO_API void ouro_memory_stats(ouro_memory *stats);

/*
 * Gives all empty pages back to the operating system, those of detached and ended threads included, and
 * returns how many bytes that was. A page that has just become empty may need a second call, after each
 * attached thread has passed a safepoint. Attached; a safepoint.
 */
OURO_API size_t ouro_trim(void);

OURO_END_DECLS

#endif
