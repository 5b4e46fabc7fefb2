"""The events of a response: seqs, drafts, acknowledgements, and the events that end it."""

from __future__ import annotations

import asyncio

import pytest

from laws.memory import memory_context
from rehydrate.context import PublishOptions
from rehydrate.errors import ChannelUnavailable, Fenced, TooLarge
from rehydrate.publish import response_writer as module
from rehydrate.publish.response_writer import Ending, ResponseWriter
from shared_adapters import now_ms, until
from waiting import PATIENCE_S


class ManualQueue:
    """A channel queue that sends and acknowledges when the test calls it."""

    def __init__(self):
        self.sent = []
        self.single = []
        self.failures = 0

    def ready(self, writer):
        self.writer = writer

    async def publish_one(self, event):
        self.single.append(event)
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
            self.writer.on_sent(event)
            self.sent.append(event)

    def acknowledge(self, *refused):
        """Acknowledge all that was sent, except the places *refused*, which are refused."""
        for place, event in enumerate(self.sent):
            self.writer.on_acknowledged(event, f"s{place}", refused=place in refused)


@pytest.fixture
def queue():
    return ManualQueue()


@pytest.fixture
def out(queue):
    ctx = memory_context(None, None, now_ms, options=PublishOptions("bot"))
    made = ResponseWriter(ctx, "r", 2, queue=queue)
    made.start("p")
    return made


def summary(events):
    return [(event.kind, event.seq, event.text) for event in events]


async def test_seqs_are_given_in_the_order_of_sending(out, queue):
    queue.take()
    out.emit("token", text="a")
    queue.take()
    out.emit("reasoning", text="b")
    queue.take()
    assert summary(queue.sent) == [("start", 0, None), ("token", 1, "a"), ("reasoning", 2, "b")]
    assert {(e.message_id, e.gen, e.client_id) for e in queue.sent} == {("r", 2, "bot")}
    assert queue.sent[0].prompt_id == "p"


async def test_text_of_one_kind_grows_while_it_waits(out, queue):
    for letter in "abc":
        out.emit("token", text=letter)
    out.emit("token", text="x", part="p")
    out.emit("refusal", text="n")
    out.emit("tool_call", tool_call_id="c", name="f", value="")
    out.emit("tool_args", text="{", tool_call_id="c")
    out.emit("tool_args", text="}", tool_call_id="c")
    out.emit("tool_args", text="!", tool_call_id="d")
    queue.take()
    assert summary(queue.sent)[1:] == [
        ("token", 1, "abc"),
        ("token", 2, "x"),
        ("refusal", 3, "n"),
        ("tool_call", 4, None),
        ("tool_args", 5, "{}"),
        ("tool_args", 6, "!"),
    ]


async def test_the_content_of_a_seq_never_changes_once_sent(out, queue):
    out.emit("token", text="a")
    queue.take()
    first = queue.sent[-1]
    out.emit("token", text="b")
    out.close_draft()
    out.emit("token", text="c")
    queue.take()
    assert summary(queue.sent)[1:] == [("token", 1, "a"), ("token", 2, "b"), ("token", 3, "c")]
    assert queue.sent[1] == first


async def test_no_event_grows_beyond_what_fits_a_message(out, queue, monkeypatch):
    monkeypatch.setattr(module.codecs, "CHUNK_CHARACTERS", 4)
    for _ in range(5):
        out.emit("token", text="ab")
    queue.take()
    assert [event.text for event in queue.sent[1:]] == ["abab", "abab", "ab"]


async def test_with_everything_acknowledged_it_ends_with_the_stop_alone(out, queue):
    out.emit("token", text="a")
    queue.take()
    queue.acknowledge()
    out.ending = Ending("completed", usage={"n": 1})
    (stop,) = await out.end()
    assert (stop.kind, stop.seq, stop.status, stop.value) == ("stop", 2, "completed", {"n": 1})
    assert (stop.id, stop.gen, stop.client_id) == ("r:2:2", 2, "bot")
    assert out.position == "s0"


async def test_the_end_waits_for_outstanding_acknowledgements(out, queue):
    out.emit("token", text="a")
    queue.take()
    ending = asyncio.ensure_future(out.end())
    await asyncio.sleep(0)
    assert not ending.done()
    queue.acknowledge()
    assert [event.kind for event in await asyncio.wait_for(ending, PATIENCE_S)] == ["stop"]


