#!/bin/bash
# What tools/testbed promises, shown on the real thing. usage: testbed_test.sh TESTBED PROBE
set -uo pipefail

testbed=$PWD/$1
probe=$PWD/$2
cd "$TEST_TMPDIR" || exit 1
failures=0

# check NAME CONDITION...: runs the condition (a command).
check() {
  local name=$1
  shift
  if "$@"; then
    echo "ok: $name"
  else
    echo "FAILED: $name: $*"
    failures=$((failures + 1))
  fi
}

# ended_within SECONDS PID: waits until no process has this pid (or it is a zombie).
ended_within() {
  local deadline=$((SECONDS + $1))
  while [[ -e /proc/$2 && $(awk '/^State/ {print $2}' "/proc/$2/status" 2>/dev/null) != Z ]]; do
    ((SECONDS < deadline)) || return 1
    sleep 0.05
  done
}

# qemu_of PID: the QEMU process that a launcher has started.
qemu_of() {
  local deadline=$((SECONDS + 10)) children=
  while [[ -z $children ]]; do
    ((SECONDS < deadline)) || return 1
    children=$(cat "/proc/$1/task/$1/children" 2>/dev/null)
    sleep 0.02
  done
  echo "${children%% *}"
}

# --- One session that does many things. ---------------------------------------------------
mkdir out kept
echo before > kept/file
head -c 300000 /dev/urandom > input
cat > session.sh <<'END'
echo "to standard output"
echo "to standard error" >&2
sha256sum > out/input_sum
pwd > out/directory
echo "$SOME_VARIABLE" > out/variable
echo after > kept/file
cat kept/file > out/kept_inside
mkdir out/folder && seq 100000 > out/folder/many
"$1" --quiet > out/kvm
test -c /dev/net/tun && test -d /dev/pts && test -w /dev/shm && cat <(echo yes) > out/devices
date +%s > out/clock
date +%s%N > out/before
sleep 5
date +%s%N > out/after
head -c 16 /dev/urandom > out/random
grep -m 1 ^flags /proc/cpuinfo > out/processor
unshare --user --map-root-user id -u > out/user_namespace
PATH+=:/sbin:/usr/sbin
modprobe -a dm_crypt dm_delay dm_flakey loop fuse && dmsetup targets > out/targets
truncate -s 1M disk && loop=$(losetup --find --show disk) &&
  echo "0 2048 crypt aes-xts-plain64 $(printf %064d 1) 0 $loop 0" |
  dmsetup create --noudevsync secret && dmsetup mknodes &&
  echo hidden | dd of=/dev/mapper/secret conv=fsync 2> /dev/null &&
  { grep -c hidden disk; head -c 6 /dev/mapper/secret; } > out/crypt
sleep 1000 &  # left behind, with all the pipes
exit 7
END
SOME_VARIABLE='two words' timeout 100 "$testbed" --writable=out --verbose -- bash session.sh "$probe" \
  < input > stdout 2> stderr
code=$?
cat stderr
check ExitCodePassesThrough test "$code" = 7
check StandardOutputPassesThrough test "$(cat stdout)" = "to standard output"
check StandardErrorStaysApart test "$(grep -v '^testbed:' stderr)" = "to standard error"
check StandardInputPassesThrough test "$(cat out/input_sum)" = "$(sha256sum < input)"
check WorkingDirectoryIsTheSame test "$(cat out/directory)" = "$PWD"
check EnvironmentIsTheSame test "$(cat out/variable)" = "two words"
check WritesStayInsideByDefault test "$(cat kept/file)" = before
check WritesAreSeenInside test "$(cat out/kept_inside)" = after
check WritesReachWritableFolders test "$(sha256sum < out/folder/many)" = "$(seq 100000 | sha256sum)"
check KvmRunsKernelMode test "$(cat out/kvm)" = native
check DeviceNodesAreThere test "$(cat out/devices)" = yes
# No processor has these without XSAVE, and Linux guests use what they see.
check NothingNeedsAMissingXsave test -z \
  "$(grep -w xsave out/processor || grep -woE 'avx[0-9a-z_]*|fma|fma4|xop|f16c|vaes|vpclmulqdq|mpx|pku|lwp' out/processor)"
