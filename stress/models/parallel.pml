/*
 * parallel.pml - threads that sleep in a stopped world take part in a pass of the collector.
 *
 * src/gc/parallel.c; docs/internals/parallel.md.  The collector stops the world STOPS times and makes PASSES passes each time,
 * with up to WORK items of work; HELPERS threads pass safepoints.  An item that is worked on may be two, as long as there is
 * some left; any may be put as a piece, of which there are PIECES.  The seat is three variables here: `parked`, `help`, `granted`;
 * seat.pml is why it may be.  A futex is: sleep if the word is what was seen, and only an explicit wake ends it.
 *
 * Searched: when a pass is over nothing is left of its work and nobody is inside; nobody works in a world that runs;
 * nobody sleeps for ever.
 */
#ifndef HELPERS
#define HELPERS 2
#endif
#ifndef STOPS
#define STOPS 1
#endif
#ifndef PASSES
#define PASSES 2
#endif
#ifndef WORK
#define WORK 3
#endif
#ifndef PIECES
#define PIECES 1
#endif
#define PLACES (HELPERS + 1)

bool stop, running = 1, ended; /* running: nobody is stopped */
bool parked[PLACES], help[PLACES], granted[PLACES];

bool open; /* gate */
byte inside, come;
bool gate_sleeper;

byte working, asleep, put; /* crew */
bool sleeping[PLACES];

bool there[PIECES], used[PIECES]; /* maps */
byte items[PLACES]; /* in a participant's hands */

byte left;  /* ghost: items that are not done */
byte spare; /* that may still come to be */

inline wake_all()
{
    d_step {
        a = 0;
        do
        :: a < PLACES -> sleeping[a] = 0; a++
        :: else -> break
        od;
        a = 0
    }
}

inline wake_one()
{
    atomic {
        if
        :: sleeping[0] -> sleeping[0] = 0
        :: sleeping[1] -> sleeping[1] = 0
        :: HELPERS > 1 && sleeping[PLACES - 1] -> sleeping[PLACES - 1] = 0
        :: !sleeping[0] && !sleeping[1] && !sleeping[PLACES - 1] -> skip
        fi
    }
}

/* One item is done, and may have made another. */
inline do_item(me)
{
    atomic {
        assert(!running);
        if
        :: spare > 0 -> spare--; items[me]++; left++
        :: true -> items[me]--; left--
        fi
    }
}

inline put_piece(me)
{
    atomic { /* parallel_piece() */
        a = 0;
        got = 0;
        do
        :: a < PIECES && used[a] -> a++
        :: else -> break
        od;
        if
        :: a < PIECES -> used[a] = 1; got = 1
        :: else -> skip
        fi
    }
    if
    :: got ->
        atomic { items[me]--; there[a] = 1 }
        atomic { put = (put + 1) % 4; got = asleep > 0 }
        if
        :: got -> wake_one()
        :: else -> skip
        fi
    :: else -> skip
    fi;
    a = 0;
    got = 0
}

inline take_piece(me)
{
    atomic {
        got = 0;
        a = 0;
        do
        :: a < PIECES && !there[a] -> a++
        :: else -> break
        od;
        if
        :: a < PIECES -> there[a] = 0; got = 1; items[me]++
        :: else -> skip
        fi
    }
    if
    :: got -> used[a] = 0
    :: else -> skip
    fi;
    a = 0
}

/* A participant, from the place where it is counted as working, until the pass is over. */
inline participate(me)
{
again:
    do
    :: items[me] > 0 ->
        if
        :: do_item(me)
        :: items[me] > 0 -> put_piece(me)
        fi
    :: items[me] == 0 ->
#ifdef MUTANT_IDLE_AFTER_PUT
        if
        :: true -> break
        :: true -> skip
        fi;
#endif
        take_piece(me);
        if
        :: got -> skip
        :: else -> break
        fi
    od;
    /* parallel_idle() */
    atomic { working--; asleep++; w1 = working; w2 = asleep; w3 = put }
#ifndef MUTANT_LAST_NO_WAKE
    if
    :: w1 == 0 -> wake_all()
    :: else -> skip
    fi;
#endif
    do
    :: w1 == 0 -> atomic { asleep--; break }
    :: w1 != 0 && there[0] || (PIECES > 1 && there[PIECES - 1] && w1 != 0) ->
#ifdef MUTANT_TAKE_BEFORE
        take_piece(me);
        atomic { working++; asleep-- };
#else
        atomic { working++; asleep-- };
#endif
        goto again
    :: w1 != 0 && !there[0] && !there[PIECES - 1] ->
        atomic {
            if
            :: w1 == working && w2 == asleep && w3 == put -> sleeping[me] = 1
            :: else -> skip
            fi
        }
        !sleeping[me];
        atomic { w1 = working; w2 = asleep; w3 = put }
    od;
    w1 = 0;
    w2 = 0;
    w3 = 0;
    got = 0
}

active proctype collector()
{
    byte stops = 0, passes, k, g1, g2, w1, w2, w3, a;
    bool got;

    do
    :: stops < STOPS ->
        stops++;
        stop = 1;
        k = 1;
        do
        :: k < PLACES -> parked[k]; k++
        :: else -> break
        od;
        running = 0;
        passes = 0;
        do
        :: passes < PASSES ->
            passes++;
            assert(inside == 0 && !open && left == 0);
            d_step {
                come = 0; asleep = 0;
                working = 1;
                items[0] = 1; left = 1; spare = WORK - 1
            }
            open = 1;
            k = 1;
            do
            :: k < PLACES -> help[k] = 1; k++
            :: else -> break
            od;
            participate(0);
            assert(left == 0);
            atomic { open = 0; g1 = inside; g2 = come }
#ifndef MUTANT_END_NO_WAIT
            do
            :: g1 == 0 -> break
            :: else ->
                atomic {
                    if
                    :: g1 == inside && g2 == come -> gate_sleeper = 1
                    :: else -> skip
                    fi
                }
                !gate_sleeper;
                atomic { g1 = inside; g2 = come }
            od;
#endif
            assert(working == 0)
        :: else -> break
        od;
        running = 1;
        stop = 0;
        k = 1;
        do
        :: k < PLACES -> atomic { help[k] = 0; parked[k] = 0; granted[k] = 1 }; k++
        :: else -> break
        od;
        k = 0
    :: else -> break
    od;
    ended = 1
}

proctype helper(byte me)
{
    byte w1, w2, w3, a;
    bool in, last, got;

    do
    :: stop && !ended ->
        parked[me] = 1;
        do
        :: atomic { granted[me] -> granted[me] = 0 }; break
        :: atomic { help[me] -> help[me] = 0 };
            atomic {
#ifdef MUTANT_COME_SHUT
                in = 1;
#else
                in = open;
#endif
                if
                :: in -> inside++; come++
                :: else -> skip
                fi
            }
            if
            :: in ->
#ifdef MUTANT_WORK_UNCOUNTED
                take_piece(me);
                working++;
#else
                working++;
#endif
                participate(me);
                atomic { inside--; last = inside == 0 && !open }
#ifndef MUTANT_LEAVE_NO_WAKE
                if
                :: last -> gate_sleeper = 0
                :: else -> skip
                fi;
#endif
                last = 0;
                in = 0
            :: else -> skip
            fi
        od
    :: ended -> break
    od
}

init
{
    byte i = 1;

    atomic {
        do
        :: i < PLACES -> run helper(i); i++
        :: else -> break
        od
    }
}
