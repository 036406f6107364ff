"""Boots machines by turns and times each: the part of tools/bench boot that runs where KVM can run
Linux, which may be the testbed.

usage: boot_run.py SPEC, in JSON: {"rounds", "limit_s", "boots": [{"machine", "cell", "argv",
"first_exit_argv"}]}
Prints a line of JSON for each boot: {"round", "machine", "cell"} and either "error" or "figures".
Round 0 reads the files for the first time; what fails in it is left out of the others.
"""
import json
import os
import select
import signal
import subprocess
import sys
import time

_READY = b"BULKHEAD-READY "  # printed by the guest's init, with the guest's uptime
_RUNS = b"the guest runs"  # vmm --verbose


class Failure(Exception):
    pass


class _Child:
    """A process; lines() gives (time in ms since its start, stream name, text so far)."""

    def __init__(self, argv, limit_s):
        self._begin = time.monotonic()
        self._limit_s = limit_s
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, start_new_session=True)
        self.text = {"stdout": b"", "stderr": b""}

    def now_ms(self):
        return (time.monotonic() - self._begin) * 1000

    def output(self):
        """The time of each output, until both streams have ended."""
        streams = {self.process.stdout: "stdout", self.process.stderr: "stderr"}
        while streams:
            left = self._begin + self._limit_s - time.monotonic()
            ready = select.select([*streams], [], [], max(left, 0))[0]
            if not ready:
                raise Failure("not ready within %d s:\n%s" % (
                    self._limit_s, (self.text["stdout"] + self.text["stderr"])[-500:].decode(
                        errors="replace")))
            now = self.now_ms()
            for stream in ready:
                data = os.read(stream.fileno(), 65536)
                self.text[streams[stream]] += data
                if not data:
                    del streams[stream]
            yield now

    def kill(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()


def first_exit_ms(argv, limit_s):
    """Until QEMU traces the first exit of its guest."""
    child = _Child(argv, limit_s)
    try:
        for now in child.output():
            if b"kvm_run_exit" in child.text["stderr"]:
                return now
        raise Failure("ended before its guest ran:\n" + child.text["stderr"].decode())
    finally:
        child.kill()


def boot(argv, limit_s):
    """Milliseconds from the start of the process until each step."""
    figures = {}
    child = _Child(argv, limit_s)
    try:
        for now in child.output():
            if _RUNS in child.text["stderr"]:
                figures.setdefault("first_instruction_ms", now)
            if child.text["stdout"].strip():
                figures.setdefault("first_byte_ms", now)
            if _READY in child.text["stdout"]:
                figures.setdefault("init_ms", now)
        code = child.process.wait()
        if code != 0 or "init_ms" not in figures:
            raise Failure("ended with code %d:\n%s" % (
                code, (child.text["stdout"][-500:] + child.text["stderr"]).decode(errors="replace")))
        figures["end_ms"] = child.now_ms()
        figures["power_off_ms"] = figures["end_ms"] - figures["init_ms"]
        uptime = child.text["stdout"].split(_READY, 1)[1].split()[0]
        return {**figures, "guest_uptime_ms": float(uptime) * 1000}
    finally:
        child.kill()


def main():
    spec = json.loads(sys.argv[1])
    failed = set()
    for number in range(spec["rounds"] + 1):
        for each in spec["boots"]:
            key = {"round": number, "machine": each["machine"], "cell": each["cell"]}
            if each["machine"] in failed:
                continue
            try:
                figures = boot(each["argv"], spec["limit_s"])
                if "first_exit_argv" in each:
                    figures["first_instruction_ms"] = first_exit_ms(each["first_exit_argv"],
                                                                    spec["limit_s"])
                print(json.dumps({**key, "figures": figures}), flush=True)
            except (Failure, OSError) as error:
                if number == 0:
                    failed.add(each["machine"])
                print(json.dumps({**key, "error": str(error)}), flush=True)


if __name__ == "__main__":
    main()
