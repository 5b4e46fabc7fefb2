"""Run an ASGI ``send`` from another task, without waking the task that owns the response.

uvicorn's ``send`` completes without suspending unless the client is slow. So one event can be
written to a thousand streams in a loop, where waking a thousand tasks would cost far more. The
coroutine is stepped once by hand; only if it suspends is the rest awaited by the stream's own task.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import Scope, Send

_DIRECT = "rehydrate.direct"
_SERVERS = "uvicorn.protocols."


class Unfinished:
    """The rest of a coroutine that suspended when it was stepped by hand; await or close it."""

    __slots__ = ("_coroutine", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        waits_for = self._waits_for
        while True:
            try:
                result = yield waits_for
            except BaseException as error:  # noqa: BLE001 - a cancellation goes to the coroutine
                resume = partial(self._coroutine.throw, error)
            else:
                resume = partial(self._coroutine.send, result)
            try:
                waits_for = resume()
            except StopIteration:
                return

    def close(self) -> None:
        """Close the coroutine without finishing it."""
        self._coroutine.close()


def step(coroutine: Coroutine[Any, Any, None]) -> Unfinished | None:
    """Run *coroutine* until it suspends; return the rest, or None if it has finished.

    Raises:
        Exception: the exception of the coroutine.
    """
    try:
        return Unfinished(coroutine, coroutine.send(None))
    except StopIteration:
        return None


def offer_direct(scope: Scope, send: Send) -> None:
    """Store the server's own *send* in *scope*, if any task may call it (true of uvicorn)."""
    owner = type(getattr(send, "__self__", None))
    if owner.__module__.startswith(_SERVERS):
        scope[_DIRECT] = send


def direct(scope: Scope) -> Send | None:
    """Return the server's own ``send``, which may be stepped by hand; None for other servers."""
    found: Send | None = scope.get(_DIRECT)
    return found
