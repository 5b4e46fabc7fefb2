"""RSA17: token revocation."""

from __future__ import annotations

import asyncio
import time

import jwt
import pytest

from channel_server.worlds import World
from localably import LocalAbly
from localably.config import Key
from localably.errors import RefusedError
from waiting import PATIENCE_S

REVOCABLE = "app.revocable:a-secret-of-thirty-two-characters"


def key_of(value, *, revocable):
    key = Key.parse(value)
    return Key(key.app_id, key.key_id, key.secret, key.capability, revocable_tokens=revocable)


@pytest.fixture
async def server():
    """A server with an ordinary key and one whose tokens are revocable."""
    keys = [Key.parse("app.key:secret-of-the-key"), key_of(REVOCABLE, revocable=True)]
    async with LocalAbly(keys=keys) as running:
        yield running


async def test_ably_js_is_disconnected_by_40141_and_renews_where_it_can(js):
    seen = await js("revoke", key=REVOCABLE)
    assert seen["codes"] == [40141, 40141]
    assert seen["renewed"] == 2
    assert seen["bob"] == "connected"
    assert seen["refusal"]["code"] == 40171, "ably-js: the token is refused, and not renewable"
    assert seen["again"] is None, "a token that is issued later is accepted"
    assert seen["unrevocable"]["code"] == 40300
    result = seen["result"]
    assert (result["successCount"], result["failureCount"]) == (2, 1)
    first, _, wrong = result["results"]
    assert first["target"] == "clientId:ann"
    assert first["issuedBefore"] <= first["appliesAt"]
    assert (wrong["target"], wrong["error"]["statusCode"]) == ("invalidType:abc", 400)


async def test_with_a_margin_ably_js_renews_without_being_disconnected(js):
    seen = await js("revoke_with_margin", key=REVOCABLE)
    assert (seen["renewed"], seen["disconnected"]) == (2, 0)
    assert seen["margin"] >= 30_000


async def test_ably_python_is_disconnected_and_renews(clients, http):
    calls = []

    async def token(params):
        calls.append(1)
        # `iat` has a resolution of seconds
        issued_s = int(time.time()) + (1 if len(calls) > 1 else -5)
        claims = {"iat": issued_s, "exp": issued_s + 60}
        claims["x-ably-revocation-key"] = "group"
        return jwt.encode(claims, REVOCABLE.partition(":")[2], headers={"kid": "app.revocable"})

    client = await clients.realtime(auth_callback=token)
    again = asyncio.create_task(client.connection.once_async("connected"))
    response = await http.post(
        "/keys/app.revocable/revokeTokens?key=" + REVOCABLE,
        json={"targets": ["revocationKey:group"]},
        headers={"Authorization": ""},
    )
    assert response.status == 201, await response.text()
    await asyncio.wait_for(again, PATIENCE_S)
    assert len(calls) == 2


class Revoking:
    """A hub in which `app.revocable` has revocable tokens, and a token of it."""

    def __init__(self):
        self.world = World()
        self.hub = self.world.hub
        self.key = key_of(REVOCABLE, revocable=True)
        self.hub.apps["app"].keys[self.key.name] = self.key

    def token(self, **fields):
        details = self.hub.authenticator.issue_token(
            self.key.name, fields, self.hub.authenticator.by_key(REVOCABLE)
        )
        self.world.pass_ms(1)
        return details["token"]

    def revoke(self, *targets, **fields):
        return self.hub.revoke_tokens(self.key, {"targets": list(targets), **fields})

    def code(self, token):
        try:
            self.hub.authenticator.by_token(token)
        except RefusedError as error:
            return error.code
        return None


def test_a_channel_matches_its_exact_name_in_the_capability():
    app = Revoking()
    token = app.token(capability='{"foo:*":["*"]}')
    app.revoke("channel:foo:bar", "channel:*", "channel:*:*")
    assert app.code(token) is None
    app.revoke("channel:foo:*")
    assert app.code(token) == 40141


def test_tokens_issued_at_that_time_or_later_are_not_revoked():
    app = Revoking()
    before_ms = app.world.now_ms
    token = app.token(clientId="ann")
    app.revoke("clientId:ann", issuedBefore=before_ms)
    assert app.code(token) is None
    app.revoke("clientId:ann", issuedBefore=before_ms + 1)
    assert app.code(token) == 40141
    assert app.code(app.token(clientId="ann")) is None
    assert app.code(app.token(clientId="bob")) is None


def test_the_margin_postpones_it_but_not_an_earlier_one():
    app = Revoking()
    token = app.token(clientId="ann")
    app.revoke("clientId:ann", allowReauthMargin=True)
    assert app.code(token) is None
    app.world.pass_ms(30_000)
    assert app.code(token) == 40141
    other = app.token(clientId="bob")
    app.revoke("clientId:bob")
    app.revoke("clientId:bob", allowReauthMargin=True)
    assert app.code(other) == 40141


def test_revocations_are_forgotten_with_the_last_token_that_they_concern():
    app = Revoking()
    for number in range(10):
        app.revoke(f"clientId:{number}")
    app.world.pass_ms(3_600_000)
    app.revoke("clientId:last")
    assert list(app.hub.authenticator.revocations._found) == [("app.revocable", "clientId:last")]
    assert app.hub.authenticator.revocations._count == 1


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"targets": []},
        {"targets": "clientId:a"},
        {"targets": ["clientId:a"] * 101},
        {"targets": ["clientId:a"], "issuedBefore": 1},
        {"targets": ["clientId:a"], "issuedBefore": 10**14},
        {"targets": ["clientId:a"], "issuedBefore": "now"},
    ],
)
def test_an_invalid_request_is_refused(request_):
    app = Revoking()
    with pytest.raises(RefusedError) as refused:
        app.hub.revoke_tokens(app.key, request_)
    assert refused.value.code == 40000


def test_a_target_that_is_not_one_fails_alone():
    app = Revoking()
    results = app.revoke("clientId:a", "clientId:", "x:y", 7)
    assert ["error" in one for one in results] == [False, True, True, True]


def test_revocable_tokens_live_for_an_hour_at_most():
    app = Revoking()
    with pytest.raises(RefusedError) as refused:
        app.token(ttl=3_600_001)
    assert refused.value.code == 40003
    now_s = app.world.now_ms // 1000
    claims = {"iat": now_s, "exp": now_s + 3601}
    token = jwt.encode(claims, app.key.secret, headers={"kid": app.key.name})
    assert app.code(token) == 40144


async def test_only_the_key_itself_revokes(server, http):
    body = {"targets": ["clientId:a"]}
    url = "/keys/app.revocable/revokeTokens"
    assert (await http.post(url, json=body)).status == 401  # another key
    issued = await http.post(
        f"/keys/app.revocable/requestToken?key={REVOCABLE}", json={}, headers={"Authorization": ""}
    )
    token = (await issued.json())["token"]
    refused = await http.post(url, json=body, headers={"Authorization": f"Bearer {token}"})
    assert (refused.status, (await refused.json())["error"]["code"]) == (401, 40162)
