"""What a fault needs of the host: control groups, small file systems, limits, block devices.

Everything made here is undone by its `close`, in a private mount namespace (enter_namespace)."""
import contextlib
import ctypes
import os
import resource
import subprocess
import time

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS = 0x20000
_CLONE_NEWNET = 0x40000000
CGROUPS = "/sys/fs/cgroup"


def run(*command):
    result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode != 0:
        raise OSError("%s: exit code %d: %s" % (" ".join(command), result.returncode,
                                                result.stdout))
    return result.stdout


def enter_namespace():
    """Mounts and network from now on are this process's and its children's alone, and go with them."""
    if _LIBC.unshare(_CLONE_NEWNS | _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare: this needs root")
    run("mount", "--make-rprivate", "/")


def is_in_memory(folder):
    """Whether files there have no place but memory. An overlay is the testbed's."""
    return run("stat", "-f", "-c", "%T", folder).strip() in ("tmpfs", "overlayfs")


class DiskFileSystem:
    """An ext4 in a file: unlike files on a tmpfs, those in it are in the page cache."""

    def __init__(self, path, image, mib):
        for module in ("loop", "crc32c_generic", "ext4"):  # where they are modules
            subprocess.run(["modprobe", module], stderr=subprocess.DEVNULL, check=False)
        with open(image, "wb") as stream:
            stream.truncate(mib << 20)
        run("mke2fs", "-q", "-F", "-t", "ext4", image)
        self.path = path
        os.mkdir(path)
        self.device = run("losetup", "--find", "--show", image).strip()
        run("mount", "-t", "ext4", self.device, path)

    def close(self):
        run("umount", "-l", self.path)
        run("losetup", "--detach", self.device)


class SmallFileSystem:
    """A tmpfs that can be filled to the last byte and the last file."""

    def __init__(self, path, mib=1):
        self.path = path
        os.makedirs(path, exist_ok=True)
        run("mount", "-t", "tmpfs", "-o", "size=%dm,nr_inodes=64,mode=0700" % mib, "tmpfs", path)
        self._fillers = []

    def fill(self):
        with contextlib.suppress(OSError):
            for i in range(64):
                name = os.path.join(self.path, ".filler%d" % i)
                fd = os.open(name, os.O_WRONLY | os.O_CREAT, 0o600)
                self._fillers.append(name)
                with contextlib.suppress(OSError):
                    while os.write(fd, b"." * 4096):
                        pass
                os.close(fd)

    def free(self):
        for name in self._fillers:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
        self._fillers = []

    def close(self):
        self.free()
        run("umount", "-l", self.path)


class Cgroup:
    """A control group of one controller: "freezer", "pids" or "memory". Version 1 where it is
    mounted, else version 2."""

    def __init__(self, controller):
        self._v1 = os.path.isdir(os.path.join(CGROUPS, controller))
        root = os.path.join(CGROUPS, controller) if self._v1 else CGROUPS
        if not self._v1:
            if not os.path.exists(os.path.join(root, "cgroup.controllers")):
                run("mount", "-t", "cgroup2", "cgroup2", root)
            if controller != "freezer":
                with open(os.path.join(root, "cgroup.subtree_control"), "w",
                          encoding="utf-8") as stream:
                    stream.write("+" + controller)
        self._root = root
        self._path = os.path.join(root, "host-faults-%d-%s" % (os.getpid(), controller))
        os.mkdir(self._path)

    def _write(self, name, value):
        with open(os.path.join(self._path, name), "w", encoding="utf-8") as stream:
            stream.write(str(value))

    def add(self, pid):
        self._write("cgroup.procs", pid)

    def freeze(self, frozen):
        if self._v1:
            self._write("freezer.state", "FROZEN" if frozen else "THAWED")
        else:
            self._write("cgroup.freeze", int(frozen))

    def limit_processes(self, count):
        """None: any number."""
        self._write("pids.max", "max" if count is None else count)

    def limit_memory(self, count):
        """In bytes; None: any."""
        if self._v1:
            self._write("memory.limit_in_bytes", -1 if count is None else count)
        else:
            self._write("memory.max", "max" if count is None else count)

    def memory_limit_hits(self):
        """How often a process could not have what it asked for at once."""
        if self._v1:
            with open(os.path.join(self._path, "memory.failcnt"), encoding="utf-8") as stream:
                return int(stream.read())
        with open(os.path.join(self._path, "memory.events"), encoding="utf-8") as stream:
            return int(dict(line.split() for line in stream)["max"])

    def count(self):
        with open(os.path.join(self._path, "pids.current"), encoding="utf-8") as stream:
            return int(stream.read())

    def close(self):
        """Its processes, if there still are any, go on without it."""
        for attempt in range(200):
            with open(os.path.join(self._path, "cgroup.procs"), encoding="utf-8") as stream:
                for pid in stream.read().split():
                    with contextlib.suppress(OSError):
                        with open(os.path.join(self._root, "cgroup.procs"), "w",
                                  encoding="utf-8") as target:
                            target.write(pid)
            with contextlib.suppress(OSError):
                os.rmdir(self._path)
                return
            time.sleep(0.05)
        raise OSError("%s cannot be removed" % self._path)


class DescriptorLimit:
    """The limit of open files of another process; may be cut below what it has open."""

    def __init__(self, pid):
        self._pid = pid
        self._before = resource.prlimit(pid, resource.RLIMIT_NOFILE)

    def cut(self, count):
        resource.prlimit(self._pid, resource.RLIMIT_NOFILE, (count, self._before[1]))

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(self._pid, resource.RLIMIT_NOFILE, self._before)
