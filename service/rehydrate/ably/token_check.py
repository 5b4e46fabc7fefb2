"""Capabilities of readers' tokens and configured keys, verified by asking Ably with them."""

from __future__ import annotations

import asyncio

import httpx
from ably import AblyRealtime, AblyRest
from ably.realtime.channel import RealtimeChannel
from ably.types.channelmode import ChannelMode
from ably.types.channeloptions import ChannelOptions
from ably.types.connectionstate import ConnectionState
from ably.util.exceptions import AblyException

from rehydrate.ably.connecting import Connecting
from rehydrate.ably.connection import discard
from rehydrate.ably.endpoint import Endpoint
from rehydrate.ably.errors import CAPABILITY, channel_error, is_unauthorized
from rehydrate.ably.rest import AblyKey, Requests, messages_path
from rehydrate.errors import ChannelRefused, ChannelUnavailable, NotConfigured, Unauthorized

LONGEST_TOKEN = 16_384
_BRIEF_MS = 60_000


async def admits(
    token: str, channel: str, *, requests: Requests, endpoint: Endpoint, timeout_s: float
) -> bool:
    """Return whether *token* may read *channel* (see `rehydrate.ports.ChannelLog.admits`)."""
    if not (token and len(token) <= LONGEST_TOKEN and token.isascii() and token.isprintable()):
        raise Unauthorized("not an Ably token")
    try:
        await requests.get(messages_path(channel), {"limit": "1"}, token=token)
    except ChannelRefused as refused:
        if refused.ably_code == CAPABILITY:
            # history is not allowed; subscribing may be
            return await _may_subscribe(token, channel, endpoint, timeout_s)
        raise _as_unauthorized(refused) from refused
    return True


async def _may_subscribe(token: str, channel: str, endpoint: Endpoint, timeout_s: float) -> bool:
    client = AblyRealtime(
        token=token,
        auto_connect=False,
        queue_messages=False,
        realtime_request_timeout=timeout_s * 1000,
        **endpoint.realtime_options(),
    )
    connecting = Connecting(client)
    try:
        async with asyncio.timeout(timeout_s):
            client.connect()
            options = ChannelOptions(modes=[ChannelMode.SUBSCRIBE])
            attached = client.channels.get(channel, options)
            await _attach(client, attached)
            return ChannelMode.SUBSCRIBE in attached.modes
    except TimeoutError:
        raise ChannelUnavailable(f"Ably did not answer within {timeout_s:g} s") from None
    except (AblyException, TypeError) as error:  # gap 13: raises None when detached
        refused = channel_error(error, "attaching with the token")
        if isinstance(refused, ChannelRefused) and refused.ably_code == CAPABILITY:
            return False
        raise _as_unauthorized(refused) from error
    finally:
        connecting.close()
        await discard(client, timeout_s, abort=False)


async def _attach(client: AblyRealtime, channel: RealtimeChannel) -> None:
    """Attach, or fail when the connection does: the SDK would wait for a failed connection."""
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
    """Return the capability of *key* (see `rehydrate.ports.ChannelLog.key_capability`).

    Requests a token without naming a capability: Ably grants all that the key allows, and the
    answer lists it. The request is signed with the key and does not contain it.
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
        raise _as_unauthorized(channel_error(error, "checking a key with Ably")) from error
    finally:
        await rest.close()
    return {pattern: list(operations) for pattern, operations in details.capability.items()}


def _as_unauthorized(error: ChannelUnavailable) -> Exception:
    if isinstance(error, ChannelRefused) and is_unauthorized(error.ably_code):
        return Unauthorized(str(error))
    return error
