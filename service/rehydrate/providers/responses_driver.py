"""Run the tool loop of the Responses API: stream, call the tools, submit their outputs, repeat."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from rehydrate.background import Backoff
from rehydrate.providers.driving import (
    TURNS_MAX,
    DriverContext,
    DriverOutcome,
    call_vendor,
    drive,
    stop_vendor,
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
"""How often the stream of a background response is resumed after it broke off."""

_FUNCTION_CALLS = ("function_call", "custom_tool_call")
"""Types of calls that the driver answers; the vendor answers all others."""


async def run_responses(
    sink: Sink,
    client: Any,
    *,
    input: Any,  # noqa: A002 - the name in the vendor's own method
    tools: Mapping[str, Callable[..., Any] | Tool] | Toolbox | None = None,
    vendor_tools: list[dict[str, Any]] | None = None,
    tool_timeout_s: float = TOOL_TIMEOUT_S,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
    turns_max: int = TURNS_MAX,
    noted: Noted | None = None,
    **request: Any,
) -> DriverOutcome:
    """Stream an answer of the Responses API into *sink*, with all tool calls, and end the response.

    A failure ends the response and is returned, not raised. An exception of the sink, or
    cancellation, stops the vendor and propagates.

    Args:
        sink: the response that is being published.
        client: ``openai.AsyncOpenAI``, or ``OpenAI``, whose calls then use threads.
        input: the prompt, as for ``client.responses.create``.
        tools: the functions that the model may call, by name.
        vendor_tools: further tools in the API's own form, for instance
            ``{"type": "web_search"}``.
        tool_timeout_s: how long one call of a tool may take, in seconds.
        idle_timeout_s: how long the stream may be silent, in seconds.
        turns_max: how many requests the tool loop may make.
        noted: called with each id of the vendor as soon as it is known.
        request: further arguments of ``client.responses.create``: ``model``, ``instructions``,
            ``previous_response_id``, ``conversation``, ``store``, ``background`` …

    Raises:
        BadParameter: a tool cannot be described.
    """
    toolbox = toolbox_of(tools, timeout_s=tool_timeout_s)
    specs = [*toolbox.specs(), *(vendor_tools or ())]
    if specs:
        request["tools"] = specs
    run = _ResponsesRun(client, DriverContext(sink, toolbox, noted), request, idle_timeout_s)
    return await drive(run, run.turns(input, turns_max))


class _ResponsesRun:
    def __init__(
        self,
        client: Any,
        context: DriverContext,
        request: dict[str, Any],
        idle_timeout_s: float,
    ) -> None:
        self._client = client
        self._context = context
        self._request = request
        self._idle_timeout_s = idle_timeout_s
        self._response_ids: list[str] = []
        self._stream: ResponsesStream | None = None

    async def turns(self, input_: Any, turns_max: int) -> None:
        """Request an answer and run the tools that it calls, until it calls none."""
        for turn in range(turns_max):
            end, calls = await self._turn(turn, input_)
            calls = [call for call in calls if call.kind in _FUNCTION_CALLS]
            self._context.close_turn(end)
            if end.error is not None:
                raise end.error
            if not calls:
                return
            answers = await self._context.answer(calls)
            self._request.pop("tool_choice", None)  # it applies to the first turn only
            input_ = self._next(input_, end, answers)
        raise VendorIncomplete("too_many_turns", f"tools were called {turns_max} times")

    async def _turn(self, turn: int, input_: Any) -> tuple[Ended, list[ToolCallDone]]:
        create = self._client.responses.create
        source = await call_vendor(create, input=input_, stream=True, **self._request)
        prefix = f"{turn}:" if turn else ""
        stream = ResponsesStream(source, prefix=prefix, idle_timeout_s=self._idle_timeout_s)
        self._stream = stream
        end, calls = await self._context.write_turn(stream)
        backoff = Backoff(0.25, 2.0)
        for _ in range(RESUMES_MAX):
            if not self._can_resume(end, stream):
                break
            await asyncio.sleep(backoff.next_s())
            end, more = await self._resume(end, stream)
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

    async def _resume(
        self, end: Ended, stream: ResponsesStream
    ) -> tuple[Ended, list[ToolCallDone]]:
        try:
            source = await call_vendor(
                self._client.responses.retrieve,
                stream.response_id,
                stream=True,
                starting_after=stream.sequence_number,
            )
        except StreamBroken:
            return end, []
        stream.resume(source)
        return await self._context.write_turn(stream)

    def _next(self, input_: Any, end: Ended, answers: list[Answer]) -> list[dict[str, Any]]:
        """Return the input of the next request, with earlier items unless the vendor stores them."""
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
            before = (
                [{"role": "user", "content": input_}] if isinstance(input_, str) else list(input_)
            )
            return [*before, *end.items, *outputs]
        self._request["previous_response_id"] = self._response_ids[-1]
        return outputs

    async def stop(self) -> None:
        """Close the stream, and cancel a background response, which would continue without it."""
        stream = self._stream
        if stream is None:
            return
        steps: list[Callable[[], Any]] = [stream.aclose]
        unfinished = stream.end is None or isinstance(stream.error, StreamBroken)
        if self._request.get("background") and stream.response_id is not None and unfinished:
            cancel = self._client.responses.cancel
            steps.append(lambda: call_vendor(cancel, stream.response_id))
        await stop_vendor(steps)

    def cancelled(self) -> None:
        """End the response as cancelled."""
        self._context.cancelled()

    def finish(self, error: ProviderError | None) -> DriverOutcome:
        """End the response and return the outcome."""
        return self._context.finish(error, response_ids=tuple(self._response_ids))
