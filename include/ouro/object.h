/*
 * ouro/object.h - the object header, counting references, and what can be asked of an object.
 *
 * A structure is an object if its first member is `ouro_header ouro;`:
 *
 *     struct node {
 *         ouro_header ouro;
 *         struct node *left, *right;
 *     };
 *
 * Wherever this interface takes an object it takes a pointer to any such structure.  The macros look for
 * the member `ouro` of the right type, so anything else does not compile; in C++ templates do the same.
 * The functions behind them have the same names and take `ouro_object *`, for foreign-function interfaces.
 *
 * Who owns a reference:
 *   new       the caller has to give it up once, by ouro_decref() or by storing it in an object;
 *   borrowed  somebody else's; valid as long as that one is known to keep it;
 *   stolen    the function takes over the caller's reference.
 */
#ifndef OURO_OBJECT_H
#define OURO_OBJECT_H

#include <ouro/base.h>

/*
 * The 16 bytes in front of every object. Read them with ouro_describe(); never write them.
 *
 *     byte  0  owned    id of the owner's seat : 16 | fresh : 1 | the owner's count : 15
 *           4  shared   count : 28, signed | spare | IMMORTAL | WEAK | MERGED
 *           8  gc       the collector's scratch, 0 outside of its work
 *          12  type     index of the type; 0: this block of memory is free
 *          14  lock     one-byte mutex
 *          15  flags    see OURO_FLAG_...
 */
typedef struct ouro_header {
    /* [seat holder W, any R] relaxed: one writer at a time, see docs/internals/count.md. */
    uint32_t owned;
    uint32_t shared; /* [atomic] */
    uint32_t gc;     /* [stopped] */
    uint16_t type;   /* [const] */
    uint8_t lock;    /* [atomic] */
    uint8_t flags;   /* [atomic] */
} ouro_header;

/* An object of which nothing else is known. */
typedef struct ouro_object {
    ouro_header ouro;
} ouro_object;

/* A reference field of which nothing is known but that it is one. It may alias pointers of other types. */
typedef ouro_object *__attribute__((may_alias)) ouro_ref;

/* owned */
#define OURO_FRESH          0x8000u /* has lost no reference since it was last examined */
#define OURO_LOCAL_FULL     0x4000u /* the count has no room: half of it moves into `shared` first */
#define OURO_OWNED_COUNT(w) ((w)&0x7FFFu)
#define OURO_OWNED_ID(w)    ((w) >> 16)
#define OURO_ID_MERGED      0u      /* nobody's: `shared` alone counts */
#define OURO_ID_MAX         0xFFFDu /* the largest id of a thread's seat */
#define OURO_ID_NOBODY      0xFFFEu /* the id of a thread that may not touch objects */
#define OURO_ID_IMMORTAL    0xFFFFu

/* shared */
#define OURO_MERGED          1u
#define OURO_WEAK            2u
#define OURO_IMMORTAL        4u
#define OURO_SHARED_ONE      16u
#define OURO_SHARED_COUNT(s) ((int32_t)(s) >> 4)

/* flags */
#define OURO_FLAG_NEW       0x01u /* born since the last young collection */
#define OURO_FLAG_NOTED     0x02u /* lost a reference away from its owner */
#define OURO_FLAG_FINALIZED 0x04u /* its finalizer has begun to run */
#define OURO_FLAG_DEAD      0x08u /* without references, being destroyed */
#define OURO_FLAG_FROZEN    0x10u /* kept out of collections: ouro_freeze() */
#define OURO_FLAG_GARBAGE   0x20u /* found by the collector, being dissolved */
#define OURO_FLAG_SAVED     0x80u /* was garbage, and is kept for debugging: OURO_GC_SAVE */
#define OURO_FLAG_UNTRACKED 0x40u /* of a type that the collector has no interest in */

/* What ouro_refcount() says of an immortal object. */
#define OURO_COUNT_IMMORTAL UINT32_MAX

