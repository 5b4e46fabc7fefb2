"""Opaque tokens: only Ably knows whether it accepts them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack

from rehydrate.errors import ChannelUnavailable, Unauthorized
from rehydrate.limits import ConcurrencyLimit, TtlCache, digest

Admits = Callable[[str, str], Awaitable[bool]]
"""Return whether Ably lets a token read a channel; may raise `Unauthorized` or `ChannelUnavailable`."""

CHECK_TIMEOUT_S = 15.0


class TokenChecks:
    """Checks opaque tokens with Ably. Concurrent checks of one token share a request.

    Args:
        admits: performs the check.
        accepted_s: seconds for which an acceptance is cached.
        refused_s: seconds for which a refusal is cached; short, since a capability may be widened.
        at_once: maximum number of concurrent checks, so that invalid tokens cannot flood Ably. One
            address may use a quarter of them, since anyone can make up a token of the right form.
        capacity: maximum number of cached results.
        clock: any monotonic clock, in seconds.
    """

    def __init__(
        self,
        admits: Admits,
        *,
        accepted_s: float = 60.0,
        refused_s: float = 5.0,
        at_once: int = 32,
        capacity: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._admits = admits
        self._accepted_s, self._refused_s = accepted_s, refused_s
        self._limit = ConcurrencyLimit(
            at_once, "token checks", share=max(1, at_once // 4), owner="address"
        )
        self._clock = clock
        self._verdicts: TtlCache[bool | Unauthorized] = TtlCache(capacity, clock)
        self._pending: dict[bytes, asyncio.Task[bool | Unauthorized]] = {}

    async def close(self) -> None:
        """Cancel pending checks."""
        tasks = list(self._pending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def admitted(self, token: str, channel: str, peer: str | None = None) -> bool:
        """Return whether *token* may read *channel*.

        Args:
            token: the token.
            channel: the channel.
            peer: the address of the client that sent the token; None: it was accepted before.

        Raises:
            Unauthorized: Ably rejects the token.
            ChannelUnavailable: Ably does not answer in time.
            TooMany: too many checks are pending.
        """
        key = digest(token, channel)
        verdict = self._verdicts.get(key)
        if verdict is None:
            task = self._pending.get(key) or self._start(key, token, channel, peer)
            await asyncio.wait({task})  # awaiting the task itself would cancel it for other waiters
            if task.cancelled():
                raise ChannelUnavailable("the service is closing")
            verdict = task.result()
        if isinstance(verdict, Unauthorized):
            raise Unauthorized(str(verdict))
        return verdict

    def _start(
        self, key: bytes, token: str, channel: str, peer: str | None
    ) -> asyncio.Task[bool | Unauthorized]:
        with ExitStack() as stack:
            stack.enter_context(self._limit.of(peer))
            task = asyncio.create_task(self._check(key, token, channel), name="token check")
            self._pending[key] = task
            stack.callback(self._pending.pop, key)
            entered = stack.pop_all()
        task.add_done_callback(lambda _: entered.close())
        return task

    async def _check(self, key: bytes, token: str, channel: str) -> bool | Unauthorized:
        verdict: bool | Unauthorized
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                verdict = await self._admits(token, channel)
        except Unauthorized:
            verdict = Unauthorized("Ably rejected the token: it is expired, revoked or malformed")
        except TimeoutError as error:
            raise ChannelUnavailable("Ably did not check the token in time") from error
        cached_s = self._accepted_s if verdict is True else self._refused_s
        self._verdicts.put(key, verdict, self._clock() + cached_s)
        return verdict
