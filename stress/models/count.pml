/*
 * count.pml - biased counting: one block, the seat it belongs to, and threads that pass references.
 *
 * What it is for.  An object has two counts: `owned`, an owner id and a local count, written only by
 * who has the owner's seat; `shared`, a signed count and flags, changed by anyone and only by
 * read-modify-write.  While the owner id stands there the truth is the sum; after the merge (id 0,
 * flag MERGED) the truth is `shared` alone.  This model explores every interleaving of an owner and
 * two other threads that hold, copy, pass on and drop references without end, while the seat is
 * attached, empty, or worked on by a proxy, and the block is freed and used again under stale hints.
 * It looks for: a death while somebody holds a reference, two deaths, a death that nobody notices, a
 * write to a block that is no longer the object, the death of an immortal object.
 *
 *    owned (k, n), n >= 1 --drain, local 0 (who has seat k)--> owned 0, shared MERGED
 *    owned (k, 1), shared 0 --decref (owner)-----------------> dead, nothing written
 *    owned (k, 1), shared 0 --disown (owner)-----------------> owned 0, shared (1, MERGED)
 *    shared (0, MERGED) --whose operation made it so---------> dead
 *    shared IMMORTAL --who has the seat, or anyone if id 0---> owned (immortal)
 *
 * The seat is one variable here: who has it.  That this is sound, that every hint is seen by who has
 * it, and that a grace period waits for the readers, is what seat.pml shows.
 *
 * One atomic{} is one access of the C code; compare-exchange loops are one step (see seat.pml).  A
 * reference disappears in the step that subtracts it, not before: until then it protects the block.
 * Variables that exist only for the proof are marked [ghost].
 * Configurations: -DCONF=1 ... 4, see "the programs".  Mutants: -DMUTANT_xxx, see README.md.
 */

#ifndef CONF
#define CONF 1
#endif

#define N        3              /* threads; thread 0 is the owner, its seat is the seat */
#ifndef REFS                    /* references that exist at a time, at most */
#if CONF == 4
#define REFS     2
#else
#define REFS     3
#endif
#endif

/* -DFAST: the property that an immortal object ends with the immortal id in `owned`, and the rule
 * that makes it true: who merges looks for IMMORTAL once more in the word that his merge returned. */
#ifdef FAST
#ifndef MUTANT_NO_LATE_LOOK
#define LATE_LOOK
#endif
#endif

#define LIMIT    2              /* the local count moves HALF into shared when it would pass this */
#define HALF     1

#define NOBODY   0              /* owner ids */
#define K        1
#define ETERNAL  2              /* the id of immortal objects */

#define MERGED   1              /* flags of shared */
#define WEAK     2
#define IMMORTAL 4

byte  id = K;                   /* owned: id and local are one 32-bit word, one access */
byte  local_count = 1;
short count;                    /* shared: count and flags are one 32-bit word, one access */
byte  flags;

byte  seat;                     /* who has the seat: thread + 1, 0 is nobody */
bool  hint;                     /* the block's bit in the merge map of its page, and the way to it */
bool  weak_target;              /* a weak reference object points to the block */

#define LIVE     0              /* the block is the object */
#define DEAD     1              /* on the worklist of the thread that saw it die */
#define DEFERRED 2              /* waits for a grace period: a weak get may look at it */
#define FREE     3
byte  state = LIVE;
byte  worklist;                 /* whose: thread + 1 */

byte  refs[N];                  /* [ghost] references that thread i holds */
byte  weak_readers;             /* [ghost] threads between two safepoints in a weak get */
bool  life;                     /* [ghost] changes each time the block is used again */
bool  eternal;                  /* [ghost] ouro_immortalize() has returned or is about to */
bool  through[N];               /* [ghost] */

#define ALL_REFS    (refs[0] + refs[1] + refs[2])
#define ZERO        (count == 0 && (flags & MERGED) && !(flags & IMMORTAL))
#define HOLDS       assert(state == LIVE); assert(refs[me] > 0)

/* How far the count of an immortal object may drift: by the references that were under way when the
 * id changed, and by what had been local. */
