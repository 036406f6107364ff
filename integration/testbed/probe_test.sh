#!/bin/bash
# The KVM that a wrapped test gets is at least what it asked for. usage: probe_test.sh PROBE NEED
set -euo pipefail
{ read -r answer && read -r measured; } < <("$1")
echo "$answer: $measured"
case $2:$answer in
  linux:native | bare-metal:native | bare-metal:user-mode-only) ;;
  *) exit 1 ;;
esac
[[ $("$1" --quiet) == "$answer" ]]
[[ $("$1" --json) == '{"kvm": "'"$answer"'", '* ]]
