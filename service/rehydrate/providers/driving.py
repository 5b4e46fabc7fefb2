"""What both drivers share: turns of one answer, written into one response that ends once."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from rehydrate.providers.failures import ProviderError, failure_of
from rehydrate.providers.interpreting import settle
from rehydrate.providers.vendor_events import Ended, Started, ToolCallDone, ToolResult

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from rehydrate.core.event import Status
    from rehydrate.providers.toolbox import Answer, Toolbox
    from rehydrate.providers.vendor_events import Sink
    from rehydrate.providers.vendor_stream import VendorStream

_log = logging.getLogger(__name__)

TURNS_MAX = 16
"""How often an answer may come back with tool calls before it ends as incomplete."""

CANCEL_TIMEOUT_S = 5.0
"""How long telling the vendor of a cancellation may take."""


@dataclass(frozen=True, slots=True)
class DriverOutcome:
    """How a driven answer ended.

    Attributes:
        status: the response's.
        error: why, if it is not ``completed``.
        usage: the vendor's counts of tokens, summed over all turns.
        parts: the whole content, if the vendor said at every end what it was.
        response_ids: the vendor's ids of the responses, oldest first; the last one is the next
            prompt's ``previous_response_id``.
        thread_id: the vendor's id of the thread; the next prompt's ``thread_id``.
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
"""Is told what the vendor has begun (``response``, ``thread``, ``run``), and its id."""

_NAMED = ("response", "thread", "run")


class DriverContext:
    """One answer in the making: what its turns said goes into *sink*, and its end, once.

    *noted* is told the vendor's ids as soon as they are known.
    """

    def __init__(self, sink: Sink, toolbox: Toolbox, noted: Noted | None = None) -> None:
        self._sink = sink
        self._toolbox = toolbox
        self._noted = noted
        self._answers: dict[str, Answer] = {}
        self._parts: list[dict[str, Any]] | None = []
        self.usage: dict[str, Any] | None = None

    async def pour(self, stream: VendorStream) -> tuple[Ended, list[ToolCallDone]]:
        """Write what *stream* says, but for its end; return that, and the calls that it made."""
        calls: list[ToolCallDone] = []
        end: Ended | None = None
        async for event in stream:
            if isinstance(event, Ended):
                end = event
            elif isinstance(event, ToolCallDone):
                calls.append(event)
            elif isinstance(event, Started):
                if self._noted is not None and event.what in _NAMED:
                    self._noted(event.what, event.id)
            elif not (isinstance(event, ToolResult) and event.tool_call_id in self._answers):
                event.say(self._sink)
        assert end is not None, "every stream ends with Ended"  # noqa: S101 - the stream's promise
        return end, calls

    def close_turn(self, end: Ended) -> None:
        """Take over what the turn that ended so said of itself."""
        self.usage = add_usage(self.usage, end.usage)
        if self._parts is not None:
            self._parts = None if end.parts is None else [*self._parts, *end.parts]

    async def answer(self, calls: list[ToolCallDone]) -> list[Answer]:
        """Run the tools, show their results as they come; return them in the order of the calls.

        Raises:
            ToolFailed: one of them cannot be run; the others' results are shown all the same.
        """
        answers: dict[str, Answer] = {}
        async with aclosing(self._toolbox.answers(calls)) as coming:
            async for answer in coming:
                answers[answer.tool_call_id] = answer
                self._answers[answer.tool_call_id] = answer
                self._sink.tool_result(
                    answer.tool_call_id, answer.result, name=answer.name, failed=answer.failed
                )
        failures = [answer.failure for answer in answers.values() if answer.failure is not None]
        if failures:
            raise failures[0]
        return [answers[call.tool_call_id] for call in calls]

    def finish(self, error: ProviderError | None, **ids: Any) -> DriverOutcome:
        """Say how the response ends, and return it."""
        status: Status = "completed" if error is None else error.ending
        parts = self._parts or None
        for part in parts or ():
            answer = self._answers.get(part.get("tool_call_id", ""))
            if answer is not None:
                settle(part, answer.result, failed=answer.failed)
        told = None if error is None else error.told
        self._sink.finish(status, usage=self.usage, error=told, parts=parts)
        return DriverOutcome(status, error, self.usage, parts, **ids)

    def cancelled(self) -> None:
        """Say that the response was cancelled; the text so far is its text."""
        self._sink.finish("cancelled", usage=self.usage)


class DriverRun(Protocol):
    """One driven answer, as `driven` sees it."""

    async def stop(self) -> None:
        """Stop the vendor, if it is not done."""

    def cancelled(self) -> None:
        """Say that the response was cancelled."""

    def finish(self, error: ProviderError | None) -> DriverOutcome:
        """Say how the response ends."""


async def driven(run: DriverRun, turns: Awaitable[None]) -> DriverOutcome:
    """Carry *turns* out, and end the response however they end."""
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


async def called(method: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """Call a method of a vendor's client, which may be sync or async, without blocking the loop.

    Raises:
        ProviderError: what it raised, as what it means for the answer.
    """
    try:
        if is_sync(method):
            return await asyncio.to_thread(method, *args, **keywords)
        value = method(*args, **keywords)
        return await value if inspect.isawaitable(value) else value
    except Exception as error:
        raise failure_of(error) from error


async def stopped_upstream(steps: Iterable[Callable[[], Awaitable[Any]]]) -> None:
    """Carry *steps* out, within a limit each, also while being cancelled; failures are logged."""

    async def stop() -> None:
        for step in steps:
            try:
                async with asyncio.timeout(CANCEL_TIMEOUT_S):
                    await step()
            except Exception as error:  # noqa: BLE001 - the answer is over for us either way
                _log.warning("the vendor could not be told to stop: %s", type(error).__name__)

    task = asyncio.create_task(stop(), name="stopping upstream")
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def add_usage(one: dict[str, Any] | None, other: dict[str, Any] | None) -> dict[str, Any] | None:
    """The sum of two counts of tokens, field by field."""
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
    """Whether *method* is of the ``openai`` package's blocking client, or of one like it."""
    owner = getattr(method, "__self__", None)  # the client, or one of its resources
    kinds = (*type(owner).__mro__, *type(getattr(owner, "_client", None)).__mro__)
    return any(kind.__name__ == "SyncAPIClient" for kind in kinds)
