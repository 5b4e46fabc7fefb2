"""localably: a local channel server that speaks Ably's realtime protocol and REST API.

For development, demonstrations and tests; not for production. It imports nothing of the package
around it and runs alone: ``python -m rehydrate.localably``.
"""

from __future__ import annotations

from .config import Key, Namespace, Settings
from .errors import RefusedError
from .server import LocalAbly

__all__ = ["Key", "LocalAbly", "Namespace", "RefusedError", "Settings"]
