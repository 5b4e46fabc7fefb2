"""Translate events of the Assistants API (v2) into typed events, without I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rehydrate.providers.assistants_calls import AssistantsCalls, RunContent, index_in
from rehydrate.providers.failures import (
    ProviderError,
    StreamUnreadable,
    VendorCancelled,
    VendorIncomplete,
    vendor_failure,
)
from rehydrate.providers.interpreting import (
    Events,
    Interpreter,
    RawEvent,
    Rule,
    Tally,
    call_part,
    dicts_in,
    plain,
    set_result,
    str_or,
)
from rehydrate.providers.vendor_events import (
    ActionRequired,
    Annotation,
    Image,
    PartDone,
    Progress,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDone,
    VendorEvent,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class AssistantsInterpreter(Interpreter):
    """Interprets the events of a run, over all streams that submitting tool outputs opens.

    Attributes:
        thread_id: the vendor's id of the thread, once it is known.
        run_id: the vendor's id of the run, once it is known.
        waiting: the calls whose outputs the run waits for, or None.
    """

    def __init__(
        self, rules: Mapping[str, Rule], *, thread_id: str | None = None, prefix: str = ""
    ) -> None:
        super().__init__(rules, prefix=prefix)
        self.thread_id = thread_id
        self.run_id: str | None = None
        self.waiting: ActionRequired | None = None
        self._messages: dict[str, int | None] = {}
        self._tallies: dict[str, Tally] = {}
        self._content = RunContent()
        self._calls = AssistantsCalls(self._content)

    def parse(self, raw: Any) -> RawEvent:
        """Parse an event of the vendor; see `Interpreter.parse`."""
        fields = raw if isinstance(raw, dict) else vars(raw) if hasattr(raw, "__dict__") else {}
        type_, data = fields.get("event"), plain(fields.get("data"))
        if type_ is None and "message" in fields:
            type_, data = "error", plain(raw)  # some servers omit the name
        if not isinstance(type_, str):
            raise StreamUnreadable("malformed_event", "an event without a name")
        if not isinstance(data, dict):
            raise StreamUnreadable("malformed_event", f"{type_} without an object")
        return RawEvent(type_, None, data)

    def break_off(self) -> Events:
        """End the answer as broken off, unless the run waits for tool outputs."""
        if self.waiting is None:
            return super().break_off()
        return self.fail(VendorIncomplete("requires_action", "the run waits for tool outputs"))

    def resume(self) -> None:
        """Continue with the stream that submitting tool outputs opened."""
        super().resume()
        self.waiting = None

    def thread(self, incoming: RawEvent) -> Events:
        """Handle the creation of a thread."""
        new = str_or(incoming.fields.get("id"), "")
        self._check_id("thread", self.thread_id, new)
        self.thread_id = new
        return (Started(incoming.type, incoming.number, "thread", new),)

    def run(self, incoming: RawEvent) -> Events:
        """Handle the start or a change of state of the run."""
        known = self.run_id is not None
        self._check_run(incoming)
        if known or self.run_id is None:
            return (Progress(*incoming),)
        return (Started(incoming.type, incoming.number, "run", self.run_id),)

    def requires_action(self, incoming: RawEvent) -> Events:
        """Handle a run that waits for tool outputs."""
        self._check_run(incoming)
        action = incoming.fields.get("required_action")
        asked = action.get("submit_tool_outputs") if isinstance(action, dict) else None
        calls = dicts_in(asked.get("tool_calls")) if isinstance(asked, dict) else []
        if not calls:
            raise StreamUnreadable("malformed_event", f"{incoming.type} has no tool calls")
        events = tuple(self._calls.requested(incoming, calls))
        done = tuple(event for event in events if isinstance(event, ToolCallDone))
        ids = (self.run_id or "", self.thread_id or "")
        self.waiting = ActionRequired(incoming.type, incoming.number, *ids, done)
        return (*events, self.waiting)

    def step(self, incoming: RawEvent) -> Events:
        """Handle the start of a step."""
        return (
            Started(incoming.type, incoming.number, "step", str_or(incoming.fields.get("id"), "")),
        )

    def step_delta(self, incoming: RawEvent) -> Events:
        """Handle more arguments of tool calls."""
        return tuple(self._calls.delta(incoming)) or (Progress(*incoming),)

    def step_completed(self, incoming: RawEvent) -> Events:
        """Handle a completed step, with the results of its tools."""
        return tuple(self._calls.completed(incoming)) or (Progress(*incoming),)

    def step_failed(self, incoming: RawEvent) -> Events:
        """Handle a step that failed, was cancelled or expired."""
        return tuple(self._calls.failed(incoming)) or (Progress(*incoming),)

    def message(self, incoming: RawEvent) -> Events:
        """Handle the start or a change of state of a message."""
        message_id = str_or(incoming.fields.get("id"), "")
        if message_id in self._messages:
            return (Progress(*incoming),)
        self._add_message(incoming, message_id)
        return (Started(incoming.type, incoming.number, "message", message_id),)

    def message_delta(self, incoming: RawEvent) -> Events:
        """Handle more text, or an image, of a message."""
        message_id = str_or(incoming.fields.get("id"), "")
        if message_id not in self._messages:
            raise StreamUnreadable("unknown_item", f"{incoming.type} for an unknown message")
        delta = incoming.fields.get("delta")
        blocks = dicts_in(delta.get("content")) if isinstance(delta, dict) else []
        events: list[VendorEvent] = []
        for block in blocks:
            key = self._key(message_id, index_in(incoming, block))
            if key is not None:
                events += self._block(incoming, key, block, whole=False)
        return tuple(events) or (Progress(*incoming),)

    def message_done(self, incoming: RawEvent) -> Events:
        """Handle the end of a message: its text is final, complete or not."""
        message_id = str_or(incoming.fields.get("id"), "")
        if message_id not in self._messages:
            self._add_message(incoming, message_id)
        events: list[VendorEvent] = []
        for place, block in enumerate(dicts_in(incoming.fields.get("content"))):
            key = self._key(message_id, place)
            if key is not None:
                events += self._block(incoming, key, block, whole=True)
        return tuple(events) or (Progress(*incoming),)

    def progress(self, incoming: RawEvent) -> Events:
        """Handle an event that adds nothing to the answer."""
        return (Progress(*incoming),)

    def completed(self, incoming: RawEvent) -> Events:
        """Handle a completed run."""
        return self._terminal(incoming, None)

    def incomplete(self, incoming: RawEvent) -> Events:
        """Handle a run that ended early."""
        details = incoming.fields.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        return self._terminal(incoming, VendorIncomplete(str_or(reason, "incomplete")))

    def expired(self, incoming: RawEvent) -> Events:
        """Handle a run that took too long, or whose tool outputs were never submitted."""
        return self._terminal(incoming, VendorIncomplete("expired", "the run expired"))

    def failed(self, incoming: RawEvent) -> Events:
        """Handle a failed run; the content so far is kept."""
        return self._terminal(incoming, vendor_failure(incoming.fields.get("last_error")))

    def cancelled(self, incoming: RawEvent) -> Events:
        """Handle a run that was cancelled by the vendor."""
        return self._terminal(incoming, VendorCancelled("cancelled", "by the vendor"))

    def error(self, incoming: RawEvent) -> Events:
        """Handle an error that the vendor reports within the stream."""
        nested = incoming.fields.get("error")
        error = vendor_failure(nested if isinstance(nested, dict) else incoming.fields)
        return (self.ended(incoming.type, "failed", error=error),)

    def _terminal(self, incoming: RawEvent, error: ProviderError | None) -> Events:
        self._check_run(incoming)
        usage = incoming.fields.get("usage")
        self.amended = self.amended or self._calls.amended
        end = self.ended(
            incoming.type,
            "completed" if error is None else error.ending,
            usage=usage if isinstance(usage, dict) else None,
            error=error,
            parts=self._content.parts(),
        )
        return (end,)

    def _check_id(self, what: str, known: str | None, new: str) -> None:
        if not new:
            raise StreamUnreadable("malformed_event", f"a {what} without an id")
        if known not in (None, new):
            raise StreamUnreadable(f"foreign_{what}", f"the stream belongs to another {what}")

    def _check_run(self, incoming: RawEvent) -> None:
        run_id = str_or(incoming.fields.get("id"), "")
        self._check_id("run", self.run_id, run_id)
        self.run_id = run_id
        if (thread_id := str_or(incoming.fields.get("thread_id"), "")) != "":
            self._check_id("thread", self.thread_id, thread_id)
            self.thread_id = thread_id

    def _add_message(self, incoming: RawEvent, message_id: str) -> None:
        thread_id = str_or(incoming.fields.get("thread_id"), self.thread_id or "")
        self._check_id("message", None, message_id)
        if self.thread_id is not None:
            self._check_id("thread", self.thread_id, thread_id)
        users = incoming.fields.get("role") == "user"
        ordinal = sum(place is not None for place in self._messages.values())
        self._messages[message_id] = None if users else ordinal

    def _key(self, message_id: str, place: int) -> str | None:
        """Return the key of a part of a message, or None for a user's message."""
        ordinal = self._messages[message_id]
        return None if ordinal is None else f"{self.prefix}{ordinal}.{place}"

    def _block(
        self, incoming: RawEvent, key: str, block: dict[str, Any], *, whole: bool
    ) -> Iterator[VendorEvent]:
        """Handle a content block of a message: a delta, or the complete block."""
        kind = str_or(block.get("type"), "")
        if kind in ("image_file", "image_url"):
            yield from self._image(incoming, key, block.get(kind))
            return
        source = block.get("text") if kind == "text" else {"value": block.get("refusal")}
        text = str_or(source.get("value"), "") if isinstance(source, dict) else ""
        tally = self._tallies.setdefault(key, Tally())
        if not whole and text and tally.done:
            raise StreamUnreadable(
                "event_out_of_order", f"{incoming.type} for a message that is done"
            )
        rest = tally.rest(text) if whole else text
        tally.done = whole
        self.amended = self.amended or rest is None
        if rest:
            tally.add(rest)
            self._content.begun[key] = None
            delta = RefusalDelta if kind == "refusal" else TextDelta
            yield delta(incoming.type, incoming.number, key, rest)
        if whole:
            if key in self._content.begun:
                type_ = "refusal" if kind == "refusal" else "text"
                self._content.final[key] = {"type": type_, "text": text, "part": key}
            yield PartDone(incoming.type, incoming.number, key, text)
        elif isinstance(source, dict):
            for annotation in dicts_in(source.get("annotations")):
                yield Annotation(incoming.type, incoming.number, key, annotation)

    def _image(self, incoming: RawEvent, key: str, image: Any) -> Iterator[VendorEvent]:
        fields = image if isinstance(image, dict) else {}
        known = {name: fields[name] for name in ("file_id", "url") if fields.get(name)}
        part = f"image-{key}"
        if known and part not in self._content.begun:
            self._content.begun[part] = None
            self._content.final[part] = call_part(part, "image", "")
            set_result(self._content.final[part], known)
            yield Image(incoming.type, incoming.number, part, known)
