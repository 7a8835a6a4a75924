/*
 * ouro/fast_check.h - what <ouro/object.h> includes instead of fast.h when OURO_CHECK is 1: the same
 * three functions, out of line, which look at their argument and at the thread before they do the same.
 * A program compiled with -DOURO_CHECK=1 works with each build of the library.
 */
#ifndef OURO_OBJECT_H
#include <ouro/object.h> /* which includes the one of the two that is wanted */
#elif !defined(OURO_FAST_PATHS)
#define OURO_FAST_PATHS

#include <ouro/base.h>

OURO_BEGIN_DECLS

static inline ouro_object *ouro_incref(ouro_object *o)
{
    return ouro_incref_checked(o);
}

static inline void ouro_decref(ouro_object *o)
{
    ouro_decref_checked(o);
}

static inline void ouro_safepoint(void)
{
    ouro_safepoint_checked();
}

OURO_END_DECLS

#endif
