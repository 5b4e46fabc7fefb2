"""JWTs are verified here; the capabilities of their keys are fetched from Ably, and cached."""

from __future__ import annotations

import asyncio
import base64
import json
import time

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.minting import KEY, OTHER_KEY, READER, mint
from rehydrate.api.auth.access import JwtVerifier, KeyCapabilities, is_jwt, key_name
from rehydrate.background import digest
from rehydrate.errors import ChannelUnavailable, NotConfigured, Unauthorized
from waiting import PATIENCE_S


def refused(token, keys=(KEY,), **options):
    with pytest.raises(Unauthorized) as error:
        JwtVerifier(keys, **options).verify(token)
    return str(error.value)


def unsigned(payload, **header):
    """Return a token with any header and payload, and no signature."""
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in (header, payload)
    ]
    return ".".join([*parts, ""])


def test_a_jwt_signed_with_a_configured_key_yields_its_claims():
    claims = JwtVerifier([OTHER_KEY, KEY]).verify(mint(READER, **{"x-ably-clientId": "ann"}))
    assert claims.key_name == "app1.key1"
    assert claims.client_id == "ann"
    assert claims.capability.granted("ai:x") == {"history", "subscribe"}
    assert claims.expires_s == pytest.approx(time.time() + 86_400, abs=60)


def test_without_a_capability_claim_the_keys_capability_applies():
    verifier = JwtVerifier([KEY])
    assert verifier.verify(mint()).capability is None
    assert verifier.verify(mint("")).capability is None


def test_a_capability_may_be_an_object_or_json_text():
    by_object = mint(None, **{"x-ably-capability": READER})
    assert JwtVerifier([KEY]).verify(by_object).capability.granted("ai:x")


def test_an_expired_token_is_refused_even_if_it_is_cached():
    now_s = time.time()
    verifier = JwtVerifier([KEY], lambda: now_s)
    token = mint(READER, ttl_s=60)
    verifier.verify(token)
    now_s += 61
    with pytest.raises(Unauthorized, match="expired"):
        verifier.verify(token)
    assert "expired" in refused(mint(READER, ttl_s=-1))


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        (mint(READER, key=OTHER_KEY), "not signed with a configured key"),
        (mint(READER, key="app1.key1:another-secret-of-the-same-length"), "wrongly signed"),
        (mint(READER, headers={"kid": None}), "not signed with a configured key"),
        (mint(READER, headers={"kid": "app9.key1"}), "not signed with a configured key"),
        (mint(READER, exp=None), "no expiry time"),
        (mint(READER, exp="soon"), "exp"),
        (mint(READER, exp=True), "exp"),
        (mint(READER, nbf=time.time() + 86_400), "nbf"),
        (mint("nonsense"), "x-ably-capability"),
        (mint('{"ai:*":"history"}'), "x-ably-capability"),
        (mint(7), "x-ably-capability"),
        (unsigned({"exp": 9e9}, alg="none", typ="JWT", kid="app1.key1"), "wrongly signed"),
        (unsigned({"exp": 9e9}, alg="HS256", kid="app1.key1"), "wrongly signed"),
        (unsigned({"exp": 9e9}, alg="HS256", kid=["app1.key1"]), "malformed or wrongly signed"),
        ("..", "malformed or wrongly signed"),
        ("a.b.c", "malformed or wrongly signed"),
        ("é.é.é", "malformed or wrongly signed"),
        (mint(READER) + "x", "malformed or wrongly signed"),
    ],
)
def test_an_invalid_token_is_refused_and_not_quoted_in_the_error(token, expected):
    detail = refused(token)
    assert expected in detail
    assert token not in detail


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_only_hs256_is_accepted(algorithm):
    secret = KEY.partition(":")[2] * 2
    token = jwt.encode({"exp": 9e9}, secret, algorithm, headers={"kid": "app1.key1"})
    refused(token, [f"app1.key1:{secret}"])


def test_claims_that_are_not_an_object_are_refused():
    secret = KEY.partition(":")[2]
    token = jwt.PyJWS().encode(b"[1]", secret, "HS256", headers={"kid": "app1.key1"})
    assert "not a JSON object" in refused(token)
    token = jwt.PyJWS().encode(b"[" * 5000, secret, "HS256", headers={"kid": "app1.key1"})
    refused(token)


def test_infinity_is_not_a_time():
    secret = KEY.partition(":")[2]
    for exp in (b"NaN", b"Infinity", b"1e999"):
        token = jwt.PyJWS().encode(
            b'{"exp":' + exp + b"}", secret, "HS256", headers={"kid": "app1.key1"}
        )
        assert "exp" in refused(token)


def test_the_short_secrets_of_older_keys_are_accepted_without_a_warning():
    key = "app1.old:22-characters-of-secret"[:31]
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = mint(READER, key=key)
    assert JwtVerifier([key]).verify(token).key_name == "app1.old"


@given(st.text(max_size=80) | st.text("eyJ0.-_", max_size=80))
def test_any_text_is_either_verified_or_refused(token):
    refused(token)


def test_tokens_are_cached_by_digest_only():
    verifier = JwtVerifier([KEY])
    token = mint(READER)
    verifier.verify(token)
    assert token not in repr(vars(verifier._verified))
    assert digest("a", "b") != digest("ab") != digest("a\0b", "")


def test_a_keys_name_is_its_app_and_id():
    assert key_name(KEY) == "app1.key1"
    for wrong in ("", "app1.key1", "app1:secret", ".key:secret", "app1.:secret", "app1.key1:"):
        with pytest.raises(NotConfigured, match="REHYDRATE_ABLY_KEYS") as error:
            key_name(wrong)
        assert "secret" not in str(error.value).replace("appId.keyId:secret", "")


def test_a_jwt_is_distinguished_from_an_opaque_token():
    assert is_jwt(mint())
    assert not is_jwt("app1.AbCdEf-_123")


class Ably:
    """A stand-in for Ably; `answer` is returned, or raised."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []
        self.gate = None

    async def __call__(self, *question):
        self.asked.append(question)
        if self.gate is not None:
            async with asyncio.timeout(PATIENCE_S):
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
    async with asyncio.timeout(PATIENCE_S):
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
