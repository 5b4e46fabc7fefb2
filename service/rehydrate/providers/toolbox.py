"""The functions that a model may call: how they are described to it, and run for it.

A tool is a plain function, sync or async. Its schema is made from its signature and docstring,
and its arguments are checked against that. `Tool` says the same by hand. What it returns is the
output (a text as it is, anything else as JSON); what it raises becomes the output too, so that the
model can go on. A tool that does not exist, arguments that are no JSON object, and a tool that
hangs end the whole answer: nothing that a model could be told would mend those.
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
from rehydrate.providers.failures import TOLD_CHARACTERS, ToolFailed
from rehydrate.providers.vendor_events import ToolCallDone, shown

TOOL_TIMEOUT_S = 60.0
"""How long one call of a tool may take."""

CALLS_AT_ONCE = 16
"""How many calls of one answer run at the same time."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call, described by hand.

    Attributes:
        function: sync or async; called with the arguments as keywords.
        description: what it is for, as the model reads it.
        parameters: JSON schema of its arguments.
        strict: whether the vendor enforces the schema.
        timeout_s: how long it may take; None: as long as the others.
    """

    function: Callable[..., Any]
    description: str
    parameters: Mapping[str, Any]
    strict: bool = False
    timeout_s: float | None = None


class Answer(NamedTuple):
    """What became of a call.

    ``output`` is what the model is told, ``result`` what readers see. ``failed``: the tool raised,
    and both say what; with ``failure``, the whole answer ends.
    """

    tool_call_id: str
    name: str
    kind: str
    output: str
    result: Any
    failed: bool = False
    failure: ToolFailed | None = None


class Toolbox:
    """The tools of one driver.

    Args:
        tools: by the names that the model uses.
        timeout_s: how long one call may take. A sync function that hangs keeps its thread.

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
                self._models[name] = model = _model_of(name, tool)
                schema = model.model_json_schema()
                self._tools[name] = Tool(tool, inspect.getdoc(tool) or "", schema)

    def specs(self) -> list[dict[str, Any]]:
        """The tools as the Responses API takes them."""
        return [{"type": "function", **self._spec(name)} for name in self._tools]

    def nested_specs(self) -> list[dict[str, Any]]:
        """The tools as the Assistants API takes them."""
        return [{"type": "function", "function": self._spec(name)} for name in self._tools]

    async def answers(self, calls: Sequence[ToolCallDone]) -> AsyncGenerator[Answer, None]:
        """Run *calls* concurrently; yield what became of each, in the order in which they end.

        The generator owns the calls: closing it cancels those that still run.
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
        """Run one call. Raises nothing but cancellation."""
        tool = self._tools.get(call.name)
        if tool is None:
            return _failed(call, ToolFailed("unknown_tool", call.name))
        try:
            arguments = self._arguments(call)
        except ToolFailed as failure:
            return _failed(call, failure)
        limit = asyncio.timeout(self._timeout_s if tool.timeout_s is None else tool.timeout_s)
        try:
            async with limit:
                value = await self._run(tool.function, call.name, arguments)
        except Exception as error:  # noqa: BLE001 - it becomes the tool's output
            if limit.expired():
                return _failed(call, ToolFailed("tool_timeout", call.name))
            return _raised(call, f"{type(error).__name__}: {error}")
        return _answer(call, value)

    async def _run(self, function: Callable[..., Any], name: str, arguments: Any) -> Any:
        if isinstance(arguments, str):  # a custom tool takes one free text
            call = partial(function, arguments)
        elif name in self._models:
            checked = self._models[name].model_validate(arguments)
            known = type(checked).model_fields
            call = partial(function, **{key: getattr(checked, key) for key in known})
        else:
            call = partial(function, **arguments)
        if inspect.iscoroutinefunction(function):
            return await call()
        value = await asyncio.to_thread(call)
        return await value if inspect.isawaitable(value) else value

    def _arguments(self, call: ToolCallDone) -> dict[str, Any] | str:
        if call.kind == "custom_tool_call":
            return call.args
        try:
            arguments = json.loads(call.args or "{}")
        except (json.JSONDecodeError, RecursionError):
            raise ToolFailed("bad_arguments", f"{call.name}: no JSON") from None
        if not isinstance(arguments, dict):
            raise ToolFailed("bad_arguments", f"{call.name}: no JSON object")
        return arguments

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
    """A box of *tools*, unless it is one; raises as `Toolbox`."""
    return tools if isinstance(tools, Toolbox) else Toolbox(tools or {}, timeout_s=timeout_s)


def _model_of(name: str, function: Callable[..., Any]) -> Any:
    from pydantic import ConfigDict, create_model  # noqa: PLC0415 - only tools need it

    try:
        parameters = inspect.signature(function, eval_str=True).parameters.values()
    except (TypeError, ValueError, NameError) as error:
        raise BadParameter("tools", f"the signature of tool {name!r} cannot be read") from error
    fields: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise BadParameter("tools", f"tool {name!r} takes more than named arguments: use Tool")
        fields[parameter.name] = (
            Any if parameter.annotation is parameter.empty else parameter.annotation,
            ... if parameter.default is parameter.empty else parameter.default,
        )
    try:
        return create_model(name, __config__=ConfigDict(extra="forbid"), **fields)
    except Exception as error:
        raise BadParameter("tools", f"tool {name!r} cannot be described: use Tool") from error


def _answer(call: ToolCallDone, value: Any) -> Answer:
    if isinstance(value, str):
        return Answer(call.tool_call_id, call.name, call.kind, value, shown(value))
    try:
        output = dump(value).decode()
    except (TypeError, ValueError, RecursionError) as error:
        return _raised(call, f"its result is no JSON: {type(error).__name__}")
    return Answer(call.tool_call_id, call.name, call.kind, output, shown(json.loads(output)))


def _raised(call: ToolCallDone, why: str) -> Answer:
    return _answer(call, {"error": why[:TOLD_CHARACTERS]})._replace(failed=True)


def _failed(call: ToolCallDone, failure: ToolFailed) -> Answer:
    return _raised(call, failure.told)._replace(failure=failure)
