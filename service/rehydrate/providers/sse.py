r"""Decode server-sent events incrementally, from bytes to events, by the WHATWG's rules.

The decoder is written here because the maintained ones do not fit (as of November 2026):

* ``httpx-sse`` 0.4: its line and event decoders are private modules; it dispatches events without
  data, treats a leading byte order mark as part of the first field, accepts ``retry: +1``, and
  delays a line whose CR ends a chunk until the next chunk arrives;
* ``openai`` 3.52: a private module; it pulls from an iterator instead of being fed, raises on
  invalid UTF-8 (the rules replace it), and does not remove the byte order mark either;
* ``assel`` 1.0: all parsers of a process share one UTF-8 decoder, so two streams corrupt each
  other; long lines take quadratic time;
* ``sseclient-py``, ``aiohttp-sse-client2``, ``requests-sse`` open the connection themselves.

`tests/providers/test_sse.py` compares it with a second implementation of the rules, for any split
of the bytes into chunks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rehydrate.providers.failures import StreamUnreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

EVENT_BYTES_MAX = 64 * 1024 * 1024
"""The length of an event beyond which the stream is rejected as unreadable."""

_BOM = b"\xef\xbb\xbf"


class ServerSentEvent(NamedTuple):
    """One dispatched event. ``retry_ms`` is set only if this event's own block contained it."""

    event: str
    data: str
    id: str = ""
    retry_ms: int | None = None

    @property
    def is_done(self) -> bool:
        """True for the marker at the end of OpenAI's streams, which is not JSON."""
        return self.data.startswith("[DONE]")


class SseDecoder:
    """Decodes the bytes of one stream, in chunks of any size."""

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
        """True if the stream would end in the middle of an event if it ended now."""
        return bool(self._line or self._data or self._event or self._head)

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Decode the next bytes; return the events that they complete.

        Raises:
            StreamUnreadable: an event is longer than the limit.
        """
        chunk = self._strip_bom(chunk)
        events = []
        for line in self._lines(chunk):
            event = self._process_line(line)
            if event is not None:
                events.append(event)
        return events

    def _strip_bom(self, chunk: bytes) -> bytes:
        """Remove one byte order mark at the very beginning, even if it is split over chunks."""
        if self._started:
            return chunk
        chunk = self._head + chunk
        if len(chunk) < len(_BOM) and _BOM.startswith(chunk):
            self._head = chunk
            return b""
        self._started, self._head = True, b""
        return chunk.removeprefix(_BOM)

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the lines that *chunk* completes; CR, LF and CRLF (even if split) end a line."""
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

    def _process_line(self, line: bytes) -> ServerSentEvent | None:
        if not line:
            return self._dispatch()
        # A line ends at an ASCII byte, so a multi-byte character is never split over two lines.
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
