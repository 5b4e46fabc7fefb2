"""Connections of the server before a request is known: bounded in number, size and time.

uvicorn's parser accepts request heads of any size, and waits for the end of a head without a time limit. So any client
that reaches the port could fill memory and descriptors without a credential.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from rehydrate.core.json import dump
from rehydrate.descriptors import most_connections

HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT_S = 10.0
LINGER_S = 1.0

_CODES = {
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "too_large",
    HTTPStatus.REQUEST_TIMEOUT: "too_slow",
    HTTPStatus.TOO_MANY_REQUESTS: "too_many",
}


class _HeadTooLarge(Exception):
    """Raised in the parser's callbacks, to stop it."""


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with a limit of connections, and of size and time of a request head.

    A head of more than `HEAD_BYTES` is answered with 431, one that is not whole within
    `HEAD_TIMEOUT_S` with 408, and a connection beyond the limit with 429; each is then closed.
    Trailers of a body count as a head.
    """

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._head_bytes = 0  # of the fields that the parser has delivered
        self._pending_bytes = 0  # received since it last delivered a head or a part of a body
        self._deadline: asyncio.TimerHandle | None = None
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """Accept a connection, unless there are too many."""
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            self._refuse(HTTPStatus.TOO_MANY_REQUESTS, "too many connections; retry later")
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._cancel_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what was received."""
        if self._refused:
            return
        self._pending_bytes += len(data)
        super().data_received(data)
        if self._pending_bytes > HEAD_BYTES:
            self._refuse_head()

    def send_400_response(self, msg: str) -> None:
        """Answer a request that the parser refused."""
        if self._head_bytes > HEAD_BYTES:
            self._refuse_head()
        else:
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        """Start the time of a head at its first byte."""
        super().on_message_begin()
        self._head_bytes = 0
        self._expect_head()

    def on_url(self, url: bytes) -> None:
        """Take a part of the URL."""
        self._add(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field, or a trailer."""
        self._add(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Handle a request."""
        self._cancel_deadline()
        self._pending_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body, which the routes limit."""
        self._pending_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        self._pending_bytes = 0
        super().on_message_complete()

    def _add(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES:
            raise _HeadTooLarge

    def _expect_head(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_TIMEOUT_S, self._late)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        detail = f"the request head was not complete within {HEAD_TIMEOUT_S:g} s"
        self._refuse(HTTPStatus.REQUEST_TIMEOUT, detail)

    def _refuse_head(self) -> None:
        detail = f"the request head has more than {HEAD_BYTES} bytes"
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail)

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        """Close the connection; answer first, unless that would be within another answer.

        A system resets a connection that is closed with unread data, and its client may lose the
        answer. So the client has a moment to read it, in which what it sends is discarded.
        """
        self._cancel_deadline()
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()
            return
        code = _CODES[status]
        problem = {"title": status.phrase, "status": status.value, "detail": detail, "code": code}
        body = dump({"type": f"urn:rehydrate:problem:{code}", **problem})
        fields = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            "Content-Type: application/problem+json",
            f"Content-Length: {len(body)}",
            "Retry-After: 1",
            "Connection: close",
        ]
        self.transport.write("\r\n".join([*fields, "", ""]).encode() + body)
        if status is not HTTPStatus.TOO_MANY_REQUESTS and self.transport.can_write_eof():
            self.transport.write_eof()
            self.loop.call_later(LINGER_S, self.transport.close)
        else:
            self.transport.close()
