"""One self-contained HTML page of what benchmarks have measured (--json): plots and tables.

Lines lead through medians; a bar beside each goes from the least to the most.

Exit codes: 0 written, 2 bad usage, or files that cannot be read or written.
"""
import html
import math
import re
import statistics
import sys

from integration.bench import compare
from integration.bench.guest_ram import mib

HELP = "one page with plots, of files that benchmarks have written"

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 180, 12, 44
_COLORS = ("#1f6fb4", "#d1495b", "#2e8b57", "#8a5fbf", "#d98e04", "#5c6770", "#00a0a0", "#a0522d")
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em;
       color: #1c2126; background: #fff }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .15em .8em; border-bottom: 1px solid #dde2e6 }
th:first-child, td:first-child { text-align: left }
figure { margin: 1.5em 0 } figcaption { font-weight: 600 } svg { max-width: 100% }
small { color: #5c6770 }
"""


def ticks(least, most, log):
    """Round numbers between the two."""
    if log:
        decades = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
        steps = [factor * 10.0 ** e for e in decades
                 for factor in ((1, 2, 5) if len(decades) <= 4 else (1,))]
        return ([max(step for step in steps if step <= least)] +
                [step for step in steps if least < step < most] +
                [min(step for step in steps if step >= most)])
    step = 10.0 ** math.floor(math.log10((most - least) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (most - least) / (step * factor) <= 5)
    return [i * step for i in range(math.floor(least / step), math.ceil(most / step) + 1)]


def _text(x, y, text, anchor="middle", turned=False):
    return '<text x="%.1f" y="%.1f" text-anchor="%s"%s>%s</text>' % (
        x, y, anchor, ' transform="rotate(-90 %.1f %.1f)"' % (x, y) if turned else "",
        html.escape(str(text)))


def chart(title, x_name, y_name, series, log_x=False, log_y=False, x_labels=None):
    """A figure with one line for each of `series`: {name: [(x, y, least y, most y)]}.

    x_labels: {x: text} instead of round numbers. Points that a logarithm has not are left out.
    """
    def usable(point):
        return (not log_x or point[0] > 0) and (not log_y or min(point[1:]) > 0)
    series = {name: kept for name, points in series.items() if (kept := [*filter(usable, points)])}
    if not series:
        return ""
    xs = [p[0] for points in series.values() for p in points]
    ys = [y for points in series.values() for p in points for y in p[1:]]
    low_x, high_x = min(xs), max(xs)
    low_y, high_y = (min(ys) if log_y else 0.0), max(ys)
    if high_x == low_x:
        low_x, high_x = low_x * 0.9 if log_x else low_x - 1, high_x * 1.1 + 1
    if high_y <= low_y:
        high_y = low_y * 1.1 or 1.0
    y_ticks = ticks(low_y, high_y, log_y)
    low_y, high_y = min(low_y, y_ticks[0]), max(high_y, y_ticks[-1])
    x_ticks = [*x_labels] if x_labels else [t for t in ticks(low_x, high_x, log_x)
                                            if low_x <= t <= high_x]

    def scaler(low, high, begin, end, log):
        transform = math.log10 if log else float
        first, last = transform(low), transform(high)
        return lambda value: begin + (transform(value) - first) / (last - first) * (end - begin)
    place_x = scaler(low_x, high_x, _LEFT, _WIDTH - _RIGHT, log_x)
    place_y = scaler(low_y, high_y, _HEIGHT - _BOTTOM, _TOP, log_y)

    parts = ['<figure><figcaption>%s</figcaption><svg viewBox="0 0 %d %d" width="%d" '
             'font-size="12" role="img">' % (html.escape(title), _WIDTH, _HEIGHT, _WIDTH)]
    for tick in y_ticks:
        parts.append('<path d="M%d %.1fH%d" stroke="#dde2e6"/>' % (_LEFT, place_y(tick),
                                                                   _WIDTH - _RIGHT))
        parts.append(_text(_LEFT - 6, place_y(tick) + 4, "%g" % tick, "end"))
    for tick in x_ticks:
        parts.append(_text(place_x(tick), _HEIGHT - _BOTTOM + 16,
                           x_labels[tick] if x_labels else "%g" % tick))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, x_name))
    parts.append(_text(14, (_TOP + _HEIGHT - _BOTTOM) / 2, y_name, turned=True))
    for number, (name, points) in enumerate(series.items()):
        color = _COLORS[number % len(_COLORS)]
        places = [(place_x(x), place_y(y), place_y(a), place_y(b)) for x, y, a, b in points]
        parts.append('<path d="M%s" fill="none" stroke="%s" stroke-width="1.6"/>' % (
            "L".join("%.1f %.1f" % place[:2] for place in places), color))
        if len(places) <= 40:
            parts += ['<path d="M%.1f %.1fV%.1f" stroke="%s"/><circle cx="%.1f" cy="%.1f" r="3" '
                      'fill="%s"/>' % (x, a, b, color, x, y, color) for x, y, a, b in places]
        y = _TOP + 12 + 17 * number
        parts.append('<path d="M%d %dh14" stroke="%s" stroke-width="3"/>' % (
            _WIDTH - _RIGHT + 10, y - 4, color))
        parts.append(_text(_WIDTH - _RIGHT + 30, y, name, "start"))
    return "\n".join([*parts, "</svg></figure>"])


def _spread(values):
    return statistics.median(values), min(values), max(values)


def _distribution(title, x_name, samples_by_name):
    """Percent of the samples that are not above x."""
    series = {}
    for name, values in samples_by_name.items():
        ordered = sorted(values)
        series[name] = [(value, *[100.0 * (i + 1) / len(ordered)] * 3)
                        for i, value in enumerate(ordered)]
    return chart(title, x_name, "percent of all", series)


def _over(samples_by_number):
    return [(float(number), *_spread(values)) for number, values in samples_by_number.items()]


def _of_rounds(document, unit, x_name="percentile"):
    """One chart for each cell, of percentiles or other steps: a line for each machine."""
    rounds = document["rounds"]
    charts = []
    for cell, entry in next(iter(rounds[0].values())).items():
        names = list(entry)
        charts.append(chart(cell, x_name, unit, {
            machine: [(i, *_spread([each[machine][cell][name] for each in rounds]))
                      for i, name in enumerate(names)]
            for machine in rounds[0] if cell in rounds[0][machine]}, log_y=True,
                            x_labels={i: re.sub("_[um]s$", "", name).replace("_", " ")
                                      for i, name in enumerate(names)}))
    return charts


def _block(document):
    cells = {}
    for machine in document["rounds"][0]:
        for cell in document["rounds"][0][machine]:
            title, _, depth = cell.rpartition(" ")
            rates = [each[machine][cell]["rate"] / 1000 for each in document["rounds"]]
            cells.setdefault(title, {}).setdefault(machine, []).append((int(depth),
                                                                        *_spread(rates)))
    return [chart(title, "requests in flight", "thousand requests a second", series, log_x=True,
                  x_labels={point[0]: point[0] for point in next(iter(series.values()))})
            for title, series in cells.items()]


def _net(document):
    """One chart: a point for each cell."""
    rounds = document["rounds"]
    cells = list(rounds[0]["vmm"] if "vmm" in rounds[0] else next(iter(rounds[0].values())))
    return [chart("Frames of each cell", "cell", "thousand frames a second", {
        machine: [(i, *_spread([each[machine][cell]["rate"] / 1000 for each in rounds]))
                  for i, cell in enumerate(cells)] for machine in rounds[0]},
                  log_y=True, x_labels=dict(enumerate(cells)))]


def _recovery(document):
    charts = [_distribution("From kill(2) to the vmm's notice", "milliseconds",
                            document["detection_ms"]),
              _distribution("From kill(2) until another process serves", "milliseconds",
                            document["restart_ms"])]
    if "ram" in document:
        charts.append(_over_ram("From kill(2) until another process serves, by guest RAM that was used",
                                document["restart_ms"]))
    return charts


def _over_ram(title, samples_by_cell):
    series, labels = {}, {}
    for cell, values in samples_by_cell.items():
        ram, _, pages = cell.partition(", ")
        series.setdefault(pages, []).append((mib(ram), *_spread(values)))
        labels[mib(ram)] = ram
    return chart(title, "guest RAM", "milliseconds", series, log_x=True, x_labels=labels)


def _storm(document):
    times = document["first_completions_ms"]
    if not isinstance(times, dict):
        return _lists(document)
    return [_distribution("From kill(2) to the guest's next completion", "milliseconds", times),
            _over_ram("From kill(2) to the guest's next completion, by guest RAM", times)]


def _scale(document):
    idle = document["idle_cpu_percent"]
    charts = [chart("Start of vmm to the guest", "devices", "milliseconds",
                    {"start": _over(document["start_ms"])}),
              chart("CPU time of an idle VM", "devices", "percent of one CPU",
                    {kind: _over({number: percent[kind] for number, percent in idle.items()})
                     for kind in next(iter(idle.values()), ())})]
    rounds = document.get("rounds") or [{}]
    for figure, title, unit in (("rate", "Requests of all devices", "requests a second"),
                                ("least_share", "The device that gets the least", "share")):
        series = {}
        for machine, cells in rounds[0].items():
            for cell in cells:
                mode, devices, cpus = cell.split(", ")
                series.setdefault(", ".join((machine, mode, cpus)), []).append((
                    float(devices.split()[0]),
                    *_spread([each[machine][cell][figure] for each in rounds])))
        charts.append(chart(title, "devices", unit, series))
    return charts


def _channel(document):
    """Percentiles of each cell, and the throughput of those that have one."""
    rounds = document["rounds"]
    cells = rounds[0]["vmm"]
    charts = [chart(cell, "percentile", "microseconds", {
        machine: [(i, *_spread([each[machine][cell][name] for each in rounds]))
                  for i, name in enumerate(("p50_us", "p99_us"))]
        for machine in rounds[0] if cell in rounds[0][machine]},
                    log_y=True, x_labels={0: "p50", 1: "p99"}) for cell in cells]
    rates = [cell for cell in cells if "rate" in cells[cell]]
    return [*charts, chart("Accesses as fast as they go", "measurement", "million a second", {
        cell: [(i, *_spread([each["vmm"][cell]["rate"] / 1e6 for each in rounds]))]
        for i, cell in enumerate(rates)}, x_labels={i: i + 1 for i in range(len(rates))})]


def _lists(document):
    """The distributions of its lists of times."""
    return [_distribution("Distributions", "milliseconds", {
        name.removesuffix("_ms").replace("_", " "): values for name, values in document.items()
        if isinstance(values, list) and name.endswith("_ms")})]


_CHARTS = {"mmio": lambda document: _of_rounds(document, "cycles"),
           "doorbell": lambda document: _of_rounds(document, "microseconds"),
           "boot": lambda document: _of_rounds(document, "milliseconds", "step"),
           "channel": _channel, "block": _block, "net": _net, "recovery": _recovery, "storm": _storm,
           "scale": _scale}


def _table(document):
    rows = []
    for path, values in compare.samples(document).items():
        middle, least, most = (compare.percentile_interval(values, 50) or
                               _spread(values))
        rows.append("<tr><td>%s</td><td>%.4g</td><td>%.4g–%.4g</td><td>%d</td></tr>" % (
            html.escape(" ".join(path)), middle, least, most, len(values)))
    return ("<details><summary>All %d figures</summary><table><tr><th>figure</th><th>median</th>"
            "<th>its interval</th><th>samples</th></tr>%s</table></details>" % (
                len(rows), "".join(rows)))


def render(documents):
    """The page, from what benchmarks have written as JSON."""
    parts = ["<!DOCTYPE html>", '<html lang="en"><head><meta charset="utf-8">',
             "<title>Bulkhead: what was measured</title><style>%s</style></head><body>" % _STYLE,
             "<h1>Bulkhead: what was measured</h1>"]
    for document in documents:
        facts = document.get("machine", {})
        parts.append("<h2>%s</h2><p><small>%s</small></p>" % (
            html.escape(document["benchmark"]), html.escape(
                "%s, %s CPUs, Linux %s, load average %s, revision %s" % tuple(
                    facts.get(name) for name in ("cpu", "cpus", "kernel", "load_average",
                                                 "revision")))))
        parts += _CHARTS.get(document["benchmark"], _lists)(document)
        parts += ["<p>%s: %s</p>" % ("met" if aim["met"] else "<strong>missed</strong>",
                                     html.escape(aim["text"])) for aim in document.get("aims", [])]
        parts.append(_table(document))
    return "\n".join([*parts, "</body></html>", ""])


def write(path, documents):
    with open(path, "w", encoding="utf-8") as file:
        file.write(render(documents))


def add_arguments(parser):
    parser.add_argument("page", metavar="PAGE.html")
    parser.add_argument("files", metavar="FILE.json", nargs="+")


def run(args):
    """Returns the exit code."""
    try:
        write(args.page, [compare.read(path) for path in args.files])
    except (compare.Unusable, OSError) as error:
        print("bench: %s" % error, file=sys.stderr)
        return 2
    return 0
