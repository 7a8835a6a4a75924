/*
 * weakmap_churn.c - weak maps while their keys die, are made at the same addresses again, are brought back, and are garbage.
 *
 * Property: who holds a key finds in each map exactly what was last stored for it.  Each thread has keys of its own, so it
 * knows; the maps are everybody's.  A value carries the serial number of its key: an entry that is taken for another
 * one's, after an address was used again or because an entry was moved or taken out wrongly, shows.  At the end of a round all
 * keys are dropped: after the callbacks each map is empty, and when the maps are gone no object and no buffer is left.
 *
 * The opening script lets one key die, one come back in its finalizer, and one be found by the collector, while another
 * thread grows the map.
 */
#include "stress.h"

#include <string.h>

enum { MAPS = 3, OWN = 24, ROUND_MS = 150 };

struct key {
    ouro_header ouro;
    struct key *partner; /* to make garbage of it */
    uint64_t serial;
    bool stubborn; /* its finalizer brings it back */
};

struct value {
    ouro_header ouro;
    uint64_t serial, version;
};

struct own {
    struct key *key;
    uint64_t version[MAPS]; /* 0: no entry */
};

struct worker {
    unsigned index;
    struct own own[OWN];
};

static const ouro_type *key_type, *value_type;
static ouro_weakmap *maps[MAPS];
static uint64_t round_end;
static counter serials, versions, keys_died, values_died, brought_back, walked, collected;

/* Keys that came back wait here; the next one to come drops the last. */
static ouro_slot returned;

static void key_destroy(void *self)
{
    (void)self;
    count_up(&keys_died);
}

static void value_destroy(void *self)
{
    ((struct value *)self)->serial = 0;
    count_up(&values_died);
}

/* It is whole, out of all maps, and may be put into one again. */
static void key_finalize(void *self)
{
    struct key *key = self;

    CHECK(key->serial, "a finalizer gets a key that is gone");
    for (unsigned m = 0; m < MAPS; m++)
        CHECK(!ouro_weakmap_has(maps[m], key), "a dead key is in a map");
    if (!key->stubborn)
        return;
    CHECK(ouro_weakmap_add(maps[0], key) == OURO_OK, "memory is out");
    count_up(&brought_back);
    CHECK(ouro_slot_store(&returned, key) == OURO_OK, "memory is out");
}

static struct key *key_new(void)
{
    struct key *key = ouro_new(key_type);

    CHECK(key, "memory is out");
    key->serial = count_up(&serials) + 1;
    return key;
}

static void map_set(ouro_weakmap *map, struct key *key, uint64_t version)
{
    struct value *value = ouro_new(value_type);

    CHECK(value, "memory is out");
    value->serial = key->serial;
    value->version = version;
    CHECK(ouro_weakmap_set(map, key, value) == OURO_OK, "memory is out");
    ouro_decref(value);
}

/* The version; 0: none. */
static uint64_t map_get(ouro_weakmap *map, struct key *key)
{
    struct value *value = ouro_weakmap_get(map, key);
    uint64_t version = 0;

    if (value) {
        CHECK(value->serial == key->serial, "key %llu has the value of key %llu",
              (unsigned long long)key->serial, (unsigned long long)value->serial);
        version = value->version;
        ouro_decref(value);
    }
    return version;
}

static void verify(const struct own *own, unsigned m)
{
    uint64_t version = map_get(maps[m], own->key);

    CHECK(version == own->version[m], "key %llu has version %llu in map %u, and should have %llu",
          (unsigned long long)own->key->serial, (unsigned long long)version, m,
          (unsigned long long)own->version[m]);
}

static bool check_pair(ouro_object *key_object, ouro_object *value_object, void *argument)
{
    const struct key *key = (const void *)key_object;
    const struct value *value = (const void *)value_object;

    CHECK(!value || value->serial == key->serial, "a walk shows key %llu with a value of %llu",
          (unsigned long long)key->serial, (unsigned long long)value->serial);
    count_up(&walked);
    ouro_safepoint();
    return !one_in(argument, 50);
}

/* --- the random part --------------------------------------------------------------------------------- */

/* Gives a key up: by itself, in a ring with another one, or to be brought back. */
static void give_up(struct worker *w, struct own *own, struct random *random)
{
    struct own *other = &w->own[random_below(random, OWN)];
    uint32_t dice = random_below(random, 8);

    if (dice == 0 && other->key && other != own) {
        own->key->partner = ouro_incref(other->key);
        other->key->partner = ouro_incref(own->key);
        ouro_decref(other->key);
        *other = (struct own){0};
    } else if (dice == 1) {
        own->key->stubborn = true;
    }
    ouro_decref(own->key);
    *own = (struct own){0};
}

static void step(struct worker *w, struct random *random)
{
    struct own *own = &w->own[random_below(random, OWN)];
    unsigned m = random_below(random, MAPS);
    uint32_t dice = random_below(random, 1000);

    if (!own->key) {
        own->key = key_new();
        for (unsigned i = 0; i < MAPS; i++)
            verify(own, i);
    }
    verify(own, m);
    if (dice < 350 && !own->key->partner) {
        own->version[m] = count_up(&versions) + 1;
        map_set(maps[m], own->key, own->version[m]);
    } else if (dice < 500) {
        CHECK(ouro_weakmap_remove(maps[m], own->key) == (own->version[m] != 0),
              "remove says something else than get");
        own->version[m] = 0;
    } else if (dice < 700 && !own->key->partner) {
        give_up(w, own, random);
    } else if (dice < 705) {
        CHECK(ouro_weakmap_each(maps[m], check_pair, random) == OURO_OK, "memory is out");
    } else if (dice < 708) {
        (void)ouro_weakmap_count(maps[m]);
    } else if (dice < 710) {
        for (size_t found = ouro_collect(); found > 0; found--)
            count_up(&collected);
    }
    ouro_safepoint();
}

