"""One corpus of channel messages, and what every reader shows of them: whole messages.

`messages.json` is a list of cases: the messages of an answer (``before``), the channel messages that
come then (``messages``, as ably-js delivers them), and the messages that a reader then shows
(``shown``). Members that are null or absent are left out of those, but ``prompt_id``.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from laws.fuzzing import as_delivered, as_received
from laws.memory import MemoryChannel, MemoryStore, Posted, memory_context
from laws.test_client_js import CLIENT
from rehydrate.core import wire
from rehydrate.core.client_view import View
from rehydrate.core.codecs import decode
from rehydrate.core.text.versioned_messages import AppendChains
from rehydrate.core.timeline import Timeline
from rehydrate.hydrate.hydrate import hydrate

CASES = json.loads((Path(__file__).parent / "messages.json").read_text())
BY_NAME = {case["name"]: case for case in CASES}
WHOLE = (
    "id", "role", "status", "text", "parts", "prompt_id", "gaps", "exact", "unreadable", "error",
    "usage", "provisional",
)  # fmt: skip
NOW_MS = 1_767_225_700_000


def answer_of(case):
    return {"messages": case["before"], "reasons": [], "older": None, "complete": True}


def whole(messages):
    """Return *messages* as the corpus has them."""
    shown = [
        {key: m[key] for key in WHOLE if m.get(key) is not None or key == "prompt_id"}
        for m in messages
    ]
    return json.loads(json.dumps(shown))


def test_every_case_has_a_name_of_its_own():
    assert len(BY_NAME) == len(CASES) > 30


@pytest.mark.parametrize("name", BY_NAME)
def test_a_view_shows_them(name):
    case = BY_NAME[name]
    view = View(answer_of(case))
    assert all(view.apply(as_delivered(message)) for message in case["messages"])
    assert whole(view.messages) == case["shown"]


@pytest.mark.parametrize("name", [name for name in BY_NAME if not BY_NAME[name]["before"]])
def test_rest_shows_them(name):
    case = BY_NAME[name]
    channel = MemoryChannel(Posted(as_received(message)) for message in case["messages"])
    channel.now_ms = NOW_MS
    ctx = memory_context(MemoryStore(), channel, lambda: NOW_MS)
    answer = json.loads(asyncio.run(hydrate(ctx, "c")).body)
    assert whole(answer["messages"]) == case["shown"]


@pytest.mark.parametrize("name", BY_NAME)
def test_the_service_shows_them_after_what_it_has_stored(name):
    case = BY_NAME[name]
    timeline, chains = Timeline(map(wire.state_of, case["before"])), AppendChains()
    timeline.fold(map(chains.whole, filter(None, map(decode, map(as_received, case["messages"])))))
    assert whole(json.loads(wire.encode(state)) for state in timeline.ordered) == case["shown"]


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_the_package_shows_them():
    lines = [
        json.dumps({"answer": answer_of(each), "messages": each["messages"]}) for each in CASES
    ]
    node = subprocess.run(
        ["node", Path(__file__).parent / "show.mjs", CLIENT.as_uri()],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    by_package = [whole(json.loads(line)) for line in node.stdout.splitlines()]
    assert len(by_package) == len(CASES)
    for case, shown in zip(CASES, by_package, strict=True):
        assert shown == case["shown"], case["name"]
