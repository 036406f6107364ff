#!/usr/bin/env bash
# The rule holds in this tree, and the check sees each kind of breach.
set -eu
check=$(realpath tools/check_layering)
# A tracked file of the workspace leads back to the whole tree, which a test cannot declare.
root=$(dirname "$(realpath WORKSPACE)")

"$check" "$root"

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
expect() {  # file, content, message
  rm -rf "${tree:?}"/*
  mkdir -p "$tree/$(dirname "$1")"
  printf '%s\n' "$2" > "$tree/$1"
  if output=$("$check" "$tree"); then
    echo "not seen: $1: $2"; exit 1
  fi
  case "$output" in
    *"$3"*) ;;
    *) echo "wrong message for $1: $output"; exit 1 ;;
  esac
}
expect vmm/x.cc '#include "devices/host/device_model.h"' 'vmm/x.cc:1: vmm may not include devices'
expect devices/x.h '#include "vmm/pci/pci_bus.h"' 'devices may not include vmm'
expect base/x.h '#include "proto/contract.h"' 'base may not include proto'
expect proto/x.cc '#include <linux/kvm.h>' 'only vmm/kvm includes'
expect vmm/BUILD 'deps = ["//devices/virtio"]' 'vmm may not depend on //devices/virtio'
expect proto/BUILD 'deps = ["//vmm:all"]' 'proto may not depend on //vmm:all'
expect kernel_images/x.cc '#include "devices/rig/rig_device.h"' 'may not include devices'
expect kernel_images/BUILD 'deps = ["//devices/rig"]' 'may not depend on //devices/rig'
expect vmm/x.cc 'x = absl::Now() + limit;' 'vmm/x.cc:1: goes by the wall clock'
expect devices/x.cc 'changed_.WaitWithTimeout(&mutex_, limit);' 'goes by the wall clock'
expect base/x.h 'mutex.AwaitWithDeadline(condition, when);' 'goes by the wall clock'
expect vmm/memory/x.h '#include "vmm/pci/pci_bus.h"' 'vmm/memory may not see vmm/pci'
expect vmm/pci/BUILD 'deps = ["//vmm/kvm"]' 'vmm/pci may not see vmm/kvm (//vmm/kvm)'
expect vmm/pci/BUILD 'deps = ["//vmm/kvm:kvm_vm"]' 'vmm/pci may not see vmm/kvm'
expect vmm/new/x.cc '#include "vmm/pci/pci_bus.h"' 'vmm/new is not in FOLDERS'
expect devices/virtio/x.cc '#include "devices/virtio_rng/rng_device.h"' 'devices/virtio may not see'
expect devices/new/x.cc '#include "devices/virtio_rng/rng_device.h"' 'devices/new may not see'
echo "check_layering sees every kind of breach"
