"""What a model's stream says, typed, and the same for every vendor; made for ``match``.

    async for event in stream:
        match event:
            case TextDelta(text=text):
                print(text, end="")
            case ToolCallStarted(name=name):
                print("calls", name)
            case Ended(status=status, error=error):
                print(status, error)

Every event has the ``type`` that the vendor gave to the event which it comes from, and the
vendor's ``sequence_number`` if there was one. ``part`` names a part of the answer: letters for
what it is of, then the places of the item and of the content in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from rehydrate.core.json import dump, is_json

if TYPE_CHECKING:
    from rehydrate.core.event import Status
    from rehydrate.providers.failures import ProviderError

RESULT_BYTES_MAX = 32_000
"""A longer result of a tool is not shown to readers; the model gets all of it."""


class Sink(Protocol):
    """Where an answer is written: the methods of a response that is being published."""

    def write(self, text: str, *, part: str | None = None) -> None:
        """Append text."""

    def refuse(self, text: str, *, part: str | None = None) -> None:
        """Append to a refusal."""

    def reason(self, text: str, *, part: str | None = None) -> None:
        """Append to the reasoning."""

    def tool_call(self, tool_call_id: str, name: str, args: Any = "") -> None:
        """A tool is called."""

    def tool_args(self, tool_call_id: str, text: str) -> None:
        """Append to the arguments of a call."""

    def tool_result(
        self, tool_call_id: str, result: Any, *, name: str | None = None, failed: bool = False
    ) -> None:
        """A tool has answered, or *failed*."""

    def finish(
        self,
        status: Status = "completed",
        *,
        usage: Any = None,
        error: Any = None,
        parts: list[dict[str, Any]] | None = None,
    ) -> None:
        """Say how the response ends."""


@dataclass(frozen=True, slots=True)
class VendorEvent:
    """What all events have.

    Attributes:
        type: the vendor's name of the event that this one comes from.
        sequence_number: the vendor's number of it, if it has one.
    """

    type: str
    sequence_number: int | None

    def say(self, sink: Sink) -> None:
        """Write into *sink* what this event adds to the answer; most add nothing."""


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

    def say(self, sink: Sink) -> None:
        """Append it."""
        sink.write(self.text, part=self.part)


@dataclass(frozen=True, slots=True)
class RefusalDelta(VendorEvent):
    """More of why the model will not answer."""

    part: str
    text: str

    def say(self, sink: Sink) -> None:
        """Append it."""
        sink.refuse(self.text, part=self.part)


@dataclass(frozen=True, slots=True)
class ReasoningDelta(VendorEvent):
    """More of the model's reasoning, or of the summary of it."""

    part: str
    text: str

    def say(self, sink: Sink) -> None:
        """Append it."""
        sink.reason(self.text, part=self.part)


@dataclass(frozen=True, slots=True)
class PartDone(VendorEvent):
    """A part is complete; ``text`` is all of it, as the vendor says at its end."""

    part: str
    text: str


@dataclass(frozen=True, slots=True)
class Annotation(VendorEvent):
    """A citation, or a file that the text points to, as the vendor describes it."""

    part: str
    annotation: Any


@dataclass(frozen=True, slots=True)
class ToolCallStarted(VendorEvent):
    """The model calls a tool; ``kind`` is the vendor's type of the item, as ``function_call``."""

    tool_call_id: str
    name: str
    kind: str

    def say(self, sink: Sink) -> None:
        """Begin the part."""
        sink.tool_call(self.tool_call_id, self.name)


@dataclass(frozen=True, slots=True)
class ToolArgsDelta(VendorEvent):
    """More of a call's arguments."""

    tool_call_id: str
    text: str

    def say(self, sink: Sink) -> None:
        """Append it."""
        sink.tool_args(self.tool_call_id, self.text)


@dataclass(frozen=True, slots=True)
class ToolCallDone(VendorEvent):
    """A call's arguments are complete; ``args`` is all of them."""

    tool_call_id: str
    name: str
    kind: str
    args: str


@dataclass(frozen=True, slots=True)
class ToolResult(VendorEvent):
    """A tool has answered: one that the vendor ran, or one whose output was submitted.

    ``failed``: it has not; ``result`` says why.
    """

    tool_call_id: str
    name: str
    result: Any
    failed: bool = False

    def say(self, sink: Sink) -> None:
        """Complete the part."""
        sink.tool_result(self.tool_call_id, self.result, failed=self.failed)


@dataclass(frozen=True, slots=True)
class Image(VendorEvent):
    """A picture in the answer, by reference: ``image`` is ``{"file_id"}`` or ``{"url"}``."""

    part: str
    image: dict[str, Any]

    def say(self, sink: Sink) -> None:
        """Show it as a completed call of ``image``: parts of the wire have no pictures."""
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
    """A step of the vendor's that adds nothing to the answer; ``raw`` is the vendor's event."""

    raw: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class Unknown(VendorEvent):
    """A type that this version does not know; counted. ``raw`` is the vendor's event."""

    raw: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ended(VendorEvent):
    """The last event of every stream, whatever happened.

    Attributes:
        status: how it ended.
        usage: the vendor's count of tokens.
        error: why it did not end as ``completed``.
        parts: the content as the vendor says at the end, if it said.
        items: the vendor's own output items, as the next request may need them.
    """

    status: Status
    usage: dict[str, Any] | None
    error: ProviderError | None
    parts: list[dict[str, Any]] | None
    items: tuple[dict[str, Any], ...] = ()

    def say(self, sink: Sink) -> None:
        """Say how the response ends."""
        told = None if self.error is None else self.error.told
        sink.finish(self.status, usage=self.usage, error=told, parts=self.parts)


def shown(result: Any) -> Any:
    """*result* as readers see it: plain JSON, and small enough for a channel message."""
    if not is_json(result):
        return {"omitted": type(result).__name__}
    size_bytes = len(dump(result))
    return result if size_bytes <= RESULT_BYTES_MAX else {"omitted_bytes": size_bytes}
