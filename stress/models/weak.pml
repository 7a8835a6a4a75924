/*
 * weak.pml - weak references against death, finalizers, and the collector.
 *
 * What it is for.  A weak reference object has `target`; the target has WEAK in `shared`.  Anyone who
 * holds the weak reference may turn it into a reference at any time, without a lock, while the target dies, is
 * finalized, is brought back by its finalizer, or is found to be garbage.  And the weak references
 * themselves come and go: there is one that is shared, found in a table under a lock.  count.pml shows that counting
 * and a get that refuses the dead go together; its get does not look again, and its objects die once.
 *
 *    get      load target; count it, unless it is MERGED|0; load target again: NULL means give it back
 *    death    by whose decrement made it MERGED|0, from his list:
 *             lock; for each weak reference in the table: take a reference unless it is dead itself, take it out
 *             of the table, target = NULL, the last access to one that was dead; unlock;
 *             a finalizer that has not run: one reference for the queue; else the block waits for a grace period
 *    make     by who holds a reference: set WEAK; lock; the one in the table, unless it is dead, or a new one; unlock
 *    end      of a weak reference, from the list: target NULL: nobody knows it any more; else lock; take it out of
 *             the table if it is still there; unlock; then free it
 *    collect  in a stopped world, so nobody is in the middle of any of these; clears, and frees without waiting
 *
 * Death and end start from a thread's list: a stop or other work may come between the last decrement and them.
 *
 * One atomic{} is one access of the C code; a compare-exchange loop is one step (see seat.pml).  What is only
 * touched under the lock is in the step of an access next to it.  Variables that exist only for the proof are marked
 * [ghost].  Configurations: -DCONF=1 ... 3, see "the programs".  Mutants: -DMUTANT_xxx, see README.md.
 */

#ifndef CONF
#define CONF 1
#endif

#ifndef N
#define N        3              /* threads; thread 0 is the owner */
#endif
#define WITH_FINALIZER (CONF != 1)
#define WITH_CYCLE     (CONF == 3)
#define WITH_CALLBACK  (CONF == 2)      /* weak reference 1 has one: it is not shared, and counted when it is cleared */

#define NOBODY   0              /* owner ids */
#define K        1

#define MERGED   1              /* flags of shared */
#define WEAK     2

/* The target. */
byte  id = K;                   /* owned: id and local count */
byte  local_count = 1;
byte  count;                    /* shared: count and flags */
byte  flags;
bool  finalized;                /* FINALIZED: its finalizer has run, or runs */
bool  cycle;                    /* it refers to itself */

#define LIVE     0
#define DYING    1              /* on the list of the thread that saw it die */
#define DEFERRED 2              /* waits for a grace period */
#define GARBAGE  3              /* the collector's */
#define FREE     4
byte  state = LIVE;
byte  list;                     /* whose: thread + 1 */
bool  queued;                   /* in the queue of finalizers, which has a reference */

/* The weak references. */
#define NONE     0              /* not made yet */
#define MADE     1
#define ENDING   2              /* no references: on a list */
#define GONE     3              /* its block is free */
byte  w_state[2];
byte  w_count[2];               /* merged from the first */
bool  w_target[2];              /* target is not NULL */
bool  w_linked[2];              /* [lock] in the table */
byte  w_list[2];
byte  lock;                     /* of the table: thread + 1 */

byte  refs[3];                  /* [ghost] references that thread i holds */
byte  w_refs[6];                /* [ghost] how often thread i holds weak reference j: 2 * i + j */
byte  busy;                     /* [ghost] bit per thread: in the middle of something, between two safepoints */
byte  waited_for;               /* [ghost] those that the grace period waits for */
byte  deaths;                   /* [ghost] how often it has died */
byte  w_before[2];              /* [ghost] how often it had when this weak reference was made */
byte  ended;                    /* [ghost] bit per thread: it is through */

#define BIT(i)      (1 << (i))
#define ZERO        (count == 0 && (flags & MERGED))
#define ALL_REFS    (refs[0] + refs[1] + refs[2])
#define LOOKS       assert(state != FREE)               /* the block is looked at */
#define HOLDS       assert(state == LIVE && refs[me] > 0)
#define BEGINS      busy = busy | BIT(me)

/* The operation is over; the grace period no longer waits for it.  Locals are 0 again. */
#define ENDS        busy = busy & ~BIT(me); waited_for = waited_for & ~BIT(me)

