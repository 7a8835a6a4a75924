/*
 * test_type.c - registering types: what is refused, what is copied, threads, the limit.
 */

#include "support.h"

#include <stdio.h>

TestSuite(type, .init = enter, .fini = leave);

static void visit_nothing(void *self, ouro_visitor *visitor)
{
    (void)self;
    (void)visitor;
}

/* A spec that is right but for what a test changes. */
static ouro_type_spec good_spec(void)
{
    return (ouro_type_spec){.name = "good", .size = sizeof(struct node)};
}

static void assert_refused(const ouro_type_spec *spec, const char *why)
{
    const ouro_type *type = node_type;
    ouro_status status = ouro_type_register(spec, &type);

    cr_assert_eq(status, OURO_INVALID, "%s: %s", why, ouro_status_text(status));
    cr_assert_null(type, "%s: the type is not NULL", why);
}

Test(type, needs_a_name)
{
    ouro_type_spec spec = good_spec();

    spec.name = NULL;
    assert_refused(&spec, "no name");
}

Test(type, refuses_sizes)
{
    static const size_t sizes[] = {0, 1, 8, 15, ((size_t)1 << 40) + 1, SIZE_MAX};

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        ouro_type_spec spec = good_spec();

        spec.size = sizes[i];
        assert_refused(&spec, "size");
    }
}

Test(type, refuses_fields_at_wrong_places)
{
    /* In the header, not aligned, over the end, behind it. */
    static const uint16_t offsets[] = {0, 8, 17, 20, 23, 30, 33, 36, 40, 48, 65528, 65535};
    static const uint16_t good = 16;

    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++) {
        uint16_t fields[] = {good, offsets[i]};
        ouro_type_spec spec = good_spec();

        spec.fields = fields;
        spec.field_count = 2;
        spec.size = 36;
        assert_refused(&spec, "offset");
    }
}

Test(type, refuses_a_field_given_twice)
{
    static const uint16_t fields[] = {16, 24, 32, 24};
    ouro_type_spec spec = good_spec();

    spec.fields = fields;
    spec.field_count = 4;
    assert_refused(&spec, "twice");
}

Test(type, refuses_fields_beside_visit)
{
    static const uint16_t fields[] = {16};
    ouro_type_spec spec = good_spec();

    spec.fields = fields;
    spec.field_count = 1;
    spec.visit = visit_nothing;
    assert_refused(&spec, "fields and visit");
}

Test(type, refuses_unknown_flags)
{
    for (unsigned bit = 1; bit < 32; bit++) {
        ouro_type_spec spec = good_spec();

        spec.flags = 1u << bit;
        assert_refused(&spec, "flag");
        spec.flags |= OURO_TYPE_ACYCLIC;
        assert_refused(&spec, "flag beside a known one");
    }
}

Test(type, a_refused_one_leaves_no_trace)
{
    ouro_type_spec spec = good_spec();
    const ouro_type *type;
    ouro_object *before, *after;
    ouro_header_info first, second;

    cr_assert_eq(ouro_type_register(&spec, &type), OURO_OK);
    before = ouro_new(type);
    spec.flags = 1u << 31;
    assert_refused(&spec, "flag");
    spec.flags = 0;
    cr_assert_eq(ouro_type_register(&spec, &type), OURO_OK);
    after = ouro_new(type);
    cr_assert(before && after);
    ouro_header_decode(before, &first);
    ouro_header_decode(after, &second);
    cr_assert_eq(second.type, first.type + 1);
    ouro_decref(before);
    ouro_decref(after);
}

Test(type, takes_the_smallest_and_the_largest)
{
    ouro_type_spec spec = good_spec();
    const ouro_type *type = NULL;

    spec.size = sizeof(ouro_header);
    cr_assert_eq(ouro_type_register(&spec, &type), OURO_OK);
    cr_assert_not_null(type);
    ouro_object *o = ouro_new(type);
    cr_assert_not_null(o);
    ouro_decref(o);

    spec.size = (size_t)1 << 40;
    type = NULL;
    cr_assert_eq(ouro_type_register(&spec, &type), OURO_OK);
    cr_assert_not_null(type);
}

