"""The two follow strategies, rewind and history: each is the fallback of the other."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager, contextmanager

import pytest
from ably.transport.defaults import Defaults

from localably import Key, LocalAbly, LocalAblySettings
from localably.capability import ServerCapability
from participants import Reader, history_over, publisher_to, reading, settings_for
from rehydrate.follow import resync
from rehydrate.history import History
from waiting import PATIENCE_S

pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning:ably")
LONG = "".join(chr(0x3042 + n % 80) for n in range(140))


@pytest.fixture(params=["rewind", "history"])
def strategy(request):
    return request.param


@pytest.fixture
async def history(module_database, server, strategy):
    """An open `History` that follows with this strategy."""
    async with history_over(module_database, server, follow_strategy=strategy) as made:
        yield made


def history_reads(history, monkeypatch):
    """Return a list that collects the channels whose history is read for followers."""
    found, read_history = [], history._channel.history

    def recorded(channel, **how):
        if "limit" not in how:  # the recorder passes a limit
            found.append(channel)
        return read_history(channel, **how)

    monkeypatch.setattr(history._channel, "history", recorded)
    return found


async def snapshot_with(history, conversation, text):
    """Follow until the text of `r` is *text*; return the first snapshot."""
    async with reading(history, conversation) as follower:
        reader = await follower.until(lambda r: r.texts.get("r") == text)
    return reader.snapshots[0]


async def test_history_is_read_only_by_the_history_strategy_if_the_rewind_reaches_the_store(
    history, publisher, conversation, strategy, monkeypatch
):
    await publisher.stream("r", "ab", stop=False)
    await history.catch_up(conversation)
    await publisher.stream("r", "c", first=3, start=False, stop=False)
    reads = history_reads(history, monkeypatch)
    snapshot = await snapshot_with(history, conversation, "abc")
    assert snapshot["complete"]
    assert bool(reads) is (strategy == "history")


async def test_history_is_read_if_the_rewind_was_cut_short(
    history, publisher, conversation, strategy, monkeypatch
):
    """140 tokens, of which an attach rewinds at most 100; SDKs do not report the cut (gap 6)."""
    await publisher.stream("r", LONG, stop=False)
    reads = history_reads(history, monkeypatch)
    snapshot = await snapshot_with(history, conversation, LONG)
    assert (snapshot["complete"], snapshot["messages"][0]["text"]) == (True, LONG)
    assert reads


async def test_a_key_without_history_capability_uses_the_rewind_with_either_strategy(
    module_database, conversation, strategy
):
    keys = [Key("app", "whole", "w" * 32)]
    keys.append(Key("app", "narrow", "n" * 32, ServerCapability({"*": ["subscribe", "publish"]})))
    async with (
        LocalAbly(keys=keys) as server,
        history_over(module_database, server) as recorder,
        publisher_to(server, f"ai:{conversation}") as publisher,
    ):
        await publisher.stream("r", "ab", stop=False)
        await recorder.catch_up(conversation)
        await publisher.stream("r", "c", first=3, start=False, stop=False)
        narrow = {"ably_api_key": keys[1].value, "follow_strategy": strategy}
        async with History(settings_for(module_database, server, **narrow)) as history:
            snapshot = await snapshot_with(history, conversation, "abc")
    assert (snapshot["complete"], snapshot["reasons"]) == (True, [])


READ_ONLY = ServerCapability({"*": ["subscribe", "history"]})


@asynccontextmanager
async def late_rewind(database, conversation, strategy, capability=None):
    """A followed conversation with 150 recent tokens without seq, of which an attach rewinds 100.

    50 of them are recorded, and the rewind arrives 1.5 s after the attach. Yield the history, the
    publisher and the text.
    """
    keys = [Key("app", "whole", "w" * 32)]
    if capability is not None:
        keys.append(Key("app", "narrow", "n" * 32, capability))
    text = LONG + LONG[:10]
    async with (
        LocalAbly(keys=keys) as server,
        publisher_to(server, f"ai:{conversation}") as publisher,
        history_over(database, server) as recorder,
    ):
        await publisher.publish_message("start", rid="r")
        for at, letter in enumerate(text):
            if at == 10:
                await recorder.catch_up(conversation)
            await publisher.publish_message("token", letter, rid="r")
        settings = {"ably_api_key": keys[-1].value, "follow_strategy": strategy}
        async with History(settings_for(database, server, **settings)) as history:
            with server.faults.on("delay_backlog", ms=1_500) as late:
                yield history, publisher, text
            assert late.fired


async def texts_shown(history, conversation, text):
    """Follow until the text of `r` is *text*; return every text that was shown."""
    reader, shown = Reader(), [""]
    async with asyncio.timeout(PATIENCE_S), aclosing(history.follow(conversation)) as events:
        while shown[-1] != text:
            reader.apply(await anext(events))
            shown.append(reader.texts.get("r", ""))
    return shown


@pytest.mark.parametrize("capability", [None, READ_ONLY], ids=["publishes", "reads only"])
async def test_text_is_never_joined_over_a_rewind_that_is_still_arriving(
    module_database, conversation, strategy, capability
):
    async with late_rewind(module_database, conversation, strategy, capability) as followed:
        history, publisher, text = followed
        following = asyncio.create_task(texts_shown(history, conversation, f"{text}!"))
        await publisher.publish_message("token", "!", rid="r")
        for shown in await following:
            assert f"{text}!".startswith(shown)


async def test_answers_do_not_lack_a_rewind_that_is_still_arriving(
    module_database, conversation, strategy
):
    async with (
        late_rewind(module_database, conversation, strategy) as (history, _, text),
        reading(history, conversation) as follower,
    ):
        await follower.until(lambda r: r.snapshots)
        hydrated = await history.hydrate(conversation)
        assert [m["text"] for m in hydrated.messages] == [text]
        await follower.until(lambda r: r.texts["r"] == text)


async def test_with_a_key_that_only_reads_a_message_newer_than_the_attach_proves_its_rewind(
    module_database, conversation, strategy, monkeypatch
):
    async with (
        late_rewind(module_database, conversation, strategy, READ_ONLY) as followed,
        reading(followed[0], conversation) as follower,
    ):
        history, publisher, text = followed
        await follower.until(lambda r: r.texts.get("r") == text)
        feed = history._subscriptions._feeds[conversation]
        while not await feed.is_up_to_date(None):
            text += "."
            await publisher.publish_message("token", ".", rid="r")
            await follower.until(lambda r, text=text: r.texts["r"] == text)
        reads = history_reads(history, monkeypatch)
        hydrated = await history.hydrate(conversation)
        assert ([m["text"] for m in hydrated.messages], reads) == ([text], [])


@contextmanager
def reads_up_to_attach_points(server):
    """Count the reads of history up to an attach point that reach the channel server."""
    with server.faults.on("refuse_until_attach", count=0) as probe:
        yield probe


async def test_only_the_history_strategy_reads_history_up_to_its_attach_point(
    module_database, conversation, strategy, monkeypatch
):
    """Nothing is recorded, so both need history; one read suffices, since the two parts meet."""
    async with (
        LocalAbly() as server,
        history_over(module_database, server, follow_strategy=strategy) as history,
        publisher_to(server, f"ai:{conversation}") as publisher,
    ):
        await publisher.stream("r", LONG, stop=False)
        reads = history_reads(history, monkeypatch)
        with reads_up_to_attach_points(server) as probe:
            snapshot = await snapshot_with(history, conversation, LONG)
    assert (snapshot["complete"], snapshot["messages"][0]["text"]) == (True, LONG)
    assert len(reads) == 1
    assert probe.asked == (1 if strategy == "history" else 0)


async def test_after_a_lost_attachment_history_is_read_up_to_the_new_attach_point(
    module_database, conversation
):
    async with (
        LocalAbly() as server,
        history_over(module_database, server, follow_strategy="history") as history,
        publisher_to(server, f"ai:{conversation}") as publisher,
        reading(history, conversation) as follower,
    ):
        await publisher.stream("r", "ab", stop=False)
        await follower.until(lambda r: r.texts.get("r") == "ab")
        with (
            reads_up_to_attach_points(server) as probe,
            server.faults.on("refuse_resume") as not_resumed,
            server.faults.on("refuse_continuity") as not_continued,
        ):
            server.cut()
            await publisher.stream("r", LONG, first=3, start=False, stop=False)
            reader = await follower.until(lambda r: r.texts.get("r") == f"ab{LONG}")
    assert "again" in reader.kinds
    assert not_resumed.fired or not_continued.fired
    assert probe.asked


async def test_history_that_does_not_reach_a_cut_rewind_yet_is_read_again(
    module_database, conversation, strategy, monkeypatch
):
    """The text has no seq: if the first read were adopted, nothing would show what it lacks."""
    monkeypatch.setattr(resync, "_HISTORY_TIMEOUT_S", PATIENCE_S)
    async with (
        LocalAbly() as server,
        history_over(module_database, server, follow_strategy=strategy) as history,
        publisher_to(server, f"ai:{conversation}") as publisher,
    ):
        for character in LONG:
            await publisher.publish_message("token", character, rid="r")
        with server.faults.on("delay_history", ms=3_600_000) as delayed:
            async with reading(history, conversation) as follower:
                reader = await follower.until(lambda r: r.snapshots)
                snapshot = reader.snapshots[0]
                assert delayed.fired
                server.faults.clear("delay_history")
                await follower.until(lambda r: r.texts.get("r") == LONG)
    assert LONG not in [message["text"] for message in snapshot["messages"]]


@pytest.mark.parametrize("code", [90008, 40024])
async def test_plain_history_is_read_if_history_up_to_the_attach_point_is_refused(
    module_database, conversation, code
):
    async with (
        LocalAbly() as server,
        history_over(module_database, server, follow_strategy="history") as history,
        publisher_to(server, f"ai:{conversation}") as publisher,
    ):
        await publisher.stream("r", LONG, stop=False)
        with server.faults.on("refuse_until_attach", code=code) as refused:
            snapshot = await snapshot_with(history, conversation, LONG)
    assert refused.fired
    assert (snapshot["complete"], snapshot["messages"][0]["text"]) == (True, LONG)


async def test_a_key_without_history_capability_gets_the_hole_before_the_rewind_reported(
    module_database, conversation, strategy
):
    keys = [Key("app", "whole", "w" * 32)]
    keys.append(Key("app", "narrow", "n" * 32, ServerCapability({"*": ["subscribe", "publish"]})))
    async with (
        LocalAbly(keys=keys) as server,
        publisher_to(server, f"ai:{conversation}") as publisher,
    ):
        await publisher.stream("r", LONG, stop=False)
        narrow = {"ably_api_key": keys[1].value, "follow_strategy": strategy}
        async with (
            History(settings_for(module_database, server, **narrow)) as history,
            reading(history, conversation) as follower,
        ):
            reader = await follower.until(lambda r: r.snapshots)
    snapshot = reader.snapshots[0]
    assert not snapshot["complete"]
    assert {reason["code"] for reason in snapshot["reasons"]} & {
        "history_refused",
        "history_expired",
    }
    assert LONG not in reader.texts.values()


@pytest.mark.slow
async def test_after_a_suspension_a_new_snapshot_has_the_messages_published_meanwhile(
    module_database, conversation, strategy, monkeypatch
):
    monkeypatch.setattr(Defaults, "connection_state_ttl", 500)  # ms; the SDK uses this default
    async with (
        LocalAbly(
            settings=LocalAblySettings(connection_state_ttl_s=0.5, max_idle_interval_s=2.0)
        ) as server,
        history_over(module_database, server, follow_strategy=strategy) as history,
        publisher_to(server, f"ai:{conversation}") as publisher,
        reading(history, conversation) as follower,
    ):
        await publisher.publish_message("user-input", {"promptId": "p", "text": "?"})
        await publisher.publish_message("token", "a", rid="r")
        await follower.until(lambda r: r.texts.get("r") == "a")
        client = history._subscriptions._feeds[conversation]._subscription._client
        seen = []
        client.connection.on(lambda change: seen.append(change.current.value))
        await server.stop()
        async with asyncio.timeout(PATIENCE_S):
            while "suspended" not in seen:  # noqa: ASYNC110 - set by an SDK callback
                await asyncio.sleep(0.01)
        await server.start()
        for text in "bc":  # without seq, only the discontinuity shows that they are missing
            await publisher.publish_message("token", text, rid="r")
        reader = await follower.until(lambda r: "bc" in r.texts.get("r", ""))
    assert "again" in reader.kinds
    assert reader.texts["r"] in ("abc", "bc")
