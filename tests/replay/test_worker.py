"""Worker: any process runs, continues, cancels and ends replays."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

from conftest import connected
from localably import LocalAbly, LocalAblySettings
from participants import publisher_to, reading
from rehydrate import NewMessage
from rehydrate.errors import ChannelUnavailable
from rehydrate.replay import replay_run, worker
from replay.replay_conversation import TOKENS, folded, replay_conversation
from shared_adapters import Latch
from tcp_proxy import TcpProxy
from waiting import PATIENCE_S

LONG = [f"{number} " for number in range(40)]
SLOW = {"speed": 0, "max_rate": 20}
LAST_ATTEMPT = ("attempts = $1", worker.MAX_ATTEMPTS)


@pytest.fixture
async def alone(database, replay_server):
    async with replay_conversation(database, replay_server, replay_channels="demo:*") as made:
        yield made


@pytest.fixture
def short_leases(monkeypatch):
    """Shorten leases to a second."""
    monkeypatch.setattr(worker, "LEASE_S", 1.0)
    monkeypatch.setattr(replay_run, "LEASE_S", 1.0)


async def kill(dying):
    """End the worker of a process without releasing its leases."""
    for run in dying._runs.values():
        run._replays = None
    await dying.close()


async def until(condition):
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - there is no event to await
            await asyncio.sleep(0.02)


def texts(events):
    return [e.text for e in events if e.kind == "token"]


async def test_a_process_that_closes_releases_a_replay_and_another_continues_at_once(
    alone, database
):
    await alone.respond("r", LONG)
    async with replay_conversation(database, alone.server) as other:
        async with reading(other.history, alone.id) as reader:
            await reader.until(lambda r: r.snapshots)
            replay = await alone.history.replay(alone.id, "r", **SLOW)
            await alone.reached(replay, 5)
            await alone.history._replay_worker.close()
            there = other._replace(id=alone.id)
            ended = await there.ended(replay)
            assert (ended.state, ended.done) == ("done", len(LONG))
            seen = await reader.until(lambda r: r.statuses.get(replay.id) == "completed")
        assert seen.texts[replay.id] == "".join(LONG)
        assert not seen.wrong
        assert texts(await there.events(replay)) == LONG


async def test_the_replay_of_a_dead_process_is_continued(alone, database, short_leases):
    await alone.respond("r", LONG)
    replay = await alone.history.replay(alone.id, "r", **SLOW)
    await alone.reached(replay, 5)
    await kill(alone.history._replay_worker)
    async with replay_conversation(database, alone.server) as other:
        there = other._replace(id=alone.id)
        ended = await there.ended(replay)
        assert (ended.state, ended.done) == ("done", len(LONG))
        events = await there.events(replay)
        assert texts(events) == LONG
        assert folded(events, replay.id).status == "completed"


async def test_a_cancelled_replay_ends_on_the_channel_and_repeating_changes_nothing(alone):
    await alone.respond("r", LONG)
    async with reading(alone.history, alone.id) as reader:
        await reader.until(lambda r: r.snapshots)
        replay = await alone.history.replay(alone.id, "r", **SLOW)
        await alone.reached(replay, 3)
        cancelled = await alone.history.admin.cancel_replay(replay.id)
        assert cancelled.state == "cancelled"
        seen = await reader.until(lambda r: r.statuses.get(replay.id) == "cancelled")
    assert "".join(LONG).startswith(seen.texts[replay.id])
    assert not seen.wrong
    assert await alone.history.admin.cancel_replay(replay.id) == cancelled
    assert [e.kind for e in await alone.events(replay)].count("stop") == 1


async def test_a_replay_that_is_cancelled_before_it_publishes_anything_publishes_nothing(
    alone, monkeypatch
):
    await alone.respond("r", LONG)
    loading, load = Latch(), alone.history._store.states

    async def states(*args):
        await loading()
        return await load(*args)

    replay = await alone.history.replay(alone.id, "r", **SLOW)
    first = await alone.history.admin.cancel_replay(replay.id)
    assert first.ended
    monkeypatch.setattr(alone.history._replay_worker, "_state", lambda r: states_of(states, r))
    second = await alone.history.replay(alone.id, "r", **SLOW)
    await loading.reached()
    cancelling = asyncio.create_task(alone.history.admin.cancel_replay(second.id))
    await until(lambda: alone.history._replay_worker._runs[second.id].replay.cancel_asked)
    loading.open()
    assert (await cancelling).state == "cancelled"
    assert await alone.events(second) == []


async def states_of(states, replay):
    (state,) = await states(replay.conversation_id, [replay.response_id])
    return state


async def test_any_process_can_cancel_a_replay(alone, database):
    await alone.respond("r", LONG)
    async with replay_conversation(database, alone.server) as other:
        replay = await alone.history.replay(alone.id, "r", **SLOW)
        await alone.reached(replay, 3)
        await other.history.admin.cancel_replay(replay.id)
        assert (await alone.ended(replay)).state == "cancelled"
    assert folded(await alone.events(replay), replay.id).status == "cancelled"


async def test_a_queued_replay_is_cancelled_before_it_publishes_anything(alone):
    await alone.respond("r", LONG)
    first = await alone.history.replay(alone.id, "r", **SLOW)
    second = await alone.history.replay(alone.id, "r", speed=0)
    await alone.reached(first, 1)
    cancelled = await alone.history.admin.cancel_replay(second.id)
    assert (cancelled.state, cancelled.started_ms) == ("cancelled", None)
    assert await alone.events(second) == []
    await alone.history.admin.cancel_replay(first.id)


async def test_replays_on_one_channel_run_one_after_the_other(alone):
    await alone.respond("r", LONG[:10])
    both = [await alone.history.replay(alone.id, "r", **SLOW) for _ in range(2)]
    first, second = [await alone.ended(each) for each in both]
    assert first.finished_ms <= second.started_ms
    assert [texts(await alone.events(each)) for each in both] == [LONG[:10]] * 2


async def test_after_an_erasure_was_answered_a_replay_publishes_only_its_stop(alone, database):
    await alone.respond("r", LONG)
    replay = await alone.history.replay(alone.id, "r", **SLOW)
    async with replay_conversation(database, alone.server) as other:
        await alone.reached(replay, 3)
        await other.history.erase(alone.id)
        published = texts(await alone.events(replay))
        await asyncio.sleep(0.5)
        assert texts(await alone.events(replay)) == published
        ended = await alone.ended(replay)
    events = await alone.events(replay)
    assert (ended.state, ended.error["code"]) == ("cancelled", "erased")
    assert texts(events) == published
    assert 3 <= len(published) < len(LONG)
    assert [e.kind for e in events].count("stop") == 1
    assert folded(events, replay.id).status == "cancelled"


async def test_a_replay_whose_store_is_away_stops_before_an_erasure_is_answered(
    database, replay_server
):
    async with (
        TcpProxy(database) as proxy,
        replay_conversation(proxy.url, replay_server) as cut_off,
        replay_conversation(database, replay_server) as other,
    ):
        await other.history._replay_worker.close()
        await cut_off.respond("r", LONG)
        replay = await cut_off.history.replay(cut_off.id, "r", speed=0, max_rate=8)
        there = other._replace(id=cut_off.id)
        await there.reached(replay, 3)
        await proxy.disconnect()
        await other.history.erase(cut_off.id)
        published = texts(await there.events(replay))
        await asyncio.sleep(0.5)
        assert texts(await there.events(replay)) == published
        await proxy.connect()
        ended = await there.ended(replay)
        events = await there.events(replay)
    assert (ended.state, ended.error["code"]) == ("cancelled", "erased")
    assert texts(events) == published
    assert 3 <= len(published) < len(LONG)
    assert folded(events, replay.id).status == "cancelled"


async def test_what_waits_for_a_connection_is_not_published_after_an_erasure(
    database, replay_server
):
    async with TcpProxy(f"http://user@127.0.0.1:{replay_server.port}") as proxy:
        far = SimpleNamespace(key=replay_server.key, port=urlsplit(proxy.url).port)
        async with (
            replay_conversation(database, far) as cut_off,
            replay_conversation(database, replay_server) as other,
        ):
            await other.history._replay_worker.close()
            there = other._replace(id=cut_off.id)
            await there.respond("r", LONG)
            replay = await cut_off.history.replay(there.id, "r", speed=0, max_rate=10)
            await there.reached(replay, 3)
            await proxy.disconnect()
            unsent = cut_off.history._channel._slots._slots[0].sender._unacknowledged
            await until(lambda: len(unsent) > 3)
            await other.history.erase(there.id)
            published = texts(await there.events(replay))
            await proxy.connect()
            ended = await there.ended(replay, within_s=60)
            events = await there.events(replay)
    assert (ended.state, ended.error["code"]) == ("cancelled", "erased")
    assert texts(events) == published
    assert folded(events, replay.id).status == "cancelled"


async def test_a_dead_process_s_stream_of_an_erased_text_gets_its_stop_from_another(
    alone, database, short_leases
):
    await alone.respond("r", LONG)
    replay = await alone.history.replay(alone.id, "r", **SLOW)
    await alone.reached(replay, 5)
    await kill(alone.history._replay_worker)
    await alone.history.erase(alone.id)
    async with replay_conversation(database, alone.server) as other:
        there = other._replace(id=alone.id)
        ended = await there.ended(replay)
        events = await there.events(replay)
    assert (ended.state, ended.error["code"]) == ("cancelled", "erased")
    assert folded(events, replay.id).status == "cancelled"
    assert len(texts(events)) < len(LONG)


async def test_an_erased_text_is_not_published_as_a_repair(alone, database):
    await alone.respond("r", LONG)
    async with replay_conversation(database, alone.server) as other:
        with alone.server.faults.on("refuse_publish", code=42911) as fault:
            replay = await alone.history.replay(alone.id, "r", mode="repair")
            await until(lambda: fault.fired)
            await other.history.erase(alone.id)
        ended = await alone.ended(replay)
    assert (ended.state, ended.error["code"]) == ("cancelled", "erased")
    assert not [e for e in await alone.events() if e.kind == "repair"]


async def test_a_follower_receives_nothing_more_of_a_replay_of_an_erased_response(alone):
    await alone.respond("r", LONG[:3])
    await alone.history.erase(alone.id)
    async with (
        publisher_to(alone.server, f"ai:{alone.id}") as foreign,
        reading(alone.history, alone.id) as reader,
    ):
        await reader.until(lambda r: r.snapshots)
        shown, attempts = "", itertools.count()
        while reader.reader.statuses.get(shown) != "completed":
            # Again only if the follower lost its connection: a snapshot has no replays.
            attempt, snapshots = next(attempts), len(reader.reader.snapshots)
            erased, shown = f"erased-{attempt}", f"shown-{attempt}"
            for rid, of in ((erased, "r"), (shown, "another")):
                await foreign.publish_message("start", rid=rid, seq=0, replayOf=of)
                await foreign.publish_message("token", "late", rid=rid, seq=1, replayOf=of)
                await foreign.publish_message("stop", rid=rid, seq=2, replayOf=of)
            await reader.until(
                lambda r, shown=shown, before=snapshots: (
                    r.statuses.get(shown) == "completed" or len(r.snapshots) > before
                )
            )
    assert reader.reader.texts == {shown: "late"}


async def test_a_continued_replay_skips_no_step_that_only_a_stranger_published(
    alone, database, short_leases
):
    await alone.respond("r", LONG)
    replay = await alone.history.replay(alone.id, "r", **SLOW)
    await alone.reached(replay, 5)
    await kill(alone.history._replay_worker)
    async with publisher_to(alone.server, f"ai:{alone.id}") as stranger:
        for seq in range(1, len(LONG) + 1):
            await stranger.publish_message(
                "token", "?", rid=replay.id, seq=seq, gen=1, replayOf="r"
            )
    async with replay_conversation(database, alone.server) as other:
        there = other._replace(id=alone.id)
        assert (await there.ended(replay)).state == "done"
        events = await there.events(replay)
    assert texts(e for e in events if e.text != "?") == LONG


async def test_a_replay_that_fails_by_a_fault_of_ours_has_failed_after_a_few_attempts(
    database, replay_server, monkeypatch
):
    tried = []

    def broken(state, terms):
        tried.append(state.id)
        raise ZeroDivisionError

    monkeypatch.setattr(worker, "CLAIM_EVERY_S", 0.05)
    monkeypatch.setattr(replay_run, "RETRY_S", 0.01)
    async with replay_conversation(database, replay_server) as alone:
        await alone.respond("r")
        for mode, function in (("stream", "planned"), ("repair", "repair")):
            tried.clear()
            with monkeypatch.context() as patch:
                if mode == "stream":
                    patch.setattr(worker, function, broken)
                else:
                    patch.setattr(worker, function, lambda replay, **_: broken(replay, None))
                replay = await alone.history.replay(alone.id, "r", mode=mode)
                ended = await alone.ended(replay)
            assert len(tried) == worker.MAX_ATTEMPTS
            assert (ended.state, ended.error["code"]) == ("failed", "internal")
            assert "ZeroDivisionError" in ended.error["detail"]
            stops = [e.kind for e in await alone.events(replay)]
            assert stops == (["stop"] if mode == "stream" else [])


async def replay_with_row(alone, database, changes, *values, tokens=TOKENS, **terms):
    """Request a replay, and change its row before the worker claims it."""
    await alone.respond("r", tokens)
    await alone.history._replay_worker.close()
    replay = await alone.history.replay(alone.id, "r", **terms)
    async with connected(database) as connection:
        await connection.execute(f"UPDATE replays SET {changes}", *values)
    alone.history._replay_worker.open()
    return replay


async def test_a_replay_that_runs_far_longer_than_planned_has_failed(alone, database):
    late = "started_at = now() - interval '1 hour'"
    replay = await replay_with_row(alone, database, late, tokens=LONG, **SLOW)
    ended = await alone.ended(replay)
    assert (ended.state, ended.error["code"]) == ("failed", "timeout")
    assert await alone.events(replay) == [], "it has not begun"


async def test_the_stop_of_a_replay_is_published_when_ably_answers_again(
    database, replay_server, monkeypatch
):
    monkeypatch.setattr(worker, "CLAIM_EVERY_S", 0.05)
    monkeypatch.setattr(replay_run, "RETRY_S", 0.01)
    tried = []
    publish = worker.publish_with_retries

    async def away(outlet, event):
        tried.append(event.kind)
        if len(tried) < 4:
            raise ChannelUnavailable("away")
        await publish(outlet, event)

    monkeypatch.setattr(worker, "publish_with_retries", away)
    async with replay_conversation(database, replay_server) as alone:
        replay = await replay_with_row(alone, database, *LAST_ATTEMPT, speed=0)
        ended = await alone.ended(replay)
        events = await alone.events(replay)
    assert tried == ["stop"] * 4
    assert (ended.state, [e.kind for e in events]) == ("failed", ["stop"])


async def test_a_stop_that_ably_never_accepts_is_given_up(database, replay_server, monkeypatch):
    monkeypatch.setattr(worker, "CLAIM_EVERY_S", 0.02)
    monkeypatch.setattr(replay_run, "RETRY_S", 0.001)
    monkeypatch.setattr(replay_run, "MAX_RETRY_S", 0.01)
    tried = []

    async def away(outlet, event):
        tried.append(event.kind)
        raise ChannelUnavailable("away")

    monkeypatch.setattr(worker, "publish_with_retries", away)
    async with replay_conversation(database, replay_server) as alone:
        replay = await replay_with_row(alone, database, *LAST_ATTEMPT, speed=0)
        assert (await alone.ended(replay)).state == "failed"
    assert len(tried) == worker.MAX_STOPS - worker.MAX_ATTEMPTS + 1


async def test_a_replay_survives_lost_connections_to_the_store(alone, database):
    await alone.respond("r", LONG)
    replay = await alone.history.replay(alone.id, "r", **SLOW)
    for done in (5, 15):
        await alone.reached(replay, done)
        async with connected(database) as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
    ended = await alone.ended(replay)
    assert (ended.state, ended.done) == ("done", len(LONG))
    assert texts(await alone.events(replay)) == LONG


async def test_a_replay_fails_if_the_stored_response_changed_meanwhile(alone, database):
    other = """plan = '{"digest":"other"}'"""
    replay = await replay_with_row(alone, database, other, speed=0)
    ended = await alone.ended(replay)
    assert (ended.state, ended.error["code"]) == ("failed", "conflict")
    assert await alone.events(replay) == [], "it has not begun"


async def test_a_replay_that_was_started_too_often_without_progress_has_failed(alone, database):
    replay = await replay_with_row(alone, database, *LAST_ATTEMPT, speed=0)
    ended = await alone.ended(replay)
    assert (ended.state, ended.error["code"]) == ("failed", "attempts")


async def test_a_replay_that_ably_refuses_has_failed_and_names_the_code(alone):
    await alone.respond("r")
    with alone.server.faults.on("refuse_publish", code=40160) as fault:
        replay = await alone.history.replay(alone.id, "r", speed=0)
        ended = await alone.ended(replay)
    assert fault.fired
    assert (ended.state, ended.error["code"]) == ("failed", "channel_unavailable")
    assert "40160" in ended.error["detail"]


async def test_a_publish_that_is_refused_for_its_rate_is_repaired(alone):
    await alone.respond("r", LONG)
    async with reading(alone.history, alone.id) as reader:
        await reader.until(lambda r: r.snapshots)
        replay = await alone.history.replay(alone.id, "r", **SLOW)
        await alone.published(replay, 3)
        with alone.server.faults.on("refuse_publish", code=42911, count=1) as fault:
            await until(lambda: fault.fired)
        ended = await alone.ended(replay)
        assert ended.state == "done"
        seen = await reader.until(lambda r: r.statuses.get(replay.id) == "completed")
    assert seen.texts[replay.id] == "".join(LONG)


async def test_replays_share_the_rate_with_a_response_on_their_channel(database):
    async with (
        LocalAbly(settings=LocalAblySettings(enforce_limits=True)) as server,
        replay_conversation(database, server, replay_channels="demo:*") as chat,
    ):
        await chat.respond("r", LONG)
        replays = [
            await chat.history.replay(chat.id, "r", speed=0, max_rate=50),
            await chat.history.replay(chat.id, "r", speed=0, channel="demo:a"),
            await chat.history.replay(chat.id, "r", speed=0, channel="demo:b"),
        ]
        async with chat.history.respond(chat.id, "live") as response:
            for word in LONG:
                response.write(word)
                await asyncio.sleep(0.02)
        for each in replays:
            ended = await chat.ended(each)
            assert (ended.state, ended.gen) == ("done", 1), "nothing was refused"
            assert texts(await chat.events(each, each.channel)) == LONG


async def test_an_imported_response_is_replayed_at_an_even_pace(alone):
    text = "むかしむかし " * 10
    await alone.history.store_messages(alone.id, [NewMessage("s", "assistant", text=text)])
    replay = await alone.history.replay(alone.id, "s", speed=0, max_rate=50)
    assert replay.plan["even"]
    assert (await alone.ended(replay)).state == "done"
    assert "".join(texts(await alone.events(replay))) == text


async def test_final_states_are_counted_in_the_metrics(alone):
    await alone.respond("r", TOKENS[:2])
    await alone.ended(await alone.history.replay(alone.id, "r", speed=0))
    counted = b'rehydrate_replays_total{state="done"} 1.0'
    await until(lambda: counted in alone.history._metrics.text())
