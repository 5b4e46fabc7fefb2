"""The chat driver with the package's client, a scripted server and a third-party one."""

from __future__ import annotations

import json

import openai
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from providers.conftest import served
from providers.sinks import Folded
from providers.test_chat_interpreter import CALLS, CITIES, TEXTS, body, called, chunk, piece
from rehydrate.errors import BadParameter
from rehydrate.providers.chat_driver import run_chat

END = [chunk({"content": "Both are clear."}), chunk(finish="stop", usage={"total_tokens": 5})]
ASK = {"model": "m", "messages": "What is the weather?"}


class Server:
    """Answers each request with the next chunks; after the first one, refuses some."""

    def __init__(self, *turns, refusals=()):
        self.turns, self.refusals, self.asked = turns, list(refusals), []

    async def answer(self, request):
        if self.asked and self.refusals:
            return JSONResponse({"error": {"message": "Not now"}}, self.refusals.pop())
        self.asked.append(await request.json())
        return StreamingResponse(iter([body(self.turns[len(self.asked) - 1])]))

    @property
    def app(self):
        return Starlette(routes=[Route("/v1/chat/completions", self.answer, methods=["POST"])])


async def answered(server, **more):
    sink, ran = Folded(), []

    def weather(city: str) -> str:
        ran.append(city)
        return f"clear in {city}"

    with served(server.app) as url:
        settings = {"base_url": f"{url}/v1", "api_key": "of-nobody", "max_retries": 0}
        async with openai.AsyncOpenAI(**settings) as client:
            outcome = await run_chat(sink, client, tools={"weather": weather}, **{**ASK, **more})
    return sink, outcome, ran


@pytest.mark.parametrize("name", TEXTS)
async def test_an_answer_is_published_and_ends(name):
    server = Server(TEXTS[name])
    sink, outcome, _ = await answered(server)
    assert (outcome.status, sink.text) == ("completed", "Blue sky.")
    assert outcome.usage["total_tokens"] == 3
    (asked,) = server.asked
    assert asked["messages"] == [{"role": "user", "content": "What is the weather?"}]
    assert (asked["stream"], asked["stream_options"]) == (True, {"include_usage": True})
    assert asked["tools"][0]["function"]["name"] == "weather"


@pytest.mark.parametrize("name", CALLS)
async def test_every_call_runs_once_and_is_answered(name):
    server = Server(CALLS[name], END)
    sink, outcome, ran = await answered(server)
    assert (outcome.status, sink.text, sorted(ran)) == (
        "completed",
        "Both are clear.",
        ["Paris", "Rome"],
    )
    calls = [part for part in sink.parts if part["type"] == "tool_call"]
    assert [part["result"] for part in calls] == [f"clear in {city}" for city in CITIES]
    assert not sink.needs_repair
    _, asks, *outputs = server.asked[1]["messages"]
    assert [json.loads(call["function"]["arguments"]) for call in asks["tool_calls"]] == [
        {"city": city} for city in CITIES
    ]
    ids = [call["id"] for call in asks["tool_calls"]]
    assert len(set(ids)) == 2
    assert outputs == [
        {"role": "tool", "tool_call_id": id_, "content": f"clear in {city}"}
        for id_, city in zip(ids, CITIES, strict=True)
    ]


async def test_ids_that_a_later_turn_repeats_are_told_apart():
    turns = [
        called(piece(json.dumps({"city": city}), "weather", index=0, id="call_0"))
        for city in CITIES
    ]
    server = Server(*turns, END)
    sink, _, ran = await answered(server)
    assert ran == list(CITIES)
    assert [part.get("result") for part in sink.parts] == ["clear in Rome", "clear in Paris", None]
    outputs = [each for each in server.asked[2]["messages"] if each["role"] == "tool"]
    assert len({each["tool_call_id"] for each in outputs}) == 2


@pytest.mark.parametrize("args", ["{", "[1]", "", "null"])
async def test_arguments_that_are_not_an_object_go_back_to_the_model(args):
    server = Server(called(piece(args, "weather", index=0, id="a")), END)
    sink, outcome, ran = await answered(server)
    assert (outcome.status, ran, sink.parts[0]["status"]) == ("completed", [], "failed")
    assert server.asked[1]["messages"][1]["tool_calls"][0]["function"]["arguments"] == "{}"


async def test_a_busy_server_is_asked_again_after_the_first_request(monkeypatch):
    monkeypatch.setattr("rehydrate.providers.tool_loop._FIRST_DELAY_S", 0.001)
    server = Server(CALLS["openai"], END, refusals=[503, 429, 500])
    _, outcome, ran = await answered(server)
    assert (outcome.status, len(ran), server.refusals) == ("completed", 2, [])


async def test_several_choices_are_refused():
    with pytest.raises(BadParameter, match="n must be 1"):
        await answered(Server(), n=2)


async def test_a_third_party_server_is_answered(llmock):
    llmock.call_tool("weather", {"city": "Paris"}).reply("It is clear.")
    sink = Folded()

    def weather(city: str) -> str:
        return f"clear in {city}"

    async with openai.AsyncOpenAI(max_retries=0) as client:  # the fixture set the environment
        outcome = await run_chat(sink, client, tools={"weather": weather}, **ASK)
    assert (outcome.status, sink.text) == ("completed", "It is clear.")
    assert sink.parts[0]["result"] == "clear in Paris"


@pytest.mark.parametrize(
    ("fault", "status"),
    [("disconnect", "incomplete"), ("truncate", "incomplete"), ("stall", "incomplete")],
)
async def test_a_broken_stream_of_a_third_party_server_keeps_its_text(llmock, fault, status):
    story = "Once upon a time there was a very long story indeed."
    llmock.reply(story)
    getattr(llmock, fault)(after_chunks=5)
    sink = Folded()
    async with openai.AsyncOpenAI(max_retries=0) as client:
        outcome = await run_chat(sink, client, idle_timeout_s=0.5, **ASK)
    assert outcome.status == status
    assert sink.text
    assert story.startswith(sink.text)
