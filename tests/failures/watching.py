"""What a reader, a publisher and an operator see of one fault, in a world of real processes."""

from __future__ import annotations

import asyncio
import json
import re
import time
from contextlib import asynccontextmanager, suppress

import httpx

from chaos.following import Follower
from rehydrate.demo.texts import tokens_of
from waiting import until

_MEAN_TOKENS = 150
"""About 6 s, so that a response streams while the fault begins."""

_RECOVERS_WITHIN_S = 100.0
_POLL_S = 0.1
_ANSWERS_WITHIN_S = 15.0
_LOGGED = ("warning", "error", "critical")
_METRICS_POLL_S = 0.5
_SAMPLE = re.compile(r"^(rehydrate_\w+)(\{.*\})? (\S+)$", re.MULTILINE)
_UNINTERESTING = re.compile(r"_(bucket|sum|count|created)\b")


class Watch:
    """Observations from before a fault until every reader shows every response.

    Attributes:
        conversation_id: the conversation of the fault.
        hydrates: what `GET /v1/conversations/{id}` answered.
        ready: what `/readyz` answered.
        outcomes: what publishers received for a response, by its name: ``completed``, or an error.
        statuses: how each response ended for readers.
        foreign: ids of responses that the test itself publishes.
        recovery_s: how long after the fault everything was right again.
    """

    def __init__(self, world, conversation_id):
        self.world = world
        self.conversation_id = conversation_id
        self.follower = Follower(world, conversation_id)
        self.hydrates, self.ready = set(), set()
        self.outcomes, self.statuses = {}, {}
        self.foreign = set()
        self.recovery_s = None
        self._awaited = set()
        self._logs = {path: path.stat().st_size for path in self._log_files()}
        self._before, self._highest = {}, {}

    def _log_files(self):
        return sorted(self.world.folder.glob("service-*.log"))

    async def open(self):
        """Note the metrics, and begin the response during which the fault occurs."""
        self._before = await self._metrics()
        await self.respond("before")
        await until(lambda: self.id_of("before") in self.follower.shown.messages)

    def id_of(self, name):
        return f"{self.conversation_id}-{name}"

    async def respond(self, name, publisher=0):
        """Have a publisher begin a response."""
        responses = {self.id_of(name): 0}
        command = {"conversation": self.conversation_id, "responses": responses}
        command |= {"ephemeral": False, "mean": _MEAN_TOKENS}
        self.world.publishers[publisher].send(command)
        self._awaited.add(name)

    def forget(self, name):
        """Do not wait for the outcome of a response, because its publisher was killed."""
        self._awaited.discard(name)

    async def poll(self):
        """Ask as readers and operators do, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.follower.run())
            for url in self.world.urls:
                group.create_task(self._poll(f"{url}/v1/conversations/{self.conversation_id}"))
                group.create_task(self._poll(f"{url}/readyz"))
            group.create_task(self._poll_metrics())

    async def _poll(self, url):
        into = self.ready if url.endswith("readyz") else self.hydrates
        while True:
            into.add(await self._asked(url))
            await asyncio.sleep(_POLL_S)

    async def _asked(self, url):
        try:
            answer = await self.world.client.get(url, timeout=_ANSWERS_WITHIN_S)
        except httpx.ConnectError:
            return "no connection"
        except httpx.HTTPError:
            return "no answer"
        body = answer.json()
        if answer.status_code != 200:
            return f"{answer.status_code} `{body['type'].rpartition(':')[2]}`"
        if "checks" in body:
            faults = sorted(name for name, state in body["checks"].items() if state != "ok")
            return f"200, a fault of `{', '.join(faults)}`" if faults else "200"
        codes = ", ".join(sorted({each["code"] for each in body["reasons"]}))
        return "200" if body["complete"] else f"200 with `{codes}`"

    async def recovered(self):
        """Wait until every publisher is done, and every reader shows the same."""
        began_s = time.monotonic()
        while (lacking := await self._lacking()) is not None:
            assert time.monotonic() < began_s + _RECOVERS_WITHIN_S, lacking
            await asyncio.sleep(_POLL_S)
        self.recovery_s = time.monotonic() - began_s

    async def _lacking(self):
        """Return what is not as it has to be at the end; None if nothing is."""
        for publisher in self.world.publishers:
            while not publisher.lines.empty():
                id_, outcome = json.loads(publisher.lines.get_nowait())
                if id_.startswith(self.conversation_id):
                    self.outcomes[self._name_of(id_)] = outcome.partition(":")[0]
        if self._awaited - self.outcomes.keys():
            return f"outcomes: {self.outcomes}"
        shown = self.follower.shown.messages
        for answer in await self.world.hydrated(self.conversation_id):
            if answer is None or not answer["messages"]:
                return f"answer: {answer}"
            for message in answer["messages"]:
                state = [message["text"], message["status"], bool(message["gaps"])]
                if message["status"] == "in_progress" or shown.get(message["id"]) != state:
                    return f"answered {state}, the stream shows {shown.get(message['id'])}"
                if message["gaps"] or message["id"] in self.foreign:
                    continue
                whole = "".join(tokens_of(message["id"], mean=_MEAN_TOKENS))
                assert whole.startswith(message["text"])
                assert message["status"] != "completed" or message["text"] == whole
                self.statuses[self._name_of(message["id"])] = message["status"]
        return None

    def _name_of(self, id_):
        return id_.removeprefix(f"{self.conversation_id}-")

    def logged(self):
        """Return the warnings and errors that the services have logged since, without variable parts."""
        found = set()
        for path in self._log_files():
            with path.open("rb") as log:
                log.seek(self._logs.get(path, 0))
                for line in log:
                    with suppress(ValueError):
                        entry = json.loads(line)
                        if entry["level"] in _LOGGED:
                            found.add(entry["message"])
        return found

    async def _metrics(self):
        """Return the counters and gauges of each service, by its URL and the sample's name."""
        found = {}
        for url in self.world.urls:
            with suppress(httpx.HTTPError):
                text = (await self.world.client.get(f"{url}/metrics", timeout=2)).text
                for name, labels, value in _SAMPLE.findall(text):
                    if not _UNINTERESTING.search(name):
                        found[url, name + labels] = float(value)
        return found

    async def _poll_metrics(self):
        while True:
            for sample, value in (await self._metrics()).items():
                self._highest[sample] = max(value, self._highest.get(sample, 0.0))
            await asyncio.sleep(_METRICS_POLL_S)

    @property
    def grown(self):
        """The samples that were higher, in some service, than before the fault."""
        higher = self._highest.items()
        return {name for (url, name), n in higher if n > self._before.get((url, name), 0.0)}


@asynccontextmanager
async def watching(world, conversation_id):
    """Watch for the length of the block, and until everything is right again afterwards."""
    watch = Watch(world, conversation_id)
    polling = asyncio.create_task(watch.poll())
    try:
        await watch.open()
        yield watch
        await watch.recovered()
    finally:
        polling.cancel()
        await asyncio.gather(polling, return_exceptions=True)
