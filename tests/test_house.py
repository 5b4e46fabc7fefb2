"""The house keeps its own rules: arrows, mirrored tests, sizes, names, reasons, locks."""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from rehydrate.core.message import MessageState

ROOT = Path(__file__).parent.parent
SERVICE = ROOT / "service"
SOURCE = SERVICE / "rehydrate"
TESTS = ROOT / "tests"
LINES_MAX = 500
FUNCTION_LINES_MAX = 45
PORT_METHODS_MAX = 6
ADAPTERS = ("ably", "api", "embedded", "postgres", "providers")
FACADE = (
    "asgi", "cli", "composition", "database", "demo", "history", "model_methods", "__main__",
)  # fmt: skip

# Modules without a test file of their own name: which tests use them, and why that is enough.
TESTED_ELSEWHERE: dict[str, str] = {
    "api/inspection_schemas": "api/test_inspection",  # the bodies of those routes
    "composition": "test_history",  # History is what it composes
    "embedded/cluster": "embedded/test_postgres",  # those tests inspect its folder
    "embedded/guard": "embedded/test_postgres",  # runs as a process of its own
    "maintenance/inspector": "api/test_inspection",  # delegates to a tested use case
    "model_methods": "providers/test_model_runs",  # a method of History for each API
    "ports/channel": "contracts/test_channel_log",  # the contract its adapter is held to
    "postgres/row_changes": "postgres/test_message_rows",  # a change is what is read back
    "ports/store": "contracts/test_store",  # as above
}


def modules() -> list[Path]:
    return sorted(p for p in SERVICE.rglob("*.py") if p.name != "__init__.py")


def python_files() -> list[Path]:
    folders = (ROOT / name for name in ("service", "tests", "bench", "examples", "migrations"))
    return sorted(p for f in folders for p in f.rglob("*.py") if "node_modules" not in p.parts)


