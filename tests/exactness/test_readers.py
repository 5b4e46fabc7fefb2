"""Races of one channel and one reader, by their numbers in docs/exactness.md.

number      what breaks under a weaker rule                       where it is tested
1           history lags behind the attach                        here
2           an attach point is not the serial of a message        here
3           rewinding to a serial proves no overlap               here
4           late tokens, and stops that overtake                  here
5           repairs without a position                            here
6           two publishers of one response                        here
7           committed, then dead before the stop                  test_rows, test_sweeps
8           the sweeper and the zombie publisher                  here, test_rows, test_sweeps
9, S2       appended messages                                     test_appends
10          a recorder that undoes a publisher                    test_rows
11          saving what a follower received                       test_rows, test_follows
12          erased text that comes back                           test_rows
13          windows that do not meet                              test_windows
S1          a watermark does not promise all below it             test_windows
S3, S4      neither seq nor serial; one id, two serials           here
S5          the beginning had expired                             test_windows
S6          the idle limit                                        here, test_sweeps
S7          streams without a response id                         here
S8          joining in the middle of a replay                     here
S9          answers from a follower                               test_follows, tests/follow
S10, S11    pointers; answers that a retry improves               here, test_follows
S12         the end while Postgres is away                        test_sweeps
S13, S14    renamed channels; text the channel never carried      test_rows
M1 to M9    the minor ones                                        test_follows
M10         history out of order, without seq: a known limit      here
"""

from __future__ import annotations

import pytest

from exactness.scenes import (
    answer_at,
    bare,
    prompt,
    repair,
    shown,
    start,
    stop,
    token,
    world,
    wrong,
    wrong_anywhere,
)
from laws.worlds import serial
from rehydrate.core.client_view import Verdict, verdict
from rehydrate.core.event import Event
from rehydrate.core.fold import MessageState, Outcome, fold
from rehydrate.core.positions import at_or_before, channel_serial
from rehydrate.core.window import Window

pytestmark = pytest.mark.usefixtures("simulated_time")

ABC = (start("A", 11), token("A", 1, 12), token("A", 2, 13), token("A", 3, 14), stop("A", 4, 15))


class Test1HistoryLagsBehindTheAttach:
    LOG = (start("A", 12), token("A", 1, 13), stop("A", 2, 14))

    @pytest.mark.parametrize("way", [1, 2, 3])
    def test_the_last_message_before_the_attach_is_not_lost(self, way):
        assert wrong(world(*self.LOG, lag_ms=1000), way, 14) == []
        assert wrong(world(*bare(*self.LOG), lag_ms=1000), way, 14) == []

    @pytest.mark.parametrize("way", [1, 2, 3])
    def test_a_prompt_before_the_attach_is_not_lost(self, way):
        assert wrong(world(prompt(14), lag_ms=2000), way, 14) == []


class Test2AnAttachPointIsNotAMessageSerial:
    def test_the_message_at_the_attach_point_is_in_the_answer(self):
        log = (start("A", 11), token("A", 1, 12), stop("A", 2, 13))
        assert wrong(world(*log), 2, 13) == []

    def test_all_messages_of_the_publish_at_the_attach_point_are_in_the_answer(self):
        batch = (token("A", 1, 12), token("A", 2, 12, index=1), stop("A", 3, 12, index=2))
        assert wrong_anywhere(world(start("A", 11), *batch), ways=[2]) == []
        point = channel_serial(serial(12_000, 2))
        assert all(at_or_before(serial(12_000, index), point) for index in range(3))


class Test3RewindingToASerial:
    @pytest.mark.parametrize("log", [ABC, (prompt(12),), bare(*ABC)], ids=["A", "prompt", "no seq"])
    def test_messages_between_an_empty_answer_and_the_attach_are_not_lost(self, log):
        assert wrong(world(*log), 3, 9, 8) == []

    def test_a_whole_response_that_the_rewind_cut_is_not_lost(self):
        log = (*ABC, start("B", 16), token("B", 1, 17, "x"), token("B", 2, 18, "y"))
        assert wrong_anywhere(world(*log, rewind_cap=3), ways=[3]) == []

    def test_the_answer_of_an_idle_conversation_has_no_serial_to_rewind_to(self):
        window = Window(1_000_000)
        window.add_page([each.message for each in world(*ABC).log])
        assert window.rewind_from is None


