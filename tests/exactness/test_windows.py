"""13, S1, S5 of docs/exactness.md: whether the windows of store and channel meet."""

from __future__ import annotations

import pytest

from exactness.scenes import answer_at, bare, prompt, start, stop, token, world, wrong_anywhere
from laws.worlds import serial
from rehydrate.core.positions import MARGIN_MS, channel_serial
from rehydrate.core.window import Watermark, needs_no_read

pytestmark = pytest.mark.usefixtures("simulated_time")

RETENTION_MS = 6_000
EARLY = [3, 6, 9, 11.5]
"""The time until which recording was frequent enough to miss nothing."""

ABC = (start("A", 11), token("A", 1, 12), token("A", 2, 13), token("A", 3, 20), stop("A", 4, 21))


class Test13WindowsThatDoNotMeet:
    async def test_the_tail_of_a_text_without_seq_is_not_shown_as_the_whole(self):
        log = world(*bare(*ABC), retention_ms=RETENTION_MS)
        hydrated, messages = await answer_at(log, 20)
        assert messages["A"]["text"] == "c"
        assert messages["A"]["exact"] is False
        assert not hydrated.complete

    async def test_a_text_without_seq_is_not_joined_over_an_expired_part_as_exact(self):
        log = world(*bare(*ABC), retention_ms=RETENTION_MS, record_s=[12.5])
        hydrated, messages = await answer_at(log, 20)
        assert messages["A"]["text"] == "ac"
        assert messages["A"]["exact"] is False
        assert hydrated.reasons[0].code == "history_expired"

    async def test_a_response_that_came_and_expired_between_two_reads_is_reported_missing(self):
        gone = (start("B", 13), token("B", 1, 13.5), stop("B", 2, 14))
        log = world(prompt(11), *gone, token("A", 1, 22), retention_ms=RETENTION_MS, record_s=EARLY)
        hydrated, messages = await answer_at(log, 22)
        assert "B" not in messages
        assert [reason.code for reason in hydrated.reasons] == ["history_expired"]

    async def test_a_recorder_that_passes_a_lost_interval_stores_it(self):
        gone = (start("B", 13), token("B", 1, 13.5), stop("B", 2, 14))
        log = world(
            prompt(11),
            *gone,
            token("A", 1, 22),
            retention_ms=RETENTION_MS,
            record_s=[*EARLY, 22, 23],
        )
        hydrated, _ = await answer_at(log, 24)
        assert [(r.code, r.retry) for r in hydrated.reasons] == [("history_expired", False)]

    async def test_a_response_with_seqs_declares_which_are_missing(self):
        log = world(*ABC, retention_ms=RETENTION_MS, record_s=[11.5])
        _, messages = await answer_at(log, 20)
        assert (messages["A"]["text"], messages["A"]["gaps"]) == ("c", [[1, 2]])

    async def test_an_idle_conversation_that_was_read_in_time_is_complete(self):
        log = world(prompt(11), retention_ms=RETENTION_MS, record_s=[*EARLY, 15, 18, 21])
        hydrated, messages = await answer_at(log, 24)
        assert hydrated.complete
        assert messages["P"]["text"] == "hi"


class TestS1AWatermarkIsNotAPromise:
    LOG = (
        start("A", 11, lag_s=2),
        token("A", 1, 12, lag_s=2),
        start("B", 13),
        token("B", 1, 14, "x"),
        token("B", 2, 15, "y"),
        stop("A", 2, 16, lag_s=2),
        stop("B", 3, 17),
    )

    def test_messages_of_a_lagging_region_before_the_watermark_are_read(self):
        assert wrong_anywhere(world(*self.LOG, record_s=[17])) == []

    def test_the_store_alone_answers_only_one_margin_later(self):
        point = channel_serial(serial(16_000))
        seen = serial(17_000)
        assert not needs_no_read(Watermark(seen, 17_000, 17_000), point)
        assert needs_no_read(Watermark(seen, 17_000, 16_000 + MARGIN_MS), point)

    def test_a_watermark_within_a_publish_does_not_reach_its_attach_point(self):
        watermark = Watermark(serial(12_000, 0), 12_000, 12_000)
        assert not needs_no_read(watermark, channel_serial(serial(12_000, 1)))


class TestS5TheBeginningHadExpired:
    async def test_a_tail_whose_start_was_never_seen_is_not_exact(self):
        log = world(*bare(*ABC[1:]))
        hydrated, messages = await answer_at(log, 22)
        assert messages["A"]["text"] == "abc"
        assert messages["A"]["exact"] is False
        assert [reason.code for reason in hydrated.reasons] == ["not_exact"]

    async def test_a_tail_whose_start_was_recorded_is_exact(self):
        log = world(*bare(*ABC), record_s=[11.5, 16, 19])
        hydrated, messages = await answer_at(log, 22)
        assert (messages["A"]["text"], messages["A"]["exact"]) == ("abc", True)
        assert hydrated.complete
