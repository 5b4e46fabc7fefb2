from __future__ import annotations

import asyncio

import pytest

from rehydrate.core.event import ChannelMessage
from rehydrate.core.window import Watermark
from rehydrate.errors import ChannelRefused, ChannelUnavailable
from rehydrate.hydrate import history_window as walking
from rehydrate.hydrate.history_window import HistoryReader

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


def watermark(at_ms):
    return Watermark("s", at_ms, at_ms)


async def test_history_is_read_from_the_watermark_less_the_margin_to_its_end():
    log = Log([[message(NOW_MS - 2)], [message(NOW_MS - 1, seq=2)]])
    walk = HistoryReader(log, NOW_MS)
    assert await walk.read("ai:c", watermark(NOW_MS), None) is None
    assert [event.seq for event in walk.events] == [1, 2]
    assert log.asked == [("ai:c", NOW_MS - 5_000, True)]
    assert walk.window.newest_ms == NOW_MS - 1


async def test_without_a_watermark_it_is_read_from_its_beginning():
    log = Log([[]])
    await HistoryReader(log, NOW_MS).read("ai:c", None, None)
    assert log.asked == [("ai:c", None, True)]


async def test_what_was_begun_early_is_gone_on_with_if_it_reaches_far_enough_back():
    log = Log([[message(NOW_MS)]])
    walk = HistoryReader(log, NOW_MS)
    async with walk.started_early("ai:c", NOW_MS - 9_000):
        assert await walk.read("ai:c", watermark(NOW_MS), None) is None
    assert log.asked == [("ai:c", NOW_MS - 9_000, True)]
    assert len(walk.events) == 1


@pytest.mark.parametrize(("name", "early_ms"), [("ai:other", NOW_MS - 9_000), ("ai:c", NOW_MS)])
async def test_what_was_begun_early_in_vain_is_not_in_the_walk(name, early_ms):
    log = Log([[message(NOW_MS)]])
    walk = HistoryReader(log, NOW_MS)
    async with walk.started_early(name, early_ms):
        await asyncio.sleep(0)
        assert await walk.read("ai:c", watermark(NOW_MS), None) is None
    assert log.asked[-1] == ("ai:c", NOW_MS - 5_000, True)
    assert len(walk.events) == 1


async def test_an_early_reading_that_nobody_wants_ends_with_the_block():
    log = Log(ChannelUnavailable("away"))
    async with HistoryReader(log, NOW_MS).started_early("ai:c", NOW_MS):
        await asyncio.sleep(0)


async def test_a_young_attach_point_that_is_not_shown_yet_is_looked_for_again(monkeypatch):
    monkeypatch.setattr(walking, "_CATCHING_UP_S", (0, 0))
    until = f"{NOW_MS:014d}-000@s"
    log = Log([[]], [[]], [[message(NOW_MS)]])
    walk = HistoryReader(log, NOW_MS)
    assert await walk.read("ai:c", watermark(NOW_MS), until) is None
    assert len(log.asked) == 3
    assert len(walk.events) == 1


async def test_an_old_attach_point_is_not_waited_for():
    log = Log([[]])
    await HistoryReader(log, NOW_MS).read("ai:c", None, f"{NOW_MS - 60_000:014d}-000@s")
    assert len(log.asked) == 1


@pytest.mark.parametrize(
    ("error", "code", "retry"),
    [
        (ChannelUnavailable("away"), "history_unavailable", True),
        (ChannelRefused(40160, "no"), "history_refused", False),
    ],
)
async def test_why_history_could_not_be_read_is_told(error, code, retry):
    reason = await HistoryReader(Log(error), NOW_MS).read("ai:c", None, None)
    assert (reason.code, reason.retry) == (code, retry)


async def test_history_that_takes_too_long_is_given_up(monkeypatch):
    monkeypatch.setattr(walking, "HISTORY_TIMEOUT_S", 0.01)

    class Stuck:
        async def history(self, *_, **__):
            await asyncio.sleep(60)
            yield []

    reason = await HistoryReader(Stuck(), NOW_MS).read("ai:c", None, None)
    assert reason.code == "history_unavailable"
