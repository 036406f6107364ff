"""A FUSE file system of one file, "disk.img", over a real one, that stops answering on request.

usage: fuse_server.py MOUNTPOINT FILE [no-flush]. Commands on standard input: "stall", "go", each answered by a
line; it ends at the end of its input. A stalled server is what a network file system is whose server
does not answer: who uses the file waits in the kernel, and cannot be killed until it goes on. With "no-flush" close(2) asks the
server nothing, so that a process that has the file open can end."""
import ctypes
import errno
import os
import select
import stat
import struct
import sys

_MS_NODEV, _MS_NOSUID = 4, 2
_NO_REPLY = {2, 36, 42}  # FORGET, INTERRUPT, BATCH_FORGET
_ROOT, _FILE = 1, 2


class Server:
    def __init__(self, mountpoint, path, flushes):
        self._flushes = flushes
        self._file = os.open(path, os.O_RDWR)
        self._fuse = os.open("/dev/fuse", os.O_RDWR)
        options = b"fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other" % self._fuse
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"stalling", mountpoint.encode(), b"fuse.stalling", _MS_NODEV | _MS_NOSUID,
                      options) != 0:
            raise OSError(ctypes.get_errno(), "mount")

    def _attributes(self, node):
        size = os.fstat(self._file).st_size if node == _FILE else 4096
        mode = stat.S_IFREG | 0o700 if node == _FILE else stat.S_IFDIR | 0o700
        return struct.pack("<6Q10I", node, size, (size + 511) // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0,
                           0, 4096, 0)

    def _answer(self, opcode, node, body):
        """The reply's body, or an error number."""
        if opcode == 26:  # INIT
            _, minor, readahead, _ = struct.unpack_from("<4I", body)
            return struct.pack("<4I2H2I2HI7I", 7, min(minor, 31), readahead, 0, 16, 12, 65536, 1, 0, 0,
                               0, *[0] * 7)
        if opcode == 1:  # LOOKUP
            if node != _ROOT or body.rstrip(b"\0") != b"disk.img":
                return errno.ENOENT
            return struct.pack("<4Q2I", _FILE, 0, 3600, 3600, 0, 0) + self._attributes(_FILE)
        if opcode in (3, 4):  # GETATTR, SETATTR
            return struct.pack("<Q2I", 3600, 0, 0) + self._attributes(node)
        if opcode in (14, 27):  # OPEN, OPENDIR
            return struct.pack("<Q2I", 1, 0, 0)
        if opcode == 15:  # READ
            _, offset, size = struct.unpack_from("<2QI", body)
            return os.pread(self._file, size, offset)
        if opcode == 16:  # WRITE
            _, offset, size = struct.unpack_from("<2QI", body)
            return struct.pack("<2I", os.pwrite(self._file, body[40:40 + size], offset), 0)
        if opcode == 25:  # FLUSH
            return b"" if self._flushes else errno.ENOSYS
        if opcode in (18, 20, 29):  # RELEASE, FSYNC, RELEASEDIR
            return b""
        return errno.ENOSYS

    def serve(self):
        stalled = False
        poll = select.poll()
        poll.register(0, select.POLLIN)
        poll.register(self._fuse, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == 0:
                    command = os.read(0, 100)
                    if not command:
                        return
                    stalled = command == b"stall\n"
                    poll.modify(self._fuse, 0 if stalled else select.POLLIN)
                    os.write(1, command)
                elif not stalled and not self._serve_one():
                    return

    def _serve_one(self):
        try:
            request = os.read(self._fuse, 1 << 18)
        except OSError as error:
            return error.errno != errno.ENODEV  # unmounted
        _, opcode, unique, node = struct.unpack_from("<2I2Q", request)
        if opcode in _NO_REPLY:
            return True
        answer = self._answer(opcode, node, request[40:])
        code, body = (0, answer) if isinstance(answer, bytes) else (-answer, b"")
        os.write(self._fuse, struct.pack("<IiQ", 16 + len(body), code, unique) + body)
        return True


if __name__ == "__main__":
    server = Server(sys.argv[1], sys.argv[2], "no-flush" not in sys.argv[3:])
    os.write(1, b"mounted\n")
    server.serve()
