"""The capabilities of keys are fetched from Ably, cached, and kept for restarts."""

from __future__ import annotations

import asyncio

import pytest

from api.auth.doubles import AWAY, ScriptedAbly, SetClock, closing_all, settle
from api.minting import KEY, OTHER_KEY
from rehydrate.api.auth.key_capabilities import KeyCapabilities, key_name
from rehydrate.errors import ChannelUnavailable, NotConfigured, StoreUnavailable, Unauthorized
from waiting import PATIENCE_S


def test_a_keys_name_is_its_app_and_id():
    assert key_name(KEY) == "app1.key1"
    for wrong in ("", "app1.key1", "app1:secret", ".key:secret", "app1.:secret", "app1.key1:"):
        with pytest.raises(NotConfigured, match="REHYDRATE_ABLY_KEYS") as error:
            key_name(wrong)
        assert "secret" not in str(error.value).replace("appId.keyId:secret", "")


@pytest.fixture
def clock():
    return SetClock()


@pytest.fixture
async def capabilities(clock):
    """Creates the objects under test, and closes them."""

    def make(ably, keys=(KEY,), **options):
        return KeyCapabilities(keys, ably, clock=clock, **options)

    async with closing_all(make) as making:
        yield making


async def test_a_keys_capability_is_fetched_once_and_cached(capabilities, clock):
    ably = ScriptedAbly({"ai:*": ["history"]})
    tested = capabilities(ably, [KEY, OTHER_KEY])
    for _ in range(3):
        known = await tested.of("app1.key1")
        assert known.granted("ai:x") == {"history"}
    assert ably.asked == [(KEY,)]
    clock.now_s += 200
    await tested.of("app1.key1")
    assert len(ably.asked) == 1


async def test_it_is_fetched_before_the_first_request(capabilities):
    ably = ScriptedAbly({"*": ["*"]})
    tested = capabilities(ably, [KEY, OTHER_KEY])
    tested.open()
    await settle()
    assert sorted(ably.asked) == [(KEY,), (OTHER_KEY,)]


async def test_it_is_refreshed_in_the_background(capabilities, clock):
    ably = ScriptedAbly({"ai:*": ["history"]})
    tested = capabilities(ably)
    await tested.of("app1.key1")
    clock.now_s += 1000
    ably.answer, ably.gate = {"b": ["*"]}, asyncio.Event()
    assert (await tested.of("app1.key1")).granted("ai:x")
    ably.gate.set()
    await settle()
    assert not (await tested.of("app1.key1")).granted("ai:x")


async def test_while_ably_is_unreachable_the_last_capability_stays_in_effect(capabilities, clock):
    ably = ScriptedAbly({"ai:*": ["history"]})
    tested = capabilities(ably)
    await tested.of("app1.key1")
    ably.answer = AWAY
    for _ in range(3):
        clock.now_s += 1000
        assert (await tested.of("app1.key1")).granted("ai:x")
        await settle()
    assert len(ably.asked) == 4


@pytest.mark.parametrize("fault", [AWAY, TimeoutError(), ValueError("?"), RuntimeError("a bug")])
async def test_a_capability_that_was_never_fetched_is_unavailable_and_is_retried(
    capabilities, clock, fault
):
    ably = ScriptedAbly(fault)
    tested = capabilities(ably)
    for _ in range(5):
        with pytest.raises(ChannelUnavailable):
            await tested.of("app1.key1")
    assert len(ably.asked) == 1
    clock.now_s += 20
    ably.answer = {"*": ["*"]}
    assert (await tested.of("app1.key1")).granted("ai:x")


async def test_an_invalid_capability_from_ably_is_ignored(capabilities):
    with pytest.raises(ChannelUnavailable):
        await capabilities(ScriptedAbly({"*": "*"})).of("app1.key1")


async def test_a_request_waits_only_briefly_for_the_first_fetch(capabilities):
    ably = ScriptedAbly({"*": ["*"]})
    ably.gate = asyncio.Event()
    tested = capabilities(ably, patience_s=0.01)
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(ChannelUnavailable):
            await tested.of("app1.key1")


async def test_a_key_that_ably_does_not_recognise_is_refused_until_it_does(capabilities, clock):
    ably = ScriptedAbly({"*": ["*"]})
    tested = capabilities(ably)
    await tested.of("app1.key1")
    ably.answer = Unauthorized("revoked")
    clock.now_s += 1000
    await tested.of("app1.key1")
    await settle()
    with pytest.raises(Unauthorized):
        await tested.of("app1.key1")
    ably.answer = {"*": ["*"]}
    clock.now_s += 20
    assert await tested.of("app1.key1")


class Kept:
    """A store of one capability that can be away."""

    def __init__(self, capability=None):
        self.capability = capability
        self.saved = 0
        self.away = False

    async def kept_capability(self, _name):
        self._check()
        return self.capability

    async def keep_capability(self, _name, capability):
        self._check()
        self.capability = capability
        self.saved += 1

    def _check(self):
        if self.away:
            raise StoreUnavailable("away")


async def test_only_another_capability_is_kept_again_and_a_store_that_is_away_changes_nothing(
    capabilities, clock
):
    ably, kept = ScriptedAbly({"ai:*": ["history"]}), Kept()
    kept.away = True
    tested = capabilities(ably, kept=kept)
    for fetches in range(4):
        assert (await tested.of("app1.key1")).granted("ai:x")
        clock.now_s += 1000
        await settle()
        assert kept.saved == (fetches > 0)
        kept.away = False


async def test_the_kept_capability_is_used_until_ably_answers(capabilities, clock):
    ably, kept = ScriptedAbly(AWAY), Kept(b'{"ai:*":["history"]}')
    tested = capabilities(ably, kept=kept)
    known = await tested.of("app1.key1")
    assert (known.granted("ai:x"), known.granted("b")) == ({"history"}, frozenset())
    ably.answer = {"b": ["history"]}
    clock.now_s += 1000
    await tested.of("app1.key1")
    await settle()
    assert (await tested.of("app1.key1")).granted("b")
