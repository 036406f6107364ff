#!/bin/bash
# usage: run_in_testbed.sh TESTBED PROGRAM      runs the faults of the whole machine where it is ours
set -euo pipefail
# The test's time limit, less what the testbed may need to say why.
exec "$1" --verbose --cpus=2 --memory=2G --timeout="$((${TEST_TIMEOUT:-910} - 10))s" -- \
  /usr/bin/python3 -B "$2" --where=testbed
