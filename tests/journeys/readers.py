"""Readers with stock SDKs, the README's Python and the package for JavaScript, and a check of what they show."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from ably import AblyRealtime

from journeys.snippets import CLIENT, python_join
from waiting import PATIENCE_S

HERE = Path(__file__).parent
MODULES = HERE.parent / "js"


def skip_without_node():
    if shutil.which("node") is None:
        pytest.skip("Node.js is not installed")
    if not (MODULES / "node_modules" / "ably" / "package.json").exists():
        pytest.skip("the npm package ably is not installed: npm ci in tests/js")


class Plan(NamedTuple):
    """When and how a reader joins; *reload_s* seconds later it leaves and joins again."""

    at_s: float
    way: int
    reload_s: float | None = None


class Shown(NamedTuple):
    """What a reader showed: the number of renderings, the wrong ones, and the last one."""

    plan: Plan
    renders: int
    untrue: list[str]
    last: dict[str, tuple[str, str]]


def plans(within_s, count, *, reload_s=None):
    """Return *count* joins in each of the three ways, at random times."""
    return [
        Plan(random.uniform(0, within_s), way, reload_s) for _ in range(count) for way in (1, 2, 3)
    ]


def assert_shown(shown: list[Shown], texts: dict[str, str], status: str = "completed") -> None:
    """Assert that every reader showed only published text, and all of it in the end."""
    assert shown
    for each in shown:
        assert each.renders
        assert not each.untrue, f"{each.plan} {each.untrue[0]}"
        for id_, text in texts.items():
            assert each.last.get(id_) == (status, text), f"{each.plan} {id_}"


class RenderingCheck:
    """Checks every rendering: each text is a prefix of the published one, and whole in the end.

    An open response may lack text that its gaps declare.
    """

    def __init__(self, texts: dict[str, str], status: str) -> None:
        self._texts = texts
        self._status = status
        self.renders = 0
        self.untrue: list[str] = []
        self.last: dict[str, tuple[str, str]] = {}
        self.done = asyncio.Event()

    def render(self, messages: list[dict[str, Any]]) -> None:
        self.renders += 1
        self.last = {m["id"]: (m["status"], m["text"]) for m in messages}
        for message in messages:
            id_, status, text = message["id"], message["status"], message["text"]
            if id_ not in self._texts:
                continue
            true = self._texts[id_]
            if status == "in_progress":
                good = true.startswith(text) or bool(message["gaps"])
            else:
                good = text == true
            if not good:
                self.untrue.append(f"{id_} [{status}] {text!r}")
        if all(self.last.get(id_) == (self._status, text) for id_, text in self._texts.items()):
            self.done.set()


async def by_python(target, texts, plans, *, status="completed"):
    """Join with stock ably-python and the README's Python code, according to *plans*."""
    join = python_join()
    async with httpx.AsyncClient(timeout=PATIENCE_S) as http, asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(
                _python_reader(target, http, join, plan, RenderingCheck(texts, status))
            )
            for plan in plans
        ]
    return [task.result() for task in tasks]


async def _python_reader(target, http, join, plan, check):
    async def load(until=None):
        url = target.hydrate_url + (f"&until={until}" if until else "")
        answer = await http.get(url, headers={"authorization": f"Bearer {target.token}"})
        answer.raise_for_status()
        return answer.json()

    def joined(ably):
        return join(ably, target.channel, load, lambda view: check.render(view.messages), plan.way)

    await asyncio.sleep(plan.at_s)
    for stay_s in (plan.reload_s, PATIENCE_S):
        if stay_s is not None:
            await _python_stay(target, joined, check, stay_s)
    return Shown(plan, check.renders, check.untrue, check.last)


async def _python_stay(target, joined, check, stay_s):
    endpoint = f"{target.endpoint}:{target.port}"
    ably = AblyRealtime(token=target.token, endpoint=endpoint, tls=False)
    joining = asyncio.create_task(joined(ably))
    done = asyncio.create_task(check.done.wait())
    try:
        await asyncio.wait({joining, done}, timeout=stay_s, return_when=asyncio.FIRST_COMPLETED)
    finally:  # also if another reader has failed
        for task in (joining, done):
            task.cancel()
        ended, _ = await asyncio.gather(joining, done, return_exceptions=True)
        await ably.close()
    if isinstance(ended, Exception):
        raise ended


async def by_javascript(target, texts, plans, *, status="completed"):
    """Join with stock ably-js and the package for JavaScript, according to *plans*."""
    job = {
        "client": CLIENT.as_uri(),
        "modules": str(MODULES),
        "options": {"endpoint": target.endpoint, "port": target.port, "tls": False},
        "token": target.token,
        "channel": target.channel,
        "url": target.hydrate_url,
        "texts": texts,
        "status": status,
        "patience_ms": PATIENCE_S * 1000,
        "plans": [plan._asdict() for plan in plans],
    }
    output = await run_node("reader.mjs", job)
    assert len(output) == len(plans)
    return [
        Shown(
            Plan(**each["plan"]),
            each["renders"],
            each["untrue"],
            {id_: tuple(said) for id_, said in each["last"].items()},
        )
        for each in output
    ]


async def run_node(script, job):
    """Run a script of this folder; return the JSON lines that it printed."""
    node = await asyncio.create_subprocess_exec(
        "node",
        str(HERE / script),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(3 * PATIENCE_S):
            output, errors = await node.communicate(json.dumps(job).encode())
    finally:
        if node.returncode is None:
            node.kill()
            await node.wait()
    assert node.returncode == 0, errors.decode()
    return [json.loads(line) for line in output.splitlines()]
