from __future__ import annotations

import asyncio

import pytest

from api.minting import KEY, OTHER_KEY
from rehydrate.api.auth.token_checks import KeyCapabilities, TokenChecks
from rehydrate.api.problems import TooMany
from rehydrate.errors import ChannelUnavailable, Unauthorized


class Ably:
    """A stand-in for Ably; `answer` is returned, or raised."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []
        self.gate = None

    async def __call__(self, *question):
        self.asked.append(question)
        if self.gate is not None:
            async with asyncio.timeout(10):
                await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Clock:
    now_s = 1000.0

    def __call__(self):
        return self.now_s


AWAY = ChannelUnavailable("away")


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
async def capabilities(clock):
    """Creates the objects under test, and closes them."""
    made = []

    def make(ably, keys=(KEY,), **options):
        made.append(KeyCapabilities(keys, ably, clock=clock, **options))
        return made[-1]

    yield make
    for each in made:
        await each.close()


@pytest.fixture
async def admissions(clock):
    made = []

    def make(ably, **options):
        made.append(TokenChecks(ably, clock=clock, **options))
        return made[-1]

    yield make
    for each in made:
        await each.close()


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_keys_capability_is_fetched_once_and_cached(capabilities, clock):
    ably = Ably({"ai:*": ["history"]})
    tested = capabilities(ably, [KEY, OTHER_KEY])
    for _ in range(3):
        known = await tested.of("app1.key1", needed=False)
        assert known.granted("ai:x") == {"history"}
    assert ably.asked == [(KEY,)]
    clock.now_s += 200
    await tested.of("app1.key1", needed=False)
    assert len(ably.asked) == 1


async def test_it_is_fetched_before_the_first_request(capabilities):
    ably = Ably({"*": ["*"]})
    tested = capabilities(ably, [KEY, OTHER_KEY])
    tested.open()
    await settle()
    assert sorted(ably.asked) == [(KEY,), (OTHER_KEY,)]


async def test_it_is_refreshed_in_the_background(capabilities, clock):
    ably = Ably({"ai:*": ["history"]})
    tested = capabilities(ably)
    await tested.of("app1.key1", needed=False)
    clock.now_s += 1000
    ably.answer, ably.gate = {"b": ["*"]}, asyncio.Event()
    assert (await tested.of("app1.key1", needed=False)).granted("ai:x")
    ably.gate.set()
    await settle()
    assert not (await tested.of("app1.key1", needed=False)).granted("ai:x")


async def test_while_ably_is_unreachable_the_last_capability_stays_in_effect(capabilities, clock):
    ably = Ably({"ai:*": ["history"]})
    tested = capabilities(ably)
    await tested.of("app1.key1", needed=False)
    ably.answer = AWAY
    for _ in range(3):
        clock.now_s += 1000
        assert (await tested.of("app1.key1", needed=True)).granted("ai:x")
        await settle()
    assert len(ably.asked) == 4


@pytest.mark.parametrize("fault", [AWAY, TimeoutError(), ValueError("?"), RuntimeError("a bug")])
async def test_a_capability_that_was_never_fetched_is_none_and_is_retried(
    capabilities, clock, fault
):
    ably = Ably(fault)
    tested = capabilities(ably)
    for _ in range(5):
        assert await tested.of("app1.key1", needed=True) is None
    assert len(ably.asked) == 1
    clock.now_s += 20
    ably.answer = {"*": ["*"]}
    assert (await tested.of("app1.key1", needed=True)).granted("ai:x")


async def test_an_invalid_capability_from_ably_is_ignored(capabilities):
    assert await capabilities(Ably({"*": "*"})).of("app1.key1", needed=True) is None


async def test_a_request_waits_only_briefly_for_the_first_fetch(capabilities):
    ably = Ably({"*": ["*"]})
    ably.gate = asyncio.Event()
    tested = capabilities(ably, patience_s=0.01)
    async with asyncio.timeout(5):
        assert await tested.of("app1.key1", needed=True) is None


async def test_a_key_that_ably_does_not_recognise_is_refused_until_it_does(capabilities, clock):
    ably = Ably({"*": ["*"]})
    tested = capabilities(ably)
    await tested.of("app1.key1", needed=False)
    ably.answer = Unauthorized("revoked")
    clock.now_s += 1000
    await tested.of("app1.key1", needed=False)
    await settle()
    with pytest.raises(Unauthorized):
        await tested.of("app1.key1", needed=False)
    ably.answer = {"*": ["*"]}
    clock.now_s += 20
    assert await tested.of("app1.key1", needed=True)


async def test_an_acceptance_is_cached_for_a_minute_and_a_refusal_for_seconds(admissions, clock):
    ably = Ably(answer=True)
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
    ably = Ably(answer=True)
    tested = admissions(ably)
    await tested.admitted("app1.token", "ai:x")
    ably.answer = False
    assert not await tested.admitted("app1.token", "ai:y")
    assert not await tested.admitted("app1.other", "ai:x")
    assert ably.asked == [
        ("app1.token", "ai:x"), ("app1.token", "ai:y"), ("app1.other", "ai:x")
    ]  # fmt: skip


async def test_a_rejected_token_is_cached_for_seconds(admissions, clock):
    ably = Ably(Unauthorized("40142"))
    tested = admissions(ably)
    for _ in range(3):
        with pytest.raises(Unauthorized):
            await tested.admitted("app1.token", "ai:x")
    assert len(ably.asked) == 1
    clock.now_s += 6
    ably.answer = True
    assert await tested.admitted("app1.token", "ai:x")


async def test_an_unreachable_ably_is_not_cached(admissions):
    ably = Ably(AWAY)
    tested = admissions(ably)
    with pytest.raises(ChannelUnavailable):
        await tested.admitted("app1.token", "ai:x")
    ably.answer = TimeoutError()
    with pytest.raises(ChannelUnavailable):
        await tested.admitted("app1.token", "ai:x")
    ably.answer = True
    assert await tested.admitted("app1.token", "ai:x")


async def test_concurrent_checks_of_one_token_share_a_request(admissions):
    ably = Ably(answer=True)
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
    ably = Ably(answer=False)
    ably.gate = asyncio.Event()
    tested = admissions(ably, at_once=3)
    asking = [asyncio.create_task(tested.admitted(f"app1.{n}", "ai:x")) for n in range(3)]
    await settle()
    with pytest.raises(TooMany):
        await tested.admitted("app1.one-more", "ai:x")
    ably.gate.set()
    assert await asyncio.gather(*asking) == [False] * 3
    assert not await tested.admitted("app1.one-more", "ai:x")


async def test_close_fails_the_pending_checks(clock):
    ably = Ably(answer=True)
    ably.gate = asyncio.Event()
    tested = TokenChecks(ably, clock=clock)
    asking = asyncio.create_task(tested.admitted("app1.token", "ai:x"))
    await settle()
    await tested.close()
    with pytest.raises(ChannelUnavailable):
        await asking


async def test_no_token_is_stored(admissions):
    tested = admissions(Ably(answer=True))
    await tested.admitted("app1.a-secret-token", "ai:x")
    assert "a-secret-token" not in repr(vars(tested._verdicts))
