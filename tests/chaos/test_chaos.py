"""A short version of `make chaos`, with each fault at least once."""

from __future__ import annotations

import random

import pytest

from chaos.__main__ import is_good, report
from chaos.rounds import FAULTS, play
from chaos.world import running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.mark.parametrize("keeps_channels", [True, False])
async def test_whatever_is_killed_every_character_is_accounted_for(keeps_channels):
    chance = random.Random(20 + keeps_channels)
    halves = [list(FAULTS)[::2], list(FAULTS)[1::2]]
    async with running(keeps_channels=keeps_channels) as world:
        rounds = [
            await play(world, number, chance, faults=[name])
            for number, name in enumerate(halves[keeps_channels])
        ]
    told = report(rounds)
    assert is_good(told), told
