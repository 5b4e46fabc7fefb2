"""The exactness check: join a streaming conversation at random moments; compare every character."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from ably import AblyRealtime

from rehydrate.demo.reader import show
from rehydrate.demo.texts import tokens_of

PATIENCE_S = 45.0
"""Seconds that a reader waits for the responses that it saw streaming to end."""

JOINS_A_SECOND = 4.0
_HERE = Path(__file__).parent


class Target(NamedTuple):
    """The conversation to join: the service's URL, Ably options, and a token for the channel."""

    url: str
    conversation_id: str
    channel: str
    token: str
    endpoint: str | None
    port: int | None
    tls: bool

    @property
    def hydrate_url(self) -> str:
        """The URL of the hydrate call; more query parameters may be appended."""
        return f"{self.url}/v1/conversations/{self.conversation_id}?limit=200"


class Join(NamedTuple):
    """What one reader showed at the end.

    Attributes:
        client: the kind of client: ``rest``, ``ably-python`` or ``ably-js``.
        messages: (id, status, text, seq or None) of each response.
        times_s: duration of each hydrate call, in seconds.
        ended: whether every response that was streaming at the join reached its end.
    """

    client: str
    messages: list[tuple[str, str, str, int | None]]
    times_s: list[float]
    ended: bool = True


class Report(NamedTuple):
    """The result of the check; the form of `as_json` is stable."""

    joins: list[Join]
    switches: int
    responses: int
    skipped: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return the result as one JSON object."""
        by_client = {
            client: _sums([each for each in self.joins if each.client == client])
            for client in sorted({each.client for each in self.joins})
        }
        return {
            **_sums(self.joins),
            "by_client": by_client,
            "interleaved": {"responses": self.responses, "switches": self.switches},
            "skipped": self.skipped,
        }

    @property
    def good(self) -> bool:
        """True if interleaved streams were compared and no character was lost or duplicated."""
        sums = _sums(self.joins)
        wrong = sums["lost"] or sums["doubled"] or sums["unended"]
        return not wrong and sums["characters"] > 0 and self.switches > 0


def _sums(joins: Sequence[Join]) -> dict[str, Any]:
    lost = doubled = characters = 0
    times_ms = sorted(seconds * 1000 for each in joins for seconds in each.times_s)
    for each in joins:
        for message in each.messages:
            missing, extra = difference(*message)
            lost, doubled = lost + missing, doubled + extra
            characters += len(message[2])
    return {
        "joins": len(joins),
        "characters": characters,
        "lost": lost,
        "doubled": doubled,
        "unended": sum(not each.ended for each in joins),
        "p50_ms": round(statistics.median(times_ms), 1) if times_ms else None,
        "p95_ms": round(times_ms[int(len(times_ms) * 0.95)], 1) if times_ms else None,
    }


def difference(response_id: str, status: str, text: str, seq: int | None) -> tuple[int, int]:
    """Count the missing and the surplus characters of a response's text.

    A finished response must have its whole text. One in progress must have whole tokens, at least
    as many as its *seq*: a busy publisher puts several tokens into one channel message. Without a
    seq it must have the whole text.

    Returns:
        The number of missing and the number of surplus characters, both from the first difference.
    """
    tokens = tokens_of(response_id)
    true = "".join(tokens)
    if status == "in_progress" and seq is not None:
        if text in accumulate(tokens[seq:], initial="".join(tokens[:seq])):
            return 0, 0
        true = "".join(tokens[:seq])
    if text == true:
        return 0, 0
    same = next((i for i, (a, b) in enumerate(zip(text, true, strict=False)) if a != b), None)
    same = min(len(text), len(true)) if same is None else same
    return len(true) - same, len(text) - same


async def check(target: Target, joins: int, progress: Callable[[str], None]) -> Report:
    """Join *joins* times at random moments and report what the readers showed.

    Args:
        target: the conversation to join.
        joins: number of joins, spread over the available clients and ways to join.
        progress: called with lines of progress text.
    """
    window_s = joins / JOINS_A_SECOND
    progress(f"joining {joins} times within {window_s:.0f} s, while three responses stream;")
    progress("each reader stays until the responses that it saw streaming have ended …")
    modules = _ably_js()
    clients = ["rest", "ably-python", *(["ably-js"] if isinstance(modules, Path) else [])]
    plan = [(clients[i % len(clients)], 1 + i // len(clients) % 3) for i in range(joins)]
    moments = [(client, way, random.uniform(0, window_s)) for client, way in plan]  # noqa: S311 - chance, not a secret
    watch = Watch(target)
    async with httpx.AsyncClient(timeout=30) as http, asyncio.TaskGroup() as group:
        watching = group.create_task(watch.run())
        tasks = [
            group.create_task(_by_rest(target, http, at))
            if client == "rest"
            else group.create_task(_by_python(target, http, at, way))
            for client, way, at in moments
            if client != "ably-js"
        ]
        by_js = [{"delay_ms": at * 1000, "way": way} for c, way, at in moments if c == "ably-js"]
        node = group.create_task(_by_js(target, modules, by_js)) if by_js else None
        done = [await task for task in asyncio.as_completed(tasks)]
        done += await node if node is not None else []
        watching.cancel()
    skipped = [] if isinstance(modules, Path) else [f"ably-js: {modules}"]
    return Report(done, watch.switches, len(watch.responses), skipped)


class Watch:
    """Counts on the channel how often consecutive tokens belong to different responses."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._last: str | None = None
        self.switches = 0
        self.responses: set[str] = set()

    async def run(self) -> None:
        """Watch until cancelled."""
        ably = _ably(self._target)
        try:
            await ably.channels.get(self._target.channel).subscribe("token", self._token)
            await asyncio.Event().wait()
        finally:
            await ably.close()

    def _token(self, message: Any) -> None:
        response_id = message.extras["headers"]["responseId"]
        self.switches += self._last not in {None, response_id}
        self._last = response_id
        self.responses.add(response_id)


