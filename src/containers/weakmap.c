/*
 * containers/weakmap.c - tables from objects to objects that hold their keys weakly.
 *
 * A table of entries with open addressing, under the lock of the map's object.  An entry has a weak reference to the key, with
 * a callback, and the value.  The key is found by the hash of its address, and recognized by the weak reference: its target is
 * the key, or NULL for ever once the key has died, also if there is another object at that address now.
 *
 *    map ---> entries ---> weak reference - - > key         ---> counted
 *     |              \---> value                            - - > not counted
 *     |                         weak reference ---> token   the argument of its callback
 *     \---> weak reference to the map <-------------/
 *
 * The token has the hash, by which the callback finds the entry, and knows the map only weakly: so entries are no cycles,
 * a map dies with its last reference, and a callback that comes too late finds it gone.
 *
 *    set      1 count the arguments   2 lock; replace the value if there is an entry, else say what is missing: a weak
 *             reference, a larger table   3 unlock, make that, go to 2   4 drop what was replaced, or not needed
 *    growing  the living move to the new table; what stays in the old one is dropped with it
 *    death    the weak reference is cleared, by whoever ends the key: now lookups don't find the entry; later its callback
 *             takes the entry out
 *
 * While the lock is held there is no safepoint, nothing is dropped and nothing is allocated.  So `visit`, which runs in
 * a stopped world, always finds a whole table.  What may surprise: an entry is no more than two references and a hash,
 * so taking one out moves those behind it forward (there are no tombstones).  docs/internals/weakmap.md
 */
#include "thread/seat.h"

#include <ouro/lock.h>
#include <ouro/memory.h>
#include <ouro/type.h>
#include <ouro/weakmap.h>

enum { KEY, VALUE };

enum {
    CAPACITY_LEAST = 8,
    POLL_ENTRIES = 64,
    /* Check builds have every eighth place only as a home, so that there are crowds. */
    HOMES_APART = CHECKING ? 8 : 1,
};

struct ouro_weakmap_entry {
    ouro_object *refs[2]; /* KEY: a weak reference, NULL: the place is free. VALUE may be NULL */
    uint64_t hash;
};
typedef struct ouro_weakmap_entry entry;

/* The argument of the callback of an entry's weak reference. */
struct token {
    ouro_header ouro;
    ouro_weakref *map;
    uint64_t hash;
};

/* --- types ------------------------------------------------------------------------------------------- */

static const ouro_type *map_type;   /* [atomic] [N1] NULL: not registered yet */
static const ouro_type *token_type; /* [atomic] [N1] */

/* No mutex, which a fork would have to know of: of two threads that register a type at once one does so in vain. */
static const ouro_type *type_once(const ouro_type **place, const ouro_type_spec *spec)
{
    const ouro_type *type = load_acquire(place); /* [N1] acquire: the type; below */
    const ouro_type *first = NULL;

    if (type)
        return type;
    if (ouro_type_register(spec, &type) != OURO_OK)
        return NULL;
    /* [N1] acq_rel: the type, ours or that of who was faster */
    return cas_acq_rel(place, &first, type) ? type : first;
}

static void visit(void *self, ouro_visitor *visitor)
{
    ouro_weakmap *map = self;

    ouro_visit(visitor, &map->self);
    for (size_t i = 0; i < map->capacity; i++) {
        entry *e = &map->entries[i];

        if (e->refs[KEY] || e->refs[VALUE])
            ouro_visit_array(visitor, e->refs, 2);
    }
}

static void destroy(void *self)
{
    ouro_free(((ouro_weakmap *)self)->entries);
}

ouro_weakmap *ouro_weakmap_new(void)
{
    static const ouro_type_spec spec = {
        .name = "weakmap", .size = sizeof(ouro_weakmap), .visit = visit, .destroy = destroy};

    seat_required("ouro_weakmap_new()");
    const ouro_type *type = type_once(&map_type, &spec);
    ouro_weakmap *map = type ? ouro_new(type) : NULL;

    if (!map)
        return NULL;
    map->self = ouro_weakref_new(map);
    if (!map->self)
        ouro_clear(&map);
    return map;
}

/* --- the table --------------------------------------------------------------------------------------- */

static uint64_t hash_of(const ouro_object *key)
{
    return ((uintptr_t)key >> 4) * UINT64_C(0x9E3779B97F4A7C15);
}

static size_t home_of(uint64_t hash, size_t capacity)
{
    return (size_t)(hash >> 24) & (capacity - 1) & ~(size_t)(HOMES_APART - 1);
}

