/* The channel's protocol: sending, processing, answering, sleeping and waking in both
 * directions, a full ring, timeouts, and a device process that dies and is replaced.
 *
 * Every interleaving is tried, on a machine that is as weak as x86 (TSO): a store waits in its
 * CPU's store buffer, for any time, and later loads pass it. A seq_cst store of the code is
 * STORE and FENCE here. Each fence, and each of a few other precautions, can be taken out by a
 * macro, and the model then finds what goes wrong without it: check_model.sh insists on that.
 * System calls that signal or block empty the store buffer, as the kernel's locks do.
 *
 * Not here: polling (a re-check that announces nothing), Fail() and CancelWaits() (the vmm's own
 * level-triggered event), how PrepareSuccessor() wakes sleepers by that event (look_again.pml), and
 * hostile devices (fuzz tests).
 *
 * Checked:
 *   - no wake-up is lost: nothing is left undone when no process can go on
 *   - every request is processed in the order of tickets; a call that returned before another
 *     began has the lower ticket; no slot is overwritten before it is processed
 *   - a waiter takes the answer to its last request, never the late answer to one before
 *   - an honest device is never found guilty of moving its head impossibly
 *   - a producer that gives up leaves no hole in the ring
 */

#ifndef PRODUCERS
#define PRODUCERS 2
#endif
#ifndef REQUESTS /* in all; any producer sends any number of them */
#define REQUESTS 3
#endif
#ifndef SLOTS
#define SLOTS 2
#endif
#ifndef QUARTER /* the head looks for producers that wait for space every so many requests */
#define QUARTER 1
#endif
#ifndef TIMEOUTS /* at most, in all */
#define TIMEOUTS 0
#endif
#ifndef BUFFERED /* stores that a CPU has buffered, at most */
#define BUFFERED 2
#endif
#ifndef CRASHES /* at most */
#define CRASHES 0
#endif

/* Shared memory. Each word has one writer, but for space_waiters (an atomic add). */
#define SEQUENCE(ticket) ((ticket) % SLOTS)
#define HEAD SLOTS
#define SLEEPING (SLOTS + 1)
#define SPACE_WAITERS (SLOTS + 2)
#define COMPLETION(waiter) (SLOTS + 3 + (waiter))
#define WAITER_SLEEPING(waiter) (SLOTS + 3 + PRODUCERS + (waiter))
byte memory[SLOTS + 3 + 2 * PRODUCERS];

/* Store buffers: the producers', then the device's. */
#define DEVICE PRODUCERS
chan store_buffer[PRODUCERS + 1] = [BUFFERED] of { byte, byte };

#define STORE(cpu, address, value) store_buffer[cpu] ! address, value
#define FENCE(cpu) empty(store_buffer[cpu])

#ifdef NO_FENCE_SEND
#define FENCE_SEND skip
#else
#define FENCE_SEND FENCE(me)
#endif
#ifdef NO_FENCE_WAIT
#define FENCE_WAIT skip
#else
#define FENCE_WAIT FENCE(me)
#endif
#ifdef NO_FENCE_SLEEP
#define FENCE_SLEEP skip
#else
#define FENCE_SLEEP FENCE(DEVICE)
#endif
#ifdef NO_FENCE_ANSWER
#define FENCE_ANSWER skip
#else
#define FENCE_ANSWER FENCE(DEVICE)
#endif
#ifdef NO_FENCE_HEAD
#define FENCE_HEAD skip
#else
#define FENCE_HEAD FENCE(DEVICE)
#endif

/* In the kernel. */
bit request_event;
bit completion_event[PRODUCERS];

/* The vmm's own. */
byte tail;
byte seen_head;

/* Known to the checks alone. */
byte sender[REQUESTS + 1];
bit posted[REQUESTS + 1];
byte last_returned; /* the highest ticket whose sending has returned */
byte sent;          /* requests, or given up */
byte finished;      /* producers */
byte timeouts;
byte crashes;

