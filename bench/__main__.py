"""Run the benchmarks: `python -m bench` all of them, `python -m bench NAME …` one, `--list` lists them.

Each benchmark is a file of this folder with a `main(argv) -> int`; the first line of its docstring
says what it measures. Results are ratios within one run. Benchmarks are not tests.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent


def programs() -> dict[str, str]:
    """Return the name of every benchmark and the first line of its docstring."""
    found = {}
    for path in sorted(HERE.glob("[!_]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def run(name: str, argv: list[str]) -> int:
    """Run one benchmark, print its duration, and return its exit code."""
    sys.stderr.write(f"-- {name}\n")
    began = time.perf_counter()
    code = int(importlib.import_module(f"bench.{name}").main(argv) or 0)
    sys.stderr.write(f"-- {name}: exit {code} after {time.perf_counter() - began:.1f} s\n")
    return code


def main(argv: list[str]) -> int:
    """Return 0 if every benchmark returned 0."""
    known = programs()
    parser = argparse.ArgumentParser(prog="bench", description="What is fast, side by side.")
    parser.add_argument("--list", action="store_true", help="list the benchmarks and exit")
    parser.add_argument("name", nargs="?", help="the benchmark to run (default: all)")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="arguments of that benchmark")
    asked = parser.parse_args(argv)
    if asked.list:
        for name, what in known.items():
            sys.stdout.write(f"{name:16} {what}\n")
        return 0
    if asked.name is not None and asked.name not in known:
        parser.error(f"no program {asked.name!r}; there are: {', '.join(known) or 'none yet'}")
    if asked.name is not None:
        return run(asked.name, asked.rest)
    return max((run(name, []) for name in known), default=0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
