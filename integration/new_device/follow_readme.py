#!/usr/bin/env python3
"""Does what a section of a README tells device authors to do, command by command.

usage: follow_readme.py README SECTION FOLDER OUT EXPECTED FILE...

Runs every ```sh block of the section, in a folder that holds a copy of the FILEs at the same paths.
FOLDER (devices/NAME), which the steps make there, is copied to OUT, except for its BUILD file: that
is evaluated and must declare the targets of EXPECTED, JSON of {name: {srcs, hdrs, deps}}, which
new_device.bzl builds from OUT.

Bazel cannot run in Bazel, so `bazel` only looks whether what it is given is FOLDER or a label of
EXPECTED's "data", and `bazel-bin/vmm/vmm` writes its arguments to OUT/vmm_arguments, for the test
that runs it. Each command of a `sed -i` must change something. Exit code 1: a step is wrong.
"""
import collections
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

_SHELL = r"""
set -euo pipefail
fail() { echo "README: $*" >&2; exit 1; }
sed() {
  local - rest=$2 part before; set +x
  [[ $1 == -i ]] || fail "sed $*: only -i is known here"
  while [[ -n $rest ]]; do
    part=${rest%%; s/*}
    rest=${rest#"$part"}
    rest=${rest#; }
    before=$(cat "${@:3}")
    command sed -i "$part" "${@:3}"
    [[ $(cat "${@:3}") != "$before" ]] || fail "sed -i '$part' ${*:3} changes nothing"
  done
}
bazel() {
  local - label; set +x
  for label in "${@:2}"; do
    [[ $label == "//$FOLDER" || $label == "//$FOLDER:all" ]] && [[ -f $FOLDER/BUILD ]] ||
      [[ " $DATA " == *" $label "* ]] || fail "bazel $*: $label is not built by this test"
  done
}
mkdir -p bazel-bin/vmm
printf '#!/bin/sh\nprintf "%%s\\n" "$@" >"$OUT/vmm_arguments"\n' >bazel-bin/vmm/vmm
chmod +x bazel-bin/vmm/vmm
"""


def section(text, title):
    match = re.search(r"^#+ %s\n(.*?)(?=^#+ |\Z)" % re.escape(title), text, re.S | re.M)
    if not match:
        sys.exit("README: has no section '%s'" % title)
    return "".join(re.findall(r"^```sh\n(.*?)^```$", match.group(1), re.S | re.M))


class Rules(dict):
    """What a BUILD file may call: each rule is recorded."""

    def __init__(self):
        super().__init__(glob=lambda *_, **__: [], load=lambda *_: None, package=lambda **_: None)
        self.targets = {}

    def __missing__(self, rule):
        def record(name, srcs=(), hdrs=(), deps=(), **_):
            self.targets[name] = {"srcs": sorted(srcs), "hdrs": sorted(hdrs), "deps": sorted(deps)}
        return record


def check_targets(build, expected):
    rules = Rules()
    exec(build, {"__builtins__": {}}, rules)  # the language of BUILD files is a part of Python
    for name, target in expected.items():
        for key, values in rules.targets.get(name, collections.defaultdict(list)).items():
            if values != sorted(target.get(key, [])):
                sys.exit("BUILD: %s of %s are %s, but new_device.bzl builds with %s"
                         % (key, name, values, sorted(target.get(key, []))))
    if set(rules.targets) != set(expected):
        sys.exit("BUILD: has the targets %s instead of %s"
                 % (sorted(rules.targets), sorted(expected)))


def main():
    readme, title, folder, out, expected = sys.argv[1:6]
    expected = json.loads(expected)
    data = expected.pop("data")
    with open(readme, encoding="utf-8") as stream:
        steps = section(stream.read(), title)
    out = os.path.abspath(out)
    with tempfile.TemporaryDirectory() as tree:
        for path in sys.argv[6:]:
            copy = os.path.join(tree, path)
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            shutil.copyfile(path, copy)  # not its mode: Bazel's are read-only
        shell = subprocess.run(["/bin/bash", "-c", _SHELL + "set -x\n" + steps], cwd=tree,
                               env=dict(os.environ, FOLDER=folder, OUT=out, DATA=" ".join(data)),
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        if shell.returncode != 0:
            sys.exit("%sREADME: '%s': a step has failed" % (shell.stdout.decode(), title))
        made = os.path.join(tree, folder)
        with open(os.path.join(made, "BUILD"), encoding="utf-8") as stream:
            check_targets(stream.read(), expected)
        for name in os.listdir(made):
            if name != "BUILD":
                shutil.copyfile(os.path.join(made, name), os.path.join(out, folder, name))


if __name__ == "__main__":
    main()
