"""A real server for an app, on a free port, in a thread with its own event loop."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import asynccontextmanager, contextmanager

import uvicorn

from rehydrate.api.telemetry import uvicorn_options
from waiting import PATIENCE_S


@contextmanager
def served(app, **options):
    """Serve *app*; yield its URL."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, lifespan="on", **{**uvicorn_options(), **options})
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            deadline_s = time.monotonic() + PATIENCE_S
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                assert time.monotonic() < deadline_s
                time.sleep(0.005)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@asynccontextmanager
async def served_beside(app, **options):
    """Do the same as `served` without blocking the test's event loop, in which other servers run."""
    server = served(app, **options)
    url = await asyncio.to_thread(server.__enter__)
    try:
        yield url
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)
