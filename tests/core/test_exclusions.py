"""Which events are dropped whatever the messages contain."""

from __future__ import annotations

import pytest

from core.builders import BEGAN_MS, event, serial, start, stop, token
from core.growing import append as append_to
from rehydrate.core import exclusions as module
from rehydrate.core.codecs import decode
from rehydrate.core.exclusions import ExclusionRule, Exclusions
from rehydrate.core.fold import Outcome
from rehydrate.core.window import ErasedStream, Tombstone, erased_mark

AT_1_S = Tombstone(None, BEGAN_MS + 1_000)


def outcomes(rule, *events, known=()):
    return [rule.outcome_of(each, known) for each in events]


class TestAgents:
    RULE = ExclusionRule(frozenset({"bot", "aid"}))

    def test_only_agents_may_publish_responses(self):
        strange, own = token(1, "x", client_id="ann"), token(1, "a", client_id="bot")
        assert outcomes(self.RULE, strange, own, token(1, "x")) == [
            Outcome.FOREIGN,
            None,
            Outcome.FOREIGN,
        ]

    def test_anyone_may_publish_prompts(self):
        assert outcomes(self.RULE, event("prompt", None, "hi", client_id="ann")) == [None]

    def test_where_none_are_named_anyone_may_publish_responses(self):
        assert outcomes(ExclusionRule(), token(1, "x", client_id="ann")) == [None]

    def test_readers_get_their_names_in_order(self):
        assert self.RULE.exclusions == Exclusions(("aid", "bot"))


class TestErased:
    def test_the_rest_of_a_response_is_erased_if_its_beginning_is(self):
        rule = ExclusionRule(tombstone=AT_1_S)
        events = start(), token(1, "a"), token(2, "b"), stop(3)
        assert outcomes(rule, *events) == [Outcome.OLD] * 4
        assert rule.erased == {"r"}
        assert rule.exclusions == Exclusions((), BEGAN_MS + 1_000, ("r",))

    def test_what_only_its_time_erases_is_not_named_to_readers(self):
        rule = ExclusionRule(tombstone=AT_1_S)
        assert outcomes(rule, start(), token(1, "a", message_id=None)) == [Outcome.OLD] * 2
        assert (rule.erased, rule.exclusions.erased_ids) == ({"r"}, ())

    def test_a_message_of_later_is_not_erased_by_an_old_event(self):
        rule = ExclusionRule(tombstone=AT_1_S)
        assert outcomes(rule, start(), known={"r"}) == [Outcome.OLD]
        assert (outcomes(rule, token(2, "b")), rule.erased) == ([None], set())

    def test_the_answer_to_an_erased_prompt_is_erased(self):
        rule = ExclusionRule(tombstone=AT_1_S)
        prompt = event("prompt", None, "hi", at_s=0, message_id="p")
        assert (
            outcomes(rule, prompt, start(at_s=3, prompt_id="p"), token(4, "x")) == [Outcome.OLD] * 3
        )
        assert rule.exclusions.erased_ids == ("r",)

    def test_a_replay_of_a_message_that_an_event_showed_as_erased_is_erased(self):
        rule = ExclusionRule(tombstone=AT_1_S)
        replayed = start(at_s=3, message_id="y", replay_of="r")
        assert outcomes(rule, start(), replayed) == [Outcome.OLD] * 2

    def test_an_anonymous_answer_to_a_prompt_that_an_event_showed_as_erased_is_erased(self):
        rule = ExclusionRule(tombstone=AT_1_S)
        prompt = event("prompt", None, "hi", at_s=0, message_id="p")
        answered = start(at_s=3, message_id=None, prompt_id="p")
        assert outcomes(rule, prompt, answered) == [Outcome.OLD] * 2

    def test_readers_are_told_of_a_bounded_number_of_messages(self, monkeypatch):
        monkeypatch.setattr(module, "MAX_ERASED_IDS", 1)
        rule = ExclusionRule(tombstone=AT_1_S._replace(erased=frozenset(map(erased_mark, "rs"))))
        assert outcomes(rule, token(2, "a"), token(2, "a", message_id="s")) == [Outcome.OLD] * 2
        assert (rule.erased, rule.exclusions.erased_ids) == ({"r", "s"}, ("r",))

    def test_a_reader_drops_the_same_events(self):
        rule = ExclusionRule(tombstone=AT_1_S._replace(erased=frozenset({erased_mark("r")})))
        assert outcomes(rule, token(5, "x")) == [Outcome.OLD]
        of_reader = rule.exclusions.rule
        assert outcomes(of_reader, token(6, "x"), start(message_id="s")) == [Outcome.OLD] * 2
        assert outcomes(of_reader, start(message_id="n", at_s=3)) == [None]
        assert outcomes(Exclusions().rule, start()) == [None]


