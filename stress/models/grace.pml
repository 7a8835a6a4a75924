/*
 * grace.pml - stamps, batches and their queue; what each thread can know of the slot.
 *
 * What it is for.  A value that is taken out of a slot is dropped after a grace period.  Between the two
 * it waits: in the thread's open batch, then with a stamp in one queue of all threads, until a period that
 * has begun after the stamp is complete.  Whoever acknowledges a period looks whether something is ripe, drops
 * it, and begins the next period if something is left.  seat.pml shows that a period, once begun, waits for whom it
 * has to and ends; there a period frees what was retired when it began, at one stroke.  This model explores
 * the rest: stamps and their comparison, the two stores that end a period, batches that are closed at
 * any time, share a chunk or are left by threads that detach, and that the queue never gets stuck.
 *
 *    open batch --close: stamp, then the lock (owner; at detach, or when he likes)--> queue
 *    queue --ripe: completed > stamp (who acknowledged, or has RETIRE, or leaves)---> dropped
 *    epoch --begin (who found something that is not ripe), one period in flight-----> epoch + 1
 *    epoch --all have acknowledged: completed = epoch, then in_flight = 0-----------> the next may begin
 *
 * Not sequentially consistent.  Why a reader that attaches after the scan can't get the old value is a
 * question of memory order, so the model has some: a *view* is a set of events (an exchange of the slot; the latest
 * use of an object by a thread).  Each thread has one, and each atomic location has the view of its last
 * writer.  Acquire adds the location's view to the thread's, release puts the thread's into the location; a
 * read-modify-write does both and adds up.  A load of the slot may return any value that is not older than an
 * exchange in the thread's view.  A drop must have all uses of the object in the view of who drops.
 *
 * One atomic{} is one atomic access of the C code, or what is done under the retire lock.  Variables that exist
 * only for the proof are marked [ghost].
 * Configurations: -DCONF=1 ... 4, see "the programs".  Mutants: -DMUTANT_xxx, see README.md.
 */

#ifndef CONF
#define CONF 1
#endif

#if CONF == 2 || CONF == 4      /* threads, and seats */
#define N        2
#else
#define N        3
#endif
#ifndef WRITES
#if CONF == 1 || CONF == 3
#define WRITES   1              /* exchanges of the slot: object 1 comes out, and 2 */
#else
#define WRITES   2
#endif
#endif
#ifndef ROUNDS
#define ROUNDS   4              /* periods that a detach looks after itself */
#endif

#define ATTACHED 1
#define QUIESCE  2
#define RETIRE   4

/* What a thread may do. */
#define CAN_READ   1            /* borrow from the slot */
#define CAN_WRITE  2            /* exchange what is in it */
#define CAN_SLEEP  4            /* detach and attach again */
#define CAN_FILL   8            /* its batch may be full after a write */
#define CAN_LEAD  16            /* begin a period, as for pages */
#define STAYS     32            /* does not leave, but goes on with safepoints */

byte  word[3];                  /* seat.word */
byte  open[3];                  /* [owner] seat.retiring: bit per object */

byte  epoch;                    /* periods begun */
byte  completed;                /* number of the last one that is complete */
bool  in_flight;
short awaiting;
bool  registry;                 /* mutex */

byte  q_length;                 /* [lock: retire] the queue */
byte  q_stamp[2];
byte  q_batch[2];


byte  newest = 1;               /* what is in the slot: versions are objects */

/* Views.  Bit 0, 1: the exchange that took out object 1, 2.  Then two bits per thread: its last use of them.
 * Then the last time that the queue has become longer than 0. */
#define TAKEN_OUT(o)  (1 << ((o) - 1))
#define USE(t, o)     (4 << (2 * (t) + (o) - 1))
#define QUEUED        256
#define USES(o)       (USE(0, o) | USE(1, o) | USE(2, o))
short view[3];                  /* [ghost] of threads */
short of_word[3], of_epoch, of_completed, of_in_flight, of_awaiting, of_registry, of_lock;  /* [ghost] of locations */
short of_value[3];     /* [ghost] of slot value 1, 2 and 3 */

