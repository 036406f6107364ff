"""baremetal_program: an ELF that runs on the bare virtual machine, without any library.

Compiles by itself instead of through cc_binary, so that the options of the host's programs
(sanitizers, PIC, static-PIE, libstdc++) never reach code that runs on nothing.
"""

_COMPILER = "/usr/bin/g++"

_COMPILE_FLAGS = [
    "-c",
    "-std=c++20",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffreestanding",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-threadsafe-statics",  # no guard functions
    "-fno-asynchronous-unwind-tables",
    "-fno-stack-protector",
    "-fcf-protection=none",
    "-fno-pic",
    "-fno-pie",
    "-mcmodel=small",  # linked at 1 MiB
    "-mno-red-zone",  # interrupts at CPL0 use the stack below
    "-mgeneral-regs-only",  # no code sets up or saves SSE state
    "-ffunction-sections",
    "-fdata-sections",
    "-iquote",
    ".",
]

def _baremetal_program_impl(ctx):
    headers = depset(
        ctx.files.hdrs,
        transitive = [dep[CcInfo].compilation_context.headers for dep in ctx.attr.deps],
    )
    objects = []
    for source in ctx.files.srcs:
        name = "%s.objects/%s.o" % (ctx.label.name, source.short_path)
        object_file = ctx.actions.declare_file(name)
        ctx.actions.run(
            executable = _COMPILER,
            arguments = _COMPILE_FLAGS + [source.path, "-o", object_file.path],
            inputs = depset([source], transitive = [headers]),
            outputs = [object_file],
            env = {"PATH": "/usr/bin:/bin"},
            mnemonic = "BaremetalCompile",
            progress_message = "Compiling for bare metal %s" % source.short_path,
        )
        objects.append(object_file)

    program = ctx.actions.declare_file(ctx.label.name)
    ctx.actions.run(
        executable = _COMPILER,
        arguments = [
            "-nostdlib",
            "-static",
            "-no-pie",
            "-Wl,--gc-sections",
            "-Wl,--build-id=none",
            "-Wl,-z,noexecstack",
            "-Wl,-z,max-page-size=4096",
            "-Wl,--no-warn-rwx-segments",
            "-Wl,-T," + ctx.file.linker_script.path,
            "-o",
            program.path,
        ] + [f.path for f in objects],
        inputs = objects + [ctx.file.linker_script],
        outputs = [program],
        env = {"PATH": "/usr/bin:/bin"},
        mnemonic = "BaremetalLink",
        progress_message = "Linking for bare metal %{label}",
    )
    return [DefaultInfo(files = depset([program]), runfiles = ctx.runfiles([program]))]

baremetal_program = rule(
    implementation = _baremetal_program_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = [".cc", ".S"]),
        "hdrs": attr.label_list(allow_files = [".h"]),
        "deps": attr.label_list(
            providers = [CcInfo],
            doc = "cc_librarys of headers only: constants that the guest shares with a device",
        ),
        "linker_script": attr.label(allow_single_file = [".ld"], mandatory = True),
    },
)
