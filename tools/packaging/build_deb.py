#!/usr/bin/python3
"""Makes the Debian package from programs that are built: tools/package calls it.

The same programs, version and SOURCE_DATE_EPOCH give the same package, byte by byte.
"""
import argparse
import gzip
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).absolute().parent
DEVICES = ("i6300esb", "pvpanic", "uart16550", "vhost_user", "virtio_balloon", "virtio_blk", "virtio_net",
           "virtio_rng", "virtio_vsock")

CONTROL = """\
Package: bulkhead
Version: {version}
Architecture: amd64
Maintainer: {maintainer}
Installed-Size: {kib}
Recommends: passt, qemu-system-common
Section: admin
Priority: optional
Description: KVM virtual machines whose devices are processes that may die
 A minimal virtual machine monitor for Linux's KVM. Each device of a virtual
 machine is a process in a sandbox of its own. It may crash, hang, be killed
 or be replaced by a newer version: the guest does not notice.
 .
 vmm runs a virtual machine, vmctl operates it, and bulkhead@NAME.service runs
 one from /etc/bulkhead/NAME.textproto.
 .
 passt connects virtual machines of ordinary users to the network;
 qemu-system-common serves qcow2 images.
"""

OVERRIDES = """\
# Each process of a device starts in milliseconds, in a sandbox without a file system: there is no
# dynamic linker.
bulkhead: statically-linked-binary
bulkhead: embedded-library
# A static program whose address is not fixed (static PIE) is no shared library.
bulkhead: shared-library-lacks-prerequisites
"""

COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: Bulkhead

