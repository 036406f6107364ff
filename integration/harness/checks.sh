# For tests that are scripts: checks, another root, a systemd. To be sourced by bash.

checks_file=${BASH_SOURCE[0]}
failures=0

# within NAME CONDITION...: waits for the condition (a command).
within() {
  local name=$1 said i
  shift
  for ((i = 0; i < 400; ++i)); do
    said=$("$@" 2>&1) && { echo "ok: $name"; return; }
    sleep 0.1
  done
  printf 'FAILED: %s: %s\n%s\n' "$name" "$*" "$said"
  failures=$((failures + 1))
  [[ -z ${unit-} ]] || systemctl status "$unit" 2>&1 | head -n 30
}

# once NAME COMMAND...: the command succeeds.
once() {
  local name=$1 said
  shift
  said=$("$@" 2>&1) && { echo "ok: $name"; return; }
  printf 'FAILED: %s: %s\n%s\n' "$name" "$*" "$said"
  failures=$((failures + 1))
}

all_passed() { ((failures == 0)) && echo "all passed"; }

# says TEXT COMMAND...: the command succeeds and prints this. fails_with: it fails and prints this.
says() {
  local wanted=$1 said
  shift
  said=$("$@" 2>&1) && grep -q -- "$wanted" <<< "$said" || { echo "$said"; return 1; }
}
fails_with() {
  local wanted=$1 said
  shift
  ! said=$("$@" 2>&1) && grep -q -- "$wanted" <<< "$said" || { echo "$said"; return 1; }
}
refused() { ! "$@"; }

# Of the unit that the script names in $unit.
property() { systemctl show "$unit" --property="$1" --value; }
is() { [[ $(property "$1") == "$2" ]]; }

describe_debian() { echo "$(. /etc/os-release && echo "$PRETTY_NAME"), $(dpkg --version | head -n 1)"; }

# copy_script FOLDER: the script goes to FOLDER/test/script, this file beside it: as in the source tree.
copy_script() { install -D "$0" "$1/test/script" && install -D "$checks_file" "$1/harness/checks.sh"; }

# in_root ROOT COMMAND...: runs the command in another root, in mounts and processes of its own, which end with
# it. By pivot_root, since a process in a chroot may not create user namespaces.
in_root() {
  unshare --mount --pid --fork --kill-child bash -c '
    mount --rbind "$1" "$1" && cd "$1" && mkdir old_root &&
      mount -t proc proc proc && mount -t tmpfs none run && mount --rbind /sys sys && mount --rbind /dev dev &&
      pivot_root . old_root && cd / && umount --lazy old_root && rmdir old_root &&
      exec "${@:2}"' bash "$@" < /dev/null
}

# Runs the script again, with the argument "inside", in new namespaces.
with_systemd() {
  [[ -x /lib/systemd/systemd ]] || { echo "FAILED: there is no systemd: run tools/setup test"; return 1; }
  timeout --signal=KILL $((${TEST_TIMEOUT:-900} - 90)) unshare --cgroup --mount --pid --fork --ipc --uts "$0" inside
  grep -q "^all passed" "$folder/result"
}

# The two steps of "inside": mounts for a systemd, then that systemd, as process 1, beside the `checks` of the
# script. It has the units of $folder/units, among them base.target, which it starts; it ends after the checks.
mount_for_systemd() {
  # The kernel refuses the same file system twice in one place.
  ! mountpoint -q /sys/fs/cgroup || umount --recursive --lazy /sys/fs/cgroup || return
  mount -t proc proc /proc && mount -t tmpfs none /run && mount -t cgroup2 none /sys/fs/cgroup
}
become_systemd() {
  {
    { checks; all_passed; } 2>&1 < /dev/null | tee "$folder/result"
    kill -s SIGRTMIN+14 1
  } &
  container=other SYSTEMD_UNIT_PATH=/run/systemd/system:$folder/units SYSTEMD_LOG_TARGET=null \
    exec /lib/systemd/systemd --system --unit=base.target
}
