"""localably: a local channel server that speaks Ably's realtime protocol and REST API.

For development, demonstrations and tests; not for production. It imports nothing of the package
around it and runs alone: ``python -m localably``.
"""

from __future__ import annotations

from .command import main
from .config import App, Key, Namespace, Settings
from .errors import RefusedError
from .faults import Faults
from .server import LocalAbly
from .webhooks import WebhookRule

__all__ = [
    "App",
    "Faults",
    "Key",
    "LocalAbly",
    "Namespace",
    "RefusedError",
    "Settings",
    "WebhookRule",
    "main",
]