hidden byte address, value;

active proctype StoreBuffers() {
end:
  do
  :: atomic { store_buffer[0] ? address, value -> memory[address] = value }
#if PRODUCERS > 1
  :: atomic { store_buffer[1] ? address, value -> memory[address] = value }
#endif
#if PRODUCERS > 2
  :: atomic { store_buffer[2] ? address, value -> memory[address] = value }
#endif
  :: atomic { store_buffer[DEVICE] ? address, value -> memory[address] = value }
  od
}

/* ChannelClient::TryReserve(), HeadMovedPast(). `ticket` 0: the ring is full. */
inline try_reserve() {
  do
  :: atomic {
       FENCE(me); /* compare_exchange is a locked instruction */
       known = seen_head;
       if
       :: tail - known < SLOTS ->
          tail++;
          ticket = tail;
          sender[ticket] = me;
          posted[ticket] = is_posted;
          break
       :: else
       fi
     }
     seen = seen_head;
     head = memory[HEAD];
     atomic {
       assert(head >= seen && head <= tail); /* else the device would be found guilty */
       seen_head = (head > seen_head -> head : seen_head);
       if
       :: head > known -> known = 0; seen = 0; head = 0
       :: else -> known = 0; seen = 0; head = 0; break
       fi
     }
  od;
  known = 0
}

/* ChannelClient::SleepUntil(): one round of blocking. */
inline block_or_time_out() {
  if
  :: atomic { FENCE(me) && completion_event[me] -> completion_event[me] = 0 }
  :: atomic { FENCE(me) && timeouts < TIMEOUTS -> timeouts++; timed_out = 1 }
  fi
}

proctype Producer(byte me) {
  byte ticket, known, seen, head, answered, before, floor;
  bit is_posted, timed_out;

  do
  :: atomic {
       sent < REQUESTS ->
       sent++;
       floor = last_returned;
       if
#ifndef ONLY_POSTED
       :: is_posted = 0
#endif
#ifndef ONLY_CALLS
       :: is_posted = 1
#endif
       fi
     }
#ifdef TICKET_WITHOUT_SPACE
     atomic {
       FENCE(me);
       tail++;
       ticket = tail;
       sender[ticket] = me;
       posted[ticket] = is_posted
     }
     if
     :: tail - memory[HEAD] <= SLOTS
     :: atomic { timeouts < TIMEOUTS -> timeouts++; timed_out = 1 }
     fi;
#else
     try_reserve();
     if
     :: ticket != 0
     :: else -> /* ReserveWhenFull() */
        atomic { FENCE(me); memory[SPACE_WAITERS]++ }
        STORE(me, WAITER_SLEEPING(me), 1);
        FENCE_WAIT;
        do
        :: try_reserve();
           if
           :: ticket != 0 || timed_out -> break
           :: else -> block_or_time_out()
           fi
        od;
        atomic { FENCE(me); memory[SPACE_WAITERS]-- }
        STORE(me, WAITER_SLEEPING(me), 0)
     fi;
     atomic {
       if
       :: ticket != 0 -> timed_out = 0
       :: else
       fi
     }
#endif
     if
     :: timed_out
     :: else -> /* Send() */
        atomic {
          assert(ticket > floor);
          floor = 0;
#ifdef ANY_ANSWER
          before = memory[COMPLETION(me)];
#endif
          STORE(me, SEQUENCE(ticket), ticket)
        }
        FENCE_SEND;
        if
        :: memory[SLEEPING] -> atomic { FENCE(me); request_event = 1 }
        :: else
        fi;
        if
        :: is_posted
        :: else -> /* WaitForAnswer() */
           STORE(me, WAITER_SLEEPING(me), 1);
           FENCE_WAIT;
           do
           :: atomic {
                answered = memory[COMPLETION(me)];
                assert(answered <= ticket); /* else the device would be found guilty */
#ifdef ANY_ANSWER
                if
                :: answered != before -> assert(answered == ticket); break
#else
                if
                :: answered == ticket -> break
#endif
                :: else -> answered = 0
                fi
              }
              if
              :: timed_out -> break
              :: else -> block_or_time_out()
              fi
           od;
           STORE(me, WAITER_SLEEPING(me), 0)
        fi
     fi;
     atomic {
       last_returned = (ticket > last_returned -> ticket : last_returned);
       ticket = 0;
       answered = 0;
       before = 0;
       floor = 0;
       timed_out = 0
     }
  :: atomic { sent == REQUESTS -> finished++; break }
  od
}

