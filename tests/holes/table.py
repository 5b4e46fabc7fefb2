"""The table of `docs/holes.md`: a row for each hole, written by its test."""

from __future__ import annotations

import os
import re
from pathlib import Path

PAPER = Path(__file__).parents[2] / "docs" / "holes.md"
NUMBERS = [*(f"H{n:02}" for n in range(1, 28)), *(f"S{letter}" for letter in "abcdefghi")]
WRITING = os.environ.get("HOLES") == "write"
_LONGEST = 40
HEAD = "| # | hole | recipe | the recipe shows | rehydrate shows |"


def cell(shown):
    """Return what a reader shows as the text of a cell."""
    return "; ".join(_message(each) for each in shown).replace("|", "\\|") or "nothing"


def _message(shown):
    text = shown.text.strip()
    if len(text) > _LONGEST:
        words = text.split(" ")
        text = " ".join([*words[:3], "…", *words[-2:]])
    lacking = ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in shown.gaps)
    words = [shown.id, f"`{text}`" if text else "(empty)", shown.status]
    return " ".join([*words, f"without event {lacking}"] if lacking else words)


class Table:
    """The rows of the tests that ran, and the committed rows."""

    def __init__(self):
        self.made = {}
        self.committed = committed()

    def add(self, number, cells):
        """Add the row of a test; assert that it equals the committed one, unless rows are written."""
        line = "| " + " | ".join([number, *cells]) + " |"
        self.made[number] = line
        if not WRITING:
            assert self.committed.get(number) == line, "docs/holes.md is outdated: make holes"

    def write(self):
        rows = {**self.committed, **self.made}
        before, _, rest = PAPER.read_text().partition(HEAD)
        after = rest.partition("\n\n")[2]
        lines = [HEAD, "|---|---|---|---|---|", *(rows[n] for n in NUMBERS if n in rows)]
        PAPER.write_text(before + "\n".join(lines) + "\n\n" + after)


def committed():
    """Return the committed rows, by number."""
    rows = {}
    for line in PAPER.read_text().splitlines():
        if matched := re.match(r"\| ([HS]\w\w?) \|", line):
            rows[matched[1]] = line
    return rows
