"""A publisher of message-per-response: a channel message that it creates and appends to."""

from __future__ import annotations

from contextlib import asynccontextmanager

from ably import AblyRest
from ably.types.message import Message
from ably.types.operations import MessageOperation

DONE = MessageOperation(metadata={"phase": "done"})


@asynccontextmanager
async def appender_to(server, channel):
    """A stock ably-python that appends to messages of *channel*."""
    rest = AblyRest(
        key=server.key, endpoint="127.0.0.1", port=server.port, tls=False, use_token_auth=True
    )
    try:
        yield Appender(rest.channels.get(channel))
    finally:
        await rest.close()


class Appender:
    """Publishes responses that grow, step by step."""

    def __init__(self, channel):
        self.channel = channel

    async def create(self, rid, text="", *, name="response"):
        """Begin a response; the serial of its channel message."""
        said = Message(name=name, data=text, extras=_extras(rid))
        return (await self.channel.publish(said)).serials[0]

    async def append(self, serial, text, *, rid=None, operation=None):
        """Append *text*; the serial of the version."""
        said = Message(serial=serial, data=text, extras=_extras(rid))
        return (await self.channel.append_message(said, operation)).version_serial

    async def update(self, serial, text, *, rid=None):
        """Replace the text; the serial of the version."""
        said = Message(serial=serial, data=text, extras=_extras(rid), name="response")
        return (await self.channel.update_message(said)).version_serial

    async def end(self, rid):
        await self.channel.publish(Message(name="response-end", extras=_extras(rid)))

    async def respond(self, rid, text, *, end=True):
        """A whole response, a character an append."""
        serial = await self.create(rid)
        for letter in text:
            await self.append(serial, letter, rid=rid)
        if end:
            await self.end(rid)
        return serial


def _extras(rid):
    return None if rid is None else {"headers": {"responseId": rid}}
