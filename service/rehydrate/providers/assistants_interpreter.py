"""Translate events of the Assistants API (v2) into typed events, without I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rehydrate.providers.answer_items import Final, FinalCall, FinalText
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
    dict_in,
    dicts_in,
    index_in,
    plain,
    str_or,
)
from rehydrate.providers.pairing import pair, rank_of_item
from rehydrate.providers.vendor_events import (
    ActionRequired,
    Image,
    Progress,
    Started,
    VendorEvent,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rehydrate.providers.answer_items import Item

_ARGS = {"function": "arguments", "code_interpreter": "input"}
"""The field of a tool's object that contains its arguments as text, by type of tool."""

_RESULTS = {"function": "output", "code_interpreter": "outputs", "file_search": "results"}


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
        self._first_prefix = prefix
        self._turn = 0
        self._messages: dict[str, Item | None] = {}
        self._steps: dict[str, list[Item]] = {}

    def parse(self, raw: Any) -> RawEvent:
        """Parse an event of the vendor; see `Interpreter.parse`."""
        if isinstance(raw, StreamUnreadable):
            raise raw
        fields = raw if isinstance(raw, dict) else vars(raw) if hasattr(raw, "__dict__") else {}
        type_, data = fields.get("event"), plain(fields.get("data"))
        if type_ is None and "message" in fields:
            type_, data = "error", plain(raw)  # some servers omit the name
        if not isinstance(type_, str):
            raise StreamUnreadable("malformed_event", "an event without a name")
        if not isinstance(data, dict):
            raise StreamUnreadable("malformed_event", f"{type_} without an object")
        if type_ == "message" and "error" in data:
            type_ = "error"
        return RawEvent(type_, None, data)

    def break_off(self) -> Events:
        """End the answer as broken off, unless the run waits for tool outputs."""
        if self.waiting is None:
            return super().break_off()
        error = VendorIncomplete("requires_action", "the run waits for tool outputs")
        end = self.ended("error", error.ending, error=error, calls=self.waiting.calls)
        return (end,)

    def resume(self) -> None:
        """Continue with the stream that submitting tool outputs opened."""
        super().resume()
        if self.waiting is not None:
            self._turn += 1
            self.content.begin_turn(f"{self._first_prefix}{self._turn}:")
        self.waiting = None

    def thread(self, incoming: RawEvent) -> Events:
        """Handle the creation of a thread."""
        new = str_or(incoming.fields.get("id"), "")
        if (foreign := self._foreign("thread", self.thread_id, new)) is not None:
            return self.fail(foreign)
        self.thread_id = new or self.thread_id
        return (Started(incoming.type, incoming.number, "thread", new),)

    def run(self, incoming: RawEvent) -> Events:
        """Handle the start or a change of state of the run."""
        known = self.run_id
        if (foreign := self._check_run(incoming)) is not None:
            return self.fail(foreign)
        if known is not None or self.run_id is None:
            return (Progress(*incoming),)
        return (Started(incoming.type, incoming.number, "run", self.run_id),)

    def requires_action(self, incoming: RawEvent) -> Events:
        """Handle a run that waits for tool outputs."""
        if (foreign := self._check_run(incoming)) is not None:
            return self.fail(foreign)
        action = dict_in(incoming.fields, "required_action")
        asked = dicts_in(dict_in(action, "submit_tool_outputs").get("tool_calls"))
        if not asked:
            raise StreamUnreadable("malformed_event", f"{incoming.type} has no tool calls")
        finals = [_final(call) for call in asked]
        events = self.content.settle(incoming, [f._replace(answers=None) for f in finals])
        items = [item for item in self.content.items if item.done and item.kind == "function"]
        calls = [item.call for item in items if item.call is not None and not item.call.has_result]
        ids = (self.run_id or "", self.thread_id or "")
        done = tuple(call.done(incoming) for call in calls)
        self.waiting = ActionRequired(incoming.type, incoming.number, *ids, done)
        return (*events, self.waiting)

    def step(self, incoming: RawEvent) -> Events:
        """Handle the start of a step."""
        return (
            Started(incoming.type, incoming.number, "step", str_or(incoming.fields.get("id"), "")),
        )

    def step_delta(self, incoming: RawEvent) -> Events:
        """Handle more arguments of tool calls."""
        step_id = str_or(incoming.fields.get("id"), "")
        events: list[VendorEvent] = []
        for fields in _calls_in(dict_in(incoming.fields, "delta")):
            index, final = index_in(fields, "index"), _final(fields)
            calls = self._steps.setdefault(step_id, [])
            at = len(calls) - 1 if index is None and not final.id else index
            if at is None or not 0 <= at < len(calls):
                calls.append(self.content.add(final.kind, final.ids, None))
                at = -1
            item = calls[at]
            if item.call is None:
                events += self.content.call_started(incoming, item, final.id, _name(fields))
            if item.call is not None:
                events += self.content.args_delta(incoming, item.call, _args(fields))
        return tuple(events) or (Progress(*incoming),)

    def step_completed(self, incoming: RawEvent) -> Events:
        """Handle a completed step, with the results of its tools."""
        events: list[VendorEvent] = []
        for item, final in self._whole(incoming, events):
            output = final.answers
            if output is not None and item.call is not None:
                events += self.content.result(incoming, item.call, output.result)
        return tuple(events) or (Progress(*incoming),)

    def step_failed(self, incoming: RawEvent) -> Events:
        """Handle a step that failed, was cancelled or expired."""
        error = vendor_failure(incoming.fields.get("last_error"), incoming.type.rpartition(".")[2])
        events: list[VendorEvent] = []
        for item, _ in self._whole(incoming, events):
            if item.call is not None:
                result = {"error": error.public_detail}
                events += self.content.result(incoming, item.call, result, failed=True)
        return tuple(events) or (Progress(*incoming),)

    def message(self, incoming: RawEvent) -> Events:
        """Handle the start or a change of state of a message."""
        message_id = str_or(incoming.fields.get("id"), "")
        if message_id in self._messages:
            return (Progress(*incoming),)
        thread_id = str_or(incoming.fields.get("thread_id"), "")
        if (foreign := self._foreign("thread", self.thread_id, thread_id)) is not None:
            return self.fail(foreign)
        self._add_message(message_id, users=incoming.fields.get("role") == "user")
        return (Started(incoming.type, incoming.number, "message", message_id),)

    def message_delta(self, incoming: RawEvent) -> Events:
        """Handle more text, or an image, of a message."""
        item = self._message(incoming)
        events: list[VendorEvent] = []
        for block in dicts_in(dict_in(incoming.fields, "delta").get("content")):
            if item is not None:
                events += self._block(incoming, item, block)
        return tuple(events) or (Progress(*incoming),)

    def message_done(self, incoming: RawEvent) -> Events:
        """Handle the end of a message: its text is final, complete or not."""
        item = self._message(incoming)
        if item is None:
            return (Progress(*incoming),)
        blocks = dicts_in(incoming.fields.get("content"))
        texts = [_text(block, place) for place, block in enumerate(blocks)]
        events: list[VendorEvent] = []
        for place, block in enumerate(blocks):
            events += self._image(incoming, item, {"index": place, **block})
        final = Final("message", "", None, [text for text in texts if text is not None])
        return (*events, *self.content.take_over(incoming, item, final))

    def progress(self, incoming: RawEvent) -> Events:
        """Handle an event that adds nothing to the answer."""
        return (Progress(*incoming),)

    def completed(self, incoming: RawEvent) -> Events:
        """Handle a completed run."""
        return self._terminal(incoming, None)

    def incomplete(self, incoming: RawEvent) -> Events:
        """Handle a run that ended early."""
        reason = dict_in(incoming.fields, "incomplete_details").get("reason")
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
        if (foreign := self._check_run(incoming)) is not None:
            return self.fail(foreign)
        messages = [item for item in self._messages.values() if item is not None]
        if error is None and not all(item.done for item in messages):
            error = VendorIncomplete("events_missing", "a message was not completed")
        elif messages:
            self._fault = None  # whatever was odd, each message is whole
        if error is None and not self.content.size:
            error = VendorIncomplete("events_missing", "the run has no message")
        self.waiting = None
        usage = incoming.fields.get("usage")
        return (self.closed(incoming, error, whole=False, usage=usage),)

    def _foreign(self, what: str, known: str | None, new: str) -> StreamUnreadable | None:
        """Return the failure of a stream that switches to another run or thread."""
        if not new or known in (None, new):
            return None
        return StreamUnreadable(f"foreign_{what}", f"the stream belongs to another {what}")

    def _check_run(self, incoming: RawEvent) -> StreamUnreadable | None:
        run_id = str_or(incoming.fields.get("id"), "")
        thread_id = str_or(incoming.fields.get("thread_id"), "")
        foreign = self._foreign("run", self.run_id, run_id)
        foreign = foreign or self._foreign("thread", self.thread_id, thread_id)
        if foreign is None:
            self.run_id = run_id or self.run_id
            self.thread_id = thread_id or self.thread_id
        return foreign

    def _message(self, incoming: RawEvent) -> Item | None:
        """Return the message that an event changes, or None if it is a user's."""
        message_id = str_or(incoming.fields.get("id"), "")
        if message_id not in self._messages:
            self._add_message(message_id, users=incoming.fields.get("role") == "user")
        return self._messages[message_id]

    def _add_message(self, message_id: str, *, users: bool) -> None:
        ordinal = sum(item is not None for item in self._messages.values())
        item = None if users else self.content.add("message", (message_id,), ordinal)
        self._messages[message_id] = item

    def _whole(self, incoming: RawEvent, events: list[VendorEvent]) -> list[tuple[Item, Final]]:
        """Take over the whole calls of a step into the answer, adding to *events*."""
        step_id = str_or(incoming.fields.get("id"), "")
        finals = [_final(call) for call in _calls_in(incoming.fields)]
        of_step = self._steps.get(step_id)
        calls = self.content.all_calls() if of_step is None else of_step
        paired = pair(finals, calls, rank_of_item)
        found = []
        for n, final in enumerate(finals):
            item = paired.get(n) or self.content.add(final.kind, final.ids, None)
            events += self.content.take_over(incoming, item, final._replace(answers=None))
            found.append((item, final))
        return found

    def _block(self, incoming: RawEvent, item: Item, block: dict[str, Any]) -> list[VendorEvent]:
        """Handle a delta of a content block of a message."""
        index = index_in(block, "index")
        whole = _text(block, index or 0)
        if whole is None:
            return self._image(incoming, item, block)
        text = self.content.text(item, whole.kind, None if index is None else whole.place)
        events = self.content.delta(incoming, text, whole.text)
        return [*events, *self.content.annotate(incoming, text, whole.annotations)]

    def _image(self, incoming: RawEvent, item: Item, block: dict[str, Any]) -> list[VendorEvent]:
        fields = dict_in(block, str_or(block.get("type"), ""))
        known = {name: fields[name] for name in ("file_id", "url") if fields.get(name)}
        place = index_in(block, "index") or 0
        part = f"image-{self.content.prefix}{item.ordinal}.{place}"
        if not known or block.get("type") == "text" or self.content.has(part):
            return []
        self.content.add_image(part, known)
        return [Image(incoming.type, incoming.number, part, known)]


