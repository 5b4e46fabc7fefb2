"""Unanswered: the prompts that an agent has to answer, each once, across restarts.

A prompt is answered when a response has its id as ``prompt_id``. Until then it belongs to the agent
that has claimed it. A claim is a row with a lease, so two agents never work on the same prompt, and
the claim of a dead agent expires.
"""

from __future__ import annotations

import json
import logging
import math
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple, Protocol

from rehydrate.background import LeaseKeeper, LeaseLost, settled
from rehydrate.context import Context
from rehydrate.core.positions import check_conversation_id
from rehydrate.core.wire import timestamp_ms
from rehydrate.errors import StoreUnavailable
from rehydrate.limits import BoundedCache
from rehydrate.ports import PromptClaims

_log = logging.getLogger(__name__)

LEASE_S = 30.0
"""How long a claim lasts without renewal."""

_MAX_OFFERED = 10_000


class _Recorded(Protocol):
    """What a recorder returns: whether it moved the watermark, or gave way to another recorder."""

    @property
    def moved(self) -> bool: ...


class Prompt(NamedTuple):
    """A prompt to answer. ``sent_ms``: when it was sent, ms since 1970; None if unknown."""

    id: str
    text: str
    client_id: str | None
    sent_ms: int | None


async def unanswered(
    ctx: Context,
    conversation_id: str,
    *,
    record: Callable[[str], Awaitable[_Recorded]],
    wait: Callable[[], Awaitable[bool]] | None = None,
    lease_s: float = LEASE_S,
) -> AsyncGenerator[Prompt]:
    """Yield the prompts without a response, in order, each once.

    A prompt is claimed while the caller works on it. One that the caller leaves without a response
    is not yielded again by this iterator, but by the next one.

    Args:
        ctx: the context of the process.
        conversation_id: the conversation.
        record: records the conversation's channel, so that new prompts are in the store.
        wait: returns True when there may be new prompts, False if there will be none; None: the
            iterator ends when all prompts were yielded.
        lease_s: how long a claim lasts without renewal.

    Raises:
        StoreUnavailable: Postgres does not answer.
        ChannelUnavailable: Ably does not answer; there may be prompts that are not stored.
    """
    check_conversation_id(conversation_id)
    holder = uuid.uuid4().hex
    offered: BoundedCache[str, None] = BoundedCache(_MAX_OFFERED)
    await _record_all(record, conversation_id)
    while True:
        wire = await settled(lambda: ctx.store.claim(conversation_id, holder, lease_s, offered))
        if wire is not None:
            prompt = _prompt(wire)
            offered[prompt.id] = None
            async with _claimed(ctx.store, (conversation_id, prompt.id, holder), lease_s):
                yield prompt
        elif wait is None or not await wait():
            return
        else:
            await _record_all(record, conversation_id)


async def _record_all(record: Callable[[str], Awaitable[_Recorded]], conversation_id: str) -> None:
    """Record everything that was published before the call.

    A recorder gives way to another one that moved the watermark meanwhile, which may have read the
    channel before the newest prompt was published. So it is asked a second time. The one that it
    may give way to then began at the moved watermark, and so has read the channel after the call.
    """
    if not (await record(conversation_id)).moved:
        await record(conversation_id)


def _prompt(wire: bytes) -> Prompt:
    body = json.loads(wire)
    sent_ms = timestamp_ms(body["started_at"])
    return Prompt(body["id"], body["text"], body.get("client_id"), sent_ms)


@asynccontextmanager
async def _claimed(
    claims: PromptClaims, claim: tuple[str, str, str], lease_s: float
) -> AsyncIterator[None]:
    """Renew the *claim* while the block runs, then release it."""

    async def renew() -> None:
        if not await claims.renew_claim(*claim, lease_s):
            raise LeaseLost

    keeper = LeaseKeeper(
        "a prompt claim", renew, every_s=lease_s / 3, lease_s=math.inf, cut_off=False
    )
    try:
        async with keeper.holding():
            yield
    finally:
        try:
            await claims.release_claim(*claim)
        except StoreUnavailable:
            _log.warning("a prompt claim could not be released; it expires with its lease")
