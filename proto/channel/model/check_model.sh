#!/bin/bash
# Checks the channel's protocol with spin: the models hold in several sizes, and every
# precaution that they were built with is needed (without it the model must fail).
set -u

models=$TEST_SRCDIR/$TEST_WORKSPACE/$1
cd "$TEST_TMPDIR" || exit 1
cp "$models/channel.pml" "$models/look_again.pml" . || exit 1
bad=0
model=channel.pml

optimize=-O2  # of the search

# search NAME MACROS...: all reachable states of $model; the report is in the file `report`.
search() {
  local name=$1
  shift
  if ! spin -a "$@" $model >spin.log 2>&1 ||
     ! gcc -w $optimize -DSAFETY -DCOLLAPSE -DMEMLIM=3000 -o pan pan.c >gcc.log 2>&1; then
    cat spin.log gcc.log
    echo "FAILED   $name: the model does not build"
    exit 1
  fi
  ./pan -m100000 >report 2>&1
  states=$(sed -n 's/ *\([0-9e+.]*\) states, stored.*/\1/p' report)
}

# holds NAME MACROS...: the whole state space without an error.
holds() {
  search "$@"
  if grep -q 'errors: 0$' report && ! grep -qE 'not completed|depth too small' report; then
    echo "holds    $1 ($states states)"
  else
    cat report
    echo "FAILED   $1: the model must hold"
    bad=1
  fi
}

# breaks NAME ASSERTION MACROS...: this assertion, and no other, is violated.
breaks() {
  local name=$1 assertion=$2
  shift 2
  search "$name" "$@"
  if grep -qF "assertion violated $assertion" report; then
    echo "breaks   $name, as it must"
  else
    cat report
    echo "FAILED   $name: the model must break with \"$assertion\""
    bad=1
  fi
}

holds "one producer"                       -DPRODUCERS=1 -DREQUESTS=4
holds "space announced by the half"        -DPRODUCERS=1 -DREQUESTS=6 -DSLOTS=4 -DQUARTER=2
# Two producers with three requests of any kind around a ring of two are 10 million states: they
# hold too, but take a while.
holds "two producers, room for all"        -DREQUESTS=3 -DSLOTS=4
holds "two producers, one slot"            -DREQUESTS=2 -DSLOTS=1
holds "two producers, posted writes"       -DREQUESTS=3 -DONLY_POSTED
holds "two producers, calls"               -DREQUESTS=3 -DONLY_CALLS
holds "one producer, time-outs"            -DPRODUCERS=1 -DREQUESTS=3 -DTIMEOUTS=2
holds "two producers, a time-out"          -DPRODUCERS=2 -DREQUESTS=2 -DSLOTS=1 -DTIMEOUTS=1
holds "one producer, two deaths"           -DPRODUCERS=1 -DREQUESTS=3 -DCRASHES=2
holds "two producers, a death"             -DPRODUCERS=2 -DREQUESTS=2 -DCRASHES=1
holds "a death and a time-out"             -DPRODUCERS=1 -DREQUESTS=4 -DCRASHES=1 -DTIMEOUTS=1

optimize=-O0  # an error is found long before the last state

# A lost wake-up: no process can go on, and not all is done.
lost='((finished==1)&&'
breaks "no fence in Send()"                "$lost" -DPRODUCERS=1 -DNO_FENCE_SEND
breaks "no fence in PrepareToSleep()"      "$lost" -DPRODUCERS=1 -DNO_FENCE_SLEEP
breaks "no fence in SleepUntil()"          "$lost" -DPRODUCERS=1 -DNO_FENCE_WAIT
breaks "no fence in Answer()"              "$lost" -DPRODUCERS=1 -DNO_FENCE_ANSWER
breaks "no fence in AdvanceHead()"         "$lost" -DPRODUCERS=1 -DNO_FENCE_HEAD
breaks "two successors wake nobody"        "$lost" -DPRODUCERS=1 -DCRASHES=2 -DNO_WAKE_ON_ATTACH
breaks "tickets without space"             '((finished==2)&&' -DTICKET_WITHOUT_SPACE -DTIMEOUTS=1
breaks "any answer taken"                  '(answered==ticket)' -DANY_ANSWER -DTIMEOUTS=1

# How PrepareSuccessor() wakes sleepers.
model=look_again.pml
optimize=-O2
holds "one sleeper, three preparations"    -DWAITERS=1 -DROUNDS=3
holds "two sleepers, two preparations"     -DWAITERS=2 -DROUNDS=2
optimize=-O0
asleep='(((finished==1)&&'
breaks "no fence before the re-check"      "$asleep" -DWAITERS=1 -DNO_FENCE_SLEEP
breaks "no fence when leaving"             "$asleep" -DWAITERS=1 -DNO_FENCE_LEAVE
breaks "no fence before who sleeps"        "$asleep" -DWAITERS=1 -DNO_FENCE_SETTLE
breaks "no fence after asking"             "$asleep" -DWAITERS=1 -DNO_FENCE_ASK
breaks "no second look at who sleeps"      "$asleep" -DWAITERS=1 -DNO_SECOND_LOOK

exit $bad
