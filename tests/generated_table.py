"""A table of a document that tests write: each adds its row, and fails if the committed one differs."""

from __future__ import annotations

import ast
import os
import re

_CELLS = re.compile(r"(?<!\\)\|")


class GeneratedTable:
    """The rows of the tests that ran, and the committed rows.

    Args:
        page: the document.
        head: the line with the names of the columns.
        numbers: the numbers of the rows, the first column, in order.
        target: the make target that writes the rows; it sets the variable of its name to ``write``.
        measured: the columns that are not compared, because they differ in each run.

    Attributes:
        writing: whether rows are written instead of compared.
    """

    def __init__(self, page, head, numbers, *, target, measured=()):
        self.page, self.head, self.numbers = page, head, numbers
        self.writing = os.environ.get(target.upper()) == "write"
        self._target = target
        self._measured = measured
        self._made = {}

    def committed(self):
        """Return the committed rows, by number."""
        found = {}
        for line in self.page.read_text().splitlines():
            number = line.removeprefix("| ").partition(" |")[0]
            if number in self.numbers:
                found[number] = line
        return found

    def cells(self):
        """Return the cells of the committed rows, by number."""
        rows = self.committed().items()
        return {
            number: [each.strip() for each in _CELLS.split(line)[1:-1]] for number, line in rows
        }

    def add(self, number, cells):
        """Add the row of a test; assert that it equals the committed one, unless rows are written."""
        self._made[number] = "| " + " | ".join([number, *cells]) + " |"
        if not self.writing:
            made, committed = [number, *cells], self.cells().get(number, [])
            for column in self._measured:
                made[column : column + 1] = committed[column : column + 1]
            assert made == committed, f"docs/{self.page.name} is outdated: make {self._target}"

    def described(self, folder):
        """Return the docstrings of the tests `test_<number>_…` in *folder*, by number."""
        found = {}
        for path in folder.glob("test_*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.AsyncFunctionDef) and node.name.startswith("test_"):
                    number = node.name.split("_")[1]
                    number = number[:1].upper() + number[1:]
                    if number in self.numbers:
                        found[number] = one_line(ast.get_docstring(node))
        return found

    def write(self):
        """Write the rows that were made, and keep the others."""
        rows = {**self.committed(), **self._made}
        before, _, rest = self.page.read_text().partition(self.head)
        after = rest.partition("\n\n")[2]
        rule = "|" + "---|" * (self.head.count("|") - 1)
        lines = [self.head, rule, *(rows[n] for n in self.numbers if n in rows)]
        self.page.write_text(before + "\n".join(lines) + "\n\n" + after)


def one_line(docstring):
    """Return a docstring as the text of a cell."""
    return " ".join(docstring.split()).removesuffix(".")
