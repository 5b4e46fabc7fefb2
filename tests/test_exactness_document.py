"""docs/exactness.md has a section for every interleaving, and names tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "exactness.md"
ITEMS = [
    *(str(number) for number in range(1, 14)),
    *(f"S{number}" for number in range(1, 25)),
    *(f"M{number}" for number in range(1, 12)),
]
TEST = re.compile(r"`(tests/[\w/]+\.py(?:::\w+)+)`")


def sections() -> dict[str, str]:
    """The text of each section, by its item number."""
    parts = re.split(r"^### (\w+)\. ", DOCUMENT.read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@cache
def node_ids(path: Path) -> frozenset[str]:
    """The node ids of a test file, without the file."""
    found = set[str]()
    for node in ast.parse(path.read_text()).body:
        functions = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        for function in functions:
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(prefix + function.name)
    return frozenset(found)


def test_every_interleaving_has_a_section_in_order() -> None:
    assert list(sections()) == ITEMS


@pytest.mark.parametrize("item", ITEMS)
def test_every_section_names_tests_that_exist(item: str) -> None:
    named = TEST.findall(sections()[item])
    assert named, f"section {item} names no test"
    for node_id in named:
        file, _, name = node_id.partition("::")
        assert (ROOT / file).is_file(), f"section {item}: {file} does not exist"
        assert name in node_ids(ROOT / file), f"section {item}: {node_id} does not exist"


def test_every_test_marked_with_an_item_is_named_in_its_section() -> None:
    missing = []
    for path in sorted((ROOT / "tests" / "exactness").glob("test_*.py")):
        for name in node_ids(path):
            marked = re.match(r"Test([SM]?\d+)[A-Z]\w*::test_", name)
            node_id = f"{path.relative_to(ROOT).as_posix()}::{name}"
            if marked and node_id not in sections()[marked[1]]:
                missing.append(node_id)
    assert not missing, "\n".join(missing)


def test_every_link_of_the_table_of_contents_leads_to_a_heading() -> None:
    text = DOCUMENT.read_text()
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    links = re.findall(r"\]\(#([\w-]+)\)", text)
    assert len(links) == len(ITEMS)
    assert set(links) <= anchors
