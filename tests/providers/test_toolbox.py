"""Tools: descriptions from signatures, limits, and the outcome of each failure."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Literal

import pytest

from rehydrate.errors import BadParameter
from rehydrate.providers.toolbox import CALLS_AT_ONCE, Tool, Toolbox
from rehydrate.providers.vendor_events import RESULT_BYTES_MAX, ToolCallDone
from waiting import PATIENCE_S


def call(name, args="", call_id="call_1", kind="function_call"):
    return ToolCallDone("done", None, call_id, name, kind, args, f"vendor-{call_id}")


def weather(city: str, unit: Literal["c", "f"] = "c") -> dict:
    """The weather of a city."""
    return {"city": city, "unit": unit}


async def nothing():
    return None


def promised():
    """Return an awaitable, without being async."""
    return nothing()


def odd():
    return object()


def test_a_function_is_described_by_its_signature_and_docstring():
    (spec,) = Toolbox({"weather": weather}).specs()
    assert (spec["type"], spec["name"], spec["strict"]) == ("function", "weather", False)
    assert spec["description"] == "The weather of a city."
    schema = spec["parameters"]
    assert schema["properties"]["unit"]["enum"] == ["c", "f"]
    assert (schema["required"], schema["additionalProperties"]) == (["city"], False)


def test_a_tool_can_have_an_explicit_description():
    parameters = {"type": "object", "properties": {}}
    tool = Tool(weather, "By hand.", parameters, strict=True)
    (spec,) = Toolbox({"weather": tool}).nested_specs()
    function = spec["function"]
    assert (function["description"], function["strict"]) == ("By hand.", True)
    assert function["parameters"] == parameters


def unreadable(x: NoSuchType) -> None:  # noqa: F821 - as it may be written by mistake
    """A tool whose annotation is not defined."""


def variadic(*values) -> None:
    """A tool whose arguments have no names."""


@pytest.mark.parametrize("tool", [unreadable, variadic])
def test_a_tool_that_cannot_be_described_is_rejected_by_name(tool):
    with pytest.raises(BadParameter, match="tool 'mine'"):
        Toolbox({"mine": tool})


@pytest.mark.parametrize(
    ("tool", "args", "output", "result"),
    [
        (weather, '{"city": "Oslo"}', '{"city":"Oslo","unit":"c"}', {"city": "Oslo", "unit": "c"}),
        (lambda: "as it is", "", "as it is", "as it is"),
        (nothing, "{}", "null", None),
        (lambda: (1, 2), "", "[1,2]", [1, 2]),
        (promised, "", "null", None),
    ],
)
async def test_the_return_value_of_a_tool_is_its_output(tool, args, output, result):
    answer = await Toolbox({"mine": tool}).answer(call("mine", args))
    assert (answer.output, answer.result, answer.failure) == (output, result, None)


async def test_arguments_are_converted_by_the_signature():
    seen = []

    def take(numbers: list[int], sure: bool = True):
        seen.append((numbers, sure))

    await Toolbox({"take": take}).answer(call("take", '{"numbers": ["1", 2]}'))
    assert seen == [([1, 2], True)]


@pytest.mark.parametrize(
    "args", ["{", "[]", "5", "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\ud800"]
)
async def test_arguments_that_are_not_an_object_are_reported_to_the_model(args):
    answer = await Toolbox({"weather": weather}).answer(call("weather", args))
    assert (answer.failure, answer.failed, answer.vendor_id) == (None, True, "vendor-call_1")
    assert json.loads(answer.output)["error"].startswith("ValueError: the arguments are not")


@pytest.mark.parametrize("args", ["", " ", "null", "{}"])
async def test_missing_arguments_are_an_empty_object(args):
    answer = await Toolbox({"now": lambda: "noon"}).answer(call("now", args))
    assert (answer.output, answer.failed) == ("noon", False)


class OddError(BaseException):
    """An exception that is not an `Exception`."""


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize(
    "error",
    [
        SystemExit(2),
        KeyboardInterrupt(),
        GeneratorExit(),
        OddError(),
        BaseExceptionGroup("", [OddError()]),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_no_exception_of_a_tool_reaches_the_event_loop(error, blocking):
    def fails():
        raise error

    async def fails_later():
        await asyncio.sleep(0)
        raise error

    box = Toolbox({"broken": fails if blocking else fails_later, "weather": weather})
    calls = [call("broken", "", "one"), call("weather", '{"city": "Oz"}', "two")]
    answers = {answer.tool_call_id: answer async for answer in box.answers(calls)}
    assert type(error).__name__ in answers["one"].result["error"]
    assert [answers[id_].failed for id_ in ("one", "two")] == [True, False]


def test_a_tool_whose_schema_cannot_be_made_is_refused():
    def takes(value: Callable[[int], int]) -> None:
        """A tool with an argument that JSON cannot have."""

    with pytest.raises(BadParameter, match="takes"):
        Toolbox({"takes": takes})


@pytest.mark.parametrize("args", ["{}", '{"city": 5}', '{"city": "Oslo", "more": 1}'])
async def test_invalid_arguments_are_reported_to_the_model(args):
    answer = await Toolbox({"weather": weather}).answer(call("weather", args))
    assert answer.failure is None
    assert json.loads(answer.output)["error"].startswith("ValidationError")
    assert answer.result == json.loads(answer.output)


async def test_exceptions_and_results_that_are_not_json_are_reported_to_the_model():
    def broken():
        raise LookupError("no station")

    box = Toolbox({"broken": broken, "odd": odd, "late": _late})
    assert (await box.answer(call("broken"))).result == {"error": "LookupError: no station"}
    assert "not JSON" in (await box.answer(call("odd"))).output
    assert (await box.answer(call("late"))).result == {"error": "TimeoutError: its own"}


async def _cancelled_inside():
    inner = asyncio.create_task(asyncio.sleep(3600))
    inner.cancel()
    await inner


async def test_a_tool_whose_own_task_was_cancelled_has_failed():
    answer = await Toolbox({"t": _cancelled_inside}).answer(call("t"))
    assert answer.failed
    assert json.loads(answer.output)["error"].startswith("CancelledError")
    both = [call("t", "", "one"), call("weather", '{"city": "Oz"}', "two")]
    box = Toolbox({"t": _cancelled_inside, "weather": weather})
    answers = {each.tool_call_id: each.failed async for each in box.answers(both)}
    assert answers == {"one": True, "two": False}


async def test_a_cancelled_answer_cancels_its_tools():
    began = asyncio.Event()

    async def wait():
        began.set()
        await asyncio.sleep(3600)

    task = asyncio.create_task(Toolbox({"wait": wait}).answer(call("wait")))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _late():
    raise TimeoutError("its own")


@pytest.mark.parametrize(
    ("name", "args", "code"),
    [
        ("nobody", "{}", "unknown_tool"),
        ("hang", "", "tool_timeout"),
        ("block", "", "tool_timeout"),
    ],
)
async def test_errors_that_a_model_cannot_correct_are_failures(name, args, code):
    released = threading.Event()
    tools = {
        "weather": weather,
        "hang": asyncio.Event().wait,
        "block": lambda: released.wait(PATIENCE_S),
    }
    tools["hang"] = Tool(asyncio.Event().wait, "", {}, timeout_s=0.05)
    try:
        answer = await Toolbox(tools, timeout_s=0.05).answer(call(name, args))
    finally:
        released.set()
    assert (answer.failure.code, answer.failure.ending) == (code, "failed")
    assert name in answer.failure.public_detail
    assert answer.result == {"error": answer.failure.public_detail}


async def test_a_result_too_long_for_readers_is_sent_to_the_model():
    answer = await Toolbox({"long": lambda: "x" * 100_000}).answer(call("long"))
    assert len(answer.output) == 100_000
    assert answer.result["omitted_bytes"] > RESULT_BYTES_MAX


async def test_calls_run_concurrently_up_to_a_limit():
    running, most = 0, 0

    async def count():
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    calls = [call("count", "", f"call_{n}") for n in range(CALLS_AT_ONCE * 2)]
    answers = [answer async for answer in Toolbox({"count": count}).answers(calls)]
    assert {answer.tool_call_id for answer in answers} == {done.tool_call_id for done in calls}
    assert most == CALLS_AT_ONCE


async def test_answers_are_yielded_as_calls_end_and_closing_cancels_the_rest():
    ended = []

    async def take(seconds: float):
        try:
            await asyncio.sleep(seconds)
        finally:
            ended.append(seconds)

    calls = [call("take", '{"seconds": 3600}', "slow"), call("take", '{"seconds": 0}', "fast")]
    answers = Toolbox({"take": take}, timeout_s=4000).answers(calls)
    assert (await anext(answers)).tool_call_id == "fast"
    await answers.aclose()
    assert ended == [0, 3600]


async def test_a_custom_tool_receives_its_text():
    box = Toolbox({"shout": Tool(str.upper, "", {})})
    answer = await box.answer(call("shout", "{not json", kind="custom_tool_call"))
    assert (answer.output, answer.kind) == ("{NOT JSON", "custom_tool_call")
