"""What wakes the recorder: announcements, and the rounds that catch what nobody announced."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from localably import LocalAbly
from rehydrate.errors import Busy, StoreUnavailable
from rehydrate.history import History
from rehydrate.maintenance import poller as waking
from rehydrate.maintenance.poller import Poller, WebhookWakeups
from rehydrate.ports import Outgoing
from rehydrate.settings import load_settings


async def until(condition, *, within_s=10.0):
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - of what has no event for it
            await asyncio.sleep(0.01)


@pytest.fixture
async def ably():
    async with LocalAbly() as running:
        yield running


@asynccontextmanager
async def opened(database, ably, **more):
    settings = load_settings(
        database_url=database,
        ably_api_key=ably.key,
        ably_endpoint="127.0.0.1",
        ably_port=ably.port,
        ably_tls=False,
        **more,
    )
    async with History(settings) as history:
        yield history


async def say(history, channel, text, id_="p-1"):
    data = {"promptId": id_, "text": text}
    await history._channel.publish(channel, [Outgoing("user-input", data, f"id-{id_}")])


async def recorded(history, conversation_id):
    async with asyncio.timeout(15):
        while True:
            page = (await history._store.load(conversation_id, limit=10, before=None)).finished
            if page:
                return [row.id for row in page]
            await asyncio.sleep(0.05)


class TestAnnouncements:
    @pytest.fixture
    def woken(self):
        return []

    async def test_a_row_names_the_conversation_and_else_the_template(self, woken):
        async def find(channels):
            return {"renamed": "by-row"} if "renamed" in channels else {}

        template = {"ai:x": "x", "renamed": "wrong"}.get
        announcements = WebhookWakeups(find, template, woken.append)
        announcements.hear(["ai:x", "renamed", "nobody's"])
        await until(lambda: len(woken) == 2)
        assert sorted(woken) == ["by-row", "x"]
        announcements.hear(["renamed"])
        assert woken[2:] == ["by-row"]  # known by now
        await announcements.close()

    async def test_many_are_looked_up_together(self, woken):
        asked = []

        async def find(channels):
            asked.append(list(channels))
            return {}

        announcements = WebhookWakeups(find, str, woken.append)
        for n in range(500):
            announcements.hear([f"c{n % 50}"])
        await until(lambda: len(woken) == 50)
        assert [len(each) for each in asked] == [50]
        await announcements.close()

    async def test_they_wait_for_the_store_and_are_bounded(self, woken, monkeypatch):
        away = True
        monkeypatch.setattr(waking, "_RETRY_S", 0.01)
        monkeypatch.setattr(waking, "MOST_HEARD", 3)

        async def find(channels):
            if away:
                raise StoreUnavailable("away")
            return {channel: channel for channel in channels}

        announcements = WebhookWakeups(find, lambda _: None, woken.append)
        announcements.hear(f"c{n}" for n in range(10))
        assert announcements.full
        await asyncio.sleep(0.1)
        assert not woken
        away = False
        await until(lambda: len(woken) == 3)
        assert not announcements.full
        await announcements.close()


class TestRounds:
    async def test_what_is_attended_to_is_woken_for_a_while(self):
        woken = []

        async def find():
            return []

        rounds = Poller(find, woken.append, every_s=0.02, for_s=0.1)
        rounds.attend("c")
        assert woken == ["c"]
        rounds.open()
        rounds.open()
        await until(lambda: len(woken) >= 3)
        await until(lambda: not rounds._until_s)
        await rounds.close()
        await rounds.close()

    async def test_what_is_overdue_is_woken_and_a_fault_ends_no_rounds(self, caplog):
        woken, answers = [], [StoreUnavailable("away"), KeyError("secret"), ["c"]]

        async def find():
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if isinstance(answer, Exception):
                raise answer
            return answer

        rounds = Poller(find, woken.append, every_s=0.01, for_s=1)
        rounds.open()
        await until(lambda: woken)
        assert "KeyError" in caplog.text
        assert "secret" not in caplog.text
        await rounds.close()


async def test_an_announcement_has_the_conversation_recorded(database, ably):
    async with opened(database, ably) as history:
        await say(history, "ai:announced", "hello")
        history.hear(["ai:announced", "[meta]whatever", "elsewhere"])
        assert await recorded(history, "announced") == ["p-1"]


async def test_what_this_process_publishes_is_recorded_with_what_others_say(database, ably):
    async with opened(database, ably) as history:
        await say(history, "ai:own", "a prompt")
        async with history.respond("own", "r-1") as response:
            response.write("an answer")
        async with asyncio.timeout(15):
            while len(ids := await recorded(history, "own")) < 2:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.05)
        assert set(ids) == {"p-1", "r-1"}


async def test_what_nobody_announced_is_caught_by_a_round(database, ably):
    async with opened(database, ably) as history:
        async with history._store.locked("quiet", "ai:quiet"):
            pass  # the row of a new conversation, of which nobody says anything any more
        await say(history, "ai:quiet", "unheard")
    async with opened(database, ably, retention_ms=2000) as history:
        assert await recorded(history, "quiet") == ["p-1"]


async def test_no_more_is_taken_on_than_can_wait(database, ably, monkeypatch):
    monkeypatch.setattr(waking, "MOST_HEARD", 0)
    async with opened(database, ably) as history:
        with pytest.raises(Busy):
            history.hear(["ai:x"])
