#!/bin/bash
# The Debian package on a Debian: installed, a VM runs as a service, loses a device, is looked at, the
# package is upgraded under it, it is stopped, the package is removed: nothing of it is left. Runs a
# systemd of its own in new namespaces. usage: package_test.sh PACKAGE NEXT_PACKAGE GUEST [ROOT.tar]
#   ROOT.tar  the Debian, instead of that of this machine: mmdebstrap's, with systemd and procps
set -uo pipefail
export PATH=$PATH:/usr/sbin:/sbin DEBIAN_FRONTEND=noninteractive

# shellcheck source=integration/harness/checks.sh
. "${0%/*}/../harness/checks.sh"
unit=bulkhead@demo

# Runs all of this in the Debian of $4. Its root ends with the testbed.
in_other_debian() {
  local root=/run/other_debian file files=()
  mkdir "$root" && mount -t tmpfs -o mode=0755 none "$root" && tar --directory="$root" --extract --file="$4" &&
    mkdir "$root/test" && copy_script "$root/test" || exit 1
  for file in "$1" "$2" "$3"; do
    files+=("/test/${file##*/}")
    touch "$root${files[-1]}" && mount --bind "$file" "$root${files[-1]}" || exit 1
  done
  in_root "$root" /test/test/script "${files[@]}"
}

outside() {
  describe_debian
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
  with_systemd
}

metrics_have() {
  bash -c 'exec 3<>/dev/tcp/127.0.0.1/9707 && printf "GET /metrics HTTP/1.0\r\n\r\n" >&3 && cat <&3' 2> /dev/null |
    grep -qxF -- "$1"
}
pid_of() { vmctl --vm=demo device show "$1" --json 2> /dev/null | sed -n 's/^ *"pid": *\([0-9]*\).*/\1/p'; }
# DEVICE...: the file that its process was started from is the one that is installed now.
declare -A program=([console]=uart16550 [disk0]=virtio_blk [rng0]=virtio_rng) pid_before
run_what_is_installed() {
  local device
  for device; do [[ /proc/$(pid_of "$device")/exe -ef /usr/libexec/bulkhead/${program[$device]} ]] || return; done
}
# DEVICE...: its process is that of before the upgrade.
run_as_before() {
  local device
  for device; do
    ! run_what_is_installed "$device" && [[ $(pid_of "$device") == "${pid_before[$device]}" ]] || return
  done
}
# This guest halts until a key comes, and then reads its disk.
press_a_key() { printf x | vmctl --vm=demo console; }
has_read_its_disk() { (($(vmctl --vm=demo console < /dev/null | grep -c touched) == $1)); }
nothing_left() {
  ! ps -e -o comm= | grep -q "vmm\|virtio\|uart" && [[ ! -e /run/bulkhead/demo.sock ]] &&
    [[ ! -d /sys/fs/cgroup/system.slice/system-bulkhead.slice/bulkhead@demo.service ]]
}
no_file_left() {
  [[ ! -e /usr/bin/vmm && ! -e /usr/libexec/bulkhead && ! -e /usr/lib/systemd/system/bulkhead@.service ]]
}

checks() {
  within SystemdRuns systemctl list-units
  once ItIsInstalled dpkg --install --no-triggers --force-unsafe-io "$folder/first.deb"
  once TheJournalRuns systemctl start systemd-journald.socket systemd-journald.service
  systemctl daemon-reload
  mkdir -p /var/lib/bulkhead
  truncate --size=1M /var/lib/bulkhead/demo.raw
  cat > /etc/bulkhead/demo.textproto <<END
kernel { path: "$folder/guest.elf" cmdline: "run=touch_ram" }
memory: "64M"
devices { name: "console" binary: "uart16550" resources { name: "console" console {} } }
devices { name: "disk0" binary: "virtio_blk" resources { name: "disk" file { path: "/var/lib/bulkhead/demo.raw" } } }
devices { name: "rng0" binary: "virtio_rng" }
END
  within ItsConfigurationIsValid says "is valid" vmm --check --name=demo --config=/etc/bulkhead/demo.textproto
  once WithoutAConfigurationNothingStarts refused systemctl start bulkhead@nobody
  once ItStarts systemctl start bulkhead@demo
  within ItsStatusIsShown is StatusText running
  once SystemctlShowsIt says 'Status: "running"' systemctl status bulkhead@demo
  within VmctlFindsIt says RUNNING vmctl status
  kill -KILL "$(pid_of disk0)"
  within ADeviceIsRestarted says "disk0.*serves again" journalctl --unit=bulkhead@demo --no-pager
  within WhatWentWrongHasItsPriority says "device 'disk0' (process" journalctl --unit=bulkhead@demo --no-pager --priority=err
  once WhatWentWellHasAnother refused says "serves again" journalctl --unit=bulkhead@demo --no-pager --priority=warning
  within ItRunsOn is StatusText running
  once AfterAKey press_a_key
  within TheGuestReadsItsDisk has_read_its_disk 1
  once SystemctlShowsTheRestart says "disk0.*serves again" systemctl status --full --lines=50 bulkhead@demo
  cp /usr/share/doc/bulkhead/examples/bulkhead-metrics.service /run/systemd/system
  systemctl daemon-reload
  once TheMetricsAreServed systemctl start bulkhead-metrics
  within TheyHaveTheVm metrics_have 'bulkhead_vm_up{vm="demo"} 1'
  within AndItsDisk metrics_have 'bulkhead_device_restarts_total{device="disk0",vm="demo"} 1'
  once TheyStop systemctl stop bulkhead-metrics
  local device
  for device in "${!program[@]}"; do pid_before[$device]=$(pid_of "$device"); done
  once ItRunsWhatIsInstalled run_what_is_installed "${!program[@]}"
  once ItIsUpgraded dpkg --install --no-triggers --force-unsafe-io "$folder/next.deb"
  once AnUpgradeChangesNothing run_as_before "${!program[@]}"
  once UntilAsked vmctl --vm=demo device restart disk0 --binary /usr/libexec/bulkhead/virtio_blk
  within ThenThatDeviceRunsTheNewProgram run_what_is_installed disk0
  once TheOthersDoNot run_as_before console rng0
  once UntilTheyAreAskedToo vmctl --vm=demo upgrade
  within ThenAllRunTheNewPrograms run_what_is_installed "${!program[@]}"
  within TheGuestRunsOn says RUNNING vmctl status
  once AndAfterAnotherKey press_a_key
  within ReadsItsDiskAgain has_read_its_disk 2
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
}

if [[ $1 == inside ]]; then
  mount_for_systemd && become_systemd
elif (($# == 4)); then
  in_other_debian "$@"
else
  outside "$@"
fi