byte  borrowed[3];              /* [ghost] what thread i has borrowed and may use */
byte  used;                     /* [ghost] bits USE: it has done so at all */
byte  freed;                    /* [ghost] bit per object */
byte  ended;                    /* [ghost] threads that are through */

#define ACQUIRE(location)   view[me] = view[me] | location
#define RELEASE(location)   location = view[me]
#define ACQ_REL(location)   ACQUIRE(location); RELEASE(location)
#define BIT(o)              (1 << (o))
#define OLDEST              (1 + (view[me] & 1) + ((view[me] >> 1) & 1))

/* An event that nobody knows any more: it happens once again. */
#define FORGET(e) \
    view[0] = view[0] & ~(e); view[1] = view[1] & ~(e); view[2] = view[2] & ~(e); \
    of_word[0] = of_word[0] & ~(e); of_word[1] = of_word[1] & ~(e); of_word[2] = of_word[2] & ~(e); \
    of_epoch = of_epoch & ~(e); of_completed = of_completed & ~(e); of_in_flight = of_in_flight & ~(e); \
    of_awaiting = of_awaiting & ~(e); of_registry = of_registry & ~(e); of_lock = of_lock & ~(e); \
    of_value[0] = of_value[0] & ~(e); of_value[1] = of_value[1] & ~(e); of_value[2] = of_value[2] & ~(e)

/* ---- grace periods ------------------------------------------------------------------------- */

/* grace_stamp() */
inline grace_stamp()
{
#ifdef MUTANT_STAMP_LOAD                        /* a load: the next period may not know what came before it */
    atomic { stamp = epoch; ACQUIRE(of_epoch) };
#else
#ifdef MUTANT_STAMP_STALE                       /* a load that reads the number before the last */
    atomic { stamp = epoch - (epoch > 0); ACQ_REL(of_epoch) };
#else
    atomic { stamp = epoch; ACQ_REL(of_epoch) };
#endif
#endif
}

/* grace_is_ripe() */
#ifdef MUTANT_RIPE_EQUAL
#define RIPE(stamp_) (completed >= (stamp_))
#else
#define RIPE(stamp_) (completed > (stamp_))
#endif

/* complete(), first half: when the count has come to 0; until `completed` is stored nobody can tell. */
#ifdef MUTANT_COMPLETED_RELAXED
#define COMPLETED       completed = epoch; of_completed = 0
#else
#define COMPLETED       completed = epoch; RELEASE(of_completed)
#endif
#ifdef MUTANT_IN_FLIGHT_FIRST                   /* the next period may begin, and raise `epoch`, in between */
#define IF_ALL          if :: awaiting == 0 -> assert(in_flight); all = 1; in_flight = 0; RELEASE(of_in_flight) :: else fi
#define FINISH          COMPLETED
#else
#define IF_ALL          if :: awaiting == 0 -> assert(in_flight); all = 1; COMPLETED :: else fi
#define FINISH          assert(in_flight); in_flight = 0; RELEASE(of_in_flight)
#endif

/* The other half. */
inline complete()
{
    if
    :: atomic { all -> FINISH; all = 0 }
    :: else
    fi
}

/* settle(): clears QUIESCE, then takes one off.  No scan can come in between. */
#ifdef MUTANT_ACK_RELAXED
#define ACKNOWLEDGE     word[me] = word[me] & ~QUIESCE; awaiting--; ACQUIRE(of_awaiting); IF_ALL
#else
#define ACKNOWLEDGE     word[me] = word[me] & ~QUIESCE; ACQ_REL(of_word[me]); \
                        awaiting--; ACQ_REL(of_awaiting); IF_ALL
#endif

