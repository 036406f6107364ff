"""cc_binary for what is installed on a user's machine."""

load("@rules_cc//cc:defs.bzl", "cc_binary")

def product_binary(name, linkopts = [], **kwargs):
    """A fully static, position-independent program.

    It needs no file system to start, and its text is shared between processes. With
    --define=system_libs=dynamic (the sanitizers' runtimes cannot be linked statically) it is an
    ordinary program.

    Args:
      name: as of cc_binary
      linkopts: as of cc_binary
      **kwargs: passed to cc_binary
    """
    cc_binary(
        name = name,
        linkopts = linkopts + select({
            "//bazel:static_libs": ["-static-pie"],
            "//conditions:default": [],
        }),
        **kwargs
    )
