/*
 * seat.pml - the seat word, the inbox, the proxy, the stopped world and the grace period.
 *
 * What it is for.  A thread sits in a seat.  All that others may do to the seat (stop it, leave a
 * hint in its inbox, work in it while the thread sleeps, ask it to pass a quiescent point) goes
 * through one atomic word.  This model explores every interleaving of three threads with small
 * nondeterministic programs and looks for: two that have the seat at once, anyone who runs while the
 * world is stopped, a hint that nobody will ever drain, a reader whose object is freed under it, a
 * lost wake-up, a deadlock.
 *
 * The word:
 *
 *    ATTACHED  the thread of the seat runs user code and has the seat
 *    HELD      somebody else (a proxy, attached in a seat of its own) has the seat
 *    STOP      the world is stopped or being stopped
 *    INBOX     there may be pages in the inbox
 *    QUIESCE   a grace period waits for this seat, or waited for it when it was not attached
 *    WAIT      the thread of the seat sleeps until it is granted ATTACHED
 *
 *    detached --attach (owner)-----------------------------> ATTACHED    not under STOP or HELD
 *    detached --attach (owner)--> WAIT --grant (who clears the last of STOP, HELD)--> ATTACHED
 *    detached --hold (proxy)--> HELD --release (proxy)--> detached, or grant
 *    ATTACHED --detach (owner), INBOX and QUIESCE clear----> detached
 *    ATTACHED --park (owner), STOP set, QUIESCE clear------> WAIT
 *    STOP is set and cleared by the stopper, INBOX set by anyone and cleared by who has the seat,
 *    QUIESCE set by the leader of a grace period, cleared by the owner or by who grants.
 *
 * One atomic{} is one atomic access of the C code.  "Load; compare-exchange; on failure start
 * again" is one step that decides on the current word: a round that fails changes nothing, and a
 * round that succeeds saw the word that it replaced.  Where a loaded value is used without such a
 * compare-exchange, load and use are two steps.  Sleeping is a futex: whoever finds that the word
 * is not yet what he waits for falls asleep in the same step and gets up only when somebody wakes
 * him explicitly, so a forgotten wake-up ends in an invalid end state.
 *
 * Variables that exist only for the proof are marked [ghost].
 * Configurations: -DCONF=1 ... 6, see "the programs".  Mutants: -DMUTANT_xxx, see README.md.
 */

#ifndef CONF
#define CONF 1
#endif

#define N     3                 /* threads, and seats */
#define PAGES 2                 /* pages of seat 0 that hints are put on */

#define ATTACHED  1
#ifdef MUTANT_ONE_SUSPENDED     /* stoppers and proxies share one state */
#define HELD      4
#else
#define HELD      2
#endif
#define STOP      4
#define INBOX     8
#define QUIESCE  16
#define WAIT     32

/* What makes a would-be proxy leave: somebody has the seat and will see INBOX.
 * -DTURN: the property that a thread that waits while the world is stopped gets in before the next
 * stop reaches its seat, and the rule that makes it true: a proxy also leaves when it sees WAIT,
 * for that thread will be granted ATTACHED and will see INBOX itself. */
#ifdef TURN
#ifndef MUTANT_PROXY_TAKES_WAITER
#define LEAVE_WAITERS
#endif
#endif
#ifdef LEAVE_WAITERS
#define TAKEN (ATTACHED | HELD | WAIT)
#else
#define TAKEN (ATTACHED | HELD)
#endif

byte  word[N];                  /* seat.word */
bool  asleep[N];                /* the thread of the seat sleeps on seat.word */
bool  exists[N];                /* the seat is in the registry [lock: registry] */
byte  inbox[N];                 /* seat.inbox: top of the stack, page + 1; 0 is empty */

byte  next[PAGES];              /* page.next: link in that stack, page + 1 */
bool  in_inbox[PAGES];          /* page.in_inbox */
byte  map[PAGES];               /* page.merge_map: one bit per hinted block */