#define BOUNDED     assert(count <= 2 * REFS && count >= -(2 * REFS))

/* object_dies(): whoever found the zero puts the block on his worklist. */
#define DIES        assert(state == LIVE); assert(ALL_REFS == 0); assert(!eternal); \
                    state = DEAD; worklist = me + 1

/* object_free(): the block goes back; a free block has owner id 0. */
#define GIVE_BACK   state = FREE; id = NOBODY; local_count = 0; count = 0; flags = 0

/* ---- merging ------------------------------------------------------------------------------- */

/* count_drain_one(): by who has the seat, for a hint that may be stale in every way. */
inline drain_one()
{
    atomic { o = id; l = local_count; g = life };         /* loads owned ... */
    if
#ifdef MUTANT_DRAIN_NO_ID
    :: o != ETERNAL ->
#else
    :: o == K ->                                /* not a free block, not merged, not immortal */
#endif
        atomic { s = flags };                   /* ... and shared */
        if
        :: (s & IMMORTAL) ->
            atomic { assert(state != FREE && life == g); id = ETERNAL; local_count = 0 }
        :: else ->
            atomic { assert(state != FREE && life == g); id = NOBODY; local_count = 0 };
            atomic {
                assert(state != FREE && life == g);
#ifndef MUTANT_DRAIN_FORGETS_LOCAL
                count = count + l;
#endif
                flags = flags | MERGED;
                s = flags;
                if
                :: ZERO -> DIES
                :: else
                fi
            };
#ifdef LATE_LOOK                                /* the flag came between the load and the merge */
            if
            :: (s & IMMORTAL) -> atomic { assert(state == LIVE && life == g); id = ETERNAL }
            :: else
            fi
#endif
        fi
    :: else
    fi;
    o = 0; l = 0; g = 0; s = 0
}

/* seat_release(), ouro_detach(): leave only when there is no hint. */
inline release()
{
    do
    :: atomic { hint -> hint = 0 }; drain_one()
    :: atomic { !hint -> assert(seat == me + 1); seat = 0; break }
    od
}

/* inbox_put(): after the subtraction; touches only data of the page.  Nobody in the seat: proxy. */
inline put_hint()
{
    if
    :: atomic { seat == 0 -> seat = me + 1 };   /* the short way: handles the one block, no map */
       drain_one();
       release()
    :: atomic { hint = 1 };
       if
       :: atomic { seat == 0 -> seat = me + 1 };
          release()
       :: atomic { seat != 0 -> skip }          /* they will see it */
       fi
    fi
}

/* ---- counting ------------------------------------------------------------------------------ */

/* ouro_incref() */
inline incref()
{
    atomic { HOLDS; o = id; l = local_count };
    if
    :: o == ETERNAL -> atomic { refs[me]++ }
    :: o == K && me == 0 ->
        if
        :: l == LIMIT ->                        /* count_overflow(): shared first */
            atomic { HOLDS; count = count + HALF };
            atomic { HOLDS; local_count = l - HALF; l = l - HALF }
        :: else
        fi;
        atomic { HOLDS; id = K; local_count = l + 1; refs[me]++ }     /* a plain store of the whole word */
    :: else ->
        atomic { HOLDS; count++; refs[me]++; BOUNDED }
    fi;
    o = 0; l = 0
}

