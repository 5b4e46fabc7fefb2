"""The common part of both drivers: the turns of one answer become one response that ends once."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from rehydrate.providers.blocking_calls import blocking_calls
from rehydrate.providers.failures import ProviderError, failure_of
from rehydrate.providers.interpreting import set_result
from rehydrate.providers.vendor_events import Ended, Started, ToolCallDone, ToolResult, label

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from rehydrate.core.event import Status
    from rehydrate.providers.toolbox import Answer, Toolbox
    from rehydrate.providers.vendor_events import Sink
    from rehydrate.providers.vendor_stream import VendorStream

_log = logging.getLogger(__name__)

TURNS_MAX = 16
"""How many turns with tool calls an answer may have before it ends as incomplete."""

CANCEL_TIMEOUT_S = 5.0
"""How long a request to cancel may take at the vendor."""


@dataclass(frozen=True, slots=True)
class DriverOutcome:
    """How an answer ended.

    Attributes:
        status: the status of the response.
        error: the cause, if the status is not ``completed``.
        usage: the vendor's token counts, summed over all turns.
        parts: the complete content, if the vendor sent it at the end of every turn.
        response_ids: the vendor's ids of the responses, oldest first. Pass the last one as
            ``previous_response_id`` with the next prompt.
        thread_id: the vendor's id of the thread. Pass it as ``thread_id`` with the next prompt.
        run_id: the vendor's id of the run.
    """

    status: Status
    error: ProviderError | None = None
    usage: dict[str, Any] | None = None
    parts: list[dict[str, Any]] | None = None
    response_ids: tuple[str, ...] = ()
    thread_id: str | None = None
    run_id: str | None = None


Noted = Callable[[str, str], None]
"""Called with what the vendor has started (``response``, ``thread`` or ``run``), and its id."""

_REPORTED = ("response", "thread", "run")


class DriverContext:
    """One answer while it is produced: writes all turns into *sink*, and its end once.

    Args:
        sink: the response that is being published.
        toolbox: the tools that the model may call.
        noted: called with each id of the vendor as soon as it is known.
    """

    def __init__(self, sink: Sink, toolbox: Toolbox, noted: Noted | None = None) -> None:
        self._sink = sink
        self._toolbox = toolbox
        self._noted = noted
        self._answers: dict[str, Answer] = {}
        self._parts: list[dict[str, Any]] | None = []
        self.usage: dict[str, Any] | None = None

    async def write_turn(self, stream: VendorStream) -> tuple[Ended, list[ToolCallDone]]:
        """Write the content of *stream* to the sink; return its end, which is not written, and calls."""
        calls: list[ToolCallDone] = []
        end: Ended | None = None
        async for event in stream:
            if isinstance(event, Ended):
                end = event
            elif isinstance(event, ToolCallDone):
                calls.append(event)
            elif isinstance(event, Started):
                if self._noted is not None and event.what in _REPORTED:
                    self._noted(event.what, event.id)
            elif not (isinstance(event, ToolResult) and label(event.tool_call_id) in self._answers):
                event.write_to(self._sink)
        assert end is not None, "every stream ends with Ended"  # noqa: S101 - the stream's promise
        return end, calls

    def close_turn(self, end: Ended) -> None:
        """Add the usage and the parts of a turn to those of the answer."""
        self.usage = add_usage(self.usage, end.usage)
        if self._parts is not None:
            self._parts = None if end.parts is None else [*self._parts, *end.parts]

    async def answer(self, calls: list[ToolCallDone]) -> list[Answer]:
        """Run the tools and write each result as it arrives; return them in the order of the calls.

        Raises:
            ToolFailed: one of them cannot be run. The results of the others are written all the
                same.
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

    def finish(self, error: ProviderError | None, **ids: Any) -> DriverOutcome:
        """End the response and return the outcome."""
        status: Status = "completed" if error is None else error.ending
        parts = self._parts or None
        for part in parts or ():
            answer = self._answers.get(part.get("tool_call_id", ""))
            if answer is not None:
                set_result(part, answer.result, failed=answer.failed)
        detail = None if error is None else error.public_detail
        self._sink.finish(status, usage=self.usage, error=detail, parts=parts)
        return DriverOutcome(status, error, self.usage, parts, **ids)

    def cancelled(self) -> None:
        """End the response as cancelled, with the content so far."""
        self._sink.finish("cancelled", usage=self.usage)


class DriverRun(Protocol):
    """One answer that `drive` can run."""

    async def stop(self) -> None:
        """Stop the vendor if it has not finished."""

    def cancelled(self) -> None:
        """End the response as cancelled."""

    def finish(self, error: ProviderError | None) -> DriverOutcome:
        """End the response and return the outcome."""


async def drive(run: DriverRun, turns: Awaitable[None]) -> DriverOutcome:
    """Await *turns*, and end the response whatever their result is.

    A `ProviderError` ends the response and is part of the outcome. Cancellation and other
    exceptions stop the vendor and propagate; the publisher ends the response for the latter.
    """
    try:
        await turns
    except ProviderError as failure:
        await run.stop()
        return run.finish(failure)
    except asyncio.CancelledError:
        await run.stop()
        run.cancelled()
        raise
    except BaseException:
        await run.stop()
        raise
    return run.finish(None)


async def call_vendor(method: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """Call a sync or async method of a vendor's client without blocking the event loop.

    Raises:
        ProviderError: the method raised; see `failure_of`.
    """
    try:
        if is_sync(method):
            return await blocking_calls().run(partial(method, *args, **keywords))
        value = method(*args, **keywords)
        return await value if inspect.isawaitable(value) else value
    except Exception as error:
        raise failure_of(error) from error


async def stop_vendor(steps: Iterable[Callable[[], Awaitable[Any]]]) -> None:
    """Await each of *steps* with a time limit, even while being cancelled; log failures."""

    async def stop() -> None:
        for step in steps:
            try:
                async with asyncio.timeout(CANCEL_TIMEOUT_S):
                    await step()
            except Exception as error:  # noqa: BLE001 - the response ends in any case
                _log.warning("failed to stop the vendor's response: %s", type(error).__name__)

    task = asyncio.create_task(stop(), name="stopping upstream")
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


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


def is_sync(method: Callable[..., Any]) -> bool:
    """Return True if *method* belongs to the ``openai`` package's sync client, or to a similar one."""
    owner = getattr(method, "__self__", None)  # the client, or one of its resources
    kinds = (*type(owner).__mro__, *type(getattr(owner, "_client", None)).__mro__)
    return any(kind.__name__ == "SyncAPIClient" for kind in kinds)
