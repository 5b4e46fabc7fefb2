"""The inspector with 100,000 conversations and one of 10,000 messages: each request, and the page.

Every request of the page, with a store of 100 conversations and with the large one, in turns in one
run: the ratio is the cost of size. Then the page itself in a real browser, which opens, scrolls and
pages backwards; the browser reports the time of each request.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import asyncpg
from bench._service import environment_of

from rehydrate.core.event import Event
from rehydrate.core.fold import MessageState, fold
from rehydrate.demo.processes import Child
from rehydrate.demo.services import embedded
from rehydrate.history import History
from rehydrate.postgres.migrations import migrate
from rehydrate.postgres.url import connect_arguments
from rehydrate.record.import_messages import NewMessage
from rehydrate.settings import load_settings

SMALL, TOKENS, MOST_MS, MOST_KB = 100, 2_000, 100.0, 200.0
UI = Path(__file__).parents[1] / "service/rehydrate/api/ui"
TEXT = "The tide turns twice a day, and nobody has to ask it why. " * 12

CONVERSATIONS = """
    INSERT INTO conversations (id, channel, created_at, watermark_at, read_at)
    SELECT 'c-' || lpad(n::text, 7, '0'), 'ai:c-' || lpad(n::text, 7, '0'),
        now() - n * interval '30 seconds', now(), now()
    FROM generate_series(1, $1::int) AS n
"""
MESSAGES = """
    INSERT INTO messages (conversation_id, id, role, status, gen, position, started_at,
        finished_at, facts, wire, tape)
    SELECT 'c-' || lpad(n::text, 7, '0'), id, role, status, gen, position, started_at,
        finished_at, facts, wire, tape
    FROM messages, generate_series(1, $1::int) AS n WHERE conversation_id = 'template'
"""


class Timed(NamedTuple):
    """The times of one request in ms, with the small store and with the large one."""

    what: str
    small: list[float]
    large: list[float]

    @property
    def ratio(self) -> float:
        return statistics.median(self.large) / statistics.median(self.small)


class Caller:
    """One keep-alive connection, like the browser's."""

    def __init__(self, url: str, key: str) -> None:
        self._connection = http.client.HTTPConnection(url.removeprefix("http://"))
        self._headers = {"Authorization": f"Bearer {key}"}

    def get(self, path: str) -> tuple[float, dict]:
        began_s = time.perf_counter()
        self._connection.request("GET", path, headers=self._headers)
        response = self._connection.getresponse()
        body = response.read()
        took_ms = (time.perf_counter() - began_s) * 1000
        assert response.status == 200, (response.status, body[:500])
        return took_ms, json.loads(body)

    def snapshot(self, path: str) -> float:
        """Time a stream up to the end of its snapshot; then disconnect."""
        began_s = time.perf_counter()
        self._connection.request("GET", path, headers=self._headers)
        response = self._connection.getresponse()
        line = b""
        while not line.startswith(b"data: "):
            line = response.readline()
        self._connection.close()
        json.loads(line[6:])
        return (time.perf_counter() - began_s) * 1000


@asynccontextmanager
async def filled(server_url: str, name: str, conversations: int, long: int, base):
    """Create and fill a database; yield its settings."""
    connection = await asyncpg.connect(**connect_arguments(server_url))
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    url = f"{server_url.rpartition('/')[0]}/{name}"
    await migrate(url)
    settings = load_settings(**(base.model_dump() | {"database_url": url}))
    async with History(settings) as history:
        messages = [
            NewMessage(f"m-{n}", ("user", "assistant")[n % 2], text=TEXT) for n in range(long)
        ]
        await history.store_messages("template", messages[:2])
        for at in range(0, long, 1000):
            await history.store_messages("long", messages[at : at + 1000])
        await history.catch_up("long")
        async with history._store.locked("long", "ai:long") as held:
            await held.put([streamed()])
    connection = await asyncpg.connect(**connect_arguments(url), command_timeout=600)
    await connection.execute(CONVERSATIONS, conversations)
    await connection.execute(MESSAGES, conversations)
    await connection.execute("VACUUM ANALYZE")
    await connection.close()
    yield settings


def streamed() -> MessageState:
    """A recorded response of 2,000 tokens."""
    state = MessageState("streamed")
    now_ms = time.time_ns() // 1_000_000 - 3_600_000
    for seq in range(TOKENS + 2):
        kind = "start" if not seq else "stop" if seq > TOKENS else "token"
        at_ms, text = now_ms + seq * 25, "word " if kind == "token" else None
        serial = f"{at_ms:014d}-000@bench:000"
        fold(
            state,
            Event(kind, "streamed", 1, seq, serial, f"s:{seq}", timestamp_ms=at_ms, text=text),
        )
    return state


