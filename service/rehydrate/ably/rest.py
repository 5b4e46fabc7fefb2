"""Ably's REST API: requests with the service's own tokens, and channel history page by page.

A request has one time limit, and transient failures are retried. The key itself is never sent: REST
and realtime both present an Ably JWT that is signed here, since ably-python refuses to send a key
over http (gap 2), and sends it unencrypted over ws.

History rows are decoded here rather than by the SDK, which creates eight objects per row: reading
thousands of rows dominates a cold hydrate.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import time
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import quote

import httpx
import jwt
from ably import AblyRest
from ably.types.tokendetails import TokenDetails
from ably.util.exceptions import AblyException

from rehydrate.ably.errors import (
    POSITION_REFUSED,
    channel_error,
    error_of,
    is_token_refusal,
    is_transient,
)
from rehydrate.background import jittered
from rehydrate.core.event import UNDECODED, ChannelMessage
from rehydrate.errors import ChannelRefused, ChannelUnavailable, NotConfigured

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping

    from ably.http.paginatedresult import HttpPaginatedResponse
    from ably.types.message import Message

    from rehydrate.ably.endpoint import Endpoint

    Send = Callable[[AblyRest], Awaitable[HttpPaginatedResponse]]


PROTOCOL_VERSION = "5"
_AT_ONCE = 64
"""Requests under way at a time, fewer than the 100 connections of the SDK's HTTP client: the client
leaks the connection of a request that is cancelled while it waits for one, until none is left."""
_GIVE_UP_CLIENT_AFTER = 20
_DELAYS_S = (0.075, 0.15, 0.3, None)
"""How long after each try the next one begins, before jitter; None: there is no next one."""

_BROKEN = (httpx.HTTPError, OSError, ValueError, KeyError, AblyException)
"""Raised by the SDK for a missing or unreadable answer; it does not wrap them (gap 16)."""


class Requests:
    """Sends requests with the service's own token, or with a token presented by a reader.

    Args:
        credentials: signs the service's tokens.
        endpoint: Ably's address.
        timeout_s: time limit for one request including its retries (gap 16: the SDK's own
            limits are per phase, and it ignores its ``timeout`` arguments).
    """

    def __init__(self, credentials: Credentials, endpoint: Endpoint, timeout_s: float) -> None:
        self._credentials = credentials
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._client: AblyRest | None = None
        self._closed = False
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._retired: AblyRest | None = None
        self._unanswered = 0
        self._silent_since_s: float | None = None

    async def get(
        self, path: str, params: Mapping[str, str], *, token: str | None = None
    ) -> HttpPaginatedResponse:
        """Return the answer to a GET, with raw rows in its ``items``.

        Raises:
            ChannelUnavailable: Ably does not answer in time.
            ChannelRefused: Ably refuses the request.
        """
        headers = bearer(token) if token is not None else None
        return await self._send(
            lambda rest: rest.request("GET", path, PROTOCOL_VERSION, dict(params), headers=headers),
            renewable=token is None,
        )

    async def next(self, page: HttpPaginatedResponse) -> HttpPaginatedResponse:
        """Return the page after *page*. Raises what `get` raises."""
        return await self._send(lambda _: page.next(), renewable=True)

    async def history(
        self,
        channel: str,
        *,
        since_ms: int | None = None,
        until: str | None = None,
        forwards: bool = False,
        limit: int = 1000,
    ) -> AsyncGenerator[list[ChannelMessage]]:
        """Yield pages of history, each oldest first (see `rehydrate.ports.ChannelLog.history`).

        Forwards, or where *until* is refused, pages reach the newest message.
        """
        params = {"limit": str(limit), "direction": "forwards" if forwards else "backwards"}
        if since_ms is not None:
            params["start"] = str(since_ms)
        if (
            until is not None and not forwards
        ):  # RTL10b: an attach point only bounds a backwards read
            params["from_serial"] = until
        page: HttpPaginatedResponse | None = None
        while True:
            try:
                page = await (self.next(page) if page else self.get(messages_path(channel), params))
            except ChannelRefused as refused:
                if refused.ably_code not in POSITION_REFUSED or "from_serial" not in params:
                    raise
                # The attach point has expired, perhaps during the read: continue without it from here.
                del params["from_serial"]
                page = None
                continue
            messages = _messages(page)
            if messages and not forwards:
                messages.reverse()
                params["end"] = str(messages[0].timestamp_ms)
            if messages:
                yield messages
            if not page.has_next():
                return

    async def time_ms(self) -> float:
        """Return Ably's time, ms since 1970. Sent once, without a token.

        Raises:
            ChannelUnavailable: Ably does not answer in time.
        """
        try:
            async with asyncio.timeout(self._timeout_s), self._places:
                answer = float(await self._rest.time())
        except TimeoutError:
            raise self._timed_out() from None
        except AblyException as error:
            raise channel_error(error, "fetching Ably's time") from error
        self._answered()
        return answer

    @property
    def silent_s(self) -> float:
        """For how long requests have been without an answer, in seconds; 0 if the last one had one."""
        since_s = self._silent_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    async def close(self) -> None:
        """Close the HTTP connections permanently."""
        self._closed = True
        clients, self._client, self._retired = (self._client, self._retired), None, None
        for client in clients:
            if client is not None:
                await client.close()

    @property
    def _rest(self) -> AblyRest:
        if self._closed:
            raise ChannelUnavailable("the Ably channel log is closed")
        if self._client is None:
            self._client = AblyRest(
                auth_callback=self._credentials.details,
                http_open_timeout=self._timeout_s,
                http_request_timeout=self._timeout_s,
                **self._endpoint.rest_options(),
            )
        return self._client

    async def _send(self, send: Send, *, renewable: bool) -> HttpPaginatedResponse:
        failed = self._timed_out()
        try:
            async with asyncio.timeout(self._timeout_s):
                for delay_s in _DELAYS_S:
                    try:
                        return await self._try(send, renewable=renewable)
                    except _TransientError as transient:
                        failed = transient.error
                        if delay_s is None or transient.retry_after_s > self._timeout_s:
                            break
                        wait_s = max(jittered(delay_s), transient.retry_after_s)
                        await asyncio.sleep(wait_s)
        except TimeoutError:
            pass  # the last failure is more informative than the time limit
        raise failed

    async def _try(self, send: Send, *, renewable: bool) -> HttpPaginatedResponse:
        client: AblyRest | None = None
        try:
            # half of the time, so that one stuck connection leaves time for a retry
            async with asyncio.timeout(self._timeout_s / 2):
                async with self._places:
                    client = self._rest
                    return await self._answer(send, renewable=renewable)
        except TimeoutError:
            await self._no_answer(client)
            raise _TransientError(self._timed_out()) from None
        except _BROKEN as error:
            raise _TransientError(channel_error(error, "sending a request to Ably")) from error

    async def _answer(self, send: Send, *, renewable: bool) -> HttpPaginatedResponse:
        if self._credentials.due:
            await self._rest.auth.authorize()
        answer = await send(self._rest)
        self._answered()
        if renewable and not answer.success and is_token_refusal(_code_of(answer)):
            # gap 4: the SDK does not renew the token for plain requests
            self._credentials.invalidate_token()
            await self._rest.auth.authorize()
            answer = await send(self._rest)
        if not answer.success:
            raise _refusal_of(answer)
        return answer

    def _answered(self) -> None:
        self._unanswered, self._silent_since_s = 0, None

    async def _no_answer(self, client: AblyRest | None) -> None:
        """Count a request without an answer; after many in a row, start over with a new client.

        Whatever state the client's connections are in, the requests after an outage do not depend
        on it. Requests still under way keep the retired client until the next one is retired.
        """
        if self._silent_since_s is None:
            self._silent_since_s = time.monotonic()
        if client is None or client is not self._client:
            return
        self._unanswered += 1
        if self._unanswered >= _GIVE_UP_CLIENT_AFTER:
            self._unanswered = 0
            retired, self._retired, self._client = self._retired, self._client, None
            if retired is not None:
                await retired.close()

    def _timed_out(self) -> ChannelUnavailable:
        silent = f", and no request for {self.silent_s:.0f} s" if self.silent_s >= 1 else ""
        return ChannelUnavailable(f"Ably did not answer within {self._timeout_s:g} s{silent}")


class _TransientError(Exception):
    """A failure worth retrying: the error if retries run out, and the answer's Retry-After (s)."""

    def __init__(self, error: ChannelUnavailable, retry_after_s: int = 0) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after_s = retry_after_s


