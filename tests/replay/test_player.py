"""Playing: every follower has each chunk once, whatever the channel refuses, and its times."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.saying import folded, start, stop, token
from rehydrate.core.client_view import Verdict, View
from rehydrate.core.event import Event
from rehydrate.core.replay.requests import Replay, ReplayTerms
from rehydrate.core.replay.schedule import scheduled
from rehydrate.errors import ChannelRefused, ChannelUnavailable
from rehydrate.replay import player as playing
from rehydrate.replay.player import Player

TERMS = ReplayTerms("stream", 0, "ai:c", 0, 1000.0)
TEXT = "abcdefghijklmnop"


class Wire:
    """An outlet that drops what it had, as Ably does, and refuses what it is told to refuse."""

    def __init__(self):
        self.taken: list[Event] = []
        self.refusing: dict[int, int] = {}
        self.code = 42911
        self.posts = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.view = View({"messages": [], "reasons": []})
        self.again = 0
        self._for_ever = []
        self.dies_at, self.died = 10**9, asyncio.Event()
        self._wanted, self._reached = 0, asyncio.Event()

    async def post(self, event):
        if self.posts >= self.dies_at:
            self.died.set()
            self._for_ever.append(asyncio.get_running_loop().create_future())
            await self._for_ever[-1]
        self.posts += 1
        left = self.refusing.get(event.seq, 0)
        if left:
            self.refusing[event.seq] = left - 1
        else:
            self.take(event)
        await self.gate.wait()
        if left:
            raise ChannelRefused(self.code, "no")
        return [None]

    async def until(self, count):
        """Wait until so many were taken."""
        self._wanted = count
        async with asyncio.timeout(20):
            await self._reached.wait()

    def take(self, event):
        if event.id not in {each.id for each in self.taken}:
            self.taken.append(event)
            if self._wanted and len(self.taken) >= self._wanted:
                self._reached.set()
            self.again += self.view.apply_event(event) is Verdict.AGAIN

    @property
    def shown(self):
        (message,) = self.view.messages
        return message["text"], message["status"]


class Kept:
    """A replay, and what was kept of it."""

    def __init__(self, terms=TERMS, text=TEXT):
        tokens = [token(seq, letter, at_s=seq / 100) for seq, letter in enumerate(text, 1)]
        state = folded(start(), *tokens, stop(len(text) + 1, at_s=0.01 + len(text) / 100))
        self.schedule = scheduled(state, terms)
        self.replay = Replay(
            "c", "x", "r", "ai:c", terms, "running", len(text), 1.0, "a", 0, {}, started_ms=1
        )
        self.wire = Wire()
        self.keeps = 0

    def player(self, **more):
        async def keep():
            self.keeps += 1
            self.replay = self.replay._replace(gen=made.gen, gen_from=made.gen_from)

        made = Player(self.replay._replace(**more), self.schedule, self.wire, None, keep)
        return made


@pytest.fixture
def kept(monkeypatch):
    monkeypatch.setattr(playing, "TRY_AGAIN_S", 0.001)
    return Kept()


async def test_it_says_all_once_and_in_order(kept):
    player = kept.player()
    assert await player.play()
    assert [e.seq for e in kept.wire.taken] == list(range(len(TEXT) + 2))
    assert len({e.id for e in kept.wire.taken}) == len(TEXT) + 2
    assert kept.wire.shown == (TEXT, "completed")
    assert (player.done, player.seconds_done) == (len(TEXT), kept.schedule.seconds)


@pytest.mark.parametrize("seq", [0, 1, 2, 9, len(TEXT), len(TEXT) + 1])
async def test_what_is_refused_is_said_again_and_nobody_is_left_with_a_hole(kept, seq):
    kept.wire.refusing = {seq: 2}
    assert await kept.player().play()
    assert kept.wire.shown == (TEXT, "completed")


async def test_where_a_hole_was_seen_the_stream_begins_again_in_the_next_gen(kept):
    kept.wire.refusing = {5: 1}
    player = kept.player()
    assert await player.play()
    assert kept.wire.again, "a reader saw the hole, and asked for an answer without the replay"
    assert (player.gen, kept.replay.gen) == (2, 2)
    assert [e.kind for e in kept.wire.taken if e.gen == 2][:3] == ["start", "repair", "token"]
    newcomer = View({"messages": [], "reasons": []})
    for each in kept.wire.taken:
        if each.gen == 2:
            assert newcomer.apply_event(each) is Verdict.APPLY
    assert newcomer.messages[0]["text"] == TEXT


async def test_what_is_refused_for_good_is_not_tried_again(kept):
    kept.wire.refusing, kept.wire.code = {0: 99}, 40160
    with pytest.raises(ChannelRefused):
        await kept.player().play()
    kept.wire.refusing, kept.wire.code = {3: 99}, 42911
    with pytest.raises(ChannelUnavailable):
        await kept.player().play()
    assert 99 - kept.wire.refusing[3] <= playing.TRIES


async def test_cancelled_it_ends_behind_what_was_said(kept):
    kept = Kept(TERMS._replace(max_rate=50.0))
    player = kept.player()
    playing_on = asyncio.create_task(player.play())
    await kept.wire.until(4)
    player.cancel()
    assert not await playing_on
    text, status = kept.wire.shown
    assert status == "cancelled"
    assert TEXT.startswith(text)
    assert 2 <= len(text) < len(TEXT)
    assert not kept.wire.again
    assert kept.wire.taken[-1].seq == len(text) + 1


async def test_cancelled_before_anything_was_said_it_begins_and_ends(kept):
    player = kept.player(cancel_asked=True)
    assert not await player.play()
    assert [(e.kind, e.seq) for e in kept.wire.taken] == [("start", 0), ("stop", 1)]
    assert kept.wire.shown == ("", "cancelled")


class Past:
    """A channel whose history shows *events*."""

    def __init__(self, events, error=None):
        self._events = events
        self._error = error

    async def history(self, name, *, since_ms):
        from rehydrate.core.codecs import tokens  # noqa: PLC0415 - of this stand-in
        from rehydrate.core.event import ChannelMessage  # noqa: PLC0415 - as above

        if self._error:
            raise self._error
        page = []
        for number, each in enumerate(self._events):
            name, data, extras = tokens.encode(each)
            page.append(ChannelMessage(name, data, each.id, f"{number:05}", 0, None, extras))
        yield page


@pytest.mark.parametrize("said", [0, 1, 5, len(TEXT) + 1, len(TEXT) + 2])
@pytest.mark.parametrize("noted", [0, 1, 4])
async def test_another_process_goes_on_where_it_was(kept, said, noted):
    await kept.player().play()
    before = kept.wire.taken[:said]
    kept.wire.__init__()
    for each in before:
        kept.wire.take(each)
    noted = max(min(noted, said - 1), 0)
    player = kept.player(done=noted)
    await player.find_place(Past(before), "ai:c", 0)
    assert await player.play()
    assert kept.wire.shown == (TEXT, "completed")
    assert not kept.wire.again
    assert [e.seq for e in kept.wire.taken] == list(range(len(TEXT) + 2))


async def test_without_history_it_says_again_what_was_not_noted_under_the_same_ids(kept):
    await kept.player().play()
    before = kept.wire.taken[:6]
    kept.wire.__init__()
    for each in before:
        kept.wire.take(each)
    player = kept.player(done=2)
    await player.find_place(Past([], ChannelUnavailable("away")), "ai:c", 0)
    assert await player.play()
    assert [e.seq for e in kept.wire.taken] == list(range(len(TEXT) + 2))


async def test_a_hole_that_another_process_left_is_mended(kept):
    await kept.player().play()
    before = [e for e in kept.wire.taken[:7] if e.seq != 4]
    kept.wire.__init__()
    for each in before:
        kept.wire.take(each)
    player = kept.player(done=2)
    await player.find_place(Past(before), "ai:c", 0)
    assert (player.gen, player.gen_from) == (2, 3)
    assert await player.play()
    assert kept.wire.shown == (TEXT, "completed")


async def test_a_later_gen_is_gone_on_with_as_it_began(kept):
    kept.wire.refusing = {5: 1}
    await kept.player().play()
    of_gen_2 = [e for e in kept.wire.taken if e.gen == 2]
    for count in range(1, len(of_gen_2)):
        kept.wire.__init__()
        for each in of_gen_2[:count]:
            kept.wire.take(each)
        player = kept.player(done=4)
        await player.find_place(Past(of_gen_2[:count]), "ai:c", 0)
        assert await player.play()
        assert kept.wire.shown == (TEXT, "completed")
        assert not kept.wire.again


async def test_no_more_wait_for_an_answer_than_may(kept, monkeypatch):
    monkeypatch.setattr(playing, "WINDOW", 4)
    kept.wire.gate.clear()
    playing_on = asyncio.create_task(kept.player(done=1).play())
    await kept.wire.until(4)
    await asyncio.sleep(0.05)
    assert kept.wire.posts == 4
    kept.wire.gate.set()
    assert await playing_on
    assert [e.seq for e in kept.wire.taken] == list(range(2, len(TEXT) + 2))


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time passes at once while nobody has anything to do."""

    now_s = 0.0

    def time(self):
        return self.now_s

    def _run_once(self):
        if not self._ready and self._scheduled:
            self.now_s = max(self.now_s, self._scheduled[0]._when)
        super()._run_once()


