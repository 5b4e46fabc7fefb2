"""Opaque tokens are checked with Ably, and the results are cached."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from api.auth.doubles import AWAY, ScriptedAbly, SetClock, closing_all, settle
from rehydrate.api.auth.opaque_tokens import TokenChecks
from rehydrate.errors import ChannelUnavailable, Unauthorized
from rehydrate.limits import TooMany


@pytest.fixture
def clock():
    return SetClock()


@pytest.fixture
async def admissions(clock):
    async with closing_all(partial(TokenChecks, clock=clock)) as making:
        yield making


async def test_an_acceptance_is_cached_for_a_minute_and_a_refusal_for_seconds(admissions, clock):
    ably = ScriptedAbly(answer=True)
    tested = admissions(ably)
    assert await tested.admitted("app1.token", "ai:x")
    ably.answer = False
    clock.now_s += 59
    assert await tested.admitted("app1.token", "ai:x")
    clock.now_s += 2
    assert not await tested.admitted("app1.token", "ai:x")
    ably.answer = True
    assert not await tested.admitted("app1.token", "ai:x")
    clock.now_s += 6
    assert await tested.admitted("app1.token", "ai:x")
    assert len(ably.asked) == 3


async def test_a_result_applies_to_one_token_on_one_channel(admissions):
    ably = ScriptedAbly(answer=True)
    tested = admissions(ably)
    await tested.admitted("app1.token", "ai:x")
    ably.answer = False
    assert not await tested.admitted("app1.token", "ai:y")
    assert not await tested.admitted("app1.other", "ai:x")
    assert ably.asked == [
        ("app1.token", "ai:x"), ("app1.token", "ai:y"), ("app1.other", "ai:x")
    ]  # fmt: skip


async def test_a_rejected_token_is_cached_for_seconds(admissions, clock):
    ably = ScriptedAbly(Unauthorized("40142"))
    tested = admissions(ably)
    for _ in range(3):
        with pytest.raises(Unauthorized):
            await tested.admitted("app1.token", "ai:x")
    assert len(ably.asked) == 1
    clock.now_s += 6
    ably.answer = True
    assert await tested.admitted("app1.token", "ai:x")


async def test_an_unreachable_ably_is_not_cached(admissions):
    ably = ScriptedAbly(AWAY)
    tested = admissions(ably)
    with pytest.raises(ChannelUnavailable):
        await tested.admitted("app1.token", "ai:x")
    ably.answer = TimeoutError()
    with pytest.raises(ChannelUnavailable):
        await tested.admitted("app1.token", "ai:x")
    ably.answer = True
    assert await tested.admitted("app1.token", "ai:x")


async def test_concurrent_checks_of_one_token_share_a_request(admissions):
    ably = ScriptedAbly(answer=True)
    ably.gate = asyncio.Event()
    tested = admissions(ably)
    asking = [asyncio.create_task(tested.admitted("app1.token", "ai:x")) for _ in range(20)]
    await settle()
    asking[0].cancel()  # one gives up; the others still get their answer
    ably.gate.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [True] * 19
    assert len(ably.asked) == 1


async def test_the_number_of_concurrent_checks_is_limited(admissions):
    ably = ScriptedAbly(answer=False)
    ably.gate = asyncio.Event()
    tested = admissions(ably, at_once=3)
    asking = [asyncio.create_task(tested.admitted(f"app1.{n}", "ai:x")) for n in range(3)]
    await settle()
    with pytest.raises(TooMany):
        await tested.admitted("app1.one-more", "ai:x")
    ably.gate.set()
    assert await asyncio.gather(*asking) == [False] * 3
    assert not await tested.admitted("app1.one-more", "ai:x")


async def test_one_address_may_request_a_quarter_of_the_concurrent_checks(admissions):
    ably = ScriptedAbly(answer=True)
    ably.gate = asyncio.Event()
    tested = admissions(ably, at_once=8)
    asking = [
        asyncio.create_task(tested.admitted(f"app1.{n}", "ai:x", "192.0.2.1")) for n in range(2)
    ]
    await settle()
    with pytest.raises(TooMany, match="2 token checks of this address"):
        await tested.admitted("app1.one-more", "ai:x", "192.0.2.1")
    asking.append(asyncio.create_task(tested.admitted("app1.0", "ai:x", "192.0.2.1")))
    asking.append(asyncio.create_task(tested.admitted("app1.9", "ai:x", "192.0.2.2")))
    await settle()
    ably.gate.set()
    assert await asyncio.gather(*asking) == [True] * 4
    assert await tested.admitted("app1.one-more", "ai:x", "192.0.2.1")


async def test_close_fails_the_pending_checks(clock):
    ably = ScriptedAbly(answer=True)
    ably.gate = asyncio.Event()
    tested = TokenChecks(ably, clock=clock)
    asking = asyncio.create_task(tested.admitted("app1.token", "ai:x"))
    await settle()
    await tested.close()
    with pytest.raises(ChannelUnavailable):
        await asking


async def test_no_token_is_stored(admissions):
    tested = admissions(ScriptedAbly(answer=True))
    await tested.admitted("app1.a-secret-token", "ai:x")
    assert "a-secret-token" not in repr(vars(tested._verdicts))
