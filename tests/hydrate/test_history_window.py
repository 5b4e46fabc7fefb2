"""Reading the history that a hydrate needs: since when, early, again, and not at all."""

from __future__ import annotations

import asyncio

import pytest

from laws.memory import memory_context
from rehydrate.context import Prefetch
from rehydrate.core.event import ChannelMessage
from rehydrate.core.positions import HISTORY_LAG_MS, MARGIN_MS
from rehydrate.core.window import Watermark
from rehydrate.errors import ChannelRefused, ChannelUnavailable
from rehydrate.hydrate import history_window
from rehydrate.hydrate.history_window import (
    HistoryQuery,
    early_read,
    from_channel,
    no_history,
)

NOW_MS = 1_767_225_600_000


def message(at_ms, data="x", seq=1):
    headers = {"headers": {"responseId": "r", "seq": seq}}
    return ChannelMessage("token", data, f"m{seq}", f"{at_ms:014d}-000@s:000", at_ms, None, headers)


class Log:
    """A channel's history: what each reading of it shows, or raises."""

    def __init__(self, *shows):
        self.shows = list(shows)
        self.asked = []

    async def history(self, channel, *, since_ms, forwards):
        self.asked.append((channel, since_ms, forwards))
        shown = self.shows.pop(0) if len(self.shows) > 1 else self.shows[0]
        if isinstance(shown, Exception):
            raise shown
        for page in shown:
            await asyncio.sleep(0)
            yield page


def query(at_ms=None, until=None, **more):
    mark = None if at_ms is None else Watermark("s", at_ms, at_ms)
    return HistoryQuery("ai:c", mark, until, NOW_MS, may_have_grown=False, **more)


def over(log):
    return memory_context(None, log, lambda: NOW_MS)


async def read(log, *args):
    return await from_channel(over(log), query(*args))


async def test_history_is_read_from_the_watermark_less_the_margin_to_its_end():
    log = Log([[message(NOW_MS - 2)], [message(NOW_MS - 1, seq=2)]])
    history = await read(log, NOW_MS)
    assert history.failure is None
    assert [event.seq for event in history.events] == [1, 2]
    assert log.asked == [("ai:c", NOW_MS - MARGIN_MS, True)]
    assert history.window.newest_ms == NOW_MS - 1
    assert history.complete_from_ms == NOW_MS - MARGIN_MS


async def test_an_early_read_from_the_very_time_that_is_needed_is_used():
    log = Log([[message(NOW_MS - 2)]])
    async with early_read(over(log), Prefetch("ai:c", NOW_MS - MARGIN_MS), NOW_MS) as early:
        assert early.serves(query(NOW_MS))
        assert not early.serves(query(NOW_MS - 1))
        await from_channel(over(log), query(NOW_MS, early=early))
    assert len(log.asked) == 1


@pytest.mark.parametrize(("lag_ms", "reads"), [(HISTORY_LAG_MS, 1), (HISTORY_LAG_MS - 1, 2)])
async def test_history_without_the_attach_point_is_read_again_only_within_the_lag(
    monkeypatch, lag_ms, reads
):
    monkeypatch.setattr(history_window, "_RETRY_AFTER_S", (0.0,))
    log = Log([[]])
    until = message(NOW_MS - lag_ms).serial
    await from_channel(over(log), query(NOW_MS, until))
    assert len(log.asked) == reads


async def test_without_a_watermark_it_is_read_from_its_beginning():
    log = Log([[]])
    assert (await read(log)).complete_from_ms == 0
    assert log.asked == [("ai:c", None, True)]


async def test_an_early_read_is_used_if_it_began_far_enough_back():
    log = Log([[message(NOW_MS)]])
    async with early_read(over(log), Prefetch("ai:c", NOW_MS - 9_000), NOW_MS) as early:
        history = await from_channel(over(log), query(NOW_MS, early=early))
    assert log.asked == [("ai:c", NOW_MS - 9_000, True)]
    assert len(history.events) == 1


@pytest.mark.parametrize(("name", "since_ms"), [("ai:other", NOW_MS - 9_000), ("ai:c", NOW_MS)])
async def test_an_early_read_by_a_wrong_guess_is_not_in_the_window(name, since_ms):
    log = Log([[message(NOW_MS)]])
    async with early_read(over(log), Prefetch(name, since_ms), NOW_MS) as early:
        await asyncio.sleep(0)
        history = await from_channel(over(log), query(NOW_MS, early=early))
    assert log.asked[-1] == ("ai:c", NOW_MS - MARGIN_MS, True)
    assert len(history.events) == 1


async def test_without_a_guess_nothing_is_read_early():
    log = Log([[]])
    async with early_read(over(log), None, NOW_MS) as early:
        await asyncio.sleep(0)
    assert early is None
    assert log.asked == []


async def test_an_unused_early_read_that_fails_raises_nothing():
    log = Log(ChannelUnavailable("away"))
    async with early_read(over(log), Prefetch("ai:c", NOW_MS), NOW_MS):
        await asyncio.sleep(0)
    assert len(log.asked) == 1


async def test_a_young_attach_point_that_is_not_shown_yet_is_looked_for_again(monkeypatch):
    monkeypatch.setattr(history_window, "_RETRY_AFTER_S", (0, 0))
    until = f"{NOW_MS:014d}-000@s"
    log = Log([[]], [[]], [[message(NOW_MS)]])
    history = await read(log, NOW_MS, until)
    assert history.failure is None
    assert history.shows(until)
    assert len(log.asked) == 3
    assert len(history.events) == 1


async def test_an_old_attach_point_is_not_waited_for():
    log = Log([[]])
    await read(log, None, f"{NOW_MS - 60_000:014d}-000@s")
    assert len(log.asked) == 1


@pytest.mark.parametrize(
    ("error", "code", "retry"),
    [
        (ChannelUnavailable("away"), "history_unavailable", True),
        (ChannelRefused(40160, "no"), "history_refused", False),
    ],
)
async def test_the_window_says_why_history_could_not_be_read(error, code, retry):
    history = await read(Log(error))
    assert (history.failure.code, history.failure.retry) == (code, retry)
    assert history.complete_from_ms is None


async def test_a_failure_keeps_the_pages_that_were_read_before_it():
    class Broken(Log):
        async def history(self, *args, **how):
            async for page in super().history(*args, **how):
                yield page
            raise ChannelUnavailable("away")

    history = await read(Broken([[message(NOW_MS)]]))
    assert history.failure is not None
    assert len(history.events) == 1


async def test_history_that_takes_too_long_is_given_up(monkeypatch):
    monkeypatch.setattr(history_window, "HISTORY_TIMEOUT_S", 0.01)

    class Stuck:
        async def history(self, *_, **__):
            await asyncio.sleep(60)
            yield []

    assert (await read(Stuck())).failure.code == "history_unavailable"


def test_the_window_of_an_answer_from_the_store_alone_is_empty_and_meets_it():
    history = no_history(NOW_MS)
    assert (list(history.events), history.meets_store, history.failure) == ([], True, None)
