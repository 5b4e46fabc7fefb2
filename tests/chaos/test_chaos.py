"""A short version of `make chaos`: nearly each fault once, seven in a round, all at once."""

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

TOO_SLOW = {"publisher_sleeps", "sweepers_die"}
"""They take more than a lease; `tests/upkeep/test_sweeping.py` has one that wakes up too late."""


async def test_whatever_breaks_every_character_is_accounted_for(tmp_path):
    names = [name for name in FAULTS if name not in TOO_SLOW]
    asked = ("--each", "7", "--faults", ",".join(names), "--seed", "20", "--json")
    playing = await asyncio.create_subprocess_exec(
        sys.executable,  # a process of its own, which may have mounts of its own
        "-m",
        "chaos",
        *asked,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, errors = await playing.communicate()
    told = json.loads(said.splitlines()[-1]) if said else {}
    assert playing.returncode == 0, f"{told} {errors.decode()}"
    assert is_good(told)
    assert told["faults"].keys() | told["skipped"].keys() == set(names)