def _code_of(answer: HttpPaginatedResponse) -> int:
    return error_of(answer.items, answer.error_code)[0]


def _refusal_of(answer: HttpPaginatedResponse) -> Exception:
    code, message = error_of(answer.items, answer.error_code)
    detail = f"Ably answered {answer.status_code}: {message} ({code})"
    if not is_transient(answer.status_code):
        return ChannelRefused(code or answer.status_code * 100, detail)
    error = ChannelUnavailable(detail)
    retry_after: str = answer.response.headers.get("Retry-After", "")
    if not (retry_after.isascii() and retry_after.isdigit()):
        return _TransientError(error)
    error.retry_after_s = int(retry_after)
    return _TransientError(error, int(retry_after))


def messages_path(channel: str) -> str:
    """Return the REST path of the messages of *channel*, whose name may contain slashes."""
    return f"/channels/{quote(channel, safe='')}/messages"


def _messages(page: HttpPaginatedResponse) -> list[ChannelMessage]:
    try:
        return from_rows(page.items)
    except (AttributeError, TypeError) as error:
        raise ChannelUnavailable("Ably's answer is not a page of history") from error


def from_rows(rows: Iterable[dict[str, Any]]) -> list[ChannelMessage]:
    """Return the messages of a page of history, in the order of *rows*."""
    return [_from_row(row) for row in rows]


