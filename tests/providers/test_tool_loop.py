"""The tool loop: usage, and answers whose text is not known at the end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.scripted_client import answered
from providers.sinks import Folded
from rehydrate.providers import tool_loop
from rehydrate.providers.responses_driver import run_responses
from rehydrate.providers.tool_loop import add_usage
from scripted_openai.turns import ResponseTurn

USAGE = st.dictionaries(
    st.sampled_from(["input", "output"]),
    st.integers(0, 9) | st.dictionaries(st.just("cached"), st.integers(0, 9)),
)


@given(USAGE, USAGE)
def test_usage_is_summed_field_by_field(one, other):
    total = add_usage(one, other)
    for key in one.keys() | other.keys():
        mine, yours = one.get(key), other.get(key)
        if isinstance(mine, int) and isinstance(yours, int):
            assert total[key] == mine + yours
        elif isinstance(mine, dict) and isinstance(yours, dict):
            assert total[key] == add_usage(mine, yours)
        else:
            assert total[key] == (mine if mine is not None else yours)


def test_missing_usage_adds_nothing():
    assert add_usage(None, {"a": 1}) == add_usage({"a": 1}, None) == {"a": 1}
    assert add_usage({"a": 1, "tier": "x"}, {"a": 2, "tier": "y"}) == {"a": 3, "tier": "x"}


def test_importing_the_package_does_not_import_a_vendor():
    room = Path(tool_loop.__file__).parent
    names = [f"rehydrate.providers.{path.stem}" for path in room.glob("*.py")]
    code = f"import sys, {', '.join(names)}; print('openai' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout == "False\n"


async def test_content_that_is_too_long_to_be_kept_stands_as_published(vendor, monkeypatch):
    monkeypatch.setattr("rehydrate.providers.answer_items.KEPT_CHARACTERS_MAX", 5)
    turn = ResponseTurn().message("One two three.")
    whole = [event for event in turn.events if not event["type"].endswith(".done")]
    last = {"type": "response.completed", "response": {"id": "r", "output": []}}
    vendor.endpoint.answer = lambda asked: [*whole, last]
    sink = Folded()
    async with vendor.client() as client:
        outcome = await run_responses(sink, client, model="gpt-5", input="?")
    assert (outcome.parts, sink.final, sink.status) == (None, None, "completed")
    assert sink.text == "One two three."


@pytest.mark.parametrize(
    "error", [SystemExit(2), KeyError("x"), BaseExceptionGroup("", [SystemExit()])]
)
def test_nothing_that_a_client_raises_escapes(error):
    async def create(**request):
        raise error

    client = SimpleNamespace(responses=SimpleNamespace(create=create))
    sink = Folded()
    outcome = asyncio.run(run_responses(sink, client, model="m", input="?"))
    assert (outcome.status, sink.error) == ("failed", f"source_failed: {type(error).__name__}")


@pytest.mark.parametrize("source", [None, 5, {"a": 1}, "text"])
def test_an_answer_that_is_not_a_stream_fails(source):
    sink, outcome, _ = answered([source])
    assert (outcome.status, sink.error) == ("failed", "source_failed: TypeError")
