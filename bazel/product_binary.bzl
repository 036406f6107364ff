"""cc_binary for what is installed on a user's machine."""

load("@rules_cc//cc:defs.bzl", "cc_binary")

# An assembler file: an ELF note with the name "Bulkhead", type 1 and the bytes of the source. It is
# loaded, so that strip keeps it, and nothing refers to it: R keeps it from the linker's --gc-sections.
_POLICY_NOTE = """{
echo '.section .note.bulkhead, "aR", @note; .balign 4'
echo '.long 9, 2f - 1f, 1; .asciz "Bulkhead"; .balign 4'
echo '1:'; od -An -v -tu1 -w16 $< | sed 's/^ */.byte /; s/  */, /2g'
echo '2: .balign 4; .section .note.GNU-stack, "", @progbits'
} > $@"""

def product_binary(name, srcs = [], linkopts = [], sandbox_policy = None, **kwargs):
    """A fully static, position-independent program.

    It needs no file system to start, and its text is shared between processes. With
    --define=system_libs=dynamic (the sanitizers' runtimes cannot be linked statically) it is an
    ordinary program.

    Args:
      name: as of cc_binary
      srcs: as of cc_binary
      linkopts: as of cc_binary
      sandbox_policy: of a device: the text file with the system calls that it needs beside those of
        vmm/sandbox/common_policy.txt. The vmm reads it from the binary.
      **kwargs: passed to cc_binary
    """
    if sandbox_policy:
        note = name + "_policy_note.S"
        native.genrule(
            name = name + "_policy_note",
            srcs = [sandbox_policy],
            outs = [note],
            cmd = _POLICY_NOTE,
        )
        srcs = srcs + [note]
    cc_binary(
        name = name,
        srcs = srcs,
        linkopts = linkopts + select({
            "//bazel:static_libs": ["-static-pie"],
            "//conditions:default": [],
        }),
        **kwargs
    )
