"""The drop rule in JavaScript has the same verdict as the one in Python for every message."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from core.builders import published
from laws.readers import Life, _rewound
from laws.rolling import live
from laws.test_joining import FEATURES
from laws.worlds import worlds
from rehydrate.core.client_view import Verdict, View
from rehydrate.core.codecs import decode
from rehydrate.core.text.content import MAX_SEQ

CLIENT = Path(__file__).parents[2] / "service/rehydrate/api/client.js"
EMPTY = {"messages": [], "reasons": [], "complete": True}
HERE = Path(__file__).parent
ACTIONS = {0: "message.create", 1: "message.update", 2: "message.delete", 5: "message.append"}
UNLIKE = {
    "no seq, no serial, attach first",  # without serials, JavaScript keeps no margin
    "published twice, no seq",  # nor does it drop old ids, as the fold does
    "no seq, repaired, twice",  # as above
}


async def case(world, joiner):
    """Draw an answer, and the messages that an attached reader receives before and after it."""
    life = Life(world)
    await life.until(joiner.at_ms + joiner.delay_ms)
    answer = json.loads((await life.hydrate()).body)
    before = _rewound(world, joiner.at_ms)
    return answer, [each.message for each in (*before, *live(world, joiner.at_ms, before))]


def in_python(answer, messages):
    view = View(answer)
    at = -1
    for index, message in enumerate(messages):
        event = decode(message)
        if event is not None and view.apply_event(event) is Verdict.AGAIN:
            at = index
            break
    shown = [
        {key: m[key] for key in ("id", "status", "text")}
        | {"parts": list(map(content_of, m["parts"]))}
        for m in view.messages
        if m["role"] == "assistant"
    ]
    return {"at": at, "messages": shown}


def content_of(part):
    """Return the content of a part, without its position."""
    names = ("type", "part", "text", "tool_call_id", "name", "args", "result", "status")
    return {name: part[name] for name in names if name in part}


def as_ably_js_delivers_it(message):
    return {
        "name": message.name,
        "data": message.data,
        "id": message.id,
        "serial": message.serial,
        "timestamp": message.timestamp_ms,
        "clientId": message.client_id,
        "extras": message.extras,
        "action": ACTIONS[message.action],
        "version": {"serial": message.version_serial, "metadata": message.version_metadata},
    }


def in_javascript(cases):
    """Return the same for all *cases*, computed by the module that readers load."""
    lines = [
        json.dumps({"answer": answer, "messages": list(map(as_ably_js_delivers_it, messages))})
        for answer, messages in cases
    ]
    node = subprocess.run(
        ["node", HERE / "client.mjs", CLIENT],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [json.loads(line) for line in node.stdout.splitlines()]


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
@pytest.mark.parametrize("name", [name for name in FEATURES if name not in UNLIKE])
def test_both_clients_have_the_same_verdicts(name):
    cases = []

    @settings(
        max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(worlds(**FEATURES[name]))
    def collect(drawn):
        cases.append(asyncio.run(case(*drawn)))

    collect()
    for (answer, messages), by_js in zip(cases, in_javascript(cases), strict=True):
        assert by_js == in_python(answer, messages), (answer, messages)


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_both_ignore_invalid_numbers():
    odd = [-1, 1.5, "x", "", 2**40, 1e300, MAX_SEQ + 1, True, {}, "-1", "1.0", "٣"]
    plain = [
        published("start", responseId="r", seq=0),
        published("token", "a", responseId="r", seq=1, at_s=1),
    ]
    cases = []
    for at_s, number in enumerate(odd, 10):
        for where in ("seq", "gen"):
            headers = {"responseId": "r", "seq": 2, where: number}
            message = published("token", "?", at_s=at_s, **headers)
            after = published("token", "b", responseId="r", seq=2, at_s=50)
            cases.append((EMPTY, [*plain, message, after]))
    for (answer, messages), by_js in zip(cases, in_javascript(cases), strict=True):
        shown = in_python(answer, messages)
        assert by_js == shown, messages[2]
        assert (shown["at"], shown["messages"][0]["text"]) == (-1, "ab"), messages[2]