def played_at(kept, *, held_up_at=None):
    """When each channel message of a replay was sent, of one that is held up for a second, or not."""

    async def play():
        loop, take = asyncio.get_running_loop(), kept.wire.take

        def noting(event):
            sent_s.append(loop.time())
            if event.seq == held_up_at:
                loop.now_s += 1.0
            take(event)

        kept.wire.take = noting
        assert await kept.player().play()

    sent_s = []
    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(play())
    assert kept.wire.shown[1] == "completed"
    return sent_s


@pytest.mark.parametrize(("speed", "rate"), [(1.0, 200.0), (3.0, 50.0), (0.0, 25.0)])
def test_each_is_sent_when_it_is_due(speed, rate):
    kept = Kept(ReplayTerms("stream", speed, "ai:c", 0, rate), text="x" * 100)
    due_s = [step.at_s for step in kept.schedule.steps]
    assert played_at(kept) == pytest.approx(due_s, abs=1e-3)


def test_held_up_it_catches_up_but_sends_no_more_than_it_may():
    kept = Kept(ReplayTerms("stream", 1.0, "ai:c", 0, 150.0), text="x" * 400)
    sent_s = played_at(kept, held_up_at=50)
    due_s = [step.at_s for step in kept.schedule.steps]
    late_s = [sent - due for sent, due in zip(sent_s, due_s, strict=True)]
    assert late_s[60] > 0.5
    assert late_s[-1] == pytest.approx(0, abs=1e-3)
    assert all(b - a > 1 - 1e-6 for a, b in zip(sent_s, sent_s[151:], strict=False))


