"""What moved between two files that the same benchmark has written (--json), beyond the noise.

A figure has moved if the confidence intervals of its two medians (of its two 99th percentiles, where
there are enough samples) do not overlap: 93.75 % each, from the samples in the files, whatever
their distribution; of figures that stay as they are, fewer than 1 in 100 seem to move. Five samples
are the least that say anything. Where peers were measured in the same rounds, what is compared is
vmm's ratio to each of them within a round, so that a slower computer changes nothing.
Other drift between two runs no file can tell: run both again before you believe a small change.

Exit codes: 0 nothing got worse, 1 something did, 2 bad usage, or files that cannot be compared.
"""
import json
import math
import statistics
import sys

from integration.bench import table

HELP = "what moved between two files of the same benchmark, beyond the noise"

_OURS = "vmm"
_TAIL = 1 / 32  # on each side of an interval: just what the least and the most of five samples are
_ROUNDING = 1e-9
_NOT_FIGURES = ("benchmark", "machine", "summary", "aims", "rounds")
_SKIPPED = ("min", "p90", "max")  # of distributions: p50 and p99 tell more
_MORE_IS_BETTER = ("rate", "gbit", "bytes_a_second", "least_share")
_LESS_IS_BETTER = ("_ms", "_us", "p50", "p99", "percent", "per_second", "_mib", "kicks",
                   "interrupts", "handler_share")


class Unusable(Exception):
    """Files that cannot be compared; the message is for the user."""


def add_arguments(parser):
    parser.add_argument("old", metavar="OLD.json")
    parser.add_argument("new", metavar="NEW.json")
    parser.add_argument("--least", type=float, default=2.0, metavar="PERCENT",
                        help="a smaller change is not shown (default: %(default)s)")
    parser.add_argument("--all", action="store_true", help="show what has not moved, too")


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _leaves(value, path=()):
    """(path, value) of each number and each list of numbers below `value`."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _leaves(part, (*path, name))
    elif _is_number(value) or (isinstance(value, list) and value and all(map(_is_number, value))):
        yield path, value


def samples(document):
    """{(word, ...): [values]}: each figure of a benchmark of which there is more than one sample."""
    found = {}
    for path, value in _leaves({name: part for name, part in document.items()
                                if name not in _NOT_FIGURES}):
        if isinstance(value, list):
            found[path] = value
    rounds = [{path: value for path, value in _leaves(each)
               if path[-1].removesuffix("_us") not in _SKIPPED}
              for each in document.get("rounds", [])]
    for path in rounds[0] if rounds else ():
        values = [each[path] for each in rounds if path in each]
        machine, *cell = path
        peers = [name for name, cells in document["rounds"][0].items()
                 if name != machine and cell[0] in cells]
        if not peers:
            found[path] = values
        for peer in peers if machine == _OURS else ():
            others = [each.get((peer, *cell), 0) for each in rounds]
            if len(values) == len(others) and all(others):
                found["/ " + peer, *cell] = [a / b for a, b in zip(values, others)]
    return found


def percentile_interval(values, percent):
    """(the percentile, least, most) that it has with 93.75 % confidence; None: too few values."""
    ordered = sorted(values)
    count, share = len(ordered), percent / 100
    below, first, last = 0.0, 0, count  # below: the chance that fewer than k lie below it
    for k in range(count + 1):
        if below <= _TAIL + _ROUNDING:
            first = k
        below += math.exp(math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) +
                          k * math.log(share) + (count - k) * math.log(1 - share))
        if 1 - below <= _TAIL + _ROUNDING:
            last = k
            break
    if first == 0 or last == count:
        return None
    middle = (statistics.median(ordered) if percent == 50 else
              ordered[max(0, -(-count * percent // 100) - 1)])
    return middle, ordered[first - 1], ordered[last]


def _sense(path):
    """1: more is better; -1: less is better; 0: neither."""
    for word in reversed(path):
        if word in _MORE_IS_BETTER:
            return 1
        if word.endswith(_LESS_IS_BETTER):
            return -1
    return 0


def compare(old, new, least_percent=0.0):
    """[(figure, old, new, verdict)], old and new as of percentile_interval().

    verdict: "better", "worse", "moved" or "" (within the noise, or less than `least_percent`).
    """
    before, after = samples(old), samples(new)
    rows = []
    for path in before:
        for percent in (50, 99) if path in after else ():
            a = percentile_interval(before[path], percent)
            b = percentile_interval(after[path], percent)
            if a is None or b is None:
                continue
            verdict = ""
            change = b[0] - a[0]
            if (a[2] < b[1] or b[2] < a[1]) and abs(change) >= abs(a[0]) * least_percent / 100:
                verdict = {0: "moved", 1: "better", -1: "worse"}[
                    _sense(path) * (1 if change > 0 else -1)]
            name = " ".join(path) + ("" if percent == 50 else ", 99th percentile")
            rows.append((name, a, b, verdict))
    return rows


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
    except (OSError, ValueError) as error:
        raise Unusable("%s: %s" % (path, error)) from error
    if not isinstance(document, dict) or "benchmark" not in document:
        raise Unusable("%s: not a file that tools/bench BENCHMARK --json has written" % path)
    return document


def _circumstances(document):
    """What should be the same in both files."""
    machine = document.get("machine", {})
    options = {**document, **document.get("options", {})}
    return {**{"machine's " + name: machine.get(name) for name in ("cpu", "cpus", "kernel")},
            **{name: value for name, value in options.items()
               if name not in ("tsc_khz", "json", "html") and isinstance(value, (int, float, str))}}


def _number(value):
    return "%.4g" % value if abs(value) < 1000 else "%.0f" % value


def _colored(line, verdict):
    color = {"worse": "31", "better": "32"}.get(verdict)
    return "\033[%sm%s\033[0m" % (color, line) if color and sys.stdout.isatty() else line


def run(args):
    """Returns the exit code."""
    try:
        old, new = read(args.old), read(args.new)
        if old["benchmark"] != new["benchmark"]:
            raise Unusable("%s is of %s, %s of %s" % (args.old, old["benchmark"], args.new,
                                                      new["benchmark"]))
        rows = compare(old, new, args.least)
        if not rows:
            raise Unusable("%s, %s: no figure has five samples in both" % (args.old, args.new))
    except Unusable as error:
        print("bench: %s" % error, file=sys.stderr)
        return 2
    print("%s: %s -> %s" % (old["benchmark"], old.get("machine", {}).get("revision"),
                            new.get("machine", {}).get("revision")))
    there, here = _circumstances(old), _circumstances(new)
    for name in there:
        if name in here and there[name] != here[name]:
            print("not the same: %s: %s -> %s" % (name, there[name], here[name]))
    shown = [row for row in rows if row[3] or args.all]
    if shown:
        lines = table.render(
            ["figure", "old", "new", "change", "noise, old", "noise, new", ""],
            [[name, _number(a[0]), _number(b[0]),
              "%+.1f %%" % ((b[0] / a[0] - 1) * 100) if a[0] else "-",
              *("%s-%s" % (_number(each[1]), _number(each[2])) for each in (a, b)), verdict]
             for name, a, b, verdict in shown])
        print("\n".join(["", *lines[:2], *map(_colored, lines[2:], [row[3] for row in shown]), ""]))
    count = {verdict: sum(row[3] == verdict for row in rows)
             for verdict in ("worse", "better", "moved")}
    print("%d figures: %d worse, %d better, %d moved, the others within the noise or less than "
          "%g %%" % (len(rows), *count.values(), args.least))
    return 1 if count["worse"] else 0
