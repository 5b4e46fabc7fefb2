from __future__ import annotations

import pytest

from rehydrate.api.schemas import new_messages
from rehydrate.errors import BadParameter
from rehydrate.record.import_messages import NewMessage


def one(**fields):
    return {"messages": [{"id": "m", "role": "assistant", "text": "x", **fields}]}


def without_text(**fields):
    return {"messages": [{"id": "m", "role": "assistant", **fields}]}


def test_omitted_fields_are_none():
    assert new_messages({"messages": [{"id": "p", "role": "user", "text": ""}]}) == [
        NewMessage("p", "user", "completed", "")
    ]


def test_every_field_of_a_message_is_converted():
    parts = [
        {"type": "text", "text": "日本語 \0 🙂"},
        {"type": "reasoning", "text": "hm", "part": "1"},
        {
            "type": "tool_call",
            "tool_call_id": "t",
            "name": "add",
            "args": {"a": [1, None]},
            "result": 3,
            "status": "completed",
        },
        {
            "type": "tool_call",
            "tool_call_id": "v",
            "name": "add",
            "args": {},
            "result": {"error": "no"},
            "status": "failed",
        },
        {"type": "tool_call", "tool_call_id": "u", "status": "incomplete"},
    ]
    body = without_text(
        parts=parts,
        status="interrupted",
        prompt_id="p",
        usage={"tokens": 3},
        metadata={"model": {"name": "m"}},
        started_at="2026-01-31T12:00:00Z",
        finished_at="2026-01-31t14:00:00.250+02:00",
    )
    (message,) = new_messages(body)
    assert message.parts[:4] == parts[:4]
    assert (message.parts[4]["args"], message.parts[4]["status"]) == ("", "in_progress")
    assert message == NewMessage(
        "m", "assistant", "interrupted", None, message.parts, "p", {"tokens": 3},
        {"model": {"name": "m"}}, 1769860800000, 1769860800250,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (None, "body"),
        ([], "body"),
        ("x", "body"),
        ({}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [1]}, "messages[0]"),
        ({"messages": [{}]}, "messages[0].id"),
        (one(id=""), "messages[0].id"),
        (one(id=7), "messages[0].id"),
        (one(id="x" * 257), "messages[0].id"),
        (one(id="a\0"), "messages[0].id"),
        (one(role="system"), "messages[0].role"),
        (one(status="in_progress"), "messages[0].status"),
        (one(text=7), "messages[0].text"),
        (one(text=None), "messages[0]"),
        (one(parts=[{"type": "text", "text": "y"}]), "messages[0]"),
        (without_text(), "messages[0]"),
        (without_text(parts=[]), "messages[0].parts"),
        (without_text(parts=[{}]), "messages[0].parts[0]"),
        (without_text(parts=[{"type": "video"}]), "messages[0].parts[0]"),
        (without_text(parts=[{"type": "text"}]), "messages[0].parts[0].text"),
        (without_text(parts=[{"type": "text", "text": 1}]), "messages[0].parts[0].text"),
        (without_text(parts=[{"type": "refusal", "text": 1}]), "messages[0].parts[0].text"),
        (without_text(parts=[{"type": "tool_call"}]), "messages[0].parts[0].tool_call_id"),
        (one(prompt_id=""), "messages[0].prompt_id"),
        (one(usage=[]), "messages[0].usage"),
        (one(metadata="x"), "messages[0].metadata"),
        (one(promptId="p"), "messages[0].promptId"),
        (one(started_at="yesterday"), "messages[0].started_at"),
        (one(started_at="2026-01-31"), "messages[0].started_at"),
        (one(started_at="2026-01-31T12:00:00"), "messages[0].started_at"),
        (one(started_at="2026-02-31T12:00:00Z"), "messages[0].started_at"),
        (one(started_at="1969-12-31T23:59:59Z"), "messages[0].started_at"),
        (one(started_at="0001-01-01T00:00:00+14:00"), "messages[0].started_at"),
        (one(started_at=1769860800), "messages[0].started_at"),
        (
            one(started_at="2026-01-31T12:00:01Z", finished_at="2026-01-31T12:00:00Z"),
            "messages[0]",
        ),
        ({"messages": [*one()["messages"], *one()["messages"]]}, "messages"),
        ({"messages": [*one()["messages"], {"id": "n", "role": "u", "text": ""}]},
         "messages[1].role"),
        ({"messages": one()["messages"] * 1001}, "messages"),
        ({**one(), "extra": 1}, "extra"),
    ],
)  # fmt: skip
def test_a_fault_is_named_by_its_path(body, place):
    with pytest.raises(BadParameter) as error:
        new_messages(body)
    assert error.value.parameter == place
    assert place in str(error.value)


def test_errors_do_not_quote_the_text():
    with pytest.raises(BadParameter) as error:
        new_messages(one(role="nobody", text="a secret text", metadata="a secret"))
    assert "secret" not in str(error.value)


def test_many_faults_are_counted_rather_than_listed():
    with pytest.raises(BadParameter, match="and 7 more"):
        new_messages({"messages": [{"id": 1, "role": "user", "text": "x"}] * 10})


def test_a_thousand_messages_are_accepted():
    body = {"messages": [{"id": f"m{n}", "role": "user", "text": "x"} for n in range(1000)]}
    assert len(new_messages(body)) == 1000
