#!/bin/bash
# The guest programs that need none of our devices pass on a machine that is not ours, QEMU's:
# so where they fail on ours, the fault is ours.
# usage: reference_machine_test.sh GUEST_ELF
set -eu
guest=$1
disk=$(mktemp "${TEST_TMPDIR:-/tmp}/disk.XXXXXX")
trap 'rm -f "$disk"' EXIT

# 1 MiB in which every 8 bytes hold their own offset.
python3 -c '
import struct, sys
sys.stdout.buffer.write(b"".join(struct.pack("<Q", i) for i in range(0, 1 << 20, 8)))' > "$disk"

run() {
  echo "== $*"
  local code=0
  timeout --kill-after=5 120 qemu-system-x86_64 -machine q35 -accel kvm -bios qboot.rom \
    -cpu host,-arch-capabilities -smp 2 -m 256M -nodefaults -display none -serial stdio \
    -no-reboot -device isa-debug-exit,iobase=0xf4,iosize=1 \
    -device virtio-rng-pci,disable-legacy=on \
    -drive "file=$disk,if=none,id=disk,format=raw" \
    -device virtio-blk-pci,drive=disk,disable-legacy=on,serial=reference \
    -kernel "$guest" -append "$*" < /dev/null || code=$?
  [ "$code" = 33 ] || { echo "FAILED with $code: $*"; exit 1; }
}

run run=hello cpus=2
# Not hostile: for one of those descriptors QEMU takes 4 GiB at once, and ends where there is less.
run run=virtio_rng_test hostile=0
run run=virtio_blk_test pattern=1
run run=virtio_blk_test pattern=1 indirect=1 event_index=1

# The harness sees failures.
if (run run=no_such_program) > /dev/null 2>&1; then
  echo "a program that does not exist has passed"
  exit 1
fi
