"""The table in `docs/failures.md` has every row, and each row has its test."""

from __future__ import annotations

from pathlib import Path

import pytest

from failures.table import NUMBERS, TABLE

pytestmark = pytest.mark.skipif(TABLE.writing, reason="the table is being written")


def test_every_fault_has_its_row_in_order():
    assert list(TABLE.committed()) == NUMBERS
    assert TABLE.head in TABLE.page.read_text()


def test_every_row_has_its_test_whose_docstring_describes_the_fault():
    described = TABLE.described(Path(__file__).parent)
    assert {number: cells[1] for number, cells in TABLE.cells().items()} == described


def test_a_row_that_differs_is_refused_unless_only_the_measured_time_does():
    number, *cells = TABLE.cells()["F01"]
    TABLE.add(number, [*cells[:3], "9999 s", *cells[4:]])
    for column in (0, 1, 2, 4, 5, 6):
        changed = [*cells[:column], "other", *cells[column + 1 :]]
        with pytest.raises(AssertionError, match="make failures"):
            TABLE.add(number, changed)
