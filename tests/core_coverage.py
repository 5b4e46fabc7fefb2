"""Branch coverage of the core: each module has to be covered by its own mirrored test alone.

``python tests/core_coverage.py`` runs ``tests/core`` once, in one process. Coverage records for
every line and branch which test file executed it, so that ``core/fold.py`` is judged by
``tests/core/test_fold.py``, ``test_fold_*.py`` and by what runs when the modules are imported.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "service" / "rehydrate" / "core"
TESTS = ROOT / "tests" / "core"


class Contexts:
    """Reports to coverage which test file is being imported or run."""

    def __init__(self, measured: coverage.Coverage) -> None:
        self._measured = measured

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Iterator[None]:
        if isinstance(collector, pytest.Module):
            self._measured.switch_context(context_of(collector.path))
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._measured.switch_context(context_of(item.path))
        return (yield)


def context_of(test: Path) -> str:
    return test.relative_to(TESTS).as_posix()


def modules() -> list[Path]:
    return sorted(path for path in CORE.rglob("*.py") if path.name != "__init__.py")


def missing(measured: coverage.Coverage, module: Path) -> str:
    """Return which lines and branches of *module* its own test leaves out; empty: none."""
    own = module.relative_to(CORE)
    test = (own.parent / f"test_{own.stem}").as_posix()
    measured.get_data().set_query_contexts(["^$", rf"^{re.escape(test)}(_\w+)?\.py$"])
    *_, lines, formatted = measured.analysis2(str(module))
    branches = [
        line
        for line, (ways, taken) in measured.branch_stats(str(module)).items()
        if taken < ways and line not in lines
    ]
    found = [f"lines {formatted}"] if lines else []
    found += [f"branches of lines {', '.join(map(str, branches))}"] if branches else []
    return "; ".join(found)


def main() -> int:
    """Run the tests of the core and print what they leave out."""
    measured = coverage.Coverage(branch=True, source=[str(CORE)], data_file=None)
    measured.start()
    for path in modules():
        name = ".".join(path.relative_to(ROOT / "service").with_suffix("").parts)
        importlib.import_module(name)
    options = ["-q", "-p", "no:xdist", "-p", "no:cacheprovider", str(TESTS), *sys.argv[1:]]
    failed = pytest.main(options, plugins=[Contexts(measured)])
    measured.stop()
    left_out = {path: found for path in modules() if (found := missing(measured, path))}
    for path, found in left_out.items():
        print(f"{path.relative_to(ROOT)}: {found}")
    if not left_out and not failed:
        print(f"{len(modules())} modules of the core: each branch is covered by its own test")
    return 1 if failed or left_out else 0


if __name__ == "__main__":
    sys.exit(main())
