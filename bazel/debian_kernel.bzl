"""Repository rule: a Debian kernel as files, without installing it.

    debian_kernel(
        name = "debian_guest_kernel",
        package = "linux-image-cloud-amd64",
        modules = ["virtio_blk"],
    )

gives @debian_guest_kernel//:bzImage, :vmlinux, :release, :modules.load and :modules
(described in fetch_debian_kernel.py). It is fetched once and stays until
`bazel clean --expunge`, or until `bazel sync --only=debian_guest_kernel`.
"""

_BUILD = """\
package(default_visibility = ["//visibility:public"])

exports_files([
    "bzImage",
    "modules.load",
    "release",
    "vmlinux",
])

filegroup(
    name = "modules",
    srcs = glob([
        "lib/modules/**/*.ko",
        "lib/modules/*/modules.alias",
        "lib/modules/*/modules.builtin",
        "lib/modules/*/modules.dep",
        "lib/modules/*/modules.softdep",
        "lib/modules/*/*.bin",  # what kmod's modprobe reads
    ]),
)
"""

def _debian_kernel_impl(ctx):
    # Not whatever python3 comes first in PATH: the one that Debian's packages bring.
    command = ["/usr/bin/python3", "-B", ctx.path(ctx.attr._fetch), "--package", ctx.attr.package]
    ctx.path(ctx.attr._apt)  # imported by it
    if ctx.attr.suite:
        command += ["--suite", ctx.attr.suite]
    for module in ctx.attr.modules:
        command += ["--module", module]
    for module in ctx.attr.available_modules:
        command += ["--available", module]
    ctx.report_progress("fetching " + ctx.attr.package)
    result = ctx.execute(command, timeout = 1800)
    if result.return_code != 0:
        fail(result.stderr.strip())
    ctx.file("BUILD", _BUILD)

debian_kernel = repository_rule(
    implementation = _debian_kernel_impl,
    attrs = {
        "package": attr.string(mandatory = True, doc = "meta package; what it depends on is fetched"),
        "modules": attr.string_list(
            doc = "modules to keep and to list in modules.load; what they depend on, too",
        ),
        "available_modules": attr.string_list(doc = "modules to keep, for modprobe"),
        "suite": attr.string(doc = "of Debian; default: what the host's package sources offer"),
        "_apt": attr.label(default = "//bazel:debian_apt.py", allow_single_file = True),
        "_fetch": attr.label(default = "//bazel:fetch_debian_kernel.py", allow_single_file = True),
    },
)
