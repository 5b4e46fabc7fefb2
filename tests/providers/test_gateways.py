"""Streams that gateways send, through the stock client and the tool loop: what runs, is shown and kept.

A file of `cases` is the body of one answer after the other; `# turn N` begins the N-th, and `CUT`
breaks the connection.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from providers.conftest import served
from providers.sinks import Folded
from rehydrate.providers.assistants_driver import run_assistants
from rehydrate.providers.responses_driver import run_responses

CASES = Path(__file__).parent / "cases"
CHUNK_BYTES = 7
WHOLE = "Blue sky today."


def bodies(name: str) -> list[bytes]:
    """Return the bodies of a case."""
    body = (CASES / f"{name}.sse").read_bytes()
    return re.split(rb"^# turn \d+\r?\n", body, flags=re.MULTILINE)[1:]


class Gateway:
    """Answers each request with the next body, in small chunks; after the first, refuses some."""

    def __init__(self, answers: list[bytes], refusals: list[int]) -> None:
        self.answers = answers
        self.refusals = refusals
        self.refused = 0
        self.cancelled = 0
        self.asked: list[dict[str, Any]] = []

    @property
    def app(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self.answer, methods=["GET", "POST"])])

    async def answer(self, request):
        if request.url.path.endswith("/cancel"):
            self.cancelled += 1
            return JSONResponse({"status": "cancelled"})
        if self.asked and self.refused < len(self.refusals):
            self.refused += 1
            error = {"message": "Not now", "type": "server_error"}
            return JSONResponse({"error": error}, self.refusals[self.refused - 1])
        self.asked.append(json.loads(await request.body() or b"{}"))
        body = self.answers[min(len(self.asked), len(self.answers)) - 1]
        return StreamingResponse(self.chunks(body), media_type="text/event-stream")

    async def chunks(self, body: bytes):
        whole, cut, _ = body.partition(b"CUT\n")
        for at in range(0, len(whole), CHUNK_BYTES):
            yield whole[at : at + CHUNK_BYTES]
        if cut:
            raise ConnectionAbortedError("cut, as the case says")


class Seen(NamedTuple):
    """What came of a case; ``ran``: the arguments of every execution of a tool."""

    sink: Folded
    outcome: Any
    asked: list[dict[str, Any]]
    ran: list[Any]
    gateway: Gateway

    @property
    def shown(self) -> tuple[str, str]:
        return self.sink.status, self.sink.text

    @property
    def final(self) -> list[dict[str, Any]]:
        return self.sink.parts if self.sink.final is None else self.sink.final


async def seen(name: str, *, change=lambda body: body, refusals=(), **more: Any) -> Seen:
    """Run a case with the tools `transfer` and `now`."""
    gateway, sink, ran = _gateway(name, change, refusals), Folded(), []

    def transfer(amount: int) -> str:
        ran.append(amount)
        return "done"

    def now() -> str:
        ran.append(None)
        return "noon"

    more = {"tools": {"transfer": transfer, "now": now}} | more
    with served(gateway.app) as url:
        settings = {"base_url": f"{url}/v1", "api_key": "of-nobody", "max_retries": 0}
        async with openai.AsyncOpenAI(**settings) as client:
            if b"thread." in gateway.answers[0]:
                outcome = await run_assistants(sink, client, assistant_id="a", input="?", **more)
            else:
                outcome = await run_responses(sink, client, model="m", input="?", **more)
    return Seen(sink, outcome, gateway.asked, ran, gateway)


def _gateway(name: str, change, refusals) -> Gateway:
    return Gateway([change(body) for body in bodies(name)], list(refusals))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("no_indexes", WHOLE),
        ("content_index_counts_on", WHOLE),
        ("item_id_differs", WHOLE),
        ("number_set_back", WHOLE),
        ("numbers_all_zero", WHOLE),
        ("nul_in_text", "a\0b"),
        ("crlf_and_byte_order_mark", "Blue sky."),
        ("delta_before_its_message", "Blue sky."),
    ],
)
async def test_the_text_is_shown_once_live_and_completes(name, text):
    case = await seen(name)
    assert case.shown == ("completed", text)
    assert case.sink.error is None
    assert not case.sink.needs_repair


@pytest.mark.parametrize("name", ["number_set_back", "numbers_all_zero"])
async def test_numbers_that_are_of_no_use_are_set_aside(name):
    case = await seen(name)
    assert case.outcome.amended == (name == "number_set_back")


@pytest.mark.parametrize("name", ["call_id_known_at_the_end", "call_id_changes"])
@pytest.mark.parametrize("stored", [True, False])
async def test_a_call_with_two_ids_runs_once_and_is_answered_under_the_newest(name, stored):
    case = await seen(name, **({} if stored else {"store": False}))
    assert case.shown == ("completed", "Done.")
    assert case.ran == [5]
    calls = [part for part in case.sink.parts if part["type"] == "tool_call"]
    assert [(call["args"], call["result"]) for call in calls] == [('{"amount":5}', "done")]
    assert case.final == case.sink.parts
    output = case.asked[1]["input"][-1]
    assert (output["call_id"], output["output"]) == ("call_1", "done")


@pytest.mark.parametrize("stored", [True, False])
async def test_the_next_request_has_the_call_although_the_end_of_the_answer_has_none(stored):
    case = await seen("output_empty_at_the_end", **({} if stored else {"store": False}))
    assert (case.shown, case.ran) == (("completed", "Done."), [5])
    types = [item.get("type", "message") for item in case.asked[1]["input"]]
    before = [] if stored else ["message", "function_call"]
    assert types == [*before, "function_call_output"]


@pytest.mark.parametrize("args", [b"null", b'""', b'"null"', b'" "'])
async def test_missing_arguments_are_an_empty_object(args):
    def change(body: bytes) -> bytes:
        return body.replace(b'"arguments": null', b'"arguments": ' + args)

    case = await seen("arguments_null", change=change)
    assert (case.shown, case.ran) == (("completed", "Noon."), [None])


@pytest.mark.parametrize(
    ("name", "annotation"),
    [
        ("url_citation", {"type": "url_citation", "url": "https://example.org/rain?id=5", "title": "Rain"}),
        ("file_citation", {"type": "file_citation", "file_citation": {"file_id": "file-42", "quote": "q"}}),
    ],
)  # fmt: skip
async def test_the_text_around_a_citation_completes(name, annotation):
    case = await seen(name)
    assert case.sink.status == "completed"
    assert not case.sink.needs_repair


@pytest.mark.parametrize(
    ("name", "status", "text", "error"),
    [
        ("last_frame_unfinished", "incomplete", WHOLE, "stream_broke_off"),
        ("error_as_bare_json", "failed", "", "insufficient_quota: quota exceeded"),
        ("error_without_a_type", "failed", "Blue", "upstream overloaded"),
        ("two_responses_in_one_stream", "failed", "Blue sky.", "foreign_response"),
        ("run_failed_after_text", "failed", "Blue", "rate_limit_exceeded: slow down"),
        ("failed_after_text", "failed", "Blue", "server_error: An error occurred"),
    ],
)
async def test_what_does_not_complete_keeps_its_text_and_has_its_reason(name, status, text, error):
    case = await seen(name)
    assert case.shown == (status, text)
    assert error in case.sink.error


@pytest.mark.parametrize("name", ["told_again_from_the_beginning", "numbers_begin_again"])
async def test_a_background_response_that_is_told_again_repeats_nothing(name):
    case = await seen(name, background=True)
    assert case.shown == ("completed", "Blue sky today. And tomorrow.")
    assert len(case.asked) == 2
    assert not case.sink.needs_repair


@pytest.mark.parametrize(
    "noise",
    [
        b"data:\n\n",
        b"data\n\n",
        b": keepalive\n\n",
        b"event: ping\ndata: {}\n\n",
        b"data: {}\n\n",
        b'event: keepalive\ndata: {"type": "keepalive"}\n\n',
        b"event: response.of_tomorrow\ndata: {}\n\n",
        b"retry: 5\n\n",
        b"data: null\n\n",
    ],
)
async def test_keepalives_and_unknown_events_are_ignored_between_any_two_events(noise):
    def change(body: bytes) -> bytes:
        return noise + body.replace(b"\n\n", b"\n\n" + noise) + b"data: [DONE]\n\ndata: [DONE]\n\n"

    case = await seen("call_id_changes", change=change)
    assert (case.shown, case.ran) == (("completed", "Done."), [5])
    assert not case.sink.needs_repair


async def test_ids_of_the_response_may_change_within_one_connection():
    def change(body: bytes) -> bytes:
        return (
            body.replace(b'"resp_7"', b'"resp_end"')
            if b"Done" in body
            else re.sub(rb'("response.completed".*?)"resp_7"', rb'\1"resp_end"', body)
        )

    case = await seen("call_id_changes", change=change)
    assert (case.shown, case.ran) == (("completed", "Done."), [5])
    assert case.asked[1]["previous_response_id"] == "resp_end"


async def test_output_that_leaves_reasoning_out_is_not_shown_again():
    def change(body: bytes) -> bytes:
        head, end = body.rsplit(b"event: response.completed", 1)
        return (
            head
            + b"event: response.completed"
            + re.sub(rb'\{"type": "reasoning".*?\]\}, ', b"", end, count=1)
        )

    case = await seen("content_index_counts_on", change=change)
    assert case.shown == ("completed", WHOLE)
    assert not case.sink.needs_repair


async def test_a_server_that_does_not_stream_is_read():
    def change(body: bytes) -> bytes:
        return json.dumps(json.loads(body.rsplit(b"data: ", 1)[1])["response"]).encode()

    case = await seen("content_index_counts_on", change=change)
    assert case.shown == ("completed", WHOLE)


BUSY = (503, 429, 500, 408, 409, 502, 503, 503)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("rehydrate.providers.tool_loop._FIRST_DELAY_S", 0.001)
    monkeypatch.setattr("rehydrate.providers.tool_loop._MAX_DELAY_S", 0.002)


@pytest.mark.parametrize(
    ("name", "text", "more"),
    [
        ("told_again_from_the_beginning", "Blue sky today. And tomorrow.", {"background": True}),
        ("call_id_changes", "Done.", {}),
        ("call_id_changes", "Done.", {"store": False}),
    ],
)
async def test_a_busy_vendor_is_asked_again_after_the_first_request(impatient, name, text, more):
    case = await seen(name, refusals=BUSY, **more)
    assert case.shown == ("completed", text)
    assert (case.gateway.refused, case.gateway.cancelled) == (len(BUSY), 0)
    assert case.ran == ([5] if name == "call_id_changes" else [])


async def test_a_vendor_that_stays_busy_leaves_the_answer_incomplete_with_its_text(
    impatient, monkeypatch
):
    monkeypatch.setattr("rehydrate.providers.tool_loop.ASK_AGAIN_S", 0.3)
    refusals = [503] * 500
    case = await seen("told_again_from_the_beginning", refusals=refusals, background=True)
    assert case.shown == ("incomplete", WHOLE)
    assert 0 < case.gateway.refused < len(refusals)


async def test_a_refusal_that_lasts_is_not_repeated(impatient):
    case = await seen("call_id_changes", refusals=[400, 400])
    assert (case.sink.status, case.gateway.refused, case.ran) == ("failed", 1, [5])
    assert "Not now" in case.sink.error
