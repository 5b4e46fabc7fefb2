"""For those who deploy with an ASGI server of their own: ``uvicorn rehydrate.asgi:app``."""

from __future__ import annotations

from rehydrate.wiring import History

app = History().app()
