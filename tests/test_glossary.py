"""The vocabulary: one class a name, and every term of the core in the glossary."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from rehydrate.core.event import Event
from rehydrate.core.message import MessageState

ROOT = Path(__file__).parent.parent
SERVICE = ROOT / "service"
CORE = SERVICE / "rehydrate" / "core"
GLOSSARY = ROOT / "docs" / "glossary.md"


def parsed(folder: Path) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        yield path, ast.parse(path.read_text())


def constants(tree: ast.Module | ast.ClassDef) -> Iterator[str]:
    """Yield the public names that a module or a class assigns."""
    for node in tree.body:
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets = [node.target]
        for target in targets:
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            yield from (
                each.id
                for each in names
                if isinstance(each, ast.Name) and not each.id.startswith("_")
            )


def is_enum(node: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id == "Enum" for base in node.bases)


def terms_of_the_core() -> set[str]:
    """Return what a reader of the core meets: classes, constants, enum values, attributes."""
    terms = set(MessageState.__slots__) | set(Event._fields)
    for _, tree in parsed(CORE):
        terms |= set(constants(tree))
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                terms.add(node.name)
                terms |= set(constants(node)) if is_enum(node) else set()
    return terms


def entries() -> list[tuple[str, str]]:
    """Return the first and the last column of every row of the glossary: terms, and their file."""
    rows = [line.strip("|").split("|") for line in GLOSSARY.read_text().splitlines() if "|" in line]
    return [
        (row[0].strip(), row[-1].strip()) for row in rows if row[0].strip() not in ("term", "---")
    ]


def test_every_term_of_the_core_is_in_the_glossary() -> None:
    defined = {term for names, _ in entries() for term in re.findall(r"`(\w+)`", names)}
    assert not terms_of_the_core() - defined


def test_every_module_of_the_core_owns_a_term() -> None:
    owners = {re.sub(r"`", "", owner) for _, owner in entries()}
    modules = {
        path.relative_to(SERVICE / "rehydrate").as_posix()
        for path in CORE.rglob("*.py")
        if path.name != "__init__.py"
    }
    assert modules <= owners


def test_every_file_that_the_glossary_names_exists() -> None:
    owners = {owner.strip("`") for _, owner in entries()}
    assert not [owner for owner in owners if not (SERVICE / "rehydrate" / owner).exists()]


def test_no_term_is_defined_twice() -> None:
    names = [term.strip() for cell, _ in entries() for term in cell.split(",")]
    assert sorted(names) == sorted(set(names))


def test_no_public_class_name_is_defined_twice() -> None:
    where: dict[str, list[str]] = defaultdict(list)
    for path, tree in parsed(SERVICE):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where[node.name].append(path.relative_to(SERVICE).as_posix())
    assert not {name: files for name, files in where.items() if len(files) > 1}


def test_every_class_that_the_glossary_names_exists() -> None:
    named = {term for names, _ in entries() for term in re.findall(r"`([A-Z]\w*[a-z]\w*)`", names)}
    known = {
        node.id if isinstance(node, ast.Name) else node.name
        for _, tree in parsed(SERVICE)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        or (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
    }
    assert not named - known
