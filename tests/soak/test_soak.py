"""A short `make soak`, and tests that it would notice lost and doubled text."""

from __future__ import annotations

import pytest

from rehydrate.demo.texts import tokens_of
from soak.__main__ import soak
from soak.plan import TOKENS, conversation, faults
from soak.publishers import SHAPES, stream_of
from soak.truth import Stream, Tally

TEXT = "once upon a time"


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_every_reader_shows_every_character_once_despite_all_faults():
    tally, _ = await soak(25, 7)
    report = tally.as_json()
    assert tally.clean, (report, tally.findings)
    assert report["joins"] > 10
    assert report["faults"]
    assert report["effects"].keys() == report["faults"].keys()


def test_a_fault_that_never_fires_is_a_finding():
    tally = Tally()
    tally.characters, tally.joins["rest"] = 1, 1
    tally.inject("history fails", 2)
    assert tally.clean
    tally.inject("history lags", 0)
    assert not tally.clean
    assert tally.findings == ["the fault never fired: history lags"]


def test_every_fault_occurs_once_in_each_round():
    names = ["a", "b", "c", "d"]
    drawn = faults(1, names)
    rounds = [[next(drawn).name for _ in names] for _ in range(3)]
    assert [sorted(each) for each in rounds] == [names] * 3


def test_a_seed_determines_the_plan():
    assert conversation(1, 2) == conversation(1, 2) != conversation(1, 3)
    first, same = faults(1, "abc"), faults(1, "abc")
    assert [next(first) for _ in range(9)] == [next(same) for _ in range(9)]


def test_the_expected_text_of_a_response_is_what_its_publisher_writes():
    plan = conversation(1, 2)
    texts = [
        stream_of(plan, planned).texts[-1] for planned in plan.messages if planned.kind == "ours"
    ]
    assert texts == [
        "".join(tokens_of(planned.id, mean=TOKENS))
        for planned in plan.messages
        if planned.kind == "ours"
    ]


@pytest.mark.parametrize(
    ("text", "status", "lost", "doubled"),
    [
        (TEXT, "completed", 0, 0),
        ("once up", "in_progress", 0, 0),
        ("", "in_progress", 0, 0),
        ("once up", "completed", 9, 0),
        ("once a time", "completed", 11, 6),
        ("oonce", "in_progress", 0, 4),
        (TEXT + "!", "completed", 0, 1),
        ("once up", "interrupted", 0, 0),
    ],
)
def test_missing_and_extra_characters_are_counted(text, status, lost, doubled):
    verdict = Stream("r", "ours", TEXT).judge({"text": text, "status": status, "gaps": []})
    assert (verdict.lost, verdict.doubled, verdict.wrong) == (lost, doubled, bool(lost or doubled))


def test_a_foreign_response_is_never_interrupted():
    assert Stream("r", "tokens", TEXT).judge({"text": "once", "status": "interrupted"}).wrong


def test_declared_gaps_are_not_a_loss_but_other_text_is():
    stream = Stream("r", "ours", TEXT)
    assert stream.judge({"text": "once time", "status": "in_progress", "gaps": [[2, 3]]}).admitted
    assert stream.judge({"text": "once", "status": "completed", "exact": False}).admitted
    assert stream.judge({"text": "once", "status": "completed"}, excused=True).admitted
    assert stream.judge({"text": "onceonce", "status": "in_progress", "gaps": [[2, 3]]}).wrong


def test_content_that_cannot_be_read_must_be_counted_in_the_end():
    stream = Stream("r", "unreadable", TEXT, unreadable=2)
    shown = {"text": TEXT, "status": "completed", "exact": False}
    assert stream.judge(shown | {"unreadable": 2}).admitted
    assert stream.judge(shown | {"unreadable": 1}).wrong
    assert stream.judge(shown).wrong
    assert not stream.judge(shown, excused=True).wrong
    assert not stream.judge({"text": TEXT, "status": "in_progress"}).wrong


def test_what_ably_does_not_keep_may_be_missing_if_that_is_declared():
    stream = Stream("r", "unkept", TEXT)
    assert stream.may_lack
    assert stream.judge({"text": "", "status": "completed", "gaps": [[1, 9]]}).admitted
    assert stream.judge({"text": "", "status": "completed", "gaps": []}).wrong


def test_the_unreadable_tokens_of_a_response_are_left_out_of_its_text():
    numbers = (conversation(seed, number) for seed in range(9) for number in range(9))
    plan = next(plan for plan in numbers if any(m.kind == "unreadable" for m in plan.messages))
    (planned, *_) = [m for m in plan.messages if m.kind == "unreadable"]
    stream, tokens = stream_of(plan, planned), tokens_of(planned.id, mean=TOKENS)
    read = [token for index, token in enumerate(tokens) if SHAPES[index % len(SHAPES)].read]
    assert (stream.texts, stream.unreadable) == (("".join(read),), len(tokens) - len(read))
