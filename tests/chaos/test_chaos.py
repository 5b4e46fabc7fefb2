"""A short `make chaos`: almost every fault once, seven in a round, both worlds at the same time."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import pytest

from chaos.__main__ import is_good
from chaos.faults import FAULTS
from chaos.processes import TESTS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TOO_SLOW = {"publisher_sleeps", "sweepers_die", "postgres_stalls"}
"""They take more than a lease; `tests/exactness/test_sweeps.py` has a publisher that wakes up late, and
`tests/journeys/test_stalled_store.py` a Postgres that hangs."""


async def test_every_character_is_accounted_for_despite_all_faults(tmp_path):
    names = [name for name in FAULTS if name not in TOO_SLOW]
    options = ("--each", "7", "--faults", ",".join(names), "--seed", "20", "--json")
    playing = await asyncio.create_subprocess_exec(
        sys.executable,  # a process of its own, which can have private mounts
        "-m",
        "chaos",
        *options,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await playing.communicate()
    report = json.loads(output.splitlines()[-1]) if output else {}
    assert playing.returncode == 0, f"{report} {errors.decode()}"
    assert is_good(report)
    assert report["faults"].keys() | report["skipped"].keys() == set(names)
