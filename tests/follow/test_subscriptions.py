"""Following, over Postgres, the channel server and the stock SDK."""

from __future__ import annotations

import pytest

from participants import completed, reading
from rehydrate.core.event import Event
from rehydrate.follow import event_buffer, subscriptions
from rehydrate.follow.subscriptions import PromptWatcher
from rehydrate.record.import_messages import NewMessage

pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning:ably")


async def test_a_follower_of_an_empty_conversation_gets_an_empty_snapshot_then_live_events(
    history, conversation, publisher
):
    async with reading(history, conversation) as follower:
        reader = await follower.until(lambda r: r.snapshots)
        assert reader.snapshots[0]["messages"] == []
        await publisher.publish_message("user-input", {"promptId": "p", "text": "語?"})
        await publisher.stream("r", "héllo 👩‍👩‍👧")
        await follower.until(lambda r: r.statuses.get("r") == "completed")
    assert reader.texts == {"p": "語?", "r": "héllo 👩‍👩‍👧"}
    assert reader.kinds == ["snapshot", "prompt", "start", *["token"] * 11, "stop"]
    assert not reader.wrong


async def test_a_late_follower_gets_finished_and_open_responses_and_then_continues_live(
    history, conversation, publisher
):
    await publisher.stream("done", "finished")
    for seq in range(5):
        for rid in ("a", "b", "c"):
            await publisher.publish_message(
                "token" if seq else "start", f"{rid}{seq}", rid=rid, seq=seq
            )
    async with reading(history, conversation) as follower:
        reader = await follower.until(lambda r: r.snapshots)
        await publisher.publish_message("token", "a5", rid="a", seq=5)
        await publisher.publish_message("stop", rid="b", seq=5)
        await follower.until(lambda r: r.statuses.get("b") == "completed")
    assert reader.texts == {
        "done": "finished",
        "a": "a1a2a3a4a5",
        "b": "b1b2b3b4",
        "c": "c1c2c3c4",
    }
    assert len(reader.snapshots) == 1
    assert reader.snapshots[0]["complete"]
    assert not reader.wrong


async def test_messages_stored_without_the_channel_appear_in_the_snapshot_and_in_a_new_one(
    history, conversation
):
    await history.store_messages(conversation, [NewMessage("m1", "assistant", text="one")])
    async with reading(history, conversation) as follower:
        reader = await follower.until(lambda r: r.texts == {"m1": "one"})
        await history.store_messages(conversation, [NewMessage("m2", "user", text="two")])
        await follower.until(lambda r: r.texts == {"m1": "one", "m2": "two"})
    assert reader.kinds == ["snapshot", "snapshot"]


async def test_a_slow_follower_gets_a_new_snapshot_and_does_not_delay_others(
    history, conversation, publisher, monkeypatch
):
    monkeypatch.setattr(event_buffer, "MAX_EVENTS", 20)
    async with history.joined(conversation) as slow, reading(history, conversation) as fast:
        assert (await slow.batch())[0].kind == "snapshot"
        await fast.until(lambda r: r.snapshots)
        for seq in range(50):
            await publisher.publish_message("token", str(seq % 10), rid="r", seq=seq + 1)
            await fast.until(lambda r, n=seq + 1: len(r.texts.get("r", "")) == n)
        assert len(fast.reader.snapshots) == 1
        (snapshot,) = await slow.batch()
        assert snapshot.kind == "snapshot"
        assert snapshot.data["messages"][0]["text"] == "0123456789" * 5
        await publisher.publish_message("token", "!", rid="r", seq=51)
        (last,) = await slow.batch()
        assert last.data["text"] == "!"


async def test_a_replay_is_followed_live_from_its_start_and_no_snapshot_contains_it(
    history, conversation, publisher
):
    async with reading(history, conversation) as early:
        await early.until(lambda r: r.snapshots)
        await publisher.publish_message("start", rid="again-r", seq=0, replayOf="r")
        await publisher.publish_message("token", "a", rid="again-r", seq=1, replayOf="r")
        await early.until(lambda r: r.texts.get("again-r") == "a")
        async with reading(history, conversation) as late:
            await late.until(lambda r: r.snapshots)
            await publisher.publish_message("token", "b", rid="again-r", seq=2, replayOf="r")
            await publisher.publish_message("stop", rid="again-r", seq=3, replayOf="r")
            await publisher.stream("r2", "x")
            await early.until(completed("again-r", "r2"))
            await late.until(completed("r2"))
    assert early.reader.texts == {"again-r": "ab", "r2": "x"}
    assert late.reader.texts in ({"r2": "x"}, early.reader.texts)  # all of it or none of it
    assert all("again-r" not in str(each) for each in late.reader.snapshots)


class ScriptedFollower:
    """Returns *batches* one after the other, then empty ones; records the time limit of each."""

    def __init__(self, *batches):
        self.ended = False
        self.limits_s = []
        self._batches = list(batches)

    async def batch(self, limit_s):
        self.limits_s.append(limit_s)
        return self._batches.pop(0) if self._batches else []


async def test_a_prompt_allows_several_checks_in_short_succession(monkeypatch):
    monkeypatch.setattr(subscriptions, "_RECHECK_S", 0.001)
    monkeypatch.setattr(subscriptions, "_RECHECKS", 2)
    token, prompt = Event("token", "r", seq=1, text="x"), Event("prompt", "p", text="?")
    follower = ScriptedFollower([token], [prompt])
    watcher = PromptWatcher(follower)
    assert await watcher.wait()
    first, second = follower.limits_s
    assert subscriptions._POLL_S >= first >= second > 0, "one wait, in which a token came first"
    assert await watcher.wait()
    assert await watcher.wait()
    assert max(follower.limits_s[2:]) <= 0.001, "both rechecks end without a prompt"
    follower.ended = True
    assert not await watcher.wait()


async def test_without_prompts_there_is_a_check_at_every_poll(monkeypatch):
    monkeypatch.setattr(subscriptions, "_POLL_S", 0.001)
    follower = ScriptedFollower()
    assert await PromptWatcher(follower).wait()
    assert 0 < max(follower.limits_s) <= 0.001
