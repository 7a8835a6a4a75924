/*
 * lock.pml - the lock of an object: its byte, the table in which threads wait, and a stopped world.
 *
 * src/object/lock.c; docs/internals/locks.md.  Two objects whose waiters share a bucket.  THREADS threads lock one of
 * them, or both in order, and may pass a safepoint while they hold one; one more thread stops the world STOPS times and
 * there locks and unlocks what is free.  The seat is two variables here, `attached` and `stop`: seat.pml is why it may be.
 *
 * Searched: one holder at a time; in a stopped world what is locked has a holder who knows it, and what is free can be had;
 * nobody waits for ever; at the end both bytes are 0 and the queue is empty.
 */
#ifndef THREADS
#define THREADS 3
#endif
#ifndef ROUNDS
#define ROUNDS 2
#endif
#ifndef STOPS
#define STOPS 1
#endif

#define NOBODY 255
#define STOPPER THREADS

bit locked[2], waiters[2];  /* the byte of each object */
byte holder[2] = NOBODY;    /* what its holder believes */
bool mutex;                 /* of the bucket */
byte queue_thread[THREADS]; /* under the mutex */
bit queue_object[THREADS];
byte queue_length;
bit woken[THREADS];
bit attached[THREADS];
bool stop;
byte ended;

/* Under the mutex: takes the first of the object out; `more`: others of it are left. */
inline dequeue(o, found, more)
{
    d_step {
        byte k = 0;
        found = NOBODY;
        more = 0;
        do
        :: k < queue_length && found == NOBODY ->
            if
#ifdef MUTANT_WAKES_STRANGER
            :: true ->
#else
            :: queue_object[k] == o ->
#endif
                found = queue_thread[k];
                queue_length--;
                byte j = k;
                do
                :: j < queue_length ->
                    queue_thread[j] = queue_thread[j + 1];
                    queue_object[j] = queue_object[j + 1];
                    j++
                :: else -> break
                od
            :: else -> k++
            fi
        :: else -> break
        od;
        k = 0;
        do
        :: k < queue_length -> more = more || queue_object[k] == o; k++
        :: else -> break
        od;
        k = 0;
        j = 0
    }
}

/* One compare-exchange: what is left of lock_try() when failed rounds are left out. */
inline try(me, o, got)
{
    d_step {
        got = !locked[o];
        if
        :: got ->
            locked[o] = 1;
#ifdef MUTANT_LOCK_DROPS_WAITERS
            waiters[o] = 0;
#endif
        :: else
        fi
    }
}

inline take_mutex()
{
    atomic { !mutex -> mutex = true }
}

/* As wait() does it: woken, or the lock was free. */
inline wait(me, o, sees_locked, sees_waiters)
{
    assert(me != STOPPER); /* it locks what is free only */
    take_mutex();
    do
    :: atomic { sees_locked = locked[o]; sees_waiters = waiters[o] };
        if
        :: !sees_locked || sees_waiters -> break
        :: else ->
#ifdef MUTANT_NO_RECHECK
            waiters[o] = 1;
            break
#else
            /* The compare-exchange, which fails if anything has changed. */
            atomic {
                if
                :: locked[o] && !waiters[o] -> waiters[o] = 1; break
                :: else
                fi
            }
#endif
        fi
    od;
    if
    :: sees_locked ->
        d_step {
            queue_thread[queue_length] = me;
            queue_object[queue_length] = o;
            queue_length++
        };
        mutex = false;
#ifndef MUTANT_WAITS_ATTACHED
        attached[me] = 0;
#endif
        woken[me];
        woken[me] = 0;
#ifdef MUTANT_COMPETES_DETACHED
        try(me, o, got);
#endif
#ifndef MUTANT_WAITS_ATTACHED
        atomic { !stop -> attached[me] = 1 }
#endif
    :: else -> mutex = false
    fi
}

inline lock(me, o)
{
    got = 0;
    do
    :: try(me, o, got);
        if
        :: got -> break
        :: else ->
            wait(me, o, sees_locked, sees_waiters);
#ifdef MUTANT_COMPETES_DETACHED
            if
            :: got -> break
            :: else
            fi
#endif
#ifdef MUTANT_HANDS_OVER
            if
            :: sees_locked -> break
            :: else
            fi
#endif
        fi
    od;
    sees_locked = 0;
    sees_waiters = 0;
    got = 0;
    assert(locked[o]);
    assert(holder[o] == NOBODY);
    holder[o] = me
}

inline unlock(me, o)
{
    assert(holder[o] == me);
    holder[o] = NOBODY;
    if
#ifdef MUTANT_UNLOCK_STORES
    :: atomic { locked[o] = 0; waiters[o] = 0 }
#else
    :: atomic { !waiters[o] -> locked[o] = 0 }
    :: waiters[o] ->
        take_mutex();
        dequeue(o, found, more);
        d_step {
            assert(locked[o] && waiters[o]);
#ifdef MUTANT_HANDS_OVER
            locked[o] = (found != NOBODY);
#else
            locked[o] = 0;
#endif
#ifdef MUTANT_FORGETS_OTHERS
            more = 0;
#endif
            waiters[o] = more
        };
        mutex = false;
        if
        :: found != NOBODY -> assert(!woken[found]); woken[found] = 1
        :: else
        fi;
        found = NOBODY;
        more = 0
#endif
    fi
}

inline safepoint(me)
{
    if
    :: stop ->
        attached[me] = 0;
        atomic { !stop -> attached[me] = 1 }
    :: true
    fi
}

proctype thread(byte me)
{
    byte rounds = ROUNDS, found = NOBODY;
    bool got, more, sees_locked, sees_waiters;

    atomic { !stop -> attached[me] = 1 };
    do
    :: rounds > 0 ->
        rounds--;
        if
        :: lock(me, 0); safepoint(me); unlock(me, 0)
        :: lock(me, 1); safepoint(me); unlock(me, 1)
        :: if
#ifdef MUTANT_PAIR_AS_GIVEN
           :: lock(me, 1); lock(me, 0)
#endif
           :: lock(me, 0); lock(me, 1)
           fi;
           unlock(me, 1); unlock(me, 0)
        fi
    :: else -> break
    od;
    atomic { attached[me] = 0; ended++ }
}

inline look(o)
{
    assert(!locked[o] || holder[o] != NOBODY);
    if
    :: !locked[o] ->
        lock(STOPPER, o);
        unlock(STOPPER, o)
    :: else
    fi
}

proctype stopper()
{
    byte stops = STOPS, found = NOBODY;
    bool got, more, sees_locked, sees_waiters;

    do
    :: stops > 0 ->
        stops--;
        stop = true;
        byte t = 0;
        do
        :: t < THREADS -> !attached[t]; t++
        :: else -> break
        od;
        t = 0;
        look(0);
        look(1);
        stop = false
    :: else -> break
    od;
    ended++
}

init
{
    atomic {
        byte i = 0;
        holder[0] = NOBODY;
        holder[1] = NOBODY;
        do
        :: i < THREADS -> run thread(i); i++
        :: else -> break
        od;
        run stopper();
        i = 0
    };
    ended == THREADS + 1;
    assert(!locked[0] && !locked[1] && !waiters[0] && !waiters[1] && queue_length == 0 && !mutex)
}
