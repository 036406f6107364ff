#!/bin/bash
# Runs an integration test where its guest can run: directly if this machine's KVM is able to,
# else in the testbed.
# usage: run_kvm_test.sh PROBE TESTBED NEED MEMORY CPUS TEST [ARGUMENT...]
# NEED: linux (guest kernel mode at full speed) or bare-metal (guest user mode is enough).
# MEMORY, CPUS: of the testbed.
set -euo pipefail

probe=$1 testbed=$2 need=$3 memory=$4 cpus=$5
shift 5

# Not by process substitution: that would leave the test a child that is not its own.
found=$("$probe")
answer=${found%%$'\n'*}
measured=${found#*$'\n'}
case $need:$answer in
  linux:native | bare-metal:native | bare-metal:user-mode-only)
    echo "runs directly on /dev/kvm: $answer; $measured"
    exec "$@"
    ;;
esac
echo "runs in the testbed: this machine's KVM is $answer; $measured"

# The test's time limit less what the testbed may need to say why.
flags=(--verbose --memory="$memory" --cpus="$cpus" --timeout="$((${TEST_TIMEOUT:-310} - 10))s")
# What Bazel takes back from a test. TEST_TMPDIR is not among it.
for path in "${XML_OUTPUT_FILE:+$(dirname "$XML_OUTPUT_FILE")}" "${TEST_UNDECLARED_OUTPUTS_DIR-}" \
  "${TEST_UNDECLARED_OUTPUTS_ANNOTATIONS_DIR-}" "${COVERAGE_DIR-}" \
  "${TEST_SHARD_STATUS_FILE:+$(dirname "$TEST_SHARD_STATUS_FILE")}"; do
  if [[ -n $path ]]; then
    mkdir -p "$path"
    flags+=(--writable="$path")
  fi
done
exec "$testbed" "${flags[@]}" -- "$@"
