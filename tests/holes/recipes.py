"""The known recipes for hydration, run as they are documented, by a stock ably-python.

Each has the steps of its recipe as methods, in any order that a test likes to call them in, and
nothing beyond the recipe: what it gets wrong is what a row of `docs/holes.md` is about. The
application's database is a list of finished messages, in the order in which they were inserted.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple
from urllib.parse import quote

from ably import AblyRealtime, AblyRest
from ably.types.message import Message, MessageAction
from ably.util.exceptions import AblyException

from waiting import PATIENCE_S

STREAMING, DONE = "in progress", "completed"


class Row(NamedTuple):
    """A finished message of the application's database; *at_ms*: when it was created."""

    id: str
    text: str
    at_ms: int = 0


class Shown(NamedTuple):
    """A message on a reader's screen."""

    id: str
    text: str
    status: str
    gaps: tuple[tuple[int, int], ...] = ()


class Line:
    """A stock ably-python on one channel: its realtime half, and its REST half."""

    def __init__(self, server, channel, **params):
        self._path = f"/channels/{quote(channel, safe='')}/messages"
        where = {"key": server.key, "tls": False}
        self.realtime = AblyRealtime(endpoint=f"127.0.0.1:{server.port}", **where)
        self._rest = AblyRest(endpoint="127.0.0.1", port=server.port, use_token_auth=True, **where)
        self.channel = self.realtime.channels.get(channel, params=params or None)

    async def pages(self, **params):
        """History up to the attach point, the newest page first.

        Raises:
            AblyException: it is refused, as the SDK says it.
        """
        asked = {"from_serial": self.attach_serial, "direction": "backwards", **params}
        page = await self._rest.request("GET", self._path, "5", params=asked)
        while True:
            if not page.success:
                raise AblyException("history is refused", page.status_code, page.error_code)
            yield [Message.from_encoded(row) for row in page.items]
            if not page.has_next():
                return
            page = await page.next()

    @property
    def attach_serial(self):
        """The attach point, which the SDK keeps to itself."""
        return self.channel._RealtimeChannel__attach_serial

    async def close(self):
        await self.realtime.close()
        await self._rest.close()


class Recipe:
    """What a reader holds who follows a recipe: what is stored, and what is being streamed."""

    params: dict[str, str] = {}  # noqa: RUF012 - nobody writes to it

    def __init__(self, server, channel, database):
        self._line = Line(server, channel, **self.params)
        self._database = database
        self._came = asyncio.Event()
        self.stored = []
        self.streaming = {}
        self.error_code = None

    async def read_database(self):
        """Take the finished messages, once."""
        self.stored = list(self._database)

    async def attach(self):
        """Subscribe to what is live, and to what the attach rewinds."""
        await self._line.channel.subscribe(self._receive)

    async def hydrate(self):
        """All steps, in the documented order."""
        await self.read_database()
        await self.attach()

    def take(self, message):
        """A message that was delivered."""
        raise NotImplementedError

    @property
    def noticed(self):
        """The error that the SDK shows of the attach."""
        return self._line.channel.error_reason

    @property
    def attach_serial(self):
        """The attach point."""
        return self._line.attach_serial

    @property
    def stored_ids(self):
        return {row.id for row in self.stored}

    @property
    def shown(self):
        """What is on the screen."""
        stored = [Shown(row.id, row.text, DONE) for row in self.stored]
        return [*stored, *(Shown(id_, text, STREAMING) for id_, text in self.streaming.items())]

    async def shows(self, *expected):
        """Wait until that is on the screen."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while self.shown != list(expected):
                    self._came.clear()
                    await self._came.wait()
        except TimeoutError:
            raise AssertionError(f"it shows {self.shown}") from None

    async def close(self):
        await self._line.close()

    def _receive(self, message):
        self.take(message)
        self._came.set()


class TokenRewind(Recipe):
    """Message per token: the database's set, then an attach that rewinds two minutes."""

    params = {"rewind": "2m"}  # noqa: RUF012 - nobody writes to it

    def take(self, message):
        if message.name == "token" and response_of(message) not in self.stored_ids:
            id_ = response_of(message)
            self.streaming[id_] = self.streaming.get(id_, "") + said(message)


class TokenHistory(TokenRewind):
    """Message per token: the set, then an attach, then history back to a response of the set.

    The documented loop looks at no names: that is a hole of its own, *any_name*.
    """

    params = {}  # noqa: RUF012 - nobody writes to it
    any_name = False

    async def hydrate(self):
        await super().hydrate()
        await self.read_history()

    async def read_history(self):
        async for page in self._line.pages():
            for message in page:
                if message.name != "token" and not self.any_name:
                    continue
                id_ = response_of(message)
                if id_ in self.stored_ids:
                    return
                self.streaming[id_] = said(message) + self.streaming.get(id_, "")


