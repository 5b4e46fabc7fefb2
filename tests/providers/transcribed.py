"""The golden transcripts, and every form in which their events can be passed."""

from __future__ import annotations

import json
import typing
from pathlib import Path

from scripted_openai.endpoint import sse

FOLDER = Path(__file__).parent / "transcripts"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def transcript(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def wire(events) -> bytes:
    return b"".join(map(sse, events))


def typed(recorded: dict) -> list:
    """Return the events as objects of the openai package."""
    from openai._models import construct_type  # noqa: PLC0415 - as its streams do
    from openai.types.beta import AssistantStreamEvent  # noqa: PLC0415 - only if it is installed
    from openai.types.responses import ResponseStreamEvent  # noqa: PLC0415 - as above

    kind = AssistantStreamEvent if recorded["vendor"] == "assistants" else ResponseStreamEvent
    return [construct_type(type_=kind, value=event) for event in recorded["events"]]


def known_types(vendor: str) -> set[str]:
    """Return the types of events in the installed openai package."""
    from openai.types.beta import AssistantStreamEvent  # noqa: PLC0415 - only if it is installed
    from openai.types.responses import ResponseStreamEvent  # noqa: PLC0415 - as above

    kind, field = (
        (AssistantStreamEvent, "event") if vendor == "assistants" else (ResponseStreamEvent, "type")
    )
    members = typing.get_args(typing.get_args(kind)[0])
    return {
        name
        for member in members
        for name in typing.get_args(member.model_fields[field].annotation)
    }
