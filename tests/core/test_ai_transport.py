"""The AI Transport SDK's wire format: runs, steps, parts and their headers."""

from __future__ import annotations

import json

import pytest

from core.builders import BEGAN_MS
from core.growing import at
from rehydrate.core import wire
from rehydrate.core.codecs import decode, decode_all
from rehydrate.core.event import APPEND, CREATE, UPDATE, ChannelMessage
from rehydrate.core.text.versioned_messages import AppendChains
from rehydrate.core.timeline import Timeline


def published(
    name, at_s, data="", *, codec=None, action=CREATE, version_s=None, user=False, **transport
):
    """A message as the SDK publishes it, of run ``R``; its headers are written with dashes."""
    headers = {key.replace("_", "-"): value for key, value in transport.items()}
    if name != "ai-input":
        headers.setdefault("run-id", "R")
    ai = {"transport": headers} | ({"codec": codec} if codec else {})
    return ChannelMessage(
        name,
        data,
        f"m{version_s or at_s}",
        at(at_s),
        BEGAN_MS + at_s * 1000,
        "user" if user else "agent",
        {"ai": ai},
        action,
        at(at_s if version_s is None else version_s),
    )


def output(at_s, kind, data="", **more):
    codec = {"kind": kind, **more.pop("codec", {})}
    more = {"stream": "false", "step_id": "s", "step_start_serial": at(2)} | more
    return published("ai-output", at_s, data, codec=codec, **more)


def streamed(at_s, kind, data="", status="streaming", **more):
    return output(at_s, kind, data, stream="true", status=status, stream_id="0", **more)


def grown(at_s, version_s, kind, data, status="complete", **more):
    more = {"action": UPDATE, "version_s": version_s} | more
    return streamed(at_s, kind, data, status, **more)


def prompt(at_s, text, *, part="text", id_="P"):
    codec = {"kind": "user-message", "messageId": "u", "partType": part}
    return published(
        "ai-input", at_s, text, codec=codec, user=True, role="user", codec_message_id=id_
    )


START = published("ai-run-start", 1, None, input_codec_message_id="P")
STEP = published("ai-step-start", 2, None, step_id="s")


def end(at_s, reason="complete", **more):
    return published("ai-run-end", at_s, None, run_reason=reason, **more)


def messages_of(*messages):
    timeline = Timeline()
    timeline.fold(decode_all(messages))
    return {state.id: wire.message(state) for state in timeline.ordered}


def parts(*messages):
    return messages_of(START, STEP, *messages)["R"]["parts"]


def test_a_run_is_a_response_to_the_input_that_it_names():
    run = messages_of(prompt(0, "why?"), START, STEP, grown(3, 5, "text", "so"), end(6))
    assert [(m["id"], m["role"], m["text"], m["status"]) for m in run.values()] == [
        ("P", "user", "why?", "completed"),
        ("R", "assistant", "so", "completed"),
    ]
    assert run["R"]["prompt_id"] == "P"
    assert run["R"]["exact"]


@pytest.mark.parametrize(
    ("reason", "status"),
    [("complete", "completed"), ("cancelled", "cancelled"), ("x", "completed")],
)
def test_a_run_ends_for_a_reason(reason, status):
    assert messages_of(START, end(3, reason))["R"]["status"] == status


def test_a_failed_run_has_its_error():
    failed = end(3, "error", error_code="104009", error_message="no model")
    run = messages_of(START, failed)["R"]
    assert (run["status"], run["error"]) == ("failed", {"code": "104009", "message": "no model"})


def test_a_suspended_run_stays_open_and_goes_on_after_it_was_resumed():
    suspended = [published("ai-run-suspend", 4, None), published("ai-run-resume", 5, None)]
    run = messages_of(START, STEP, grown(3, 3, "text", "a"), *suspended, grown(6, 7, "text", "b"))[
        "R"
    ]
    assert (run["status"], run["text"]) == ("in_progress", "ab")


@pytest.mark.parametrize(
    ("kind", "type_"),
    [
        ("text", "text"),
        ("output_text", "text"),
        ("reasoning", "reasoning"),
        ("reasoning_text", "reasoning"),
        ("reasoning_summary_text", "reasoning"),
        ("refusal", "refusal"),
    ],
)
def test_text_of_either_codec_is_a_part(kind, type_):
    (part,) = parts(grown(3, 4, kind, "said"))
    assert (part["type"], part["text"]) == (type_, "said")
    assert part["through"]["version"] == at(4)


