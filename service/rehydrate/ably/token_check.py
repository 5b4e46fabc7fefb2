"""What tokens and keys of others may do, as Ably says: it is asked, with them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
from ably import AblyRealtime, AblyRest
from ably.types.channelmode import ChannelMode
from ably.types.channeloptions import ChannelOptions
from ably.types.connectionstate import ConnectionState
from ably.util.exceptions import AblyException

from rehydrate.ably.connecting import Connecting
from rehydrate.ably.connection import discard
from rehydrate.ably.credentials import AblyKey
from rehydrate.ably.errors import CAPABILITY, as_ours, means_unauthorized
from rehydrate.ably.history import path_of
from rehydrate.errors import ChannelRefused, ChannelUnavailable, NotConfigured, Unauthorized

if TYPE_CHECKING:
    from ably.realtime.channel import RealtimeChannel

    from rehydrate.ably.endpoint import Endpoint
    from rehydrate.ably.requests import Requests

LONGEST_TOKEN = 16_384
_BRIEF_MS = 60_000


async def admits(
    token: str, channel: str, *, requests: Requests, endpoint: Endpoint, timeout_s: float
) -> bool:
    """Whether *token* may read *channel*; see `rehydrate.ports.ChannelLog.admits`."""
    if not (token and len(token) <= LONGEST_TOKEN and token.isascii() and token.isprintable()):
        raise Unauthorized("this is no Ably token")
    try:
        await requests.get(path_of(channel), {"limit": "1"}, token=token)
    except ChannelRefused as refused:
        if refused.ably_code == CAPABILITY:
            # not its history; it may still follow it live
            return await _may_subscribe(token, channel, endpoint, timeout_s)
        raise _meaning(refused) from refused
    return True


async def _may_subscribe(token: str, channel: str, endpoint: Endpoint, timeout_s: float) -> bool:
    client = AblyRealtime(
        token=token,
        auto_connect=False,
        queue_messages=False,
        realtime_request_timeout=timeout_s * 1000,
        **endpoint.realtime_options(),
    )
    dialling = Connecting(client)
    try:
        async with asyncio.timeout(timeout_s):
            client.connect()
            options = ChannelOptions(modes=[ChannelMode.SUBSCRIBE])
            attached = client.channels.get(channel, options)
            await _attach(client, attached)
            return ChannelMode.SUBSCRIBE in attached.modes
    except TimeoutError:
        raise ChannelUnavailable(f"Ably did not answer within {timeout_s:g} s") from None
    except (AblyException, TypeError) as error:  # gap 13: it raises None when detached
        refused = as_ours(error, "attaching with the token")
        if isinstance(refused, ChannelRefused) and refused.ably_code == CAPABILITY:
            return False
        raise _meaning(refused) from error
    finally:
        dialling.close()
        await discard(client, timeout_s, abort=False)


async def _attach(client: AblyRealtime, channel: RealtimeChannel) -> None:
    """Attach, or fail with the connection: the SDK would wait for a connection that has failed."""
    attaching = asyncio.create_task(channel.attach())
    failing = asyncio.create_task(client.connection.once_async(ConnectionState.FAILED))
    try:
        await asyncio.wait((attaching, failing), return_when=asyncio.FIRST_COMPLETED)
        if client.connection.state is ConnectionState.FAILED:
            raise client.connection.error_reason
        await attaching
    finally:
        attaching.cancel()
        failing.cancel()
        await asyncio.gather(attaching, failing, return_exceptions=True)


async def key_capability(key: str, *, endpoint: Endpoint, timeout_s: float) -> dict[str, list[str]]:
    """What *key* may do; see `rehydrate.ports.ChannelLog.key_capability`.

    A token is asked for without saying what for: it is granted all that the key may do, and says
    so. The request is signed with the key, and does not contain it.
    """
    try:
        name, secret = AblyKey.parse(key)
    except NotConfigured as error:
        raise Unauthorized(str(error)) from None
    rest = AblyRest(key=f"{name}:{secret}", use_token_auth=True, **endpoint.rest_options())
    try:
        async with asyncio.timeout(timeout_s):
            details = await rest.auth.request_token({"ttl": _BRIEF_MS})
    except TimeoutError:
        raise ChannelUnavailable(f"Ably did not answer within {timeout_s:g} s") from None
    except (AblyException, httpx.HTTPError, OSError, ValueError) as error:
        raise _meaning(as_ours(error, "asking Ably about a key")) from error
    finally:
        await rest.close()
    return {pattern: list(operations) for pattern, operations in details.capability.items()}


def _meaning(error: ChannelUnavailable) -> Exception:
    if isinstance(error, ChannelRefused) and means_unauthorized(error.ably_code):
        return Unauthorized(str(error))
    return error