def anonymous(kind, at_s, **fields):
    return event(kind, None, "x" if kind == "token" else None, at_s=at_s, message_id=None, **fields)


class TestErasedStream:
    OPEN = AT_1_S._replace(stream=ErasedStream(serial(BEGAN_MS), is_open=True))

    @pytest.mark.parametrize("serials", [True, False])
    def test_the_rest_is_erased_until_its_stop_and_whatever_is_read_again(self, serials):
        rule = ExclusionRule(tombstone=self.OPEN)
        rest = [
            anonymous(kind, n, serials=serials)
            for n, kind in enumerate(["token"] * 3 + ["stop"], 2)
        ]
        assert outcomes(rule, *rest) == [Outcome.OLD] * 4
        assert not rule.stream.is_open
        assert outcomes(rule, anonymous("token", 7), *rest) == [None, *[Outcome.OLD] * 4]

    def test_the_rest_is_erased_until_another_start(self):
        rule = ExclusionRule(tombstone=self.OPEN)
        events = anonymous("token", 2), anonymous("start", 3), anonymous("token", 4)
        assert outcomes(rule, *events) == [Outcome.OLD, None, None]
        assert outcomes(rule, anonymous("start", 1.5)) == [None]

    def test_a_start_begins_a_message_where_no_stream_was_erased(self):
        rule = ExclusionRule(tombstone=AT_1_S)
        assert outcomes(rule, anonymous("start", 3), anonymous("token", 4)) == [None, None]
        assert rule.stream is None

    def test_erased_events_show_that_their_stream_is_open(self):
        rule = ExclusionRule(tombstone=AT_1_S)
        events = anonymous("start", 0), anonymous("token", 1), anonymous("token", 2)
        assert outcomes(rule, *events) == [Outcome.OLD] * 3
        assert rule.stream == ErasedStream(serial(BEGAN_MS + 2_000), is_open=True)

    def test_erased_events_show_that_their_stream_has_ended(self):
        rule = ExclusionRule(tombstone=AT_1_S)
        events = anonymous("token", 0), anonymous("stop", 1), anonymous("token", 2)
        assert outcomes(rule, *events) == [Outcome.OLD, Outcome.OLD, None]

    def test_cancels_and_replays_are_no_events_of_it(self):
        rule = ExclusionRule(tombstone=AT_1_S)
        others = (
            anonymous("cancel", 0),
            anonymous("token", 1, replay_of="q"),
            anonymous("cancel", 3),
        )
        assert (outcomes(rule, *others), rule.stream) == ([Outcome.OLD, Outcome.OLD, None], None)

    def test_a_version_that_names_no_message_is_erased_by_its_time(self):
        rule = ExclusionRule(tombstone=self.OPEN)
        append = decode(append_to(1, 2, "x"))._replace(message_id=None)
        assert outcomes(rule, append._replace(timestamp_ms=BEGAN_MS + 5_000)) == [None]
        assert outcomes(rule, append._replace(timestamp_ms=BEGAN_MS)) == [Outcome.OLD]
