"""The aims of a benchmark: each has a "text", and whether it is "met"."""


def conclude(args, figures, aims):
    """Prints the aims. Returns the exit code (3: one is missed, with --check) and all figures."""
    for aim in aims:
        print("%s: %s" % ("met   " if aim["met"] else "MISSED", aim["text"]))
    missed = not all(aim["met"] for aim in aims)
    return (3 if args.check and missed else 0), {**figures, "aims": aims}
