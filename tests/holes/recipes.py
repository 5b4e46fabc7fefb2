"""The known recipes for hydration, as documented, with stock ably-python.

The steps of a recipe are methods, which a test calls in the order it needs. They do nothing beyond the
recipe: the rows of `docs/holes.md` show what it gets wrong. The application's database is a list of
finished messages, in the order of insertion.
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
    """A finished message in the application's database; ``at_ms``: its creation."""

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
            AblyException: Ably refuses the request.
        """
        query = {"from_serial": self.attach_serial, "direction": "backwards", **params}
        page = await self._rest.request("GET", self._path, "5", params=query)
        while True:
            if not page.success:
                raise AblyException("history is refused", page.status_code, page.error_code)
            yield [Message.from_encoded(row) for row in page.items]
            if not page.has_next():
                return
            page = await page.next()

    @property
    def attach_serial(self):
        """The attach point, a private attribute of the SDK."""
        return self.channel._RealtimeChannel__attach_serial

    async def close(self):
        await self.realtime.close()
        await self._rest.close()


class Recipe:
    """A reader that uses a recipe: its stored and its streaming messages."""

    params: dict[str, str] = {}  # noqa: RUF012 - it is never written

    def __init__(self, server, channel, database):
        self._line = Line(server, channel, **self.params)
        self._database = database
        self._came = asyncio.Event()
        self.stored = []
        self.streaming = {}
        self.error_code = None

    async def read_database(self):
        """Read the finished messages, once."""
        self.stored = list(self._database)

    async def attach(self):
        """Subscribe to live messages, and to those that the attach rewinds."""
        await self._line.channel.subscribe(self._receive)

    async def hydrate(self):
        """Take all steps, in the documented order."""
        await self.read_database()
        await self.attach()

    def apply(self, message):
        """Apply a delivered message."""
        raise NotImplementedError

    @property
    def noticed(self):
        """The error of the attach, as the SDK exposes it."""
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
        """The messages that are shown."""
        stored = [Shown(row.id, row.text, DONE) for row in self.stored]
        return [*stored, *(Shown(id_, text, STREAMING) for id_, text in self.streaming.items())]

    async def shows(self, *expected):
        """Wait until these messages are shown."""
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
        self.apply(message)
        self._came.set()


class TokenRewind(Recipe):
    """Message per token: the database's finished set, then an attach that rewinds two minutes."""

    params = {"rewind": "2m"}  # noqa: RUF012 - it is never written

    def apply(self, message):
        if message.name == "token" and response_of(message) not in self.stored_ids:
            id_ = response_of(message)
            self.streaming[id_] = self.streaming.get(id_, "") + as_text(message)


class TokenHistory(TokenRewind):
    """Message per token: the set, then an attach, then history back to a response of the set.

    The documented loop does not check names, which is a hole of its own: ``any_name``.
    """

    params = {}  # noqa: RUF012 - it is never written
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
                self.streaming[id_] = as_text(message) + self.streaming.get(id_, "")


class ResponseRewind(Recipe):
    """Message per response: the set, then an attach that rewinds two minutes."""

    params = {"rewind": "2m"}  # noqa: RUF012 - it is never written

    def apply(self, message):
        id_ = response_of(message)
        if id_ == UNDEFINED or id_ in self.stored_ids:
            return  # the recipe warns of a missing responseId, and drops it
        grown = (
            self.streaming.get(id_, "") if message.action == MessageAction.MESSAGE_APPEND else ""
        )
        self.streaming[id_] = grown + as_text(message)


class ResponseHistory(ResponseRewind):
    """Message per response: as above, with history since the newest stored response."""

    params = {}  # noqa: RUF012 - it is never written

    async def hydrate(self):
        await super().hydrate()
        self.fold(await self.fetch())

    async def fetch(self):
        """Yield pages of history as they arrive."""
        newest = max((row.at_ms for row in self.stored), default=0)
        return [page async for page in self._line.pages(start=str(newest))]

    def fold(self, pages):
        for page in pages:
            for message in page:
                self.streaming[response_of(message)] = as_text(message)


class Finalising(ResponseRewind):
    """Message per response, with a separate message that ends a response."""

    def __init__(self, *args):
        super().__init__(*args)
        self.ended = set()

    def apply(self, message):
        if message.name == "response-end":
            self.ended.add(response_of(message))
        elif response_of(message) not in self.ended:
            super().apply(message)

    @property
    def shown(self):
        return [
            each._replace(status=DONE) if each.id in self.ended else each for each in super().shown
        ]


class Seam(TokenRewind):
    """A seed from the database, and history back to one seam: the id of the seed's last message.

    Only the visible branch is shown: messages that another supersedes are left out.
    """

    params = {}  # noqa: RUF012 - it is never written

    def __init__(self, *args):
        super().__init__(*args)
        self.ended = set()
        self._superseded = set()

    async def hydrate(self):
        await super().hydrate()
        await self.read_history()

    async def read_history(self):
        """Read history back to the seam: at once, or when the reader first scrolls up."""
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

    def apply(self, message):
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
            text = as_text(message) + grown if older else grown + as_text(message)
            self.streaming = (
                {id_: text, **self.streaming} if older else {**self.streaming, id_: text}
            )

    @property
    def shown(self):
        return [
            each._replace(status=DONE) if each.id in self.ended else each for each in super().shown
        ]


class ResumingAgent:
    """An agent that answers prompts, and resumes from the timestamp of the last processed one.

    *checkpoint*: its state on disk. *work*: answers a prompt.
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
        """Process the prompts since the checkpoint, in order."""
        start = str(self._checkpoint.get("at_ms", 0))
        backlog = [each async for page in self._line.pages(start=start) for each in page]
        self.resuming.set()
        for message in reversed(backlog):
            if message.name == "user-input":
                await self._process(message)

    async def crash(self):
        """Cancel everything immediately."""
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


def as_text(message):
    """Return a message's data as JavaScript, the language of the recipes, appends it to a string."""
    if isinstance(message.data, dict):
        return "[object Object]"
    return UNDEFINED if message.data is None else message.data