check DeviceMapperTargetsAreThere test \
  "$(grep -cE '^(crypt|delay|error|flakey|linear) ' out/targets)" = 5
check DiskIsEncrypted test "$(cat out/crypt)" = $'0\nhidden'
check UserNamespacesWork test "$(cat out/user_namespace)" = 0
age=$(($(date +%s) - $(cat out/clock)))
# The host dates the files.
host_ms=$(($(date -r out/after +%s%3N) - $(date -r out/before +%s%3N)))
inside_ms=$((($(cat out/after) - $(cat out/before)) / 1000000))
check ClockRunsAtTheHostsPace test $((inside_ms * 10)) -gt $((host_ms * 8)) -a \
  $((inside_ms * 10)) -lt $((host_ms * 12))
check ClockIsTheHosts test "$age" -ge 0 -a "$age" -lt 100

# --- Two machines from one snapshot, and one that boots. ----------------------------------
timeout 100 "$testbed" head -c 16 /dev/urandom > other_random
check RandomBytesDiffer test "$(od -An -tx1 other_random)" != "$(od -An -tx1 out/random)"
timeout 200 "$testbed" --cpus=2 --memory=1G --verbose -- \
  bash -c 'nproc; awk "/MemTotal/ {print \$2 / 1024 < 1024}" /proc/meminfo; "$1" --quiet' - "$probe" > stdout
check BootedMachineIsAsAskedFor test "$(cat stdout)" = $'2\n1\nnative'

# --- A terminal. --------------------------------------------------------------------------
cat > terminal.sh <<'END'
test -t 0 && test -t 1 && test -t 2 || exit 1
stty size
read -r line
echo "read <$line>"
exit 5
END
# The stty that sets the size must act on script's terminal, before the session.
timeout 100 script --quiet --return --echo never --command \
  "stty rows 33 columns 77; exec $testbed bash terminal.sh" /dev/null <<< typed > stdout
check TerminalExitCodePassesThrough test $? = 5
check TerminalSizePassesThrough grep -q $'^33 77\r$' stdout
check TerminalInputPassesThrough grep -q $'^read <typed>\r$' stdout

# --- Commands that do not run. ------------------------------------------------------------
timeout 100 "$testbed" -- "$PWD/no such program" 2> stderr
check MissingProgramGives127 test $? = 127
check MissingProgramIsNamed grep -q 'no such program: No such file or directory' stderr
timeout 10 "$testbed" --cpus=0 true 2> stderr
check WrongFlagGives2 test $? = 2
check WrongFlagIsNamed grep -q -- '--cpus=0' stderr
timeout 10 env PATH=/nowhere "$testbed" /bin/true 2> stderr
check MissingQemuGives125 test $? = 125
check MissingQemuIsNamed grep -q 'qemu-system-x86_64: No such file or directory' stderr

# --- Ends that leave nothing behind. ------------------------------------------------------
"$testbed" --timeout=1s sleep 1000 2> stderr &
launcher=$!
qemu=$(qemu_of $launcher)
wait $launcher
check TimeLimitGives124 test $? = 124
check TimeLimitIsReported grep -q 'killed after the time limit of 1s' stderr
check TimeLimitEndsQemu ended_within 0 "$qemu"

"$testbed" sleep 1000 &
launcher=$!
qemu=$(qemu_of $launcher)
kill -TERM $launcher
wait $launcher
check SigtermGives143 test $? = 143
check SigtermEndsQemu ended_within 0 "$qemu"

"$testbed" sleep 1000 &
launcher=$!
qemu=$(qemu_of $launcher)
kill -KILL $launcher
wait $launcher 2> /dev/null
check KilledLauncherTakesQemuAlong ended_within 2 "$qemu"

((failures == 0))