/* grace_begin().  Taking and leaving the mutex are in the steps next to them: nobody can tell. */
inline grace_begin()
{
    atomic {
        registry == 0 -> ACQ_REL(of_registry); ACQUIRE(of_in_flight);
        if
        :: !in_flight ->
            in_flight = 1; of_in_flight = 0; registry = 1; leads = 1;
#ifndef MUTANT_EPOCH_LATE                       /* counts the period when it has scanned */
            epoch++; ACQ_REL(of_epoch)
#endif
        :: else
        fi
    };
    if
    :: leads ->
       do
       :: s < N ->
           atomic {
#ifdef MUTANT_SCAN_LOAD_DETACHED                /* writes to seats that are attached only */
               if
               :: word[s] & ATTACHED -> n++; word[s] = word[s] | QUIESCE; ACQ_REL(of_word[s])
               :: else -> ACQUIRE(of_word[s])
               fi;
#else
               n = n + (word[s] & ATTACHED);
               word[s] = word[s] | QUIESCE;
               ACQ_REL(of_word[s]);
#endif
               s++
           }
       :: else -> break
       od;
#ifdef MUTANT_EPOCH_LATE
       atomic { epoch++; ACQ_REL(of_epoch) };
#endif
       atomic {
           awaiting = awaiting + n; ACQ_REL(of_awaiting); IF_ALL;
           s = 0; n = 0; leads = 0;
           RELEASE(of_registry); registry = 0
       };
       complete()
    :: else
    fi
}

/* ---- batches ------------------------------------------------------------------------------- */

/* retire_close(), if there is something in the batch. */
inline retire_close()
{
#ifndef MUTANT_STAMP_EARLY
        grace_stamp();
#endif
        atomic {
            ACQ_REL(of_lock);
            if
#ifdef MUTANT_SHARE_ANY                         /* joins the last chunk whatever its stamp is */
            :: q_length > 0 ->
#else
            :: q_length > 0 && q_stamp[q_length - 1] == stamp ->
#endif
                q_batch[q_length - 1] = q_batch[q_length - 1] | open[me]
            :: else ->
                q_stamp[q_length] = stamp;
                q_batch[q_length] = open[me];
                q_length++;
                if
                :: q_length == 1 -> FORGET(QUEUED); ACQUIRE(QUEUED); RELEASE(of_lock)
                :: else
                fi
            fi;
            open[me] = 0;
            stamp = 0
        }
}

/* Object o is dropped: nobody uses it, and all that used it happened before. */
#define DIES(o) assert(borrowed[0] != o && borrowed[1] != o && borrowed[2] != o); \
                assert(!(freed & BIT(o))); \
                assert(!(used & USES(o) & ~view[me])); \
                freed = freed | BIT(o)

/* drop_entries().  In the step that takes the chunk: the earlier, the worse. */
#define DROP(batch) \
    if :: (batch) & BIT(1) -> DIES(1) :: else fi; \
    if :: (batch) & BIT(2) -> DIES(2) :: else fi

#define FIRST_RIPE      (q_length != 0 && RIPE(q_stamp[0]))

/* retire_ripen(): take_ripe() until the first chunk is not. */
inline retire_ripen()
{
    do
    :: atomic {
            FIRST_RIPE ->
            ACQ_REL(of_lock);
            ACQUIRE(of_completed);
            DROP(q_batch[0]);
            q_stamp[0] = q_stamp[1];
            q_batch[0] = q_batch[1];
            q_stamp[1] = 0;
            q_batch[1] = 0;
            q_length--
        }
    :: atomic {
            !FIRST_RIPE ->
            ACQ_REL(of_lock);
            if
            :: q_length != 0 -> ACQUIRE(of_completed); waits = 1
            :: else
            fi;
            break
        }
    od;
    if
#ifdef MUTANT_NO_NEXT                           /* leaves what is not ripe to whom? */
    :: waits -> waits = 0
#else
    :: waits -> waits = 0; grace_begin()
#endif
    :: else
    fi
}

/* The relaxed load of `queued` may return an old 0. */
#define QUEUED_0    (q_length == 0 || !(view[me] & QUEUED))

/* retire_work() */
inline retire_work()
{
    atomic {
        if
        :: open[me] -> own = 1
        :: !open[me] && q_length != 0 -> looks = 1
        :: !open[me] && QUEUED_0
        fi
    };
    if
    :: own -> own = 0; retire_close(); looks = 1
    :: else
    fi;
    if
    :: looks -> looks = 0; retire_ripen()
    :: else
    fi
}

#define ASK_FOR_WORK    word[me] = word[me] | RETIRE; ACQ_REL(of_word[me])