def test_only_a_message_that_still_streams_may_grow():
    versions = [decode(m).version for m in (streamed(3, "text"), grown(3, 4, "text", "a"))]
    assert [version.is_last for version in versions] == [False, True]
    assert decode(grown(3, 4, "text", "a", status="cancelled")).version.is_last
    assert decode(output(3, "tool-output-available", codec={"toolCallId": "t"})).version.is_last


def test_a_streamed_tool_call_of_the_vercel_codec():
    call = {"toolCallId": "t", "toolName": "add"}
    result = output(6, "tool-output-available", {"output": [2]}, codec={"toolCallId": "t"})
    (part,) = parts(grown(3, 4, "tool-input", '{"a":1}', codec=call), result)
    assert (part["tool_call_id"], part["name"], part["args"]) == ("t", "add", '{"a":1}')
    assert (part["result"], part["status"]) == ([2], "completed")


def test_a_tool_call_that_is_published_whole():
    call = {"toolCallId": "t", "toolName": "add"}
    (part,) = parts(output(3, "tool-input", {"a": 1}, codec=call))
    assert (part["args"], part["status"]) == ({"a": 1}, "in_progress")


@pytest.mark.parametrize(
    ("kind", "data", "result"),
    [
        ("tool-output-error", {"errorText": "no"}, {"error": "no"}),
        ("tool-input-error", {"errorText": "bad", "input": 1}, {"error": "bad"}),
        ("tool-output-denied", "", {"error": "denied"}),
    ],
)
def test_a_failed_tool_has_its_error(kind, data, result):
    call = output(3, "tool-input", {}, codec={"toolCallId": "t", "toolName": "add"})
    (part,) = parts(call, output(4, kind, data, codec={"toolCallId": "t"}))
    assert (part["result"], part["status"]) == (result, "failed")


def test_a_preliminary_output_is_not_an_event():
    early = {"toolCallId": "t", "preliminary": "true"}
    assert decode(output(3, "tool-output-available", {"output": 1}, codec=early)).kind == "void"


def test_a_function_call_of_the_openai_codec():
    item = json.dumps({"type": "function_call", "id": "fc", "call_id": "c", "name": "add"})
    call = grown(3, 4, "function_call_arguments", '{"a":1}', codec={"item": item})
    result = output(5, "function_call_output", {"item": {"call_id": "c", "output": "2"}})
    (part,) = parts(call, result)
    assert (part["tool_call_id"], part["name"]) == ("c", "add")
    assert (part["args"], part["result"]) == ('{"a":1}', "2")


def test_a_result_of_a_client_counts_if_agent_and_client_share_a_client_id():
    call = output(3, "tool-input", {}, codec={"toolCallId": "t", "toolName": "ask"})
    given = {"kind": "tool-result", "toolCallId": "t"}
    mine = published("ai-input", 4, {"output": "yes"}, codec=given, run_id="R")
    assert parts(call, mine)[0]["result"] == "yes"
    others = published("ai-input", 4, {"output": "yes"}, codec=given, run_id="R", user=True)
    assert parts(call, others)[0]["result"] is None


def given_by_the_user(at_s):
    """A user's result of the call ``t``, published under the user's own clientId."""
    given = {"kind": "tool-result", "toolCallId": "t"}
    return published("ai-input", at_s, {"output": "yes"}, codec=given, run_id="R", user=True)


def test_a_result_of_a_client_does_not_take_over_a_run_whose_start_is_not_seen():
    run = messages_of(given_by_the_user(2), grown(3, 5, "text", "so"), end(6))["R"]
    assert (run["text"], run["client_id"], run["status"]) == ("so", "agent", "completed")
    assert messages_of(given_by_the_user(2)) == {}


def test_a_result_of_a_client_is_shown_once_the_agent_publishes_it_too():
    call = output(3, "tool-input", {}, codec={"toolCallId": "t", "toolName": "ask"})
    agents = output(5, "tool-output-available", {"output": "yes"}, codec={"toolCallId": "t"})
    assert parts(call, given_by_the_user(4))[0]["result"] is None
    (part,) = parts(call, given_by_the_user(4), agents)
    assert (part["result"], part["result_through"]["serial"]) == ("yes", at(5))


