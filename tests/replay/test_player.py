"""Player: every follower receives each chunk once and on time, for all refusals of the channel."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.builders import folded, start, stop, token
from rehydrate.core.client_view import Verdict, View
from rehydrate.core.event import Event
from rehydrate.core.replay.schedule import Replay, ReplayTerms, scheduled
from rehydrate.errors import ChannelRefused, ChannelUnavailable, StoreUnavailable
from rehydrate.permits import PermitExpired, PublishPermit, TextErased
from rehydrate.replay import player as playing
from rehydrate.replay.player import Player
from waiting import PATIENCE_S

TERMS = ReplayTerms("stream", 0, "ai:c", 0, 1000.0)
TEXT = "abcdefghijklmnop"


class Wire:
    """An outlet that drops repeated ids, as Ably does, and refuses the seqs in `refusing`."""

    def __init__(self):
        self.taken: list[Event] = []
        self.refusing: dict[int, int] = {}
        self.code = 42911
        self.posts = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.view = View({"messages": [], "reasons": []})
        self.again = 0
        self._never = []
        self.expiring = 0
        self.dies_at, self.died = 10**9, asyncio.Event()
        self._wanted, self._reached = 0, asyncio.Event()

    async def post(self, event, *, is_permitted=None):
        if is_permitted is not None and not is_permitted():
            raise PermitExpired("too late")
        if is_permitted is not None and self.expiring:
            self.expiring -= 1
            raise PermitExpired("too late")
        if self.posts >= self.dies_at:
            self.died.set()
            self._never.append(asyncio.get_running_loop().create_future())
            await self._never[-1]
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
        """Wait until *count* events were accepted."""
        self._wanted = count
        async with asyncio.timeout(PATIENCE_S):
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


class Stored:
    """A replay and its stored progress."""

    def __init__(self, terms=TERMS, text=TEXT):
        tokens = [token(seq, letter, at_s=seq / 100) for seq, letter in enumerate(text, 1)]
        state = folded(start(), *tokens, stop(len(text) + 1, at_s=0.01 + len(text) / 100))
        self.schedule = scheduled(state, terms)
        self.replay = Replay(
            "c", "x", "r", "ai:c", terms, "running", len(text), 1.0, "a", 0, {}, started_ms=1
        )
        self.wire = Wire()
        self.asked = self.away = 0
        self.erased = False

    def player(self, **more):
        async def ask():
            self.asked += 1
            self.replay = self.replay._replace(gen=made.gen, gen_from=made.gen_from)
            if self.away:
                self.away -= 1
                raise StoreUnavailable("away")
            return not self.erased

        permit = PublishPermit(ask)
        made = Player(self.replay._replace(**more), self.schedule, self.wire, None, permit)
        return made


@pytest.fixture
def kept(monkeypatch):
    monkeypatch.setattr(playing, "RETRY_S", 0.001)
    return Stored()


async def test_all_steps_are_published_once_and_in_order(kept):
    player = kept.player()
    assert await player.play()
    assert [e.seq for e in kept.wire.taken] == list(range(len(TEXT) + 2))
    assert len({e.id for e in kept.wire.taken}) == len(TEXT) + 2
    assert kept.wire.shown == (TEXT, "completed")
    assert (player.done, player.seconds_done) == (len(TEXT), kept.schedule.seconds)


@pytest.mark.parametrize("seq", [0, 1, 2, 9, len(TEXT), len(TEXT) + 1])
async def test_a_refused_step_is_published_again_and_no_reader_keeps_a_gap(kept, seq):
    kept.wire.refusing = {seq: 2}
    assert await kept.player().play()
    assert kept.wire.refusing == {seq: 0}, "the fault fired"
    assert kept.wire.shown == (TEXT, "completed")


async def test_after_a_visible_gap_the_stream_continues_in_the_next_gen(kept):
    kept.wire.refusing = {5: 1}
    player = kept.player()
    assert await player.play()
    assert kept.wire.again, "a reader saw the gap, and reloaded"
    assert (player.gen, kept.replay.gen) == (2, 2)
    assert [e.kind for e in kept.wire.taken if e.gen == 2][:3] == ["start", "repair", "token"]
    newcomer = View({"messages": [], "reasons": []})
    for each in kept.wire.taken:
        if each.gen == 2:
            assert newcomer.apply_event(each) is Verdict.APPLY
    assert newcomer.messages[0]["text"] == TEXT


async def test_a_permanent_refusal_is_not_retried_and_a_temporary_one_not_for_ever(kept):
    kept.wire.refusing, kept.wire.code = {0: 99}, 40160
    with pytest.raises(ChannelRefused):
        await kept.player().play()
    assert kept.wire.refusing == {0: 98}
    kept.wire.refusing, kept.wire.code = {3: 99}, 42911
    with pytest.raises(ChannelUnavailable):
        await kept.player().play()
    assert 1 < 99 - kept.wire.refusing[3] <= playing.MAX_ATTEMPTS


async def test_a_cancelled_stream_ends_after_the_published_text(kept):
    kept = Stored(TERMS._replace(max_rate=50.0))
    player = kept.player()
    playing_on = asyncio.create_task(player.play())
    await kept.wire.until(4)
    player.cancel()
    assert not await playing_on
    await player.stop("cancelled")
    text, status = kept.wire.shown
    assert status == "cancelled"
    assert TEXT.startswith(text)
    assert 2 <= len(text) < len(TEXT)
    assert not kept.wire.again
    assert kept.wire.taken[-1].seq == len(text) + 1


async def test_a_stream_that_is_cancelled_before_its_first_step_starts_and_stops(kept):
    player = kept.player(cancel_asked=True)
    assert not await player.play()
    assert not kept.wire.taken
    await player.stop("cancelled")
    assert [(e.kind, e.seq) for e in kept.wire.taken] == [("start", 0), ("stop", 1)]
    assert kept.wire.shown == ("", "cancelled")


async def test_without_a_permit_the_stream_pauses_until_the_store_answers(kept):
    kept.away = 3
    assert await kept.player().play()
    assert kept.away == 0, "the fault fired"
    assert kept.wire.shown == (TEXT, "completed")


async def test_an_erased_text_is_not_published_further_and_its_stream_gets_its_stop(kept):
    kept = Stored(TERMS._replace(max_rate=50.0))
    player = kept.player()
    playing_on = asyncio.create_task(player.play())
    await kept.wire.until(4)
    kept.erased = True
    with pytest.raises(TextErased):
        await player._permit.renew()
    before = len(kept.wire.taken)
    assert not await playing_on
    await player.stop("cancelled")
    assert [(e.kind, e.seq) for e in kept.wire.taken[before:]] == [("stop", before)]
    assert kept.wire.shown == (TEXT[: before - 1], "cancelled")


@pytest.mark.parametrize("erased_at", [0, 1, 2, 3])
async def test_an_erased_text_is_not_published_as_the_repair_of_a_later_gen(kept, erased_at):
    player = kept.player(gen=2, gen_from=6, done=6)
    permit, ask = player._permit, player._permit._ask

    async def erase_in_time():
        kept.erased = kept.asked >= erased_at
        return await ask()

    permit._ask = erase_in_time
    played = await player.play()
    if not played:
        await player.stop("cancelled")
    texts = [e for e in kept.wire.taken if e.kind in ("token", "repair")]
    assert bool(texts) == (erased_at > 0)
    assert kept.wire.taken[-1].kind == "stop"


async def test_a_publish_that_waited_longer_than_its_permit_is_repeated(kept):
    kept.wire.expiring = 2
    assert await kept.player().play()
    assert kept.wire.expiring == 0, "the fault fired"
    assert kept.wire.shown == (TEXT, "completed")


async def test_what_still_waits_for_its_turn_is_given_up_with_the_player(kept):
    class Queue:
        def __init__(self):
            self.waiting = []

        def post(self, event, *, is_permitted=None):
            ack = asyncio.get_running_loop().create_future()
            if event.kind == "start":
                ack.set_result([None])
            else:
                self.waiting.append(ack)
                sent.set()
            return ack

    player, sent = kept.player(), asyncio.Event()
    queue = player._outlet = Queue()
    playing_on = asyncio.create_task(player.play())
    await asyncio.wait_for(sent.wait(), PATIENCE_S)
    playing_on.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing_on
    assert queue.waiting
    assert all(ack.cancelled() for ack in queue.waiting)


class Past:
    """A channel whose history shows *events*."""

    def __init__(self, events, error=None):
        self._events = events
        self._error = error

    async def history(self, name, *, since_ms):
        from rehydrate.core import codecs  # noqa: PLC0415 - used here only
        from rehydrate.core.event import ChannelMessage  # noqa: PLC0415 - used here only

        if self._error:
            raise self._error
        page = []
        for number, each in enumerate(self._events):
            name, data, extras = codecs.encode(each)
            serial, owner = f"{number:05}", each.client_id
            page.append(ChannelMessage(name, data, each.id, serial, 0, owner, extras))
        yield page


@pytest.mark.parametrize("published", [0, 1, 5, len(TEXT) + 1, len(TEXT) + 2])
@pytest.mark.parametrize("saved", [0, 1, 4])
async def test_another_process_continues_after_the_published_steps(kept, published, saved):
    await kept.player().play()
    before = kept.wire.taken[:published]
    kept.wire.__init__()
    for each in before:
        kept.wire.take(each)
    saved = max(min(saved, published - 1), 0)
    player = kept.player(done=saved)
    await player.resume(Past(before), "ai:c", 0)
    assert await player.play()
    assert kept.wire.shown == (TEXT, "completed")
    assert not kept.wire.again
    assert [e.seq for e in kept.wire.taken] == list(range(len(TEXT) + 2))


async def test_without_history_unsaved_steps_are_published_again_under_the_same_ids(kept):
    await kept.player().play()
    before = kept.wire.taken[:6]
    kept.wire.__init__()
    for each in before:
        kept.wire.take(each)
    player = kept.player(done=2)
    await player.resume(Past([], ChannelUnavailable("away")), "ai:c", 0)
    assert await player.play()
    assert [e.seq for e in kept.wire.taken] == list(range(len(TEXT) + 2))


async def test_a_gap_that_another_process_left_is_repaired(kept):
    await kept.player().play()
    before = [e for e in kept.wire.taken[:7] if e.seq != 4]
    kept.wire.__init__()
    for each in before:
        kept.wire.take(each)
    player = kept.player(done=2)
    await player.resume(Past(before), "ai:c", 0)
    assert (player.gen, player.gen_from) == (2, 3)
    assert await player.play()
    assert kept.wire.shown == (TEXT, "completed")


@pytest.mark.parametrize(
    "changed",
    [{"client_id": "stranger"}, {"text": "other"}, {"part": "x"}, {"kind": "reasoning"}],
    ids=["another client", "another text", "another part", "another kind"],
)
async def test_steps_that_a_stranger_published_do_not_count(kept, changed):
    await kept.player().play()
    whole = kept.wire.taken
    before = whole[:4]
    forged = [each._replace(id=f"x{each.seq}", **changed) for each in whole[4:8]]
    kept.wire.__init__()
    for each in before:
        kept.wire.take(each)
    player = kept.player(done=2)
    await player.resume(Past([*before, *forged]), "ai:c", 0)
    assert (player.acknowledged, player.gen) == (3, 1)
    assert await player.play()
    assert kept.wire.shown == (TEXT, "completed")
    assert not kept.wire.again


async def test_a_stop_that_a_dead_process_published_ends_the_replay(kept):
    player = kept.player(cancel_asked=True)
    assert not await player.play()
    await player.stop("failed")
    *_, stop_ = kept.wire.taken
    successor = kept.player(attempts=2)
    await successor.resume(Past([stop_._replace(client_id="stranger")]), "ai:c", 0)
    assert successor.stopped_as is None
    await successor.resume(Past(kept.wire.taken), "ai:c", 0)
    assert successor.stopped_as == "failed"


async def test_a_later_gen_is_continued_by_another_process(kept):
    kept.wire.refusing = {5: 1}
    await kept.player().play()
    of_gen_2 = [e for e in kept.wire.taken if e.gen == 2]
    for count in range(1, len(of_gen_2)):
        kept.wire.__init__()
        for each in of_gen_2[:count]:
            kept.wire.take(each)
        player = kept.player(done=4)
        await player.resume(Past(of_gen_2[:count]), "ai:c", 0)
        assert await player.play()
        assert kept.wire.shown == (TEXT, "completed")
        assert not kept.wire.again


async def test_the_number_of_unacknowledged_messages_is_limited(kept, monkeypatch):
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
    """An event loop whose time jumps to the next timer when nothing is ready."""

    now_s = 0.0

    def time(self):
        return self.now_s

    def _run_once(self):
        if not self._ready and self._scheduled:
            self.now_s = max(self.now_s, self._scheduled[0]._when)
        super()._run_once()


def played_at(kept, *, held_up_at=None):
    """Return when each channel message was sent; at seq *held_up_at* a second is lost."""

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
def test_each_step_is_sent_at_its_time(speed, rate):
    kept = Stored(ReplayTerms("stream", speed, "ai:c", 0, rate), text="x" * 100)
    due_s = [step.at_s for step in kept.schedule.steps]
    assert played_at(kept) == pytest.approx(due_s, abs=1e-3)


def test_a_late_replay_catches_up_within_its_rate():
    kept = Stored(ReplayTerms("stream", 1.0, "ai:c", 0, 150.0), text="x" * 400)
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
def test_refusals_and_dead_processes_leave_every_follower_with_the_whole_text(refusing, cuts):
    asyncio.run(played_on(refusing, cuts))


async def played_on(refusing, cuts):
    """Play with refusals; after each of *cuts* posts another process continues."""
    kept, done = Stored(), 0
    kept.wire.refusing = refusing
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(playing, "RETRY_S", 0.0)
        for number, cut in enumerate([*cuts, 10**6]):
            player = kept.player(done=done)
            kept.wire.dies_at, kept.wire.died = kept.wire.posts + cut, asyncio.Event()
            if number:
                await player.resume(Past(kept.wire.taken), "ai:c", 0)
            tasks = [asyncio.create_task(each) for each in (player.play(), kept.wire.died.wait())]
            await asyncio.wait(tasks, timeout=20, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            done = max(done, player.done - 1)  # the saved progress is behind
    text, status = kept.wire.shown
    assert (text, status) == (TEXT, "completed")
    for joined in range(len(kept.wire.taken)):
        newcomer = View({"messages": [], "reasons": []})
        for each in kept.wire.taken[joined:]:
            newcomer.apply_event(each)
        whole = [(m["text"], m["status"]) for m in newcomer.messages]
        assert whole in ([], [(TEXT, "completed")]), "joined in the middle: all of it, or nothing"
