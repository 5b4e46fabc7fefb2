"""Our readers: the README's own code, by stock ably-python and stock ably-js, in all three ways;

and one who follows the service's stream of events.
"""

from __future__ import annotations

import asyncio
import contextlib
import json

import httpx
from ably import AblyRealtime

from holes.recipes import PATIENCE_S, Shown
from journeys.readers import HERE, MODULES
from journeys.snippets import javascript, python_join

WAYS = (1, 2, 3)
_LINE_BYTES = 1 << 24
TERMINAL = ("completed", "incomplete", "failed", "cancelled", "interrupted")


class Eye:
    """What one reader showed: all that was not true of it, and the last."""

    def __init__(self, name, truth):
        self.name = name
        self.renders = 0
        self.untrue = []
        self.last = {}
        self.failure = None
        self._truth = truth

    def see(self, messages):
        """Every text is a beginning of the true one, or says what it lacks; an end is whole."""
        self.renders += 1
        self.last = {m["id"]: shown(m) for m in messages}
        for each in self.last.values():
            true = self._truth.get(each.id)
            ended = each.status in TERMINAL
            exact = each.text == true if ended else (true or "").startswith(each.text)
            if true is not None and not exact and not each.gaps:
                self.untrue.append(each)


def shown(message):
    gaps = tuple((a, b) for a, b in message["gaps"])
    status = "in progress" if message["status"] == "in_progress" else message["status"]
    if message.get("exact") is False:
        status += ", not exact"
    return Shown(message["id"], message["text"], status, gaps)


class Ours:
    """Readers of one conversation who have joined, or are about to."""

    def __init__(self, target, truth, node):
        self._target = target
        self._truth = truth
        self._node = node
        self._came = asyncio.Event()
        self._tasks = []
        self._numbers = []
        self._http = httpx.AsyncClient(timeout=PATIENCE_S)
        self.eyes = []

    def join(self):
        """All of them, each in a way and by an SDK."""
        for way in WAYS:
            eye = self._eye(f"ably-python, way {way}")
            self._tasks.append(asyncio.create_task(self._python(eye, way)))
            if self._node is not None:
                eye = self._eye(f"ably-js, way {way}")
                self._numbers.append(self._node.join(self._target, way, self._receiver(eye)))
        self._tasks.append(asyncio.create_task(self._follower(self._eye("the service's stream"))))

    @property
    def asking(self):
        """How many of them ask for an answer; the last follows a stream."""
        return len(self.eyes) - 1

    async def joined(self):
        """Wait until each has shown something."""
        await self._until(lambda: all(eye.renders for eye in self.eyes))

    async def show(self, *expected, allowed=()):
        """Wait until every reader shows that, and nothing else; nobody showed what was untrue.

        *allowed*: texts that were true once.
        """
        wanted = {each.id: each for each in expected}
        await self._until(lambda: all(eye.last == wanted for eye in self.eyes))
        for eye in self.eyes:
            assert not eye.failure, f"{eye.name}: {eye.failure}"
            untrue = [each for each in eye.untrue if each.text not in allowed]
            assert not untrue, f"{eye.name} showed {untrue[0]}"
            assert eye.last == wanted, f"{eye.name} shows {list(eye.last.values())}"

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
                while not holds() and not any(eye.failure for eye in self.eyes):
                    self._came.clear()
                    await self._came.wait()

    def _eye(self, name):
        self.eyes.append(Eye(name, self._truth))
        return self.eyes[-1]

    def _receiver(self, eye):
        def receive(messages, failure=None):
            if failure is not None:
                eye.failure = failure
            else:
                eye.see(messages)
            self._came.set()

        return receive

    async def _python(self, eye, way):
        target, receive = self._target, self._receiver(eye)
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
        except Exception as error:  # noqa: BLE001 - whatever it is, the test fails by it
            receive([], repr(error))
        finally:
            await ably.close()

    async def _follower(self, eye):
        """A reader that only does what the service's stream tells."""
        receive, told = self._receiver(eye), Followed()
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
                        told.take(kind, json.loads(value))
                        receive(list(told.messages.values()))
        except Exception as error:  # noqa: BLE001 - whatever it is, the test fails by it
            receive([], repr(error))


class Followed:
    """What a reader holds who believes what the service's stream tells: nothing is dropped."""

    def __init__(self):
        self.messages = {}

    def take(self, kind, data):
        if kind == "snapshot":
            self.messages = {m["id"]: m for m in data["messages"]}
        elif kind != "again":
            id_ = data["message_id"]
            new = {"id": id_, "text": "", "status": "in_progress", "gaps": []}
            if kind == "start":  # also when another publisher begins anew
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
        """A reader more; *receive* gets what it shows. Returns its number."""
        self._count += 1
        self._receivers[self._count] = receive
        self._say(
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
        self._say(leave=number)
        async with asyncio.timeout(PATIENCE_S):
            await self._left[number].wait()

    def _say(self, **told):
        self._process.stdin.write(json.dumps(told).encode() + b"\n")

    async def _read(self):
        async for line in self._process.stdout:
            told = json.loads(line)
            number = told["reader"]
            if "left" in told:
                del self._receivers[number]
                self._left.pop(number).set()
            elif number in self._receivers:
                self._receivers[number](told.get("messages", []), told.get("error"))

    async def close(self):
        self._process.stdin.close()
        async with asyncio.timeout(PATIENCE_S):
            await self._process.wait()
        await self._reading


@contextlib.asynccontextmanager
async def node_running(folder):
    """The process, while the block runs."""
    client = folder / "client.mjs"
    client.write_text(javascript())
    process = await asyncio.create_subprocess_exec(
        *("node", str(HERE.parent / "holes" / "readers.mjs"), client.as_uri(), str(MODULES)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES,
    )
    node = Node(process)
    try:
        yield node
    finally:
        await node.close()