@pytest.mark.parametrize("data", [{"output": float("nan")}, {"output": "yes"}])
def test_a_result_of_a_client_that_names_no_call_or_no_value_is_not_an_event(data):
    codec = {"kind": "tool-result"} | ({} if data["output"] == "yes" else {"toolCallId": "t"})
    assert decode(published("ai-input", 4, data, codec=codec, run_id="R", user=True)) is None


def test_a_run_that_was_superseded_ends():
    given = {"kind": "tool-result", "toolCallId": "t"}
    fork = published("ai-input", 4, {"output": "yes"}, codec=given, supersedes="R")
    assert messages_of(START, fork)["R"]["status"] == "incomplete"


def test_of_several_attempts_at_a_step_only_the_latest_is_shown():
    again = published("ai-step-start", 5, None, step_id="s")
    second = grown(6, 7, "text", "right", step_start_serial=at(5))
    late = grown(3, 9, "text", "wrong and more")
    assert [part["text"] for part in parts(grown(3, 4, "text", "wrong"), again)] == []
    found = parts(grown(3, 4, "text", "wrong"), again, second, late)
    assert [part["text"] for part in found] == ["right"]


def test_an_attempt_without_its_beginning_is_recognised_by_its_outputs():
    second = output(6, "start-step", step_start_serial=at(5))
    assert parts(grown(3, 4, "text", "wrong"), second) == []


def test_a_run_without_its_start_is_not_exact():
    run = messages_of(grown(3, 4, "text", "the tail"))["R"]
    assert not run["exact"]
    assert messages_of(grown(3, 4, "text", "all of it"), START)["R"]["exact"]


def test_a_prompt_of_several_parts_is_one_message():
    found = messages_of(
        prompt(0, "look: "), prompt(1, "http://x/y.png", part="file"), prompt(2, "nice")
    )
    assert found["P"]["text"] == "look: nice"
    assert messages_of(prompt(0, "hi", part="input_text"))["P"]["text"] == "hi"


def test_appends_are_known_by_their_envelope_where_the_name_is_not_echoed():
    chains = AppendChains()
    append = streamed(3, "text", "lo", action=APPEND, version_s=4)._replace(name=None)
    events = [chains.whole(decode(each)) for each in (streamed(3, "text", "hel"), append)]
    assert [(event.message_id, event.text) for event in events] == [("R", "hel"), ("R", "hello")]


@pytest.mark.parametrize(
    "message",
    [
        published("ai-step-end", 3, None, step_id="s"),
        published("ai-output", 3, "", codec={"kind": "data-weather"}),
        published("ai-input", 3, "", codec={"kind": "regenerate"}),
        published("ai-input", 3, "", codec={"kind": "user-message"}, role="system"),
        published("ai-run-start", 3, None, run_id=""),
        published("ai-output", 3, "", codec={"kind": "function_call_arguments", "item": "{"}),
        START._replace(extras={"headers": {}}),
        START._replace(extras={"ai": None}),
        START._replace(extras=None),
        START._replace(name="ai-run-pause"),
    ],
)
def test_other_messages_are_not_events(message):
    assert decode(message) is None


@pytest.mark.parametrize("tier", [None, 5, [], {"run-id": 5}, {"run-id": "\x00"}])
def test_a_message_with_invalid_headers_is_not_an_event(tier):
    for name in ("ai-run-start", "ai-run-end", "ai-step-start", "ai-output", "ai-cancel"):
        message = published(name, 3)._replace(extras={"ai": {"transport": tier, "codec": tier}})
        assert decode(message) is None


def test_a_cancel_names_the_response_that_a_user_wants_to_end():
    assert decode(published("ai-cancel", 3, None)).kind == "cancel"
    assert (
        messages_of(START, published("ai-cancel", 3, None, user=True))["R"]["status"]
        == "in_progress"
    )


@pytest.mark.parametrize(
    "message",
    [
        output(3, "text", "a")._replace(serial=None),
        output(3, "tool-output-available", {"output": 1}),
        output(3, "tool-output-error", {"errorText": float("nan")}, codec={"toolCallId": "t"}),
    ],
)
def test_content_that_cannot_be_placed_adds_nothing(message):
    event = decode(message)
    assert event is None or event.kind == "void"
