"""The scripted model: the same prompt gets the same answer; prompts can trigger tools."""

from __future__ import annotations

import pytest

from scripted_openai.endpoint import StreamRequest
from scripted_openai.model import REFUSAL, answer, answer_text, calls
from scripted_openai.turns import words


def test_answers_depend_on_the_prompt_only():
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
def test_a_prompt_triggers_its_tools(prompt, called):
    assert calls(prompt) == called


def test_it_calls_only_given_tools_and_refuses_forbidden_prompts():
    frames = answer(StreamRequest("response", {"input": "The weather?"}, 0))
    assert "response.function_call_arguments.done" not in [frame["type"] for frame in frames]
    frames = answer(StreamRequest("response", {"input": "Something forbidden"}, 0))
    assert REFUSAL in [frame.get("refusal") for frame in frames]
