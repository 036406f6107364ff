"""Child processes that always end: by themselves, by a time limit, or with this program."""
import ctypes
import os
import signal
import subprocess


class BenchError(Exception):
    """A measurement that could not be made; the message is for the user."""


_realtime = False


def use_realtime():
    """From now on children run before every other process of the machine."""
    global _realtime
    _realtime = True


def _prepare_child():
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if _realtime:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def _spawn(argv, pass_fds=(), **kwargs):
    try:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                pass_fds=pass_fds, start_new_session=True,
                                preexec_fn=_prepare_child, **kwargs)
    except OSError as error:
        raise BenchError("%s: %s" % (argv[0], error.strerror)) from error
    except subprocess.SubprocessError as error:
        raise BenchError("%s: not started: real-time priority needs root" % argv[0]) from error


def _end(process):
    """Kills the whole session of `process`, which it leads."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def run(argv, timeout_s, pass_fds=()):
    """Runs to the end. Returns (exit code, standard output, standard error).

    The exit code of a signal is negative.

    Raises BenchError after `timeout_s`.
    """
    process = _spawn(argv, pass_fds, stdout=subprocess.PIPE)
    try:
        output, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        _end(process)
        output, errors = process.communicate()
        raise BenchError("%s did not end within %d s; it said:\n%s" % (
            argv[0], timeout_s, _text(output + errors))) from error
    finally:
        _end(process)
    return process.returncode, _text(output), _text(errors)


def terminate(process, timeout_s):
    """Ends a process that was started with Popen: SIGTERM, and SIGKILL if it takes too long. Reads
    what it prints until then, and closes its pipes."""
    process.terminate()
    try:
        process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        for stream in filter(None, (process.stdin, process.stdout, process.stderr)):
            stream.close()


class Background:
    """A context in which `argv` runs; it is killed at the end."""

    def __init__(self, argv, pass_fds=()):
        self._argv = argv
        self._pass_fds = pass_fds

    def __enter__(self):
        self._process = _spawn(self._argv, self._pass_fds, stdout=subprocess.DEVNULL)
        return self._process

    def __exit__(self, *unused):
        _end(self._process)
        self._process.stderr.close()


def _text(data):
    return data.decode("utf-8", "replace").replace("\r", "")


def bench_lines(output):
    """The fields of each line "BENCH name=value ..." that a guest has printed."""
    for line in output.splitlines():
        if line.startswith("BENCH "):
            yield dict(word.split("=", 1) for word in line.split()[1:])
