"""The shape of parts, as other publishers and backends may send them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rehydrate.core.event import SETTLED
from rehydrate.core.json import is_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rehydrate.core.event import CallStatus

_TEXT_TYPES = frozenset({"text", "refusal", "reasoning"})


def clean_parts(parts: Any) -> list[dict[str, Any]] | None:
    """Return *parts* with only the keys of the wire form; None if it is not a list of parts."""
    if not isinstance(parts, list) or not parts:
        return None
    cleaned = [_clean(part) for part in parts]
    return None if any(part is None for part in cleaned) else [part for part in cleaned if part]


def call_status(part: Mapping[str, Any]) -> CallStatus:
    """Return the status of the tool call *part*; without a result it is in progress."""
    status = part.get("status")
    return status if isinstance(status, str) and status in SETTLED else "in_progress"  # type: ignore[return-value] # as tested


def _clean(part: Any) -> dict[str, Any] | None:
    if not isinstance(part, dict):
        return None
    if not (isinstance(part.get("type"), str) and is_json(part)):
        return None
    if part["type"] in _TEXT_TYPES and isinstance(part.get("text"), str):
        cleaned = {"type": part["type"], "text": part["text"]}
        if isinstance(part.get("part"), str):
            cleaned["part"] = part["part"]
        return cleaned
    if part["type"] == "tool_call" and isinstance(part.get("tool_call_id"), str):
        name = part.get("name")
        return {
            "type": "tool_call",
            "tool_call_id": part["tool_call_id"],
            "name": name if isinstance(name, str) else None,
            "args": part.get("args", ""),
            "result": part.get("result"),
            "status": call_status(part),
        }
    return None