class Test4LateTokens:
    LATE = (start("A", 11), token("A", 2, 12), stop("A", 3, 13), token("A", 1, 14))
    OVERTAKEN = (start("A", 11), stop("A", 2, 12), token("A", 1, 13))

    @pytest.mark.parametrize("log", [LATE, OVERTAKEN], ids=["late token", "stop overtakes"])
    def test_a_gap_is_filled_for_every_reader(self, log):
        assert wrong_anywhere(world(*log)) == []

    async def test_the_answer_in_between_declares_the_gap(self):
        _, messages = await answer_at(world(*self.LATE), 13)
        assert (messages["A"]["status"], messages["A"]["gaps"]) == ("completed", [[1, 1]])


class Test5RepairsHaveAPosition:
    def test_a_held_token_that_the_repair_contains_is_not_appended(self):
        log = (
            start("A", 11),
            token("A", 1, 12),
            repair("A", 3, 13, "abc"),
            token("A", 3, 14),
            stop("A", 4, 15),
        )
        assert wrong_anywhere(world(*log)) == []

    def test_a_repair_that_history_shows_late_is_still_folded(self):
        log = (
            start("A", 11),
            token("A", 1, 12),
            repair("A", 2, 13, "ab", lag_s=2),
            token("A", 3, 14),
            stop("A", 4, 15),
        )
        assert wrong_anywhere(world(*log, record_s=[14.5, 16])) == []

    def test_rewinding_over_the_repair_of_a_stored_row_does_not_loop(self):
        log = (start("A", 11), token("A", 1, 12), repair("A", 2, 13, "ab"), stop("A", 3, 14))
        assert wrong_anywhere(world(*log, finals=((12_900, "A"),))) == []

    def test_a_repair_brings_back_a_part_that_was_refused(self):
        call = {"type": "tool_call", "tool_call_id": "c", "name": "f", "args": "{}", "result": None}
        parts = [{"type": "text", "text": "a"}, call, {"type": "text", "text": "b"}]
        state = MessageState("A")
        fold(state, Event("token", "A", seq=1, text="a"))
        fold(state, Event("token", "A", seq=3, text="b"))
        assert fold(state, Event("repair", "A", seq=3, value=parts)) is Outcome.FOLDED
        assert [part["type"] for part in state.parts()] == ["text", "tool_call", "text"]
        assert state.gaps() == []

    def test_after_a_repair_without_seq_nothing_is_appended(self):
        log = bare(
            start("A", 11),
            token("A", 1, 12),
            repair("A", None, 13, "ab"),
            token("A", 2, 14),
            stop("A", None, 15),
        )
        assert wrong_anywhere(world(*log), ways=[1]) == []

    def test_a_repair_that_covers_less_than_is_shown_removes_no_text(self):
        log = (
            start("A", 11),
            token("A", 1, 12),
            token("A", 3, 13),
            token("A", 4, 14),
            repair("A", 3, 15, "aBc"),
            token("A", 5, 16),
            stop("A", 6, 17),
        )
        assert wrong_anywhere(world(*log)) == []


class Test6TwoPublishers:
    LOG = (
        start("A", 11),
        token("A", 1, 12, "a"),
        start("A", 13, gen=2),
        token("A", 1, 14, "A", gen=2),
        stop("A", 2, 15, gen=2),
    )
    ZOMBIE = (*LOG[:3], token("A", 2, 13.5, "z"), *LOG[3:], token("A", 3, 16, "z"))

    @pytest.mark.parametrize("log", [LOG, ZOMBIE], ids=["taken over", "zombie"])
    def test_every_reader_shows_the_second_publishers_text(self, log):
        assert wrong_anywhere(world(*log)) == []

    async def test_the_first_publishers_text_is_gone(self):
        texts, _ = await shown(world(*self.ZOMBIE), 1, 12)
        assert texts == {"A": ("A", "completed")}

    def test_two_publishers_without_gen_are_not_exact(self):
        state = MessageState("A")
        for id_ in ("one", "two"):
            fold(state, Event("start", "A", seq=0, id=id_))
            fold(state, Event("token", "A", seq=1, id=f"{id_}-1", text="x"))
        assert not state.exact


class Test8TheSweeperAndTheZombie:
    def test_a_stop_whose_seq_a_zombie_token_used_still_ends_the_response(self):
        log = (
            start("A", 11),
            token("A", 1, 12),
            token("A", 2, 13),
            stop("A", 2, 14, status="interrupted"),
        )
        assert wrong_anywhere(world(*log)) == []

    def test_a_stop_that_counts_tokens_the_reader_lacks_means_hydrate_again(self):
        state = MessageState("A")
        for seq in range(1, 39):
            fold(state, Event("token", "A", seq=seq, text="x"))
        assert verdict(state, Event("stop", "A", seq=41)) is Verdict.AGAIN