/* Whoever found the zero puts the block on his list. */
#define DIES        assert(state == LIVE && ALL_REFS == 0 && !queued && !cycle); \
                    state = DYING; list = me + 1; deaths++

/* ---- counting ------------------------------------------------------------------------------ */

/* A foreign, or merged, decrement by who holds the reference: `what` is the ghost that goes. */
#define DECREMENT(what) \
    LOOKS; assert(count > 0); count--; what; \
    if :: ZERO -> DIES :: else fi

/* ouro_decref() */
inline decref()
{
    if
    :: atomic { refs[me] > 0 && id == K && me == 0 && local_count > 1 -> HOLDS; local_count--; refs[me]-- }
    :: atomic { refs[me] > 0 && id == K && me == 0 && local_count == 1 ->
            HOLDS;
            if
            :: count == 0 && flags == 0 -> refs[me]--; DIES     /* no atomic write, and no weak references */
            :: else -> BEGINS; merges = 1; id = NOBODY; local_count = 0; refs[me]--
            fi
        };
        if
        :: atomic { merges -> assert(state == LIVE); merges = 0; flags = flags | MERGED;
                    if :: ZERO -> DIES :: else fi; ENDS }
        :: else
        fi
    :: atomic { refs[me] > 0 && !(id == K && me == 0) -> HOLDS; DECREMENT(refs[me]--) }
    fi
}

/* ---- weak references ------------------------------------------------------------------------ */

/* A weak reference loses one. */
#define W_DECREMENT(j, what) \
    assert(w_state[j] == MADE && w_count[j] > 0); w_count[j]--; what; \
    if :: w_count[j] == 0 -> w_state[j] = ENDING; w_list[j] = me + 1 :: else fi

#define LOCK        lock == 0 -> lock = me + 1
#define UNLOCK      assert(lock == me + 1); lock = 0

/* ouro_weakref_get(), by who holds weak reference j.  The answer: alive, and has been since j was made. */
#define ANSWER(j)   HOLDS; assert(deaths == w_before[j]); got = 0; ENDS

inline weak_get(j)
{
    atomic { refs[me] == 0 && w_refs[2 * me + j] -> assert(w_state[j] == MADE); BEGINS; got = w_target[j] };
    if
    :: atomic { !got -> ENDS }
    :: atomic { got && id == K && me == 0 -> LOOKS; local_count++; refs[me]++; ANSWER(j) }
    :: atomic { got && !(id == K && me == 0) ->
            LOOKS;
            if
#ifdef MUTANT_GET_ANY                           /* counts the dead, too */
            :: true -> count++; refs[me]++
#else
            :: !ZERO -> count++; refs[me]++
            :: else -> got = 0; ENDS
#endif
            fi
        };
        if
        :: got ->
            if
#ifdef MUTANT_NO_SECOND_LOOK
            :: atomic { ANSWER(j) }
#else
            :: atomic { w_target[j] -> assert(w_state[j] == MADE); ANSWER(j) }
            :: atomic { !w_target[j] -> assert(w_state[j] == MADE); got = 0 };
#ifdef MUTANT_GIVE_BACK_ONLY                    /* does not look whether it was the last */
               atomic { LOOKS; count--; refs[me]--; ENDS }
#else
               atomic { HOLDS; DECREMENT(refs[me]--); ENDS }
#endif
#endif
            fi
        :: else
        fi
    fi
}

/* The table's access to weak reference j: its block must be there. */
#define TOUCH(j)    assert(w_state[j] == MADE || w_state[j] == ENDING)

/* Under the lock: counts one in the table, unless it is dead. */
#ifdef MUTANT_FIND_ANY
#define ALIVE(j)    (true)
#else
#define ALIVE(j)    (w_count[j] > 0)
#endif
#define FIND(j) \
    if \
    :: w_linked[j] -> TOUCH(j); if :: ALIVE(j) -> w_count[j]++; w_refs[2 * me + (j)]++; got = 1 :: else fi \
    :: else \
    fi
#define NEW(j)      w_state[j] = MADE; w_count[j] = 1; w_target[j] = 1; w_linked[j] = 1; \
                    w_before[j] = deaths; w_refs[2 * me + (j)]++
#ifdef MUTANT_NO_FLAG                           /* the owner's last decrement does not see it */
#define SET_WEAK    skip
#else
#define SET_WEAK    flags = flags | WEAK
#endif

