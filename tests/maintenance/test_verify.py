"""Verify: differences between the store and the channel are found, and mended from the right side."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace

import pytest

from participants import settings_for
from rehydrate.core.event import Event
from rehydrate.core.fold import fold
from rehydrate.history import History
from rehydrate.maintenance.verify import verify
from rehydrate.ports import Outgoing
from rehydrate.publish import respond as responding
from rehydrate.record.import_messages import NewMessage
from shared_adapters import HookedPort
from waiting import PATIENCE_S, until


@pytest.fixture
async def history(database, ably):
    settings = settings_for(
        database,
        ably,
        lease_s=3000,
    )
    async with History(settings) as history:
        yield history


async def publish_message(history, conversation_id, seq, name="token", text=None):
    message = Outgoing(name, text, f"r1-{seq}", {"headers": {"responseId": "r1", "seq": seq}})
    await history._channel.publish(f"ai:{conversation_id}", [message])


async def foreign(history, conversation_id, *texts):
    """Publish a response as a foreign publisher, and record it."""
    await publish_message(history, conversation_id, 0, "start")
    for seq, text in enumerate(texts, 1):
        await publish_message(history, conversation_id, seq, text=text)
    await publish_message(history, conversation_id, len(texts) + 1, "stop")
    await history.catch_up(conversation_id)


async def spoil(history, conversation_id, *texts, skip=()):
    """Write another text into the row."""
    async with history._store.locked(conversation_id, f"ai:{conversation_id}") as held:
        state = (await held.messages(["r1"]))["r1"]
        state.restart(1)
        for seq, text in enumerate(texts, 1):
            if seq not in skip:
                fold(state, Event("token", "r1", seq=seq, text=text))
        fold(state, Event("stop", "r1", seq=len(texts) + 1))
        await held.put([state])


async def shown(history, channel):
    """Return the names of the messages on the channel, once one of them is a token."""
    pages = history._channel.history(channel, forwards=True)
    names = [message.name async for page in pages for message in page]
    return names if "token" in names else []


async def text(history, conversation_id):
    (message,) = (await history.hydrate(conversation_id)).messages
    return message["text"]


async def test_equal_messages_are_not_findings(history):
    await foreign(history, "v1", "a", "b")
    async with history.respond("v1", "r2") as response:
        response.write("c")
        response.tool_call("call", "f", {"x": 1})
    verified = await history.verify("v1", mend=True)
    assert verified == (2, 2, [])
    assert (await history.verify("unknown")) == (0, 0, [])


async def test_a_row_with_another_text_is_mended_from_the_channel(history):
    await foreign(history, "v2", "one ", "two")
    await spoil(history, "v2", "one ", "tow")
    (finding,) = (await history.verify("v2")).findings
    assert (finding.fault, finding.mended) == ("store", False)
    assert "differs from character 5 on" in finding.detail
    assert "tow" not in finding.detail
    assert await text(history, "v2") == "one tow"
    (finding,) = (await history.verify("v2", mend=True)).findings
    assert finding.mended
    assert await text(history, "v2") == "one two"
    assert not (await history.verify("v2")).findings


async def test_a_gap_in_the_row_is_filled_from_the_channel(history):
    await foreign(history, "v3", "one ", "two ", "three")
    await spoil(history, "v3", "one ", "two ", "three", skip=(2,))

    async def record_nothing(_):
        return None

    history.catch_up = record_nothing
    (finding,) = (await history.verify("v3", mend=True)).findings
    assert (finding.fault, finding.mended) == ("store", True)
    assert await text(history, "v3") == "one two three"
    assert not (await history.verify("v3")).findings


async def test_an_anonymous_message_is_compared_and_mended_too(history):
    said = [("start", None), ("token", "one "), ("token", "two"), ("stop", None)]
    for number, (name, data) in enumerate([*said, *said]):
        message = Outgoing(name, data, f"a-{number}", None)
        await history._channel.publish("ai:v8", [message])
    await history.catch_up("v8")
    assert (await history.verify("v8", mend=True)) == (2, 2, [])
    async with history._store.locked("v8", "ai:v8") as held:
        (state,) = (await held.messages(["a-4"])).values()
        ended_ms = state.finished_ms
        state.restart(1)
        spoilt = [("start", None), ("token", "one "), ("token", "tow"), ("stop", None)]
        for number, (kind, content) in enumerate(spoilt, 4):
            at = {"id": f"a-{number}", "timestamp_ms": ended_ms}
            fold(state, Event(kind, None, text=content, **at))
        await held.put([state])
    (finding,) = (await history.verify("v8", mend=True)).findings
    assert (finding.message_id, finding.fault, finding.mended) == ("a-4", "store", True)
    messages = (await history.hydrate("v8")).messages
    assert {m["id"]: m["text"] for m in messages} == {"a-0": "one two", "a-4": "one two"}
    assert not (await history.verify("v8")).findings


async def test_a_message_whose_id_is_the_place_of_another_is_mended_alone(history):
    await foreign(history, "v8", "one")
    (first,) = await history._store.states("v8", ["r1"])
    for seq, (name, data) in enumerate([("start", None), ("token", "two"), ("stop", None)]):
        extras = {"headers": {"responseId": first.position, "seq": seq}}
        await history._channel.publish("ai:v8", [Outgoing(name, data, f"x-{seq}", extras)])
    await history.catch_up("v8")
    async with history._store.locked("v8", "ai:v8") as locked:
        state = (await locked.messages([first.position]))[first.position]
        state.restart(1)
        fold(state, Event("token", state.id, seq=1, text="spoilt"))
        fold(state, Event("stop", state.id, seq=2))
        await locked.put([state])
    (finding,) = (await history.verify("v8", mend=True)).findings
    assert (finding.message_id, finding.fault, finding.mended) == (first.position, "store", True)
    messages = (await history.hydrate("v8")).messages
    assert {each["id"]: each["text"] for each in messages} == {"r1": "one", first.position: "two"}
    assert not (await history.verify("v8")).findings


async def test_the_retained_end_of_an_anonymous_message_replaces_nothing(history, ably):
    for number, (name, data) in enumerate([("start", None), ("token", "gone ")]):
        await history._channel.publish("ai:v9", [Outgoing(name, data, f"b-{number}", None)])
    await history.catch_up("v9")
    ably.expire("ai:v9")
    for number, (name, data) in enumerate([("token", "kept"), ("stop", None)], 2):
        await history._channel.publish("ai:v9", [Outgoing(name, data, f"b-{number}", None)])
    assert (await history.verify("v9", mend=True)) == (1, 0, [])
    assert await text(history, "v9") == "gone kept"


async def test_an_end_that_was_never_published_is_published_with_the_text(
    history, ably, monkeypatch
):
    async def commit_only(publication, ledger, keeping):
        await keeping.close()
        await ledger.commit(publication, await publication.end())

    monkeypatch.setattr(responding, "_end", commit_only)
    async with history.respond("v4", "r1") as response:
        response.write("one ")
        await until(lambda: shown(history, "ai:v4"))
        with ably.faults.on("refuse_publish", code=42911) as fault:
            response.write("two")
            await until(lambda: fault.fired)
    (finding,) = (await history.verify("v4", mend=True)).findings
    assert (finding.fault, finding.mended) == ("channel", True)
    assert not (await history.verify("v4")).findings
    assert await shown(history, "ai:v4") == ["start", "token", "response-complete", "stop"]


async def test_the_committed_text_of_our_own_publisher_wins_over_the_channel(history):
    async with history.respond("v5", "r1") as response:
        response.write("what readers saw")
    await spoil(history, "v5", "what was committed")
    (finding,) = (await history.verify("v5", mend=True)).findings
    assert (finding.fault, finding.mended) == ("channel", True)
    assert await text(history, "v5") == "what was committed"
    assert not (await history.verify("v5")).findings


async def test_a_posted_text_wins_over_the_channel_that_streams_its_id(history):
    for seq, (name, text_) in enumerate([("start", None), ("token", "other"), ("stop", None)]):
        await publish_message(history, "v9", seq, name, text_)
    await history.store_messages("v9", [NewMessage("r1", "assistant", text="posted")])
    (finding,) = (await history.verify("v9", mend=True)).findings
    assert (finding.fault, finding.mended) == ("channel", True)
    assert await text(history, "v9") == "posted"
    assert not (await history.verify("v9")).findings


async def test_a_message_whose_start_expired_is_compared_from_there_on(history, ably):
    await publish_message(history, "v6", 0, "start")
    await publish_message(history, "v6", 1, text="gone ")
    await history.catch_up("v6")
    ably.expire("ai:v6")
    await publish_message(history, "v6", 2, text="kept")
    await publish_message(history, "v6", 3, "stop")
    assert (await history.verify("v6")) == (1, 0, [])
    await spoil(history, "v6", "gone ", "kepd")
    (finding,) = (await history.verify("v6")).findings
    assert finding.detail.startswith("from seq 2 on")


async def test_an_erased_text_is_not_published_to_mend_the_channel(history):
    async with history.respond("v7", "r1") as response:
        response.write("what readers saw")
    await spoil(history, "v7", "what was committed")
    asked = []

    async def erase():
        asked.append(1)
        if len(asked) == 2:  # the permit to publish
            async with history._store.locked("v7", "ai:v7") as locked:
                await locked.erase(history._channel.now_ms(), [])

    ctx = replace(history.context, store=HookedPort(history._store, conversation=erase))
    await verify(ctx, "v7", record=history.catch_up, mend=True)
    assert len(asked) == 2, "the erasure happened"
    assert "response-complete" not in await shown(history, "ai:v7")


async def test_the_command_prints_the_differences_and_exits_with_1(history, database, ably):
    await foreign(history, "v7", "text")
    environment = {
        **os.environ,
        "REHYDRATE_DATABASE_URL": database,
        "ABLY_API_KEY": ably.key,
        "ABLY_ENDPOINT": "127.0.0.1",
        "ABLY_PORT": str(ably.port),
        "ABLY_TLS": "false",
    }

    async def run(*arguments):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rehydrate", *arguments, env=environment, stdout=-1
        )
        async with asyncio.timeout(PATIENCE_S):
            said, _ = await process.communicate()
        return process.returncode, said.decode()

    code, said = await run("verify", "v7")
    assert (code, said) == (0, "compared 1 of 1 messages on the channel; 0 differ\n")
    await spoil(history, "v7", "texd")
    code, said = await run("verify", "v7")
    assert code == 1
    assert said.startswith("r1: store is wrong: part 0 differs from character 3 on")
    assert (await run("verify", "v7", "--mend"))[0] == 0
    assert await text(history, "v7") == "text"
    assert await run("erase", "v7") == (0, "erased\n")
    assert (await history.hydrate("v7")).messages == []


class Forgetful:
    """A channel whose history shows only what was published after it was made."""

    def __init__(self, channel):
        self._channel, self._since_ms, self.hidden = channel, None, 0

    async def forget(self, name):
        """Show nothing of what was published so far."""
        pages = self._channel.history(name, forwards=True)
        self._since_ms = 1 + max([m.timestamp_ms async for page in pages for m in page])
        await asyncio.sleep(0.01)  # later messages have later times

    async def history(self, *args, **more):
        async for page in self._channel.history(*args, **more):
            shown = [m for m in page if m.timestamp_ms >= self._since_ms]
            self.hidden += len(page) - len(shown)
            yield shown


@pytest.mark.parametrize("expired", [False, True])
async def test_a_lost_interval_is_closed_if_the_channel_shows_all_of_it(chat, adapters, expired):
    await chat.publish_response("r", "ab", stop=False)
    # shown again, the first messages are older than the interval, which begins 2 s before this
    await chat.catch_up(ahead_ms=0 if expired else 3_000)
    forgetful = Forgetful(chat.channel)
    await chat.publish_message("token", "c", responseId="r", seq=3)
    await forgetful.forget(chat.name)
    if expired:
        adapters.server.expire(chat.name)
    await chat.publish_message("token", "d", responseId="r", seq=4)
    await chat.catch_up(channel=forgetful, ahead_ms=200_000)
    assert forgetful.hidden or expired
    assert len((await chat.row()).holes) == 1

    async def record(_):
        return await chat.catch_up(ahead_ms=200_000)

    ctx = chat.context(ahead_ms=200_000)
    await verify(ctx, chat.id, record=record)
    assert len((await chat.row()).holes) == 1, "without mend, nothing changes"
    await verify(ctx, chat.id, record=record, mend=True)
    hydrated = await chat.hydrate(ahead_ms=200_000)
    codes = [reason.code for reason in hydrated.reasons]
    assert codes == (["history_expired", "not_exact"] if expired else [])
    assert hydrated.messages[0]["text"] == ("abd" if expired else "abcd")
