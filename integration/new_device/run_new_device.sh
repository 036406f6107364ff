#!/bin/bash
# Runs the last command of a section of devices/README.md, as follow_readme.py has taken it down.
# usage: run_new_device.sh BINARY NAME ARGUMENTS
set -euo pipefail

mapfile -t arguments <"$3"
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree/bazel-bin/devices/$2"
for path in vmm kernel_images; do ln -s "$PWD/$path" "$tree/bazel-bin/$path"; done
ln -s "$PWD/$1" "$tree/bazel-bin/devices/$2/$2"
cd "$tree"
set -x
# A guest program that fails resets.
bazel-bin/vmm/vmm "${arguments[@]}" --control=vm.sock --no-reboot </dev/null | tee output
grep -q BULKHEAD-PASS output
