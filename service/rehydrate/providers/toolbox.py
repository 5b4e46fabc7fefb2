"""Describe the functions that a model may call, and call them for it.

A tool is a plain function, sync or async. Its schema is generated from its signature and
docstring, and its arguments are validated against that; `Tool` gives a schema explicitly. The
return value is the output (a string unchanged, anything else as JSON). An exception becomes the
output too, and so does the fault of arguments that are not a JSON object, so that the model can
react to it. An unknown tool, and a tool that hangs, end the whole answer.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from rehydrate.core.json import dump
from rehydrate.errors import BadParameter
from rehydrate.providers.blocking_calls import blocking_calls
from rehydrate.providers.failures import ERROR_CHARACTERS_MAX, ToolFailed
from rehydrate.providers.vendor_calls import is_own_cancellation
from rehydrate.providers.vendor_events import ToolCallDone, shown

TOOL_TIMEOUT_S = 60.0
"""How long one call of a tool may take, by default."""

CALLS_AT_ONCE = 16
"""How many calls of one answer run concurrently."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call, with an explicit description and schema.

    Attributes:
        function: sync or async; called with the arguments as keywords.
        description: its purpose, for the model.
        parameters: the JSON schema of its arguments.
        strict: True if the vendor must enforce the schema.
        timeout_s: how long a call may take, in seconds; None: the default of the toolbox.
    """

    function: Callable[..., Any]
    description: str
    parameters: Mapping[str, Any]
    strict: bool = False
    timeout_s: float | None = None


class Answer(NamedTuple):
    """The outcome of a tool call.

    ``output`` goes to the model, under ``vendor_id``; ``result`` to readers. ``failed``: the tool raised, and both
    contain the error. ``failure``: the whole answer ends with it.
    """

    tool_call_id: str
    name: str
    kind: str
    output: str
    result: Any
    vendor_id: str
    failed: bool = False
    failure: ToolFailed | None = None


class Toolbox:
    """The tools of one driver.

    Args:
        tools: the functions by the names that the model uses.
        timeout_s: how long one call may take, in seconds. The thread of a sync function that hangs
            cannot be stopped.

    Raises:
        BadParameter: a tool cannot be described.
    """

    def __init__(
        self, tools: Mapping[str, Callable[..., Any] | Tool], *, timeout_s: float = TOOL_TIMEOUT_S
    ) -> None:
        self._timeout_s = timeout_s
        self._tools: dict[str, Tool] = {}
        self._models: dict[str, Any] = {}
        for name, tool in tools.items():
            if isinstance(tool, Tool):
                self._tools[name] = tool
            else:
                self._models[name], schema = _described(name, tool)
                self._tools[name] = Tool(tool, inspect.getdoc(tool) or "", schema)

    def specs(self) -> list[dict[str, Any]]:
        """Return the tools in the form of the Responses API."""
        return [{"type": "function", **self._spec(name)} for name in self._tools]

    def nested_specs(self) -> list[dict[str, Any]]:
        """Return the tools in the form of the Assistants API."""
        return [{"type": "function", "function": self._spec(name)} for name in self._tools]

    async def answers(self, calls: Sequence[ToolCallDone]) -> AsyncGenerator[Answer, None]:
        """Run *calls* concurrently; yield the outcomes in the order in which the calls end.

        Closing the generator cancels the calls that are still running.
        """
        slots = asyncio.Semaphore(CALLS_AT_ONCE)

        async def answer(call: ToolCallDone) -> Answer:
            async with slots:
                return await self.answer(call)

        running = [asyncio.create_task(answer(call), name=f"tool {call.name}") for call in calls]
        try:
            for done in asyncio.as_completed(running):
                yield await done
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def answer(self, call: ToolCallDone) -> Answer:
        """Run one call and return its outcome; only cancellation is raised."""
        tool = self._tools.get(call.name)
        if tool is None:
            return _fatal_answer(call, ToolFailed("unknown_tool", call.name))
        limit = asyncio.timeout(self._timeout_s if tool.timeout_s is None else tool.timeout_s)
        try:
            async with limit:
                value = await self._run(tool.function, call.name, _arguments(call))
            return _output_answer(call, value)
        except BaseException as error:
            if is_own_cancellation(error):
                raise asyncio.CancelledError from error
            if limit.expired():
                return _fatal_answer(call, ToolFailed("tool_timeout", call.name))
            return _error_answer(call, f"{type(error).__name__}: {error}")

    async def _run(self, function: Callable[..., Any], name: str, arguments: Any) -> Any:
        if isinstance(arguments, str):  # a custom tool takes one string
            call = partial(function, arguments)
        elif name in self._models:
            checked = self._models[name].model_validate(arguments)
            known = type(checked).model_fields
            call = partial(function, **{key: getattr(checked, key) for key in known})
        else:
            call = partial(function, **arguments)
        if inspect.iscoroutinefunction(function):
            return await call()
        value = await blocking_calls().run(call)
        return await value if inspect.isawaitable(value) else value

    def _spec(self, name: str) -> dict[str, Any]:
        tool = self._tools[name]
        return {
            "name": name,
            "description": tool.description,
            "parameters": dict(tool.parameters),
            "strict": tool.strict,
        }


def toolbox_of(
    tools: Mapping[str, Callable[..., Any] | Tool] | Toolbox | None, *, timeout_s: float
) -> Toolbox:
    """Return *tools* as a `Toolbox`.

    Raises:
        BadParameter: a tool cannot be described.
    """
    return tools if isinstance(tools, Toolbox) else Toolbox(tools or {}, timeout_s=timeout_s)


def _arguments(call: ToolCallDone) -> dict[str, Any] | str:
    """Return the arguments of a call; missing ones (an empty text, or ``null``) are an empty object.

    Raises:
        ValueError: they are not a JSON object.
    """
    if call.kind == "custom_tool_call":
        return call.args
    try:
        arguments = json.loads(call.args.strip() or "null")
    except (ValueError, RecursionError):  # also of a number with too many digits
        raise ValueError("the arguments are not valid JSON") from None
    if arguments is not None and not isinstance(arguments, dict):
        raise ValueError("the arguments are not a JSON object")
    return arguments or {}


def _described(name: str, function: Callable[..., Any]) -> tuple[Any, dict[str, Any]]:
    """Return the model of a tool's arguments, and its schema.

    Raises:
        BadParameter: the model cannot be built.
    """
    from pydantic import ConfigDict, create_model  # noqa: PLC0415 - imported only if there are tools

    try:
        parameters = inspect.signature(function, eval_str=True).parameters.values()
    except (TypeError, ValueError, NameError) as error:
        raise BadParameter("tools", f"the signature of tool {name!r} cannot be read") from error
    fields: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise BadParameter("tools", f"tool {name!r} takes arguments without names: use Tool")
        fields[parameter.name] = (
            Any if parameter.annotation is parameter.empty else parameter.annotation,
            ... if parameter.default is parameter.empty else parameter.default,
        )
    try:
        model = create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
        return model, model.model_json_schema()
    except Exception as error:
        raise BadParameter("tools", f"tool {name!r} cannot be described: use Tool") from error


def _output_answer(call: ToolCallDone, value: Any) -> Answer:
    if isinstance(value, str):
        return _answer(call, value, shown(value))
    try:
        output = dump(value).decode()
    except (TypeError, ValueError, RecursionError) as error:
        return _error_answer(call, f"its result is not JSON: {type(error).__name__}")
    return _answer(call, output, shown(json.loads(output)))


def _answer(call: ToolCallDone, output: str, result: Any) -> Answer:
    return Answer(call.tool_call_id, call.name, call.kind, output, result, call.vendor_id)


def _error_answer(call: ToolCallDone, why: str) -> Answer:
    return _output_answer(call, {"error": why[:ERROR_CHARACTERS_MAX]})._replace(failed=True)


def _fatal_answer(call: ToolCallDone, failure: ToolFailed) -> Answer:
    return _error_answer(call, failure.public_detail)._replace(failure=failure)
