"""The embedded channel server: localably with all its files in one folder, for demos."""

from __future__ import annotations

import os
import re
import secrets
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rehydrate.embedded.folder import EmbeddedError, port_number, read_hint, write_hint
from rehydrate.embedded.server import EmbeddedServer, Launch, accepts_connections

if TYPE_CHECKING:
    from collections.abc import Iterator

_KEY_NAME = "local.demo"
_READY = re.compile(r"^ready http://127\.0\.0\.1:(\d+)$", re.MULTILINE)


class EmbeddedChannel(EmbeddedServer):
    """A local channel server; see `EmbeddedServer` for when it runs.

    Its folder contains the messages, `key` (mode 0600), `port`, `log`, `log.1` and two locks.
    """

    name = "the channel server"

    @property
    def url(self) -> str:
        """The URL of the running server."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """The port of the running server."""
        port = read_hint(self.log, _announced)
        if port is None:
            raise EmbeddedError(f"{self.name} is not running in {self.folder}: start it")
        return port

    @property
    def key(self) -> str:
        """The server's API key, appId.keyId:secret.

        Raises:
            EmbeddedError: the server was not started yet, or its file is damaged.
        """
        key = read_hint(self.folder / "key", _key)
        if key is None:
            raise EmbeddedError(f"{self.folder / 'key'} has no key: restart {self.name}")
        return key

    def answers(self) -> bool:
        """Return True if a server has reported that it is ready, and accepts connections."""
        port = read_hint(self.log, _announced)
        return port is not None and accepts_connections(port)

    def _prepare(self) -> None:
        if read_hint(self.folder / "key", _key) is None:
            write_hint(self.folder / "key", f"{_KEY_NAME}:{secrets.token_urlsafe(24)}")

    @contextmanager
    def _launching(self, port: int) -> Iterator[Launch]:
        argv = ("--quiet", "local-ably", "--port", str(port), "--data-dir", str(self.folder))
        environment = {**os.environ, "REHYDRATE_LOCAL_ABLY_KEY": self.key}
        yield Launch([sys.executable, "-m", "rehydrate", *argv], environment)


def _announced(log: str) -> int:
    """Return the port of the line that the server prints once it listens."""
    ports = _READY.findall(log)
    if not ports:
        raise ValueError("not ready")
    return port_number(ports[-1])


def _key(text: str) -> str:
    if not re.fullmatch(r"[^.:\s]+\.[^.:\s]+:\S+", text):
        raise ValueError("not an API key")
    return text
