"""The capabilities of the deployment's own keys, which only Ably knows."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING

from rehydrate.background import jittered
from rehydrate.core.capability import Capability
from rehydrate.core.json import dump
from rehydrate.errors import ChannelUnavailable, NotConfigured, StoreUnavailable, Unauthorized

if TYPE_CHECKING:
    from rehydrate.ports import KeptCapabilities

_log = logging.getLogger(__name__)

KeyCapability = Callable[[str], Awaitable[Mapping[str, list[str]]]]
"""Fetch a key's capability from Ably; may raise `Unauthorized` or `ChannelUnavailable`."""

FETCH_TIMEOUT_S = 15.0


class KeyCapabilities:
    """The capability of each key, refreshed every few minutes in the background.

    A key signs access to no more than its own capability, so nothing is granted before that is
    known. While Ably is unreachable the last known one stays in effect, also after a restart.

    Args:
        keys: Ably keys, ``appId.keyId:secret``.
        fetch: fetches a key's capability from Ably.
        kept: where the last known capabilities are kept; None: only in memory.
        fresh_s: seconds after which a capability is fetched again.
        retry_s: seconds after which a failed fetch is repeated.
        patience_s: seconds that a request waits for the first fetch.
        clock: any monotonic clock, in seconds.
    """

    def __init__(
        self,
        keys: Collection[str],
        fetch: KeyCapability,
        kept: KeptCapabilities | None = None,
        *,
        fresh_s: float = 300.0,
        retry_s: float = 10.0,
        patience_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._kept = kept
        self._fresh_s, self._retry_s, self._patience_s = fresh_s, retry_s, patience_s
        self._clock = clock
        self._entries = {key_name(key): _KeyEntry(key) for key in keys}

    def open(self) -> None:
        """Start the first fetch of every key, so that the first request need not wait."""
        for entry in self._entries.values():
            self._refresh(entry)

    async def close(self) -> None:
        """Cancel pending fetches."""
        tasks = [entry.task for entry in self._entries.values() if entry.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def of(self, name: str) -> Capability:
        """Return the capability of the key *name*, ``appId.keyId``; wait for its first fetch.

        Raises:
            Unauthorized: the key does not exist, or is revoked.
            ChannelUnavailable: it is not known: Ably has not answered, now or before a restart.
        """
        entry = self._entries[name]
        self._refresh(entry)
        if entry.task is not None and entry.capability is None:
            await asyncio.wait({entry.task}, timeout=self._patience_s)
        if entry.capability is None and not entry.revoked:
            await self._recall(entry)
        if entry.revoked:
            raise Unauthorized("the key that signed the token does not exist or is revoked")
        if entry.capability is None:
            raise ChannelUnavailable("could not fetch the capability of the token's key from Ably")
        return entry.capability

    def _refresh(self, entry: _KeyEntry) -> None:
        if entry.task is None and self._clock() >= entry.due_s:
            entry.task = asyncio.create_task(self._update(entry), name="key capability")

    async def _update(self, entry: _KeyEntry) -> None:
        wait_s = self._retry_s
        try:
            async with asyncio.timeout(FETCH_TIMEOUT_S):
                answered = dict(await self._fetch(entry.key))
            entry.capability = Capability.of(answered)
            entry.revoked, wait_s = False, self._fresh_s
            await self._keep(entry, dump(answered))
        except Unauthorized:
            entry.capability, entry.revoked = None, True
            _log.warning("Ably does not recognise the key %s", key_name(entry.key))
            await self._keep(entry, _NOTHING)
        except Exception as error:  # noqa: BLE001 - logged, and retried after retry_s
            _log.warning("could not fetch the capability of a key: %s", type(error).__name__)
        finally:
            entry.task = None
            entry.due_s = self._clock() + jittered(wait_s)

    async def _keep(self, entry: _KeyEntry, capability: bytes) -> None:
        """Keep *capability* for restarts, if it is another one."""
        if self._kept is None or capability == entry.kept:
            return
        try:
            await self._kept.keep_capability(key_name(entry.key), capability)
        except StoreUnavailable:
            _log.warning("the capability of a key could not be stored")
        else:
            entry.kept = capability

    async def _recall(self, entry: _KeyEntry) -> None:
        """Use the capability that was kept before a restart, unless Ably answers meanwhile."""
        if self._kept is None or self._clock() < entry.recall_due_s:
            return
        entry.recall_due_s = self._clock() + self._retry_s
        kept = await self._kept.kept_capability(key_name(entry.key))
        if kept is not None and entry.capability is None:
            entry.capability = Capability.parse(kept.decode())


_NOTHING = b"{}"


class _KeyEntry:
    """The cached capability of one key. ``kept``: what this process has stored of it."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.capability: Capability | None = None
        self.revoked = False
        self.kept: bytes | None = None
        self.due_s = self.recall_due_s = float("-inf")
        self.task: asyncio.Task[None] | None = None


def key_name(key: str) -> str:
    """Return the ``appId.keyId`` of an Ably key.

    Raises:
        NotConfigured: *key* is not ``appId.keyId:secret``.
    """
    name, colon, secret = key.partition(":")
    app_id, dot, key_id = name.partition(".")
    if not (colon and dot and app_id and key_id and secret):
        raise NotConfigured("REHYDRATE_ABLY_KEYS: an Ably key has the form appId.keyId:secret")
    return name
