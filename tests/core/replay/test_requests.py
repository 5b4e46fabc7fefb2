"""What is known of a replay says whether anything may still change."""

from __future__ import annotations

import pytest

from rehydrate.core.replay.requests import REPLAY_STATES, Replay, ReplayTerms


@pytest.mark.parametrize("state", REPLAY_STATES)
def test_a_replay_has_ended_in_these_states_alone(state):
    replay = Replay("c", "x", "r", "ai:c", ReplayTerms(), state, 1, 0.0, "admin", 0, {})
    assert replay.ended == (state in {"done", "failed", "cancelled"})