def _from_row(row: dict[str, Any]) -> ChannelMessage:
    get = row.get
    data, encoding, serial = get("data"), get("encoding"), get("serial")
    if encoding:
        data = decoded(data, encoding)
    version = get("version")
    # a third faster than the constructor, which processes keyword arguments
    return tuple.__new__(
        ChannelMessage,
        (
            get("name"),
            data,
            get("id"),
            serial,
            get("timestamp") or 0,
            get("clientId"),
            get("extras"),
            get("action") or 0,
            (version.get("serial") or serial) if version else serial,  # TM2s1
            version.get("metadata") if version else None,
        ),
    )


def from_live(message: Message) -> ChannelMessage:
    """Convert a message that the SDK has decoded."""
    data, version = message.data, message.version
    return ChannelMessage(
        message.name,
        bytes(data) if isinstance(data, bytearray) else data,
        message.id,
        message.serial,
        message.timestamp or 0,
        message.client_id,
        message.extras,
        int(message.action or 0),
        (version.serial if version else None) or message.serial,
        version.metadata if version else None,
    )


def decoded(data: Any, encoding: str) -> Any:
    """Undo *encoding*, last step first (RSL6).

    If a step is unknown (for example encryption) or fails, the data is `UNDECODED`, so that it is
    never mistaken for text.
    """
    steps = encoding.split("/")
    while steps and data is not None:
        step = steps.pop()
        try:
            if step == "json":
                data = json.loads(data) if isinstance(data, (str, bytes)) else data
            elif step == "utf-8":
                data = data.decode() if isinstance(data, bytes) else data
            elif step == "base64":
                data = base64.b64decode(data, validate=True)
            elif step:
                return UNDECODED
        except (ValueError, TypeError, RecursionError, binascii.Error):
            return UNDECODED
    return data


TOKEN_LIFETIME_S = 3600
_RENEW_AFTER = 0.75
_EVERYTHING = '{"[*]*":["*"]}'
"""Ably grants the intersection of this and the key's own capability: all the key allows."""


class AblyKey(NamedTuple):
    """An API key: ``appId.keyId`` (public) and its secret."""

    name: str
    secret: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``appId.keyId:secret``.

        Raises:
            NotConfigured: the syntax is different. The error omits the text, which may hold a secret.
        """
        name, _, secret = text.strip().partition(":")
        app_id, _, key_id = name.partition(".")
        if not (app_id and key_id and secret) or ":" in secret or "/" in name:
            raise NotConfigured(
                "invalid Ably API key: ABLY_API_KEY must have the form appId.keyId:secret"
            )
        return cls(name, secret)

    def __repr__(self) -> str:
        return f"Key({self.name})"


class Credentials:
    """Signs the service's own tokens with *key*.

    Args:
        key: the API key.
        client_id: the clientId in the tokens; None allows any clientId per message.
        server_ms: fetches Ably's time, ms since 1970.
        now_s: this machine's wall clock, seconds since 1970.
    """

    def __init__(
        self,
        key: AblyKey,
        client_id: str | None,
        server_ms: Callable[[], Awaitable[float]],
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._key = key
        self._client_id = client_id or "*"
        self._server_ms = server_ms
        self._now_s = now_s
        self._ahead_s = 0.0
        self._clock_unverified = False
        self._renew_at_s = 0.0

    @property
    def due(self) -> bool:
        """True if there is no token yet, or the last one is old enough to be replaced."""
        return self._now_s() >= self._renew_at_s

    async def details(self, _params: object = None) -> TokenDetails:
        """Return a new token, in the form that the SDK expects from an ``auth_callback``.

        Raises:
            ChannelUnavailable: the last token was refused, and Ably's time cannot be fetched.
        """
        if self._clock_unverified:
            self._ahead_s = await self._server_ms() / 1000 - self._now_s()
            self._clock_unverified = False
        issued_s = int(self._now_s() + self._ahead_s)
        claims = {
            "iat": issued_s,
            "exp": issued_s + TOKEN_LIFETIME_S,
            "x-ably-capability": _EVERYTHING,
            "x-ably-clientId": self._client_id,
        }
        with warnings.catch_warnings():
            # older Ably secrets are shorter than PyJWT recommends, and still valid
            warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)
            token = jwt.encode(claims, self._key.secret, "HS256", headers={"kid": self._key.name})
        self._renew_at_s = self._now_s() + TOKEN_LIFETIME_S * _RENEW_AFTER
        return TokenDetails(
            token=token,
            issued=issued_s * 1000,
            expires=(issued_s + TOKEN_LIFETIME_S) * 1000,
            client_id=self._client_id,
        )

    def invalidate_token(self) -> None:
        """Sign the next token by Ably's clock: one was refused, so this machine's may be wrong."""
        self._clock_unverified = True


def bearer(token: str) -> dict[str, str]:
    """Return the Authorization header for *token*, in base64 as the SDK sends it (RSA3d).

    Raises:
        UnicodeEncodeError: *token* contains a lone surrogate.
    """
    return {"Authorization": f"Bearer {base64.b64encode(token.encode()).decode()}"}
