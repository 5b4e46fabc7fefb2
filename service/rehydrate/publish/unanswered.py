"""Unanswered: the prompts that an agent has to answer, each once, however often it restarts.

A prompt is answered when there is a response with its id as ``prompt_id``. Until then it belongs to
the agent that has claimed it: the claim is a row with a lease, so two agents never work on the same
prompt, and that of a dead one comes free.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections import OrderedDict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from rehydrate.core.positions import check_conversation_id
from rehydrate.core.wire import timestamp_ms
from rehydrate.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from rehydrate.context import Context
    from rehydrate.ports import PromptClaims

_log = logging.getLogger(__name__)

LEASE_S = 30.0
"""How long a claim holds without a sign of life."""

_MOST_PASSED = 10_000


class Prompt(NamedTuple):
    """A prompt to answer. ``sent_ms``: when it was sent, in ms since 1970, if that is known."""

    id: str
    text: str
    client_id: str | None
    sent_ms: int | None


async def unanswered(
    ctx: Context,
    conversation_id: str,
    *,
    record: Callable[[str], Awaitable[object]],
    wait: Callable[[], Awaitable[bool]] | None = None,
    lease_s: float = LEASE_S,
) -> AsyncGenerator[Prompt]:
    """Yield the prompts without a response, in their order, each once.

    While the caller works on one it is claimed; a prompt that he leaves without a response is not
    offered again here, but to the next who asks. *record* brings what the channel says into the
    store. *wait* returns when there may be more (False: there never will be); without it, it ends.

    Raises:
        StoreUnavailable: Postgres does not answer.
        ChannelUnavailable: Ably does not answer: there may be prompts that are not stored.
    """
    check_conversation_id(conversation_id)
    holder = uuid.uuid4().hex
    passed: OrderedDict[str, None] = OrderedDict()
    await record(conversation_id)
    while True:
        wire = await ctx.store.claim(conversation_id, holder, lease_s, passed)
        if wire is not None:
            prompt = _prompt(wire)
            passed[prompt.id] = None
            if len(passed) > _MOST_PASSED:
                passed.popitem(last=False)
            async with _kept(ctx.store, (conversation_id, prompt.id, holder), lease_s):
                yield prompt
        elif wait is None or not await wait():
            return
        else:
            await record(conversation_id)


def _prompt(wire: bytes) -> Prompt:
    body = json.loads(wire)
    sent_ms = timestamp_ms(body["started_at"])
    return Prompt(body["id"], body["text"], body.get("client_id"), sent_ms)


@asynccontextmanager
async def _kept(
    claims: PromptClaims, claim: tuple[str, str, str], lease_s: float
) -> AsyncIterator[None]:
    """Renew the *claim* while the block runs, and give it back."""
    renewing = asyncio.create_task(_renew(claims, claim, lease_s), name="renewing a claim")
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
        try:
            await claims.release_claim(*claim)
        except StoreUnavailable:
            _log.warning("a claim could not be given back; it ends with its lease")


async def _renew(claims: PromptClaims, claim: tuple[str, str, str], lease_s: float) -> None:
    while True:
        await asyncio.sleep(lease_s / 3)
        try:
            if not await claims.renew_claim(*claim, lease_s):
                _log.warning("the claim of a prompt has ended: another agent may answer it")
                return
        except StoreUnavailable:
            _log.warning("the claim of a prompt waits for the store")
