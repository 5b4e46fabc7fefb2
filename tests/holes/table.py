"""The table of `docs/holes.md`: a row for each hole, written by its test."""

from __future__ import annotations

from pathlib import Path

from generated_table import GeneratedTable

NUMBERS = [*(f"H{n:02}" for n in range(1, 28)), *(f"S{letter}" for letter in "abcdefghi")]
TABLE = GeneratedTable(
    Path(__file__).parents[2] / "docs" / "holes.md",
    "| # | hole | recipe | the recipe shows | rehydrate shows |",
    NUMBERS,
    target="holes",
)
_LONGEST = 40


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