/* slot_exchange(), then retire_reference(); the batch may be over the budget, or full and closed at once. */
inline slot_exchange()
{
#ifdef MUTANT_STAMP_EARLY                       /* the stamp before the exchange */
    (can & CAN_WRITE) && budget > 0 && newest <= WRITES -> grace_stamp();
#endif
    atomic {
        (can & CAN_WRITE) && budget > 0 && newest <= WRITES ->
        budget--;
        view[me] = view[me] | of_value[newest - 1] | TAKEN_OUT(newest);
        of_value[newest] = view[me];
#ifdef MUTANT_DROP_AT_STORE                     /* others may have borrowed it */
        DROP(BIT(newest));
#else
        open[me] = open[me] | BIT(newest);
#endif
        newest++;
        if
        :: true
        :: ASK_FOR_WORK
        :: can & CAN_FILL -> own = 1
        fi
    };
    if
    :: own -> own = 0; retire_close(); atomic { ASK_FOR_WORK }
    :: else
    fi
}

/* ---- attach, detach, safepoint ------------------------------------------------------------- */

/* ouro_attach(), and retire_look() */
inline seat_attach()
{
    atomic { word[me] = (word[me] & ~QUIESCE) | ATTACHED; ACQ_REL(of_word[me]) };
    if
    :: atomic { q_length != 0 -> ASK_FOR_WORK }
    :: QUEUED_0
    fi
}

/* What a safepoint does when it has acknowledged. */
inline quiesced()
{
#ifdef MUTANT_NO_RIPEN                          /* leaves it to a safepoint that has something of its own */
    skip
#else
    retire_ripen()
#endif
}

/* ouro_safepoint(), when there is something to do: what was borrowed ends here. */
inline seat_safepoint()
{
    atomic {
        word[me] != ATTACHED ->
        borrowed[me] = 0;
        if
        :: word[me] & QUIESCE -> ACKNOWLEDGE; acknowledged = 1
        :: else
        fi;
        if
        :: word[me] & RETIRE -> word[me] = word[me] & ~RETIRE; ACQ_REL(of_word[me]); works = 1
        :: else
        fi
    };
    complete();
#ifdef MUTANT_RETIRE_INSTEAD                    /* who has acknowledged trusts a relaxed load of the length */
    if
    :: works -> acknowledged = 0
    :: else
    fi;
#endif
    if
    :: works -> works = 0; retire_work()
    :: else
    fi;
    if
    :: acknowledged -> acknowledged = 0; quiesced()
    :: else
    fi
}

/* retire_pass_on(): one look under the lock, then a scan of the words under the mutex of the registry. */
inline pass_on()
{
#ifndef MUTANT_NO_PASS_ON                       /* leaves it to who attaches next */
    atomic { ACQ_REL(of_lock); leads = (q_length != 0) };
    if
    :: leads ->
       atomic { registry == 0 -> ACQ_REL(of_registry); registry = 1 };
       do
       :: s < N ->
           atomic {
               if
#ifdef MUTANT_PASS_ON_ONE                       /* to the first that is attached: it may be leaving, too */
               :: s != me && leads && (word[s] & ATTACHED) ->
                    leads = 0; word[s] = word[s] | RETIRE; ACQ_REL(of_word[s])
#else
               :: s != me -> word[s] = word[s] | RETIRE; ACQ_REL(of_word[s])
#endif
               :: else
               fi;
               s++
           }
       :: else -> break
       od;
       atomic { s = 0; leads = 0; RELEASE(of_registry); registry = 0 }
    :: else
    fi
#else
    skip
#endif
}

