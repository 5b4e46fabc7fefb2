"""Content that arrives and cannot be read: every reader and the store count it, with stock SDKs."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from ably import AblyRealtime

from journeys.readers import MODULES, run_node, skip_without_node
from journeys.snippets import CLIENT, python_join
from journeys.stack import stacked
from rehydrate.history import History
from waiting import PATIENCE_S

pytestmark = pytest.mark.slow

LOST = ("object", "list", "bytes", "encrypted", "named", "nameless")
RESPONSES = dict.fromkeys(LOST, ("ac", 1)) | {
    "shaped": ("abc", 0),
    "utf8": ("abc", 0),
    "mapped": ("abc", 0),
    "empty": ("ac", 0),
    "ignored": ("ac", 0),
}
EXPECTED = {f"{id_}{end}": v for id_, v in RESPONSES.items() for end in ("", "-numbered")} | {
    "p-parts": ("ab", 0),
    "p-file": ("a", 1),
}


@pytest.fixture(scope="module")
async def stack(module_database):
    skip_without_node()
    async with stacked(module_database, REHYDRATE_TOKEN_NAMES="message") as running:
        yield running


def counted(messages):
    """Return text and count of each message that has ended; a count means that it is not exact."""
    assert all(m.get("exact", True) is (m.get("unreadable", 0) == 0) for m in messages), messages
    ended = [m for m in messages if m["status"] == "completed"]
    return {m["id"]: (m["text"], m.get("unreadable", 0)) for m in ended}


async def by_python(stack, target, http):
    """Return what a reader with stock ably-python shows in the end."""
    found = asyncio.get_running_loop().create_future()

    async def load(until=None):
        return (await http.get(target.hydrate_url)).json()

    def render(view):
        if "p-file" in counted(view.messages) and not found.done():
            found.set_result(counted(view.messages))

    ably = AblyRealtime(token=target.token, endpoint=f"127.0.0.1:{target.port}", tls=False)
    joining = asyncio.create_task(python_join()(ably, target.channel, load, render, 1))
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await found
    finally:
        joining.cancel()
        await asyncio.gather(joining, return_exceptions=True)
        await ably.close()


async def by_stream(target, http):
    """Return what a reader of the event stream shows in the end, from its events alone."""
    shown = {}
    url = f"{target.url}/v1/conversations/{target.conversation_id}/stream"
    async with asyncio.timeout(PATIENCE_S), http.stream("GET", url, timeout=None) as lines:
        kind = None
        async for line in lines.aiter_lines():
            if line.startswith("event:"):
                kind = line.removeprefix("event:").strip()
            if not line.startswith("data:") or kind == "again":
                continue
            data = json.loads(line.removeprefix("data:"))
            if kind == "snapshot":
                shown = {m["id"]: [m["text"], m["unreadable"]] for m in data["messages"]}
                continue
            message = shown.setdefault(data["message_id"], ["", 0])
            message[0] += data.get("text", "")
            message[1] += data.get("unreadable", 0)
            if data["message_id"] == "p-file":
                return {id_: tuple(message) for id_, message in shown.items()}
    return shown


async def test_what_cannot_be_read_is_counted_by_every_reader_and_kept(stack, conversation):
    target = stack.target(conversation)
    job = {
        "client": CLIENT.as_uri(),
        "modules": str(MODULES),
        "options": {"endpoint": "127.0.0.1", "port": target.port, "tls": False},
        "key": stack.environment["ABLY_API_KEY"],
        "token": target.token,
        "channel": target.channel,
        "url": target.hydrate_url,
        "patience_ms": PATIENCE_S * 1000,
    }
    headers = {"authorization": f"Bearer {target.token}"}
    async with httpx.AsyncClient(headers=headers, timeout=PATIENCE_S) as http:
        async with asyncio.TaskGroup() as group:
            python = group.create_task(by_python(stack, target, http))
            stream = group.create_task(by_stream(target, http))
            (javascript_shows,) = await run_node("unreadable.mjs", job)
        assert counted(javascript_shows) == EXPECTED
        assert python.result() == EXPECTED
        assert stream.result() == EXPECTED
        answer = (await http.get(target.hydrate_url)).json()
        assert counted(answer["messages"]) == EXPECTED
        assert (answer["complete"], answer["token_names"]) == (False, ["message"])
        assert [reason["code"] for reason in answer["reasons"]] == ["unreadable"]
        async with History(stack.settings) as history:
            await history.catch_up(conversation)
        async with httpx.AsyncClient() as control:
            expired = await control.post(
                f"{stack.ably.url}/localably/expire", json={"channel": target.channel}
            )
        assert expired.json()["expired"]
        stored = (await http.get(target.hydrate_url)).json()
        assert counted(stored["messages"]) == EXPECTED
        assert "unreadable" in [reason["code"] for reason in stored["reasons"]]
