"""The published text of a prompt, for every form that the vendor accepts."""

from __future__ import annotations

import pytest

from rehydrate.providers.prompts import text_of_input

IMAGE = {"type": "input_image", "image_url": "data:…"}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("Why?", "Why?"),
        ("", None),
        (None, None),
        ([], None),
        ([{"type": "text", "text": "Why?"}], "Why?"),
        ([{"role": "user", "content": "One"}, {"role": "assistant", "content": "Two"}], "One"),
        ([{"role": "user", "content": "One"}, {"role": "user", "content": "Two"}], "Two"),
        ([{"role": "user", "content": [{"type": "input_text", "text": "a"}, IMAGE]}], "a"),
        ([{"role": "user", "content": [IMAGE]}], None),
        ([{"type": "function_call_output", "call_id": "c", "output": "x"}], None),
        ([5, {"text": 7}, {"role": "developer", "content": "Be kind."}], None),
    ],
)
def test_the_published_prompt_is_the_last_text_of_a_user(given, text):
    assert text_of_input(given) == text