static void drop_all(struct worker *w)
{
    for (unsigned i = 0; i < OWN; i++)
        ouro_decref_or_null(w->own[i].key);
    memset(w->own, 0, sizeof w->own);
}

static void worker(unsigned index, struct random *random, void *argument)
{
    struct worker *w = (struct worker *)argument + index;

    enter("worker");
    while (now_ns() < round_end)
        step(w, random);
    drop_all(w);
    leave(random);
}

static void maps_new(void)
{
    for (unsigned m = 0; m < MAPS; m++) {
        maps[m] = ouro_weakmap_new();
        CHECK(maps[m], "memory is out");
    }
}

/* All keys have been dropped: the maps empty themselves, and nothing is left. */
static void check_empty(void)
{
    ouro_memory memory;

    CHECK(ouro_slot_clear(&returned) == OURO_OK, "memory is out");
    ouro_synchronize();
    ouro_collect();
    ouro_synchronize();
    ouro_collect();
    CHECK(ouro_finalizers_waiting() == 0, "a callback still waits");
    for (unsigned m = 0; m < MAPS; m++) {
        CHECK(maps[m]->used == 0, "map %u still has %zu entries", m, maps[m]->used);
        ouro_decref(maps[m]);
        maps[m] = NULL;
    }
    ouro_synchronize();
    ouro_memory_stats(&memory);
    CHECK(memory.objects == 0 && memory.buffers == 0, "%zu objects and %zu buffers are left",
          memory.objects, memory.buffers);
    CHECK(count_of(&keys_died) == count_of(&serials), "%llu keys were made, %llu destroyed",
          (unsigned long long)count_of(&serials), (unsigned long long)count_of(&keys_died));
    CHECK(count_of(&values_died) > 0, "nothing was shown: no value was ever dropped");
}

/* --- the events, for certain ------------------------------------------------------------------------- */

static void prologue_dropper(void)
{
    struct key *keys[3];

    enter("dropper");
    for (unsigned i = 0; i < 3; i++) {
        keys[i] = key_new();
        map_set(maps[0], keys[i], 1);
    }
    step_reached(1);
    ouro_decref(keys[0]);
    keys[1]->stubborn = true;
    ouro_decref(keys[1]);
    keys[2]->partner = keys[2];
    CHECK(ouro_collect() > 0, "a key in a ring was not found");
    step_await(2);
    CHECK(count_of(&brought_back) == 1, "a finalizer did not run");
    ouro_thread_unregister();
}

static void prologue_grower(void)
{
    struct key *keys[64];

    enter("grower");
    step_await(1);
    for (unsigned i = 0; i < 64; i++) {
        keys[i] = key_new();
        map_set(maps[0], keys[i], i + 1);
        ouro_safepoint();
    }
    for (unsigned i = 0; i < 64; i++) {
        CHECK(map_get(maps[0], keys[i]) == i + 1, "an entry is gone");
        ouro_decref(keys[i]);
    }
    ouro_safepoint();
    step_reached(2);
    ouro_thread_unregister();
}

static void prologue(unsigned index, struct random *random, void *argument)
{
    (void)random, (void)argument;
    if (index == 0)
        prologue_dropper();
    else
        prologue_grower();
}

static const ouro_type *register_type(const ouro_type_spec *spec)
{
    const ouro_type *type;

    CHECK(ouro_type_register(spec, &type) == OURO_OK, "a type can't be registered");
    return type;
}

static bool is_shown(void)
{
    return count_of(&brought_back) > 1 && count_of(&walked) > 0 && count_of(&collected) > 0;
}

int main(int argc, char **argv)
{
    static const uint16_t fields[] = {OURO_FIELD(struct key, partner)};
    static struct worker workers[64];
    uint64_t rounds = 0;

    stress_begin(argc, argv, "weakmap_churn", 3, 6);
    stress_shows(is_shown);
    CHECK(stress.threads <= 64, "64 threads at most");
    key_type = register_type(&(ouro_type_spec){.name = "key",
                                               .size = sizeof(struct key),
                                               .fields = fields,
                                               .field_count = 1,
                                               .destroy = key_destroy,
                                               .finalize = key_finalize});
    value_type = register_type(
        &(ouro_type_spec){.name = "value", .size = sizeof(struct value), .destroy = value_destroy});

    enter("main");
    maps_new();
    run_threads(0, 2, 0, prologue, NULL);
    check_empty();
    do {
        maps_new();
        round_end = time_slice(ROUND_MS);
        run_threads(0, stress.threads, ++rounds, worker, workers);
        check_empty();
    } while (!time_is_up());
    ouro_thread_unregister();

    stress_value("rounds", rounds);
    stress_value("keys", count_of(&serials));
    stress_value("values", count_of(&versions));
    stress_value("brought_back", count_of(&brought_back));
    stress_value("walked", count_of(&walked));
    stress_value("collected", count_of(&collected));
    CHECK(is_shown(), "nothing was shown: no key brought back, shown by a walk, or collected");
    stress_value("called_back", event_total(EVENT_WEAK_CALL));
    CHECK(event_total(EVENT_WEAK_CALL) > 0, "nothing was shown: no callback was called");
    stress_event(EVENT_LOCK_WAIT, 0);
    stress_end();
    return 0;
}
