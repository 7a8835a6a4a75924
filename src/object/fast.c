/*
 * object/fast.c - callable symbols for the inline functions of <ouro/fast.h>, in all builds of the library.
 */
#undef OURO_CHECK
#include <ouro/object.h>

#undef ouro_incref
#undef ouro_decref

extern inline ouro_object *ouro_incref(ouro_object *o);
extern inline void ouro_decref(ouro_object *o);
extern inline void ouro_safepoint(void);
