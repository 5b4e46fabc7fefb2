"""The code of the README, as a user would copy it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CLIENT = ROOT / "service" / "rehydrate" / "api" / "client.js"
"""The package for JavaScript as one module, which the service sends."""

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    """Return the README's code blocks in *language*, in order."""
    return [code for said, code in _FENCE.findall(README) if said == language]


def block(language: str, holding: str) -> str:
    """Return the only block that contains *holding*."""
    (found,) = [code for code in blocks(language) if holding in code]
    return found


def region(path: str, name: str) -> str:
    """Return the text between the marks ``--8<-- [start:name]`` and ``[end:name]`` of a file."""
    text = (ROOT / path).read_text()
    (found,) = re.findall(
        rf"^\S+ --8<-- \[start:{name}\]\n(.*?)^\S+ --8<-- \[end:{name}\]$",
        text,
        re.MULTILINE | re.DOTALL,
    )
    return found


def python_join():
    """Return the README's Python reader."""
    space = {}
    exec(compile(block("python", "async def show("), "README.md", "exec"), space)
    return space["show"]
