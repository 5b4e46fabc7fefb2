"""Call a vendor's client without blocking the event loop, and contain what foreign code raises."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from rehydrate.providers.blocking_calls import blocking_calls
from rehydrate.providers.failures import failure_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

_log = logging.getLogger(__name__)

CANCEL_TIMEOUT_S = 5.0
"""How long a request to cancel may take at the vendor."""


def is_own_cancellation(error: BaseException) -> bool:
    """Return True if *error* was raised because the current task is being cancelled.

    Everything else that foreign code raises (a tool, a source, a client) is a failure of that code:
    a `SystemExit` must not end the process, nor a `CancelledError` of its own the response.
    """
    task = asyncio.current_task()
    asked = task is None or task.cancelling() > 0
    return asked and not isinstance(error, Exception)


async def call_vendor(method: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    """Call a sync or async method of a vendor's client without blocking the event loop.

    Raises:
        ProviderError: the method raised; see `failure_of`.
    """
    call = partial(method, *args, **keywords)
    try:
        value = call() if is_async(method) else await blocking_calls().run(call)
        return await value if inspect.isawaitable(value) else value
    except BaseException as error:
        if is_own_cancellation(error):
            raise asyncio.CancelledError from error
        raise failure_of(error) from error


async def stop_vendor(steps: Iterable[Callable[[], Awaitable[Any]]]) -> None:
    """Await each of *steps* with a time limit, even while being cancelled; log failures."""

    async def stop() -> None:
        for step in steps:
            try:
                async with asyncio.timeout(CANCEL_TIMEOUT_S):
                    await step()
            except BaseException as error:
                if is_own_cancellation(error):
                    raise
                _log.warning("failed to stop the vendor's response: %s", type(error).__name__)

    task = asyncio.create_task(stop(), name="stopping upstream")
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def is_async(method: Callable[..., Any]) -> bool:
    """Return True if *method* can be called in the event loop.

    This holds for a method of a vendor's async client, and for a coroutine function, also behind
    decorators (`functools.wraps`, tracing libraries). Everything else may block.
    """
    if inspect.iscoroutinefunction(method):
        return True
    plain = inspect.unwrap(method)
    owner = getattr(plain, "__self__", None) or getattr(method, "__self__", None)
    client = getattr(owner, "_client", None)
    kinds = {kind.__name__ for each in (owner, client) for kind in type(each).__mro__}
    return "AsyncAPIClient" in kinds or inspect.iscoroutinefunction(plain)
