"""Tables and progress for terminals."""
import sys


def render(headings, rows):
    """Lines of a table: the first column to the left, the others to the right."""
    widths = [max(len(str(row[i])) for row in [headings, *rows]) for i in range(len(headings))]

    def line(row):
        first = str(row[0]).ljust(widths[0])
        return "  ".join([first] + [str(c).rjust(w) for c, w in zip(row[1:], widths[1:])]).rstrip()

    return [line(headings), "  ".join("-" * w for w in widths)] + [line(row) for row in rows]


def progress(text):
    """Shows `text` in place of the last one, on a terminal only; "": no more."""
    if sys.stdout.isatty():
        print("\r\033[K" + text, end="", flush=True)
