"""Sending without a task's turn: coroutines that are begun by hand, and seldom have to be awaited.

Whoever sends the same to a thousand readers need not wake a thousand tasks: a server's ``send`` is
done at once, unless its reader is slow.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import Scope, Send

_DIRECT = "rehydrate.direct"
_KNOWN = "uvicorn.protocols."


class Unfinished:
    """What is left of a coroutine that was begun by hand; to be awaited, or closed."""

    __slots__ = ("_coroutine", "_waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        waits_for = self._waits_for
        while True:
            try:
                answer = yield waits_for
            except BaseException as error:  # noqa: BLE001 - a cancellation is for the coroutine
                step = partial(self._coroutine.throw, error)
            else:
                step = partial(self._coroutine.send, answer)
            try:
                waits_for = step()
            except StopIteration:
                return

    def close(self) -> None:
        """Leave it as it is."""
        self._coroutine.close()


def begun(coroutine: Coroutine[Any, Any, None]) -> Unfinished | None:
    """Run *coroutine* up to where it has to wait; None: it is done. Raises what it raises."""
    try:
        return Unfinished(coroutine, coroutine.send(None))
    except StopIteration:
        return None


def offer_direct(scope: Scope, send: Send) -> None:
    """Note in *scope* the server's own *send*, if it is known not to ask which task calls it."""
    owner = type(getattr(send, "__self__", None))
    if owner.__module__.startswith(_KNOWN):
        scope[_DIRECT] = send


def direct(scope: Scope) -> Send | None:
    """The server's own ``send``, which may be begun by hand; None: nobody knows it."""
    found: Send | None = scope.get(_DIRECT)
    return found
