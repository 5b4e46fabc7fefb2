"""The table in `docs/holes.md` has every row, and each row has its test."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from holes.table import HEAD, NUMBERS, PAPER, WRITING, committed

pytestmark = pytest.mark.skipif(WRITING, reason="the table is being written")


def rows():
    return {number: re.split(r"(?<!\\)\|", line)[1:-1] for number, line in committed().items()}


def test_every_hole_has_its_row_in_order():
    assert len(NUMBERS) == 36
    assert list(committed()) == NUMBERS
    assert HEAD in PAPER.read_text()


def test_every_row_has_its_test_whose_docstring_describes_the_hole():
    found = {}
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.AsyncFunctionDef):
                matched = re.match(r"test_([hs])(\d\d|[a-i])_", node.name)
                if matched:
                    hole = " ".join(ast.get_docstring(node).split()).removesuffix(".")
                    found[matched[1].upper() + matched[2]] = hole
    assert {number: cells[1].strip() for number, cells in rows().items()} == found


def test_no_recipe_shows_the_same_as_rehydrate():
    for number, cells in rows().items():
        assert len(cells) == 5, number
        assert cells[3] != cells[4], number