@settings(max_examples=40, deadline=None)
@given(
    refusing=st.dictionaries(st.integers(0, len(TEXT) + 1), st.integers(1, 3), max_size=3),
    cuts=st.lists(st.integers(0, 40), max_size=2),
)
def test_whatever_is_refused_and_whoever_dies_a_follower_has_the_whole_in_the_end(refusing, cuts):
    asyncio.run(played_on(refusing, cuts))


async def played_on(refusing, cuts):
    """Play with refusals, killed after so many posts, each time gone on with by another process."""
    kept, done = Kept(), 0
    kept.wire.refusing = refusing
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(playing, "TRY_AGAIN_S", 0.0)
        for number, cut in enumerate([*cuts, 10**6]):
            player = kept.player(done=done)
            kept.wire.dies_at, kept.wire.died = kept.wire.posts + cut, asyncio.Event()
            if number:
                await player.find_place(Past(kept.wire.taken), "ai:c", 0)
            tasks = [asyncio.create_task(each) for each in (player.play(), kept.wire.died.wait())]
            await asyncio.wait(tasks, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            done = max(done, player.done - 1)  # what was noted lags behind
    text, status = kept.wire.shown
    assert (text, status) == (TEXT, "completed")
    for joined in range(len(kept.wire.taken)):
        newcomer = View({"messages": [], "reasons": []})
        for each in kept.wire.taken[joined:]:
            newcomer.apply_event(each)
        whole = [(m["text"], m["status"]) for m in newcomer.messages]
        assert whole in ([], [(TEXT, "completed")]), "joined in the middle: all of it, or nothing"
