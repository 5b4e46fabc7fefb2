"""The tool loop, the same for every vendor: stream, run the tools, return their outputs, repeat.

A `VendorApi` makes the requests of one API. The loop writes all turns into one response, ends it
once, and stops the vendor if it has not finished.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rehydrate.background import Backoff
from rehydrate.providers.answer_items import set_result
from rehydrate.providers.failures import ProviderError, StreamBroken, VendorIncomplete, failure_of
from rehydrate.providers.vendor_calls import is_own_cancellation, stop_vendor
from rehydrate.providers.vendor_events import Ended, Started, ToolResult, label

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from rehydrate.core.event import Status
    from rehydrate.providers.toolbox import Answer, Toolbox
    from rehydrate.providers.vendor_events import Sink, ToolCallDone
    from rehydrate.providers.vendor_stream import VendorStream

_log = logging.getLogger(__name__)

TURNS_MAX = 16
"""How many turns with tool calls an answer may have before it ends as incomplete."""

ASK_AGAIN_S = 60.0
"""How long requests to a busy or unreachable vendor are retried, after the first request."""

_FIRST_DELAY_S, _MAX_DELAY_S = 0.25, 5.0


@dataclass(frozen=True, slots=True)
class DriverOutcome:
    """How an answer ended.

    Attributes:
        status: the status of the response.
        error: the cause, if the status is not ``completed``.
        usage: the vendor's token counts, summed over all turns.
        parts: the complete content, if it is known.
        response_ids: the vendor's ids of the responses, oldest first. Pass the last one as
            ``previous_response_id`` with the next prompt.
        thread_id: the vendor's id of the thread. Pass it as ``thread_id`` with the next prompt.
        run_id: the vendor's id of the run.
        amended: the vendor's events were irregular, or contradicted its final text, which was used.
    """

    status: Status
    error: ProviderError | None = None
    usage: dict[str, Any] | None = None
    parts: list[dict[str, Any]] | None = None
    response_ids: tuple[str, ...] = ()
    thread_id: str | None = None
    run_id: str | None = None
    amended: bool = False


Noted = Callable[[str, str], None]
"""Called with what the vendor has started (``response``, ``thread`` or ``run``), and its id."""

_REPORTED = ("response", "thread", "run")


class VendorApi(Protocol):
    """The requests of one answer at one vendor's API.

    Attributes:
        continues: the same stream continues with the next turn, so its last end has all parts.
    """

    continues: bool

    async def request(self, turn: int) -> VendorStream:
        """Request the next turn and return its stream."""
        ...

    async def reopen(self, stream: VendorStream) -> Any:
        """Return the source from which *stream*, which broke off, continues; None: it cannot."""
        ...

    def answered(self, end: Ended, answers: Sequence[Answer]) -> None:
        """Set what the next request returns to the model."""
        ...

    async def cancel(self) -> None:
        """Cancel the work that the vendor would otherwise continue."""
        ...

    def ids(self) -> dict[str, Any]:
        """Return the vendor's ids for the outcome."""
        ...


async def run_tool_loop(
    sink: Sink, api: VendorApi, toolbox: Toolbox, *, noted: Noted | None, turns_max: int
) -> DriverOutcome:
    """Stream an answer into *sink*, with all tool calls, and end the response.

    A failure ends the response and is part of the outcome. Cancellation and exceptions of the sink
    stop the vendor and propagate; in the latter case the publisher ends the response.

    Args:
        sink: the response that is being published.
        api: the requests.
        toolbox: the tools that the model may call.
        noted: called with each id of the vendor as soon as it is known.
        turns_max: how many turns may call tools.
    """
    loop = _ToolLoop(sink, api, toolbox, noted)
    try:
        await loop.turns(turns_max)
    except ProviderError as failure:
        await loop.stop()
        return loop.finish(failure)
    except asyncio.CancelledError:
        await loop.stop()
        sink.finish("cancelled", usage=loop.usage)
        raise
    except BaseException:
        await loop.stop()
        raise
    return loop.finish(None)


