/*
 * inspect/describe.c - headers in words.
 */
#include <ouro/inspect.h>

#include "object/type.h"

#include <stdio.h>
#include <string.h>

void ouro_header_decode(const void *bytes, ouro_header_info *info)
{
    ouro_header h;

    memcpy(&h, bytes, sizeof h);
    *info = (ouro_header_info){
        .owner = OURO_OWNED_ID(h.owned),
        .owned_count = OURO_OWNED_COUNT(h.owned),
        .shared_count = OURO_SHARED_COUNT(h.shared),
        .fresh = (h.owned & OURO_FRESH) != 0,
        .merged = (h.shared & OURO_MERGED) != 0,
        .weak = (h.shared & OURO_WEAK) != 0,
        .immortal = (h.shared & OURO_IMMORTAL) != 0 || OURO_OWNED_ID(h.owned) == OURO_ID_IMMORTAL,
        .gc = h.gc,
        .type = h.type,
        .lock = h.lock,
        .flags = h.flags,
        .type_name = h.type == 0              ? "free"
                     : h.type <= type_count() ? type_table[h.type].name
                                              : "?",
    };
    if (info->immortal)
        info->count = OURO_COUNT_IMMORTAL;
    else
        info->count = info->shared_count + (info->owner ? (int64_t)info->owned_count : 0);
    if (h.type == 0) { /* `shared` is a link */
        info->shared_count = 0;
        info->count = 0;
        info->merged = info->weak = info->immortal = false;
    }
}

static void owner_text(const ouro_header_info *info, char *text, size_t size)
{
    if (info->owner == OURO_ID_MERGED)
        snprintf(text, size, "nobody's");
    else if (info->owner == OURO_ID_IMMORTAL)
        snprintf(text, size, "everybody's");
    else
        snprintf(text, size, "owner %u", info->owner);
}

size_t ouro_describe(const void *bytes, char *text, size_t size)
{
    static const struct {
        uint8_t flag;
        const char *name;
    } flags[] = {
        {OURO_FLAG_NEW, " NEW"},
        {OURO_FLAG_NOTED, " NOTED"},
        {OURO_FLAG_FINALIZED, " FINALIZED"},
        {OURO_FLAG_DEAD, " DEAD"},
        {OURO_FLAG_FROZEN, " FROZEN"},
        {OURO_FLAG_GARBAGE, " GARBAGE"},
        {OURO_FLAG_UNTRACKED, " UNTRACKED"},
        {OURO_FLAG_SAVED, " SAVED"},
    };
    ouro_header_info info;
    char owner[32], count[32], set[96] = "";
    int used = 0;

    ouro_header_decode(bytes, &info);
    if (info.type == 0)
        return (size_t)snprintf(text, size, "a free block");

    owner_text(&info, owner, sizeof owner);
    if (info.immortal)
        snprintf(count, sizeof count, "immortal");
    else
        snprintf(count, sizeof count, "count %lld", (long long)info.count);
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        if (info.flags & flags[i].flag)
            used += snprintf(set + used, sizeof set - (size_t)used, "%s", flags[i].name);
    }
    int length =
        snprintf(text, size,
                 "%s: %s = owned %u (%s%s) + shared %d%s%s; gc %u; type %u; lock %u; flags%s",
                 info.type_name, count, info.owned_count, owner, info.fresh ? ", fresh" : "",
                 info.shared_count, info.merged ? " MERGED" : "", info.weak ? " WEAK" : "", info.gc,
                 info.type, info.lock, *set ? set : " none");
    return length > 0 ? (size_t)length : 0;
}
