"""A row of a benchmark's table: a figure, its target, and whether it was met."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One figure. ``target``: its maximum, or with ``least`` its minimum; None: no target."""

    what: str
    value: float
    unit: str = ""
    target: float | None = None
    least: bool = False

    @property
    def met(self):
        if self.target is None:
            return True
        return self.value >= self.target if self.least else self.value <= self.target


def show(rows):
    """Print *rows*; return the exit code: 1 if a target was missed."""
    for row in rows:
        aim = verdict = ""
        if row.target is not None:
            aim = f"{'>=' if row.least else '<='} {row.target:g}"
            verdict = "ok" if row.met else "MISSED"
        print(f"{row.what:<66}{row.value:>10.2f} {row.unit:<4} {aim:<10} {verdict}", flush=True)
    return int(not all(row.met for row in rows))
