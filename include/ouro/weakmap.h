/*
 * ouro/weakmap.h - a table from objects to objects that does not keep its keys alive.
 *
 * A weak map is an object itself: it is counted, may be in fields, slots and globals.  Any number of threads may use one
 * at once.  A key is an object, compared by identity, and held weakly; its value is an object, or NULL, and held like by
 * a field.  So it is a place for what a program wants to know about objects whose types it can't change, or a cache.
 *
 * When a key dies, or the collector finds it to be garbage, its entry is out of sight at once, before the key's finalizer
 * runs; if the finalizer brings the key back, the entry stays gone.  The value is dropped where callbacks of weak
 * references run (ouro/finalize.h): at an explicit safepoint of some thread, for example; or earlier, when the map makes
 * room.
 *
 * The limit of every such table: *a value that refers to its own key, directly or not, keeps it alive*, since the map
 * holds the value, and the value the key.  It lasts until the entry is removed or the map dies; then the collector finds them.
 * Let such a value refer to its key by a weak reference.
 *
 * The map uses the lock of its own object: don't lock it by ouro_lock().  None of these functions may be called in a
 * type's `destroy`, which takes no locks; a finalizer may call them all.  Keys and values need only be borrowed by the
 * caller: what has to outlive a wait is counted first.
 */
#ifndef OURO_WEAKMAP_H
#define OURO_WEAKMAP_H

#include <ouro/base.h>
#include <ouro/object.h>
#include <ouro/slot.h>
#include <ouro/weak.h>

/* Its members are the library's, and are protected by the object's lock. */
typedef struct ouro_weakmap {
    ouro_header ouro;
    ouro_weakref *self; /* the weak reference to this map, for the entries */
    struct ouro_weakmap_entry *entries;
    size_t capacity; /* of `entries`: 0, or a power of two */
    size_t used;     /* entries, those included whose key has died */
} ouro_weakmap;

OURO_BEGIN_DECLS

/* A new, empty map: a new reference. NULL if memory is out. May run `destroy`. Attached; never a safepoint. */
OURO_API OURO_NODISCARD ouro_weakmap *ouro_weakmap_new(void);

/* The value of a key: a new reference; NULL if there is no entry, or if its value is NULL. May run `destroy`. Attached; a
 * safepoint if it has to wait for another thread. */
OURO_API OURO_NODISCARD void *ouro_weakmap_get(const ouro_weakmap *map, const ouro_object *key);

/* Whether there is an entry for a key. May run `destroy`. Attached; a safepoint if it has to wait for another thread. */
OURO_API bool ouro_weakmap_has(const ouro_weakmap *map, const ouro_object *key);

/*
 * Makes an entry, or replaces the value of the one that is there. The map takes references of its own. `value` may be NULL,
 * so that the map serves as a set. OURO_NO_MEMORY: the map is as it was. Runs the `destroy` of what it drops. Attached; a
 * safepoint.
 */
OURO_API OURO_NODISCARD ouro_status ouro_weakmap_set(ouro_weakmap *map, ouro_object *key,
                                                     ouro_object *value);

/* Removes an entry, and returns whether there was one. Runs the `destroy` of what it drops. Attached; a safepoint if it has
 * to wait for another thread. */
OURO_API bool ouro_weakmap_remove(ouro_weakmap *map, const ouro_object *key);

/* Removes all entries. Runs the `destroy` of what it drops. Attached; a safepoint. */
OURO_API void ouro_weakmap_clear(ouro_weakmap *map);

/* The number of entries whose key is alive, in time proportional to the number of entries. Others may change it at once.
 * May run `destroy`. Attached; a safepoint if it has to wait for another thread. */
OURO_API size_t ouro_weakmap_count(const ouro_weakmap *map);

/*
 * Calls `each` for the entries that were there when it was called, in no particular order, until it returns false. It leaves
 * out those whose key has died meanwhile. `each` runs attached and without a lock, borrows key and value, and may do anything,
 * changes of the map included. OURO_NO_MEMORY: `each` was not called. Runs `destroy`. Attached; a safepoint.
 */
OURO_API OURO_NODISCARD ouro_status ouro_weakmap_each(
    const ouro_weakmap *map, bool (*each)(ouro_object *key, ouro_object *value, void *argument),
    void *argument);

OURO_END_DECLS

/* Keys and values of any type. A value may be NULL. */
#ifdef __cplusplus
template <class K>
OURO_NODISCARD inline void *ouro_weakmap_get(const ouro_weakmap *map, const K *key)
{
    return ouro_weakmap_get(map, ouro_object_of(key));
}
template <class K> inline bool ouro_weakmap_has(const ouro_weakmap *map, const K *key)
{
    return ouro_weakmap_has(map, ouro_object_of(key));
}
template <class K, class V>
OURO_NODISCARD inline ouro_status ouro_weakmap_set(ouro_weakmap *map, K *key, V *value)
{
    return ouro_weakmap_set(map, ouro_object_of(key), ouro_object_or_null(value));
}
template <class K>
OURO_NODISCARD inline ouro_status ouro_weakmap_set(ouro_weakmap *map, K *key, decltype(nullptr))
{
    return ouro_weakmap_set(map, ouro_object_of(key), static_cast<ouro_object *>(nullptr));
}
template <class K> inline bool ouro_weakmap_remove(ouro_weakmap *map, const K *key)
{
    return ouro_weakmap_remove(map, ouro_object_of(key));
}
/* Makes an entry without a value. Otherwise like ouro_weakmap_set(). */
template <class K> OURO_NODISCARD inline ouro_status ouro_weakmap_add(ouro_weakmap *map, K *key)
{
    return ouro_weakmap_set(map, ouro_object_of(key), static_cast<ouro_object *>(nullptr));
}
#else
#define ouro_weakmap_get(map, key) (ouro_weakmap_get)((map), OURO_OF_CONST(key))
#define ouro_weakmap_has(map, key) (ouro_weakmap_has)((map), OURO_OF_CONST(key))
#define ouro_weakmap_set(map, key, value) \
    (ouro_weakmap_set)((map), OURO_OF(key), OURO_OF_OR_NULL(value))
#define ouro_weakmap_remove(map, key) (ouro_weakmap_remove)((map), OURO_OF_CONST(key))
/* Makes an entry without a value. Otherwise like ouro_weakmap_set(). */
#define ouro_weakmap_add(map, key)    (ouro_weakmap_set)((map), OURO_OF(key), NULL)
#endif

#endif
