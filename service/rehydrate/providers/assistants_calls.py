"""Tool calls of a run of the Assistants API: begun by deltas, known whole later, answered last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rehydrate.providers.failures import StreamUnreadable, vendor_failure
from rehydrate.providers.interpreting import Arrived, Tally, call_part, dicts_in, settle, str_or
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
"""Which field of a tool's object its arguments are, as text."""

_RESULTS = {"function": "output", "code_interpreter": "outputs", "file_search": "results"}


class Said:
    """What a run has said so far: the names of its parts, in order, and those that are final."""

    def __init__(self) -> None:
        self.begun: dict[str, None] = {}
        self.final: dict[str, dict[str, Any]] = {}

    def parts(self) -> list[dict[str, Any]] | None:
        """All parts, if all of them are final."""
        if not self.begun or any(key not in self.final for key in self.begun):
            return None
        return [self.final[key] for key in self.begun]


class AssistantsCalls:
    """The tool calls of one run; notes what it says of them in *said*.

    Attributes:
        amended: the arguments of a call are others than its deltas.
    """

    def __init__(self, said: Said) -> None:
        self.amended = False
        self._said = said
        self._tallies: dict[str, Tally] = {}
        self._places: dict[tuple[str, int], str] = {}

    def delta(self, came: Arrived) -> Iterator[VendorEvent]:
        """More of what tools are asked, in a step."""
        delta = came.fields.get("delta")
        step_id = str_or(came.fields.get("id"), "")
        for call in _calls_in(delta if isinstance(delta, dict) else {}):
            place = (step_id, place_of(came, call))
            if place not in self._places:
                yield from self._begin(came, call)
                self._places[place] = call["id"]
            call_id = self._places[place]
            if args := _args(call):
                self._tallies[call_id].add(args)
                yield ToolArgsDelta(came.type, came.number, call_id, args)

    def asked(self, came: Arrived, calls: list[dict[str, Any]]) -> Iterator[VendorEvent]:
        """Calls that the run waits for: what was not said of them yet, then each of them whole."""
        for call in calls:
            yield from self._whole(came, call)
        for call in calls:
            name, args = _name(call), _args(call)
            yield ToolCallDone(came.type, came.number, call["id"], name, "function", args)

    def completed(self, came: Arrived) -> Iterator[VendorEvent]:
        """The calls of a completed step, and what their tools answered."""
        for call in _calls_in(came.fields):
            yield from self._whole(came, call)
            kind = str_or(call.get("type"), "")
            tool = call.get(kind)
            field = _RESULTS.get(kind, "output")
            output = tool.get(field) if isinstance(tool, dict) else None
            if output is not None:
                result = shown(output if kind == "function" else {field: output})
                yield from self._settle(came, call, result)

    def failed(self, came: Arrived) -> Iterator[VendorEvent]:
        """The calls of a step that failed, was cancelled or expired."""
        error = vendor_failure(came.fields.get("last_error"), came.type.rpartition(".")[2])
        for call in _calls_in(came.fields):
            yield from self._whole(came, call)
            yield from self._settle(came, call, {"error": error.told}, failed=True)

    def _begin(self, came: Arrived, call: dict[str, Any]) -> Iterator[VendorEvent]:
        call_id = call.get("id")
        if not isinstance(call_id, str) or not call_id:
            raise StreamUnreadable("malformed_event", f"{came.type} has a call without an id")
        if call_id not in self._tallies:
            self._tallies[call_id] = Tally()
            self._said.begun[call_id] = None
            kind = str_or(call.get("type"), "function")
            yield ToolCallStarted(came.type, came.number, call_id, _name(call), kind)

    def _whole(self, came: Arrived, call: dict[str, Any]) -> Iterator[VendorEvent]:
        """What of a call, all of which is known now, has not been said yet."""
        yield from self._begin(came, call)
        call_id, args = call["id"], _args(call)
        rest = self._tallies[call_id].rest(args)
        self.amended = self.amended or rest is None
        if rest:
            self._tallies[call_id].add(rest)
            yield ToolArgsDelta(came.type, came.number, call_id, rest)
        if call_id not in self._said.final:
            self._said.final[call_id] = call_part(call_id, _name(call), args)

    def _settle(
        self, came: Arrived, call: dict[str, Any], result: Any, *, failed: bool = False
    ) -> Iterator[VendorEvent]:
        part = self._said.final[call["id"]]
        if part["status"] == "in_progress":
            settle(part, result, failed=failed)
            yield ToolResult(came.type, came.number, call["id"], _name(call), result, failed)


def place_of(came: Arrived, fields: dict[str, Any]) -> int:
    """The place of a call in its step, or of a block in its message.

    Raises:
        StreamUnreadable: it has none.
    """
    place = fields.get("index")
    if type(place) is not int or place < 0:
        raise StreamUnreadable("malformed_event", f"{came.type} has no index")
    return place


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
