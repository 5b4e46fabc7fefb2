"""Chunks of chat completions, as the servers that have this API send them."""

from __future__ import annotations

import json

import pytest

from providers.sinks import Folded
from rehydrate.providers.openai_chat import ChatStream
from rehydrate.providers.vendor_events import Ended, Started, ToolCallDone

CITIES = ("Rome", "Paris")


def chunk(delta=None, finish=None, **more):
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish, "logprobs": None}
    fields = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**fields, "choices": [choice], **more}


def called(*calls, finish="tool_calls"):
    """The chunks of calls, each a list of pieces."""
    return [chunk({"tool_calls": [piece]}) for piece in calls] + [chunk(finish=finish)]


def piece(args, name=None, **more):
    return {"type": "function", "function": {"name": name, "arguments": args}, **more}


def args(city):
    return json.dumps({"city": city})


TEXTS = {
    "vllm": [
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "Hm"}), chunk({"reasoning_content": "."}),
        chunk({"content": "Blue"}), chunk({"content": " sky."}), chunk({"content": ""}, "stop"),
        chunk(choices=[], usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}),
    ],
    "ollama": [
        chunk({"role": "assistant", "content": "", "reasoning": "Hm."}),
        chunk({"role": "assistant", "content": "Blue"}), chunk({"role": "assistant", "content": " sky."}),
        chunk({"role": "assistant", "content": ""}, "stop", usage={"total_tokens": 3}),
    ],
    "llama.cpp": [
        chunk({"role": "assistant", "content": None}), chunk({"reasoning_content": "Hm."}),
        chunk({"content": "Blue sky."}), chunk({}, "stop", usage={"total_tokens": 3}, timings={"predicted_n": 2}),
    ],
    "azure": [
        {"choices": [], "created": 0, "id": "", "model": "", "prompt_filter_results": [{"prompt_index": 0}]},
        chunk({"role": "assistant", "content": "", "refusal": None, "reasoning": "Hm."}),
        {**chunk({"content": "Blue sky."}), "obfuscation": "x"}, chunk({}, "stop", usage=None),
        chunk(choices=[], usage={"total_tokens": 3}),
    ],
    "litellm": [
        chunk({"role": "assistant", "content": None, "reasoning_content": "Hm.", "reasoning": "Hm."}),
        chunk({"content": "Blue sky.", "tool_calls": None, "function_call": None}),
        chunk({"content": None}, "stop", usage={"total_tokens": 3}), chunk(choices=[]),
    ],
    "openrouter": [
        chunk({"role": "assistant", "content": "", "reasoning": "Hm.", "reasoning_details": [{"text": "Hm."}]}),
        chunk({"role": "assistant", "content": "Blue sky."}),
        chunk({"role": "assistant", "content": ""}, "stop", native_finish_reason="end_turn"),
        chunk({"role": "assistant", "content": ""}, usage={"total_tokens": 3}),
    ],
    "mistral": [
        chunk({"role": "assistant", "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}]}),
        chunk({"content": [{"type": "text", "text": "Blue sky."}]}), chunk({"content": ""}, "stop", usage={"total_tokens": 3}),
    ],
    "a server that does not stream": [
        {"id": "c", "object": "chat.completion", "usage": {"total_tokens": 3}, "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Blue sky.", "reasoning": "Hm."}}]},
    ],
}  # fmt: skip

CALLS = {
    "openai": called(
        piece("", "weather", index=0, id="call_a"), piece('{"ci', index=0), piece('ty": "Rome"}', index=0),
        piece("", "weather", index=1, id="call_b"), piece(args("Paris"), index=1),
    ),
    "interleaved": called(
        piece("", "weather", index=0, id="call_a"), piece("", "weather", index=1, id="call_b"),
        piece('{"city"', index=0), piece('{"city"', index=1), piece(': "Rome"}', index=0), piece(': "Paris"}', index=1),
    ),
    "whole calls, all at index 0, ended as text": called(
        *(piece(args(city), "weather", index=0, id=f"call_{city}") for city in CITIES), finish="stop"
    ),
    "whole calls without an index": called(*(piece(args(city), "weather", id=f"call_{city}") for city in CITIES)),
    "whole calls with one id": called(*(piece(args(city), "weather", index=n, id="call_0") for n, city in enumerate(CITIES))),
    "whole calls without ids": called(*(piece(args(city), "weather", index=n, id="") for n, city in enumerate(CITIES))),
    "whole calls without ids and indexes": called(*(piece(args(city), "weather") for city in CITIES)),
    "a name and an id in every piece": called(
        *(piece(part, "weather", index=n, id=f"call_{n}") for n, city in enumerate(CITIES) for part in (args(city)[:6], args(city)[6:]))
    ),
    "another id in every piece": called(
        *(piece(part, "weather" if not at else None, index=n, id=f"call_{n}_{at}")
          for n, city in enumerate(CITIES) for at, part in enumerate((args(city)[:6], args(city)[6:])))
    ),
    "arguments as an object": called(*(piece({"city": city}, "weather", index=n, id=f"c{n}") for n, city in enumerate(CITIES))),
    "in one chunk": [chunk({"tool_calls": [piece(args(city), "weather", index=n, id=f"c{n}") for n, city in enumerate(CITIES)]}, "tool_calls")],
}  # fmt: skip