/* ouro_weakref_new(), by who holds a reference: the shared one, or the first, or one in place of one that is dead. */
inline weak_make()
{
    atomic { refs[me] > 0 && !w_refs[2 * me] && !w_refs[2 * me + 1] -> HOLDS; BEGINS };
    atomic { LOCK };
    atomic { FIND(0) };                         /* counting it is an access that others see */
    if
    :: atomic { got -> got = 0; UNLOCK; ENDS }
    :: atomic { !got ->
            if
            :: !WITH_CALLBACK -> FIND(1)
            :: else
            fi;
            if
            :: !got && w_state[0] == NONE -> SET_WEAK; NEW(0)
            :: !got && w_state[0] != NONE && !WITH_CALLBACK && w_state[1] == NONE -> SET_WEAK; NEW(1)
            :: else
            fi;
            got = 0;
            UNLOCK; ENDS
        }
    fi
}

/* ouro_weakref_new_callback() */
inline weak_watch()
{
    atomic { refs[me] > 0 && WITH_CALLBACK && w_state[1] == NONE && lock == 0 -> HOLDS; SET_WEAK; NEW(1) }
}

/* The end of weak reference j, from the list. */
inline weak_end(j)
{
    atomic { w_list[j] == me + 1 ->
             assert(w_state[j] == ENDING && w_count[j] == 0); w_list[j] = 0; BEGINS; got = w_target[j] };
    if
    :: !got
#ifdef MUTANT_END_NO_LOCK                       /* takes itself out of the table without the lock */
    :: atomic { got -> got = 0; w_linked[j] = 0 }
#else
    :: got ->
        atomic { LOCK };
        atomic {
            got = 0;
            if
#ifdef MUTANT_END_NO_LOOK                       /* was still there before he had the lock */
            :: true -> assert(w_linked[j]); w_linked[j] = 0
#else
            :: w_target[j] -> assert(w_linked[j]); w_linked[j] = 0
            :: else
#endif
            fi;
            UNLOCK
        }
#endif
    fi;
    atomic { assert(w_state[j] == ENDING); w_state[j] = GONE; ENDS }
}

/* ---- death --------------------------------------------------------------------------------- */

/* One weak reference of the dying target, under the lock. */
inline clear(j)
{
    if
    :: w_linked[j] ->
        if
        :: WITH_CALLBACK && j == 1 ->
            atomic {
                TOUCH(j);
                if
#ifdef MUTANT_CLEAR_UNCOUNTED                   /* it is in the table, so it is there */
                :: ALIVE(j) -> kept = 1
#else
                :: ALIVE(j) -> w_count[j]++; kept = 1
#endif
                :: else
                fi
            }
        :: else
        fi;
#ifdef MUTANT_TOUCH_AFTER                       /* takes it out of the table when it is cleared */
        atomic { TOUCH(j); w_target[j] = 0 };
        atomic { TOUCH(j); w_linked[j] = 0 }
#else
        atomic { TOUCH(j); w_linked[j] = 0; w_target[j] = 0 }
#endif
    :: else
    fi
}

inline clear_all()
{
    if
    :: flags & WEAK ->
        atomic { LOCK };
        clear(0);
        clear(1);
        atomic { UNLOCK };
        if                                      /* the callback, and then the reference that was for it */
        :: kept ->
#ifdef MUTANT_CLEAR_UNCOUNTED
            atomic { TOUCH(1); kept = 0 }
#else
            atomic { W_DECREMENT(1, kept = 0) }
#endif
        :: else
        fi
    :: else
    fi
}

/* The finalizer's queue takes a reference.  From here on it lives. */
#ifdef MUTANT_FINALIZE_AGAIN                    /* after each death */
#define IS_DUE      (WITH_FINALIZER)
#else
#define IS_DUE      (WITH_FINALIZER && !finalized)
#endif
#define QUEUE       count++; queued = 1; state = LIVE
#define QUEUE_DEAD  id = NOBODY; local_count = 0; flags = flags | MERGED; QUEUE

