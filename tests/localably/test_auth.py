"""Keys, tokens and clientIds: RSA, RTC8, RTN22."""

from __future__ import annotations

import time

import jwt
import pytest
from ably import AblyException

from channel_server.clients import Clients, arrives, into
from localably import LocalAbly, LocalAblySettings


def a_jwt(key, capability='{"*":["*"]}', **claims):
    name, secret = key.split(":")
    now = int(time.time())
    body = {"iat": now, "exp": now + 60, "x-ably-capability": capability, **claims}
    return jwt.encode(body, secret, "HS256", headers={"kid": name})


async def test_a_jwt_connects_and_its_capability_is_enforced(clients):
    token = a_jwt(clients.server.key, '{"room":["subscribe","history"]}')
    client = await clients.realtime(token=token)
    await client.channels.get("room").attach()
    with pytest.raises(AblyException) as refused:
        await client.channels.get("room").publish("n", "x")
    assert refused.value.code == 40160
    with pytest.raises(AblyException) as denied:
        await client.channels.get("other").attach()
    assert denied.value.code == 40160


async def test_rsa4a2_an_expired_jwt_is_40142_and_a_forged_one_40144(http, server):
    codes = {}
    for name, token in {
        "expired": a_jwt(server.key, exp=int(time.time()) - 10),
        "forged": a_jwt(server.key + "x"),
        "nonsense": "Sdnurv_some_invalid_token",
        "no app": a_jwt("nobody.key:" + "s" * 32),
        "no key": a_jwt(server.key.split(".")[0] + ".nokey:" + "s" * 32),
    }.items():
        headers = {"Authorization": f"Bearer {token}"}
        async with http.get("/channels/room/messages", headers=headers) as answer:
            codes[name] = int(answer.headers["X-Ably-ErrorCode"]), answer.status
    assert codes == {
        "expired": (40142, 401),
        "forged": (40144, 401),
        "nonsense": (40101, 401),
        "no app": (40400, 404),
        "no key": (40101, 401),
    }


@pytest.mark.parametrize("key", ["api:key", "nonsense", "nobody.key:secret"])
async def test_an_invalid_key_fails_the_connection_with_40101(clients, key):
    from ably import AblyRealtime  # noqa: PLC0415 - beside the one use of a client that fails

    client = AblyRealtime(key="a.b:c", endpoint=f"127.0.0.1:{clients.server.port}", tls=False)
    client.auth.auth_options.key_name, _, client.auth.auth_options.key_secret = key.partition(":")
    change = await client.connection.once_async()
    assert change.reason.code == 40101
    await client.close()


async def test_a_token_that_expires_disconnects_and_the_client_renews_it(js):
    seen = await js("tokens", ttl=3000)
    assert seen["reason"] == {"code": 40142, "statusCode": 401}
    assert seen["asked"] == 2
    assert seen["same"] is True
    assert seen["clientId"] == "ann"


async def test_rtn22_the_server_requests_a_new_token_before_the_old_one_expires(js):
    async with LocalAbly(settings=LocalAblySettings(token_warning_s=26)) as server:
        seen = await js("tokens", on=server, ttl=30_000)
    assert seen["reason"] == "update"
    assert seen["asked"] == 2
    assert seen["same"] is True


async def test_rtc8a1_a_narrower_token_fails_the_channels_it_does_not_cover(js):
    seen = await js("reauth")
    assert seen["lost"] == {"code": 40160, "statusCode": 401}
    assert seen["denied"]["code"] == 40160
    assert seen["narrowed"]["code"] == 40160
    assert seen["widened"] is None


async def test_rsa7_client_ids_come_from_the_credentials(js):
    assert await js("client_ids") == {
        "wrong": {"code": 40012, "statusCode": 400},
        "clientId": "ann",
        "mismatch": {"code": 40102, "statusCode": 401},
        "cat": "cat",
        "nobody": {"code": 40012, "statusCode": 400},
    }


async def test_python_may_authorize_again_while_connected():
    async with LocalAbly() as server:
        clients = Clients(server)
        try:
            rest = await clients.rest()

            async def callback(params):
                return (await rest.auth.request_token(token_params=params)).token

            client = await clients.realtime(auth_callback=callback)
            await client.auth.authorize({"capability": {"room": "*"}})
            await client.channels.get("room").attach()
            assert (await client.channels.get("room").publish("n", "x")).serials
        finally:
            await clients.close()


async def test_python_renews_an_expired_token_and_continues(clients):
    rest = await clients.rest()
    issued = []

    async def callback(params):
        details = await rest.auth.request_token(token_params={**params, "ttl": 3000})
        issued.append(details.token)
        return details

    client = await clients.realtime(auth_callback=callback, disconnected_retry_timeout=100)
    got = []
    await client.channels.get("room").subscribe(into(got))
    await arrives(issued, 2)
    assert issued[0] != issued[1]
    await rest.channels.get("room").publish("n", "after the renewal")
    await arrives(got, 1)
    assert got[0].data == "after the renewal"
