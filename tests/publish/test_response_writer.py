"""The channel's side of a publisher: seqs, drafts, acknowledgements, and what ends it."""

from __future__ import annotations

import asyncio

import pytest

from exactness.rooms import now_ms, until
from laws.memory import memory_context
from rehydrate.context import PublishOptions
from rehydrate.errors import ChannelUnavailable, Fenced, TooLarge
from rehydrate.publish import response_writer as module
from rehydrate.publish.response_writer import Ending, ResponseWriter


class HeldTray:
    """Takes from the writer when it is told to, and answers when it is told to."""

    def __init__(self):
        self.sent = []
        self.alone = []
        self.failures = 0

    def ready(self, writer):
        self.writer = writer

    async def say_alone(self, event):
        self.alone.append(event)
        if self.failures:
            self.failures -= 1
            raise ChannelUnavailable("away")

    def take(self, count=1_000):
        """Send up to *count* events."""
        for _ in range(count):
            event = self.writer.next_event()
            if event is None:
                return
            event = event._replace(id=f"sent-{len(self.sent)}")
            self.writer.posted(event)
            self.sent.append(event)

    def answer(self, *refused):
        """Answer all that was sent; those at the places *refused* with no."""
        for place, event in enumerate(self.sent):
            self.writer.answered(event, f"s{place}", refused=place in refused)


@pytest.fixture
def tray():
    return HeldTray()


@pytest.fixture
def out(tray):
    ctx = memory_context(None, None, now_ms, options=PublishOptions("bot"))
    made = ResponseWriter(ctx, "r", 2, tray=tray)
    made.start("p")
    return made


def told(events):
    return [(event.kind, event.seq, event.text) for event in events]


async def test_seqs_are_given_in_the_order_of_sending(out, tray):
    tray.take()
    out.emit("token", text="a")
    tray.take()
    out.emit("reasoning", text="b")
    tray.take()
    assert told(tray.sent) == [("start", 0, None), ("token", 1, "a"), ("reasoning", 2, "b")]
    assert {(e.message_id, e.gen, e.client_id) for e in tray.sent} == {("r", 2, "bot")}
    assert tray.sent[0].prompt_id == "p"


async def test_text_of_one_kind_grows_while_it_waits(out, tray):
    for letter in "abc":
        out.emit("token", text=letter)
    out.emit("token", text="x", part="p")
    out.emit("refusal", text="n")
    out.emit("tool_call", tool_call_id="c", name="f", value="")
    out.emit("tool_args", text="{", tool_call_id="c")
    out.emit("tool_args", text="}", tool_call_id="c")
    out.emit("tool_args", text="!", tool_call_id="d")
    tray.take()
    assert told(tray.sent)[1:] == [
        ("token", 1, "abc"),
        ("token", 2, "x"),
        ("refusal", 3, "n"),
        ("tool_call", 4, None),
        ("tool_args", 5, "{}"),
        ("tool_args", 6, "!"),
    ]


async def test_what_a_seq_says_never_changes_once_somebody_saw_it(out, tray):
    out.emit("token", text="a")
    tray.take()
    first = tray.sent[-1]
    out.emit("token", text="b")
    out.settle()
    out.emit("token", text="c")
    tray.take()
    assert told(tray.sent)[1:] == [("token", 1, "a"), ("token", 2, "b"), ("token", 3, "c")]
    assert tray.sent[1] == first


async def test_no_event_grows_beyond_what_fits_a_message(out, tray, monkeypatch):
    monkeypatch.setattr(module.tokens, "CHUNK_CHARACTERS", 4)
    for _ in range(5):
        out.emit("token", text="ab")
    tray.take()
    assert [event.text for event in tray.sent[1:]] == ["abab", "abab", "ab"]


async def test_all_taken_it_ends_with_its_stop_alone(out, tray):
    out.emit("token", text="a")
    tray.take()
    tray.answer()
    out.ending = Ending("completed", usage={"n": 1})
    (stop,) = await out.end()
    assert (stop.kind, stop.seq, stop.status, stop.value) == ("stop", 2, "completed", {"n": 1})
    assert (stop.id, stop.gen, stop.client_id) == ("r:2:2", 2, "bot")
    assert out.position == "s0"