/* The process may die at any step; what it stored gets through. */
#if CRASHES > 0
#define MAY_DIE                                                                          \
  if                                                                                     \
  :: atomic { crashes < CRASHES -> crashes++; head = 0; ticket = 0; i = 0; goto attach } \
  :: skip                                                                                \
  fi
#else
#define MAY_DIE skip
#endif

active proctype Device() {
  byte head, ticket, i;

attach: /* ChannelServer::Attach() */
  FENCE(DEVICE); /* a successor starts when its predecessor is dead */
  atomic {
    head = memory[HEAD];
    ticket = head + 1;
    /* the checks there do not refuse what an honest predecessor left */
    assert(memory[SEQUENCE(ticket)] == ticket ||
           memory[SEQUENCE(ticket)] == (ticket > SLOTS -> ticket - SLOTS : 0));
    assert(memory[SEQUENCE(head)] == head || memory[SEQUENCE(head)] == head + SLOTS)
  }
  STORE(DEVICE, SLEEPING, 0);
  MAY_DIE;
  atomic { FENCE(DEVICE); request_event = 0 }
#ifndef NO_WAKE_ON_ATTACH
  MAY_DIE;
  atomic {
    for (i : 0 .. PRODUCERS - 1) { completion_event[i] = 1 }
    i = 0
  }
#endif

  do
  :: if
     :: memory[SEQUENCE(ticket)] == ticket ->
        MAY_DIE;
        if
        :: posted[ticket]
        :: else -> /* Answer() */
           STORE(DEVICE, COMPLETION(sender[ticket]), ticket);
           FENCE_ANSWER;
           MAY_DIE;
           if
           :: memory[WAITER_SLEEPING(sender[ticket])] ->
              atomic { FENCE(DEVICE); completion_event[sender[ticket]] = 1 }
              MAY_DIE
           :: else
           fi
        fi;
        atomic { /* AdvanceHead() */
          assert(memory[SEQUENCE(ticket)] == ticket); /* nobody has overwritten it */
          head++;
          ticket++;
          STORE(DEVICE, HEAD, head)
        }
        if
        :: head % QUARTER == 0 ->
           FENCE_HEAD;
           MAY_DIE;
           if
           :: memory[SPACE_WAITERS] ->
              for (i : 0 .. PRODUCERS - 1) {
                if
                :: memory[WAITER_SLEEPING(i)] -> atomic { FENCE(DEVICE); completion_event[i] = 1 }
                :: else
                fi
              }
              i = 0
           :: else
           fi
        :: else
        fi
     :: else -> /* PrepareToSleep() */
        STORE(DEVICE, SLEEPING, 1);
        FENCE_SLEEP;
        if
        :: memory[SEQUENCE(ticket)] == ticket -> STORE(DEVICE, SLEEPING, 0)
        :: else ->
           FENCE(DEVICE);
           MAY_DIE;
end:       request_event;
           STORE(DEVICE, SLEEPING, 0); /* AfterSleep() */
           MAY_DIE;
           atomic { FENCE(DEVICE); request_event = 0 }
        fi
     fi
  od
}

/* When no process can go on, all must be done. */
active proctype Observer() {
  timeout ->
    assert(finished == PRODUCERS && memory[HEAD] == tail)
}

init {
  byte i;
  atomic {
    for (i : 0 .. PRODUCERS - 1) { run Producer(i) }
  }
}