byte  world;                    /* world mutex: thread + 1, 0 is free */
byte  registry;                 /* registry mutex, a leaf */
bool  stopping;                 /* new seats begin with STOP [lock: registry] */
short stop_awaiting;            /* acknowledgements that the stopper waits for */
bool  stop_asleep;              /* the stopper sleeps on stop_awaiting */

bool  grace_in_flight;          /* one period at a time */
short grace_awaiting;           /* acknowledgements that the period waits for */
byte  slot = 1;                 /* ouro_slot: the object it refers to */
byte  newest = 1;               /* the object made last */
byte  retired;                  /* objects taken out of the slot, no period begun: bit per object */
byte  batch;                    /* objects that the period in flight will free */

byte  who[N];                   /* [ghost] who has the seat: thread + 1, 0 is nobody */
byte  stopped;                  /* [ghost] stopper + 1 inside its critical section */
byte  borrowed[N];              /* [ghost] the object that thread i read from the slot and may use */
byte  freed;                    /* [ghost] bit per object */
byte  ended;                    /* [ghost] threads that are through */
#ifdef TURN
bool  kept_out[N];              /* [ghost] was waiting inside a stopped world and has not been in since */
#endif

/* Exactly one has the seat, and nobody gets one while the world is stopped. */
#ifdef TURN
#define TAKE(s, t)  assert(who[s] == 0); assert(stopped == 0); who[s] = (t) + 1; kept_out[s] = kept_out[s] && (s) != (t)
#else
#define TAKE(s, t)  assert(who[s] == 0); assert(stopped == 0); who[s] = (t) + 1
#endif
#define LEAVE(s, t) assert(who[s] == (t) + 1); who[s] = 0
#define HAS(s)      assert(who[s] == me + 1); assert(stopped == 0)
/* A seat whose owner waits always has someone who will grant; owner and holder exclude each other. */
#define SOUND(s)    assert(!((word[s] & ATTACHED) && (word[s] & (HELD | WAIT)) && HELD != STOP)); \
                    assert(!(word[s] & WAIT) || (word[s] & (STOP | HELD)))

#define LOCK(m)     atomic { m == 0 -> m = me + 1 }
#define UNLOCK(m)   atomic { assert(m == me + 1); m = 0 }

/* ---- grace periods ------------------------------------------------------------------------- */

/* grace_complete(): the batch dies.  No thread may still use something of it. */
inline grace_complete()
{
    atomic {
        assert(grace_in_flight);                /* exactly one completes a period */
        assert(grace_awaiting == 0);
#ifdef MUTANT_BATCH_LATE                        /* frees what was retired while the period ran, too */
        batch = batch | retired;
        retired = 0;
#endif
        freed = freed | batch;
        batch = 0;
        assert(!borrowed[0] || !(freed & (1 << borrowed[0])));
        assert(!borrowed[1] || !(freed & (1 << borrowed[1])));
        assert(!borrowed[2] || !(freed & (1 << borrowed[2])));
        grace_in_flight = 0
    }
}

/* grace_ack(): one fetch_sub; who brings the count to 0 completes.  Acknowledgements that come
 * before grace_begin() has added make it negative, so they do not. */
inline grace_ack()
{
    atomic { grace_awaiting--; completes = (grace_awaiting == 0) };
    if
    :: completes -> completes = 0; grace_complete()
    :: else
    fi
}