/* The key, or NULL if it has died. Relaxed: for who holds a reference to an object all that was cleared because of another one
 * at that address has been cleared, and what was made under the lock is there; for others it is a hint. */
static const ouro_object *target_of(const entry *e)
{
    const ouro_weakref *ref = (const void *)e->refs[KEY];

    return load_relaxed(&ref->target);
}

/* The table has a free place, so each search ends. */
static entry *find_locked(const ouro_weakmap *map, const ouro_object *key)
{
    uint64_t hash = hash_of(key);

    if (map->capacity == 0)
        return NULL;
    for (size_t i = home_of(hash, map->capacity); map->entries[i].refs[KEY];
         i = (i + 1) & (map->capacity - 1)) {
        entry *e = &map->entries[i];

        if (e->hash == hash && target_of(e) == key)
            return e;
    }
    return NULL;
}

static entry *find_ref_locked(const ouro_weakmap *map, uint64_t hash, const ouro_weakref *ref)
{
    if (map->capacity == 0)
        return NULL;
    for (size_t i = home_of(hash, map->capacity); map->entries[i].refs[KEY];
         i = (i + 1) & (map->capacity - 1)) {
        if ((const void *)map->entries[i].refs[KEY] == ref)
            return &map->entries[i];
    }
    return NULL;
}

static void put(entry *entries, size_t capacity, const entry *e)
{
    size_t i = home_of(e->hash, capacity);

    while (entries[i].refs[KEY])
        i = (i + 1) & (capacity - 1);
    entries[i] = *e;
}

/* Those behind it move forward, unless they would leave their home behind. The entry's references are the caller's. */
static entry take_out_locked(ouro_weakmap *map, entry *e)
{
    size_t mask = map->capacity - 1, hole = (size_t)(e - map->entries);
    entry taken = *e;

    for (size_t i = (hole + 1) & mask; map->entries[i].refs[KEY]; i = (i + 1) & mask) {
        size_t home = home_of(map->entries[i].hash, map->capacity);

        if (((i - home) & mask) >= ((i - hole) & mask)) {
            map->entries[hole] = map->entries[i];
            hole = i;
        }
    }
    map->entries[hole] = (entry){0};
    map->used--;
    return taken;
}

static size_t living_locked(const ouro_weakmap *map)
{
    size_t count = 0;

    for (size_t i = 0; i < map->capacity; i++)
        count += map->entries[i].refs[KEY] && target_of(&map->entries[i]);
    return count;
}

static bool has_room(size_t capacity, size_t count)
{
    return count <= capacity / 4 * 3;
}

/* --- locking, and dropping --------------------------------------------------------------------------- */

static struct seat *enter(const char *what)
{
    struct seat *self = seat_required(what);

    REQUIRE(!self->in_destroy,
            "%s in a type's destroy: a map takes a lock, which whoever dropped the object may hold",
            what);
    if (OURO_UNLIKELY(self->reading)) /* it may have to wait */
        seat_misuse_point(self, what);
    return self;
}

/* For those that are a safepoint in any case. */
static struct seat *enter_at_safepoint(const char *what)
{
    struct seat *self = enter(what);

    seat_may_pass(self, what);
    return self;
}

/* Locks the map. Returns whether it had to wait; if so it has counted what the caller may only have borrowed. */
static bool lock(ouro_weakmap *map, const ouro_object *key)
{
    if (OURO_LIKELY(ouro_trylock(map)))
        return false;
    ouro_incref(map);
    if (key)
        (ouro_incref)((ouro_object *)(void *)key);
    ouro_lock(map);
    return true;
}

static void unlock(ouro_weakmap *map, const ouro_object *key, bool counted)
{
    ouro_unlock(map);
    if (OURO_LIKELY(!counted))
        return;
    if (key)
        (ouro_decref)((ouro_object *)(void *)key);
    ouro_decref(map);
}

static void drop_entry(const entry *e)
{
    ouro_decref_or_null(e->refs[KEY]);
    ouro_decref_or_null(e->refs[VALUE]);
}

/* A table that is in no map any more. */
static void drop_table(struct seat *self, entry *entries, size_t capacity)
{
    for (size_t i = 0; i < capacity; i++) {
        drop_entry(&entries[i]);
        if (i % POLL_ENTRIES == POLL_ENTRIES - 1)
            seat_poll(self);
    }
    ouro_free(entries);
}