async def test_an_end_waits_for_what_is_not_acknowledged(out, tray):
    out.emit("token", text="a")
    tray.take()
    ending = asyncio.ensure_future(out.end())
    await asyncio.sleep(0)
    assert not ending.done()
    tray.answer()
    assert [event.kind for event in await asyncio.wait_for(ending, 10)] == ["stop"]


@pytest.mark.parametrize("refused", [0, 1, 2])
async def test_one_refused_and_it_ends_with_a_repair(out, tray, refused):
    out.emit("token", text="a")
    tray.take()
    out.emit("token", text="b")
    tray.take()
    tray.answer(refused)
    repair, stop = await out.end()
    assert (repair.kind, repair.seq, repair.id) == ("repair", 2, "r:2:repair")
    assert repair.value == [{"type": "text", "text": "ab"}]
    assert (stop.kind, stop.seq) == ("stop", 3)
    assert out.refused == 1


async def test_what_could_not_be_sent_in_time_is_stored_and_repaired(out, tray, monkeypatch):
    monkeypatch.setattr(module, "ACK_TIMEOUT_S", 0.01)
    tray.take()
    tray.answer()
    out.emit("token", text="a")
    out.emit("refusal", text="b")
    repair, stop = await out.end()
    assert (repair.seq, stop.seq) == (2, 3)
    assert told(out.unstored) == [("start", 0, None), ("token", 1, "a"), ("refusal", 2, "b")]


@pytest.mark.parametrize(
    ("parts", "repairs"),
    [
        (None, 0),
        ([{"type": "text", "text": "a"}], 0),
        ([{"type": "text", "text": "A"}], 1),
        ([], 1),
    ],
)
async def test_final_parts_are_a_repair_where_they_differ(out, tray, parts, repairs):
    out.emit("token", text="a")
    tray.take()
    tray.answer()
    out.ending = Ending("completed", parts=parts)
    events = await out.end()
    assert [event.value for event in events[:-1]] == [parts] * repairs


async def test_without_a_word_of_how_it_ends_it_is_completed(out, tray):
    tray.take()
    tray.answer()
    assert (await out.end())[-1].status == "completed"


async def test_after_its_end_nothing_more_is_taken(out, tray):
    tray.take()
    tray.answer()
    await out.end()
    with pytest.raises(Fenced):
        out.emit("token", text="a")


async def test_who_is_fenced_says_why(out):
    out.closed = "it was taken over"
    with pytest.raises(Fenced, match="taken over"):
        out.emit("token", text="a")


@pytest.mark.parametrize(("limit", "most"), [("MAX_CHARACTERS", 5), ("MAX_EVENTS", 3)])
async def test_a_response_has_bounds_and_keeps_what_fitted(out, tray, monkeypatch, limit, most):
    monkeypatch.setattr(module.extent, limit, most)
    with pytest.raises(TooLarge):  # noqa: PT012 - whichever does not fit
        for letter in "abcdefghij":
            out.emit("token", text=letter)
            tray.take()
    text = "".join(event.text for event in tray.sent[1:])
    assert "abcdefghij".startswith(text)
    assert 1 <= len(text) <= most


async def test_telling_is_tried_again_until_it_is_taken(out, tray, monkeypatch):
    monkeypatch.setattr(module.random, "uniform", lambda *_: 0.0)
    tray.take()
    tray.answer()
    (stop,) = await out.end()
    tray.failures = module.TELL_ATTEMPTS - 1
    await out.tell(stop)
    assert tray.alone == [stop] * module.TELL_ATTEMPTS
    tray.failures = module.TELL_ATTEMPTS
    with pytest.raises(ChannelUnavailable):
        await out.tell(stop)


async def test_a_tell_that_is_never_answered_has_a_limit(out, tray, monkeypatch):
    monkeypatch.setattr(module.random, "uniform", lambda *_: 0.0)
    monkeypatch.setattr(module, "ACK_TIMEOUT_S", 0.01)
    tray.take()
    tray.answer()
    (stop,) = await out.end()
    tries = []

    async def silence(event):
        tries.append(event)
        await asyncio.sleep(60)

    monkeypatch.setattr(tray, "say_alone", silence)
    with pytest.raises(ChannelUnavailable):
        await out.tell(stop)
    await until(lambda: len(tries) == module.TELL_ATTEMPTS)
