"""Replays: their states and their wire form."""

from __future__ import annotations

import pytest

from rehydrate.core.replay.requests import REPLAY_STATES, Replay, ReplayTerms


@pytest.mark.parametrize("state", REPLAY_STATES)
def test_a_replay_has_ended_in_these_states_alone(state):
    replay = Replay("c", "x", "r", "ai:c", ReplayTerms(), state, 1, 0.0, "admin", 0, {})
    assert replay.ended == (state in {"done", "failed", "cancelled"})


def test_the_body_is_the_wire_form_of_a_replay():
    plan = {"even": True, "joined": 2, "gaps": [[1, 2]]}
    terms = ReplayTerms("repair", 2.0, "ai:c", 3, 5.0)
    body = Replay(
        "c", "x", "r", "ai:c", terms, "done", 4, 1.23456, "admin", 0, plan, finished_ms=1
    ).body()
    assert (body["mode"], body["speed"], body["from_seq"], body["max_rate"]) == (
        "repair",
        2.0,
        3,
        5,
    )
    assert (body["pace"], body["joined"], body["gaps"]) == ("even", 2, [[1, 2]])
    assert (body["seconds"], body["started_at"]) == (1.235, None)
    assert body["finished_at"] == "1970-01-01T00:00:00.001Z"
    plain = Replay("c", "x", "r", "ai:c", terms, "queued", 4, 1.0, "admin", 0, {}).body()
    assert (plain["pace"], plain["joined"], plain["gaps"]) == ("recorded", 0, [])