class TestS3NeitherSeqNorSerial:
    def test_the_overlap_is_recognised_by_message_ids(self):
        assert wrong_anywhere(world(*bare(*ABC), serials=False), ways=[1]) == []


class TestS4OneIdTwoSerials:
    def test_a_retried_publish_counts_once(self):
        again = bare(
            start("A", 11),
            token("A", 1, 12, id="one"),
            token("A", 2, 13),
            token("A", 1, 14, id="one"),
            stop("A", 3, 15),
        )
        assert wrong_anywhere(world(*again), ways=[1]) == []

    async def test_a_retried_publish_leaves_the_true_text(self):
        again = bare(start("A", 11), token("A", 1, 12, id="one"), token("A", 1, 14, id="one"))
        texts, _ = await shown(world(*again), 1, 13)
        assert texts == {"A": ("a", "in_progress")}


class TestS6TheIdleLimit:
    def test_a_model_that_continues_reopens_a_response_that_the_idle_limit_ended(self):
        state = MessageState("A")
        fold(state, Event("token", "A", seq=1, text="a"))
        state.status, state.provisional = "interrupted", True
        fold(state, Event("token", "A", seq=2, text="b"))
        fold(state, Event("stop", "A", seq=3, status="completed"))
        assert (state.parts()[0]["text"], state.status, state.ended) == ("ab", "completed", True)


class TestS7StreamsWithoutAResponseId:
    STREAMS = bare(
        start(None, 11),
        token(None, 1, 12),
        stop(None, None, 13),
        start(None, 14),
        token(None, 2, 15),
        stop(None, None, 16),
    )

    def test_each_stream_is_its_own_message(self):
        assert wrong_anywhere(world(*self.STREAMS), ways=[1]) == []

    async def test_no_stream_is_dropped(self):
        texts, _ = await shown(world(*self.STREAMS), 1, 15)
        assert sorted(texts.values()) == [("a", "completed"), ("b", "completed")]


class TestS8JoiningAReplayInItsMiddle:
    def test_no_reader_hydrates_again_in_a_loop(self):
        replay = tuple(
            (said._replace(replay=True, rid="C"), at_ms + 20_000, *rest)
            for said, at_ms, *rest in ABC
        )
        assert wrong_anywhere(world(*ABC, *replay)) == []


class TestS10Pointers:
    def test_a_repair_without_data_means_hydrate_again_and_changes_no_text(self):
        state = MessageState("A")
        fold(state, Event("token", "A", seq=1, text="a"))
        pointer = Event("repair", "A", seq=2)
        assert verdict(state, pointer) is Verdict.AGAIN
        assert fold(state, pointer) is Outcome.POINTER
        assert (state.parts()[0]["text"], state.exact) == ("a", False)


class TestS11AnswersThatARetryImproves:
    async def test_a_permanent_gap_is_a_reason_without_retry(self):
        log = (start("A", 11), token("A", 2, 12), stop("A", 3, 13))
        _, answer = await shown(world(*log), 1, 14)
        assert [(r["code"], r["retry"]) for r in answer["reasons"]] == [("not_exact", False)]
        assert (answer["complete"], answer["messages"][0]["gaps"]) == (False, [[1, 1]])


class TestM10HistoryOutOfOrder:
    LOG = (start("A", 11), token("A", 1, 12), token("A", 2, 13, lag_s=2), token("A", 3, 14))

    def test_with_seqs_every_reader_is_exact(self):
        assert wrong_anywhere(world(*self.LOG, record_s=[14])) == []

    async def test_with_seqs_the_late_token_fills_its_gap(self):
        log = world(*self.LOG, record_s=[14])
        _, before = await answer_at(log, 14.5)
        _, after = await answer_at(log, 16)
        assert (before["A"]["text"], before["A"]["gaps"]) == ("ac", [[2, 2]])
        assert (after["A"]["text"], after["A"]["gaps"]) == ("abc", [])

    async def test_without_seqs_the_late_token_is_lost_as_documented(self):
        """A documented limit: without seq, a late message cannot be distinguished from a repeated one."""
        log = world(*bare(*self.LOG), record_s=[14])
        hydrated, messages = await answer_at(log, 16)
        assert (messages["A"]["text"], hydrated.complete) == ("ac", True)
        in_time = world(*bare(*self.LOG))
        _, messages = await answer_at(in_time, 16)
        assert messages["A"]["text"] == "abc"
