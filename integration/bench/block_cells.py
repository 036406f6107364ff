"""What tools/bench block measures: cells of medium, mode, operation and depth, and the media."""
import argparse
import collections
import contextlib
import os
import subprocess
import tempfile

from integration.bench.block_targets import Disk

MODES = ("poll", "interrupt")
OPERATIONS = ("read", "write", "write+flush", "seq-read", "seq-write")
MEDIA = ("tmpfs", "cache", "direct", "null")
MOST_DEPTH = 32
_DISK_BYTES = 64 << 20

# The cells are all combinations.
Selection = collections.namedtuple("Selection", "media modes operations depths")
ALL = Selection(MEDIA[:3], MODES, OPERATIONS, (1, 8, 16, 32))
QUICK = Selection(("cache",), MODES, ("read", "write"), (1, 16))


def parse_only(text):
    """The words of --only as a Selection of those that were named; empty: of that kind any."""
    named = Selection([], [], [], [])
    for word in text.split(","):
        kind = next((kind for kind, words in zip(named, (MEDIA, MODES, OPERATIONS)) if word in words),
                    None)
        if kind is not None:
            kind.append(word)
            continue
        depth = word[len("depth="):]
        if not word.startswith("depth=") or not depth.isdecimal() or (
                not 1 <= int(depth) <= MOST_DEPTH):
            raise argparse.ArgumentTypeError("%r is unknown; give %s, depth=1 to depth=%d" % (
                word, ", ".join(MEDIA + MODES + OPERATIONS), MOST_DEPTH))
        named.depths.append(int(depth))
    return named


def select(quick, only):
    """The Selection for --quick and --only."""
    chosen = QUICK if quick else ALL
    if only is None:
        return chosen
    return Selection(*(tuple(named) or usual for named, usual in zip(only, chosen)))


def file_system_of(folder):
    """Its type: "tmpfs", "ext2/ext3", ..."""
    return subprocess.run(["stat", "--file-system", "--format=%T", folder], capture_output=True,
                          text=True, timeout=30, check=True).stdout.strip()


def _folder_of(medium, folder):
    """Where the medium's file goes. None: this computer has none; then why not."""
    if medium == "tmpfs":
        if os.path.isdir("/dev/shm") and file_system_of("/dev/shm") == "tmpfs":
            return "/dev/shm", None
        return None, "/dev/shm is no tmpfs"
    if medium == "null":
        return tempfile.gettempdir(), None
    candidates = [folder] if folder else [tempfile.gettempdir(), os.path.expanduser("~")]
    for candidate in candidates:
        if file_system_of(candidate) == "tmpfs":
            continue
        if medium == "direct":
            with tempfile.NamedTemporaryFile(dir=candidate) as trial:
                try:
                    os.close(os.open(trial.name, os.O_RDWR | os.O_DIRECT))
                except OSError as error:
                    return None, "O_DIRECT in %s: %s" % (candidate, error.strerror)
        return candidate, None
    return None, "%s: tmpfs; choose another folder with --folder" % ", ".join(candidates)


class Media:
    """A context with one file for each medium; .disks: name -> Disk, .missing: name -> why."""

    def __init__(self, names, folder, aio, queues, pages):
        self._names = names
        self._folder = folder
        self._aio = aio
        self._queues = queues
        self._pages = pages
        self._stack = contextlib.ExitStack()
        self.disks = {}
        self.missing = {}

    def __enter__(self):
        with self._stack:
            for name in self._names:
                folder, why = _folder_of(name, self._folder)
                if folder is None:
                    self.missing[name] = why
                    continue
                file = self._stack.enter_context(
                    tempfile.NamedTemporaryFile(prefix="bulkhead-bench-", dir=folder))
                if name == "null":
                    file.truncate(_DISK_BYTES)
                else:
                    for _ in range(_DISK_BYTES >> 20):
                        file.write(b"\xa5" * (1 << 20))
                    file.flush()
                self.disks[name] = Disk(file.name, name == "direct", self._aio,
                                        self._queues, self._pages, name == "null")
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *unused):
        self._stack.close()


def settle(disk):
    """Has the host write back what the last machine wrote, which would slow the next one down."""
    fd = os.open(disk.path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fsync(fd)
        if disk.direct:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
