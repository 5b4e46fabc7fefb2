"""Requests to Ably's REST API: each ends in time, and is tried again where that can help."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
from ably import AblyRest
from ably.util.exceptions import AblyException

from rehydrate.ably.backoff import Backoff
from rehydrate.ably.credentials import bearer
from rehydrate.ably.errors import as_ours, error_of, is_token_refusal, may_pass
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
"""No answer, or none that the SDK could read: it raises what it stumbled upon (gap 16)."""


class Requests:
    """Sends requests with our own token, or with one that a reader has shown.

    Args:
        credentials: makes our tokens.
        endpoint: where Ably is.
        timeout_s: how long one request may take, with all its tries (gap 16: the SDK's own
            limits are per phase, and its ``timeout`` arguments are ignored).
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
        """Answer to a GET; raw rows in its ``items``.

        Raises:
            ChannelUnavailable: Ably does not answer in time.
            ChannelRefused: Ably says no.
        """
        shown = bearer(token) if token is not None else None
        return await self._send(
            lambda rest: rest.request("GET", path, PROTOCOL_VERSION, dict(params), headers=shown),
            renewable=token is None,
        )

    async def next(self, page: HttpPaginatedResponse) -> HttpPaginatedResponse:
        """The page after *page*; raises as `get` does."""
        return await self._send(lambda _: page.next(), renewable=True)

    async def time_ms(self) -> float:
        """Ably's time, ms since 1970; asked once, without a token.

        Raises:
            ChannelUnavailable: Ably does not answer in time.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return float(await self._rest.time())
        except TimeoutError:
            raise self._late() from None
        except AblyException as error:
            raise as_ours(error, "asking Ably for its time") from error

    async def close(self) -> None:
        """Close the connections, for good."""
        self._closed = True
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    @property
    def _rest(self) -> AblyRest:
        if self._closed:
            raise ChannelUnavailable("the channel is closed")
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
        failed = self._late()
        try:
            async with asyncio.timeout(self._timeout_s):
                for left in reversed(range(_TRIES)):
                    try:
                        return await self._try(send, renewable=renewable)
                    except _PassingError as passing:
                        failed = passing.meaning
                        wait_s = max(backoff.next_s(), passing.after_s)
                        if not left or wait_s > self._timeout_s:
                            break
                        await asyncio.sleep(wait_s)
        except TimeoutError:
            pass  # what failed last says more
        raise failed

    async def _try(self, send: Send, *, renewable: bool) -> HttpPaginatedResponse:
        try:
            # half of the time, so that one stuck connection does not use up all of it
            async with asyncio.timeout(self._timeout_s / 2):
                if self._credentials.due:
                    await self._rest.auth.authorize()
                answer = await send(self._rest)
                if renewable and not answer.success and is_token_refusal(_code_of(answer)):
                    # gap 4: the SDK does not renew the token of such requests itself
                    self._credentials.doubt()
                    await self._rest.auth.authorize()
                    answer = await send(self._rest)
        except TimeoutError:
            raise _PassingError(self._late()) from None
        except _BROKEN as error:
            raise _PassingError(as_ours(error, "asking Ably")) from error
        if not answer.success:
            raise _refusal_of(answer)
        return answer

    def _late(self) -> ChannelUnavailable:
        return ChannelUnavailable(f"Ably did not answer within {self._timeout_s:g} s")


class _PassingError(Exception):
    """A failure that may pass: what it means in the end, and how long the answer asks to wait."""

    def __init__(self, meaning: ChannelUnavailable, after_s: int = 0) -> None:
        super().__init__(str(meaning))
        self.meaning = meaning
        self.after_s = after_s


def _code_of(answer: HttpPaginatedResponse) -> int:
    return error_of(answer.items, answer.error_code)[0]


def _refusal_of(answer: HttpPaginatedResponse) -> Exception:
    code, message = error_of(answer.items, answer.error_code)
    detail = f"Ably answered {answer.status_code}: {message} ({code})"
    if not may_pass(answer.status_code):
        return ChannelRefused(code or answer.status_code * 100, detail)
    meaning = ChannelUnavailable(detail)
    wanted: str = answer.response.headers.get("Retry-After", "")
    if not (wanted.isascii() and wanted.isdigit()):
        return _PassingError(meaning)
    meaning.retry_after_s = int(wanted)
    return _PassingError(meaning, int(wanted))
