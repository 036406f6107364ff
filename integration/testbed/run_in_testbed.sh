#!/bin/bash
# Runs a test in the testbed, even if this machine's KVM could run it: it changes what belongs to the
# whole machine. usage: run_in_testbed.sh TESTBED TEST [ARGUMENT...]
set -euo pipefail
flags=(--verbose --memory=2G --timeout="$((${TEST_TIMEOUT:-310} - 10))s")
if [[ -n ${XML_OUTPUT_FILE-} ]]; then
  mkdir -p "$(dirname "$XML_OUTPUT_FILE")"
  flags+=(--writable="$(dirname "$XML_OUTPUT_FILE")")
fi
testbed=$1
shift
exec "$testbed" "${flags[@]}" -- "$@"