/* The callback of an entry's weak reference. */
static void key_has_died(ouro_weakref *ref, ouro_object *argument)
{
    struct token *token = (void *)argument;
    ouro_weakmap *map = ouro_weakref_get(token->map);
    entry taken = {0};

    if (!map)
        return;
    ouro_lock(map);
    entry *e = find_ref_locked(map, token->hash, ref);
    if (e)
        taken = take_out_locked(map, e);
    ouro_unlock(map);
    drop_entry(&taken);
    ouro_decref(map);
}

/* --- set --------------------------------------------------------------------------------------------- */

/* What a set makes without the lock, and at last what it has to drop. */
struct made {
    ouro_weakref *ref;
    entry *entries;
    size_t capacity;
    size_t wanted;    /* entries for which there has to be room */
    ouro_object *old; /* value that was replaced */
};

enum step { DONE, MAKE_REF, MAKE_ROOM };

static void move_locked(ouro_weakmap *map, struct made *made)
{
    entry *old = map->entries;
    size_t old_capacity = map->capacity, moved = 0;

    for (size_t i = 0; i < old_capacity; i++) {
        if (old[i].refs[KEY] && target_of(&old[i])) {
            put(made->entries, made->capacity, &old[i]);
            old[i] = (entry){0};
            moved++;
        }
    }
    map->entries = made->entries;
    map->capacity = made->capacity;
    map->used = moved;
    made->entries = old;
    made->capacity = old_capacity;
}

/* Whether what has been made has room for all that move, and one more. Keys may die from here to the move, but none comes to
 * life. */
static bool made_enough_locked(const ouro_weakmap *map, struct made *made)
{
    if (made->entries && has_room(made->capacity, map->used + 1))
        return true;
    made->wanted = living_locked(map) + 1;
    return made->entries && has_room(made->capacity, made->wanted);
}

/* DONE: the reference `value` is the map's. */
static enum step set_locked(ouro_weakmap *map, ouro_object *key, ouro_object *value,
                            struct made *made)
{
    entry *e = find_locked(map, key);

    if (e) {
        made->old = e->refs[VALUE];
        e->refs[VALUE] = value;
        return DONE;
    }
    if (!made->ref)
        return MAKE_REF;
    if (!has_room(map->capacity, map->used + 1)) {
        if (!made_enough_locked(map, made))
            return MAKE_ROOM;
        move_locked(map, made);
    }
    put(map->entries, map->capacity,
        &(entry){{(ouro_object *)&made->ref->ouro, value}, hash_of(key)});
    map->used++;
    made->ref = NULL;
    return DONE;
}

static bool make_ref(const ouro_weakmap *map, ouro_object *key, struct made *made)
{
    static const uint16_t fields[] = {OURO_FIELD(struct token, map)};
    static const ouro_type_spec spec = {.name = "weakmap entry",
                                        .size = sizeof(struct token),
                                        .fields = fields,
                                        .field_count = 1,
                                        .flags = OURO_TYPE_ACYCLIC};
    const ouro_type *type = type_once(&token_type, &spec);
    struct token *token = type ? ouro_new(type) : NULL;

    if (!token)
        return false;
    token->map = ouro_incref(map->self);
    token->hash = hash_of(key);
    made->ref = (ouro_weakref_new_callback)(key, key_has_died, (ouro_object *)&token->ouro);
    ouro_decref(token);
    return made->ref != NULL;
}

/* A table that will be half full, at most. */
static bool make_room(struct made *made)
{
    size_t capacity = CAPACITY_LEAST;

    while (capacity / 2 < made->wanted)
        capacity *= 2;
    ouro_free(made->entries);
    made->entries = ouro_calloc(capacity, sizeof *made->entries);
    made->capacity = made->entries ? capacity : 0;
    return made->entries != NULL;
}

ouro_status(ouro_weakmap_set)(ouro_weakmap *map, ouro_object *key, ouro_object *value)
{
    struct seat *self = enter_at_safepoint("ouro_weakmap_set()");
    struct made made = {0};
    enum step step;
    bool failed = false;

    REQUIRE(key, "ouro_weakmap_set() with NULL as the key: a key is an object");
    ouro_incref(map);
    (ouro_incref)(key);
    if (value)
        (ouro_incref)(value);
    do {
        ouro_lock(map);
        step = set_locked(map, key, value, &made);
        ouro_unlock(map);
        if (step == MAKE_REF)
            failed = !make_ref(map, key, &made);
        else if (step == MAKE_ROOM)
            failed = !make_room(&made);
    } while (step != DONE && !failed);

    if (failed)
        ouro_decref_or_null(value);
    if (made.ref)
        ouro_decref(made.ref);
    ouro_decref_or_null(made.old);
    (ouro_decref)(key);
    ouro_decref(map);
    drop_table(self, made.entries, made.capacity);
    return failed ? OURO_NO_MEMORY : OURO_OK;
}