/* grace_begin(): the scan, one fetch_or per seat, own seat and detached seats included. */
inline grace_begin()
{
    LOCK(registry);
    if
    :: grace_in_flight -> UNLOCK(registry)
    :: else ->
        atomic { grace_in_flight = 1; batch = retired; retired = 0; s = 0; n = 0 };
        do
        :: s < N ->
#ifdef MUTANT_SCAN_LOAD                         /* load, then fetch_or whose old value is ignored */
            atomic { w = word[s] };
            atomic {
#else
            atomic { w = word[s];
#endif
                if
#ifdef MUTANT_SCAN_SKIPS_SELF                   /* the leader thinks that it need not wait for itself */
                :: exists[s] && s != me ->
#else
                :: exists[s] ->
#endif
                    word[s] = word[s] | QUIESCE;
                    n = n + (w & ATTACHED)
                :: else
                fi;
                s++; w = 0
            }
        :: else -> break
        od;
        atomic { grace_awaiting = grace_awaiting + n; completes = (grace_awaiting == 0); s = 0; n = 0 };
        UNLOCK(registry);
        if
        :: completes -> completes = 0; grace_complete()
        :: else
        fi
    fi
}

/* ---- inbox --------------------------------------------------------------------------------- */

/* inbox_push(): the compare-exchange loop of a stack whose only taker takes everything. */
inline inbox_push(s_, p_)
{
    atomic { next[p_] = inbox[s_]; inbox[s_] = p_ + 1 }
}

/* inbox_drain(): by who has the seat, after he cleared INBOX.  may_stop: a holder may give up in the
 * middle (the bound on a hold); he pushes the rest back and sets INBOX. */
inline inbox_drain(s_, may_stop)
{
    atomic { HAS(s_); take = inbox[s_]; inbox[s_] = 0 };
    do
    :: take == 0 -> break
    :: take != 0 ->
#ifdef MUTANT_MAP_BEFORE_FLAG                   /* takes the map, then clears in_inbox */
        atomic { HAS(s_); p = take - 1; map[p] = 0 };
        atomic { take = next[p]; next[p] = 0; in_inbox[p] = 0; p = 0 }
#else
#ifdef MUTANT_NEXT_LATE                         /* reads the link when the page may be pushed again */
        atomic { p = take - 1; in_inbox[p] = 0 };
        atomic { HAS(s_); take = next[p]; map[p] = 0; p = 0 }
#else
        /* page.next is read before in_inbox is cleared: from then on the page may be pushed again */
        atomic { p = take - 1; take = next[p]; next[p] = 0; in_inbox[p] = 0 };
        atomic { HAS(s_); map[p] = 0; p = 0 }
#endif
#endif
    :: may_stop && take != 0 ->
        do
        :: take != 0 -> atomic { p = take - 1; take = next[p]; next[p] = inbox[s_]; inbox[s_] = p + 1; p = 0 }
        :: else -> break
        od;
        atomic { word[s_] = word[s_] | INBOX };
        break
    od
}

/* ---- proxy --------------------------------------------------------------------------------- */

/* seat_hold_try(): compare-exchange to HELD unless somebody has the seat. */
#define SEAT_HOLD(s_)   word[s_] = word[s_] | HELD; TAKE(s_, me); SOUND(s_)

/* seat_release(): drains until INBOX is clear, then lets go in one compare-exchange that expects it
 * clear and that grants when the owner waits and no stop keeps him out.  Bounded exit: INBOX may
 * stay set if STOP is set in that same word (world_start() will see it), or if WAIT is (who grants
 * ATTACHED, here or later, hands the hints to the owner). */
#if defined(MUTANT_NO_RECHECK) || defined(MUTANT_EXIT_ALWAYS)   /* the latter: bounded exit at will */
#define MAY_RELEASE(w_) (1)
#else
#ifdef MUTANT_ONE_SUSPENDED                     /* STOP tells nothing while HELD */
#define MAY_RELEASE(w_) (!((w_) & INBOX) || ((w_) & WAIT))
#else
#define MAY_RELEASE(w_) (!((w_) & INBOX) || ((w_) & (STOP | WAIT)))
#endif
#endif

inline seat_release(s_)
{
#ifdef MUTANT_NO_RECHECK
    atomic { word[s_] = word[s_] & ~INBOX };    /* drains once and lets go without a look */
    inbox_drain(s_, 0);
#endif
    do
#ifndef MUTANT_NO_RECHECK
    :: atomic { (word[s_] & INBOX) -> word[s_] = word[s_] & ~INBOX };
       inbox_drain(s_, 1)
#endif
    :: atomic {
            MAY_RELEASE(word[s_]) ->
            LEAVE(s_, me);
            word[s_] = word[s_] & ~HELD;
#ifndef MUTANT_NO_GRANT_AT_RELEASE
            if
            :: (word[s_] & WAIT) && !(word[s_] & STOP) ->
                word[s_] = (word[s_] & ~(WAIT | QUIESCE)) | ATTACHED;
                TAKE(s_, s_);
                granted = 1
            :: else
            fi;
            SOUND(s_);
#endif
            break
        }
    od;
    if
    :: granted ->
#ifdef MUTANT_NO_WAKE
        granted = 0
#else
        atomic { asleep[s_] = 0; granted = 0 }
#endif
    :: else
    fi
}

/* seat_proxy(): for a seat that was seen with INBOX and nobody in it. */
inline seat_proxy(s_)
{
    if
    :: atomic { (word[s_] & TAKEN) -> skip }    /* they will see INBOX */
    :: atomic { !(word[s_] & TAKEN) -> SEAT_HOLD(s_) };
       seat_release(s_)
    fi
}

/* inbox_put(): part of a foreign decrement.  Bit `me` of page pg in seat 0. */
inline inbox_put()
{
    if
    :: atomic { !(word[0] & TAKEN) -> SEAT_HOLD(0) };           /* the short way: */
       atomic { HAS(0) };                                       /* handle the one block, */
       seat_release(0)                                          /* no map, no stack */
    :: atomic { map[pg] = map[pg] | (1 << me) };                /* also after a failed try */
       atomic { was = in_inbox[pg]; in_inbox[pg] = 1 };
       if
       :: was -> was = 0                        /* whoever set it pushes, or whoever took it looks */
       :: else ->
            inbox_push(0, pg);
            atomic { w = word[0]; word[0] = word[0] | INBOX };
            if
            :: (w & TAKEN) -> w = 0
            :: else -> w = 0; seat_proxy(0)
            fi
       fi
    fi;
    pg = 0
}

/* ---- attach, detach, park, safepoint ------------------------------------------------------- */

/* seat_sleep(): until somebody granted ATTACHED. */
inline seat_sleep()
{
    do
    :: atomic { (word[me] & ATTACHED) -> break }
    :: atomic { !(word[me] & ATTACHED) -> asleep[me] = 1 };
       asleep[me] == 0
    od
}

/* ouro_attach() */
inline seat_attach()
{
    atomic {
        if
        :: !(word[me] & (STOP | HELD)) ->
#ifdef MUTANT_ATTACH_KEEPS_QUIESCE
            word[me] = word[me] | ATTACHED;
#else
            word[me] = (word[me] & ~QUIESCE) | ATTACHED;
#endif
            TAKE(me, me);
            SOUND(me)
        :: else ->
            word[me] = word[me] | WAIT;
            goto waits
        fi
    };
    goto attached;
waits:
    seat_sleep();
attached:
    skip
}

/* The last acknowledgement wakes the stopper. */
inline stop_ack()
{
    atomic { stop_awaiting--; last = (stop_awaiting == 0) };
    if
    :: last -> atomic { stop_asleep = 0; last = 0 }
    :: else
    fi
}

/* ouro_detach(): acknowledges, drains, and leaves in one compare-exchange that expects INBOX and
 * QUIESCE clear. */
inline seat_detach()
{
    borrowed[me] = 0;
    do
#ifndef MUTANT_NO_ACK_AT_DETACH
    :: atomic { (word[me] & QUIESCE) -> word[me] = word[me] & ~QUIESCE };
       grace_ack()
#endif
    :: atomic { (word[me] & INBOX) -> word[me] = word[me] & ~INBOX };
       inbox_drain(me, 0)
#ifdef MUTANT_DETACH_STORE                      /* load, look, then store */
    :: atomic { !(word[me] & (INBOX | QUIESCE)) -> w = word[me] };
       atomic { LEAVE(me, me); word[me] = w & ~ATTACHED };
       break
#else
#ifdef MUTANT_DETACH_NO_EXPECT                  /* look, then fetch_and that expects nothing */
    :: !(word[me] & (INBOX | QUIESCE)) ->
       atomic { LEAVE(me, me); w = word[me]; word[me] = word[me] & ~ATTACHED };
       break
#else
#ifdef MUTANT_NO_ACK_AT_DETACH
    :: atomic { !(word[me] & INBOX) ->
#else
    :: atomic { !(word[me] & (INBOX | QUIESCE)) ->
#endif
            LEAVE(me, me); w = word[me]; word[me] = word[me] & ~ATTACHED; SOUND(me); break }
#endif
#endif
    od;
    if
    :: (w & STOP) -> w = 0; stop_ack()
    :: else -> w = 0
    fi
}

/* seat_park(): at a safepoint that saw STOP. */
inline seat_park()
{
    do
    :: atomic { (word[me] & QUIESCE) -> word[me] = word[me] & ~QUIESCE };
       grace_ack()
    :: atomic {
            !(word[me] & QUIESCE) ->
            assert(word[me] & STOP);            /* the stopper waits for us */
            LEAVE(me, me);
            word[me] = (word[me] & ~ATTACHED) | WAIT;
            SOUND(me);
            break
        }
    od;
    stop_ack();
    seat_sleep()
}

/* ouro_safepoint(): parks at most once, so that a thread gets in between two stops. */
inline seat_safepoint()
{
    borrowed[me] = 0;
    if
    :: atomic { (word[me] & QUIESCE) -> word[me] = word[me] & ~QUIESCE };
       grace_ack()
    :: !(word[me] & QUIESCE)
    fi;
    if
    :: (word[me] & STOP) -> seat_park()
    :: !(word[me] & STOP)
    fi;
    if
    :: atomic { (word[me] & INBOX) -> word[me] = word[me] & ~INBOX };
       inbox_drain(me, 0)
    :: !(word[me] & INBOX)
    fi
}

/* seat_new(): registration.  A seat that is made during a stop begins with STOP. */
inline seat_new()
{
    LOCK(registry);
    atomic {
        exists[me] = 1;
        if
        :: stopping -> word[me] = STOP
        :: else
        fi
    };
    UNLOCK(registry)
}

/* ---- the stopped world --------------------------------------------------------------------- */

/* The other seats of the registry, in any order. */
#define OTHER_SEATS todo = (exists[0] | (exists[1] << 1) | (exists[2] << 2)) & ~(1 << me)
#define PICK        if :: todo & 1 -> s = 0 :: todo & 2 -> s = 1 :: todo & 4 -> s = 2 fi

/* world_stop() and world_start().  The caller is attached and has the world mutex. */
inline world_stop_and_start()
{
    /* world_stop(): the scan */
    LOCK(registry);
    atomic { stopping = 1; OTHER_SEATS };
    do
    :: todo ->
        atomic {
            PICK;
            w = word[s]
#ifdef MUTANT_STOP_LOAD                         /* load, then fetch_or whose old value is ignored */
        };
        atomic {
#endif
#ifdef TURN
            assert(!kept_out[s]);
#endif
            word[s] = word[s] | STOP;
            n = n + (w & ATTACHED);
            todo = todo & ~(1 << s); s = 0; w = 0
        }
    :: else -> break
    od;
#ifndef MUTANT_REGISTRY_HELD
    UNLOCK(registry);
#endif
    /* acknowledgements may have come before this addition */
#ifdef MUTANT_AWAIT_STORE                       /* a store loses them */
    atomic { stop_awaiting = n; n = 0 };
#else
#ifndef MUTANT_AWAIT_EARLY                      /* looks before it has added */
    atomic { stop_awaiting = stop_awaiting + n; n = 0 };
#endif
#endif
    do
#ifdef MUTANT_AWAIT_EARLY
    :: atomic { stop_awaiting <= 0 -> stop_awaiting = stop_awaiting + n; n = 0; break }
    :: atomic { stop_awaiting > 0 -> stop_asleep = 1 };
#else
    :: atomic { stop_awaiting == 0 -> break }
    :: atomic { stop_awaiting != 0 -> stop_asleep = 1 };
#endif
       stop_asleep == 0
    od;
#ifdef MUTANT_REGISTRY_HELD                     /* kept while waiting: a leader of a period blocks on it */
    UNLOCK(registry);
#endif

    /* the world is stopped: nobody else has a seat */
    atomic {
        assert(stopped == 0);
        assert(who[0] == 0 || 0 == me);
        assert(who[1] == 0 || 1 == me);
        assert(who[2] == 0 || 2 == me);
#ifdef TURN
        kept_out[0] = (word[0] & WAIT) != 0;
        kept_out[1] = (word[1] & WAIT) != 0;
        kept_out[2] = (word[2] & WAIT) != 0;
#endif
        stopped = me + 1
    };
    stopped = 0;

    /* world_start(): STOP goes, who waits is granted, seats that nobody will drain are remembered */
#ifdef MUTANT_START_NO_REGISTRY                 /* the flag goes last, and no lock keeps new seats out */
    atomic { OTHER_SEATS };
#else
    LOCK(registry);
    atomic { stopping = 0; OTHER_SEATS };
#endif
    do
    :: todo ->
        atomic {
            PICK;
            word[s] = word[s] & ~STOP;
#ifdef MUTANT_START_CLEARS_HELD
            word[s] = word[s] & ~HELD;
#endif
            if
            :: (word[s] & WAIT) && !(word[s] & HELD) ->
#ifdef MUTANT_GRANT_KEEPS_QUIESCE
                word[s] = (word[s] & ~WAIT) | ATTACHED;
#else
                word[s] = (word[s] & ~(WAIT | QUIESCE)) | ATTACHED;
#endif
                TAKE(s, s);
                granted = 1
            :: else
            fi;
            SOUND(s);
            if
            :: (word[s] & INBOX) && !(word[s] & (ATTACHED | HELD)) -> left = left | (1 << s)
            :: else
            fi;
            todo = todo & ~(1 << s);
            if
            :: !granted -> s = 0
            :: else
            fi
        };
        if
        :: granted -> atomic { asleep[s] = 0; granted = 0; s = 0 }
        :: else
        fi
    :: else -> break
    od;
#ifdef MUTANT_START_NO_REGISTRY
    stopping = 0;
#else
    UNLOCK(registry);
#endif
    UNLOCK(world);
#ifdef MUTANT_START_NO_DRAIN
    left = 0;
#endif
    /* only seat 0 gets hints in this model */
    assert(!(left & ~1));
    if
    :: left -> left = 0; seat_proxy(0)
    :: else
    fi
}

/* ---- the programs -------------------------------------------------------------------------- */

#define CAN_SLEEP  1            /* detach and attach again */
#define CAN_PUT    2            /* leave a hint in seat 0 */
#define CAN_STOP   4            /* stop and start the world */
#define CAN_WRITE  8            /* exchange what is in the slot, retire the old */
#define CAN_LEAD  16            /* begin a grace period */
#define CAN_READ  32            /* borrow from the slot */
#define LATE      64            /* the seat is made while the others run */

/* One thread with its seat.  At any time it may do one of the things it can, at most `budget` of
 * them; a safepoint that has something to do, reading the slot and ending cost nothing. */
proctype thread(byte me; byte can; byte budget)
{
    byte w, s, n, p, pg, take, todo, left;
    bool was, granted, last, completes, wants_world, ends;

    if
    :: can & LATE -> seat_new()
    :: else
    fi;

attach:
    seat_attach();
    if
    :: wants_world -> wants_world = 0; goto stop
    :: else
    fi;
running:
    do
    :: word[me] & (STOP | INBOX | QUIESCE) -> seat_safepoint()
    :: (can & CAN_PUT) && budget > 0 ->
        atomic { budget--; if :: pg = 0 :: pg = 1 fi };
        inbox_put()
    :: (can & CAN_STOP) && budget > 0 ->
        /* world_stop(): who loses the mutex detaches before he waits for it */
        atomic {
            budget--;
            if
            :: world == 0 -> world = me + 1; goto stop
            :: else -> wants_world = 1; goto detach
            fi
        }
    :: (can & CAN_WRITE) && budget > 0 ->
        atomic { budget--; retired = retired | (1 << slot); newest++; slot = newest }
    :: (can & CAN_LEAD) && budget > 0 -> budget--; grace_begin()
    :: (can & CAN_READ) && borrowed[me] != slot -> atomic { borrowed[me] = slot; assert(!(freed & (1 << slot))) }
    :: (can & CAN_SLEEP) && budget > 0 -> budget--; goto detach
    :: ends = 1; goto detach
    od;

stop:
    world_stop_and_start();
    goto running;

detach:
    seat_detach();
    if
    :: wants_world -> LOCK(world); goto attach
    :: ends
    :: else -> goto attach
    fi;

    /* The last one out looks whether anything was forgotten. */
    atomic {
        ended++;
        if
        :: ended == N ->
            assert(map[0] == 0 && map[1] == 0);
            assert(inbox[0] == 0 && !in_inbox[0] && !in_inbox[1]);
#ifndef MUTANT_NO_RECHECK                       /* let it be caught by a hint that is lost */
            assert(!(word[0] & INBOX));
#endif
            assert(!(word[0] & ~(QUIESCE | INBOX)) && !(word[1] & ~QUIESCE) && !(word[2] & ~QUIESCE));
            assert(who[0] == 0 && who[1] == 0 && who[2] == 0);
            assert(stop_awaiting == 0 && world == 0 && registry == 0);
            assert(!grace_in_flight && grace_awaiting == 0 && batch == 0)
        :: else
        fi
    }
}

/*
 * 1  an owner that comes and goes, two that put hints on two pages
 * 2  an owner that comes and goes, a stopper that also puts, a putter whose seat is made late
 * 3  two stoppers and an owner that comes and goes
 * 4  a reader that comes and goes, a writer, a leader of periods
 * 5  stops and grace periods together
 * 6  a bit of everything: sleeps, stops by two, hints by two, writer, leader, readers
 */
#ifndef B0                      /* the budgets */
#define B0 2
#endif
#ifndef B1
#define B1 2
#endif
#ifndef B2
#define B2 2
#endif

init {
    atomic {
#if CONF == 1
        exists[0] = 1; exists[1] = 1; exists[2] = 1;
        run thread(0, CAN_SLEEP, B0);
        run thread(1, CAN_PUT, B1);
        run thread(2, CAN_PUT, B2)
#elif CONF == 2
        exists[0] = 1; exists[1] = 1;
        run thread(0, CAN_SLEEP, B0);
        run thread(1, CAN_STOP | CAN_PUT, B1);
        run thread(2, CAN_PUT | LATE, B2)
#elif CONF == 3
        exists[0] = 1; exists[1] = 1; exists[2] = 1;
        run thread(0, CAN_SLEEP, B0);
        run thread(1, CAN_STOP, B1);
        run thread(2, CAN_STOP | CAN_PUT, B2)
#elif CONF == 4
        exists[1] = 1; exists[2] = 1;
        run thread(0, CAN_SLEEP | CAN_READ | LATE, B0);
        run thread(1, CAN_WRITE | CAN_READ, B1);
        run thread(2, CAN_LEAD | CAN_SLEEP | CAN_READ, B2)
#elif CONF == 5
        exists[0] = 1; exists[1] = 1; exists[2] = 1;
        run thread(0, CAN_SLEEP | CAN_READ, B0);
        run thread(1, CAN_STOP | CAN_LEAD, B1);
        run thread(2, CAN_WRITE | CAN_LEAD, B2)
#elif CONF == 6
        exists[0] = 1; exists[1] = 1; exists[2] = 1;
        run thread(0, CAN_SLEEP | CAN_STOP | CAN_READ, 1);
        run thread(1, CAN_SLEEP | CAN_STOP | CAN_PUT | CAN_WRITE, 1);
        run thread(2, CAN_SLEEP | CAN_PUT | CAN_LEAD | CAN_READ, 1)
#else                                           /* to try things by hand: -DA0=... are sets of CAN_ */
        exists[0] = 1; exists[1] = 1; exists[2] = 1;
        run thread(0, A0, B0);
        run thread(1, A1, B1);
        run thread(2, A2, B2)
#endif
    }
}
