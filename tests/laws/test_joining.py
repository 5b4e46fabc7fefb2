"""Laws 2 to 4: a reader in any of the three ways is exact, for all events on the channel."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from laws.readers import judge
from laws.worlds import worlds

FEATURES = {
    "plain": {},
    "plain, attach first": {"way": 1},
    "plain, until": {"way": 2},
    "plain, rest first": {"way": 3},
    "three responses": {"responses": 3, "prompts": True, "batch": True},
    "everything with seq": {
        "twice": True, "late": True, "refuse": True, "repair": "before", "batch": True,
        "prompts": True, "lagging": True,
    },
    "everything with seq, repair after, final row": {
        "refuse": True, "late": True, "repair": "after", "batch": True, "prompts": True,
        "lagging": True, "finals": True,
    },
    "taken over, lagging": {"gen": True, "prompts": True, "lagging": True},
    "taken over": {"gen": True, "responses": 1},
    "prompts, attach first": {"prompts": True, "way": 1},
    "prompts, until": {"prompts": True, "way": 2},
    "prompts, rest first": {"prompts": True, "way": 3},
    "no seq, attach first": {"seq": False, "way": 1},
    "no seq, until": {"seq": False, "way": 2},
    "no seq, rest first": {"seq": False, "way": 3},
    "no seq, no serial, attach first": {"seq": False, "serials": False, "way": 1},
    "batches, until": {"batch": True, "way": 2, "record": False},
    "batches without seq, until": {"batch": True, "seq": False, "way": 2, "most_lag_ms": 0},
    "late token": {"late": True},
    "stop overtakes": {"stop_first": True, "responses": 1},
    "refused, repair before stop": {"refuse": True, "repair": "before"},
    "refused, repair after stop": {"refuse": True, "repair": "after"},
    "refused, repair in the middle": {"refuse": True, "repair": "mid"},
    "no seq, repaired, twice": {"seq": False, "refuse": True, "repair": "before", "twice": True},
    "published twice": {"twice": True},
    "published twice, no seq": {"twice": True, "seq": False, "way": 1},
    "published twice soon, no seq": {"twice": True, "seq": False, "way": 1, "pace_ms": 100},
    "replay": {"replay": True},
    "stop of a sweeper that knew less": {"short_stop": True, "way": 1},
    "final row": {"finals": True, "refuse": True, "responses": 1},
    "final row, repair after": {
        "finals": True, "refuse": True, "repair": "after", "responses": 1,
    },
    "lagging regions": {"lagging": True, "way": 1},
    "lagging responses, no seq": {"lagging": "response", "seq": False},
    "lagging regions, prompts, until": {"lagging": "response", "prompts": True, "way": 2},
    "rewind cut, attach first": {"rewind_cap": 3, "way": 1},
    "rewind cut, rest first": {"rewind_cap": 3, "way": 3, "prompts": True},
    "no stop": {"stop": False},
    "no start": {"start": False},
    "nameless": {"anonymous": True, "responses": 3, "most_lag_ms": 1000},
    "nameless, no seq": {"anonymous": True, "seq": False, "way": 1},
    "short retention": {"retention_ms": 6_000, "way": 1},
    "short retention, no seq": {"retention_ms": 6_000, "way": 1, "seq": False},
    "short retention, no seq, no start": {"retention_ms": 6_000, "seq": False, "start": False},
    "asleep before the attach": {
        "retention_ms": 20_000, "recorded": True, "way": 3, "most_delay_s": 60,
    },
    "asleep before the attach, no seq": {
        "retention_ms": 20_000, "recorded": True, "way": 3, "most_delay_s": 60, "seq": False,
    },
    "appends": {"appends": True},
    "appends, rolled up": {"appends": True, "rollup": True, "responses": 3},
    "appends, rolled up, lagging": {"appends": True, "rollup": True, "lagging": True, "way": 1},
    "appends, until": {"appends": True, "rollup": True, "way": 2},
    "appends, rest first": {"appends": True, "rollup": True, "way": 3},
    "appends of two channel messages": {"appends": True, "cells": 2, "rollup": True},
    "appends, done by metadata": {"appends": True, "done": True, "rollup": True},
    "appends, the end overtakes": {"appends": True, "stop_first": True, "rollup": True},
    "appends and tokens": {"appends": "mixed", "rollup": True, "responses": 3, "prompts": True},
    "appends, slowly": {"appends": True, "rollup": True, "pace_ms": 4000, "way": 1},
    "several parts": {"parts": True, "prompts": True, "lagging": True},
    "several parts, no seq": {"parts": True, "seq": False, "way": 1},
    "several parts, repaired": {"parts": True, "refuse": True, "repair": "before"},
    "fast": {"pace_ms": 20, "responses": 3, "prompts": True, "batch": True},
    "fast, late, twice": {"pace_ms": 20, "responses": 3, "late": True, "twice": True},
}  # fmt: skip


@pytest.mark.parametrize("name", FEATURES)
def test_a_reader_is_exact(name):
    @settings(
        max_examples=150,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def search(data):
        world, joiner = data.draw(worlds(**FEATURES[name]))
        assert judge(world, joiner) == []

    search()