def _text(block: dict[str, Any], place: int) -> FinalText | None:
    """Return the text of a content block, or None if it is not a text."""
    if block.get("type") == "refusal":
        return FinalText("refusal", str(place), str_or(block.get("refusal"), ""))
    if block.get("type") != "text":
        return None
    source = dict_in(block, "text")
    noted = dicts_in(source.get("annotations"))
    return FinalText("text", str(place), str_or(source.get("value"), ""), noted)


def _calls_in(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    return dicts_in(dict_in(fields, "step_details").get("tool_calls"))


def _final(call: dict[str, Any]) -> Final:
    """Return a whole call; ``answers`` has its result, if there is one."""
    kind = str_or(call.get("type"), "function")
    id_, field = str_or(call.get("id"), ""), _RESULTS.get(kind, "output")
    output = dict_in(call, kind).get(field)
    answers = None
    if output is not None:
        result = shown(output if kind == "function" else {field: output})
        answers = FinalCall(id_, "", "", True, result)
    made = FinalCall(id_, _name(call), _args(call))
    return Final(kind, id_, None, (), made, answers)


def _name(call: dict[str, Any]) -> str:
    kind = str_or(call.get("type"), "function")
    return str_or(dict_in(call, "function").get("name"), kind)


def _args(call: dict[str, Any]) -> str:
    kind = str_or(call.get("type"), "function")
    return str_or(dict_in(call, kind).get(_ARGS.get(kind, "")), "")