def tracked_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [p for name in listed.stdout.split("\0") if name and (p := ROOT / name).is_file()]


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every absolute module name that a file imports, and the line."""
    package = path.relative_to(SERVICE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def test_the_import_contracts_hold() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_core_imports_the_standard_library_and_nothing_else() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in (SOURCE / "core").rglob("*.py")
        for name, line in imported(path)
        if name.split(".")[0] not in sys.stdlib_module_names
        and not re.match(r"rehydrate\.(core|errors)\b", name)
    ]
    assert not wrong


def test_the_core_never_waits() -> None:
    waiting = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (SOURCE / "core").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, waiting)
    ]
    assert not wrong


# Assignments to an attribute that only shares its name with one of `MessageState`.
NOT_A_MESSAGE_STATE = {
    ("publish/respond.py", "self._writer.metadata"),  # of a response writer
    ("postgres/url.py", "setattr(context, end, _tls_version(tls[key], key))"),  # of a TLS context
}


def assigned(node: ast.AST) -> Iterator[ast.Attribute]:
    """Yield the attributes that a statement assigns, deletes, or assigns an item of."""
    stack: list[ast.expr] = []
    if isinstance(node, ast.Assign | ast.Delete):
        stack = list(node.targets)
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        stack = [node.target]
    while stack:
        target = stack.pop()
        if isinstance(target, ast.Tuple | ast.List):
            stack += target.elts
        elif isinstance(target, ast.Starred | ast.Subscript):
            stack.append(target.value)
        elif isinstance(target, ast.Attribute):
            yield target


def test_only_the_core_assigns_attributes_of_a_message_state() -> None:
    names = set(MessageState.__slots__)
    wrong = []
    for path in SOURCE.rglob("*.py"):
        here = path.relative_to(SOURCE)
        if here.parts[0] == "core":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            found = [
                ast.unparse(target)
                for target in assigned(node)
                if target.attr in names
                and not (isinstance(target.value, ast.Name) and target.value.id == "self")
            ]
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                found += [ast.unparse(node)] if node.func.id in ("setattr", "delattr") else []
            wrong += [
                f"{here}:{each}" for each in found if (str(here), each) not in NOT_A_MESSAGE_STATE
            ]
    assert not wrong, f"use the methods of MessageState instead: {wrong}"


def test_events_are_not_taken_apart_by_position() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("event", "base", "token", "stop", "start")
        and isinstance(node.slice, ast.Slice)
    ]
    assert not wrong, f"use the names of the fields, or Event.at_same_place: {wrong}"


def test_rooms_are_named_by_the_wiring_alone() -> None:
    wrong = []
    for path in SOURCE.rglob("*.py"):
        here = path.relative_to(SOURCE).with_suffix("").parts[0]
        for name, line in imported(path):
            room = name.removeprefix("rehydrate.").split(".")[0]
            if name.startswith("rehydrate.") and room in ADAPTERS and here not in (room, *FACADE):
                wrong.append(f"{path.relative_to(ROOT)}:{line} {name}")
    assert not wrong


def test_the_local_channel_server_imports_nothing_of_the_rest() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in (SERVICE / "localably").rglob("*.py")
        for name, line in imported(path)
        if name.startswith("rehydrate") and not name.startswith("localably")
    ]
    assert not wrong


def test_tests_mirror_the_source() -> None:
    missing, stale = [], []
    for path in modules():
        module = path.relative_to(SERVICE).with_suffix("")
        if module.parts[0] == "rehydrate":
            module = module.relative_to("rehydrate")
        if path.name == "__main__.py":  # hands over to a function that has its test
            continue
        own = TESTS / module.parent / f"test_{module.name}.py"
        other = TESTED_ELSEWHERE.get(str(module))
        if other and own.exists():
            stale.append(str(module))
        if not own.exists() and not (other and (TESTS / f"{other}.py").exists()):
            missing.append(str(module))
    gone = [name for name in TESTED_ELSEWHERE if not (SOURCE / f"{name}.py").exists()]
    assert not missing, f"no tests/<path>/test_<name>.py for: {', '.join(missing)}"
    assert not stale, f"have a test of their own by now: {', '.join(stale)}"
    assert not gone, f"are no modules any more: {', '.join(gone)}"


def test_files_stay_small() -> None:
    sizes = {p: len(p.read_text().splitlines()) for p in python_files()}
    wrong = [f"{p.relative_to(ROOT)}: {n} lines" for p, n in sizes.items() if n > LINES_MAX]
    assert not wrong


def test_functions_stay_small() -> None:
    wrong = []
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[1:] if ast.get_docstring(node) else node.body
                begin = first[0].lineno if first else node.lineno
                signature = node.body[0].lineno - node.lineno
                lines = (node.end_lineno or 0) - begin + 1 + signature
                if lines > FUNCTION_LINES_MAX:
                    wrong.append(
                        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {lines} lines"
                    )
    assert not wrong


def test_files_are_named_for_what_they_hold() -> None:
    empty_names = {"utils", "util", "helpers", "helper", "common", "manager", "misc"}
    wrong = [p for p in python_files() if p.stem.removeprefix("test_") in empty_names]
    assert not wrong


def test_every_exception_from_a_rule_has_its_reason() -> None:
    wrong = []
    silenced = re.compile(r"#\s*(noqa|type:\s*ignore)(?P<codes>[^-—#]*)(?P<reason>.*)")
    for path in python_files():
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
            match = silenced.search(token.string) if token.type == tokenize.COMMENT else None
            if match and (not match["codes"].strip(" :") or len(match["reason"].strip(" -—#")) < 4):
                wrong.append(f"{path.relative_to(ROOT)}:{token.start[0]} {token.string}")
    assert not wrong, "\n".join(wrong)


def test_every_rule_left_out_for_all_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    ruff = text[text.index("[tool.ruff.lint]") : text.index("[tool.ruff.lint.isort]")]
    codes = re.findall(r'^\s+"[A-Z]+\d*",?(.*)$', ruff, re.MULTILINE)
    assert len(codes) > 10
    assert all(re.match(r"\s*# \S+ \S+", rest) for rest in codes)
    for override in tomllib.loads(text)["tool"]["mypy"].get("overrides", []):
        assert override.get("ignore_missing_imports"), "strictness is loosened nowhere else"


def test_locks_pin_by_hash_and_hold_no_address() -> None:
    locks = [ROOT / "requirements" / f"{name}.txt" for name in ("build", "run", "dev", "mutants")]
    locks += [p for p in tracked_files() if p.name == "package-lock.json"]
    for lock in locks:
        text = lock.read_text()
        if lock.suffix == ".json":  # whom to fund is no address to download from
            packages = json.loads(text)["packages"].values()
            text = json.dumps([package | {"funding": None} for package in packages])
        assert "://" not in text, lock
        assert str(ROOT) not in text
        if lock.suffix == ".txt":
            pins = re.findall(r"^[A-Za-z][^\s=]*==\S+ \\$", text, re.MULTILINE)
            assert pins
            assert len(pins) == len(re.findall(r"^\S", text, re.MULTILINE))
            assert len(re.findall("--hash=sha256:", text)) >= len(pins)


def test_the_locks_hold_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for lock, asked in (
        ("run", [*project["dependencies"], *extras["embedded"]]),
        ("dev", [*project["dependencies"], *extras["dev"]]),
    ):
        text = (ROOT / "requirements" / f"{lock}.txt").read_text()
        pinned = {
            p.lower().replace("_", "-") for p in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)
        }
        names = {re.split(r"[\[<>=!~; ]", a)[0].lower().replace("_", "-") for a in asked}
        assert names - {"rehydrate"} <= pinned


def test_every_target_that_others_call_is_listed_by_make() -> None:
    listed = subprocess.run(
        ["make"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    targets = {line.split()[1] for line in listed.stdout.splitlines()}
    assert {"demo", "test", "test-quick", "check", "bench"} <= targets


def test_the_papers_are_there() -> None:
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", ".ci/run"):
        assert (ROOT / name).stat().st_size > 100, name
    records = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert len(records) >= 5
    for record in records:
        text = record.read_text()
        assert len(text.splitlines()) <= 60, record.name
        for section in ("Status", "Context", "Decision", "Consequences"):
            assert re.search(rf"^(## |\*\*){section}", text, re.MULTILINE), (record.name, section)


def test_no_name_of_a_machine_is_committed() -> None:
    homes = re.compile(r"/(?:home|Users)/[a-z]\w+/|/root/\w")
    wrong = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in tracked_files()
        if path.suffix in (".py", ".md", ".toml", ".txt", ".json", ".js", ".html", "")
        and (found := homes.search(path.read_text(errors="replace")))
        and path != Path(__file__)
    ]
    assert not wrong


def test_a_port_has_few_methods() -> None:
    """A protocol that keeps growing is split by its users: each needs only a part of it."""
    wide = []
    for path in sorted((SOURCE / "ports").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            bases = node.bases if isinstance(node, ast.ClassDef) else []
            if not any(isinstance(base, ast.Name) and base.id == "Protocol" for base in bases):
                continue
            own = [n for n in node.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
            if len(own) > PORT_METHODS_MAX:
                wide.append(f"{node.name} has {len(own)}")
    assert not wide, f"ports of more than {PORT_METHODS_MAX} methods: {', '.join(wide)}"
