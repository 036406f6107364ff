"""Rates of machines that took turns: medians and spreads of rounds, and their ratios."""
import statistics


def _spread(values):
    values = list(values)
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def summarize(rounds, totals=()):
    """{machine: {cell: {field: spread over the rounds, "over": {machine: spread of ratios}}}}.

    Of the fields in `totals` the sum instead."""
    return {name: {cell: {
        **{field: _spread(r[name][cell][field] for r in rounds) for field in figures},
        **{field: sum(r[name][cell][field] for r in rounds) for field in totals},
        "over": {other: _spread(r[name][cell]["rate"] / r[other][cell]["rate"] for r in rounds)
                 for other in rounds[0]},
    } for cell, figures in rounds[0][name].items()} for name in rounds[0]}


def columns(spread, form, unit):
    """For a table: the median, and the least and the most."""
    return [form % (spread["median"] / unit),
            (form + "-" + form) % (spread["least"] / unit, spread["most"] / unit)]
