"""The scripted model: the same prompt, the same answer; tools where they are asked for."""

from __future__ import annotations

import pytest

from scripted_openai.endpoint import Asked
from scripted_openai.model import REFUSAL, answer, calls, says
from scripted_openai.turns import words


def test_the_same_prompt_gets_the_same_answer_and_another_another():
    assert says("Why?") == says("Why?") != says("How?")
    assert "Why?" in says("Why?")
    assert "".join(words(says("Why?", ("noon",)))) == says("Why?", ("noon",))


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
    frames = answer(Asked("response", {"input": "The weather?"}, 0))
    assert "response.function_call_arguments.done" not in [frame["type"] for frame in frames]
    frames = answer(Asked("response", {"input": "Something forbidden"}, 0))
    assert REFUSAL in [frame.get("refusal") for frame in frames]