/* ouro_decref() */
inline decref()
{
    atomic { HOLDS; o = id; l = local_count };
    if
    :: o == ETERNAL -> atomic { HOLDS; refs[me]-- }
    :: o == K && me == 0 && l > 1 ->
        atomic { HOLDS; id = K; local_count = l - 1; refs[me]-- }     /* a plain store of the whole word */
    :: o == K && me == 0 && l <= 1 ->
        atomic {
            HOLDS;
#ifdef MUTANT_ZERO_IGNORES_FLAGS
            if :: count == 0 ->
#else
            if :: count == 0 && flags == 0 ->
#endif
                refs[me]--;
#ifdef MUTANT_DEAD_LOCAL_0                      /* leaves (k, 0) where a stale hint finds it */
                local_count = 0;
#endif
                DIES;                           /* without any atomic write */
                goto decref_done
            :: else
            fi
        };
#ifdef MUTANT_LOCAL_0_UNMERGED
        atomic { HOLDS; local_count = 0; refs[me]-- };
#else
#ifdef MUTANT_MERGE_REVERSED                    /* MERGED first, then the store to owned */
        atomic { HOLDS; g = life; flags = flags | MERGED; refs[me]--;
            if
            :: ZERO -> DIES; goto decref_done
            :: else
            fi };
        atomic { assert(state == LIVE && life == g); id = NOBODY; local_count = 0 };
#else
        atomic { HOLDS; g = life; id = NOBODY; local_count = 0; refs[me]-- };
        atomic {
            assert(state == LIVE && life == g);
            flags = flags | MERGED;
            s = flags;
            if
            :: ZERO -> DIES
            :: else
            fi
        };
#ifdef LATE_LOOK
        if
        :: (s & IMMORTAL) -> atomic { assert(state == LIVE && life == g); id = ETERNAL }
        :: else
        fi
#endif
#endif
#endif
    :: else ->
        atomic {
            HOLDS;
            count--;
            refs[me]--;
            BOUNDED;
            assert(count >= 0 || !(flags & MERGED) || (flags & IMMORTAL));
            if
#ifdef MUTANT_FREE_UNMERGED
            :: count == 0 && !(flags & IMMORTAL) -> DIES
#else
#ifdef MUTANT_FREE_IMMORTAL                     /* the zero test looks at count and MERGED only */
            :: count == 0 && (flags & MERGED) -> DIES
#else
            :: ZERO -> DIES
#endif
#endif
#ifndef MUTANT_NO_HINT
            :: count < 0 && !(flags & (MERGED | IMMORTAL)) -> hints = 1
#endif
            :: else
            fi
        };
        if
        :: hints -> hints = 0; put_hint()
        :: else
        fi
    fi;
decref_done:
    o = 0; l = 0; g = 0; s = 0
}

/* ouro_immortalize(): by who holds a reference. */
inline immortalize()
{
#ifdef MUTANT_IMMORTAL_STORE_ONLY               /* the fast-path copy alone */
    atomic { HOLDS; id = ETERNAL; local_count = 0; eternal = 1 };
#else
    atomic { HOLDS; flags = flags | IMMORTAL; eternal = 1 };
    atomic { HOLDS; o = id };
    if
    :: o == NOBODY || (o == K && me == 0) ->
        atomic { HOLDS; id = ETERNAL; local_count = 0 }
    :: o == K && me != 0 -> put_hint()
    :: else
    fi;
#endif
    o = 0
}

/* ouro_disown(): refuses unless the reference is the only one and nothing points here weakly. */
inline disown()
{
    atomic { HOLDS; o = id; l = local_count };
    if
#ifdef MUTANT_DISOWN_SHARED
    :: o == K && l == 1 ->
#else
    :: atomic { o == K && l == 1 && count == 0 && flags == 0 -> skip };
#endif
        atomic { HOLDS; id = NOBODY; local_count = 0 };
        atomic { HOLDS; count = 1; flags = MERGED }             /* plain stores: nobody else looks */
    :: atomic { !(o == K && l == 1 && count == 0 && flags == 0) -> skip }
    fi;
    o = 0; l = 0
}

/* ouro_weak_new(): by who holds a reference. */
inline make_weak()
{
    atomic { HOLDS; flags = flags | WEAK };
    atomic { HOLDS; weak_target = 1 }
}

/* ouro_weak_get(): loads the target, then counts it unless it is dead.  It looks at the id first, as
 * ouro_decref() will: else each pair of the two leaves an immortal object's count one higher.
 * The model stops at REFS references; the library does not. */
