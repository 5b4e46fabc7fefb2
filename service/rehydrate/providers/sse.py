r"""Server-sent events: bytes in, events out; pure, incremental, by the WHATWG's rules.

Our own, since no maintained decoder fits (as looked at in November 2026):

* ``httpx-sse`` 0.4: its line and event decoders are private modules; it dispatches events without
  data, keeps a leading byte order mark as part of the first field, takes ``retry: +1``, and holds
  a line back whose CR ends a chunk until the next chunk comes;
* ``openai`` 3.52: a private module, pulls from an iterator instead of being fed, raises on bytes
  that are no UTF-8 (the rules replace them), and keeps the byte order mark too;
* ``assel`` 1.0: all parsers of a process share one UTF-8 decoder, so two streams garble each
  other; long lines cost quadratic time;
* ``sseclient-py``, ``aiohttp-sse-client2``, ``requests-sse`` own their connection.

`tests/providers/test_sse.py` checks it against a second reading of the rules, however the bytes
are cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rehydrate.providers.failures import StreamUnreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

EVENT_BYTES_MAX = 64 * 1024 * 1024
"""How long one event may be before the stream counts as unreadable."""

_BOM = b"\xef\xbb\xbf"


class ServerSentEvent(NamedTuple):
    """One event as it was dispatched. ``retry_ms``: only if this very event's block set it."""

    event: str
    data: str
    id: str = ""
    retry_ms: int | None = None

    @property
    def is_done(self) -> bool:
        """Whether this is the marker with which OpenAI's streams end; it is no JSON."""
        return self.data.startswith("[DONE]")


class SseDecoder:
    """Takes the bytes of one stream, in chunks however they come."""

    def __init__(self, *, event_bytes_max: int = EVENT_BYTES_MAX) -> None:
        self._event_bytes_max = event_bytes_max
        self._started = False
        self._head = b""
        self._after_cr = False
        self._line: list[bytes] = []
        self._line_bytes = 0
        self._data_bytes = 0
        self._event = ""
        self._data: list[str] = []
        self._id = ""
        self._retry_ms: int | None = None

    @property
    def pending(self) -> bool:
        """Whether the stream, if it ended now, would end within an event."""
        return bool(self._line or self._data or self._event or self._head)

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Take the next bytes; return the events that they complete.

        Raises:
            StreamUnreadable: an event is longer than the limit.
        """
        chunk = self._without_mark(chunk)
        events = []
        for line in self._lines(chunk):
            event = self._take(line)
            if event is not None:
                events.append(event)
        return events

    def _without_mark(self, chunk: bytes) -> bytes:
        """Drop one byte order mark at the very beginning, also when it comes in pieces."""
        if self._started:
            return chunk
        chunk = self._head + chunk
        if len(chunk) < len(_BOM) and _BOM.startswith(chunk):
            self._head = chunk
            return b""
        self._started, self._head = True, b""
        return chunk.removeprefix(_BOM)

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that *chunk* completes; CR, LF and CRLF end one, the latter also when split."""
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        first, *rest = chunk.split(b"\n")
        if rest:
            yield b"".join((*self._line, first))
            self._line.clear()
            self._line_bytes = 0
            yield from rest[:-1]
            first = rest[-1]
        if first:
            self._line.append(first)
            self._line_bytes += len(first)
            self._check_length()

    def _take(self, line: bytes) -> ServerSentEvent | None:
        if not line:
            return self._dispatch()
        # a line ends at an ASCII byte, so no character lies across two lines
        field, _, value = line.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if field == "data":
            self._data.append(value)
            self._data_bytes += len(line)
            self._check_length()
        elif field == "event":
            self._event = value
        elif field == "id":
            if "\0" not in value:
                self._id = value
        elif field == "retry" and value.isascii() and value.isdigit():
            self._retry_ms = int(value[:15])
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        event = None
        if self._data:
            data = self._data[0] if len(self._data) == 1 else "\n".join(self._data)
            event = ServerSentEvent(self._event or "message", data, self._id, self._retry_ms)
        self._event, self._data, self._retry_ms = "", [], None
        self._data_bytes = 0
        return event

    def _check_length(self) -> None:
        if self._line_bytes + self._data_bytes > self._event_bytes_max:
            raise StreamUnreadable("event_too_long", f"more than {self._event_bytes_max} bytes")
