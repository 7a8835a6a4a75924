/* hello.c - the smallest program: two objects that refer to each other, dropped and found. */
#include <ouro.h>
#include <stdio.h>

struct node {
    ouro_header ouro;
    struct node *left, *right;
};

int main(void)
{
    const uint16_t fields[] = {OURO_FIELD(struct node, left), OURO_FIELD(struct node, right)};
    const ouro_type_spec spec = {
        .name = "node", .size = sizeof(struct node), .fields = fields, .field_count = 2};
    const ouro_type *type;
    ouro_status status = ouro_thread_register("main");

    if (status == OURO_OK)
        status = ouro_type_register(&spec, &type);
    if (status != OURO_OK) {
        fprintf(stderr, "hello: %s\n", ouro_status_text(status));
        return 1;
    }

    struct node *a = ouro_new(type), *b = ouro_new(type);
    if (!a || !b) {
        fprintf(stderr, "hello: out of memory\n");
        return 1;
    }
    a->left = ouro_incref(b); /* the field's own reference */
    b->left = ouro_incref(a);
    ouro_decref(a); /* ours; they keep each other alive */
    ouro_decref(b);

    size_t found = ouro_collect();
    ouro_memory memory;
    ouro_memory_stats(&memory);
    printf("the collector found %zu objects, %zu are left\n", found, memory.objects);
    return found != 2 || memory.objects || ouro_shutdown() != OURO_OK;
}