/* The state of a thread that the fast paths need. */
struct ouro_self {
    uint32_t tag; /* [owner] id of this thread's seat << 16; of OURO_ID_NOBODY unless attached */
    uint32_t tag_two;     /* [owner] the same + 2: an object of this thread with two references */
    const uint32_t *word; /* [owner] the word of this thread's seat */
};

OURO_BEGIN_DECLS

OURO_API extern __thread __attribute__((tls_model("initial-exec"))) struct ouro_self ouro_self;

/* What the inline functions call when their one compare fails. */
OURO_API void ouro_incref_slow(ouro_object *o, uint32_t owned) OURO_COLD;
OURO_API void ouro_decref_slow(ouro_object *o, uint32_t owned) __attribute__((noinline));
OURO_API void ouro_safepoint_slow(void) OURO_COLD;

/* The three everyday functions as a check build has them: each looks at its argument and at the thread, and ends the
 * program with a sentence if something is wrong. */
OURO_API ouro_object *ouro_incref_checked(ouro_object *o);
OURO_API void ouro_decref_checked(ouro_object *o);
OURO_API void ouro_safepoint_checked(void);

OURO_END_DECLS

/* incref, decref and safepoint: */
#if defined(OURO_CHECK) && OURO_CHECK
#include <ouro/fast_check.h>
#else
#include <ouro/fast.h>
#endif

OURO_BEGIN_DECLS

/*
 * The number of references to an object: the sum of both counts. Another thread may change it at once, so
 * it is exact only while nobody else has a reference. OURO_COUNT_IMMORTAL for an immortal object.
 * Attached; never a safepoint.
 */
OURO_API uint32_t ouro_refcount(const ouro_object *o);

/*
 * True if the caller's reference is known to be the only one and nothing refers to the object weakly, so that
 * nobody else can reach it. False if another thread owns the object, since only that one can tell, and for a weak reference, which others may find by its target. What others did to it before they dropped their references has then happened.
 * Attached; never a safepoint.
 */
OURO_API bool ouro_is_unique(const ouro_object *o);

/*
 * Makes an object live as long as the process. For ever: it can't be undone. The caller holds a reference
 * and keeps it; any thread may call it, at any time, more than once. The object is not freed from the
 * moment this returns; counting it writes nothing from the owner's next safepoint on. What it refers to is
 * kept too. May run the `destroy` of other objects. Attached; never a safepoint.
 */
OURO_API void ouro_immortalize(ouro_object *o);

/*
 * Gives up being the owner of an object that the caller is about to hand to another thread, so that counting
 * and freeing there needs nobody's help. Works if the caller's reference is the only one (and nothing refers
 * to the object weakly), and returns whether nobody owns it now; if not, nothing has changed and nothing is wrong.
 * Attached; never a safepoint.
 */
OURO_API bool ouro_disown(ouro_object *o);

/*
 * Tells the collector that references to, or from, this object have changed hands without being counted: items swapped between
 * two buffers, a `visit` function that reports more than before. ouro_move() does it for one reference. It is needed
 * where the last way to an object is given up by a move and not by an ouro_decref(): `a->left = b; b->left = a;` without
 * a reference to either that is kept. A reference that is stored with an ouro_incref() of its own, or in an object to which the
 * caller keeps another reference and drops it later, needs neither. Without it garbage in cycles
 * that came to be in this way may be found by a full collection only; nothing worse happens.
 * Attached; never a safepoint.
 */
OURO_API void ouro_note(ouro_object *holder);

/* Behind ouro_move(). */
OURO_API void ouro_move_ref(ouro_object *holder, ouro_ref *field, ouro_object *o);

OURO_END_DECLS

/* The object behind a pointer to a structure that is one; evaluates its argument once. */
#ifdef __cplusplus

template <class T> inline ouro_object *ouro_object_of(T *p)
{
    ouro_header *header = &p->ouro;
    return reinterpret_cast<ouro_object *>(header);
}
template <class T> inline const ouro_object *ouro_object_of(const T *p)
{
    const ouro_header *header = &p->ouro;
    return reinterpret_cast<const ouro_object *>(header);
}
#define OURO_OF(p)       ouro_object_of(p)
#define OURO_OF_CONST(p) ouro_object_of(p)

