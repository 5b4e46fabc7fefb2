"""A scripted endpoint on a real socket, and clients of the openai package for it."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager

import openai
import pytest
import uvicorn

from scripted_openai.endpoint import ScriptedEndpoint
from waiting import PATIENCE_S


class Vendor:
    """The endpoint and its clients."""

    def __init__(self, endpoint: ScriptedEndpoint, url: str) -> None:
        self.endpoint = endpoint
        self.settings = {"base_url": f"{url}/v1", "api_key": "of-nobody", "max_retries": 0}

    def client(self, **settings):
        return openai.AsyncOpenAI(**{**self.settings, **settings})

    def sync_client(self, **settings):
        return openai.OpenAI(**{**self.settings, **settings})


@contextmanager
def served(app):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, lifespan="off", log_level="critical")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            deadline_s = time.monotonic() + PATIENCE_S
            while not server.started:
                assert thread.is_alive()
                assert time.monotonic() < deadline_s
                time.sleep(0.005)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True
            thread.join(20)
            assert not thread.is_alive()


@contextmanager
def scripted():
    """A vendor whose script is set by the test: `vendor.endpoint.answer = …`."""
    endpoint = ScriptedEndpoint(answer=lambda asked: [])
    with served(endpoint.app) as url:
        yield Vendor(endpoint, url)


@pytest.fixture
def vendor():
    with scripted() as made:
        yield made


def eventually(condition, timeout_s: float = PATIENCE_S) -> None:
    """Wait until *condition* holds in the server's thread."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "the condition was not met in time"
        time.sleep(0.005)
