"""No perturbed stream runs a tool twice, shows a text twice, loses text silently, or raises.

`FUZZED_STREAMS=100000` runs that many of each kind; the seed of a failing stream is its number.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from providers.perturbing import delta_words, perturbed, words
from providers.scripted_client import assistants_client, chat_client, final_parts, responses_client
from providers.sinks import Folded
from providers.test_chat_interpreter import chunk
from rehydrate.providers.assistants_driver import run_assistants
from rehydrate.providers.chat_driver import run_chat
from rehydrate.providers.responses_driver import run_responses
from scripted_openai.turns import ResponseTurn, RunTurn

STREAMS = int(os.environ.get("FUZZED_STREAMS", "150"))
CALLS = (("call_a", "transfer", {"amount": 1}), ("call_b", "transfer", {"amount": 2}))
SAID = "alfa bravo charlie delta"
ALSO = "echo foxtrot golf"
ANSWER = "hotel india juliett"


@pytest.fixture(autouse=True, scope="module")
def quiet():
    """Do not log thousands of odd streams."""
    log = logging.getLogger("rehydrate.providers")
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(logging.NOTSET)


def responses_text(end: bool, numbered: bool) -> list[Any]:
    turn = ResponseTurn("resp_0").reasoning("papa quebec").message(SAID).message(ALSO)
    return _shaped(turn.completed(), end, numbered)


def responses_calls(end: bool, numbered: bool) -> list[Any]:
    turn = ResponseTurn("resp_0").reasoning("papa quebec").message(SAID).calls(*CALLS)
    return _shaped(turn.completed(), end, numbered)


def _shaped(events: list[Any], end: bool, numbered: bool) -> list[Any]:
    if not end:
        events[-1]["response"]["output"] = []
    return (
        events
        if numbered
        else [{k: v for k, v in e.items() if k != "sequence_number"} for e in events]
    )


def assistants_text(end: bool, numbered: bool) -> list[Any]:
    turn = RunTurn("thread_1", "run_1").run("created").message(SAID).message(ALSO, "msg_2")
    return turn.completed()


def assistants_calls(end: bool, numbered: bool) -> list[Any]:
    return RunTurn("thread_1", "run_1").run("created").message(SAID).calls("step_1", *CALLS)


def chat_text(end: bool, numbered: bool) -> list[Any]:
    words = [chunk({"content": f"{word} "}) for word in f"{SAID} {ALSO}".split()]
    return [chunk({"reasoning": " papa quebec"}), *words, chunk(finish="stop")]


def chat_calls(end: bool, numbered: bool) -> list[Any]:
    pieces = []
    for n, (id_, name, given) in enumerate(CALLS):
        text = json.dumps(given)
        begun = {"index": n, "id": id_, "function": {"name": name, "arguments": ""}}
        pieces.append(chunk({"tool_calls": [begun]}))
        rest = ({"index": n, "function": {"arguments": part}} for part in (text[:6], text[6:]))
        pieces += [chunk({"tool_calls": [piece]}) for piece in rest]
    return [chunk({"content": f" {SAID}"}), *pieces, chunk(finish="tool_calls")]


class Format(NamedTuple):
    """A wire format: its transcripts, a second turn, a client, and the tool loop."""

    build: Callable[[bool, bool], list[Any]]
    second: Callable[[], list[Any]]
    client: Any
    run: Any
    asks: dict[str, Any]
    texts: tuple[str, ...]
    calls: bool
    whole: bool = True
    """The vendor sends content whole at its end, so that what is lost or repeated can be noticed."""


RESPONSES = (
    lambda: ResponseTurn("resp_1").message(ANSWER).completed(),
    responses_client, run_responses, {"model": "m", "input": "?"},
)  # fmt: skip
ASSISTANTS = (
    lambda: RunTurn("thread_1", "run_1").run("in_progress").message(ANSWER, "msg_9").completed(),
    assistants_client, run_assistants, {"assistant_id": "a", "input": "?"},
)  # fmt: skip
CHAT = (
    lambda: [chunk({"content": ANSWER}), chunk(finish="stop")],
    chat_client, run_chat, {"model": "m", "messages": "?"},
)  # fmt: skip
FORMATS = {
    "responses, text": Format(responses_text, *RESPONSES, (SAID, ALSO), False),
    "responses, calls": Format(responses_calls, *RESPONSES, (SAID, ANSWER), True),
    "assistants, text": Format(assistants_text, *ASSISTANTS, (SAID, ALSO), False),
    "assistants, calls": Format(assistants_calls, *ASSISTANTS, (SAID, ANSWER), True),
    "chat, text": Format(chat_text, *CHAT, (SAID, ALSO), False, False),
    "chat, calls": Format(chat_calls, *CHAT, (SAID, ANSWER), True, False),
}


async def fuzzed(kind: Format, seed: int) -> str | None:
    """Run one stream; return what is wrong with its answer, or None."""
    chance = random.Random(seed)
    events, _ = perturbed(kind.build(chance.random() < 0.7, chance.random() < 0.7), chance)
    sink, ran = Folded(), []

    def transfer(amount: int) -> str:
        ran.append(amount)
        return "sent"

    async def transferred(amount: int) -> str:
        return transfer(amount)

    client = kind.client([events, kind.second()], [])
    tools = {"transfer": transferred}
    outcome = await kind.run(sink, client, tools=tools, store=chance.random() < 0.5, **kind.asks)
    if any(count > 1 for count in Counter(ran).values()):
        return f"a tool ran twice: {ran}"
    final = final_parts(sink)
    noticed = kind.whole and outcome.status == "completed"
    sent = Counter() if noticed else delta_words(events)
    if twice := [word for word, count in words(final).items() if count > max(1, sent[word])]:
        return f"the final text has twice: {twice}"
    sent = delta_words(events)
    if twice := [w for w, n in words(sink.parts).items() if n > max(1, sent[w])]:
        return f"readers saw twice: {twice}"
    calls = [
        part for part in final if part["type"] == "tool_call" and part["status"] == "completed"
    ]
    if len(calls) != len(ran):
        return f"{len(calls)} calls are stored, {len(ran)} were run"
    if noticed:
        lost = set(" ".join(kind.texts).split()) - set(words(final))
        if lost or (kind.calls and sorted(ran) != [1, 2]):
            return f"completed without {lost}, after {ran}"
    return None


@pytest.mark.timeout(0 if "FUZZED_STREAMS" in os.environ else 300)
@pytest.mark.parametrize("name", FORMATS)
async def test_perturbed_streams(name):
    kind, wrong = FORMATS[name], {}
    for seed in range(STREAMS):
        try:
            found = await fuzzed(kind, seed)
        except Exception as error:  # noqa: BLE001 - every exception is a finding
            found = f"{type(error).__name__}: {error}"
        if found is not None:
            wrong[seed] = found
        if seed % 100 == 0:
            await asyncio.sleep(0)
    print(json.dumps({"format": name, "streams": STREAMS, "wrong": len(wrong)}))
    assert not wrong, dict(list(wrong.items())[:8])
