"""JWTs are verified here."""

from __future__ import annotations

import base64
import json
import time

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.minting import KEY, OTHER_KEY, READER, mint
from rehydrate.api.auth.access import JwtVerifier, is_jwt
from rehydrate.errors import Unauthorized
from rehydrate.limits import digest


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


def test_a_number_beyond_a_float_is_not_a_time():
    secret = KEY.partition(":")[2]
    for exp in (b"NaN", b"Infinity", b"1e999", b"9" * 400):
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


def test_a_jwt_is_distinguished_from_an_opaque_token():
    assert is_jwt(mint())
    assert not is_jwt("app1.AbCdEf-_123")
