"""Our readers: the README's code with stock ably-python and stock ably-js, in all three ways to join;

and a reader of the service's event stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import json

import httpx
from ably import AblyRealtime

from holes.recipes import PATIENCE_S, Shown
from journeys.readers import HERE, MODULES
from journeys.snippets import CLIENT, python_join

WAYS = (1, 2, 3)
_LINE_BYTES = 1 << 24
TERMINAL = ("completed", "incomplete", "failed", "cancelled", "interrupted")


class RenderingCheck:
    """What one reader showed: the wrong messages, and the last rendering."""

    def __init__(self, name, truth):
        self.name = name
        self.renders = 0
        self.wrong = []
        self.last = {}
        self.failure = None
        self._truth = truth

    def render(self, messages):
        """Check a rendering: a text is a prefix of the published one or declares gaps; an end is whole."""
        self.renders += 1
        self.last = {m["id"]: shown(m) for m in messages}
        for each in self.last.values():
            true = self._truth.get(each.id)
            ended = each.status in TERMINAL
            exact = each.text == true if ended else (true or "").startswith(each.text)
            if true is not None and not exact and not each.gaps:
                self.wrong.append(each)


def shown(message):
    gaps = tuple((a, b) for a, b in message["gaps"])
    status = "in progress" if message["status"] == "in_progress" else message["status"]
    if message.get("exact") is False:
        status += ", not exact"
    return Shown(message["id"], message["text"], status, gaps)


class OurReaders:
    """The readers of one conversation."""

    def __init__(self, target, truth, node):
        self._target = target
        self._truth = truth
        self._node = node
        self._rendered = asyncio.Event()
        self._tasks = []
        self._numbers = []
        self._http = httpx.AsyncClient(timeout=PATIENCE_S)
        self.checks = []

    def join(self):
        """Start a reader for each SDK and way to join, and one of the event stream."""
        for way in WAYS:
            check = self._check(f"ably-python, way {way}")
            self._tasks.append(asyncio.create_task(self._python(check, way)))
            if self._node is not None:
                check = self._check(f"ably-js, way {way}")
                self._numbers.append(self._node.join(self._target, way, self._receiver(check)))
        self._tasks.append(asyncio.create_task(self._follower(self._check("the service's stream"))))

    @property
    def hydrating(self):
        """The number of readers that hydrate: all but the last, which reads the stream."""
        return len(self.checks) - 1

    async def joined(self):
        """Wait until each has rendered something."""
        await self._until(lambda: all(check.renders for check in self.checks))

    async def must_show(self, *expected, allowed=()):
        """Wait until every reader shows *expected* alone; assert that none showed a wrong text.

        *allowed*: texts that were correct earlier.
        """
        wanted = {each.id: each for each in expected}
        await self._until(lambda: all(check.last == wanted for check in self.checks))
        for check in self.checks:
            assert not check.failure, f"{check.name}: {check.failure}"
            wrong = [each for each in check.wrong if each.text not in allowed]
            assert not wrong, f"{check.name} showed {wrong[0]}"
            assert check.last == wanted, f"{check.name} shows {list(check.last.values())}"

    async def close(self):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for number in self._numbers:
            await self._node.leave(number)
        await self._http.aclose()

    async def _until(self, holds):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while not holds() and not any(check.failure for check in self.checks):
                    self._rendered.clear()
                    await self._rendered.wait()

    def _check(self, name):
        self.checks.append(RenderingCheck(name, self._truth))
        return self.checks[-1]

    def _receiver(self, check):
        def receive(messages, failure=None):
            if failure is not None:
                check.failure = failure
            else:
                check.render(messages)
            self._rendered.set()

        return receive

    async def _python(self, check, way):
        target, receive = self._target, self._receiver(check)
        headers = {"authorization": f"Bearer {target.token}"}
        endpoint = f"{target.endpoint}:{target.port}"
        ably = AblyRealtime(token=target.token, endpoint=endpoint, tls=False)

        async def load(until=None):
            params = {"until": until} if until else {}
            answer = await self._http.get(target.url, headers=headers, params=params)
            return answer.raise_for_status().json()

        try:
            join = python_join()
            await join(ably, target.channel, load, lambda view: receive(view.messages), way)
        except Exception as error:  # noqa: BLE001 - any exception fails the test
            receive([], repr(error))
        finally:
            await ably.close()

    async def _follower(self, check):
        """Read the service's event stream, and apply every event."""
        receive, view = self._receiver(check), StreamView()
        headers = {"authorization": f"Bearer {self._target.token}"}
        try:
            url = f"{self._target.url}/stream"
            async with self._http.stream("GET", url, headers=headers) as answer:
                kind = None
                async for line in answer.raise_for_status().aiter_lines():
                    name, _, value = line.partition(": ")
                    if name == "event":
                        kind = value
                    elif name == "data":
                        view.apply(kind, json.loads(value))
                        receive(list(view.messages.values()))
        except Exception as error:  # noqa: BLE001 - any exception fails the test
            receive([], repr(error))


class StreamView:
    """The messages of a reader that applies every event of the service's stream."""

    def __init__(self):
        self.messages = {}

    def apply(self, kind, data):
        if kind == "snapshot":
            self.messages = {m["id"]: m for m in data["messages"]}
        elif kind != "again":
            id_ = data["message_id"]
            new = {"id": id_, "text": "", "status": "in_progress", "gaps": []}
            if kind == "start":  # also when another publisher restarts the response
                self.messages[id_] = new
            message = self.messages.setdefault(id_, new)
            if kind == "prompt":
                message |= {"text": data["text"], "status": "completed"}
            elif kind == "repair":
                message |= {"text": data["text"], "gaps": []}
            elif kind in ("token", "refusal"):
                message["text"] += data["text"]
            elif kind == "stop":
                message["status"] = data["status"]


class Node:
    """One process of Node for all readers with stock ably-js."""

    def __init__(self, process):
        self._process = process
        self._receivers = {}
        self._left = {}
        self._count = 0
        self._reading = asyncio.create_task(self._read())

    def join(self, target, way, receive):
        """Start a reader, and call *receive* with what it shows; return its number."""
        self._count += 1
        self._receivers[self._count] = receive
        self._send(
            join=self._count,
            way=way,
            channel=target.channel,
            token=target.token,
            url=target.url,
            options={"endpoint": target.endpoint, "port": target.port, "tls": False},
        )
        return self._count

    async def leave(self, number):
        self._left[number] = asyncio.Event()
        self._send(leave=number)
        async with asyncio.timeout(PATIENCE_S):
            await self._left[number].wait()

    def _send(self, **command):
        self._process.stdin.write(json.dumps(command).encode() + b"\n")

    async def _read(self):
        async for line in self._process.stdout:
            output = json.loads(line)
            number = output["reader"]
            if "left" in output:
                del self._receivers[number]
                self._left.pop(number).set()
            elif number in self._receivers:
                self._receivers[number](output.get("messages", []), output.get("error"))

    async def close(self):
        self._process.stdin.close()
        async with asyncio.timeout(PATIENCE_S):
            await self._process.wait()
        await self._reading


@contextlib.asynccontextmanager
async def node_running():
    """Run the process for the block."""
    process = await asyncio.create_subprocess_exec(
        *("node", str(HERE.parent / "holes" / "readers.mjs"), CLIENT.as_uri(), str(MODULES)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES,
    )
    node = Node(process)
    try:
        yield node
    finally:
        await node.close()
