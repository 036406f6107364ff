"""Tests that need KVM: they run directly where this machine's KVM can run their guest, else in
the testbed. They never depend on which it is: same command, files, environment, outputs.

    kvm_cc_test(
        name = "linux_boot_test",
        srcs = ["linux_boot_test.cc"],
        data = ["//kernel_images:guest_vmlinux", ...],
        deps = ["@com_google_googletest//:gtest_main"],
    )

guest = "linux" (the default) needs guest kernel mode at full speed; guest = "bare-metal" needs
only guest user mode, for programs of //kernel_images/baremetal.
"""

load("@rules_cc//cc:defs.bzl", "cc_binary")

_NEEDS = ["linux", "bare-metal"]

def _kvm_test(name, program, guest, memory, cpus, args, data, tags, size, **kwargs):
    if guest not in _NEEDS:
        fail("%s: guest = %r is none of %s" % (name, guest, _NEEDS))
    native.sh_test(
        name = name,
        size = size,
        srcs = ["//integration/testbed:run_kvm_test.sh"],
        args = [
            "$(rootpath //integration/testbed:kvm_probe)",
            "$(rootpath //integration/testbed:testbed)",
            guest,
            memory,
            str(cpus),
            "$(rootpath %s)" % program,
        ] + args,
        data = data + [
            program,
            "//integration/testbed:kvm_probe",
            "//integration/testbed:testbed",
        ],
        # Two processors: one test at a time on a small machine. Where there is no KVM, tools/test
        # runs two: a testbed of one processor takes no more.
        tags = tags + ["cpu:2"],
        **kwargs
    )

def kvm_cc_test(
        name,
        guest = "linux",
        memory = "2G",
        cpus = 1,
        args = [],
        data = [],
        tags = [],
        size = "medium",
        timeout = None,
        flaky = None,
        shard_count = None,
        visibility = None,
        **kwargs):
    """A cc_test that has KVM.

    Args:
      name: of the test; the program alone is <name>_program
      guest: "linux" or "bare-metal"
      memory: of the testbed, should it be needed
      cpus: of the testbed; with one, the fastest, neither end of a channel polls
      args: of the program; $(rootpath) works
      data: files that it finds in its runfiles
      tags: of the test
      size: as of every test
      timeout: as of every test
      flaky: as of every test
      shard_count: as of every test
      visibility: of the test
      **kwargs: to the cc_binary
    """
    program = name + "_program"
    cc_binary(
        name = program,
        testonly = True,
        data = data,
        tags = ["manual"],
        visibility = ["//visibility:private"],
        **kwargs
    )
    _kvm_test(
        name = name,
        program = ":" + program,
        guest = guest,
        memory = memory,
        cpus = cpus,
        args = args,
        data = data,
        tags = tags,
        size = size,
        timeout = timeout,
        flaky = flaky,
        shard_count = shard_count,
        visibility = visibility,
    )

def kvm_sh_test(name, src, guest = "linux", memory = "2G", cpus = 1, args = [], data = [], tags = [], size = "medium", **kwargs):
    """A shell script as test, that has KVM.

    Args:
      name: of the test
      src: the script
      guest: "linux" or "bare-metal"
      memory: of the testbed, should it be needed
      cpus: of the testbed
      args: of the script; $(rootpath) works
      data: files that it finds in its runfiles
      tags: of the test
      size: as of every test
      **kwargs: to the sh_test
    """
    _kvm_test(name, src, guest, memory, cpus, args, data, tags, size, **kwargs)