class _ToolLoop:
    def __init__(self, sink: Sink, api: VendorApi, toolbox: Toolbox, noted: Noted | None) -> None:
        self._sink = sink
        self._api = api
        self._toolbox = toolbox
        self._noted = noted
        self._stream: VendorStream | None = None
        self._answers: dict[str, Answer] = {}
        self._parts: list[dict[str, Any]] | None = []
        self._amended = False
        self.usage: dict[str, Any] | None = None

    async def turns(self, turns_max: int) -> None:
        """Request an answer and run the tools that it calls, until it calls none."""
        for turn in range(turns_max):
            end = await self._turn(turn)
            if not end.calls:
                if end.error is not None:
                    raise end.error
                return
            self._api.answered(end, await self._answer(end.calls))
        raise VendorIncomplete("too_many_turns", f"tools were called {turns_max} times")

    async def stop(self) -> None:
        """Close the stream, and cancel an answer that the vendor has not ended."""
        stream = self._stream
        if stream is None:
            return
        steps: list[Callable[[], Any]] = [stream.aclose]
        waits = stream.end is not None and bool(stream.end.calls) and self._api.continues
        if stream.end is None or isinstance(stream.error, StreamBroken) or waits:
            steps.append(self._api.cancel)
        await stop_vendor(steps)

    def finish(self, error: ProviderError | None) -> DriverOutcome:
        """End the response and return the outcome."""
        status: Status = "completed" if error is None else error.ending
        parts = self._parts or None
        for part in parts or ():
            answer = self._answers.get(part.get("tool_call_id", ""))
            if answer is not None:
                set_result(part, answer.result, failed=answer.failed)
        detail = None if error is None else error.public_detail
        self._sink.finish(status, usage=self.usage, error=detail, parts=parts)
        ids = self._api.ids()
        return DriverOutcome(status, error, self.usage, parts, amended=self._amended, **ids)

    async def _turn(self, turn: int) -> Ended:
        """Write one turn to the sink, and return its end, which is not written."""
        request = self._ask_again if turn else _contained
        stream = self._stream = await request(lambda: self._api.request(turn))
        end = await self._write(stream)
        while isinstance(end.error, StreamBroken) and (source := await self._reopened(stream)):
            seen = stream.sequence_number
            stream.resume(source)
            end = await self._write(stream)
            if stream.sequence_number == seen and isinstance(end.error, StreamBroken):
                break
        self._amended = self._amended or stream.amended
        self.usage = add_usage(self.usage, end.usage)
        if end.parts is not None and self._parts is not None:
            self._parts += end.parts
        elif not (end.calls and self._api.continues):
            self._parts = None
        return end

    async def _reopened(self, stream: VendorStream) -> Any:
        """Return the source from which a broken stream continues, or None."""
        try:
            return await self._ask_again(lambda: self._api.reopen(stream))
        except ProviderError as failure:
            if failure.passing:
                return None  # the answer ends as its stream did
            raise

    async def _ask_again(self, request: Callable[[], Awaitable[Any]]) -> Any:
        """Make a request; retry for up to `ASK_AGAIN_S` while the vendor is busy.

        The vendor has a part of the answer, and tools may have had effects: giving up at once
        would lose both.
        """
        loop = asyncio.get_running_loop()
        until_s = loop.time() + ASK_AGAIN_S
        backoff = Backoff(_FIRST_DELAY_S, _MAX_DELAY_S)
        while True:
            try:
                return await _contained(request)
            except ProviderError as failure:
                delay_s = backoff.next_s()
                if not failure.passing or loop.time() + delay_s > until_s:
                    raise
                _log.info("retrying a request to the vendor after %s", failure.code)
            await asyncio.sleep(delay_s)

    async def _write(self, stream: VendorStream) -> Ended:
        """Write the content of *stream* to the sink; return its end."""
        end: Ended | None = None
        async for event in stream:
            if isinstance(event, Ended):
                end = event
            elif isinstance(event, Started):
                if self._noted is not None and event.what in _REPORTED:
                    self._noted(event.what, event.id)
            elif not (isinstance(event, ToolResult) and label(event.tool_call_id) in self._answers):
                event.write_to(self._sink)
        assert end is not None, "every stream ends with Ended"  # noqa: S101 - the stream's promise
        return end

    async def _answer(self, calls: Sequence[ToolCallDone]) -> list[Answer]:
        """Run the tools and write each result as it arrives; return them in the order of the calls.

        Raises:
            ToolFailed: one of them cannot be run. The results of the others are still written.
        """
        answers: dict[str, Answer] = {}
        async with aclosing(self._toolbox.answers(calls)) as coming:
            async for answer in coming:
                answers[answer.tool_call_id] = answer
                shown_id, name = label(answer.tool_call_id), label(answer.name)
                self._answers[shown_id] = answer
                self._sink.tool_result(shown_id, answer.result, name=name, failed=answer.failed)
        failures = [answer.failure for answer in answers.values() if answer.failure is not None]
        if failures:
            raise failures[0]
        return [answers[call.tool_call_id] for call in calls]


async def _contained(request: Callable[[], Awaitable[Any]]) -> Any:
    """Await a request; raise any error of it as a `ProviderError`."""
    try:
        return await request()
    except BaseException as error:
        if is_own_cancellation(error):
            raise asyncio.CancelledError from error
        raise failure_of(error) from error


def add_usage(one: dict[str, Any] | None, other: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the sum of two token counts, field by field."""
    if one is None or other is None:
        return other if one is None else one
    total = dict(one)
    for key, value in other.items():
        known = total.get(key)
        if isinstance(value, dict) and isinstance(known, dict):
            total[key] = add_usage(known, value)
        elif isinstance(value, int | float) and isinstance(known, int | float):
            total[key] = known + value
        elif known is None:
            total[key] = value
    return total