/* The address of a reference field. */
template <class T> inline ouro_ref *ouro_ref_of(T **field)
{
    static_assert(sizeof(static_cast<ouro_header *>(&(*field)->ouro)) != 0,
                  "not a field that refers to an object");
    return reinterpret_cast<ouro_ref *>(field);
}
#define OURO_REF(field) ouro_ref_of(field)

template <class T> inline T *ouro_incref(T *p)
{
    ouro_incref(ouro_object_of(p));
    return p;
}
template <class T> inline void ouro_decref(T *p)
{
    ouro_decref(ouro_object_of(p));
}
template <class T> inline uint32_t ouro_refcount(const T *p)
{
    return ouro_refcount(ouro_object_of(p));
}
template <class T> inline bool ouro_is_unique(const T *p)
{
    return ouro_is_unique(ouro_object_of(p));
}
template <class T> inline void ouro_immortalize(T *p)
{
    ouro_immortalize(ouro_object_of(p));
}
template <class T> inline void ouro_note(T *p)
{
    ouro_note(ouro_object_of(p));
}
template <class T> inline bool ouro_disown(T *p)
{
    return ouro_disown(ouro_object_of(p));
}

#else

#define OURO_OF(p) _Generic(&(p)->ouro, ouro_header * : (ouro_object *)&(p)->ouro)
#define OURO_OF_CONST(p) \
    _Generic(&(p)->ouro, ouro_header *: (const ouro_object *)&(p)->ouro,                                     \
             const ouro_header *: (const ouro_object *)&(p)->ouro)
#define OURO_REF(field) _Generic(&(*(field))->ouro, ouro_header * : (ouro_ref *)(void *)(field))

#define ouro_incref(p)      ((__typeof__(p))(void *)(ouro_incref)(OURO_OF(p)))
#define ouro_decref(p)      (ouro_decref)(OURO_OF(p))
#define ouro_refcount(p)    (ouro_refcount)(OURO_OF_CONST(p))
#define ouro_is_unique(p)   (ouro_is_unique)(OURO_OF_CONST(p))
#define ouro_immortalize(p) (ouro_immortalize)(OURO_OF(p))
#define ouro_disown(p)      (ouro_disown)(OURO_OF(p))
#define ouro_note(p)        (ouro_note)(OURO_OF(p))

#endif

/* ouro_move(holder, &holder->field, o): stores the caller's reference to `o` (stolen; or NULL) in a field of an object that was not just made, and
 * drops what was there. For a reference that is moved and not counted; see ouro_note(). May run `destroy`. Attached; never a safepoint. */
#ifdef __cplusplus
template <class H, class T> inline void ouro_move(H *holder, T **field, T *o)
{
    ouro_move_ref(ouro_object_of(holder), ouro_ref_of(field), o ? ouro_object_of(o) : nullptr);
}
#else
#define ouro_move(holder, field, o) \
    ouro_move_ref(OURO_OF(holder), OURO_REF(field), (ouro_object *)(void *)(1 ? (o) : *(field)))
#endif

/* ouro_clear(&x->field): sets a reference field to NULL and then drops what it referred to, if anything.
 * In this order, so that nothing that the drop sets off meets a reference that is gone. */
#define ouro_clear(field) ouro_clear_ref(OURO_REF(field))

/* Like ouro_decref(), but takes NULL, and then does nothing. */
#define ouro_decref_or_null(p)       \
    do {                             \
        __typeof__(p) ouro_p_ = (p); \
        if (ouro_p_)                 \
            ouro_decref(ouro_p_);    \
    } while (0)

static inline void ouro_clear_ref(ouro_ref *field)
{
    ouro_object *o = *field;

    *field = NULL;
    if (o)
        (ouro_decref)(o);
}

#endif
