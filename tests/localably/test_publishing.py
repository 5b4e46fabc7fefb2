"""Stock ably-python, in both formats, against the server."""

from __future__ import annotations

import time

import jwt
import pytest
from ably import AblyException
from ably.types.message import Message

from channel_server.clients import arrives, into


def a_jwt(key, capability, **claims):
    name, secret = key.split(":")
    now = int(time.time())
    body = {"iat": now, "exp": now + 60, "x-ably-capability": capability, **claims}
    return jwt.encode(body, secret, "HS256", headers={"kid": name})


async def test_published_messages_arrive_in_order_with_serial_and_id(clients):
    client = await clients.realtime()
    channel = client.channels.get("room")
    got = []
    await channel.subscribe(into(got))
    results = [
        await channel.publish("n", data) for data in ("héllo 日本語", {"a": [1]}, b"\x00\xff")
    ]
    await arrives(got, 3)
    assert [m.data for m in got] == ["héllo 日本語", {"a": [1]}, b"\x00\xff"]
    assert [m.serial for m in got] == [r.serials[0] for r in results]
    assert [m.serial for m in got] == sorted(m.serial for m in got)
    assert all(int(m.action) == 0 and m.version.serial == m.serial for m in got)


async def test_rewind_by_count_comes_before_live_messages(clients):
    client = await clients.realtime()
    for number in range(5):
        await client.channels.get("room").publish("n", str(number))
    reader = await clients.realtime()
    channel = reader.channels.get("room", params={"rewind": "2"})
    got = []
    await channel.subscribe(into(got))
    await client.channels.get("room").publish("n", "live")
    await arrives(got, 3)
    assert [m.data for m in got] == ["3", "4", "live"]


async def test_history_pages_backwards_and_forwards(clients):
    rest = await clients.rest()
    channel = rest.channels.get("room/with: odd,name")
    for number in range(7):
        await channel.publish("n", str(number))
    for direction, wanted in (("backwards", "6543210"), ("forwards", "0123456")):
        page = await channel.history(limit=3, direction=direction)
        found = [m.data for m in page.items]
        while page.has_next():
            page = await page.next()
            found += [m.data for m in page.items]
        assert "".join(found) == wanted


async def test_history_from_an_attach_serial_includes_that_publish(clients):
    rest = await clients.rest()
    channel = rest.channels.get("room")
    serials = [(await channel.publish("n", str(n))).serials[0] for n in range(4)]
    for name in ("from_serial", "fromSerial"):
        point = serials[1].partition(":")[0]
        page = await rest.request("GET", "/channels/room/messages", "5", params={name: point})
        assert [item["data"] for item in page.items] == ["1", "0"]


async def test_a_message_published_twice_with_one_id_is_kept_once(clients):
    rest = await clients.rest()
    channel = rest.channels.get("room")
    first = await channel.publish(Message(id="mine:0", name="n", data="x"))
    again = await channel.publish(Message(id="mine:0", name="n", data="x"))
    assert first.serials == again.serials
    assert len((await channel.history()).items) == 1


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


async def test_a_token_of_a_key_carries_the_keys_capability(clients):
    rest = await clients.rest()
    details = await rest.auth.request_token()
    assert str(details.capability) == '{"[*]*": ["*"]}' or details.capability == {"[*]*": ["*"]}
    again = await clients.rest(token=details.token)
    await again.channels.get("room").publish("n", "x")


@pytest.mark.parametrize(("exp", "secret", "code"), [(-10, "", 40142), (60, "x", 40144)])
async def test_an_expired_or_forged_jwt_is_refused(clients, exp, secret, code):
    now = int(time.time())
    token = a_jwt(clients.server.key + secret, "{}", exp=now + exp)
    rest = await clients.rest(token=token)
    with pytest.raises(AblyException) as refused:
        await rest.channels.get("room").history()
    assert refused.value.code in (code, 40171)
