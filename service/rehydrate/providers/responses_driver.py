"""The Responses API driven to its end: stream, run the tools, submit their outputs, stream again."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from rehydrate.providers.driving import (
    TURNS_MAX,
    DriverContext,
    DriverOutcome,
    called,
    driven,
    stopped_upstream,
)
from rehydrate.providers.failures import ProviderError, StreamBroken, VendorIncomplete
from rehydrate.providers.openai_responses import ResponsesStream
from rehydrate.providers.toolbox import TOOL_TIMEOUT_S, Tool, Toolbox, toolbox_of
from rehydrate.providers.vendor_stream import IDLE_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rehydrate.providers.driving import Noted
    from rehydrate.providers.toolbox import Answer
    from rehydrate.providers.vendor_events import Ended, Sink, ToolCallDone

RESUMES_MAX = 4
"""How often the stream of a background response is taken up again after it broke off."""

_OURS = ("function_call", "custom_tool_call")
"""Kinds of calls that are ours to answer."""


async def run_responses(
    sink: Sink,
    client: Any,
    *,
    input: Any,  # noqa: A002 - as the vendor's own method calls it
    tools: Mapping[str, Callable[..., Any] | Tool] | Toolbox | None = None,
    vendor_tools: list[dict[str, Any]] | None = None,
    tool_timeout_s: float = TOOL_TIMEOUT_S,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
    turns_max: int = TURNS_MAX,
    noted: Noted | None = None,
    **request: Any,
) -> DriverOutcome:
    """Stream an answer of the Responses API into *sink*, tool loop included; end it there.

    Args:
        sink: the response that is being published.
        client: ``openai.AsyncOpenAI`` (or ``OpenAI``, whose calls then use threads).
        input: the prompt, as ``client.responses.create`` takes it.
        tools: the functions that the model may call, by name.
        vendor_tools: further tools as the API describes them, for instance
            ``{"type": "web_search"}``.
        tool_timeout_s: how long one call of a tool may take, in seconds.
        idle_timeout_s: how long the stream may say nothing, in seconds.
        turns_max: how many requests the tool loop may make.
        noted: is told the vendor's ids as soon as they are known.
        request: the rest of ``client.responses.create``: ``model``, ``instructions``,
            ``previous_response_id``, ``conversation``, ``store``, ``background`` …

    A bad end is told to the sink and returned, not raised. What the sink raises, and cancellation,
    stop the vendor and go on.

    Raises:
        BadParameter: a tool cannot be described.
    """
    toolbox = toolbox_of(tools, timeout_s=tool_timeout_s)
    specs = [*toolbox.specs(), *(vendor_tools or ())]
    if specs:
        request["tools"] = specs
    run = _ResponsesRun(client, DriverContext(sink, toolbox, noted), request, idle_timeout_s)
    return await driven(run, run.turns(input, turns_max))


class _ResponsesRun:
    def __init__(
        self,
        client: Any,
        conversation: DriverContext,
        request: dict[str, Any],
        idle_timeout_s: float,
    ) -> None:
        self._client = client
        self._conversation = conversation
        self._request = request
        self._idle_timeout_s = idle_timeout_s
        self._response_ids: list[str] = []
        self._stream: ResponsesStream | None = None

    async def turns(self, asked: Any, turns_max: int) -> None:
        """Ask, run the tools that the answer calls, and ask again, until it calls none."""
        for turn in range(turns_max):
            end, calls = await self._turn(turn, asked)
            calls = [call for call in calls if call.kind in _OURS]
            self._conversation.close_turn(end)
            if end.error is not None:
                raise end.error
            if not calls:
                return
            answers = await self._conversation.answer(calls)
            self._request.pop("tool_choice", None)  # it asked for this call, not for one each turn
            asked = self._next(asked, end, answers)
        raise VendorIncomplete("too_many_turns", f"tools were called {turns_max} times")

    async def _turn(self, turn: int, asked: Any) -> tuple[Ended, list[ToolCallDone]]:
        create = self._client.responses.create
        source = await called(create, input=asked, stream=True, **self._request)
        prefix = f"{turn}:" if turn else ""
        stream = ResponsesStream(source, prefix=prefix, idle_timeout_s=self._idle_timeout_s)
        self._stream = stream
        end, calls = await self._conversation.pour(stream)
        for attempt in range(RESUMES_MAX):
            if not self._can_resume(end, stream):
                break
            await asyncio.sleep(random.uniform(0.5, 1) * 2**attempt / 4)  # noqa: S311 - jitter
            end, more = await self._resumed(end, stream)
            calls += more
        if stream.response_id is not None:
            self._response_ids.append(stream.response_id)
        return end, calls

    def _can_resume(self, end: Ended, stream: ResponsesStream) -> bool:
        return (
            bool(self._request.get("background"))
            and isinstance(end.error, StreamBroken)
            and stream.response_id is not None
            and stream.sequence_number is not None
        )

    async def _resumed(
        self, end: Ended, stream: ResponsesStream
    ) -> tuple[Ended, list[ToolCallDone]]:
        try:
            source = await called(
                self._client.responses.retrieve,
                stream.response_id,
                stream=True,
                starting_after=stream.sequence_number,
            )
        except StreamBroken:
            return end, []
        stream.resume(source)
        return await self._conversation.pour(stream)

    def _next(self, asked: Any, end: Ended, answers: list[Answer]) -> list[dict[str, Any]]:
        """The next request's input: with what went before, unless the vendor keeps that."""
        outputs = [
            {
                "type": f"{answer.kind}_output",
                "call_id": answer.tool_call_id,
                "output": answer.output,
            }
            for answer in answers
        ]
        if self._request.get("conversation") is not None:
            return outputs
        if self._request.get("store") is False or not self._response_ids:
            before = [{"role": "user", "content": asked}] if isinstance(asked, str) else list(asked)
            return [*before, *end.items, *outputs]
        self._request["previous_response_id"] = self._response_ids[-1]
        return outputs

    async def stop(self) -> None:
        """Close the stream; a background response goes on without it, so that is cancelled."""
        stream = self._stream
        if stream is None:
            return
        steps: list[Callable[[], Any]] = [stream.aclose]
        unfinished = stream.end is None or isinstance(stream.error, StreamBroken)
        if self._request.get("background") and stream.response_id is not None and unfinished:
            cancel = self._client.responses.cancel
            steps.append(lambda: called(cancel, stream.response_id))
        await stopped_upstream(steps)

    def cancelled(self) -> None:
        """Say that the response was cancelled."""
        self._conversation.cancelled()

    def finish(self, error: ProviderError | None) -> DriverOutcome:
        """Say how the response ends."""
        return self._conversation.finish(error, response_ids=tuple(self._response_ids))