def _ably(target: Target) -> AblyRealtime:
    endpoint = target.endpoint
    if endpoint is not None and target.port is not None:
        endpoint = f"{endpoint}:{target.port}"
    options = {"endpoint": endpoint} if endpoint else {}
    return AblyRealtime(token=target.token, tls=target.tls, **options)


async def _load(
    target: Target, http: httpx.AsyncClient, times_s: list[float], until: str | None = None
) -> dict[str, Any]:
    began = time.perf_counter()
    response = await http.get(
        target.hydrate_url + (f"&until={until}" if until else ""),
        headers={"authorization": f"Bearer {target.token}"},
    )
    response.raise_for_status()
    times_s.append(time.perf_counter() - began)
    answer: dict[str, Any] = response.json()
    return answer


async def _by_rest(target: Target, http: httpx.AsyncClient, at_s: float) -> Join:
    await asyncio.sleep(at_s)
    times_s: list[float] = []
    answer = await _load(target, http, times_s)
    return Join("rest", _responses(answer["messages"]), times_s)


def _responses(messages: list[dict[str, Any]]) -> list[tuple[str, str, str, int | None]]:
    return [
        (each["id"], each["status"], each["text"], each["through"]["seq"] or 0)
        for each in messages
        if each["role"] == "assistant"
    ]


async def _by_python(target: Target, http: httpx.AsyncClient, at_s: float, way: int) -> Join:
    await asyncio.sleep(at_s)
    times_s: list[float] = []
    shown: list[dict[str, Any]] = []
    waiting: set[str] = set()
    ended = asyncio.Event()

    def render(view: Any) -> None:
        if not shown:
            waiting.update(view.open)
        shown[:] = view.messages
        if not waiting & set(view.open):
            ended.set()

    async def load(until: str | None = None) -> dict[str, Any]:
        return await _load(target, http, times_s, until)

    ably = _ably(target)
    joining = asyncio.create_task(show(ably, target.channel, load, render, way))  # type: ignore[no-untyped-call]  # a script
    waits = asyncio.create_task(ended.wait())
    both = {joining, waits}
    try:
        await asyncio.wait(both, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
    finally:  # also if another client fails, which cancels this one
        for task in both:
            task.cancel()
        results = await asyncio.gather(joining, waits, return_exceptions=True)
        await ably.close()
    if isinstance(results[0], Exception):
        raise results[0]
    return Join("ably-python", _responses(shown), times_s, ended.is_set())


async def _by_js(target: Target, modules: Path | str, joins: list[dict[str, Any]]) -> list[Join]:
    latest_s = max(join["delay_ms"] for join in joins) / 1000
    options = {"endpoint": target.endpoint, "port": target.port, "tls": target.tls}
    job = {
        "parent": os.getpid(),
        "modules": str(modules),
        "options": {key: value for key, value in options.items() if value is not None},
        "token": target.token,
        "channel": target.channel,
        "url": target.hydrate_url,
        "joins": joins,
        "patience_ms": PATIENCE_S * 1000,
    }
    node = await asyncio.create_subprocess_exec(
        *("node", str(_HERE / "joiner.mjs")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(latest_s + 2 * PATIENCE_S):
            output, _ = await node.communicate(json.dumps(job).encode())
    finally:
        if node.returncode is None:
            node.kill()
            await node.wait()
    seen = [json.loads(line) for line in output.splitlines()]
    done = [_join_of_js(each) for each in seen]
    missing = len(joins) - len(done)
    return done + [Join("ably-js", [], [], ended=False)] * missing


def _join_of_js(seen: dict[str, Any]) -> Join:
    messages: list[tuple[str, str, str, int | None]] = [
        (m["id"], m["status"], m["text"], None) for m in seen["messages"]
    ]
    ended = all(status != "in_progress" for id_, status, *_ in messages if id_ in seen["first"])
    finished = [each for each in messages if each[1] != "in_progress"]
    return Join("ably-js", finished, [ms / 1000 for ms in seen["times"]], ended)


def _ably_js() -> Path | str:
    """Return the folder whose node_modules has ably, or the reason why there is none."""
    if shutil.which("node") is None:
        return "Node.js is not installed"
    repository = _HERE.parents[2]
    for folder in (Path.cwd(), repository / "tests" / "js", repository):
        if (folder / "node_modules" / "ably" / "package.json").exists():
            return folder
    return "the npm package ably is not installed (npm ci in tests/js, or npm install ably)"
