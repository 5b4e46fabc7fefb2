"""The request body of a replay, and the documented responses."""

from __future__ import annotations

import pytest

from core.builders import folded, start, stop, token
from rehydrate.api.replay_schemas import (
    AuditOut,
    DryRunOut,
    ReplayOut,
    audit_body,
    dry_run_body,
    replay_asked,
)
from rehydrate.core.replay.schedule import AuditEntry, Replay, ReplayTerms, scheduled
from rehydrate.errors import BadParameter
from rehydrate.replay.admin import CheckedRequest

TERMS = ReplayTerms("stream", 2.0, "ai:c", 0, 25.0)


def test_an_empty_body_is_a_stream_at_the_original_pace():
    assert replay_asked({}).terms() == ReplayTerms()
    assert not replay_asked({}).dry_run


def test_every_field_is_converted():
    body = {"mode": "repair", "speed": 0, "channel": "x", "from_seq": 2, "max_rate": 5}
    assert replay_asked({**body, "dry_run": True}).terms() == ReplayTerms("repair", 0, "x", 2, 5)


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"speed": -1}, "speed"),
        ({"speed": 1001}, "speed"),
        ({"speed": "2"}, "speed"),
        ({"speed": float("nan")}, "speed"),
        ({"speed": True}, "speed"),
        ({"mode": "loop"}, "mode"),
        ({"from_seq": -1}, "from_seq"),
        ({"from_seq": 1.5}, "from_seq"),
        ({"max_rate": 0}, "max_rate"),
        ({"max_rate": -5}, "max_rate"),
        ({"channel": 5}, "channel"),
        ({"channel": "x" * 3000}, "channel"),
        ({"dry_run": "yes"}, "dry_run"),
        ({"sped": 2}, "sped"),
        ([], "body"),
        (None, "body"),
    ],
)
def test_an_invalid_field_is_named(body, parameter):
    with pytest.raises(BadParameter) as caught:
        replay_asked(body)
    assert caught.value.parameter == parameter


def test_bodies_match_the_documented_schema():
    plan = {"joined": 1, "even": True, "gaps": [[2, 2]]}
    replay = Replay("c", "x", "r", "ai:c", TERMS, "queued", 5, 1.23456, "admin:1", 1, plan)
    body = replay.body()
    assert ReplayOut.model_validate(body).model_dump(mode="json") == body
    assert (body["pace"], body["joined"], body["gaps"]) == ("even", 1, [[2, 2]])
    assert {"replay_id", "state", "chunks", "done", "seconds", "channel"} <= body.keys()
    entry = audit_body(AuditEntry("admin:1", "replay", "done", id=3, at_ms=5))
    assert AuditOut.model_validate(entry).model_dump() == entry
    assert entry["conversation_id"] is None


def test_a_dry_run_lists_the_schedule():
    schedule = scheduled(folded(start(), token(1, "secret"), stop(2)), TERMS)
    for asked in (
        CheckedRequest("c", "r", "ai:c", TERMS, schedule),
        CheckedRequest("c", "r", "ai:c", TERMS, None),
    ):
        body = dry_run_body(asked)
        assert DryRunOut.model_validate(body).model_dump() == body
        assert "secret" not in str(body)
    assert [
        step["kind"]
        for step in dry_run_body(CheckedRequest("c", "r", "ai:c", TERMS, schedule))["schedule"]
    ] == ["start", "token", "stop"]
