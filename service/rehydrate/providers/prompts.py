"""Extract the text that readers see from a vendor's ``input``."""

from __future__ import annotations

from typing import Any


def text_of_input(value: Any) -> str | None:
    """Return the last user's text in *value*, or None.

    Args:
        value: a text, a list of input items (Responses API), or of content blocks (Assistants).
    """
    if isinstance(value, str):
        return value or None
    items = [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
    if any("role" in item for item in items):
        contents = [item.get("content") for item in items if item.get("role") == "user"]
        return text_of_input(contents[-1]) if contents else None
    texts = [item["text"] for item in items if isinstance(item.get("text"), str)]
    return "\n".join(texts) or None
