"""The React example in a real browser: reloads in strict mode, and how much of everything it costs."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlencode

import pytest
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from api.minting import READER, mint
from api.serving import served_beside
from examples.test_chat_page import browser
from js.packages import ROOT, install, needs_node, run, tool
from localably import LocalAbly
from participants import settings_for
from rehydrate import History
from waiting import PATIENCE_S

pytestmark = [needs_node, pytest.mark.slow]

EXAMPLE = ROOT / "examples" / "react-ably"
COUNTING = ROOT / "tests" / "js" / "react" / "counting.tsx"
PATIENCE_MS = PATIENCE_S * 1000
ATTACH = 10  # the action of Ably's protocol
TEXT = [f"word {n} … " for n in range(100)]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build the example with the packed package, as npm would install it; return the folder of its pages."""
    app = tmp_path_factory.mktemp("example") / "app"
    shutil.copytree(EXAMPLE, app, ignore=shutil.ignore_patterns("node_modules", "dist"))
    shutil.copy(COUNTING, app / "src")
    page = (app / "index.html").read_text()
    (app / "counting.html").write_text(page.replace("main.tsx", "counting.tsx"))
    config = app / "vite.config.ts"
    pages = "build: { rolldownOptions: { input: ['index.html', 'counting.html'] } },"
    config.write_text(config.read_text().replace("plugins:", f"{pages}\n  plugins:"))
    install(app)
    run(tool("tsc"), cwd=app)
    run(tool("vite"), "build", cwd=app)
    return app / "dist"


class Site(NamedTuple):
    """The example, served beside the service that it reads."""

    url: str
    history: History
    server: LocalAbly

    def page(self, name, conversation, **more):
        token = mint(READER, key=self.server.key)
        asked = {"conversation": conversation, "channel": f"ai:{conversation}", "token": token}
        return f"{self.url}/{name}?{urlencode(asked | {'port': self.server.port} | more)}"


@pytest.fixture(scope="module")
async def site(built, module_database):
    async with LocalAbly() as server:
        settings = settings_for(module_database, server)
        app = FastAPI()
        app.include_router(History(settings).router(authorize=lambda *_: True))
        app.mount("/", StaticFiles(directory=built, html=True))
        async with History(settings) as history, served_beside(app) as url:
            yield Site(url, history, server)


class Watched:
    """What a page requested: hydrates, streams, and attaches of its Ably connection."""

    def __init__(self, page):
        self.hydrates = self.streams = self.attaches = 0
        self.problems = []
        page.on("request", self._count_request)
        page.on("websocket", lambda socket: socket.on("framesent", self._count_frame))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on(
            "console",
            lambda said: said.type == "error" and self.problems.append(said.text),
        )

    def _count_request(self, request):
        if "/v1/conversations/" in request.url:
            self.streams += "/stream" in request.url
            self.hydrates += "/stream" not in request.url

    def _count_frame(self, frame):
        frame = json.loads(frame)  # ably-js sends JSON from browsers
        self.attaches += frame["action"] == ATTACH

    @property
    def counts(self):
        return self.hydrates, self.streams, self.attaches


@asynccontextmanager
async def watched():
    async with browser() as chromium:
        page = await chromium.new_page()
        page.set_default_timeout(PATIENCE_MS)
        yield page, Watched(page)


async def answering(history, conversation, *, pace_s=0.02, texts=TEXT):
    async with history.respond(conversation, "r") as response:
        for text in texts:
            response.write(text)
            await asyncio.sleep(pace_s)


STARTED = "() => document.getElementById('r')?.textContent.length > 20"


@pytest.mark.parametrize("by", ["ably", "sse"])
async def test_reloads_in_mid_sentence_lose_nothing(site, by):
    conversation = f"reloaded-{by}"
    async with watched() as (page, seen), asyncio.TaskGroup() as group:
        streaming = group.create_task(answering(site.history, conversation))
        for _ in range(3):
            await page.goto(site.page("index.html", conversation, by=by))
            await page.wait_for_function(STARTED)
            assert not streaming.done()
        await page.wait_for_function("(text) => document.getElementById('r').textContent === text",
                                     arg="".join(TEXT))  # fmt: skip
        await asyncio.sleep(1)  # long enough for a hydrate too many
        assert await page.get_by_role("status").text_content() == "live"
    assert seen.problems == []
    assert seen.counts == ((3, 0, 3) if by == "ably" else (0, 3, 0))


@pytest.mark.parametrize("mode", [{}, {"strict": 1}])
async def test_a_token_renders_one_component(site, mode):
    conversation = f"counted-{len(mode)}"
    for n in range(99):
        await site.history.prompt(conversation, f"prompt {n}", prompt_id=f"p{n}")
    async with watched() as (page, seen), asyncio.TaskGroup() as group:
        await page.goto(site.page("counting.html", conversation, **mode))
        await page.get_by_role("status").get_by_text("live").wait_for()
        group.create_task(answering(site.history, conversation))
        await page.wait_for_function(STARTED)
        before = await page.evaluate("() => ({...renders})")
        await page.wait_for_function("(text) => document.getElementById('r').textContent === text",
                                     arg="".join(TEXT))  # fmt: skip
        after = await page.evaluate("() => ({...renders})")
    more = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert more.keys() == {"r"}, "one component renders for a token, and no other"
    assert len(after) == 101
    assert 10 < more["r"] <= (len(TEXT) + 1) * (2 if mode else 1)
    assert seen.counts == (1, 0, 1)
    assert seen.problems == []
