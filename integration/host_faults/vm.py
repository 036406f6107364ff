"""A VM whose devices are under load, and what must be true of it.

The guest is the bare-metal program disk_storm: it keeps a disk busy, checks every byte and every
completion, and prints at its end which version of each block the disk must hold. Beside the disk the
VM has a console, an entropy source, a network device, a vsock device, a balloon and the rig, which the
disk's trouble must not harm.
"""
import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import threading
import time

LIMIT_S = 60  # for everything that must happen at some time: the machine may be busy
END_S = 20    # for the end after SIGTERM: the vmm promises 5 s of its own time
BLOCK = 4096
BLOCKS = 256
_MASK = (1 << 64) - 1
_GOLDEN = 0x9e3779b97f4a7c15


class Failure(Exception):
    """Something that was promised is not so."""


def wait_for(what, condition, limit=LIMIT_S):
    """Returns the first true value of condition(). Fails with `what` if there is none in time."""
    deadline = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failure("%s: not within %d s" % (what() if callable(what) else what, limit))
        time.sleep(0.02)


def ended(pid):
    """Whether no such process is left, but maybe a zombie."""
    try:
        with open("/proc/%d/stat" % pid, encoding="utf-8") as stream:
            return stream.read().rsplit(")", 1)[1].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


class Stream:
    """The reader of one of the vmm's output streams, who may stop reading.

    `write_fd` is the vmm's end, or an end like it."""

    def __init__(self, read_fd, write_fd):
        self._read_fd, self._write_fd = read_fd, write_fd
        self._lock = threading.Lock()
        self._reading = threading.Event()
        self._reading.set()
        self._closing = False
        self._data = b""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        while not self._closing:
            if not self._reading.wait(0.1):
                continue
            if not select.select([self._read_fd], [], [], 0.1)[0]:
                continue
            try:
                data = os.read(self._read_fd, 65536)
            except OSError:  # a terminal without any writer
                return
            if not data:
                return
            with self._lock:
                self._data += data

    def text(self):
        with self._lock:
            return self._data.decode("utf-8", "replace")

    def stop_reading_and_fill(self):
        """Stops reading, and fills the stream to the last byte."""
        self._reading.clear()
        time.sleep(0.3)  # a read under way
        fd = os.open("/proc/self/fd/%d" % self._write_fd, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
        for size in (4096, 1):
            with contextlib.suppress(BlockingIOError):
                while os.write(fd, b"." * size):
                    pass
        os.close(fd)

    def read_on(self):
        self._reading.set()

    def close(self):
        self._closing = True
        self._reading.set()
        self._thread.join()
        os.close(self._read_fd)
        os.close(self._write_fd)


class Tools:
    """Where the programs are."""

    def __init__(self, vmm, vmctl, guest, devices):
        self.vmm, self.vmctl, self.guest, self.devices = vmm, vmctl, guest, devices


class Vm:
    """One VM in `folder`, which is its own. Its device binaries are copies there."""

    def __init__(self, tools, folder):
        self.tools, self.folder, self.blocks = tools, folder, BLOCKS
        self.disk = os.path.join(folder, "disk.img")
        self.disk_options = ""  # of the file in the configuration
        self.restart = ""  # the policy of all devices: the default
        with open(self.disk, "wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, self.blocks * BLOCK)
        self.runtime = os.path.join(folder, "run")
        self.binaries = os.path.join(folder, "bin")
        self.log_path = None  # instead of the terminal
        self.process = self.console = self.log = self._ram = None
        os.makedirs(self.runtime, 0o700, exist_ok=True)
        os.makedirs(self.binaries, exist_ok=True)
        for path in tools.devices:
            target = os.path.join(self.binaries, os.path.basename(path))
            with open(path, "rb") as source, open(target, "wb") as copy:
                copy.write(source.read())
            os.chmod(target, 0o755)

    # --- Start

    def _config(self):
        devices = [
            ("console", "uart16550",
             'resources { name: "console" console { standard_streams: true } }'),
            ("disk0", "virtio_blk",
             'spare: true resources { name: "disk" file { path: "%s" %s } }' % (self.disk,
                                                                                 self.disk_options)),
            ("rng0", "virtio_rng", ""),
            ("net0", "virtio_net", 'resources { name: "tap" tap { } }'),
            ("vsock0", "virtio_vsock",
             'arg: "--cid=42" resources { name: "host" vsock { socket: "%s/vsock" } }' %
             self.runtime),
            ("balloon", "virtio_balloon", 'resources { name: "target" balloon { size: "1M" } }'),
            ("rig", "rig", ""),
        ]
        text = 'name: "loaded" memory: "64M" cpus: 1 on_reset: EXIT\n'
        text += 'kernel { path: "%s" cmdline: "run=disk_storm until_key=1 retry=1 patience=1000000000000 blocks=%d" }\n' % (
            self.tools.guest, self.blocks)
        for name, binary, rest in devices:
            text += 'devices { name: "%s" binary: "%s/%s" access_timeout: "5m" %s %s }\n' % (
                name, self.binaries, binary, self.restart, rest)
        path = os.path.join(self.folder, "vm.textproto")
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        return path

    def environment(self):
        environment = dict(os.environ)
        environment["BULKHEAD_RUNTIME_DIR"] = self.runtime
        return environment

    def start(self):
        config = self._config()
        read_log, write_log = pty.openpty()
        log = write_log
        if self.log_path is not None:
            log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        read_console, write_console = os.pipe()
        self.process = subprocess.Popen(
            [self.tools.vmm, "--config", config], stdin=subprocess.PIPE, stdout=write_console,
            stderr=log, env=self.environment(), start_new_session=True)
        if log != write_log:
            os.close(log)
        self.console = Stream(read_console, write_console)
        self.log = Stream(read_log, write_log)
        begun = wait_for(
            lambda: "the guest's start\n" + self.all_text(),
            lambda: re.search(r"used index at (\d+)\r?\n", self.console.text()) or self._died())
        self._address = int(begun.group(1))
        for entry in os.listdir("/proc/%d/fd" % self.pid):
            path = "/proc/%d/fd/%s" % (self.pid, entry)
            with contextlib.suppress(OSError):
                if "memfd:guest-ram" in os.readlink(path):
                    self._ram = os.open(path, os.O_RDONLY)
                    break
        self.await_progress()

    def _died(self):
        if self.process.poll() is not None:
            raise Failure("the vmm ended by itself: %s\n%s" % (self.process.returncode,
                                                               self.all_text()))

    @property
    def pid(self):
        return self.process.pid

    def all_text(self):
        text = "console: %s\nlog: %s" % (self.console.text()[-1000:], self.log.text()[-3000:])
        if self.log_path is not None:
            with open(self.log_path, encoding="utf-8", errors="replace") as stream:
                text += stream.read()[-3000:]
        return text

    # --- What is true of it

    def used_index(self):
        """The disk's completions so far, modulo 65536."""
        return int.from_bytes(os.pread(self._ram, 2, self._address), "little")

    def await_progress(self, limit=LIMIT_S):
        """The guest gets answers from its disk: several rings full, so that all were asked for by
        now."""
        done, last = 0, self.used_index()

        def moved():
            nonlocal done, last
            self._died()
            now = self.used_index()
            done += (now - last) % 65536
            last = now
            return done > 64

        wait_for(lambda: "requests of the disk are answered\n" + self.all_text(), moved, limit)

    def vmctl(self, *arguments, limit=LIMIT_S):
        result = subprocess.run([self.tools.vmctl, *arguments], env=self.environment(), text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, timeout=limit, check=False)
        if result.returncode != 0:
            raise Failure("vmctl %s: exit code %d: %s\n%s" % (
                " ".join(arguments), result.returncode, result.stderr, self.all_text()))
        return result.stdout

    def devices(self):
        return {d["name"]: d for d in json.loads(self.vmctl("devices", "--json"))["devices"]}

    def pid_of(self, device):
        return self.devices()[device].get("pid", 0)

    def await_running(self, *names, limit=LIMIT_S):
        """These devices (all, if none is named) are RUNNING and answer a heartbeat from now on."""
        def answered():
            return {name: int(d.get("heartbeat", {}).get("answered", 0))
                    for name, d in self.devices().items()
                    if (not names or name in names) and d.get("state") == "RUNNING"}

        wanted = set(names) or set(self.devices())
        before = {}

        def all_answered():
            now = answered()
            for name in list(before):
                if name not in now:
                    del before[name]
            for name, count in now.items():
                before.setdefault(name, count)
            return all(name in now and now[name] > before[name] for name in wanted)

        wait_for(lambda: "RUNNING and answering: %s\n%s\n%s" % (
            sorted(wanted), self.vmctl("devices"), self.all_text()), all_answered, limit)

    def children(self):
        """The device processes, spares, and processes between them and the vmm: pid to binary."""
        found, parents = {}, {self.pid}
        stats = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    with open("/proc/%s/stat" % entry, encoding="utf-8") as stream:
                        rest = stream.read().rsplit(")", 1)[1].split()
                    if rest[0] not in "ZX":
                        stats[int(entry)] = int(rest[1])
        while parents:
            parents = {pid for pid, parent in stats.items() if parent in parents}
            for pid in parents:
                with contextlib.suppress(OSError):
                    found[pid] = os.path.basename(
                        os.readlink("/proc/%d/exe" % pid).replace(" (deleted)", ""))
        return found

    def spare_of_disk(self):
        serving = self.pid_of("disk0")
        return wait_for("a spare of the disk", lambda: next(
            (pid for pid, name in self.children().items()
             if name == "virtio_blk" and pid != serving), 0))

    def helper(self, name):
        """The pid of the vmm's helper process of that name."""
        for pid in self.children():
            with open("/proc/%d/comm" % pid, encoding="utf-8") as stream:
                if stream.read().strip() == name:
                    return pid
        raise Failure("no process " + name)

    def kill(self, device, number=signal.SIGKILL):
        pid = wait_for("a process of " + device, lambda: self.pid_of(device))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    # --- The end

    def finish(self):
        """The guest ends, content; the disk holds what it says. Returns the number of errors that it saw."""
        self.process.stdin.write(b"q")
        self.process.stdin.flush()
        text = wait_for(lambda: "the guest's end\n" + self.all_text(), lambda: re.search(
            r"storm ends: .* versions (\d+) errors (\d+)\s[^$]*BULKHEAD-PASS",
            self.console.text()))
        self.await_end({0, 3}, END_S)
        self._check_disk(int(text.group(1)))
        return int(text.group(2))

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def await_end(self, codes, limit):
        try:
            code = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise Failure("the vmm does not end within %d s\n%s" % (limit, self.all_text()))
        if code not in codes:
            raise Failure("the vmm ended with %d, not one of %s\n%s" % (code, sorted(codes),
                                                                       self.all_text()))

    def _check_disk(self, wanted):
        total = 0
        with open(self.disk, "rb") as stream:
            for block in range(self.blocks):
                data = stream.read(BLOCK)
                words = [int.from_bytes(data[i:i + 8], "little") for i in range(0, BLOCK, 8)]
                version = (words[0] - (block << 12) * _GOLDEN) & 0xffffffff
                if words[0] == 0 and not any(words):
                    version = 0
                else:
                    base = version << 32 | block << 12
                    for i, word in enumerate(words):
                        if word != ((base | i) * _GOLDEN + version) & _MASK:
                            raise Failure("block %d of the disk is wrong at word %d" % (block, i))
                total = (total * 31 + version) & _MASK
        if total != wanted:
            raise Failure("the disk does not hold the newest version of every block")

    def check_nothing_left(self):
        """Of a VM that has ended."""
        def remaining():
            found = []
            for entry in os.listdir("/proc"):
                if not entry.isdigit() or int(entry) == os.getpid():
                    continue
                with contextlib.suppress(OSError):
                    executable = os.readlink("/proc/%s/exe" % entry)
                    if executable.startswith(self.folder + "/") and not ended(int(entry)):
                        found.append("%s (%s)" % (entry, executable))
            return found

        wait_for(lambda: "no process is left: %s" % remaining(), lambda: not remaining(), END_S)
        sockets = os.listdir(self.runtime)
        if sockets:
            raise Failure("left in the runtime folder: %s" % sockets)

    def kill_vmm(self):
        if self.process is not None and self.process.poll() is None:
            self.process.kill()

    def destroy(self):
        """In any state. Nothing keeps its process from dying any more."""
        self.kill_vmm()
        if self.process is not None:
            self.process.wait(LIMIT_S)
        for stream in (self.console, self.log):
            if stream is not None:
                stream.close()
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        if self._ram is not None:
            os.close(self._ram)
