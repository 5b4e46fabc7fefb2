"""The application for another ASGI server: ``uvicorn rehydrate.asgi:app``."""

from __future__ import annotations

from rehydrate.api.telemetry import log_to_stderr
from rehydrate.history import History

log_to_stderr()
app = History().app()
