"""The table in `docs/holes.md` has every row, and each row has its test."""

from __future__ import annotations

from pathlib import Path

import pytest

from holes.table import NUMBERS, TABLE

pytestmark = pytest.mark.skipif(TABLE.writing, reason="the table is being written")


def test_every_hole_has_its_row_in_order():
    assert len(NUMBERS) == 36
    assert list(TABLE.committed()) == NUMBERS
    assert TABLE.head in TABLE.page.read_text()


def test_every_row_has_its_test_whose_docstring_describes_the_hole():
    described = TABLE.described(Path(__file__).parent)
    assert {number: cells[1] for number, cells in TABLE.cells().items()} == described


def test_no_recipe_shows_the_same_as_rehydrate():
    for number, cells in TABLE.cells().items():
        assert len(cells) == 5, number
        assert cells[3] != cells[4], number
