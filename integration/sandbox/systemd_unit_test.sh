#!/bin/bash
# vmm as a unit of systemd: it says when it is ready, how it is and that it is alive; its control groups
# are used, and whether it is killed or stopped, nothing of it is left. Runs a systemd of its own in new namespaces, which knows this unit only.
# usage: systemd_unit_test.sh KERNEL VMM DEVICE_BINARY...
set -uo pipefail

outside() {
  [[ -x /lib/systemd/systemd ]] || { echo "FAILED: there is no systemd: run tools/setup test"; exit 1; }
  mount --make-rprivate / || { echo "FAILED: it needs root and CAP_SYS_ADMIN"; exit 1; }
  mkdir "$folder/cgroup" "$folder/units" "$folder/bin"
  cp --dereference "$@" "$folder/bin"
  mount -t cgroup2 none "$folder/cgroup" || exit 1
  group=$folder/cgroup/bulkhead-unit-$$
  mkdir "$group"
  cat > "$folder/units/base.target" <<END
[Unit]
DefaultDependencies=no
END
  cat > "$folder/units/vmm.service" <<END
[Unit]
DefaultDependencies=no
[Service]
Type=notify
WatchdogSec=20
ExecStart=$folder/bin/vmm --name=unit --control=/run/vm/control.sock --memory=64M \
  --kernel=$folder/bin/$(basename "$1") "--cmdline=run=disk_storm until_key=1" --console=detached \
  --device-dir=$folder/bin --disk=path=/run/vm/disk --rng
Delegate=yes
KillMode=mixed
SuccessExitStatus=6
END
  (
    echo "$BASHPID" > "$group/cgroup.procs"
    exec timeout --signal=KILL 200 unshare --cgroup --mount --pid --fork --ipc --uts "$0" inside
  )
  find "$group" -depth -type d -exec rmdir {} +
  [[ -d $group ]] && { echo "FAILED: a control group is left"; exit 1; }
  cat "$folder/result"
  grep -q "^all passed" "$folder/result"
}

inside() {
  umount "$folder/cgroup"
  # The kernel refuses the same file system twice in one place.
  ! mountpoint -q /sys/fs/cgroup || umount --recursive --lazy /sys/fs/cgroup || exit 1
  mount -t proc proc /proc && mount -t tmpfs none /run && mount -t cgroup2 none /sys/fs/cgroup || exit 1
  mount --bind "$folder" "$folder" && mount -o remount,bind,ro / || exit 1
  mkdir /run/vm /run/systemd
  truncate --size=1M /run/vm/disk
  checks > "$folder/result" 2>&1 < /dev/null &
  container=other SYSTEMD_UNIT_PATH=$folder/units SYSTEMD_LOG_TARGET=null \
    exec /lib/systemd/systemd --system --unit=base.target
}

# within NAME CONDITION...: waits for the condition (a command).
failures=0
within() {
  local name=$1 i
  shift
  for ((i = 0; i < 400; ++i)); do
    "$@" && { echo "ok: $name"; return; }
    sleep 0.05
  done
  echo "FAILED: $name: $*"
  systemctl status vmm.service 2>&1 | head -30
  ls -lA /run/vm
  failures=$((failures + 1))
}

unit=/sys/fs/cgroup/system.slice/vmm.service
runs() {
  [[ -S /run/vm/control.sock ]] && grep -q . "$unit/unit-vmm/cgroup.procs" &&
    grep -q . "$unit/unit-device-rng0/cgroup.procs"
}
is() { [[ $(systemctl show vmm.service --property="$1" --value) == "$2" ]]; }
no_process() { ! ps -e -o comm= | grep -q "vmm\|virtio\|uart"; }
nothing_left() { no_process && [[ ! -d $unit ]]; }
no_socket() { [[ $(ls -A /run/vm) == disk ]]; }

property() { systemctl show vmm.service --property="$1" --value; }
# The watchdog was told after that moment, in microseconds.
told_since() { (($(property WatchdogTimestampMonotonic) > $1)); }
# Kills the process of rng0 until the device counts as failed.
rng_fails() {
  kill -KILL $(< "$unit/unit-device-rng0/cgroup.procs") 2> /dev/null
  is StatusText "running; rng0 failed"
}

checks() {
  within SystemdRuns is LoadState loaded
  systemctl start vmm.service
  within ItIsReadyAtOnce is ActiveState active
  within ItsStatusIsShown is StatusText running
  within TheWatchdogIsTold told_since "$(property WatchdogTimestampMonotonic)"
  within TheGroupsAreUsed runs
  within ADeviceThatDoesNotRunIsNamed rng_fails
  systemctl kill --kill-who=main --signal=KILL vmm.service
  within OfAKilledVmmNothingIsLeft nothing_left
  systemctl reset-failed vmm.service
  systemctl start vmm.service
  within ItStartsAgain runs
  systemctl kill --signal=KILL vmm.service
  within OfAKilledUnitNothingIsLeft nothing_left
  systemctl reset-failed vmm.service
  systemctl start vmm.service
  within ItStartsOnceMore runs
  systemctl stop vmm.service
  within OfAStoppedUnitNothingIsLeft nothing_left
  within NorASocketThen no_socket
  within ItsEndWasInOrder is Result success
  ((failures == 0)) && echo "all passed"
  kill -s SIGRTMIN+14 1  # systemd ends
}

folder=${FOLDER-}
if [[ $1 == inside ]]; then
  inside
elif [[ -z $folder ]]; then
  FOLDER=$(mktemp -d "${TEST_TMPDIR:-/tmp}/XXXXXX") || exit 1
  export FOLDER
  exec unshare --mount "$0" "$@" || exit 1
else
  outside "$@"
fi
