"""The typed events of a model's stream, the same for every vendor; designed for ``match``.

    async for event in stream:
        match event:
            case TextDelta(text=text):
                print(text, end="")
            case ToolCallStarted(name=name):
                print("calls", name)
            case Ended(status=status, error=error):
                print(status, error)

Every event has the ``type`` and, if there was one, the ``sequence_number`` of the vendor's event
that it is made from. ``part`` is the key of a part of the answer: the index of the item, and the
index of the content in it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from rehydrate.core.json import dump, is_json
from rehydrate.core.text.content import LABEL_CHARACTERS

if TYPE_CHECKING:
    from rehydrate.core.event import Status
    from rehydrate.providers.failures import ProviderError

RESULT_BYTES_MAX = 32_000
"""A longer result of a tool is not published to readers; the model gets all of it."""

_DIGEST_CHARACTERS = 16


class Sink(Protocol):
    """The destination of an answer: the methods of a response that is being published."""

    def write(self, text: str, *, part: str | None = None) -> None:
        """Append text."""

    def refuse(self, text: str, *, part: str | None = None) -> None:
        """Append to a refusal."""

    def reason(self, text: str, *, part: str | None = None) -> None:
        """Append to the reasoning."""

    def tool_call(self, tool_call_id: str, name: str, args: Any = "") -> None:
        """Begin a tool call."""

    def tool_args(self, tool_call_id: str, text: str) -> None:
        """Append to the arguments of a tool call."""

    def tool_result(
        self, tool_call_id: str, result: Any, *, name: str | None = None, failed: bool = False
    ) -> None:
        """Set the result of a tool call, or its error if it *failed*."""

    def finish(
        self,
        status: Status = "completed",
        *,
        usage: Any = None,
        error: Any = None,
        parts: list[dict[str, Any]] | None = None,
    ) -> None:
        """End the response."""


@dataclass(frozen=True, slots=True)
class VendorEvent:
    """The base of all events.

    Attributes:
        type: the type of the vendor's event that this one is made from.
        sequence_number: the vendor's number of that event, or None.
    """

    type: str
    sequence_number: int | None

    def write_to(self, sink: Sink) -> None:
        """Write what this event adds to the answer into *sink*; most events add nothing."""


@dataclass(frozen=True, slots=True)
class Started(VendorEvent):
    """Something has begun; ``what`` is response, thread, run, step, message or item."""

    what: str
    id: str


@dataclass(frozen=True, slots=True)
class TextDelta(VendorEvent):
    """More text of the answer."""

    part: str
    text: str

    def write_to(self, sink: Sink) -> None:
        """Append the text."""
        sink.write(self.text, part=self.part)


@dataclass(frozen=True, slots=True)
class RefusalDelta(VendorEvent):
    """More text of a refusal to answer."""

    part: str
    text: str

    def write_to(self, sink: Sink) -> None:
        """Append the text."""
        sink.refuse(self.text, part=self.part)


@dataclass(frozen=True, slots=True)
class ReasoningDelta(VendorEvent):
    """More text of the model's reasoning, or of a summary of it."""

    part: str
    text: str

    def write_to(self, sink: Sink) -> None:
        """Append the text."""
        sink.reason(self.text, part=self.part)


@dataclass(frozen=True, slots=True)
class PartDone(VendorEvent):
    """A part is complete; ``text`` is the vendor's final version of it."""

    part: str
    text: str


@dataclass(frozen=True, slots=True)
class Annotation(VendorEvent):
    """A citation, or a reference to a file, in the vendor's form."""

    part: str
    annotation: Any


@dataclass(frozen=True, slots=True)
class ToolCallStarted(VendorEvent):
    """The model calls a tool; ``kind`` is the vendor's type, for instance ``function_call``."""

    tool_call_id: str
    name: str
    kind: str

    def write_to(self, sink: Sink) -> None:
        """Begin the tool call."""
        sink.tool_call(label(self.tool_call_id), label(self.name))


@dataclass(frozen=True, slots=True)
class ToolArgsDelta(VendorEvent):
    """More of a call's arguments."""

    tool_call_id: str
    text: str

    def write_to(self, sink: Sink) -> None:
        """Append the text."""
        sink.tool_args(label(self.tool_call_id), self.text)


@dataclass(frozen=True, slots=True)
class ToolCallDone(VendorEvent):
    """A call's arguments are complete; ``args`` is all of them.

    ``vendor_id`` is the vendor's id, under which its output is returned.
    """

    tool_call_id: str
    name: str
    kind: str
    args: str
    vendor_id: str


@dataclass(frozen=True, slots=True)
class ToolResult(VendorEvent):
    """The result of a tool that the vendor ran, or whose output was submitted.

    ``failed``: ``result`` is an error.
    """

    tool_call_id: str
    name: str
    result: Any
    failed: bool = False

    def write_to(self, sink: Sink) -> None:
        """Set the result of the tool call."""
        sink.tool_result(label(self.tool_call_id), self.result, failed=self.failed)


@dataclass(frozen=True, slots=True)
class Image(VendorEvent):
    """An image in the answer, by reference: ``image`` is ``{"file_id"}`` or ``{"url"}``."""

    part: str
    image: dict[str, Any]

    def write_to(self, sink: Sink) -> None:
        """Write it as a completed call of ``image``, because the wire form has no image parts."""
        sink.tool_call(self.part, "image")
        sink.tool_result(self.part, self.image)


@dataclass(frozen=True, slots=True)
class ActionRequired(VendorEvent):
    """The run waits for the outputs of these calls."""

    run_id: str
    thread_id: str
    calls: tuple[ToolCallDone, ...]


@dataclass(frozen=True, slots=True)
class Progress(VendorEvent):
    """A vendor's event that adds nothing to the answer; ``raw`` is that event."""

    raw: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class Unknown(VendorEvent):
    """A vendor's event of an unknown type, which is counted; ``raw`` is that event."""

    raw: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ended(VendorEvent):
    """The last event of every stream, also of one that failed.

    Attributes:
        status: the status of the response.
        usage: the vendor's token counts, or None.
        error: the cause, if the status is not ``completed``.
        parts: the complete content, if the vendor sent it at the end.
        items: the vendor's output items, which the next request may need as input.
        calls: the calls that wait for outputs.
    """

    status: Status
    usage: dict[str, Any] | None
    error: ProviderError | None
    parts: list[dict[str, Any]] | None
    items: tuple[dict[str, Any], ...] = ()
    calls: tuple[ToolCallDone, ...] = ()

    def write_to(self, sink: Sink) -> None:
        """End the response."""
        detail = None if self.error is None else self.error.public_detail
        sink.finish(self.status, usage=self.usage, error=detail, parts=self.parts)


def label(name: str) -> str:
    """Return the id or name of a call as published to readers.

    Labels are short; vendors' ids need not be. A longer one is cut and ends with its digest, so that
    two calls stay two; the vendor and the model get the original.
    """
    if len(name) <= LABEL_CHARACTERS:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{name[: LABEL_CHARACTERS - _DIGEST_CHARACTERS - 1]}~{digest}"


def shown(result: Any) -> Any:
    """Return *result* as published to readers: JSON that fits into a channel message."""
    if not is_json(result):
        return {"omitted": type(result).__name__}
    size_bytes = len(dump(result))
    return result if size_bytes <= RESULT_BYTES_MAX else {"omitted_bytes": size_bytes}