@pytest.mark.parametrize("refused", [0, 1, 2])
async def test_a_refused_event_makes_it_end_with_a_repair(out, queue, refused):
    out.emit("token", text="a")
    queue.take()
    out.emit("token", text="b")
    queue.take()
    queue.acknowledge(refused)
    repair, stop = await out.end()
    assert (repair.kind, repair.seq, repair.id) == ("repair", 2, "r:2:repair")
    assert repair.value == [{"type": "text", "text": "ab"}]
    assert (stop.kind, stop.seq) == ("stop", 3)
    assert out.refused == 1


async def test_events_that_were_not_sent_in_time_are_stored_and_repaired(out, queue, monkeypatch):
    monkeypatch.setattr(module, "ACK_TIMEOUT_S", 0.01)
    queue.take()
    queue.acknowledge()
    out.emit("token", text="a")
    out.emit("refusal", text="b")
    repair, stop = await out.end()
    assert (repair.seq, stop.seq) == (2, 3)
    assert summary(out.unstored) == [("start", 0, None), ("token", 1, "a"), ("refusal", 2, "b")]


@pytest.mark.parametrize(
    ("parts", "repairs"),
    [
        (None, 0),
        ([{"type": "text", "text": "a"}], 0),
        ([{"type": "text", "text": "A"}], 1),
        ([], 1),
    ],
)
async def test_final_parts_are_a_repair_where_they_differ(out, queue, parts, repairs):
    out.emit("token", text="a")
    queue.take()
    queue.acknowledge()
    out.ending = Ending("completed", parts=parts)
    events = await out.end()
    assert [event.value for event in events[:-1]] == [parts] * repairs


async def test_the_default_status_is_completed(out, queue):
    queue.take()
    queue.acknowledge()
    assert (await out.end())[-1].status == "completed"


async def test_nothing_is_accepted_after_the_end(out, queue):
    queue.take()
    queue.acknowledge()
    await out.end()
    with pytest.raises(Fenced):
        out.emit("token", text="a")


async def test_the_fenced_error_gives_the_reason(out):
    out.closed = "it was taken over"
    with pytest.raises(Fenced, match="taken over"):
        out.emit("token", text="a")


@pytest.mark.parametrize(("limit", "most"), [("MAX_CHARACTERS", 5), ("MAX_EVENTS", 3)])
async def test_a_response_has_limits_and_keeps_what_fitted(out, queue, monkeypatch, limit, most):
    monkeypatch.setattr(module.content, limit, most)
    with pytest.raises(TooLarge):  # noqa: PT012 - at whichever write does not fit
        for letter in "abcdefghij":
            out.emit("token", text=letter)
            queue.take()
    text = "".join(event.text for event in queue.sent[1:])
    assert "abcdefghij".startswith(text)
    assert 1 <= len(text) <= most


async def test_a_final_event_is_retried_until_it_is_acknowledged(out, queue, monkeypatch):
    monkeypatch.setattr(module, "FIRST_RETRY_S", 0.0)
    queue.take()
    queue.acknowledge()
    (stop,) = await out.end()
    queue.failures = module.PUBLISH_ATTEMPTS - 1
    await out.publish_until_acked(stop)
    assert queue.single == [stop] * module.PUBLISH_ATTEMPTS
    queue.failures = module.PUBLISH_ATTEMPTS
    with pytest.raises(ChannelUnavailable):
        await out.publish_until_acked(stop)


async def test_a_final_event_without_acknowledgement_has_a_time_limit(out, queue, monkeypatch):
    monkeypatch.setattr(module, "FIRST_RETRY_S", 0.0)
    monkeypatch.setattr(module, "ACK_TIMEOUT_S", 0.01)
    queue.take()
    queue.acknowledge()
    (stop,) = await out.end()
    tries = []

    async def silence(event):
        tries.append(event)
        await asyncio.sleep(60)

    monkeypatch.setattr(queue, "publish_one", silence)
    with pytest.raises(ChannelUnavailable):
        await out.publish_until_acked(stop)
    await until(lambda: len(tries) == module.PUBLISH_ATTEMPTS)
