"""The parts that runs and versioned messages add up to: what a reader sees of a response."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rehydrate.core.text.gaps import Marks, placed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rehydrate.core.text.content import Run, Segment
    from rehydrate.core.text.gaps import Gap
    from rehydrate.core.text.versioned_messages import VersionedMessage

_SPOKEN = ("text", "refusal")
"""Types of parts that are in a message's text."""


def assemble(
    runs: Iterable[Run], versioned: Iterable[VersionedMessage] = (), gaps: Iterable[Gap] = ()
) -> list[dict[str, Any]]:
    """Return the parts of *runs*, then of *versioned*, in the order in which they began.

    Each part carries those of *gaps* that lie in it.
    """
    parts: list[dict[str, Any]] = []
    keyed: dict[tuple[str, str], dict[str, Any]] = {}
    marks, last = Marks(gaps), None
    for run in runs:
        marks.before(run.first, last)
        for segment in run.segments:
            add = _add_text if segment.type in ("text", "refusal", "reasoning") else _add_call_step
            last = add(parts, keyed, segment)
    marks.end(last, parts[0] if parts else None)
    for message in versioned:
        for segment in message.run.segments:
            _add_versioned(parts, keyed, segment, message)
    for part in parts:
        if "marks" in part:
            part["gaps"] = placed(part.pop("marks"), part.get("fragments", ()))
        if "fragments" in part:
            part["text"] = "".join(part.pop("fragments"))
            if (key := part.pop("key")) is not None:
                part["part"] = key
    return parts


def spoken_text(parts: list[dict[str, Any]]) -> str:
    """Return the text of a message: its text and refusal parts, in order."""
    return "".join(part["text"] for part in parts if part["type"] in _SPOKEN)


def _add_text(
    parts: list[dict[str, Any]], keyed: dict[tuple[str, str], dict[str, Any]], segment: Segment
) -> dict[str, Any]:
    """Add text to its part, which is returned."""
    if segment.key is not None:
        part = keyed.get((segment.type, segment.key))
    else:
        part = parts[-1] if parts else None
        if part is not None and (part["type"] != segment.type or part.get("key") is not None):
            part = None
    if part is None:
        part = {"type": segment.type, "key": segment.key, "fragments": []}
        parts.append(part)
        if segment.key is not None:
            keyed[segment.type, segment.key] = part
    part["fragments"].extend(segment.fragments)
    return part


def _add_versioned(
    parts: list[dict[str, Any]],
    keyed: dict[tuple[str, str], dict[str, Any]],
    segment: Segment,
    message: VersionedMessage,
) -> None:
    """Add a step of a versioned message; it is a part of its own, or of a tool call."""
    if segment.type in ("text", "refusal", "reasoning"):
        _add_text(parts, keyed, segment)
        parts[-1]["through"] = message.through
        return
    _add_call_step(parts, keyed, segment)
    key = "result_through" if segment.type == "tool_result" else "through"
    keyed["tool_call", segment.key or ""][key] = message.through


def _add_call_step(
    parts: list[dict[str, Any]], keyed: dict[tuple[str, str], dict[str, Any]], segment: Segment
) -> dict[str, Any]:
    """Add a step of a tool call, whose part is returned."""
    call_id = segment.key or ""
    part = keyed.get(("tool_call", call_id))
    if part is None:
        part = {
            "type": "tool_call",
            "tool_call_id": call_id,
            "name": None,
            "args": "",
            "result": None,
            "status": "in_progress",
        }
        parts.append(part)
        keyed["tool_call", call_id] = part
    if segment.type == "tool_args":
        if isinstance(part["args"], str):
            part["args"] += "".join(segment.fragments)
        return part
    if segment.value.get("name") is not None:
        part["name"] = segment.value["name"]
    if segment.type == "tool_call":
        part["args"] = segment.value["args"]
        part["status"] = segment.value.get("status", "in_progress")
    else:
        part["result"] = segment.value["result"]
        part["status"] = segment.value.get("status", "completed")
    return part