class ResponseRewind(Recipe):
    """Message per response: the set, then an attach that rewinds two minutes."""

    params = {"rewind": "2m"}  # noqa: RUF012 - nobody writes to it

    def take(self, message):
        id_ = response_of(message)
        if id_ == UNDEFINED or id_ in self.stored_ids:
            return  # "missing responseId" is warned of, and left
        grown = (
            self.streaming.get(id_, "") if message.action == MessageAction.MESSAGE_APPEND else ""
        )
        self.streaming[id_] = grown + said(message)


class ResponseHistory(ResponseRewind):
    """Message per response: as above, with history since the newest stored response."""

    params = {}  # noqa: RUF012 - nobody writes to it

    async def hydrate(self):
        await super().hydrate()
        self.fold(await self.fetch())

    async def fetch(self):
        """Pages of history as they come from the network."""
        newest = max((row.at_ms for row in self.stored), default=0)
        return [page async for page in self._line.pages(start=str(newest))]

    def fold(self, pages):
        for page in pages:
            for message in page:
                self.streaming[response_of(message)] = said(message)


class Finalising(ResponseRewind):
    """Message per response, where a message of its own says that a response has ended."""

    def __init__(self, *args):
        super().__init__(*args)
        self.ended = set()

    def take(self, message):
        if message.name == "response-end":
            self.ended.add(response_of(message))
        elif response_of(message) not in self.ended:
            super().take(message)

    @property
    def shown(self):
        return [
            each._replace(status=DONE) if each.id in self.ended else each for each in super().shown
        ]


class Seam(TokenRewind):
    """A seed from the database, and history down to one seam: the id of the seed's last message.

    History shows the branch that is visible: what another message supersedes is not on it.
    """

    params = {}  # noqa: RUF012 - nobody writes to it

    def __init__(self, *args):
        super().__init__(*args)
        self.ended = set()
        self._superseded = set()

    async def hydrate(self):
        await super().hydrate()
        await self.read_history()

    async def read_history(self):
        """Walk back, when the reader first scrolls up or at once."""
        seam = self.stored[-1].id if self.stored else None
        try:
            async for page in self._line.pages():
                for message in page:
                    if response_of(message) in self._superseded:
                        continue
                    if response_of(message) == seam:
                        return
                    self._fold(message, older=True)
        except AblyException as error:
            self.error_code = error.code

    def take(self, message):
        self._fold(message, older=False)

    def _fold(self, message, *, older):
        id_ = response_of(message)
        self._superseded.add(headers_of(message).get("supersedes"))
        if message.name == "stop" or (message.version.metadata or {}).get("phase") == "done":
            self.ended.add(id_)
        if message.name in ("token", "response", None):
            grown = self.streaming.pop(id_, "") if older else self.streaming.get(id_, "")
            if message.action == MessageAction.MESSAGE_UPDATE:
                grown = ""
            text = said(message) + grown if older else grown + said(message)
            self.streaming = (
                {id_: text, **self.streaming} if older else {**self.streaming, id_: text}
            )

    @property
    def shown(self):
        return [
            each._replace(status=DONE) if each.id in self.ended else each for each in super().shown
        ]


class ResumingAgent:
    """An agent that answers prompts, and resumes from the timestamp of the last it has processed.

    *checkpoint* is what it keeps on disk; *work* answers a prompt.
    """

    def __init__(self, server, channel, checkpoint, work):
        self._line = Line(server, channel)
        self._checkpoint = checkpoint
        self._work = work
        self._tasks = []
        self.resuming = asyncio.Event()

    async def start(self):
        await self._line.channel.subscribe("user-input", self._receive)

    async def resume(self):
        """Process what was sent since the checkpoint, in its order."""
        start = str(self._checkpoint.get("at_ms", 0))
        backlog = [each async for page in self._line.pages(start=start) for each in page]
        self.resuming.set()
        for message in reversed(backlog):
            if message.name == "user-input":
                await self._process(message)

    async def crash(self):
        """All ends at once, whatever was under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._line.close()

    def spawn(self, coroutine):
        self._tasks.append(asyncio.create_task(coroutine))
        return self._tasks[-1]

    def _receive(self, message):
        self.spawn(self._process(message))

    async def _process(self, message):
        await self._work(message.data["promptId"])
        self._checkpoint["at_ms"] = max(self._checkpoint.get("at_ms", 0), message.timestamp)


UNDEFINED = "undefined"


def headers_of(message):
    return (message.extras or {}).get("headers") or {}


def response_of(message):
    return headers_of(message).get("responseId", UNDEFINED)


def said(message):
    """What a message adds to a string, as JavaScript has it: the recipes are written in that."""
    if isinstance(message.data, dict):
        return "[object Object]"
    return UNDEFINED if message.data is None else message.data