/* --- the others -------------------------------------------------------------------------------------- */

void *(ouro_weakmap_get)(const ouro_weakmap *shared_map, const ouro_object *key)
{
    ouro_weakmap *map = (ouro_weakmap *)shared_map; /* a lookup locks it */
    ouro_object *value = NULL;

    enter("ouro_weakmap_get()");
    bool counted = lock(map, key);
    const entry *e = find_locked(map, key);
    if (e && e->refs[VALUE])
        value = (ouro_incref)(e->refs[VALUE]);
    unlock(map, key, counted);
    return value;
}

bool(ouro_weakmap_has)(const ouro_weakmap *shared_map, const ouro_object *key)
{
    ouro_weakmap *map = (ouro_weakmap *)shared_map;

    enter("ouro_weakmap_has()");
    bool counted = lock(map, key);
    bool found = find_locked(map, key) != NULL;
    unlock(map, key, counted);
    return found;
}

bool(ouro_weakmap_remove)(ouro_weakmap *map, const ouro_object *key)
{
    entry taken = {0};

    enter("ouro_weakmap_remove()");
    bool counted = lock(map, key);
    entry *e = find_locked(map, key);
    if (e)
        taken = take_out_locked(map, e);
    unlock(map, key, counted);
    drop_entry(&taken);
    return taken.refs[KEY] != NULL;
}

void ouro_weakmap_clear(ouro_weakmap *map)
{
    struct seat *self = enter_at_safepoint("ouro_weakmap_clear()");
    bool counted = lock(map, NULL);
    entry *entries = map->entries;
    size_t capacity = map->capacity;

    map->entries = NULL;
    map->capacity = map->used = 0;
    unlock(map, NULL, counted);
    drop_table(self, entries, capacity);
}

size_t ouro_weakmap_count(const ouro_weakmap *shared_map)
{
    ouro_weakmap *map = (ouro_weakmap *)shared_map;

    enter("ouro_weakmap_count()");
    bool counted = lock(map, NULL);
    size_t count = living_locked(map);
    unlock(map, NULL, counted);
    return count;
}

/* --- each -------------------------------------------------------------------------------------------- */

/* What was in the map at one moment, each with references of its own. */
struct snapshot {
    entry *entries;
    size_t capacity, count;
};

/* False: it needs `capacity` entries. */
static bool copy_locked(const ouro_weakmap *map, struct snapshot *copy)
{
    if (map->used == 0)
        return true;
    if (!copy->entries || copy->capacity < map->used) {
        copy->capacity = map->used;
        return false;
    }
    for (size_t i = 0; i < map->capacity; i++) {
        const entry *e = &map->entries[i];

        if (!e->refs[KEY])
            continue;
        (ouro_incref)(e->refs[KEY]);
        if (e->refs[VALUE])
            (ouro_incref)(e->refs[VALUE]);
        copy->entries[copy->count++] = *e;
    }
    return true;
}

static bool snapshot(ouro_weakmap *map, struct snapshot *copy)
{
    for (;;) {
        ouro_lock(map);
        bool done = copy_locked(map, copy);
        ouro_unlock(map);
        if (done)
            return true;
        ouro_free(copy->entries);
        copy->entries = ouro_calloc(copy->capacity, sizeof *copy->entries);
        if (!copy->entries)
            return false;
    }
}

ouro_status ouro_weakmap_each(const ouro_weakmap *shared_map,
                              bool (*each)(ouro_object *key, ouro_object *value, void *argument),
                              void *argument)
{
    struct seat *self = enter_at_safepoint("ouro_weakmap_each()");
    ouro_weakmap *map = (ouro_weakmap *)shared_map;
    struct snapshot copy = {0};
    bool more = true;

    ouro_incref(map);
    bool done = snapshot(map, &copy);
    ouro_decref(map);
    if (!done)
        return OURO_NO_MEMORY;
    for (size_t i = 0; i < copy.count && more; i++) {
        ouro_object *key =
            ouro_weakref_get((const ouro_weakref *)(void *)copy.entries[i].refs[KEY]);

        if (!key)
            continue;
        more = each(key, copy.entries[i].refs[VALUE], argument);
        REQUIRE(seat_attached_self == self,
                "the function of ouro_weakmap_each() has returned detached: put back what was, by "
                "ouro_restore()");
        (ouro_decref)(key);
    }
    drop_table(self, copy.entries, copy.count);
    return OURO_OK;
}
