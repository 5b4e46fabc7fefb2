"""Mutation testing: change the code in small ways, and see whether a test notices.

``make mutants ARGS="--module core/window --sample 40 --seed 1"``. cosmic-ray makes the mutants in a
copy of the checkout. Each runs against the module's mirrored tests, then against its folder's. The
result is a score per module and a list of the survivors; those that cannot change behaviour are
named in ``equivalent.txt`` with the reason and do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SOURCE = Path("service/rehydrate")
FOLDERS = ("core", "hydrate", "follow", "record", "publish")
EQUIVALENT = Path(__file__).with_name("equivalent.txt")
COSMIC_RAY = ROOT / "build/mutants/bin/cosmic-ray"
TIMEOUT_S = 900
"""Of all tests of one mutant: pytest ends a single test that hangs much earlier."""
ANNOTATIONS = "core/ReplaceBinaryOperator_BitOr_"
"""`X | None` in an annotation is never evaluated, so a mutant of it cannot change anything."""
UNNOTICEABLE = re.compile(r"^@(lru_)?cache\b|^[A-Z_]+ = [\d_.*]+$|^\*,$")
"""A cache's size, a named limit (only a test that repeats the number could notice), or a keyword-only
argument, which type checkers enforce."""


class Survivor(NamedTuple):
    """A mutant that no test noticed: the module, and the line before and after."""

    module: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.module}: {self.before} -> {self.after}"


def main(argv=None):
    """Run the mutants that were asked for; return 1 if one survived that is not equivalent."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__.split("\n\n")[0])
    parser.add_argument("--module", action="append", help="core/window; all modules by default")
    parser.add_argument("--sample", type=int, default=10, help="mutants a module; 0 runs all (10)")
    parser.add_argument("--seed", type=int, default=1, help="which mutants the sample takes (1)")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args(argv)
    if not COSMIC_RAY.exists():
        print(f"{COSMIC_RAY} is missing: run make mutants", file=sys.stderr)
        return 2
    modules = options.module or all_modules()
    unknown = [name for name in modules if not (ROOT / SOURCE / f"{name}.py").is_file()]
    if unknown:
        print(f"no such module below {SOURCE}: {', '.join(unknown)}", file=sys.stderr)
        return 2
    accepted = {line.split(" | ")[0] for line in equivalent_lines()}
    killed = total = 0
    excused, left = 0, []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy(Path(folder))
        for name in modules:
            began_s = time.monotonic()
            found, count = run(Path(folder), name, options.sample, options.seed)
            survivors = [each for each in found if not is_equivalent(each, accepted)]
            excused += len(found) - len(survivors)
            count -= len(found) - len(survivors)
            killed += count - len(survivors)
            total += count
            left += survivors
            took_s = time.monotonic() - began_s
            print(f"{name:<36}{count - len(survivors):>5} of {count:<5}{took_s:6.0f} s", flush=True)
            for each in survivors:
                print(f"survived: {each}", flush=True)
    score = 100 * killed / total if total else 100.0
    print(f"score: {killed} of {total} mutants killed, {score:.1f} %; equivalent: {excused}")
    if options.json:
        print(json.dumps({"killed": killed, "total": total, "survived": [str(s) for s in left]}))
    return int(bool(left))


def is_equivalent(found, accepted):
    """Whether a survivor cannot change behaviour, or changes only a cache or a named limit."""
    return str(found) in accepted or bool(UNNOTICEABLE.match(found.before))


def all_modules():
    """Every module of the folders, by path below `service/rehydrate`."""
    source = ROOT / SOURCE
    found = (p for folder in FOLDERS for p in sorted((source / folder).rglob("*.py")))
    return [p.relative_to(source).with_suffix("").as_posix() for p in found if p.stem != "__init__"]


def equivalent_lines():
    """The survivors that cannot change behaviour: `module: before -> after | reason`."""
    lines = EQUIVALENT.read_text().splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def copy(folder):
    """Copy the checkout to *folder*: mutants never touch the work tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def test_command(module):
    """Return the command that tests a mutant: first the module's own tests, then its folder's.

    They are two runs, because most mutants fail in the first, which collects little.
    """
    path = Path("tests") / module
    own = [p.relative_to(ROOT) for p in sorted((ROOT / path.parent).glob(f"test_{path.name}*.py"))]
    pytest = f"{sys.executable} -m pytest -q -x -n0 -p no:cacheprovider"
    folder = " ".join([f"{pytest} {path.parent}", *(f"--ignore={p}" for p in own)])
    if not own:
        return folder
    return f"sh -c '{pytest} {' '.join(map(str, own))} && {folder}'"


def run(folder, module, sample, seed):
    """Run mutants of *module*; return those that survived, and how many ran."""
    config = folder / "cosmic-ray.toml"
    config.write_text(
        "[cosmic-ray]\n"
        f'module-path = "{SOURCE / module}.py"\n'
        f"timeout = {TIMEOUT_S}.0\nexcluded-modules = []\n"
        f'test-command = "{test_command(module)}"\n'
        '[cosmic-ray.distributor]\nname = "local"\n'
    )
    session = folder / "session.sqlite"
    session.unlink(missing_ok=True)
    path = os.pathsep.join([str(folder / "service"), str(folder / "tests")])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    environment["HYPOTHESIS_STORAGE_DIRECTORY"] = str(folder / ".hypothesis")
    call(folder, environment, "init", config, session)
    choose(session, sample, seed)
    call(folder, environment, "exec", config, session)
    dumped = call(folder, environment, "dump", session).splitlines()
    results = [json.loads(line) for line in dumped]
    ran = [(item, result) for item, result in results if result is not None]
    survivors = [
        survivor(module, result["diff"])
        for _, result in ran
        if result["test_outcome"] == "survived"
    ]
    return survivors, len(ran)


def call(folder, environment, *arguments):
    """Call cosmic-ray; return what it prints."""
    done = subprocess.run(
        [COSMIC_RAY, *map(str, arguments)],
        cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=4 * 3600,
    )  # fmt: skip
    return done.stdout


def choose(session, sample, seed):
    """Leave *sample* mutants in the session, chosen by *seed*; none that only change annotations."""
    with sqlite3.connect(session) as database:
        rows = database.execute("SELECT job_id, operator_name FROM mutation_specs").fetchall()
        jobs = sorted(job for job, operator in rows if not operator.startswith(ANNOTATIONS))
        if sample and len(jobs) > sample:
            jobs = random.Random(seed).sample(jobs, sample)
        keep = set(jobs)
        gone = [(job,) for job, _ in rows if job not in keep]
        database.executemany("DELETE FROM mutation_specs WHERE job_id = ?", gone)
        database.executemany("DELETE FROM work_items WHERE job_id = ?", gone)


def survivor(module, diff):
    """Describe a mutant by its changed lines."""
    before = re.findall(r"^-(?!--)\s*(.*)$", diff, re.MULTILINE)
    after = re.findall(r"^\+(?!\+\+)\s*(.*)$", diff, re.MULTILINE)
    return Survivor(module, " ".join(before).strip(), " ".join(after).strip())


if __name__ == "__main__":
    sys.exit(main())
