#!/bin/bash
# The Debian package on a Debian: installed, a VM runs as a service, loses a device, is looked at, the
# package is upgraded under it, it is stopped, the package is removed: nothing of it is left. Runs a
# systemd of its own in new namespaces. usage: package_test.sh PACKAGE NEXT_PACKAGE GUEST
set -uo pipefail
export PATH=$PATH:/usr/sbin:/sbin DEBIAN_FRONTEND=noninteractive

outside() {
  [[ -x /lib/systemd/systemd ]] || { echo "FAILED: there is no systemd: run tools/setup test"; exit 1; }
  folder=$(mktemp -d /var/tmp/package-XXXXXX)
  export folder
  cp --dereference "$1" "$folder/first.deb"
  cp --dereference "$2" "$folder/next.deb"
  cp --dereference "$3" "$folder/guest.elf"
  mkdir "$folder/units"
  # Of this machine it knows the journal only, and the units of the package.
  local target
  for target in base sysinit basic shutdown network-online; do
    printf '[Unit]\nDefaultDependencies=no\n' > "$folder/units/$target.target"
  done
  ln -s /lib/systemd/system/systemd-journald{.service,.socket,-dev-log.socket} \
    "/usr/lib/systemd/system/bulkhead@.service" "$folder/units"
  timeout --signal=KILL 800 unshare --cgroup --mount --pid --fork --ipc --uts "$0" inside
  cat "$folder/result"
  grep -q "^all passed" "$folder/result"
}

inside() {
  mount --make-rprivate / && mount -t proc proc /proc && mount -t tmpfs none /run || exit 1
  umount --recursive --lazy /sys/fs/cgroup
  mount -t cgroup2 none /sys/fs/cgroup || exit 1
  checks 2>&1 < /dev/null | tee "$folder/result" &
  container=other SYSTEMD_UNIT_PATH=/run/systemd/system:$folder/units SYSTEMD_LOG_TARGET=null \
    exec /lib/systemd/systemd --system --unit=base.target
}

# within NAME CONDITION...: waits for the condition (a command).
failures=0
within() {
  local name=$1 i
  shift
  for ((i = 0; i < 400; ++i)); do
    "$@" && { echo "ok: $name"; return; }
    sleep 0.1
  done
  echo "FAILED: $name: $*"
  systemctl status bulkhead@demo 2>&1 | head -30
  failures=$((failures + 1))
}

# once NAME COMMAND...: the command succeeds.
once() {
  local name=$1 said
  shift
  said=$("$@" 2>&1) && { echo "ok: $name"; return; }
  printf 'FAILED: %s: %s\n%s\n' "$name" "$*" "$said"
  failures=$((failures + 1))
}

is() { [[ $(systemctl show bulkhead@demo --property="$1" --value) == "$2" ]]; }
refused() { ! "$@"; }
quietly() { "$@" > /dev/null 2>&1; }
says() { local wanted=$1; shift; "$@" 2>&1 | grep -q -- "$wanted"; }
metrics_have() {
  bash -c 'exec 3<>/dev/tcp/127.0.0.1/9707 && printf "GET /metrics HTTP/1.0\r\n\r\n" >&3 && cat <&3' 2> /dev/null |
    grep -qxF -- "$1"
}
pid_of() { vmctl --vm=demo device show "$1" --json 2> /dev/null | sed -n 's/^ *"pid": *\([0-9]*\).*/\1/p'; }
# Of rng0: the file that its process was started from is the one that is installed now.
runs_what_is_installed() { [[ /proc/$(pid_of rng0)/exe -ef /usr/libexec/bulkhead/virtio_rng ]]; }
runs_what_was_installed() { ! runs_what_is_installed && [[ $(pid_of rng0) == "$before" ]]; }
nothing_left() {
  ! ps -e -o comm= | grep -q "vmm\|virtio\|uart" && [[ ! -e /run/bulkhead/demo.sock ]] &&
    [[ ! -d /sys/fs/cgroup/system.slice/system-bulkhead.slice/bulkhead@demo.service ]]
}
no_file_left() {
  [[ ! -e /usr/bin/vmm && ! -e /usr/libexec/bulkhead && ! -e /usr/lib/systemd/system/bulkhead@.service ]]
}

