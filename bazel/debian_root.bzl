"""A Debian system as a disk image, made of Debian's packages.

In WORKSPACE, what needs the network (it is fetched once, as a debian_kernel is):

    debian_packages(
        name = "debian_guest_packages",
        packages = ["systemd-sysv", "linux-image-cloud-amd64"],
    )

and in a BUILD file, from these packages alone:

    debian_root(
        name = "debian_root",
        files = {"debian/fstab": "/etc/fstab"},
        packages = "@debian_guest_packages//:packages",
    )

which gives debian_root.img (ext4), debian_root.vmlinuz and debian_root.initrd.
"""

_BUILD = """\
package(default_visibility = ["//visibility:public"])

exports_files(["include"])

filegroup(
    name = "packages",
    srcs = glob(["debs/*"]),
)
"""

def _debian_packages_impl(ctx):
    ctx.path(ctx.attr._apt)  # imported by it
    ctx.report_progress("fetching %d packages and what they need" % len(ctx.attr.packages))
    result = ctx.execute(
        ["/usr/bin/python3", "-B", ctx.path(ctx.attr._fetch)] + ctx.attr.packages,
        timeout = 1800,
    )
    if result.return_code != 0:
        fail(result.stderr.strip())
    ctx.file("include", "".join(["--include=%s\n" % package for package in ctx.attr.packages]))
    ctx.file("BUILD", _BUILD)

debian_packages = repository_rule(
    implementation = _debian_packages_impl,
    attrs = {
        "packages": attr.string_list(mandatory = True, doc = "what they depend on is fetched, too"),
        "_apt": attr.label(default = "//bazel:debian_apt.py", allow_single_file = True),
        "_fetch": attr.label(default = "//bazel:fetch_debian_packages.py", allow_single_file = True),
    },
)

def _debian_root_impl(ctx):
    outputs = {
        kind: ctx.actions.declare_file("%s.%s" % (ctx.label.name, suffix))
        for kind, suffix in {"image": "img", "initrd": "initrd", "kernel": "vmlinuz"}.items()
    }
    index = [file for file in ctx.files.packages if file.basename == "Packages"][0]
    args = ctx.actions.args()
    args.add("--packages", index.dirname)
    args.add("--size", ctx.attr.image_size)
    for kind, output in outputs.items():
        args.add("--" + kind, output)
    for target, path in ctx.attr.files.items():
        args.add("--file", "%s=%s" % (path, target.files.to_list()[0].path))
    ctx.actions.run(
        executable = "/usr/bin/python3",
        arguments = ["-B", ctx.file._make.path, "@" + ctx.file.include.path, args],
        inputs = ctx.files.packages + ctx.files.files + [ctx.file._make, ctx.file.include],
        outputs = outputs.values(),
        # It mounts, and makes files of other users.
        execution_requirements = {"no-sandbox": "1"},
        use_default_shell_env = True,
        mnemonic = "DebianRoot",
        progress_message = "Installing Debian into %s" % outputs["image"].short_path,
    )
    return [
        DefaultInfo(
            files = depset(outputs.values()),
            runfiles = ctx.runfiles(files = outputs.values()),
        ),
        OutputGroupInfo(**{kind: depset([file]) for kind, file in outputs.items()}),
    ]

debian_root = rule(
    implementation = _debian_root_impl,
    attrs = {
        "packages": attr.label(mandatory = True, doc = ":packages of a debian_packages"),
        "include": attr.label(
            allow_single_file = True,
            mandatory = True,
            doc = ":include of the same: what is to be installed",
        ),
        "files": attr.label_keyed_string_dict(
            allow_files = True,
            doc = "file -> path in the image; files of the packages are replaced",
        ),
        "image_size": attr.string(default = "512M"),
        "_make": attr.label(default = "//bazel:make_debian_root.py", allow_single_file = True),
    },
)
