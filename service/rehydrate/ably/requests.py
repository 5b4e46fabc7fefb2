"""Requests to Ably's REST API, with a time limit and retries of transient failures."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
from ably import AblyRest
from ably.util.exceptions import AblyException

from rehydrate.ably.credentials import bearer
from rehydrate.ably.errors import channel_error, error_of, is_token_refusal, is_transient
from rehydrate.background import Backoff
from rehydrate.errors import ChannelRefused, ChannelUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ably.http.paginatedresult import HttpPaginatedResponse

    from rehydrate.ably.credentials import Credentials
    from rehydrate.ably.endpoint import Endpoint

    Send = Callable[[AblyRest], Awaitable[HttpPaginatedResponse]]

PROTOCOL_VERSION = "5"
_TRIES = 4
_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 1.0

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

    async def time_ms(self) -> float:
        """Return Ably's time, ms since 1970. Sent once, without a token.

        Raises:
            ChannelUnavailable: Ably does not answer in time.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return float(await self._rest.time())
        except TimeoutError:
            raise self._timed_out() from None
        except AblyException as error:
            raise channel_error(error, "fetching Ably's time") from error

    async def close(self) -> None:
        """Close the HTTP connections permanently."""
        self._closed = True
        client, self._client = self._client, None
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
        backoff = Backoff(_FIRST_DELAY_S, _LONGEST_DELAY_S)
        failed = self._timed_out()
        try:
            async with asyncio.timeout(self._timeout_s):
                for left in reversed(range(_TRIES)):
                    try:
                        return await self._try(send, renewable=renewable)
                    except _TransientError as transient:
                        failed = transient.error
                        wait_s = max(backoff.next_s(), transient.retry_after_s)
                        if not left or wait_s > self._timeout_s:
                            break
                        await asyncio.sleep(wait_s)
        except TimeoutError:
            pass  # the last failure says more than the time limit
        raise failed

    async def _try(self, send: Send, *, renewable: bool) -> HttpPaginatedResponse:
        try:
            # half of the time, so that one stuck connection leaves time for a retry
            async with asyncio.timeout(self._timeout_s / 2):
                if self._credentials.due:
                    await self._rest.auth.authorize()
                answer = await send(self._rest)
                if renewable and not answer.success and is_token_refusal(_code_of(answer)):
                    # gap 4: the SDK does not renew the token for plain requests
                    self._credentials.invalidate_token()
                    await self._rest.auth.authorize()
                    answer = await send(self._rest)
        except TimeoutError:
            raise _TransientError(self._timed_out()) from None
        except _BROKEN as error:
            raise _TransientError(channel_error(error, "sending a request to Ably")) from error
        if not answer.success:
            raise _refusal_of(answer)
        return answer

    def _timed_out(self) -> ChannelUnavailable:
        return ChannelUnavailable(f"Ably did not answer within {self._timeout_s:g} s")


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