/* death_run() */
inline death()
{
    atomic { list == me + 1 && state == DYING -> list = 0; BEGINS };
#ifdef MUTANT_CLEAR_LATE                        /* the queue's reference first */
    atomic { if :: IS_DUE -> QUEUE_DEAD; got = 1 :: else fi };
    clear_all();
#else
    clear_all();
    atomic { if :: IS_DUE -> QUEUE_DEAD; got = 1 :: else fi };
#endif
    atomic {
        if
        :: got -> got = 0
        :: !got ->
            assert(state == DYING);
#ifdef MUTANT_FREE_AT_ONCE                      /* a get may have loaded the target */
            state = FREE;
#else
            if
            :: flags & WEAK -> state = DEFERRED; waited_for = busy & ~BIT(me)
            :: else -> state = FREE
            fi;
#endif
        fi;
        ENDS
    }
}

/* The queue's reference is the finalizer's, who may store it: it is dropped at any time afterwards. */
inline finalize()
{
    atomic { queued -> assert(state == LIVE && !finalized); queued = 0; finalized = 1; refs[me]++ }
}

/* ---- the collector ------------------------------------------------------------------------- */

/* Nobody is in the middle of anything: all others are at a safepoint.  Garbage: only it itself refers to it. */
#ifdef MUTANT_NO_STOP
#define STOPPED     true
#else
#define STOPPED     (busy == 0)
#endif
#define IS_GARBAGE  (cycle && state == LIVE && !queued && ALL_REFS == 0)
#ifdef MUTANT_COLLECT_KEEPS                     /* does not clear */
#define CLEAR(j)    skip
#else
#define CLEAR(j)    if :: w_linked[j] -> TOUCH(j); w_linked[j] = 0; w_target[j] = 0 :: else fi
#endif

inline collect()
{
    atomic {
        STOPPED && IS_GARBAGE ->
        assert(count + (id == K) * local_count == 1);
        deaths++;
        CLEAR(0);
        CLEAR(1);
        if
        :: IS_DUE -> QUEUE
        :: else -> state = GARBAGE; list = me + 1
        fi
    }
}

/* After the restart, without waiting for anybody. */
inline dissolve()
{
    atomic { state == GARBAGE && list == me + 1 -> list = 0; cycle = 0; state = FREE }
}

/* ---- the programs -------------------------------------------------------------------------- */

/*
 * 1  weak references, two in turn, and death
 * 2  one that is shared, one with a callback, and a finalizer
 * 3  and cycles
 * Threads 0 and 1 begin with a reference.  A weak reference may be copied for the next thread, in a way that the
 * program has to provide: one step.
 */
#define NEXT        ((me + 1) % N)
#define COPY(j) \
    atomic { \
        w_refs[2 * me + (j)] && !w_refs[2 * NEXT + (j)] && !(ended & BIT(NEXT)) -> \
        w_count[j]++; w_refs[2 * NEXT + (j)]++ \
    }

proctype thread(byte me)
{
    bool got, kept, merges;

    do
    :: decref()
    :: weak_make()
    :: weak_watch()
    :: weak_get(0)
    :: weak_get(1)
    :: atomic { w_refs[2 * me] -> W_DECREMENT(0, w_refs[2 * me]--) }
    :: atomic { w_refs[2 * me + 1] -> W_DECREMENT(1, w_refs[2 * me + 1]--) }
    :: COPY(0)
    :: COPY(1)
    :: weak_end(0)
    :: weak_end(1)
    :: death()
    :: finalize()
    :: atomic { WITH_CYCLE && !cycle && refs[me] > 0 -> HOLDS; cycle = 1; refs[me]-- }
    :: collect()
    :: dissolve()
    :: atomic {
            refs[me] == 0 && !w_refs[2 * me] && !w_refs[2 * me + 1] && !queued && !IS_GARBAGE &&
            list != me + 1 && w_list[0] != me + 1 && w_list[1] != me + 1 ->
            ended = ended | BIT(me);
            break
        }
    od
}

/* A grace period after the death, and the last look. */
proctype grace()
{
    do
    :: atomic { state == DEFERRED && waited_for == 0 -> state = FREE }
    :: atomic {
            ended == BIT(N) - 1 && state != DEFERRED ->
            assert(state == FREE && busy == 0 && lock == 0);
            assert(w_state[0] == NONE || (w_state[0] == GONE && !w_linked[0]));
            assert(w_state[1] == NONE || (w_state[1] == GONE && !w_linked[1]));
            break
        }
    od
}

init {
    atomic {
        refs[0] = 1;
        refs[1] = 1;
        count = 1;
        run thread(0);
        run thread(1);
#if N == 3
        run thread(2);
#endif
        run grace()
    }
}