Test(type, copies_the_name_and_the_fields)
{
    char name[] = "before";
    uint16_t fields[] = {OURO_FIELD(struct node, left)};
    ouro_type_spec spec = {
        .name = name, .size = sizeof(struct node), .fields = fields, .field_count = 1};
    const ouro_type *type;

    cr_assert_eq(ouro_type_register(&spec, &type), OURO_OK);
    memcpy(name, "xxxxxx", sizeof name - 1);
    fields[0] = 8;
    memset(&spec, 0xFF, sizeof spec);
    cr_assert_str_eq(ouro_type_name(type), "before");

    struct node *node = ouro_new(type);
    cr_assert_not_null(node);
    node->left = node_new(NULL, NULL);
    ouro_decref(node);
    cr_assert_eq(nodes_destroyed, 1);
}

Test(type, long_names_and_equal_names)
{
    char name[2000];
    ouro_type_spec spec = good_spec();
    const ouro_type *first, *second;

    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    spec.name = name;
    cr_assert_eq(ouro_type_register(&spec, &first), OURO_OK);
    cr_assert_eq(ouro_type_register(&spec, &second), OURO_OK);
    cr_assert_neq(first, second);
    cr_assert_str_eq(ouro_type_name(first), name);
    cr_assert_str_eq(ouro_type_name(second), name);
}

Test(type, fields_and_visit_find_the_same_references)
{
    struct node *node = node_new(node_new(NULL, NULL), node_new(NULL, NULL));
    struct array *array = array_new(2);

    array->items[0] = OURO_OF(node_new(NULL, NULL));
    array->items[1] = OURO_OF(node);
    ouro_decref(array);
    cr_assert_eq(arrays_destroyed, 1);
    cr_assert_eq(nodes_destroyed, 4);
}

Test(type, the_last_field_that_an_offset_reaches)
{
    static const uint16_t fields[] = {65528, 16};
    ouro_type_spec spec = {.name = "wide", .size = 65536, .fields = fields, .field_count = 2};
    const ouro_type *type;

    cr_assert_eq(ouro_type_register(&spec, &type), OURO_OK);
    char *wide = ouro_new(type);
    cr_assert_not_null(wide);
    struct node *child = node_new(NULL, NULL);
    memcpy(wide + 65528, &child, sizeof child);
    ouro_decref((ouro_object *)(void *)wide);
    cr_assert_eq(nodes_destroyed, 1);
}

Test(type, many_fields)
{
    enum { COUNT = 500 };
    static uint16_t fields[COUNT];
    ouro_type_spec spec = {.name = "many", .size = 16 + 8 * COUNT};
    const ouro_type *type;

    for (size_t i = 0; i < COUNT; i++)
        fields[i] = (uint16_t)(16 + 8 * i);
    spec.fields = fields;
    spec.field_count = COUNT;
    cr_assert_eq(ouro_type_register(&spec, &type), OURO_OK);
    struct node **many = ouro_new(type);
    cr_assert_not_null(many);
    for (size_t i = 0; i < COUNT; i++)
        many[2 + i] = node_new(NULL, NULL);
    ouro_decref((ouro_object *)(void *)many);
    cr_assert_eq(nodes_destroyed, COUNT);
}

static bool is_untracked(void *object)
{
    ouro_header_info info;

    ouro_header_decode(object, &info);
    return (info.flags & OURO_FLAG_UNTRACKED) != 0;
}

Test(type, untracked_are_those_without_references)
{
    struct leaf *leaf = leaf_new(1);
    struct node *node = node_new(NULL, NULL);
    struct array *array = array_new(0);

    cr_assert(is_untracked(leaf));
    cr_assert_not(is_untracked(node));
    cr_assert_not(is_untracked(array));
    ouro_decref(leaf);
    ouro_decref(node);
    ouro_decref(array);
}

Test(type, acyclic_promise_is_believed)
{
    struct box *box = box_new(NULL);

    box->content = ouro_incref(OURO_OF(box));
    ouro_decref(box);
    cr_assert_eq(ouro_collect(), 0);
    cr_assert_eq(boxes_destroyed, 0);

    /* The promise was broken; only a hand can free it. */
    ouro_incref(box);
    ouro_clear(&box->content);
    ouro_decref(box);
    cr_assert_eq(boxes_destroyed, 1);
}