inline weak_get()
{
    atomic { weak_target -> weak_readers++ };
#ifdef MUTANT_WEAK_GET_COUNTS
    o = NOBODY;
#else
    atomic { assert(state != FREE); o = id };
#endif
    atomic {
        assert(state != FREE);
        if
        :: ALL_REFS == REFS
        :: ALL_REFS < REFS && o == ETERNAL -> assert(state == LIVE); refs[me]++
#ifdef MUTANT_WEAK_GET_ANY
        :: ALL_REFS < REFS && o != ETERNAL ->
#else
        :: ALL_REFS < REFS && o != ETERNAL && !ZERO ->
#endif
            assert(state == LIVE);
            count++;
            refs[me]++;
            BOUNDED
        :: else
        fi;
        weak_readers--;
        o = 0
    }
}

/* object_destroy(): from the worklist.  A block that weak gets may look at waits for a grace period. */
inline destroy()
{
    atomic {
        assert(state == DEAD);
        worklist = 0;
        if
        :: flags & WEAK -> weak_target = 0; state = DEFERRED
        :: else -> GIVE_BACK
        fi
    }
}

/* ---- the programs -------------------------------------------------------------------------- */

/*
 * 1  counting, overflow, sleeping owner, reuse of the block, disown
 * 2  and weak references
 * 3  and immortality (no weak references)
 * 4  everything, with one reference less
 */
#define WITH_WEAK     (CONF == 2 || CONF == 4)
#define WITH_IMMORTAL (CONF == 3 || CONF == 4)

/* Any thread, for ever; it may end whenever it holds nothing.  References are passed on with the
 * order that the program has to provide (a queue, a lock): one step. */
proctype thread(byte me)
{
    byte o, l, s;
    bool g, hints;

    do
    /* only while attached; threads 1 and 2 have seats of their own and always are */
    :: refs[me] > 0 && (me != 0 || seat == 1) ->
        if
        :: ALL_REFS < REFS -> incref()
        :: decref()
        :: atomic { !through[0] && me != 0 -> refs[0]++; refs[me]-- }
        :: atomic { !through[1] && me != 1 -> refs[1]++; refs[me]-- }
        :: atomic { !through[2] && me != 2 -> refs[2]++; refs[me]-- }
        :: WITH_WEAK && !weak_target -> make_weak()
        :: WITH_IMMORTAL && !eternal -> immortalize()
        :: me == 0 -> disown()
        fi
    :: WITH_WEAK && weak_target && ALL_REFS < REFS && (me != 0 || seat == 1) ->
        if
        :: weak_get()
        :: atomic { !weak_target -> skip }
        fi
    :: worklist == me + 1 && (me != 0 || seat == 1) -> destroy()
    :: me == 0 && seat == 1 && hint ->                          /* ouro_safepoint() */
        atomic { hint = 0 };
        drain_one()
    :: me == 0 && seat == 1 -> release()                        /* ouro_detach(), or a park */
    :: atomic { me == 0 && seat == 0 -> seat = 1 }              /* ouro_attach() */
    :: me == 0 && seat == 1 && state == FREE ->                 /* ouro_new(): the same block again */
        atomic { assert(state == FREE && ALL_REFS == 0); state = LIVE; life = 1 - life;
                 id = K; local_count = 1; count = 0; flags = 0; refs[0] = 1 }
    :: atomic { refs[me] == 0 && worklist != me + 1 && (me != 0 || seat != 1) -> through[me] = 1; break }
    od;

    /* The last one out: without references the object is gone, unless it is immortal. */
    atomic {
        if
        :: through[0] && through[1] && through[2] ->
            assert(seat == 0 && !hint);
            assert((state == LIVE) == eternal);
#ifdef FAST                                     /* the fast-path copy of immortality has arrived */
            assert(!eternal || id == ETERNAL);
#endif
        :: else
        fi
    }
}

/* A grace period after the death of an object with weak references: whoever was in a weak get has
 * passed a safepoint. */
proctype grace()
{
end:
    do
    :: atomic { state == DEFERRED && weak_readers == 0 -> GIVE_BACK }
    od
}

init {
    atomic {
        seat = 1;
        refs[0] = 1;
        run thread(0);
        run thread(1);
        run thread(2);
        if
        :: WITH_WEAK -> run grace()
        :: else
        fi
    }
}
