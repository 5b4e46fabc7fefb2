"""The package with stock ably-js, a real channel server and real HTTP: faults, and a page's own use of a channel."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from fastapi import FastAPI

from api.serving import served_beside
from journeys.readers import MODULES, skip_without_node
from js.packages import BUNDLE, ROOT
from localably import LocalAbly
from participants import settings_for
from rehydrate import History
from waiting import PATIENCE_S

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def node():
    skip_without_node()


@pytest.fixture
async def server():
    async with LocalAbly() as running:
        yield running


class Page:
    """A Node.js process that uses one channel as a page does."""

    def __init__(self, process):
        self._process = process

    async def do(self, command, **more):
        """Run a command; return the state after it."""
        self._process.stdin.write(json.dumps({"do": command, **more}).encode() + b"\n")
        async with asyncio.timeout(PATIENCE_S):
            return json.loads(await self._process.stdout.readline())

    async def until(self, reached):
        """Return the first state for which *reached* is true."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                state = await self.do("report")
                if reached(state):
                    return state
                await asyncio.sleep(0.02)


@asynccontextmanager
async def page(server, url, channel, **job):
    process = await asyncio.create_subprocess_exec(
        *("node", str(ROOT / "tests/js/join.mjs"), BUNDLE.as_uri(), str(MODULES)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    job = {"key": server.key, "port": server.port, "url": url, "channel": channel, **job}
    process.stdin.write(json.dumps(job).encode() + b"\n")
    try:
        yield Page(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
async def service(database, server):
    """The URL of a service, and its history."""
    settings = settings_for(database, server)
    app = FastAPI()
    app.include_router(History(settings).router(authorize=lambda *_: True))
    async with History(settings) as history, served_beside(app) as url:
        yield url, history


def live(texts, joins=1):
    return lambda state: (
        state["statuses"] == ["live"] * joins and state["messages"] == [texts] * joins
    )


async def test_two_joins_share_an_attach_and_leave_the_channel_as_the_page_had_it(server, service):
    url, history = service
    async with page(server, f"{url}/v1/conversations/c", "ai:c") as user:
        await user.do("listen")  # attaches: the page uses the channel itself
        await user.do("join")
        await user.do("join")
        async with history.respond("c", "r") as response:
            response.write("Once ")
            await user.until(live(["Once "], joins=2))
            state = await user.do("close", number=0)
            response.write("upon")
            state = await user.until(lambda s: s["messages"][1] == ["Once upon"])
            assert state["statuses"] == ["closed", "live"]
            assert state["messages"][0] == ["Once "]
            assert state["attaches"] == 2, "its own, and one that rewinds"
            await user.do("close", number=1)
            response.write(" a time")
            state = await user.until(lambda s: " a time" in s["heard"])
        assert state["state"] == "attached"
        assert state["params"] is None


async def test_the_cipher_and_params_of_the_page_are_kept(server, service):
    url, _ = service
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    async with page(server, f"{url}/v1/conversations/e", "ai:e", cipher=key) as user:
        await user.do("join")
        state = await user.until(live([]))
        assert state["params"] == {"own": "1", "rewind": "10s"}
        await user.do("publish", name="token", data="secret", headers={"responseId": "r", "seq": 1})
        await user.until(live(["secret"]))
        await user.do("close", number=0)
        state = await user.until(lambda s: s["state"] == "detached" and "rewind" not in s["params"])
        assert state["params"] == {"own": "1"}


async def test_a_channel_that_others_detach_and_whose_attach_is_refused_comes_back(server, service):
    url, history = service
    async with page(server, f"{url}/v1/conversations/d", "ai:d") as user:
        await user.do("join")
        async with history.respond("d", "r") as response:
            response.write("Once ")
            await user.until(live(["Once "]))
            with server.faults.on("refuse_attach", code=40160, count=2):
                await user.do("detach")
                response.write("upon ")
                await user.until(
                    lambda s: any(status == "recovering" and said for status, _, said in s["seen"])
                )
                await user.until(live(["Once upon "]))
            response.write("a time")
            state = await user.until(live(["Once upon a time"]))
    assert state["seen"][-1] == ["live", None, None]


async def test_a_join_whose_attach_is_refused_at_first_becomes_live(server, service):
    url, history = service
    async with history.respond("f", "r") as response:
        response.write("Once")
    with server.faults.on("refuse_attach", code=40160, count=3):
        async with page(server, f"{url}/v1/conversations/f", "ai:f") as user:
            await user.do("join")
            state = await user.until(live(["Once"]))
    assert any(status == "connecting" and said for status, _, said in state["seen"])


BAD = {
    "429": lambda: web.json_response({"code": "too_many", "detail": "too many"}, status=429, headers={"Retry-After": "1"}),
    "500": lambda: web.Response(status=500, text="<h1>oops</h1>"),
    "503": lambda: web.json_response({"code": "store_unavailable", "detail": "no database"}, status=503),
    "HTML": lambda: web.Response(text="<html>", content_type="text/html"),
    "a cut body": lambda: web.Response(text='{"messages": [', content_type="application/json"),
    "another JSON": lambda: web.json_response({"messages": [5], "reasons": []}),
    "nothing": None,
}  # fmt: skip


@asynccontextmanager
async def answering(answer):
    """A server whose response to each request is what *answer* returns for its number; None: no response."""
    requests = []

    async def handle(request):
        requests.append(request.headers.get("Authorization"))
        response = answer(len(requests))
        if response is None:
            await asyncio.sleep(PATIENCE_S)
        return response

    app = web.Application()
    for path in ("/c", "/stream"):
        app.router.add_get(path, handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/c", requests
    finally:
        await runner.cleanup()


def whole(_=0):
    through = {"gen": 1, "seq": 1, "serial": None, "id": None}
    message = {"id": "r", "role": "assistant", "status": "completed", "text": "Once", "parts": []}
    message |= {"through": through, "gaps": [], "exact": True, "repaired": None, "prompt_id": None}
    message |= {"started_at": None, "finished_at": None}
    return web.json_response({"messages": [message], "reasons": [], "older": None, "until": None})


@pytest.mark.parametrize("kind", BAD)
async def test_a_bad_answer_is_reported_and_the_next_one_is_shown_once(server, kind):
    made = BAD[kind]

    def answer(number):
        return whole() if number > 2 else made and made()

    async with (
        answering(answer) as (url, requests),
        page(server, url, "ai:c", timeout_ms=300) as user,
    ):
        await user.do("join")
        state = await user.until(live(["Once"]))
    assert len(requests) == 3
    reported = [entry for entry in state["seen"] if entry[0] == "connecting" and entry[2]]
    assert len(reported) >= 2
    if kind.isdigit():
        assert reported[0][1] == int(kind)
    assert state["seen"][-1] == ["live", None, None]


@pytest.mark.parametrize(
    ("status", "code"), [(401, "unauthorized"), (403, "forbidden"), (404, "not_found")]
)
@pytest.mark.parametrize("by", ["join", "follow"])
async def test_a_refusal_ends_the_join_with_its_problem(server, status, code, by):
    def refuse(_):
        return web.json_response({"code": code, "detail": f"no: {code}"}, status=status)

    async with answering(refuse) as (url, requests):
        target = url if by == "join" else url.removesuffix("/c")
        async with page(server, target, "ai:c") as user:
            await user.do(by)
            state = await user.until(lambda s: s["statuses"] == ["failed"])
    assert state["seen"][-1][:2] == ["failed", status]
    assert len(requests) == 1


async def test_a_new_token_replaces_one_that_has_expired(server):
    def answer(number):
        if number == 1:
            return web.json_response({"code": "unauthorized", "detail": "expired"}, status=401)
        return whole()

    tokens = {"token": "old", "new_token": "new"}
    async with answering(answer) as (url, requests), page(server, url, "ai:t", **tokens) as user:
        await user.do("join")
        state = await user.until(live(["Once"]))
    assert state["unauthorized"] == ["unauthorized"]
    assert requests == ["Bearer old", "Bearer new"]
