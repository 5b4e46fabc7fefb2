"""`join` over stock ably-python: whole after every fault, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import suppress

import pytest
from ably import AblyRealtime
from ably.types.message import Message
from ably.util.exceptions import AblyException

from localably import LocalAbly
from rehydrate import join, joining
from waiting import PATIENCE_S, until

NAME = "ai:c"
EMPTY = {"messages": [], "reasons": [], "until": None, "rewind_from": None}
RETRY = {"code": "history_unavailable", "retry": True, "detail": ""}
SERVER_ONLY = (
    "ably",
    "asyncpg",
    "sqlalchemy",
    "alembic",
    "fastapi",
    "starlette",
    "pydantic",
    "uvicorn",
)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(joining, "_MAX_PAUSE_S", 0.2)


@pytest.fixture
async def server():
    async with LocalAbly() as opened:
        yield opened


def client_of(server, **options):
    return AblyRealtime(key=server.key, endpoint=f"127.0.0.1:{server.port}", tls=False, **options)


@pytest.fixture
async def ably(server):
    client = client_of(server)
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
async def out(server):
    """The channel, on a connection of a publisher."""
    client = client_of(server)
    try:
        yield client.channels.get(NAME)
    finally:
        await client.close()


async def say(out, name="token", data=None, *, rid="r", **headers):
    await out.publish(
        Message(name=name, data=data, extras={"headers": {"responseId": rid, **headers}})
    )


class Answers:
    """A `load` that returns *answers* one after the other, the last one for ever; an error is raised."""

    def __init__(self, *answers):
        self.asked = []
        self._answers = list(answers)

    async def __call__(self, *, until=None):
        self.asked.append(until)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def text_of(view):
    return "".join(message["text"] for message in view.messages)


async def shown_when(conversation, whole):
    """Iterate until *whole* is true of a view; return it."""
    async with asyncio.timeout(PATIENCE_S):
        async for view in conversation:
            if whole(view):
                return view
    raise AssertionError("the iteration ended")


def is_live(view):
    return view.is_live


def listeners_of(channel):
    """Return how many listeners a channel has: of messages, and of its state."""
    count = 0
    for emitter in (channel._RealtimeChannel__message_emitter, channel):
        for each in ("named", "all"):
            inner = getattr(emitter, f"_EventEmitter__{each}_event_emitter")
            count += sum(len(inner.listeners(event)) for event in inner.event_names())
    return count


def test_importing_join_imports_neither_the_sdk_nor_the_server():
    code = f"import sys, rehydrate; rehydrate.join; print([n for n in {SERVER_ONLY} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("way", [1, 2, 3])
async def test_the_whole_backlog_is_applied_to_an_older_answer(ably, out, way):
    for number in range(60):
        await say(out, data=f"{number},")
    async with join(ably.channels.get(NAME), Answers(EMPTY), way=way) as conversation:
        view = await shown_when(conversation, lambda view: text_of(view).endswith("59,"))
    assert text_of(view) == "".join(f"{number}," for number in range(60))


async def test_a_view_does_not_change_and_unchanged_messages_are_the_same_objects(ably, out):
    async with join(ably.channels.get(NAME), Answers(EMPTY)) as conversation:
        await shown_when(conversation, is_live)
        await say(out, data="other", rid="q")
        await say(out, data="a")
        before = await shown_when(conversation, lambda view: text_of(view) == "othera")
        await say(out, data="b")
        after = await shown_when(conversation, lambda view: text_of(view) == "otherab")
        assert conversation.view == after
    assert text_of(before) == "othera"
    assert [new is old for new, old in zip(after.messages, before.messages, strict=True)] == [
        True,
        False,
    ]
    assert after.open == ("q", "r")


async def test_the_newest_view_is_shown_to_a_slow_consumer(ably, out):
    async with join(ably.channels.get(NAME), Answers(EMPTY)) as conversation:
        await shown_when(conversation, is_live)
        for number in range(50):
            await say(out, data=f"{number},")
        await until(lambda: text_of(conversation.view).endswith("49,"))
        assert text_of(await anext(conversation)).endswith("49,")


async def test_a_message_named_error_does_not_hide_others(ably, out):
    headers = {"headers": {"responseId": "r"}}
    async with join(ably.channels.get(NAME), Answers(EMPTY)) as conversation:
        await shown_when(conversation, is_live)
        named = [("token", "a"), ("error", "not for us"), ("token", "b")]
        await out.publish([Message(name=name, data=data, extras=headers) for name, data in named])
        assert (
            text_of(await shown_when(conversation, lambda view: text_of(view).endswith("b")))
            == "ab"
        )


class TestErrors:
    async def test_an_answer_that_does_not_reach_far_enough_is_requested_again(self, ably):
        behind = EMPTY | {"reasons": [RETRY]}
        load = Answers(behind, behind, EMPTY)
        async with join(ably.channels.get(NAME), load, way=2) as conversation:
            first = await anext(conversation)
            assert (first.is_live, first.reasons) == (False, (RETRY,))
            await shown_when(conversation, is_live)
        assert load.asked[0] is not None, "the second way asks for the attach point"
        assert load.asked[1:] == [None, None], "again is the first way"

    async def test_errors_of_load_are_retried(self, ably, out):
        load = Answers(ConnectionError("no service"), TimeoutError(), EMPTY)
        async with join(ably.channels.get(NAME), load) as conversation:
            await say(out, data="a")
            await shown_when(conversation, lambda view: text_of(view) == "a" and view.is_live)
            assert (conversation.status, conversation.error) == ("live", None)
        assert len(load.asked) == 3
        assert conversation.status == "closed"

    async def test_a_join_that_never_succeeds_raises_its_error_in_the_end(self, ably):
        load = Answers(ConnectionError("no service"))
        channel = ably.channels.get(NAME)
        with pytest.raises(ConnectionError, match="no service"):
            async with join(channel, load) as conversation:
                await anext(conversation)
        assert len(load.asked) == joining.MAX_TRIES
        assert (channel.state, listeners_of(channel)) == ("detached", 0)

    @pytest.mark.parametrize("status", [401, 403, 404])
    async def test_a_refusal_of_load_is_raised_at_once(self, ably, status):
        error = RuntimeError("refused")
        error.status_code = status
        load = Answers(error)
        async with join(ably.channels.get(NAME), load) as conversation:
            with pytest.raises(RuntimeError, match="refused"):
                await anext(conversation)
            assert (conversation.status, conversation.error) == ("failed", error)
            with pytest.raises(RuntimeError, match="refused"):
                await anext(conversation)
        assert len(load.asked) == 1

    async def test_an_attach_that_ably_refuses_once_is_tried_again(self, ably, out, server):
        async with join(ably.channels.get(NAME), Answers(EMPTY)) as conversation:
            await shown_when(conversation, is_live)
            with server.faults.on("refuse_attach", code=50000, count=2) as fault:
                await ably.channels.get(NAME).detach()
                await until(lambda: fault.fired == 2)
            await say(out, data="a")
            await shown_when(conversation, lambda view: text_of(view) == "a" and view.is_live)

    async def test_attaches_that_fail_one_after_the_other_end_a_join(
        self, ably, server, monkeypatch
    ):
        monkeypatch.setattr(joining, "MAX_TRIES", 3)
        channel = ably.channels.get(NAME)
        async with join(channel, Answers(EMPTY)) as conversation:
            await shown_when(conversation, is_live)
            with server.faults.on("refuse_attach", code=50000) as fault:
                await channel.detach()
                with pytest.raises(AblyException, match="50000"):
                    await shown_when(conversation, lambda _: False)
                assert fault.fired == 3
            assert conversation.status == "failed"

    async def test_an_attach_without_permission_is_raised_at_once(self, ably, server):
        with server.faults.on("refuse_attach", code=40160):
            async with join(ably.channels.get(NAME), Answers(EMPTY)) as conversation:
                with pytest.raises(AblyException, match="40160"):
                    await anext(conversation)

    async def test_errors_after_a_success_are_retried_for_as_long_as_they_last(
        self, ably, monkeypatch
    ):
        monkeypatch.setattr(joining, "MAX_TRIES", 2)
        load = Answers(EMPTY, *[ConnectionError("down")] * 4, EMPTY)
        channel = ably.channels.get(NAME)
        async with join(channel, load) as conversation:
            await shown_when(conversation, is_live)
            await channel.detach()
            await until(lambda: conversation.error is not None)
            assert conversation.status == "recovering"
            await shown_when(conversation, is_live)
        assert len(load.asked) == 6

    async def test_an_error_of_the_consumer_ends_the_join(self, ably):
        channel = ably.channels.get(NAME)
        conversation = join(channel, Answers(EMPTY))
        with suppress(ZeroDivisionError):
            async with conversation:
                await shown_when(conversation, is_live)
                raise ZeroDivisionError
        assert (channel.state, listeners_of(channel)) == ("detached", 0)
        assert [view async for view in conversation] == []

    async def test_more_messages_than_may_wait_for_an_answer_cause_a_new_attach(
        self, ably, out, monkeypatch
    ):
        monkeypatch.setattr(joining, "MAX_WAITING", 3)
        came = []
        channel = ably.channels.get(NAME)

        async def load(*, until=None):
            came.append(channel.state)
            if len(came) == 1:
                for number in range(5):
                    await say(out, data=f"{number},")
                await asyncio.sleep(0.3)
            else:
                monkeypatch.setattr(joining, "MAX_WAITING", 10)
            return EMPTY

        async with join(channel, load) as conversation:
            view = await shown_when(conversation, is_live)
            assert text_of(view) == "0,1,2,3,4,"
        assert len(came) == 3, "the second attach rewinds more than may wait, too"


class TestAttachments:
    async def test_a_join_cancelled_and_begun_again_has_an_overlap(self, ably, out):
        """Without seqs nothing shows a gap: an attachment that is not its own would lose text."""
        channel = ably.channels.get(NAME)
        for first in (True, False):
            joined = asyncio.Event()

            async def read(joined=joined):
                async with join(channel, Answers(EMPTY)) as conversation:
                    async for view in conversation:
                        if view.is_live:
                            joined.set()

            if first:
                reading = asyncio.create_task(read())
                await asyncio.wait_for(joined.wait(), PATIENCE_S)
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
                assert (channel.state, listeners_of(channel)) == ("detached", 0)
                for number in range(13):
                    await say(out, data=f"{number},")
        async with join(channel, Answers(EMPTY)) as conversation:
            await say(out, data="end")
            view = await shown_when(conversation, lambda view: text_of(view).endswith("end"))
        assert text_of(view) == "".join(f"{number}," for number in range(13)) + "end"

    @pytest.mark.parametrize("at", ["attach", "load", "live"])
    async def test_cancelled_joins_leave_nothing(self, ably, at):
        channel, loading = ably.channels.get(NAME), asyncio.Event()

        async def load(*, until=None):
            loading.set()
            await asyncio.sleep(PATIENCE_S if at == "load" else 0)
            return EMPTY

        for _ in range(3):
            loading.clear()
            async with join(channel, load) as conversation:
                if at == "load":
                    await loading.wait()
                elif at == "live":
                    await shown_when(conversation, is_live)
                else:
                    await until(lambda: channel.state in ("attaching", "attached"))
            assert (channel.state, listeners_of(channel)) == ("detached", 0)

    async def test_a_channel_that_the_application_uses_is_attached_anew_and_stays_attached(
        self, ably, out
    ):
        channel = ably.channels.get(NAME, params={"echo": "true"})
        heard = []

        def hear(message):
            heard.append(message.data)

        await channel.subscribe(hear)
        await say(out, data="a")
        await until(lambda: heard)
        async with join(channel, Answers(EMPTY)) as conversation:
            await say(out, data="b")
            await shown_when(conversation, lambda view: text_of(view) == "ab" and view.is_live)
            assert channel.options["params"] == {"echo": "true", "rewind": "10s"}
        assert (channel.state, listeners_of(channel)) == ("attached", 1)
        assert channel.options == {"params": {"echo": "true"}}
        await say(out, data="c")
        await until(lambda: heard[-1] == "c")

    async def test_a_channel_that_others_detach_is_attached_again(self, ably, out):
        channel = ably.channels.get(NAME)
        async with join(channel, Answers(EMPTY)) as conversation:
            await shown_when(conversation, is_live)
            await channel.detach()
            await say(out, data="a")
            await shown_when(conversation, lambda view: text_of(view) == "a" and view.is_live)

    async def test_a_lost_continuity_causes_a_new_hydrate(self, ably, out, server):
        load = Answers(EMPTY)
        async with join(ably.channels.get(NAME), load) as conversation:
            await shown_when(conversation, is_live)
            with server.faults.on("refuse_continuity"):
                server.cut()
                await until(lambda: len(load.asked) > 1)
            await say(out, data="a")
            await shown_when(conversation, lambda view: text_of(view) == "a" and view.is_live)

    async def test_two_joins_of_one_channel_settle(self, ably, out):
        channel, loads = ably.channels.get(NAME), [Answers(EMPTY), Answers(EMPTY)]
        async with join(channel, loads[0]) as first:
            await shown_when(first, is_live)
            async with join(channel, loads[1]) as second:
                await shown_when(second, is_live)
                await until(lambda: len(loads[0].asked) > 1)
                await say(out, data="a")
                for each in (first, second):
                    await shown_when(each, lambda view: text_of(view) == "a" and view.is_live)
                assert [len(load.asked) for load in loads] == [2, 1]
                await say(out, data="", rid="q")
                await until(lambda: all(len(each.view.messages) > 1 for each in (first, second)))
                assert [len(load.asked) for load in loads] == [2, 1], "neither disturbs the other"
            await say(out, data="b")
            await shown_when(first, lambda view: text_of(view) == "ab" and view.is_live)

    async def test_a_missing_seq_causes_a_new_hydrate(self, ably, out):
        load = Answers(EMPTY)
        async with join(ably.channels.get(NAME), load) as conversation:
            await shown_when(conversation, is_live)
            for seq, data in ((1, "a"), (3, "c")):
                await say(out, data=data, seq=seq)
            await until(lambda: len(load.asked) > 1)
            await say(out, data="b", seq=2)
            assert json.dumps(conversation.view.messages)
