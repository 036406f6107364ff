"""Builds and runs the device that a section of devices/README.md tells its readers to make."""

load("@rules_cc//cc:defs.bzl", "cc_library", "cc_test")
load("//bazel:product_binary.bzl", "product_binary")
load("//integration/testbed:kvm_test.bzl", "kvm_sh_test")

_TOOL = "follow_readme.py"
_README = "//devices:README.md"

def _place(root, folder, files):
    return ["%s/%s/%s" % (root, folder, file) for file in files]

def new_device(name, section, template, libraries, binary, tests, data):
    """The targets of the copy, and NAME_run_test, which runs the section's last command.

    Args:
      name: of the device, its folder below devices/ and its program
      section: of devices/README.md
      template: label of the files that the copy is made of
      libraries: {name: {"srcs", "hdrs", "deps"}} of cc_library
      binary: the same of the program, but for hdrs
      tests: the same of cc_test
      data: labels that the section has its reader build, besides the device
    """
    folder = "devices/" + name
    root = name + "_copy"
    expected = {name: binary}
    expected.update(libraries)
    expected.update(tests)
    files = []
    for target in expected.values():
        files += target.get("srcs", []) + target.get("hdrs", [])
    native.genrule(
        name = root,
        srcs = [_README, template],
        outs = _place(root, folder, files) + [root + "/vmm_arguments"],
        cmd = "/usr/bin/python3 -B $(location %s) $(location %s) '%s' %s $(RULEDIR)/%s '%s' $(locations %s)" %
              (_TOOL, _README, section, folder, root, json.encode(dict(expected, data = data)), template),
        exec_tools = [_TOOL],
    )
    for library, target in libraries.items():
        cc_library(
            name = library,
            srcs = _place(root, folder, target.get("srcs", [])),
            hdrs = _place(root, folder, target["hdrs"]),
            includes = [root],
            deps = target.get("deps", []),
        )
    product_binary(name = name, srcs = _place(root, folder, binary["srcs"]), deps = binary["deps"])
    for test, target in tests.items():
        cc_test(name = test, size = "small", srcs = _place(root, folder, target["srcs"]), deps = target["deps"])
    kvm_sh_test(
        name = name + "_run_test",
        src = "run_new_device.sh",
        args = ["$(rootpath :%s)" % name, name, "$(rootpath :%s/vmm_arguments)" % root],
        data = data + [":" + name, ":%s/vmm_arguments" % root],
        guest = "bare-metal",
    )
