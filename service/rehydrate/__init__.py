"""History hydration and replay for AI conversations that stream over Ably."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rehydrate.core.reader import View
from rehydrate.errors import RehydrateError

if TYPE_CHECKING:
    from rehydrate.hydration import Hydrated
    from rehydrate.publishing.responding import Response
    from rehydrate.recording import NewMessage
    from rehydrate.settings import Settings
    from rehydrate.wiring.history import History

__all__ = ["History", "Hydrated", "NewMessage", "RehydrateError", "Response", "Settings", "View"]

_HOMES = {
    "History": "rehydrate.wiring.history",
    "Hydrated": "rehydrate.hydration",
    "NewMessage": "rehydrate.recording",
    "Response": "rehydrate.publishing.responding",
    "Settings": "rehydrate.settings",
}


def __getattr__(name: str) -> Any:
    """Import the server's side only for who uses it: a client that only reads needs `View`."""
    if name in _HOMES:
        from importlib import import_module  # noqa: PLC0415 - see above

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'rehydrate' has no attribute {name!r}")
