"""What readers are shown of a vendor's ``input``: the last that a user wrote in it."""

from __future__ import annotations

from typing import Any


def text_of_input(given: Any) -> str | None:
    """The last text of a user's in *given*; None if there is none.

    *given* is a text, a list of input items (Responses API), or of content blocks (Assistants).
    """
    if isinstance(given, str):
        return given or None
    items = [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []
    if any("role" in item for item in items):
        said = [item.get("content") for item in items if item.get("role") == "user"]
        return text_of_input(said[-1]) if said else None
    texts = [item["text"] for item in items if isinstance(item.get("text"), str)]
    return "\n".join(texts) or None
