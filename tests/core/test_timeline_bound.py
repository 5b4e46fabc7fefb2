"""The bound of a timeline: how many responses may be in progress at once."""

from __future__ import annotations

import pytest

from core.saying import BEGAN_MS, event, folded, said, serial, shown, start, stop, text_of, token
from core.test_timeline import texts
from rehydrate.core import timeline as module
from rehydrate.core.event import Event
from rehydrate.core.fold import MessageState
from rehydrate.core.window import LostInterval, spanned


@pytest.fixture(autouse=True)
def few(monkeypatch):
    monkeypatch.setattr(module, "MAX_OPEN", 3)


def begun(*, numbers, **how):
    starts = (said("start", at_s=n, responseId=f"r{n}", seq=0) for n in numbers)
    return shown(*starts, **how)


def test_a_response_more_is_refused_and_when_that_was_is_known():
    timeline = begun(numbers=range(6))
    assert list(timeline.messages) == ["r0", "r1", "r2"]
    assert timeline.counts == {"folded": 3, "refused": 3}
    assert timeline.refused == LostInterval(BEGAN_MS + 3_000, BEGAN_MS + 5_000)


def test_those_there_go_on_and_prompts_come_in():
    timeline = begun(numbers=range(6))
    prompt = Event("prompt", "p", id="p", serial=serial(BEGAN_MS + 9_000), text="hi")
    more = token(1, "a", message_id="r2", at_s=7)
    timeline.fold([more, prompt, token(2, "b", message_id="r4", at_s=8)])
    assert texts(timeline) == {"r0": "", "r1": "", "r2": "a", "p": "hi"}


def test_there_is_room_again_where_one_has_ended():
    timeline = begun(numbers=range(4))
    timeline.fold([stop(1, message_id="r1", at_s=7), token(2, "b", message_id="r3", at_s=8)])
    assert timeline.messages["r3"].gaps() == [(1, 1)]
    timeline.fold([start(message_id="r9", at_s=9)])
    assert "r9" not in timeline.messages


def test_those_that_are_known_already_have_no_bound():
    ours = [MessageState(f"o{n}") for n in range(5)]
    timeline = begun(numbers=range(1), states=ours)
    timeline.fold([start(message_id="o4", at_s=1), token(1, "x", message_id="o4", at_s=2)])
    assert texts(timeline) == {"o0": "", "o1": "", "o2": "", "o3": "", "o4": "x"}


def test_those_elsewhere_count():
    assert list(begun(numbers=range(3), elsewhere=2).messages) == ["r0"]


def test_anonymous_ones_count_and_nothing_is_glued_to_what_was_refused():
    timeline = begun(numbers=range(3))
    plain = [event("token", None, t, message_id=None, at_s=9 + n) for n, t in enumerate("ab")]
    timeline.fold(plain)
    assert not timeline.has_anonymous
    timeline.fold([stop(1, message_id="r1", at_s=15)])
    timeline.fold([event("token", None, "c", message_id=None, at_s=16)])
    (anonymous,) = (state for state in timeline.messages.values() if state.anonymous)
    assert (text_of(anonymous), anonymous.exact) == ("c", False)


def test_one_that_the_idle_limit_ended_takes_its_text_and_stays_ended():
    idle = folded(start(), token(1, "a"))
    idle.status, idle.provisional, idle.finished_ms = "interrupted", True, BEGAN_MS
    timeline = begun(numbers=range(5, 8), states=[idle])
    timeline.fold([token(2, "b")])
    assert (text_of(idle), idle.status, idle.ended) == ("ab", "interrupted", False)
    timeline.fold([stop(1, message_id="r5", at_s=9), token(3, "c", at_s=10)])
    assert (text_of(idle), idle.status) == ("abc", "in_progress")


@pytest.mark.parametrize("cut", range(7))
def test_split_folds_equal_whole_ones(cut):
    numbers = list(range(6))
    whole_fold, first = begun(numbers=numbers), begun(numbers=numbers[:cut])
    later = begun(numbers=numbers[cut:], states=first.messages.values())
    assert list(later.messages) == list(whole_fold.messages)
    assert spanned(first.refused, later.refused) == whole_fold.refused