def read(chunks):
    stream, sink = ChatStream(chunks), Folded()
    events = list(stream)
    for event in events:
        event.write_to(sink)
    return sink, events


def body(chunks) -> bytes:
    frames = [f"data: {json.dumps(each)}\n\n" for each in chunks]
    return (
        ": OPENROUTER PROCESSING\n\n" + "\n".join(frames) + "data: [DONE]\n\ndata: [DONE]\n\n"
    ).encode()


@pytest.mark.parametrize("form", [list, lambda chunks: [body(chunks)]], ids=["chunks", "bytes"])
@pytest.mark.parametrize("server", TEXTS)
def test_text_reasoning_and_usage_are_read(server, form):
    sink, events = read(form(TEXTS[server]))
    assert [(part["type"], part["text"]) for part in sink.parts] == [
        ("reasoning", "Hm."),
        ("text", "Blue sky."),
    ]
    assert (sink.status, sink.error, sink.ending[1]["total_tokens"]) == ("completed", None, 3)
    assert not sink.needs_repair
    assert sum(isinstance(event, Started) for event in events) == 1


@pytest.mark.parametrize("server", CALLS)
def test_calls_are_told_apart_and_complete(server):
    sink, events = read(CALLS[server])
    end = events[-1]
    assert [json.loads(call.args) for call in end.calls] == [{"city": city} for city in CITIES]
    assert [call.name for call in end.calls] == ["weather"] * 2
    assert len({call.tool_call_id for call in end.calls}) == 2
    assert sum(isinstance(event, ToolCallDone) for event in events) == 2
    assert [part["args"] for part in sink.parts] == [call.args for call in end.calls]
    assert not sink.needs_repair


@pytest.mark.parametrize(
    ("chunks", "status", "error"),
    [
        ([chunk(finish="length")], "incomplete", "length: "),
        ([chunk(finish="content_filter")], "incomplete", "content_filter: "),
        ([chunk(finish="cancelled")], "cancelled", "cancelled: by the vendor"),
        ([chunk(finish="error")], "failed", "error: "),
        ([chunk(finish="function_call")], "failed", "function_call: "),
        ([], "incomplete", "stream_broke_off"),
        ([{"error": {"code": 502, "message": "Upstream died", "type": "server"}}], "failed", "server: Upstream died"),
        ([{**chunk(finish="error"), "error": {"code": "x", "message": "No"}}], "failed", "x: No"),
        ([{"error": "overloaded"}], "failed", "vendor_failed: overloaded"),
        ([chunk({"content": "?"}, index=1, choices=[{"index": 1, "delta": {"content": "?"}}])], "failed", "several_choices"),
        ([5], "failed", "malformed_event"),
        ([chunk(finish="stop")], "completed", None),
        ([chunk(finish="eos_token")], "completed", None),
    ],
)  # fmt: skip
def test_each_end_has_its_reason_and_keeps_the_text(chunks, status, error):
    sink, _ = read([chunk({"content": "Blue"}), *chunks])
    assert (sink.status, sink.text) == (status, "Blue")
    assert sink.error == error if error is None else sink.error.startswith(error)


def test_a_refusal_is_a_part_of_its_own():
    sink, _ = read(
        [chunk({"refusal": "I would"}), chunk({"refusal": " rather not."}), chunk(finish="stop")]
    )
    assert [(part["type"], part["text"]) for part in sink.parts] == [
        ("refusal", "I would rather not.")
    ]
    assert sink.status == "completed"


def test_calls_of_an_answer_that_did_not_complete_are_not_returned():
    _, events = read(called(piece('{"city": "Ro', "weather", index=0, id="a"), finish="length"))
    assert events[-1].calls == ()


async def test_a_connection_that_breaks_after_the_reason_of_the_end_loses_nothing():
    async def chunks():
        yield chunk({"content": "Blue"}, "stop")
        raise ConnectionResetError

    sink = Folded()
    await ChatStream(chunks()).into(sink)
    assert (sink.status, sink.text) == ("completed", "Blue")


@pytest.mark.parametrize(
    "noise", [{}, {"type": "ping"}, chunk(choices=[]), chunk(choices=None), chunk({})]
)
def test_empty_and_unknown_chunks_are_ignored(noise):
    sink, events = read([noise, chunk({"content": "Blue"}), noise, chunk(finish="stop"), noise])
    assert (sink.status, sink.text) == ("completed", "Blue")
    assert isinstance(events[-1], Ended)
