"""The browser's own EventSource, in a real Chromium, on a page of another origin."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from api.minting import READER, mint
from api.serving import served_beside
from participants import settings_for
from rehydrate.history import History
from tcp_proxy import TcpProxy
from waiting import PATIENCE_S

pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning:ably")

PAGE = """<!doctype html><script>
let text = "", kinds = [];
const source = new EventSource(%r);
source.addEventListener("snapshot", e => {
  kinds.push("snapshot");
  text = JSON.parse(e.data).messages.map(m => m.text).join("");
});
source.addEventListener("token", e => { kinds.push("token"); text += JSON.parse(e.data).text; });
source.addEventListener("stop", () => {
  source.close();
  fetch("/seen", {method: "POST", body: JSON.stringify({text, kinds})});
});
source.onerror = () => kinds.push("error");
source.onopen = () => fetch("/opened", {method: "POST"});
</script>"""


class Site:
    """A page of another origin, and what it reports."""

    def __init__(self):
        self.streaming = None
        self.opened = asyncio.Queue()
        self.seen = asyncio.Queue()

    async def page(self, _):
        return web.Response(text=PAGE % self.streaming, content_type="text/html")

    async def tell(self, request):
        if request.path == "/opened":
            self.opened.put_nowait(None)
        else:
            self.seen.put_nowait(await request.json())
        return web.Response()


@pytest.fixture
async def site():
    made, app = Site(), web.Application()
    app.add_routes(
        [web.get("/", made.page), web.post("/seen", made.tell), web.post("/opened", made.tell)]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def url(module_database, server, site):
    settings = settings_for(module_database, server, cors_origins=site.origin)
    async with served_beside(History(settings).app()) as made:
        yield made


@asynccontextmanager
async def browsing(site, streaming):
    """Open the page of *site*, which follows *streaming*, in a browser."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    site.streaming = streaming
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        browser = await asyncio.create_subprocess_exec(
            *(chromium, "--headless=new", "--no-sandbox", "--disable-gpu"),
            *(f"--user-data-dir={profile}", "--remote-debugging-port=0", site.origin),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(PATIENCE_S):
                yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(browser.pid, signal.SIGKILL)
            await browser.wait()


def stream_of(url, server, conversation):
    shown = mint(READER, key=server.key)
    return f"{url}/v1/conversations/{conversation}/stream?access_token={shown}"


async def test_an_event_source_of_another_origin_follows(
    url, server, site, conversation, publisher
):
    await publisher.stream("r", "早い", stop=False)
    async with browsing(site, stream_of(url, server, conversation)):
        await site.opened.get()
        for seq, letter in enumerate("もの勝ち", start=3):
            await publisher.publish_message("token", letter, rid="r", seq=seq)
            await asyncio.sleep(0.3)
        await publisher.publish_message("stop", rid="r", seq=7)
        found = await site.seen.get()
    assert found["text"] == "早いもの勝ち"
    assert found["kinds"][0] == "snapshot"
    assert "error" not in found["kinds"]


async def test_it_reconnects_and_receives_exactly_the_missed_events(
    url, server, site, conversation, publisher
):
    await publisher.stream("r", "早い", stop=False)
    async with TcpProxy(url) as proxy, browsing(site, stream_of(proxy.url, server, conversation)):
        await site.opened.get()
        await publisher.publish_message("token", "も", rid="r", seq=3)
        await asyncio.sleep(1)
        await proxy.disconnect()
        await publisher.publish_message("token", "の", rid="r", seq=4)
        await asyncio.sleep(0.5)
        await proxy.connect()
        await site.opened.get()
        await publisher.publish_message("token", "勝", rid="r", seq=5)
        await publisher.publish_message("stop", rid="r", seq=6)
        found = await site.seen.get()
    assert found["text"] == "早いもの勝"
    assert found["kinds"].count("snapshot") == 1
    assert [kind for kind in found["kinds"] if kind != "error"][1:] == ["token"] * 3
    assert "error" in found["kinds"]