checks() {
  within SystemdRuns quietly systemctl list-units
  once ItIsInstalled dpkg --install --no-triggers --force-unsafe-io "$folder/first.deb"
  once TheJournalRuns systemctl start systemd-journald.socket systemd-journald.service
  systemctl daemon-reload
  mkdir -p /var/lib/bulkhead
  truncate --size=1M /var/lib/bulkhead/demo.raw
  cat > /etc/bulkhead/demo.textproto <<END
kernel { path: "$folder/guest.elf" cmdline: "run=disk_storm until_key=1" }
memory: "64M"
devices { name: "console" binary: "uart16550" resources { name: "console" console {} } }
devices { name: "disk0" binary: "virtio_blk" resources { name: "disk" file { path: "/var/lib/bulkhead/demo.raw" } } }
devices { name: "rng0" binary: "virtio_rng" }
END
  within ItsConfigurationIsValid says "is valid" vmm --check --name=demo --config=/etc/bulkhead/demo.textproto
  once WithoutAConfigurationNothingStarts refused systemctl start bulkhead@nobody
  once ItStarts systemctl start bulkhead@demo
  within ItsStatusIsShown is StatusText running
  within VmctlFindsIt says RUNNING vmctl status
  kill -KILL "$(pid_of disk0)"
  within ADeviceIsRestarted says "disk0.*serves again" journalctl --unit=bulkhead@demo --no-pager
  within WhatWentWrongHasItsPriority says "device 'disk0' (process" journalctl --unit=bulkhead@demo --no-pager --priority=err
  once WhatWentWellHasAnother refused says "serves again" journalctl --unit=bulkhead@demo --no-pager --priority=warning
  within ItRunsOn is StatusText running
  cp /usr/share/doc/bulkhead/examples/bulkhead-metrics.service /run/systemd/system
  systemctl daemon-reload
  ip link set lo up
  once TheMetricsAreServed systemctl start bulkhead-metrics
  within TheyHaveTheVm metrics_have 'bulkhead_vm_up{vm="demo"} 1'
  within AndItsDisk metrics_have 'bulkhead_device_restarts_total{device="disk0",vm="demo"} 1'
  once TheyStop systemctl stop bulkhead-metrics
  before=$(pid_of rng0)
  within ItRunsWhatIsInstalled runs_what_is_installed
  once ItIsUpgraded dpkg --install --no-triggers --force-unsafe-io "$folder/next.deb"
  within AnUpgradeChangesNothing runs_what_was_installed
  once UntilAsked vmctl --vm=demo upgrade
  within ThenItRunsTheNewPrograms runs_what_is_installed
  within TheGuestRunsOn says RUNNING vmctl status
  # This guest does not hear the power button: what is left of the time of the unit is short here.
  mkdir -p /run/systemd/system/bulkhead@demo.service.d
  printf '[Service]\nExecStop=\nExecStop=-/usr/bin/vmctl --vm=%%i shutdown --wait --timeout=2s\n' \
    > /run/systemd/system/bulkhead@demo.service.d/short.conf
  systemctl daemon-reload
  once ItStops systemctl stop bulkhead@demo
  within ItsEndWasInOrder is Result success
  within NothingIsLeftOfTheVm nothing_left
  once ItIsRemoved dpkg --purge --no-triggers bulkhead
  within NoFileIsLeft no_file_left
  ((failures == 0)) && echo "all passed"
  kill -s SIGRTMIN+14 1  # systemd ends
}

if [[ $1 == inside ]]; then
  inside
else
  outside "$@"
fi
