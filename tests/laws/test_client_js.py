"""The drop rule in JavaScript has the same verdict as the one in Python for every message."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import subprocess
from itertools import product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from core.builders import BEGAN_MS, published, serial
from laws.memory import MemoryChannel, MemoryStore, Posted, memory_context
from laws.readers import Life, _rewound
from laws.rolling import live
from laws.test_joining import FEATURES
from laws.worlds import worlds
from rehydrate.core.client_view import Verdict, View
from rehydrate.core.codecs import IGNORED_NAMES, decode
from rehydrate.core.event import UNDECODED
from rehydrate.core.text.content import MAX_SEQ
from rehydrate.hydrate.hydrate import hydrate

CLIENT = Path(__file__).parents[2] / "service/rehydrate/api/client.js"
EMPTY = {"messages": [], "reasons": [], "complete": True}
HERE = Path(__file__).parent
ACTIONS = {0: "message.create", 1: "message.update", 2: "message.delete", 5: "message.append"}
SHOWN = (
    "role", "id", "status", "text", "parts", "prompt_id", "exact", "unreadable", "gaps", "repaired", "error", "usage", "edits",
)  # fmt: skip
"""The members of a message that both clients show."""


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
        event = decode(message, frozenset(answer.get("token_names", ())))
        if event is not None and view.apply_event(event) is Verdict.AGAIN:
            at = index
            break
    shown = [{name: m.get(name) for name in SHOWN} for m in view.messages]
    return {"at": at, "messages": json.loads(json.dumps(shown))}


def content_of(part):
    """Return the content of a part, without its position."""
    names = ("type", "part", "text", "tool_call_id", "name", "args", "result", "status")
    return {name: part[name] for name in names if name in part}


def as_ably_js_delivers_it(message):
    data, encoding = message.data, None
    if isinstance(data, bytes):
        data = {"$bytes": base64.b64encode(data).decode()}
    if data is UNDECODED:
        data, encoding = {"$bytes": "AAAA"}, "utf-8/cipher+aes-128-cbc"
    return {
        "name": message.name,
        "data": data,
        "encoding": encoding,
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
@pytest.mark.parametrize("name", FEATURES)
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


SHAPES = [
    "x", "", None, 5, True, [], ["x"], {}, {"text": "x"}, {"text": 5}, {"result": "x"}, {"name": "f", "args": {}},
    b"\xe8\xaa\x9e", b"\xef\xbb\xbfx", b"\xff", UNDECODED,
]  # fmt: skip
PROMPTS = [
    *SHAPES, {"parts": ["a", {"text": "b"}]}, {"parts": [{"type": "text", "text": "a"}, {"type": "file"}]},
    {"text": "a", "parts": [{"type": "file"}]}, {"text": "a", "parts": 5}, {"parts": []}, [{"type": "input_text", "text": "a"}],
]  # fmt: skip
NAMES = [
    "token",
    "reasoning",
    "tool_call",
    "tool_args",
    "tool_result",
    "message",
    "mapped",
    "",
    None,
    "log",
]


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_both_read_the_same_of_every_shape_of_content():
    cases = [(EMPTY, [published("user-input", data, at_s=1)]) for data in PROMPTS]
    answer = EMPTY | {"token_names": ["mapped"]}
    for name in NAMES:
        for numbered in (True, False):
            for data in SHAPES:
                headers = [{"responseId": "r"} | ({"seq": n} if numbered else {}) for n in range(4)]
                read = published(name, data, at_s=2, toolCallId="c", **headers[1])
                log = [
                    published("start", at_s=1, **headers[0]),
                    read,
                    published("token", "after", at_s=3, **headers[2]),
                ]
                cases.append((answer, log))
    for (answer, messages), by_js in zip(cases, in_javascript(cases), strict=True):
        assert by_js == in_python(answer, messages), messages
    source = (CLIENT.parents[3] / "clients/js/src/event.ts").read_text()
    names = re.search(r"IGNORED = (\[.*?\])", source)[1].replace("'", '"')
    assert set(json.loads(names)) == IGNORED_NAMES


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_both_count_the_unreadable_versions_of_a_message_that_grows():
    first, second = serial(BEGAN_MS), serial(BEGAN_MS + 1000)
    cases = []
    for one in SHAPES:
        for two in SHAPES:
            for action in (1, 2, 5):
                made = published("response", one, responseId="r")
                grown = published("response", two, responseId="r", action=action)
                cases.append((EMPTY, [made, grown._replace(serial=first, version_serial=second)]))
    for (answer, messages), by_js in zip(cases, in_javascript(cases), strict=True):
        assert by_js == in_python(answer, messages), messages


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_both_treat_edited_channel_messages_alike():
    version = [serial(BEGAN_MS + at_s * 1000) for at_s in (20, 21)]
    cases = []
    for numbered in (True, False):
        ids = [{"responseId": "r"} | ({"seq": n} if numbered else {}) for n in range(4)]
        log = [
            published("start", at_s=0, **ids[0]),
            published("token", "a", at_s=1, **ids[1]),
            published("token", "b", at_s=2, **ids[2]),
            published("stop", at_s=3, **ids[3]),
            published("user-input", {"promptId": "p", "text": "hi"}, at_s=4),
        ]
        answers = [json.loads(asyncio.run(answer_to(log[:answered]))) for answered in (0, 2, 5)]
        for of, data, action in product(range(5), ("x", {"text": "y"}, 5, None), (1, 2)):
            edit = log[of]._replace(data=data, action=action, id="e", version_serial=version[0])
            more = edit._replace(version_serial=version[1])
            received = ([edit], [*log, edit, edit], [edit, *log], [*log, more, edit, log[of]])
            cases.extend(product(answers, received))
    declared = 0
    for (answer, messages), by_js in zip(cases, in_javascript(cases), strict=True):
        assert by_js == in_python(answer, messages), (answer, messages)
        declared += any(not m["exact"] for m in by_js["messages"])
    assert declared


async def answer_to(log):
    store, channel = MemoryStore(), MemoryChannel(map(Posted, log))
    store.now_ms = channel.now_ms = BEGAN_MS + 60_000
    made = memory_context(store, channel, lambda: BEGAN_MS + 60_000, retention_ms=10**9)
    return (await hydrate(made, "c")).body