Files: *
Copyright: 2026 the Bulkhead authors
License: Apache-2.0
 On Debian systems, the full text of the Apache License, version 2.0, can be
 found in the file `/usr/share/common-licenses/Apache-2.0'.
"""

README = """\
The configurations of virtual machines: NAME.textproto is that of bulkhead@NAME.service.
`vmm --help-config` has the fields, /usr/share/doc/bulkhead/examples an example,
`vmm --check --config FILE` says whether one would start.
"""


def fail(message):
    print("build_deb: %s" % message, file=sys.stderr)
    sys.exit(1)


def output(*command, limit=60):
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit,
                            check=False)
    if result.returncode != 0:
        fail("%s: exit code %d\n%s" % (" ".join(map(str, command)), result.returncode, result.stderr))
    return result.stdout


class Tree:
    """The files of the package."""

    def __init__(self, root, epoch):
        self.root = pathlib.Path(root)
        self.epoch = epoch

    def write(self, path, data, mode=0o644):
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data if isinstance(data, bytes) else data.encode())
        target.chmod(mode)

    def program(self, source, path):
        self.write(path, pathlib.Path(source).read_bytes(), 0o755)
        output("strip", "--strip-unneeded", "--remove-section=.comment", self.root / path)

    def compressed(self, path, text):
        self.write(path + ".gz", gzip.compress(text.encode(), 9, mtime=self.epoch))

    def finish(self):
        """Modes that do not depend on the umask; checksums. Returns the size in KiB."""
        for folder, folders, unused in os.walk(self.root):
            for name in folders:
                os.chmod(os.path.join(folder, name), 0o755)
        os.chmod(self.root, 0o755)
        sums = []
        size = 0
        for file in sorted(self.root.rglob("*")):
            if not file.is_file() or file.parent == self.root / "DEBIAN":
                continue
            data = file.read_bytes()
            size += (len(data) + 1023) // 1024
            sums.append("%s  %s\n" % (hashlib.md5(data).hexdigest(), file.relative_to(self.root)))
        self.write("DEBIAN/md5sums", "".join(sums))
        os.chmod(self.root / "DEBIAN", 0o755)
        return size


def manual(title, section, summary, text, epoch):
    """A manual page with what a program says about itself, as it lays it out."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)
    date = output("date", "--utc", "--date=@%d" % epoch, "+%Y-%m-%d").strip()
    others = [name for name in ("vmctl (1)", "vmm (1)", "bulkhead.textproto (5)")
              if name.split()[0] != title]
    return (".TH %s %d %s Bulkhead\n.SH NAME\n%s \\- %s\n.SH DESCRIPTION\n.nf\n%s.fi\n"
            ".SH \"SEE ALSO\"\n.BR %s\n" % (title.upper(), section, date, title, summary, text,
                                          ",\n.BR ".join(others)))


def stage(args, tree):
    binaries = args.binaries
    tree.program(binaries / "vmm/vmm", "usr/bin/vmm")
    tree.program(binaries / "tools/vmctl/vmctl", "usr/bin/vmctl")
    tree.program(binaries / "vmm/boot_loader/boot_loader", "usr/libexec/bulkhead/boot_loader")
    for device in DEVICES:
        tree.program(binaries / "devices" / device / device, "usr/libexec/bulkhead/" + device)
    for title, section, summary, flag, program in (
            ("vmm", 1, "run a virtual machine whose devices are processes", "--help", "vmm"),
            ("vmctl", 1, "operate running virtual machines", "--help", "vmctl"),
            ("bulkhead.textproto", 5, "configuration of a virtual machine", "--help-config", "vmm")):
        text = output(tree.root / "usr/bin" / program, flag)
        tree.compressed("usr/share/man/man%d/%s.%d" % (section, title, section),
                        manual(title, section, summary, text, args.epoch))
    # The path of the program that wrote it is where vmctl lay then.
    completion = output(tree.root / "usr/bin/vmctl", "completion", "bash")
    completion = re.sub(r"program='[^']*'", "program=/usr/bin/vmctl", completion)
    tree.write("usr/share/bash-completion/completions/vmctl", completion)
    tree.write("usr/lib/systemd/system/bulkhead@.service", (HERE / "bulkhead@.service").read_bytes())
    tree.write("usr/share/doc/bulkhead/examples/debian.textproto", (HERE / "debian.textproto").read_bytes())
    for example in ("bulkhead-metrics.service", "grafana-dashboard.json", "prometheus-rules.yml"):
        tree.write("usr/share/doc/bulkhead/examples/" + example, (HERE / "monitoring" / example).read_bytes())
    tree.write("usr/share/doc/bulkhead/copyright", COPYRIGHT)
    date = output("date", "--utc", "--rfc-email", "--date=@%d" % args.epoch).strip()
    tree.compressed("usr/share/doc/bulkhead/changelog",
                    "bulkhead (%s) unstable; urgency=medium\n\n  * This version.\n\n -- %s  %s\n" % (
                        args.version, args.maintainer, date))
    tree.write("usr/share/lintian/overrides/bulkhead", OVERRIDES)
    tree.write("etc/bulkhead/README", README)
    tree.write("DEBIAN/conffiles", "/etc/bulkhead/README\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", type=pathlib.Path, required=True, help="bazel-bin, or a folder like it")
    parser.add_argument("--version", required=True, help="of the package")
    parser.add_argument("--maintainer", default="Bulkhead <root@localhost>", help="NAME <ADDRESS>")
    parser.add_argument("--fast", action="store_true", help="do not compress, for a test")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="the package")
    args = parser.parse_args()
    args.epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    os.environ["SOURCE_DATE_EPOCH"] = str(args.epoch)
    if not re.fullmatch(r"[0-9][A-Za-z0-9.+~]*", args.version):
        fail("--version %r: not a version of a native Debian package, such as 0.1 or 0.1+git3" % args.version)
    for program in ("dpkg-deb", "strip"):
        if shutil.which(program) is None:
            fail("%s is not installed: run tools/setup package" % program)
    with tempfile.TemporaryDirectory(prefix="bulkhead-deb-") as folder:
        tree = Tree(folder, args.epoch)
        stage(args, tree)
        kib = tree.finish()
        tree.write("DEBIAN/control", CONTROL.format(version=args.version, maintainer=args.maintainer, kib=kib))
        # What several threads write depends on how many they are.
        output("dpkg-deb", "--root-owner-group", "--threads-max=1", "-Znone" if args.fast else "-Zxz",
               "--build", folder, str(args.output), limit=1200)


if __name__ == "__main__":
    main()
