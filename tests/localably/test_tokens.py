"""RSA8, TE: token requests and their tokens."""

from __future__ import annotations

import base64
import hashlib
import hmac

import orjson
import pytest

from localably import tokens
from localably.config import Key
from localably.errors import RefusedError

KEY = Key.parse("app.key:secret", '{"a":["*"],"b":["subscribe"]}')
NOW_MS = 1_700_000_000_000


def signed(**fields):
    request = {"keyName": "app.key", "timestamp": NOW_MS, "nonce": "1234567890123456", **fields}
    parts = ("keyName", "ttl", "capability", "clientId", "timestamp", "nonce")
    text = "".join(f"{request.get(part, '')}\n" for part in parts)
    mac = hmac.digest(b"secret", text.encode(), hashlib.sha256)
    return {**request, "mac": base64.b64encode(mac).decode(), **fields}


def code_of(request, nonces=None):
    with pytest.raises(RefusedError) as refused:
        tokens.issue(KEY, request, NOW_MS, {} if nonces is None else nonces)
    return refused.value.code


def test_a_token_contains_what_was_granted_and_is_parsed():
    request = signed(clientId="ann", ttl="60000", capability='{"a":["publish"],"c":["*"]}')
    details = tokens.issue(KEY, request, NOW_MS, {})
    assert details["capability"] == '{"a":["publish"]}'
    assert details["expires"] == NOW_MS + 60_000
    assert details["clientId"] == "ann"
    assert tokens.key_name_of_opaque(details["token"]) == "app.key"
    grant = tokens.read_opaque(KEY, details["token"], NOW_MS)
    assert (grant.client_id, str(grant.capability)) == ("ann", '{"a":["publish"]}')


def test_by_default_it_has_the_capability_of_the_key_and_an_hour():
    details = tokens.issue(KEY, signed(), NOW_MS, {})
    assert orjson.loads(details["capability"]) == {"a": ["*"], "b": ["subscribe"]}
    assert details["expires"] - details["issued"] == 3_600_000
    assert "clientId" not in details


def test_each_error_of_a_request_has_its_code():
    assert code_of(signed(mac="12345")) == 40101
    assert code_of(signed(timestamp=NOW_MS - 1_800_000)) == 40104
    assert code_of(signed(nonce="short")) == 40105
    assert code_of(signed(ttl=-1)) == 40003
    assert code_of(signed(ttl="x")) == 40003
    assert code_of(signed(ttl=365 * 86_400_000)) == 40003
    assert code_of(signed(capability='{"c":["*"]}')) == 40160
    assert code_of(signed(capability="x")) == 40000
    nonces = {}
    tokens.issue(KEY, signed(), NOW_MS, nonces)
    assert code_of(signed(), nonces) == 40105


def test_old_nonces_are_dropped():
    nonces = {("app.key", "1", "old-nonce-old-nonce"): NOW_MS - 2_000_000}
    tokens.issue(KEY, signed(), NOW_MS, nonces)
    assert [nonce for _, _, nonce in nonces] == ["1234567890123456"]


def test_rsa9c_a_nonce_is_used_once_with_one_key_and_timestamp():
    nonces = {}
    tokens.issue(KEY, signed(), NOW_MS, nonces)
    tokens.issue(KEY, signed(timestamp=NOW_MS + 1), NOW_MS, nonces)
    other = Key.parse("app.other:secret")
    tokens.issue(other, signed(keyName=other.name), NOW_MS, nonces)
    assert len(nonces) == 3
    assert code_of(signed(), nonces) == 40105


@pytest.mark.parametrize("token", ["", "x", "app.", "app.!!", "app.e30", "app." + "A" * 50])
def test_an_invalid_token_names_no_key(token):
    assert tokens.key_name_of_opaque(token) is None
    assert tokens.key_name_of_jwt(token) is None


def test_a_token_of_another_server_and_an_expired_one_are_distinguished():
    token = tokens.issue(KEY, signed(), NOW_MS, {})["token"]
    other = Key.parse("app.key:other")
    with pytest.raises(RefusedError) as refused:
        tokens.read_opaque(other, token, NOW_MS)
    assert refused.value.code == 40143
    with pytest.raises(RefusedError) as expired:
        tokens.read_opaque(KEY, token, NOW_MS + 3_600_000)
    assert expired.value.code == 40142
