/* How ChannelClient::PrepareSuccessor() wakes the waiters that sleep, by an event that only the vmm
 * has: a device shares the completion events, and could make a write to one of them block. The event
 * is level-triggered and shared by all waiters, so it must be emptied when, and not before, each of
 * those that slept has looked again.
 *
 * Every interleaving is tried on a machine that is as weak as x86, as in channel.pml. Each fence,
 * and the second look at who sleeps, can be taken out by a macro: check_model.sh insists that the
 * model then fails.
 *
 * Checked: when no process can go on, no waiter sleeps whose request is settled, and the event is
 * empty (else it would keep sleepers running).
 */

#ifndef WAITERS
#define WAITERS 2
#endif
#ifndef ROUNDS /* calls of PrepareSuccessor() */
#define ROUNDS 2
#endif
#define BUFFERED 2

/* settled_ and WaiterState::must_look; the waiters' sleeping flags, in request memory. */
#define SETTLED 0
#define SLEEPING(waiter) (1 + (waiter))
#define MUST_LOOK(waiter) (1 + WAITERS + (waiter))
byte memory[1 + 2 * WAITERS];

/* Store buffers: the waiters', then the preparer's. */
#define PREPARER WAITERS
chan store_buffer[WAITERS + 1] = [BUFFERED] of { byte, byte };

#define STORE(cpu, address, value) store_buffer[cpu] ! address, value
#define FENCE(cpu) empty(store_buffer[cpu])

#ifdef NO_FENCE_SLEEP
#define FENCE_SLEEP skip
#else
#define FENCE_SLEEP FENCE(me)
#endif
#ifdef NO_FENCE_LEAVE
#define FENCE_LEAVE skip
#else
#define FENCE_LEAVE FENCE(me)
#endif
#ifdef NO_FENCE_SETTLE
#define FENCE_SETTLE skip
#else
#define FENCE_SETTLE FENCE(PREPARER)
#endif
#ifdef NO_FENCE_ASK
#define FENCE_ASK skip
#else
#define FENCE_ASK FENCE(PREPARER)
#endif

bit mutex;
byte looks_due; /* under the mutex */
bit interrupt;  /* in the kernel */
byte finished;

hidden byte address, value;

active proctype StoreBuffers() {
end:
  do
  :: atomic { store_buffer[0] ? address, value -> memory[address] = value }
#if WAITERS > 1
  :: atomic { store_buffer[1] ? address, value -> memory[address] = value }
#endif
  :: atomic { store_buffer[PREPARER] ? address, value -> memory[address] = value }
  od
}

#define LOCK(cpu) atomic { FENCE(cpu) && !mutex -> mutex = 1 }
#define UNLOCK(cpu) atomic { FENCE(cpu) -> mutex = 0 }

/* ChannelClient::LookAgain() */
inline look_again() {
  LOCK(me);
  if
  :: memory[MUST_LOOK(me)] ->
     STORE(me, MUST_LOOK(me), 0);
     looks_due--;
     if
     :: looks_due == 0 -> atomic { FENCE(me) -> interrupt = 0 }
     :: else
     fi
  :: else
  fi;
  UNLOCK(me)
}

/* ChannelClient::SleepUntil(), for a request that each round settles. */
proctype Waiter(byte me) {
  byte awaited;

  do
  :: awaited < ROUNDS ->
     awaited++;
     STORE(me, SLEEPING(me), 1);
     FENCE_SLEEP;
     do
     :: memory[SETTLED] >= awaited -> break
     :: memory[SETTLED] < awaited ->
        atomic { FENCE(me) && interrupt } /* poll(2) */
        if
        :: memory[MUST_LOOK(me)] -> look_again()
        :: else
        fi
     od;
     STORE(me, SLEEPING(me), 0);
     FENCE_LEAVE;
     if
     :: memory[MUST_LOOK(me)] -> look_again()
     :: else
     fi
  :: else -> finished++; break
  od
}

/* ChannelClient::PrepareSuccessor(), AskSleepersToLook() */
active proctype Preparer() {
  byte round, i;

  do
  :: round < ROUNDS ->
     round++;
     LOCK(PREPARER);
     STORE(PREPARER, SETTLED, round);
     FENCE_SETTLE;
     i = 0;
     do
     :: i < WAITERS ->
        if
        :: memory[SLEEPING(i)] && !memory[MUST_LOOK(i)] ->
           STORE(PREPARER, MUST_LOOK(i), 1);
           FENCE_ASK;
#ifdef NO_SECOND_LOOK
           looks_due++
#else
           if
           :: memory[SLEEPING(i)] -> looks_due++
           :: else -> STORE(PREPARER, MUST_LOOK(i), 0)
           fi
#endif
        :: else
        fi;
        i++
     :: else -> break
     od;
     i = 0;
     if
     :: looks_due > 0 -> atomic { FENCE(PREPARER) -> interrupt = 1 }
     :: else
     fi;
     UNLOCK(PREPARER)
  :: else -> break
  od
}

active proctype Observer() {
  timeout -> assert(finished == WAITERS && looks_due == 0 && !interrupt)
}

init {
  byte i;
  atomic {
    for (i : 0 .. WAITERS - 1) { run Waiter(i) }
  }
}
