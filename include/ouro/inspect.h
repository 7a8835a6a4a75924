/*
 * ouro/inspect.h - looking at headers and at all objects.
 */
#ifndef OURO_INSPECT_H
#define OURO_INSPECT_H

#include <ouro/base.h>
#include <ouro/object.h>
#include <ouro/type.h>

/* The two count words of a header, and the rest, taken apart. */
typedef struct ouro_header_info {
    uint32_t owner;       /* id of the seat that owns the object; 0: nobody; OURO_ID_IMMORTAL */
    uint32_t owned_count; /* the owner's half of the count */
    int32_t shared_count; /* the half that the others change */
    int64_t count;        /* their sum; OURO_COUNT_IMMORTAL if immortal */
    bool fresh;
    bool merged;
    bool weak;
    bool immortal;
    uint32_t gc;
    uint16_t type; /* 0: the block is free */
    uint8_t lock;
    uint8_t flags;         /* OURO_FLAG_... */
    const char *type_name; /* "free" for 0, "?" if there is no such type */
} ouro_header_info;

OURO_BEGIN_DECLS

/* Takes apart 16 bytes that were copied from an object's address. It needs no object: the bytes may be from a core
 * dump. Any thread; never a safepoint. */
OURO_API void ouro_header_decode(const void *bytes, ouro_header_info *info);

/* The same as one line of text, like snprintf(): returns the length that was needed, without the final 0.
 * Any thread; never a safepoint. */
OURO_API size_t ouro_describe(const void *bytes, char *text, size_t size);

/*
 * Calls `each` for every object that is alive, of all threads, in a stopped world; until it returns false. The
 * objects are borrowed; `each` may read them, count references to them and store those, and may do nothing else
 * with the library: not drop, make, or free anything. Returns the number of calls.
 * Attached; a safepoint.
 */
OURO_API size_t ouro_each_object(bool (*each)(ouro_object *o, void *argument), void *argument);

/*
 * Calls `each` for what each reference field of `o` refers to, in a stopped world, until it returns false: twice if two
 * fields refer to the same object, not for fields that are NULL. `o` needs only to be borrowed. What `each` may do, and
 * what it gets: see ouro_each_object(). Returns the number of calls. Attached, not in a `destroy`; a safepoint.
 */
OURO_API size_t ouro_each_referent(const ouro_object *o,
                                   bool (*each)(ouro_object *referent, void *argument),
                                   void *argument);

/*
 * Calls `each` once for every object that is alive and has a reference field that refers to `o`, whether the collector looks at
 * it or not; otherwise the same. Local variables and globals are not found, nor are weak references. In time proportional to
 * the number of all objects.
 */
OURO_API size_t ouro_each_referrer(const ouro_object *o,
                                   bool (*each)(ouro_object *referrer, void *argument),
                                   void *argument);

/* The id of the seat that the calling thread sits in; 0 if unregistered. Any thread; never a safepoint. */
OURO_API uint32_t ouro_thread_id(void);

OURO_END_DECLS

#ifdef __cplusplus
template <class T>
inline size_t ouro_each_referent(const T *o, bool (*each)(ouro_object *, void *), void *argument)
{
    return ouro_each_referent(ouro_object_of(o), each, argument);
}
template <class T>
inline size_t ouro_each_referrer(const T *o, bool (*each)(ouro_object *, void *), void *argument)
{
    return ouro_each_referrer(ouro_object_of(o), each, argument);
}
#else
#define ouro_each_referent(p, each, argument) \
    (ouro_each_referent)(OURO_OF_CONST(p), (each), (argument))
#define ouro_each_referrer(p, each, argument) \
    (ouro_each_referrer)(OURO_OF_CONST(p), (each), (argument))
#endif

#endif
