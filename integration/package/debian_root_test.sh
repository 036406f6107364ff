#!/bin/bash
# The Debian package on a bare Debian, in a root of mmdebstrap's: apt-get installs it, its programs, manual
# pages, unit and completion work, it is upgraded, removed and purged. Then each file of the root is as it was
# before. Needs root, and a mirror of Debian. usage: debian_root_test.sh PACKAGE NEXT_PACKAGE SUITE
set -uo pipefail
export PATH=$PATH:/usr/sbin:/sbin DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

# shellcheck source=integration/harness/checks.sh
. "${0%/*}/../harness/checks.sh"

outside() {
  local folder result=1
  folder=$(mktemp -d /var/tmp/debian-root-XXXXXX) || exit 1
  cp --dereference "$1" "$folder/first.deb"
  cp --dereference "$2" "$folder/next.deb"
  if mmdebstrap --quiet --variant=minbase --include=systemd,man-db,bash-completion \
    --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr "$3" "$folder/root" \
    > "$folder/log" 2>&1; then
    mkdir "$folder/root/packages"
    cp "$folder"/*.deb "$folder/root/packages"
    copy_script "$folder/root/packages"
    in_root "$folder/root" /packages/test/script inside
    result=$?
  else
    tail "$folder/log"
    echo "FAILED: mmdebstrap $3"
  fi
  rm -rf --one-file-system "$folder"
  return $result
}

is_version() { [[ $(dpkg-query --show --showformat='${Status} ${Version}' bulkhead) == "install ok installed $1" ]]; }

# Each file outside of what apt, dpkg and man keep for themselves.
files() {
  find / -xdev \( -path /proc -o -path /dev -o -path /packages -o -path /tmp -o -path /var/lib/dpkg \
    -o -path /var/lib/apt -o -path /var/cache -o -path /var/log \) -prune -o -printf '%M %U %G %p %l\n' | sort
  find /bin/ /etc /lib/ /opt /root /sbin/ /usr /var/lib -xdev \
    \( -path /var/lib/dpkg -o -path /var/lib/apt \) -prune -o -type f -print0 | sort -z | xargs -0 sha256sum
}
nothing_left() { files | diff /tmp/before -; }
completes() {
  bash -c '. /usr/share/bash-completion/bash_completion; _load_completion vmctl 2> /dev/null ||
    . /usr/share/bash-completion/completions/vmctl; complete -p vmctl'
}

inside() {
  export MAN_DISABLE_SECCOMP=1 MANPAGER=cat
  describe_debian
  files > /tmp/before
  local program
  once ItHasFiles test -s /tmp/before
  once ItIsInstalled apt-get -qy --no-install-recommends install /packages/first.deb
  once ItIsTheFirstVersion is_version 0.1
  once ItsFilesAreInPlace dpkg --verify bulkhead
  once TheChangeIsNoticed refused nothing_left
  for program in vmm vmctl; do
    once "${program}SaysHowItIsUsed" says "usage: $program" "$program" --help
    once "${program}HasItsManualPage" says "$program - " man "$program"
  done
  once TheConfigurationHasItsManualPage says "configuration of a virtual machine" man 5 bulkhead.textproto
  for program in /usr/libexec/bulkhead/*; do
    [[ $program == */boot_loader ]] || once "$(basename "$program")Runs" says "usage: \|--" "$program" --help
  done
  # It has no --help, and ends since the disk is missing, which vmm gives it as descriptor 3.
  once boot_loaderRuns fails_with "of the disk: Bad file descriptor" /usr/libexec/bulkhead/boot_loader
  once TheUnitIsValid systemd-analyze verify --man=yes bulkhead@demo.service
  once TheShellCompletesVmctl completes
  echo "memory: 64M" > /etc/bulkhead/own.textproto
  once ItIsUpgraded apt-get -qy --no-install-recommends install /packages/next.deb
  once ItIsTheNextVersion is_version 0.2
  once ItIsRemoved apt-get -qy remove bulkhead
  once NoProgramIsLeft refused command -v vmm
  once ItIsPurged apt-get -qy purge bulkhead
  once DpkgHasForgottenIt refused dpkg-query --show bulkhead
  once TheUsersFileIsLeft test -s /etc/bulkhead/own.textproto
  rm /etc/bulkhead/own.textproto && rmdir /etc/bulkhead
  once NothingElseIsLeft nothing_left
  all_passed
}

if [[ $1 == inside ]]; then
  inside
else
  outside "$@"
fi
