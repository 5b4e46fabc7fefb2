"""A short version of `make soak`; and that it would notice what it is for."""

from __future__ import annotations

import pytest

from rehydrate.demo.texts import tokens_of
from soak.__main__ import soak
from soak.plan import TOKENS, conversation, faults
from soak.speaking import stream_of
from soak.truth import Stream

TEXT = "once upon a time"


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_whatever_happens_every_reader_shows_every_character_once():
    tally, _ = await soak(25, 7)
    told = tally.as_json()
    assert tally.clean, (told, tally.findings)
    assert told["joins"] > 10
    assert told["faults"]


def test_a_seed_says_what_is_done():
    assert conversation(1, 2) == conversation(1, 2) != conversation(1, 3)
    first, same = faults(1, "abc"), faults(1, "abc")
    assert [next(first) for _ in range(9)] == [next(same) for _ in range(9)]


def test_the_truth_of_a_response_is_what_its_publisher_will_say():
    plan = conversation(1, 2)
    texts = [stream_of(plan, speech).texts[-1] for speech in plan.speeches if speech.kind == "ours"]
    assert texts == [
        "".join(tokens_of(speech.id, mean=TOKENS))
        for speech in plan.speeches
        if speech.kind == "ours"
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
def test_what_is_missing_and_what_is_too_much_is_counted(text, status, lost, doubled):
    said = Stream("r", "ours", TEXT).judge({"text": text, "status": status, "gaps": []})
    assert (said.lost, said.doubled, said.wrong) == (lost, doubled, bool(lost or doubled))


def test_what_others_say_is_never_interrupted():
    assert Stream("r", "tokens", TEXT).judge({"text": "once", "status": "interrupted"}).wrong


def test_less_is_no_loss_where_it_is_said_to_be_less_but_other_text_is():
    stream = Stream("r", "ours", TEXT)
    assert stream.judge({"text": "once time", "status": "in_progress", "gaps": [[2, 3]]}).admitted
    assert stream.judge({"text": "once", "status": "completed", "exact": False}).admitted
    assert stream.judge({"text": "once", "status": "completed"}, excused=True).admitted
    assert stream.judge({"text": "onceonce", "status": "in_progress", "gaps": [[2, 3]]}).wrong
