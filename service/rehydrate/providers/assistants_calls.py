"""Tool calls of a run of the Assistants API, from their deltas to their results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rehydrate.providers.failures import StreamUnreadable, vendor_failure
from rehydrate.providers.interpreting import (
    RawEvent,
    Tally,
    call_part,
    dicts_in,
    set_result,
    str_or,
)
from rehydrate.providers.vendor_events import (
    ToolArgsDelta,
    ToolCallDone,
    ToolCallStarted,
    ToolResult,
    VendorEvent,
    shown,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_ARGS = {"function": "arguments", "code_interpreter": "input"}
"""The field of a tool's object that contains its arguments as text, by type of tool."""

_RESULTS = {"function": "output", "code_interpreter": "outputs", "file_search": "results"}


class RunContent:
    """The content of a run so far.

    Attributes:
        begun: the keys of its parts, in order.
        final: the parts that are complete, by key.
    """

    def __init__(self) -> None:
        self.begun: dict[str, None] = {}
        self.final: dict[str, dict[str, Any]] = {}

    def parts(self) -> list[dict[str, Any]] | None:
        """Return all parts, or None if one of them is not final."""
        if not self.begun or any(key not in self.final for key in self.begun):
            return None
        return [self.final[key] for key in self.begun]


class AssistantsCalls:
    """The tool calls of one run, recorded in *content*.

    Attributes:
        amended: True if the final arguments of a call differ from its deltas.
    """

    def __init__(self, content: RunContent) -> None:
        self.amended = False
        self._content = content
        self._tallies: dict[str, Tally] = {}
        self._call_ids: dict[tuple[str, int], str] = {}

    def delta(self, incoming: RawEvent) -> Iterator[VendorEvent]:
        """Handle a delta of a step: new calls, and more of their arguments."""
        delta = incoming.fields.get("delta")
        step_id = str_or(incoming.fields.get("id"), "")
        for call in _calls_in(delta if isinstance(delta, dict) else {}):
            place = (step_id, index_in(incoming, call))
            if place not in self._call_ids:
                yield from self._begin(incoming, call)
                self._call_ids[place] = call["id"]
            call_id = self._call_ids[place]
            if args := _args(call):
                self._tallies[call_id].add(args)
                yield ToolArgsDelta(incoming.type, incoming.number, call_id, args)

    def requested(self, incoming: RawEvent, calls: list[dict[str, Any]]) -> Iterator[VendorEvent]:
        """Handle the calls that the run waits for: emit missing deltas, then each complete call."""
        for call in calls:
            yield from self._complete(incoming, call)
        for call in calls:
            name, args = _name(call), _args(call)
            yield ToolCallDone(incoming.type, incoming.number, call["id"], name, "function", args)

    def completed(self, incoming: RawEvent) -> Iterator[VendorEvent]:
        """Handle a completed step: emit missing deltas and the results of the vendor's tools."""
        for call in _calls_in(incoming.fields):
            yield from self._complete(incoming, call)
            kind = str_or(call.get("type"), "")
            tool = call.get(kind)
            field = _RESULTS.get(kind, "output")
            output = tool.get(field) if isinstance(tool, dict) else None
            if output is not None:
                result = shown(output if kind == "function" else {field: output})
                yield from self._add_result(incoming, call, result)

    def failed(self, incoming: RawEvent) -> Iterator[VendorEvent]:
        """Handle a step that failed, was cancelled or expired: the error is the calls' result."""
        error = vendor_failure(incoming.fields.get("last_error"), incoming.type.rpartition(".")[2])
        for call in _calls_in(incoming.fields):
            yield from self._complete(incoming, call)
            yield from self._add_result(incoming, call, {"error": error.public_detail}, failed=True)

    def _begin(self, incoming: RawEvent, call: dict[str, Any]) -> Iterator[VendorEvent]:
        call_id = call.get("id")
        if not isinstance(call_id, str) or not call_id:
            raise StreamUnreadable("malformed_event", f"{incoming.type} has a call without an id")
        if call_id not in self._tallies:
            self._tallies[call_id] = Tally()
            self._content.begun[call_id] = None
            kind = str_or(call.get("type"), "function")
            yield ToolCallStarted(incoming.type, incoming.number, call_id, _name(call), kind)

    def _complete(self, incoming: RawEvent, call: dict[str, Any]) -> Iterator[VendorEvent]:
        """Emit what the deltas of a complete call lacked."""
        yield from self._begin(incoming, call)
        call_id, args = call["id"], _args(call)
        rest = self._tallies[call_id].rest(args)
        self.amended = self.amended or rest is None
        if rest:
            self._tallies[call_id].add(rest)
            yield ToolArgsDelta(incoming.type, incoming.number, call_id, rest)
        if call_id not in self._content.final:
            self._content.final[call_id] = call_part(call_id, _name(call), args)

    def _add_result(
        self, incoming: RawEvent, call: dict[str, Any], result: Any, *, failed: bool = False
    ) -> Iterator[VendorEvent]:
        part = self._content.final[call["id"]]
        if part["status"] == "in_progress":
            set_result(part, result, failed=failed)
            yield ToolResult(
                incoming.type, incoming.number, call["id"], _name(call), result, failed
            )


def index_in(incoming: RawEvent, fields: dict[str, Any]) -> int:
    """Return the index of a call in its step, or of a block in its message.

    Raises:
        StreamUnreadable: it has no valid index.
    """
    index = fields.get("index")
    if type(index) is not int or index < 0:
        raise StreamUnreadable("malformed_event", f"{incoming.type} has no index")
    return index


def _calls_in(fields: Any) -> list[dict[str, Any]]:
    details = fields.get("step_details")
    return dicts_in(details.get("tool_calls")) if isinstance(details, dict) else []


def _name(call: dict[str, Any]) -> str:
    kind = str_or(call.get("type"), "function")
    function = call.get("function")
    return str_or(function.get("name") if isinstance(function, dict) else None, kind)


def _args(call: dict[str, Any]) -> str:
    kind = str_or(call.get("type"), "function")
    tool = call.get(kind)
    return str_or(tool.get(_ARGS[kind]) if kind in _ARGS and isinstance(tool, dict) else None, "")