/* ouro_detach() */
inline seat_detach()
{
    borrowed[me] = 0;
    do
    :: if
#ifdef MUTANT_NO_CLOSE                          /* what is in the open batch waits until the thread comes back */
       :: rounds < ROUNDS -> retire_ripen()
#else
       :: rounds < ROUNDS -> retire_work()
#endif
       :: else ->
            if
            :: open[me] -> retire_close()
            :: else
            fi;
            if
            :: rounds == ROUNDS -> rounds++; grace_begin()
            :: else
            fi
       fi;
       if
#ifndef MUTANT_DETACH_NO_ACK                    /* leaves with QUIESCE set */
       :: atomic { word[me] & QUIESCE -> ACKNOWLEDGE };
          complete();
          if
          :: rounds < ROUNDS -> rounds++; quiesced()
          :: else -> pass_on()
          fi
       :: atomic { !(word[me] & QUIESCE) ->
#else
       :: atomic { true ->
#endif
            word[me] = word[me] & ~(ATTACHED | RETIRE); ACQ_REL(of_word[me]); rounds = 0; break }
       fi
    od
}

/* ---- the programs -------------------------------------------------------------------------- */

/* One thread with its seat: at most `budget` reads, writes and sleeps. */
proctype thread(byte me; byte can; byte budget)
{
    byte s, n, stamp, rounds;
    bool all;                   /* completes the period */
    bool leads, waits, own, looks, acknowledged, works, ends;

attach:
    seat_attach();
    do
    :: seat_safepoint()
    :: borrowed[me] && word[me] == ATTACHED -> borrowed[me] = 0         /* a safepoint with nothing to do */
    :: atomic {
            (can & CAN_READ) && budget > 0 && borrowed[me] == 0 && OLDEST <= WRITES ->
            budget--;
            if                                  /* acquire; no older value than the view allows */
            :: s = OLDEST
            :: newest > OLDEST && OLDEST < WRITES -> s = WRITES
            fi;
            assert(!(freed & BIT(s)));
            view[me] = view[me] | of_value[s - 1];
            borrowed[me] = s;
            FORGET(USE(me, s));                 /* a new use, which nobody else knows of */
            view[me] = view[me] | USE(me, s);
            used = used | USE(me, s);
            s = 0
        }
    :: slot_exchange()
    :: (can & CAN_LEAD) && budget > 0 -> budget--; grace_begin()
    :: (can & CAN_SLEEP) && budget > 0 -> budget--; goto detach
    :: !(can & STAYS) -> ends = 1; goto detach
    :: atomic {
            /* All others have gone and there is nothing to do for a safepoint: then nothing waits. */
            (can & STAYS) && ended == N - 1 && word[me] == ATTACHED && borrowed[me] == 0 ->
            assert(q_length == 0 && open[0] == 0 && open[1] == 0 && open[2] == 0);
            assert(!in_flight && awaiting == 0);
            break
        }
    od;
    goto done;

detach:
    seat_detach();
    if
    :: ends
    :: else -> goto attach
    fi;

    /* The last one out looks whether anything was forgotten. */
    atomic {
        ended++;
        if
        :: ended == N ->
            assert(q_length == 0 && open[0] == 0 && open[1] == 0 && open[2] == 0);
            assert(!in_flight && awaiting == 0 && !registry);
            assert(newest < 2 || (freed & BIT(1)));
            assert(newest < 3 || (freed & BIT(2)))
        :: else
        fi
    };
done:
    skip
}

/*
 * 1  a reader, a writer, and one that stays; one write
 * 2  a writer that comes and goes, a reader that stays; two writes
 * 3  as 1, and the one that stays begins a period of its own
 * 4  two that read and write; two writes
 */
init {
    atomic {
#if CONF == 1
        run thread(0, CAN_READ, 1);
        run thread(1, CAN_WRITE, 1);
        run thread(2, STAYS, 0)
#elif CONF == 2
        run thread(0, CAN_WRITE | CAN_FILL | CAN_SLEEP, 3);
        run thread(1, CAN_READ | STAYS, 2)
#elif CONF == 3
        run thread(0, CAN_READ, 1);
        run thread(1, CAN_WRITE, 1);
        run thread(2, CAN_LEAD | STAYS, 1)
#elif CONF == 4
        run thread(0, CAN_READ | CAN_WRITE, 2);
        run thread(1, CAN_READ | CAN_WRITE, 1)
#else                                           /* to try things by hand: -DA0=... are sets of CAN_ */
        run thread(0, A0, B0);
        run thread(1, A1, B1);
        run thread(2, A2, B2)
#endif
    }
}