Test(type, acyclic_is_counted_and_dropped_as_usual)
{
    struct box *box = box_new(OURO_OF(box_new(OURO_OF(node_new(NULL, NULL)))));

    ouro_decref(box);
    cr_assert_eq(boxes_destroyed, 2);
    cr_assert_eq(nodes_destroyed, 1);
}

Test(type, type_of_and_name_of)
{
    struct node *node = node_new(NULL, NULL);
    const struct node *constant = node;
    struct leaf *leaf = leaf_new(1);

    cr_assert_eq(ouro_type_of(node), node_type);
    cr_assert_eq(ouro_type_of(constant), node_type);
    cr_assert_eq(ouro_type_of(leaf), leaf_type);
    cr_assert_eq((ouro_type_of)(OURO_OF(leaf)), leaf_type);
    cr_assert_str_eq(ouro_type_name(node_type), "node");
    cr_assert_str_eq(ouro_type_name(leaf_type), "leaf");
    ouro_decref(node);
    ouro_decref(leaf);
}

/* --- threads, and the limit ------------------------------------------------------------------------ */

enum { REGISTRARS = 8, TYPES_EACH = 200 };

struct registrar {
    struct worker worker;
    const ouro_type *types[TYPES_EACH];
    int number;
};

static void register_many(void *argument)
{
    struct registrar *registrar = argument;

    CHECK(ouro_thread_state() == OURO_STATE_UNREGISTERED);
    for (int i = 0; i < TYPES_EACH; i++) {
        char name[32];

        snprintf(name, sizeof name, "type %d of %d", i, registrar->number);
        ouro_type_spec spec = {.name = name, .size = sizeof(struct leaf) + (size_t)i * 8};
        CHECK(ouro_type_register(&spec, &registrar->types[i]) == OURO_OK);
        CHECK(strcmp(ouro_type_name(registrar->types[i]), name) == 0);
    }
}

Test(type, registration_by_many_threads_at_once)
{
    static struct registrar registrars[REGISTRARS];
    static bool seen[65536];

    for (int i = 0; i < REGISTRARS; i++) {
        registrars[i].number = i;
        worker_start_bare(&registrars[i].worker, register_many, &registrars[i]);
    }
    for (int i = 0; i < REGISTRARS; i++)
        worker_join(&registrars[i].worker);

    for (int i = 0; i < REGISTRARS; i++) {
        for (int j = 0; j < TYPES_EACH; j++) {
            char name[32];
            ouro_header_info info;
            ouro_object *o = ouro_new(registrars[i].types[j]);

            snprintf(name, sizeof name, "type %d of %d", j, i);
            cr_assert_not_null(o);
            cr_assert_str_eq(ouro_type_name(ouro_type_of(o)), name);
            ouro_header_decode(o, &info);
            cr_assert_neq(info.type, 0);
            cr_assert_not(seen[info.type], "two types have one index");
            seen[info.type] = true;
            ouro_decref(o);
        }
    }
}

static void register_in_any_state(void *argument)
{
    const ouro_type *type;
    ouro_type_spec spec = good_spec();

    (void)argument;
    ouro_detach();
    CHECK(ouro_type_register(&spec, &type) == OURO_OK);
    ouro_attach();
    ouro_object *o = ouro_new(type);
    CHECK(o);
    ouro_decref(o);
}

Test(type, registration_while_detached)
{
    run_in_thread(register_in_any_state, NULL);
}

Test(type, limit)
{
    ouro_type_spec spec = good_spec();
    const ouro_type *type, *last = NULL;
    ouro_status status;
    size_t count = 0;

    while ((status = ouro_type_register(&spec, &type)) == OURO_OK) {
        last = type;
        count++;
        cr_assert_lt(count, 65536);
    }
    cr_assert_eq(status, OURO_LIMIT);
    cr_assert_null(type);

    /* The indices in headers run from 1 to 65,535; four types were there before. */
    cr_assert_eq(count, 65535 - 4);
    ouro_object *o = ouro_new(last);
    ouro_header_info info;
    cr_assert_not_null(o);
    ouro_header_decode(o, &info);
    cr_assert_eq(info.type, 65535);
    cr_assert_eq(ouro_type_of(o), last);
    ouro_decref(o);

    cr_assert_eq(ouro_type_register(&spec, &type), OURO_LIMIT);
    ouro_decref(node_new(NULL, NULL));
    cr_assert_eq(nodes_destroyed, 1);
}
