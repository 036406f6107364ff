#!/bin/bash
# Boots the Linux guest in QEMU's software emulation and checks what its init promises.
# usage: guest_test.sh BZIMAGE VMLINUX INITRAMFS LONGER_INITRAMFS
set -u

bzimage=$1 vmlinux=$2 initramfs=$3 longer_initramfs=$4
failures=0

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

# boot KERNEL INITRAMFS CONSOLE_OUTPUT COMMAND_LINE QEMU_ARGUMENT...
# Standard input is what is typed. The exit code is QEMU's. no_timer_check: where the emulation
# gets no processor for long, the kernel would find its timer broken and panic.
boot() {
  local kernel=$1 initramfs=$2 output=$3 command_line=$4
  shift 4
  timeout 250 qemu-system-x86_64 -M q35 -accel tcg -cpu max -m 256 -nodefaults -display none \
    -no-reboot -serial stdio -kernel "$kernel" -initrd "$initramfs" \
    -append "console=ttyS0 panic=-1 quiet tsc=reliable no_timer_check $command_line" "$@" > "$output"
}

# await TEXT FILE: waits until the text is in the file.
await() {
  local deadline=$((SECONDS + 200))
  until grep -q "$1" "$2" 2> /dev/null; do
    ((SECONDS < deadline)) || return 1
    sleep 0.1
  done
}

# --- A script on the command line; every device that has a driver. -----------------------
head -c 4M /dev/urandom > "$TEST_TMPDIR/data.img"
truncate -s 16M "$TEST_TMPDIR/scratch.img"
cat > "$TEST_TMPDIR/script" <<'END'
echo "release=$(uname -r)"
echo "name=$(uname -n)"
echo "sum=$(sha256sum < /dev/vda)"
echo "random=$(head -c 16 /dev/hwrng | wc -c)"
echo "drivers=$(ls /sys/bus/virtio/drivers | tr '\n' ' ')"
mke2fs -q /dev/vdb && mount -t ext4 /dev/vdb /mnt && seq 20000 > /mnt/numbers && umount /mnt
echo "mke2fs=$?"
blkzeroout /dev/vda 1048576 2097152
echo "zeroout=$?"
exit 3
END
sum=$(sha256sum < "$TEST_TMPDIR/data.img")
boot "$vmlinux" "$initramfs" "$TEST_TMPDIR/console" \
  "bulkhead.run=$(base64 --wrap=0 "$TEST_TMPDIR/script")" \
  -drive "file=$TEST_TMPDIR/data.img,if=virtio,format=raw" \
  -drive "file=$TEST_TMPDIR/scratch.img,if=virtio,format=raw" \
  -device virtio-rng-pci -device virtio-serial-pci < /dev/null
code=$?
cat "$TEST_TMPDIR/console"
says() { tr -d '\r' < "$TEST_TMPDIR/console" | grep -xE "$1" > /dev/null; }
check PowersOff test $code = 0
check SaysReady says 'BULKHEAD-READY [0-9.]+'
check SaysExitCode says 'BULKHEAD-EXIT 3'
check IsACloudKernel says 'release=6\.1\.[0-9.-]+-cloud-amd64'
check HasAName says 'name=guest'
check ReadsDisk says "sum=$sum"
check ReadsRandomDevice says 'random=16'
check LoadsOnlyDriversThatAreNeeded says 'drivers=virtio_blk virtio_console virtio_rng virtio_rproc_serial '
check MakesFileSystem says 'mke2fs=0'
check FileSystemIsClean /usr/sbin/e2fsck -fn "$TEST_TMPDIR/scratch.img"
/usr/sbin/debugfs -R "dump /numbers $TEST_TMPDIR/numbers" "$TEST_TMPDIR/scratch.img" 2> /dev/null
check FileIsWhole cmp "$TEST_TMPDIR/numbers" <(seq 20000)
check ZeroesBlocks says 'zeroout=0'
check ZeroesTheseBlocks test "$(tail -c +1048577 "$TEST_TMPDIR/data.img" | head -c 2097152 | tr -d '\0' | wc -c)" = 0
check ZeroesNoOtherBlocks test "$(head -c 1048576 "$TEST_TMPDIR/data.img" | sha256sum)" != \
  "$(head -c 1048576 /dev/zero | sha256sum)"

# --- A script of an initramfs that was extended, then a shell, then a reboot. -------------
# Typed once the prompt is there: a serial port that is not read holds 16 bytes.
rm "$TEST_TMPDIR/console"
{
  await 'guest:/root#' "$TEST_TMPDIR/console"
  printf 'echo start; sleep 1000; echo "not interrupted"\n'
  await '^start' "$TEST_TMPDIR/console"
  printf '\003echo "tty is $(tty)"; exit 5\n'
} | boot "$bzimage" "$longer_initramfs" "$TEST_TMPDIR/console" \
  "bulkhead.run=hello bulkhead.shell=1 bulkhead.reboot=1"
code=$?
cat "$TEST_TMPDIR/console"
check Reboots test $code = 0  # QEMU runs with -no-reboot
check RunsNamedScript says 'hello from a named script'
check ShellHasATerminal grep -q 'tty is /dev/ttyS0' "$TEST_TMPDIR/console"
check InterruptKeyEndsCommand test "$(grep -c '^not interrupted' "$TEST_TMPDIR/console")" = 0
check SaysExitCodeOfShell says 'BULKHEAD-EXIT 5'
check DoesReboot grep -q 'reboot: Restarting system' "$TEST_TMPDIR/console"

((failures == 0))
