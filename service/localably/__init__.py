"""localably: a local channel server that speaks Ably's realtime protocol and REST API.

For development, demonstrations and tests; not for production. It imports nothing of rehydrate and
runs on its own: ``python -m localably``. It needs the packages of the extra ``embedded``; names are
imported on first use, so that the command can report a missing package in one line.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .command import main
    from .config import App, Key, LocalAblySettings, Namespace
    from .errors import RefusedError
    from .faults import Faults
    from .server import LocalAbly
    from .webhooks import WebhookRule

_MODULES = {
    "App": "config",
    "Faults": "faults",
    "Key": "config",
    "LocalAbly": "server",
    "Namespace": "config",
    "RefusedError": "errors",
    "LocalAblySettings": "config",
    "WebhookRule": "webhooks",
    "main": "command",
}

__all__ = [
    "App",
    "Faults",
    "Key",
    "LocalAbly",
    "LocalAblySettings",
    "Namespace",
    "RefusedError",
    "WebhookRule",
    "main",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'localably' has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
