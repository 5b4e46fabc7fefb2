"""History hydration and replay for AI conversations that stream over Ably."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rehydrate.core.client_view import View
from rehydrate.errors import RehydrateError
from rehydrate.joining import Joined, JoinedView, join

if TYPE_CHECKING:
    from rehydrate.history import History
    from rehydrate.hydrate.hydrate import Hydrated
    from rehydrate.publish.respond import Response
    from rehydrate.record.import_messages import NewMessage
    from rehydrate.settings import Settings

__all__ = [
    "History",
    "Hydrated",
    "Joined",
    "JoinedView",
    "NewMessage",
    "RehydrateError",
    "Response",
    "Settings",
    "View",
    "join",
]

_HOMES = {
    "History": "rehydrate.history",
    "Hydrated": "rehydrate.hydrate.hydrate",
    "NewMessage": "rehydrate.record.import_messages",
    "Response": "rehydrate.publish.respond",
    "Settings": "rehydrate.settings",
}


def __getattr__(name: str) -> Any:
    """Import the server's modules on first use: a client that only reads needs none of them."""
    if name in _HOMES:
        from importlib import import_module  # noqa: PLC0415 - see above

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rehydrate' has no attribute {name!r}")
