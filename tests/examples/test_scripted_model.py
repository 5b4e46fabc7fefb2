"""The scripted model: the same prompt, the same answer; tools where they are asked for."""

from __future__ import annotations

import pytest

from scripted_openai.endpoint import StreamRequest
from scripted_openai.model import REFUSAL, answer, answer_text, calls
from scripted_openai.turns import words


def test_the_same_prompt_gets_the_same_answer_and_another_another():
    assert answer_text("Why?") == answer_text("Why?") != answer_text("How?")
    assert "Why?" in answer_text("Why?")
    assert "".join(words(answer_text("Why?", ("noon",)))) == answer_text("Why?", ("noon",))


@pytest.mark.parametrize(
    ("prompt", "called"),
    [
        ("Why?", []),
        ("The weather in Oslo?", [("get_weather", {"city": "Oslo"})]),
        ("Time?", [("get_time", {"city": "Paris"})]),
        (
            "Weather and time in Rome?",
            [("get_weather", {"city": "Rome"}), ("get_time", {"city": "Rome"})],
        ),
    ],
)
def test_tools_are_called_where_they_are_asked_for(prompt, called):
    assert calls(prompt) == called


def test_it_calls_only_what_it_was_given_and_refuses_what_is_forbidden():
    frames = answer(StreamRequest("response", {"input": "The weather?"}, 0))
    assert "response.function_call_arguments.done" not in [frame["type"] for frame in frames]
    frames = answer(StreamRequest("response", {"input": "Something forbidden"}, 0))
    assert REFUSAL in [frame.get("refusal") for frame in frames]