def paths(caller: Caller, conversations: int) -> dict[str, str]:
    """Return the requests of the page, with the cursors that it would have."""
    listing = "/v1/admin/conversations?limit=50"
    deep = caller.get(listing)[1]["older"]
    for _ in range(min(20, conversations // 100)):
        deep = caller.get(f"{listing}&before={deep}")[1]["older"]
    oldest = caller.get("/v1/conversations/long?limit=50")[1]["older"]
    return {
        "the first page of conversations": listing,
        "a page further on": f"{listing}&before={deep}",
        "search: one begins with it": f"{listing}&query=c-0000042",
        "search: many begin with it": f"{listing}&query=c-00",
        "search: none does": f"{listing}&query=nothing",
        "those that stream": f"{listing}&streaming=true",
        "an older page of a conversation": f"/v1/conversations/long?limit=50&before={oldest}",
        "a timeline: of 2,000 tokens": "/v1/admin/conversations/long/messages/streamed/timeline",
        "a timeline: stored as one text": "/v1/admin/conversations/long/messages/m-41/timeline",
        "health": "/v1/admin/health",
        "replays": "/v1/admin/replays?limit=50",
        "audit": "/v1/admin/audit?limit=50",
    }


def timed(small: Caller, large: Caller, rounds: int, sizes: tuple[int, int]) -> list[Timed]:
    asked = [
        (caller, paths(caller, size)) for caller, size in zip((small, large), sizes, strict=True)
    ]
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in asked[0][1]}
    stream = "/v1/conversations/{}/stream?limit=50"
    opened: tuple[list[float], list[float]] = ([], [])
    followed: tuple[list[float], list[float]] = ([], [])
    for round_ in range(rounds + 1):
        for side, (caller, known) in enumerate(asked):
            for name, path in known.items():
                took_ms = caller.get(path)[0]
                if round_:  # the first is not counted: connections are made, plans and pages read
                    times[name][side].append(took_ms)
            first_ms = caller.snapshot(stream.format(f"c-{round_ + 1:07}"))
            again_ms = caller.snapshot(stream.format("long"))
            if round_:
                opened[side].append(first_ms)
                followed[side].append(again_ms)
    return [Timed(name, *both) for name, both in times.items()] + [
        Timed("opening a conversation without followers", *opened),
        Timed("opening the long conversation, already followed", *followed),
    ]


async def browsed(url: str, key: str) -> list[tuple[str, float]] | str:
    """Return the times of the page's own requests in a real visit, or why there was none."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        return "chromium is not installed"
    from playwright.async_api import async_playwright  # noqa: PLC0415 - only where there is one

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium)
        page = await browser.new_page(viewport={"width": 1600, "height": 1000})
        await page.goto(f"{url}/ui")
        await page.get_by_label("Admin key").fill(key)
        await page.get_by_role("button", name="Sign in").click()
        rows = page.locator(".rows li")
        await rows.first.wait_for()
        for _ in range(10):
            await rows.last.scroll_into_view_if_needed()
            await page.wait_for_timeout(300)
        shown = await rows.count()
        await page.goto(f"{url}/ui#/c/long")
        await page.locator(".message").first.wait_for()
        for _ in range(20):
            await page.locator(".talk").evaluate("e => e.scrollTo(0, 0)")
            await page.wait_for_timeout(200)
        await page.get_by_role("link", name="Timeline").last.click()
        await page.locator("svg.chart").wait_for()
        told = await page.evaluate(
            "performance.getEntriesByType('resource').map((e) => [e.name, e.responseEnd - e.requestStart])"
        )
        messages = await page.locator(".message").count()
        print(f"the browser showed {shown} conversations and {messages} messages", file=sys.stderr)
        await browser.close()
    return [(name.removeprefix(url), ms) for name, ms in told if "/stream" not in name]


async def measure(options) -> int:
    with tempfile.TemporaryDirectory() as folder:
        base = load_settings(data_dir=Path(folder), port=0)
        async with embedded(base) as running:
            server = running.required_database_url()
            print(f"storing {options.conversations:,} conversations …", file=sys.stderr)
            async with (
                filled(server, "small", SMALL, 200, running) as few,
                filled(server, "large", options.conversations, options.long, running) as many,
            ):
                key = secrets.token_urlsafe(24)
                async with (
                    Child(
                        "--quiet",
                        "serve",
                        environment=environment_of(few, REHYDRATE_ADMIN_KEYS=key),
                    ) as one,
                    Child(
                        "--quiet",
                        "serve",
                        environment=environment_of(many, REHYDRATE_ADMIN_KEYS=key),
                    ) as other,
                ):
                    callers = Caller(one.url, key), Caller(other.url, key)
                    sizes = (SMALL, options.conversations)
                    rows = await asyncio.to_thread(timed, *callers, options.rounds, sizes)
                    visit = await browsed(other.url, key)
    return report(rows, visit)


def report(rows: list[Timed], visit) -> int:
    print(f"{'ms':42} {'small p50':>10} {'large p50':>10} {'p95':>8} {'most':>8} {'ratio':>7}")
    worst = 0.0
    for row in rows:
        p95 = statistics.quantiles(row.large, n=20)[-1]
        worst = max(worst, p95)
        small, large = statistics.median(row.small), statistics.median(row.large)
        print(
            f"{row.what:42} {small:10.1f} {large:10.1f} {p95:8.1f} {max(row.large):8.1f} {row.ratio:7.2f}"
        )
    weight_kb = sum(path.stat().st_size for path in UI.iterdir()) / 1000
    print(
        f"the page weighs {weight_kb:.1f} kB in {len(list(UI.iterdir()))} files (target {MOST_KB:g})"
    )
    if isinstance(visit, str):
        print(f"no browser: {visit}")
    else:
        print(f"{len(visit)} requests of a visit by chromium; the slowest, once sent:")
        for name, ms in sorted(visit, key=lambda each: -each[1])[:5]:
            print(f"  {ms:7.1f} ms  {name[:90]}")
    print(f"slowest p95 {worst:.1f} ms (target {MOST_MS:g})")
    return 0 if worst <= MOST_MS and weight_kb <= MOST_KB else 1


def main(argv):
    parser = argparse.ArgumentParser(prog="bench inspector", description=__doc__)
    parser.add_argument("--conversations", type=int, default=100_000)
    parser.add_argument(
        "--long", type=int, default=10_000, help="messages of the long conversation"
    )
    parser.add_argument("--rounds", type=int, default=40)
    return asyncio.run(measure(parser.parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
