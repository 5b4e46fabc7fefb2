"""The published AI SDK reads UI messages and the UI message stream."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import httpx
import pytest

from api.conftest import problem
from api.minting import bearer
from api.serving import served_beside
from localably import LocalAbly
from participants import settings_for
from rehydrate.api import ui_messages
from rehydrate.history import History
from waiting import PATIENCE_S

pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning:ably")
SERVICE_KEY = "service-key-of-ui-messages"
MODULES = Path(__file__).parents[1] / "js"


@pytest.fixture(scope="module")
async def server():
    async with LocalAbly() as running:
        yield running


@pytest.fixture(scope="module")
async def url(module_database, server):
    history = History(settings_for(module_database, server, service_keys=SERVICE_KEY))
    async with served_beside(history.app()) as url:
        yield url


@pytest.fixture
async def client(url):
    async with httpx.AsyncClient(
        base_url=url, headers=bearer(SERVICE_KEY), timeout=PATIENCE_S
    ) as made:
        yield made


class SdkChat:
    """The published SDK, in a separate process."""

    def __init__(self, node):
        self._node = node

    async def resumed(self, status=200):
        """Return the loaded messages once the stream has been requested and answered."""
        loaded = (await self.line())["loaded"]
        assert await self.line() == {"resumed": status}
        return loaded

    async def line(self):
        async with asyncio.timeout(PATIENCE_S):
            line = await self._node.stdout.readline()
        if not line:
            raise AssertionError((await self._node.stderr.read()).decode())
        return json.loads(line)


@pytest.fixture
async def chatting(url, conversation):
    if shutil.which("node") is None or not (MODULES / "node_modules/ai/package.json").exists():
        pytest.skip("Node.js, or the npm package ai, is not installed: npm ci in tests/js")
    started = []

    async def chat(**query):
        pipe = asyncio.subprocess.PIPE
        script = MODULES / "ui_messages.mjs"
        node = await asyncio.create_subprocess_exec(
            "node", str(script), stdin=pipe, stdout=pipe, stderr=pipe, limit=2**22
        )
        started.append(node)
        path = f"{url}/v1/conversations/{conversation}"
        job = {"url": path, "id": conversation, "token": SERVICE_KEY, "query": query}
        node.stdin.write(json.dumps(job).encode())
        node.stdin.close()
        return SdkChat(node)

    yield chat
    for node in started:
        if node.returncode is None:
            node.kill()
        await node.wait()


async def test_a_reloaded_chat_resumes_the_streaming_response(chatting, publisher):
    await publisher.publish_message("user-input", {"promptId": "p", "text": "Tell me."})
    await publisher.publish_message("start", rid="r", seq=0, promptId="p")
    await publisher.publish_message("reasoning", "hm", rid="r", seq=1)
    await publisher.publish_message("token", "Once ", rid="r", seq=2)
    chat = await chatting()
    loaded = await chat.resumed()
    assert [(m["id"], m["role"]) for m in loaded] == [("p", "user"), ("r", "assistant")]
    called = {"rid": "r", "toolCallId": "t"}
    await publisher.publish_message("token", "upon ", rid="r", seq=3)
    await publisher.publish_message("tool_call", {"name": "add", "args": ""}, seq=4, **called)
    await publisher.publish_message("tool_args", '{"a":1}', seq=5, **called)
    await publisher.publish_message("tool_result", {"name": "add", "result": [2]}, seq=6, **called)
    failing = {"rid": "r", "toolCallId": "u"}
    await publisher.publish_message("tool_call", {"name": "add", "args": {}}, seq=7, **failing)
    await publisher.publish_message(
        "tool_result", {"result": {"error": "no"}}, seq=8, **failing, status="failed"
    )
    await publisher.publish_message("token", "a time 👩‍🚀", rid="r", seq=9)
    await publisher.publish_message("stop", {"usage": {"n": 9}}, rid="r", seq=10)
    found = await chat.line()
    assert (found["status"], found["errors"]) == ("ready", [])
    assert found["finished"] == [{"finishReason": "stop", "isAbort": False, "isError": False}]
    prompt, answer = found["shown"]
    assert prompt["parts"][0]["text"] == "Tell me."
    shown_parts = [(part["type"], part.get("text", part.get("output"))) for part in answer["parts"]]
    assert shown_parts == [
        ("reasoning", "hm"),
        ("text", "Once upon "),
        ("dynamic-tool", [2]),
        ("dynamic-tool", None),
        ("text", "a time 👩‍🚀"),
    ]
    assert (answer["parts"][2]["input"], answer["parts"][2]["toolName"]) == ({"a": 1}, "add")
    assert (answer["parts"][3]["state"], answer["parts"][3]["errorText"]) == ("output-error", "no")
    assert (answer["id"], answer["metadata"]["status"]) == ("r", "completed")
    assert answer["metadata"]["usage"] == {"n": 9}


async def test_without_a_streaming_response_there_is_nothing_to_resume(
    chatting, client, conversation
):
    path = f"/v1/conversations/{conversation}/stream?format=ui-message-stream"
    answer = await client.get(path)
    assert (answer.status_code, answer.content) == (204, b"")
    chat = await chatting()
    assert await chat.resumed(204) == []
    found = await chat.line()
    assert (found["status"], found["shown"], found["errors"]) == ("ready", [], [])


async def test_a_finished_conversation_is_loaded_and_valid(chatting, publisher):
    await publisher.publish_message("user-input", {"promptId": "p", "text": "?"})
    await publisher.publish_message("start", rid="r", seq=0)
    call_ = {"name": "add", "args": {"a": 1}}
    await publisher.publish_message("tool_call", call_, rid="r", seq=1, toolCallId="t")
    await publisher.publish_message("refusal", "no", rid="r", seq=2)
    await publisher.publish_message("tool_call", call_, rid="r", seq=3, toolCallId="u")
    failed = {"result": {"error": "too large"}}
    await publisher.publish_message(
        "tool_result", failed, rid="r", seq=4, toolCallId="u", status="failed"
    )
    await publisher.publish_message("stop", rid="r", seq=5, status="incomplete")
    await publisher.publish_message("start", rid="empty", seq=0)
    await publisher.publish_message("stop", rid="empty", seq=1)
    chat = await chatting(response="r")
    loaded = await chat.resumed(204)
    assert [m["id"] for m in loaded] == ["p", "r", "empty"]
    assert [part["type"] for part in loaded[1]["parts"]] == ["dynamic-tool", "text", "dynamic-tool"]
    assert [part.get("state") for part in loaded[1]["parts"]] == [
        "output-error",
        "done",
        "output-error",
    ]
    assert loaded[1]["parts"][2]["errorText"] == "too large"
    assert (await chat.line())["shown"] == loaded


async def test_of_several_streaming_responses_the_requested_one_is_resumed(chatting, publisher):
    await publisher.stream("old", "ab", stop=False)
    await publisher.stream("new", "xy", stop=False)
    chat = await chatting(response="old")
    await chat.resumed()
    await publisher.publish_message("token", "z", rid="new", seq=3)
    await publisher.publish_message("token", "c", rid="old", seq=3)
    await publisher.publish_message("stop", rid="old", seq=4)
    shown = {m["id"]: m["parts"][0]["text"] for m in (await chat.line())["shown"]}
    assert shown["old"] == "abc"
    assert shown["new"].startswith("xy")


async def test_a_response_that_is_repaired_ends_the_stream_with_an_error(chatting, publisher):
    await publisher.stream("r", "abd", stop=False)
    chat = await chatting()
    await chat.resumed()
    await publisher.publish_message("token", "!", rid="r", seq=4)
    await publisher.publish_message("response-complete", "abcd!", rid="r", seq=4)
    found = await chat.line()
    assert (found["status"], found["errors"]) == ("error", [ui_messages._CHANGED])


async def test_the_stream_declares_its_protocol_and_its_end(client, conversation, publisher):
    await publisher.stream("r", "ab", stop=False)
    path = f"/v1/conversations/{conversation}/stream?format=ui-message-stream"
    async with client.stream("GET", path) as answer:
        assert answer.headers["x-vercel-ai-ui-message-stream"] == "v1"
        assert answer.headers["content-type"].startswith("text/event-stream")
        await publisher.publish_message("stop", rid="r", seq=3)
        async with asyncio.timeout(PATIENCE_S):
            lines = [line async for line in answer.aiter_lines() if line.startswith("data:")]
    assert json.loads(lines[0].removeprefix("data:"))["type"] == "start"
    assert lines[-1] == "data: [DONE]"


async def test_other_formats_are_refused(client, conversation):
    path = f"/v1/conversations/{conversation}"
    problem(await client.get(f"{path}?format=xml"), 422, "bad_parameter", "format")
    problem(await client.get(f"{path}/stream?format=ui-messages"), 422, "bad_parameter", "format")
    wrong = f"{path}/stream?format=ui-message-stream&response=%00"
    problem(await client.get(wrong), 422, "bad_parameter", "response")
