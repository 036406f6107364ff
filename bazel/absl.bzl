"""Repository rule: abseil, from Debian's -dev package or, instrumented, from its source.

    absl(name = "com_google_absl", system = "third_party/system/com_google_absl")

gives the packages of `system`, a folder of this tree, which link Debian's library. With
--repo_env=BULKHEAD_ABSL=source, as --config=tsan sets it, it gives those of abseil's own source,
which tools/fetch_absl_source puts below the user's ~/.cache: a folder that others could fill, as
one in /tmp, would let them choose what is linked and run.
"""

_SOURCE = ".cache/bulkhead/absl-source"  # as in tools/fetch_absl_source

def _absl_impl(ctx):
    environment = ctx.os.environ
    folder = ctx.path("%s/%s" % (ctx.path(Label("//:WORKSPACE")).dirname, ctx.attr.system))
    if environment.get("BULKHEAD_ABSL", "system") == "source":
        folder = ctx.path("%s/%s" % (environment["HOME"], _SOURCE))
        if not folder.get_child("WORKSPACE").exists:
            fail("%s: no source of abseil is there; run tools/fetch_absl_source" % folder)
    for entry in folder.readdir():
        ctx.symlink(entry, entry.basename)

absl = repository_rule(
    implementation = _absl_impl,
    attrs = {"system": attr.string(mandatory = True, doc = "folder in this workspace")},
    environ = ["BULKHEAD_ABSL", "HOME"],
    local = True,
)
