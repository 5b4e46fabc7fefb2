"""What only Ably can tell: what a key may do, and whether an opaque token opens a channel."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping

from rehydrate.api.auth.tokens import digest, key_name
from rehydrate.api.problems import TooMany
from rehydrate.api.ttl_cache import TtlCache
from rehydrate.core.capability import Capability
from rehydrate.errors import ChannelUnavailable, Unauthorized

_log = logging.getLogger(__name__)

KeyCapability = Callable[[str], Awaitable[Mapping[str, list[str]]]]
"""What a key may do, as Ably says; may raise `Unauthorized`, `ChannelUnavailable`."""

Admits = Callable[[str, str], Awaitable[bool]]
"""Whether Ably lets a token's bearer read a channel; may raise the same."""

ASK_TIMEOUT_S = 15.0


class KeyCapabilities:
    """What each key may do, asked again every few minutes, beside the requests.

    Args:
        keys: Ably keys, ``appId.keyId:secret``.
        ask: asks Ably.
        fresh_s: how long an answer is taken for current. While Ably is away the last one holds.
        retry_s: when to ask again after a failure.
        patience_s: how long a request waits for the first answer.
        clock: any clock, in seconds.
    """

    def __init__(
        self,
        keys: Collection[str],
        ask: KeyCapability,
        *,
        fresh_s: float = 300.0,
        retry_s: float = 10.0,
        patience_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._fresh_s, self._retry_s, self._patience_s = fresh_s, retry_s, patience_s
        self._clock = clock
        self._known = {key_name(key): _Known(key) for key in keys}

    def open(self) -> None:
        """Begin to ask, so that the first request finds an answer."""
        for known in self._known.values():
            self._refresh(known)

    async def close(self) -> None:
        """Stop asking."""
        tasks = [known.task for known in self._known.values() if known.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def of(self, name: str, *, needed: bool) -> Capability | None:
        """What the key *name* may do; None while Ably was never there to say it.

        *needed*: nothing else can decide, so wait for an attempt that is under way.

        Raises:
            Unauthorized: Ably does not know the key (any more).
        """
        known = self._known[name]
        self._refresh(known)
        if known.task is not None and known.capability is None and (needed or not known.asked):
            await asyncio.wait({known.task}, timeout=self._patience_s)
        if known.revoked:
            raise Unauthorized("the key that signed the token is not known to Ably")
        return known.capability

    def _refresh(self, known: _Known) -> None:
        if known.task is None and self._clock() >= known.due_s:
            known.task = asyncio.create_task(self._learn(known), name="key capability")

    async def _learn(self, known: _Known) -> None:
        wait_s = self._retry_s
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                known.capability = Capability.of(dict(await self._ask(known.key)))
            known.revoked, wait_s = False, self._fresh_s
        except Unauthorized:
            known.capability, known.revoked = None, True
            _log.warning("Ably does not know the key %s", key_name(known.key))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is asked again, and told
            _log.warning("could not ask what a key may do: %s", type(error).__name__)
        finally:
            known.asked, known.task = True, None
            known.due_s = self._clock() + wait_s * random.uniform(0.8, 1.2)  # noqa: S311 - jitter


class _Known:
    """What is known of one key. ``asked``: at least once, with whatever result."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.capability: Capability | None = None
        self.revoked = False
        self.asked = False
        self.due_s = float("-inf")
        self.task: asyncio.Task[None] | None = None


class TokenChecks:
    """Whether an opaque token opens a channel: proved by asking Ably with it, once for all who ask.

    Args:
        admits: asks Ably.
        kept_s: how long a yes is taken for one.
        refused_s: how long a no is; short, for a capability may be widened.
        at_once: how many proofs may be under way; garbage must not become a flood of requests.
        capacity: how many are remembered.
        clock: any clock, in seconds.
    """

    def __init__(
        self,
        admits: Admits,
        *,
        kept_s: float = 60.0,
        refused_s: float = 5.0,
        at_once: int = 32,
        capacity: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._admits = admits
        self._kept_s, self._refused_s, self._at_once = kept_s, refused_s, at_once
        self._clock = clock
        self._verdicts: TtlCache[bool | Unauthorized] = TtlCache(capacity, clock)
        self._asking: dict[bytes, asyncio.Task[bool | Unauthorized]] = {}

    async def close(self) -> None:
        """Give up what is being asked."""
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def admitted(self, token: str, channel: str) -> bool:
        """Whether *token* may read *channel*.

        Raises:
            Unauthorized: Ably does not take the token.
            ChannelUnavailable: Ably does not answer in time.
            TooMany: too many are being asked about already.
        """
        key = digest(token, channel)
        verdict = self._verdicts.get(key)
        if verdict is None:
            task = self._asking.get(key) or self._begin(key, token, channel)
            await asyncio.wait({task})  # not the task itself: others may wait for it too
            if task.cancelled():
                raise ChannelUnavailable("the service is closing")
            verdict = task.result()
        if isinstance(verdict, Unauthorized):
            raise Unauthorized(str(verdict))
        return verdict

    def _begin(self, key: bytes, token: str, channel: str) -> asyncio.Task[bool | Unauthorized]:
        if len(self._asking) >= self._at_once:
            raise TooMany("too many tokens are being proved; try again")
        task = asyncio.create_task(self._prove(key, token, channel), name="token proof")
        self._asking[key] = task
        return task

    async def _prove(self, key: bytes, token: str, channel: str) -> bool | Unauthorized:
        verdict: bool | Unauthorized
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                verdict = await self._admits(token, channel)
        except Unauthorized:
            verdict = Unauthorized("Ably does not take the token: it has expired, or is none")
        except TimeoutError as error:
            raise ChannelUnavailable("Ably did not say in time whether the token holds") from error
        finally:
            del self._asking[key]
        kept_s = self._kept_s if verdict is True else self._refused_s
        self._verdicts.keep(key, verdict, self._clock() + kept_s)
        return verdict
