"""Model runs by `History`: followed, stored, cancelled and continued."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import openai
import pytest

from localably import Key, LocalAbly
from localably.capability import ServerCapability
from participants import history_over, publisher_to, reading
from providers.conftest import eventually, served
from providers.test_chat_driver import Server as ChatServer
from providers.test_chat_interpreter import CALLS, chunk
from rehydrate.errors import BadParameter, Conflict, Fenced
from scripted_openai.endpoint import Raw, Stall
from scripted_openai.turns import ResponseTurn, RunTurn
from waiting import PATIENCE_S

ASK = {"model": "gpt-5"}
STORY = "Once upon a time."


@pytest.fixture(scope="module")
async def server():
    async with LocalAbly() as running:
        yield running


@pytest.fixture(scope="module")
async def history(module_database, server):
    async with history_over(module_database, server) as opened:
        yield opened


def in_order(*turns):
    """A script: one turn after the other."""
    return lambda asked: turns[asked.number]


def weather(city: str) -> str:
    """The weather of a city."""
    return f"clear in {city}"


async def stored(history, conversation, message_id):
    return json.loads(await history.message(conversation, message_id))


async def test_a_prompt_and_its_answer_are_published_and_stored(history, conversation, vendor):
    vendor.endpoint.answer = in_order(ResponseTurn("resp_1").message(STORY).completed())
    async with reading(history, conversation) as follower, vendor.client() as client:
        await follower.until(lambda r: r.snapshots)
        driven = await history.run_openai(conversation, client, input="Tell.", **ASK)
        reader = await follower.until(lambda r: r.statuses.get(driven.response_id) == "completed")
    assert driven.outcome.status == "completed"
    assert reader.texts == {driven.prompt_id: "Tell.", driven.response_id: STORY}
    assert not reader.wrong
    assert reader.kinds.index("prompt") < reader.kinds.index("start")
    answer = await stored(history, conversation, driven.response_id)
    assert (answer["text"], answer["status"]) == (STORY, "completed")
    assert answer["prompt_id"] == driven.prompt_id
    assert answer["usage"] == driven.outcome.usage
    assert answer["metadata"] == {"openai": {"response_ids": ["resp_1"]}}
    assert (await stored(history, conversation, driven.prompt_id))["text"] == "Tell."
    hydrated = await history.hydrate(conversation)
    assert [m["id"] for m in hydrated.messages] == [driven.prompt_id, driven.response_id]


async def test_every_follower_receives_calls_and_results_as_they_happen(
    history, conversation, vendor
):
    seen, go_on = asyncio.Event(), asyncio.Event()

    async def look(city: str) -> str:
        seen.set()
        await go_on.wait()
        raise LookupError(f"no station in {city}")

    calls = (("call_a", "look", {"city": "Oz"}), ("call_b", "weather", {"city": "Bonn"}))
    vendor.endpoint.answer = in_order(
        ResponseTurn("resp_1").calls(*calls).completed(),
        ResponseTurn("resp_2").message("I cannot say.").completed(),
    )
    tools = {"look": look, "weather": weather}
    async with (
        reading(history, conversation) as one,
        reading(history, conversation) as other,
        vendor.client() as client,
    ):
        for follower in (one, other):  # before anything is published: the calls arrive as events
            await follower.until(lambda r: r.snapshots)
        running = asyncio.create_task(
            history.run_openai(conversation, client, input="?", tools=tools, **ASK)
        )
        await seen.wait()
        for follower in (one, other):  # one tool has answered, the other runs
            await follower.until(lambda r: "tool_result" in r.kinds)
            assert "stop" not in follower.reader.kinds
            assert follower.reader.kinds.count("tool_call") == 2
        go_on.set()
        driven = await running
        for follower in (one, other):
            reader = await follower.until(lambda r: "stop" in r.kinds)
            assert reader.texts[driven.response_id] == "I cannot say."
    answer = await stored(history, conversation, driven.response_id)
    assert [(p.get("result"), p.get("status")) for p in answer["parts"]] == [
        ({"error": "LookupError: no station in Oz"}, "failed"),
        ("clear in Bonn", "completed"),
        (None, None),
    ]
    assert driven.outcome.response_ids == ("resp_1", "resp_2")


@pytest.mark.parametrize("letter", ["я", "語", "a"])
async def test_long_results_and_call_ids_never_end_the_answer(
    history, conversation, vendor, letter
):
    calls = (("c" * 300 + "1", "long", {"of": 10_000}), ("c" * 300 + "2", "long", {"of": 40_000}))
    vendor.endpoint.answer = in_order(
        ResponseTurn("resp_1").calls(*calls).completed(),
        ResponseTurn("resp_2").message(STORY).completed(),
    )
    async with vendor.client() as client:
        driven = await history.run_openai(
            conversation, client, input="?", tools={"long": lambda of: letter * of}, **ASK
        )
    assert driven.outcome.error is None
    answer = await stored(history, conversation, driven.response_id)
    assert (answer["status"], answer["text"]) == ("completed", STORY)
    one, other, _ = answer["parts"]
    assert (one["result"], one["status"]) == (letter * 10_000, "completed")
    assert other["result"] == {"omitted_bytes": len(letter.encode()) * 40_000 + 2}
    assert one["tool_call_id"] != other["tool_call_id"]
    assert all(len(part["tool_call_id"]) == 256 for part in (one, other))
    given = {item["call_id"]: item["output"] for item in vendor.endpoint.asked[1].body["input"]}
    assert given == {calls[0][0]: letter * 10_000, calls[1][0]: letter * 40_000}


@pytest.mark.parametrize("who", ["the library", "a client on the channel"])
async def test_a_cancel_on_the_channel_stops_the_answer_and_the_vendor(
    history, conversation, vendor, server, who
):
    vendor.endpoint.answer = in_order([*ResponseTurn("resp_1").message("One").events, Stall(60)])
    async with reading(history, conversation) as follower, vendor.client() as client:
        running = asyncio.create_task(
            history.run_openai(conversation, client, input="?", response_id="r", **ASK)
        )
        await follower.until(lambda r: r.texts.get("r") == "One")
        if who == "the library":
            await history.cancel(conversation, "another")
            await history.cancel(conversation, "r")
        else:
            async with publisher_to(server, f"ai:{conversation}") as publisher:
                await publisher.publish_message("cancel", rid="r")
        driven = await asyncio.wait_for(running, PATIENCE_S)
        reader = await follower.until(lambda r: "stop" in r.kinds)
    assert driven.outcome.status == "cancelled"
    assert driven.outcome.response_ids == ("resp_1",)
    assert (reader.texts["r"], reader.statuses["r"]) == ("One", "cancelled")
    answer = await stored(history, conversation, "r")
    assert (answer["text"], answer["status"]) == ("One", "cancelled")
    assert answer["metadata"] == {"openai": {"response_ids": ["resp_1"]}}
    eventually(lambda: vendor.endpoint.open_streams == 0)


async def test_cancelling_the_task_stops_the_answer_and_the_vendor(history, conversation, vendor):
    vendor.endpoint.answer = in_order([*ResponseTurn("resp_1").message("One").events, Stall(60)])
    async with reading(history, conversation) as follower, vendor.client() as client:
        running = asyncio.create_task(
            history.run_openai(
                conversation, client, input="?", response_id="r", background=True, **ASK
            )
        )
        await follower.until(lambda r: r.texts.get("r") == "One")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        reader = await follower.until(lambda r: "stop" in r.kinds)
    assert (reader.texts["r"], reader.statuses["r"]) == ("One", "cancelled")
    assert (await stored(history, conversation, "r"))["status"] == "cancelled"
    assert vendor.endpoint.cancelled == ["resp_1"]
    eventually(lambda: vendor.endpoint.open_streams == 0)


async def test_erasing_the_conversation_stops_the_answer_and_the_vendor(
    history, conversation, vendor, monkeypatch
):
    monkeypatch.setattr("rehydrate.publish.respond.CHECKPOINT_S", 0.05)
    turn = ResponseTurn("resp_1").message("One " * 2000)
    vendor.endpoint.answer, vendor.endpoint.pace_s = in_order(turn.events), 0.02
    async with reading(history, conversation) as follower, vendor.client() as client:
        running = asyncio.create_task(
            history.run_openai(conversation, client, input="?", response_id="r", **ASK)
        )
        await follower.until(lambda r: r.texts.get("r"))
        await history.erase(conversation)
        with pytest.raises(Fenced):
            await asyncio.wait_for(running, PATIENCE_S)
    assert (await history.hydrate(conversation)).messages == []
    eventually(lambda: vendor.endpoint.open_streams == 0)


async def test_without_the_subscribe_capability_a_cancel_has_no_effect(
    module_database, conversation, vendor
):
    vendor.endpoint.answer = in_order(ResponseTurn("resp_1").message(STORY).completed())
    rights = ServerCapability({"*": frozenset({"publish", "history"})})
    async with (
        LocalAbly(keys=[Key("app", "key", "secret", rights)]) as server,
        history_over(module_database, server) as history,
        vendor.client() as client,
    ):
        driven = await history.run_openai(conversation, client, input="?", **ASK)
        answer = await stored(history, conversation, driven.response_id)
    assert (answer["text"], answer["status"]) == (STORY, "completed")


async def test_a_later_prompt_continues_from_the_previous_answer(history, conversation, vendor):
    failing = [*ResponseTurn("resp_2").message("Hm").events, Raw(b"data: {nonsense\n\n")]
    vendor.endpoint.answer = in_order(
        ResponseTurn("resp_1").message("One.").completed(),
        failing,
        *(ResponseTurn(f"resp_{n}").message("Two.").completed() for n in (3, 4, 5)),
    )
    async with vendor.client() as client:
        for more in ({}, {}, {}, {"previous_response_id": None}, {"store": False}):
            await history.run_openai(conversation, client, input="?", **ASK, **more)
    bodies = [asked.body for asked in vendor.endpoint.asked]
    assert [body.get("previous_response_id") for body in bodies] == [
        None,
        "resp_1",
        "resp_1",
        None,
        None,
    ]


async def test_a_previous_response_that_the_vendor_forgot_is_reported_and_not_used_again(
    history, conversation, vendor
):
    vendor.endpoint.answer = in_order(
        ResponseTurn("resp_1").message("One.").completed(),
        ResponseTurn("resp_2").message("Two.").completed(),
    )
    async with vendor.client() as client:
        await history.run_openai(conversation, client, input="?", **ASK)
        vendor.endpoint.forget()
        run = await history.run_openai(conversation, client, input="?", **ASK)
        after = await history.run_openai(conversation, client, input="?", **ASK)
    assert run.outcome.status == "failed"
    answer = await stored(history, conversation, run.response_id)
    assert answer["status"] == "failed"
    assert answer["error"].startswith("previous_response_not_found")
    assert after.outcome.status == "completed"


async def test_an_agent_answers_a_prompt_on_the_channel_without_publishing_it_again(
    history, conversation, vendor, server
):
    vendor.endpoint.answer = in_order(ResponseTurn("resp_1").message(STORY).completed())
    async with publisher_to(server, f"ai:{conversation}") as publisher, vendor.client() as client:
        await publisher.publish_message("user-input", {"promptId": "p", "text": "Tell."})
        async for prompt in history.unanswered(conversation):
            driven = await history.run_openai(
                conversation, client, input=prompt.text, prompt_id=prompt.id, **ASK
            )
        assert [p async for p in history.unanswered(conversation)] == []
    question, answer = (await history.hydrate(conversation)).messages
    assert (question["id"], question["text"]) == (driven.prompt_id, "Tell.") == ("p", "Tell.")
    assert (answer["prompt_id"], answer["text"]) == ("p", STORY)
    assert vendor.endpoint.asked[0].body["input"] == "Tell."


async def test_repeated_ids_are_a_conflict_and_the_vendor_is_not_called(
    history, conversation, vendor
):
    vendor.endpoint.answer = in_order(ResponseTurn("resp_1").message("One.").completed())
    ids = {"prompt_id": "p", "response_id": "r", "input": "?"}
    async with vendor.client() as client:
        await history.run_openai(conversation, client, **ids, **ASK)
        with pytest.raises(Conflict):
            await history.run_openai(conversation, client, **ids, **ASK)
    assert len(vendor.endpoint.asked) == 1


async def test_a_conflict_leaves_nothing_behind(history, conversation, vendor):
    vendor.endpoint.answer = in_order(ResponseTurn("resp_1").message("One.").completed())
    async with vendor.client() as client:
        await history.run_openai(conversation, client, input="?", response_id="r", **ASK)
        before = (await history.hydrate(conversation)).messages
        for wrong in ({"response_id": "r"}, {"response_id": "r2", "prompt_id": before[0]["id"]}):
            with pytest.raises(Conflict):
                await history.run_openai(conversation, client, input="Again?", **wrong, **ASK)
    assert (await history.hydrate(conversation)).messages == before
    assert [prompt async for prompt in history.unanswered(conversation)] == []
    assert len(vendor.endpoint.asked) == 1


async def test_invalid_arguments_are_refused_before_anything_is_published(
    history, conversation, vendor
):
    async with vendor.client() as client:
        for wrong in (
            {"tools": {"f": lambda *any_: None}},
            {"prompt_id": ""},
            {"response_id": ""},
        ):
            with pytest.raises(BadParameter):
                await history.run_openai(
                    conversation, client, **({"input": "?", "prompt_id": "p"} | wrong), **ASK
                )
    assert (await history.hydrate(conversation)).messages == []


async def test_input_without_text_is_answered_without_a_published_prompt(
    history, conversation, vendor
):
    vendor.endpoint.answer = in_order(ResponseTurn("resp_1").message("A cat.").completed())
    picture = [{"type": "input_image", "image_url": "https://example.org/cat.png"}]
    async with vendor.client() as client:
        driven = await history.run_openai(
            conversation, client, input=[{"role": "user", "content": picture}], **ASK
        )
    assert driven.prompt_id is None
    (answer,) = (await history.hydrate(conversation)).messages
    assert (answer["text"], answer["prompt_id"]) == ("A cat.", None)


async def test_a_chat_completion_answers_with_tools_and_is_stored(history, conversation):
    server = ChatServer(CALLS["openai"], [chunk({"content": STORY}), chunk(finish="stop")])
    with served(server.app) as url:
        settings = {"base_url": f"{url}/v1", "api_key": "of-nobody", "max_retries": 0}
        async with openai.AsyncOpenAI(**settings) as client:
            ask = {"messages": [{"role": "user", "content": "Tell."}], "model": "m"}
            with pytest.raises(BadParameter, match="n must be 1"):
                await history.run_openai_chat(conversation, client, n=2, **ask)
            driven = await history.run_openai_chat(
                conversation, client, tools={"weather": weather}, **ask
            )
    question, answer = (await history.hydrate(conversation)).messages
    assert (question["id"], question["text"]) == (driven.prompt_id, "Tell.")
    assert (answer["text"], answer["status"]) == (STORY, "completed")
    assert [part.get("result") for part in answer["parts"]] == [
        "clear in Rome",
        "clear in Paris",
        None,
    ]
    assert "metadata" not in answer


def run_of(asked):
    turn = RunTurn(asked.thread_id, asked.run_id, new_thread=asked.thread_is_new)
    if asked.kind == "run":
        return (
            turn.run("created")
            .run("in_progress")
            .calls(f"step_{asked.run_id}", (f"call_{asked.run_id}", "weather", {"city": "Rome"}))
        )
    return turn.run("in_progress").message("All clear.", f"msg_{asked.run_id}").completed()


async def test_an_assistant_answers_with_tools_and_its_thread_is_continued(
    history, conversation, vendor
):
    vendor.endpoint.answer = run_of
    ask = {"assistant_id": "a", "tools": {"weather": weather}}
    async with vendor.client() as client:
        first = await history.run_openai_assistant(conversation, client, input="One?", **ask)
        later = await asyncio.gather(  # a thread has one run at a time
            *(
                history.run_openai_assistant(conversation, client, input=text, **ask)
                for text in ("Two?", "Three?")
            )
        )
    assert [driven.outcome.status for driven in (first, *later)] == ["completed"] * 3
    assert list(vendor.endpoint.threads) == ["thread_1"]
    assert vendor.endpoint.threads["thread_1"][0] == "One?"
    assert sorted(vendor.endpoint.threads["thread_1"][1:]) == ["Three?", "Two?"]
    answer = await stored(history, conversation, first.response_id)
    assert answer["metadata"] == {"openai": {"thread_id": "thread_1", "run_id": "run_1"}}
    assert answer["text"] == "All clear."
    assert answer["parts"][0]["result"] == "clear in Rome"


async def test_a_queued_run_can_be_cancelled(history, conversation, vendor):
    def answer(asked):
        turn = RunTurn(asked.thread_id, asked.run_id, new_thread=asked.thread_is_new)
        return [*turn.run("created").message("One").events, Stall(60)]

    vendor.endpoint.answer, vendor.endpoint.looks = answer, 2
    async with reading(history, conversation) as follower, vendor.client() as client:
        runs = []
        for response_id, shown in (("r1", "One"), ("r2", "")):
            ask = {"assistant_id": "a", "input": "?", "response_id": response_id}
            runs.append(
                asyncio.create_task(history.run_openai_assistant(conversation, client, **ask))
            )
            await follower.until(lambda r, i=response_id, s=shown: r.texts.get(i) == s)
        for response_id in ("r2", "r1"):
            await history.cancel(conversation, response_id)
        driven = [await asyncio.wait_for(run, PATIENCE_S) for run in runs]
        vendor.endpoint.answer = run_of
        tools = {"weather": weather}
        after = await history.run_openai_assistant(
            conversation, client, assistant_id="a", input="?", tools=tools
        )
    assert [each.outcome.status for each in driven] == ["cancelled", "cancelled"]
    assert vendor.endpoint.cancelled == ["run_1"]
    assert (after.outcome.status, after.outcome.thread_id) == ("completed", "thread_1")
    for response_id in ("r1", "r2"):
        assert (await stored(history, conversation, response_id))["status"] == "cancelled"


def test_history_does_not_import_the_vendors_package():
    code = "import sys, rehydrate.history; sys.exit('openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
