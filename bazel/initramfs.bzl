"""initramfs: a cpio archive of files, links and kernel modules."""

def _initramfs_impl(ctx):
    output = ctx.actions.declare_file(ctx.label.name + ".cpio")
    args = ctx.actions.args()
    args.add("--output", output)
    inputs = []
    if ctx.file.base:
        args.add("--base", ctx.file.base)
        inputs.append(ctx.file.base)
    for target, path in ctx.attr.files.items():
        sources = target.files.to_list()
        if len(sources) != 1:
            fail("%s gives %d files for %s" % (target.label, len(sources), path))
        args.add("--file", "%s=%s" % (path, sources[0].path))
        inputs += sources
    for source in ctx.files.modules:
        args.add("--file", "/lib/modules/%s=%s" % (
            source.path.split("/lib/modules/", 1)[1],
            source.path,
        ))
        inputs.append(source)
    args.add_all(ctx.attr.folders, before_each = "--folder")
    for path, link_target in ctx.attr.links.items():
        args.add("--link", "%s=%s" % (path, link_target))
    args.use_param_file("@%s")
    args.set_param_file_format("multiline")
    ctx.actions.run(
        executable = "/usr/bin/python3",
        arguments = ["-B", ctx.file._make.path, args],
        inputs = inputs + [ctx.file._make],
        outputs = [output],
        mnemonic = "Initramfs",
        progress_message = "Writing %s" % output.short_path,
    )
    return [DefaultInfo(
        files = depset([output]),
        runfiles = ctx.runfiles(files = [output]),
    )]

initramfs = rule(
    implementation = _initramfs_impl,
    attrs = {
        "base": attr.label(
            allow_single_file = True,
            doc = "an initramfs to extend; what is given here replaces its files",
        ),
        "files": attr.label_keyed_string_dict(
            allow_files = True,
            # Not the target configuration: a guest has no sanitizer's shared libraries.
            cfg = "exec",
            doc = "file -> path in the archive; programs must be static",
        ),
        "folders": attr.string_list(doc = "empty folders: mount points"),
        "links": attr.string_dict(doc = "path -> target of a symbolic link"),
        "modules": attr.label_list(
            allow_files = True,
            doc = ":modules of a debian_kernel: go to their place in /lib/modules",
        ),
        "_make": attr.label(default = "//bazel:make_initramfs.py", allow_single_file = True),
    },
)
