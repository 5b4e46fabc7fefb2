"""The Assistants API (v2), interpreted: each of its events becomes typed ones; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rehydrate.providers.assistants_calls import AssistantsCalls, Said, place_of
from rehydrate.providers.failures import (
    ProviderError,
    StreamUnreadable,
    VendorCancelled,
    VendorIncomplete,
    vendor_failure,
)
from rehydrate.providers.interpreting import (
    Arrived,
    Events,
    Interpreter,
    Rule,
    Tally,
    call_part,
    dicts_in,
    plain,
    settle,
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
    """Takes the events of a run, and of the streams that its submitted tool outputs open.

    Attributes:
        thread_id: the vendor's id of the thread, once it is known.
        run_id: that of the run.
        waiting: what the run waits for, if it does.
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
        self._said = Said()
        self._calls = AssistantsCalls(self._said)

    def arrived(self, raw: Any) -> Arrived:
        """As `Interpreter.arrived`."""
        fields = raw if isinstance(raw, dict) else vars(raw) if hasattr(raw, "__dict__") else {}
        type_, data = fields.get("event"), plain(fields.get("data"))
        if type_ is None and "message" in fields:
            type_, data = "error", plain(raw)  # some servers leave the name out
        if not isinstance(type_, str):
            raise StreamUnreadable("malformed_event", "an event without a name")
        if not isinstance(data, dict):
            raise StreamUnreadable("malformed_event", f"{type_} without an object")
        return Arrived(type_, None, data)

    def break_off(self) -> Events:
        """As `Interpreter.break_off`; a run that waits for tool outputs has not broken off."""
        if self.waiting is None:
            return super().break_off()
        return self.fail(VendorIncomplete("requires_action", "the run waits for tool outputs"))

    def resume(self) -> None:
        """Go on with the stream that submitted tool outputs opened."""
        super().resume()
        self.waiting = None

    def thread(self, came: Arrived) -> Events:
        """A thread was made."""
        new = str_or(came.fields.get("id"), "")
        self._know("thread", self.thread_id, new)
        self.thread_id = new
        return (Started(came.type, came.number, "thread", new),)

    def run(self, came: Arrived) -> Events:
        """The run begins, or says how it is."""
        known = self.run_id is not None
        self._know_run(came)
        if known or self.run_id is None:
            return (Progress(*came),)
        return (Started(came.type, came.number, "run", self.run_id),)

    def requires_action(self, came: Arrived) -> Events:
        """The run waits for tool outputs."""
        self._know_run(came)
        action = came.fields.get("required_action")
        asked = action.get("submit_tool_outputs") if isinstance(action, dict) else None
        calls = dicts_in(asked.get("tool_calls")) if isinstance(asked, dict) else []
        if not calls:
            raise StreamUnreadable("malformed_event", f"{came.type} asks for nothing")
        events = tuple(self._calls.asked(came, calls))
        done = tuple(event for event in events if isinstance(event, ToolCallDone))
        ids = (self.run_id or "", self.thread_id or "")
        self.waiting = ActionRequired(came.type, came.number, *ids, done)
        return (*events, self.waiting)

    def step(self, came: Arrived) -> Events:
        """A step begins."""
        return (Started(came.type, came.number, "step", str_or(came.fields.get("id"), "")),)

    def step_delta(self, came: Arrived) -> Events:
        """More of what tools are asked."""
        return tuple(self._calls.delta(came)) or (Progress(*came),)

    def step_completed(self, came: Arrived) -> Events:
        """A step is complete: its tools have answered."""
        return tuple(self._calls.completed(came)) or (Progress(*came),)

    def step_failed(self, came: Arrived) -> Events:
        """A step failed, was cancelled or expired: its tools have no better answer."""
        return tuple(self._calls.failed(came)) or (Progress(*came),)

    def message(self, came: Arrived) -> Events:
        """A message begins, or says how it is."""
        message_id = str_or(came.fields.get("id"), "")
        if message_id in self._messages:
            return (Progress(*came),)
        self._note_message(came, message_id)
        return (Started(came.type, came.number, "message", message_id),)

    def message_delta(self, came: Arrived) -> Events:
        """More text, or a picture, of a message."""
        message_id = str_or(came.fields.get("id"), "")
        if message_id not in self._messages:
            raise StreamUnreadable("unknown_item", f"{came.type} for an unknown message")
        delta = came.fields.get("delta")
        blocks = dicts_in(delta.get("content")) if isinstance(delta, dict) else []
        events: list[VendorEvent] = []
        for block in blocks:
            key = self._key(message_id, place_of(came, block))
            if key is not None:
                events += self._block(came, key, block, whole=False)
        return tuple(events) or (Progress(*came),)

    def message_done(self, came: Arrived) -> Events:
        """A message is complete, or as complete as it gets: its text is final."""
        message_id = str_or(came.fields.get("id"), "")
        if message_id not in self._messages:
            self._note_message(came, message_id)
        events: list[VendorEvent] = []
        for place, block in enumerate(dicts_in(came.fields.get("content"))):
            key = self._key(message_id, place)
            if key is not None:
                events += self._block(came, key, block, whole=True)
        return tuple(events) or (Progress(*came),)

    def progress(self, came: Arrived) -> Events:
        """A step that adds nothing to the answer."""
        return (Progress(*came),)

    def completed(self, came: Arrived) -> Events:
        """The run is complete."""
        return self._terminal(came, None)

    def incomplete(self, came: Arrived) -> Events:
        """The run ended early."""
        details = came.fields.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        return self._terminal(came, VendorIncomplete(str_or(reason, "incomplete")))

    def expired(self, came: Arrived) -> Events:
        """The run took too long, or nobody submitted what it waited for."""
        return self._terminal(came, VendorIncomplete("expired", "the run expired"))

    def failed(self, came: Arrived) -> Events:
        """The run failed; what was said stays said."""
        return self._terminal(came, vendor_failure(came.fields.get("last_error")))

    def cancelled(self, came: Arrived) -> Events:
        """The run was cancelled at the vendor's."""
        return self._terminal(came, VendorCancelled("cancelled", "at the vendor's"))

    def error(self, came: Arrived) -> Events:
        """The vendor reports an error in mid-stream."""
        nested = came.fields.get("error")
        error = vendor_failure(nested if isinstance(nested, dict) else came.fields)
        return (self.ended(came.type, "failed", error=error),)

    def _terminal(self, came: Arrived, error: ProviderError | None) -> Events:
        self._know_run(came)
        usage = came.fields.get("usage")
        self.amended = self.amended or self._calls.amended
        end = self.ended(
            came.type,
            "completed" if error is None else error.ending,
            usage=usage if isinstance(usage, dict) else None,
            error=error,
            parts=self._said.parts(),
        )
        return (end,)

    def _know(self, what: str, known: str | None, new: str) -> None:
        if not new:
            raise StreamUnreadable("malformed_event", f"a {what} without an id")
        if known not in (None, new):
            raise StreamUnreadable(f"foreign_{what}", f"the stream is of another {what}")

    def _know_run(self, came: Arrived) -> None:
        run_id = str_or(came.fields.get("id"), "")
        self._know("run", self.run_id, run_id)
        self.run_id = run_id
        if (thread_id := str_or(came.fields.get("thread_id"), "")) != "":
            self._know("thread", self.thread_id, thread_id)
            self.thread_id = thread_id

    def _note_message(self, came: Arrived, message_id: str) -> None:
        thread_id = str_or(came.fields.get("thread_id"), self.thread_id or "")
        self._know("message", None, message_id)
        if self.thread_id is not None:
            self._know("thread", self.thread_id, thread_id)
        users = came.fields.get("role") == "user"
        ordinal = sum(place is not None for place in self._messages.values())
        self._messages[message_id] = None if users else ordinal

    def _key(self, message_id: str, place: int) -> str | None:
        """The key of a part of a message; None for what users wrote."""
        ordinal = self._messages[message_id]
        return None if ordinal is None else f"{self.prefix}{ordinal}.{place}"

    def _block(
        self, came: Arrived, key: str, block: dict[str, Any], *, whole: bool
    ) -> Iterator[VendorEvent]:
        """One content block of a message: more of it, or all of it."""
        kind = str_or(block.get("type"), "")
        if kind in ("image_file", "image_url"):
            yield from self._image(came, key, block.get(kind))
            return
        source = block.get("text") if kind == "text" else {"value": block.get("refusal")}
        text = str_or(source.get("value"), "") if isinstance(source, dict) else ""
        tally = self._tallies.setdefault(key, Tally())
        if not whole and text and tally.done:
            raise StreamUnreadable("event_out_of_order", f"{came.type} for a message that is done")
        rest = tally.rest(text) if whole else text
        tally.done = whole
        self.amended = self.amended or rest is None
        if rest:
            tally.add(rest)
            self._said.begun[key] = None
            delta = RefusalDelta if kind == "refusal" else TextDelta
            yield delta(came.type, came.number, key, rest)
        if whole:
            if key in self._said.begun:
                type_ = "refusal" if kind == "refusal" else "text"
                self._said.final[key] = {"type": type_, "text": text, "part": key}
            yield PartDone(came.type, came.number, key, text)
        elif isinstance(source, dict):
            for annotation in dicts_in(source.get("annotations")):
                yield Annotation(came.type, came.number, key, annotation)

    def _image(self, came: Arrived, key: str, image: Any) -> Iterator[VendorEvent]:
        fields = image if isinstance(image, dict) else {}
        known = {name: fields[name] for name in ("file_id", "url") if fields.get(name)}
        part = f"image-{key}"
        if known and part not in self._said.begun:
            self._said.begun[part] = None
            self._said.final[part] = call_part(part, "image", "")
            settle(self._said.final[part], known)
            yield Image(came.type, came.number, part, known)
