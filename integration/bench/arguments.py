"""What command lines of several benchmarks have in common."""
import argparse


def positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("%r is no positive number" % text)
    return int(text)


def names_of(targets):
    """A parser of "NAME,NAME", which gives those of `targets`."""
    known = {target.name: target for target in targets}

    def parse(names):
        for name in names.split(","):
            if name not in known:
                raise argparse.ArgumentTypeError("there is no %r" % name)
        return [known[name] for name in names.split(",")]

    return parse
