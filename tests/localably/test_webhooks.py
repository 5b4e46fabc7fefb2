"""D:platform/integrations/webhooks."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac

import aiohttp
import msgpack
import orjson
import pytest
from aiohttp import web

from channel_server.clients import Clients, arrives
from localably import LocalAbly, RefusedError, WebhookRule
from localably.webhooks import rule_from


@contextlib.asynccontextmanager
async def receiver(statuses=()):
    """Receive webhooks on a separate port; answer with *statuses* first, then with 200."""
    got, answers = [], list(statuses)

    async def take(request):
        got.append((dict(request.headers), await request.read()))
        return web.Response(status=answers.pop(0) if answers else 200)

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/", got
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def hooked(statuses=(), **rule):
    async with (
        receiver(statuses) as (url, got),
        LocalAbly(webhooks=[WebhookRule(url, **rule)]) as server,
    ):
        clients = Clients(server)
        try:
            yield (await clients.rest()).channels, got, server
        finally:
            await clients.close()


async def test_an_enveloped_event_has_the_message_with_serial_and_version():
    async with hooked(rule_id="r1", channel_filter="ai:") as (channels, got, _):
        await channels.get("other").publish("n", "not this")
        result = await channels.get("ai:a").publish("n", {"a": 1})
        [(headers, body)] = await arrives(got, 1)
        envelope = orjson.loads(body)
        [message] = envelope.pop("messages")
        assert (
            envelope.items()
            >= {"source": "channel.message", "channel": "ai:a", "ruleId": "r1"}.items()
        )
        assert message["serial"] == result.serials[0]
        assert (message["action"], message["version"]["serial"]) == (0, result.serials[0])
        assert "X-Ably-Signature" not in headers


async def test_a_batch_is_signed_with_the_key():
    key = "app.key:secret"
    async with hooked(batched=True, signing_key=key) as (channels, got, _):
        await channels.get("a").publish("n", "日本")
        [(headers, body)] = await arrives(got, 1)
        digest = hmac.digest(b"secret", body, hashlib.sha256)
        assert headers["X-Ably-Key"] == "app.key"
        assert headers["X-Ably-Signature"] == base64.b64encode(digest).decode()
        [item] = orjson.loads(body)["items"]
        assert item["data"]["channelId"] == "a"
        assert item["data"]["messages"][0]["data"] == "日本"


async def test_without_envelope_the_body_is_the_data_and_headers_have_the_rest():
    async with hooked(enveloped=False) as (channels, got, _):
        await channels.get("a").publish("n", b"\x00\xff")
        [(headers, body)] = await arrives(got, 1)
        assert body == b"\x00\xff"
        assert (headers["X-Ably-Envelope-Channel"], headers["X-Ably-Message-Name"]) == ("a", "n")


async def test_data_that_is_not_what_its_encoding_names_is_sent_as_it_is():
    async with hooked(enveloped=False) as (_, got, server):
        url = f"{server.url}/channels/ai:a/messages"
        basic = base64.b64encode(server.key.encode()).decode()
        headers = {"Content-Type": "application/x-msgpack", "Authorization": f"Basic {basic}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            for data, encoding in (("abc", "base64"), ("next", None)):
                body = msgpack.packb({"data": data, "encoding": encoding})
                async with session.post(url, data=body) as answer:
                    assert answer.status == 201
        assert [body for _, body in await arrives(got, 2)] == [b"abc", b"next"]


async def test_a_server_error_is_retried_in_order():
    async with hooked(statuses=[503]) as (channels, got, _):
        for text in "ab":
            await channels.get("a").publish("n", text)
        await arrives(got, 3)
        assert [orjson.loads(body)["messages"][0]["data"] for _, body in got] == ["a", "a", "b"]


async def test_faults_drop_repeat_delay_and_reorder():
    async with hooked(batched=True) as (channels, got, server):
        server.faults.set("drop_webhooks", nth=1)
        server.faults.set("repeat_webhooks", nth=2, times=3)
        server.faults.set("delay_webhooks", ms=1500, count=1)
        server.faults.set("reorder_webhooks")
        for text in "abcd":
            await channels.get("a").publish("n", text)
        await arrives(got, 1)
        items = [i for _, body in got for i in orjson.loads(body)["items"]]
        assert [i["data"]["messages"][0]["data"] for i in items] == list("dcccb")


@pytest.mark.parametrize(
    "item",
    [{}, {"url": 5}, {"url": "http://x", "no": 1}, {"url": "http://x", "channel_filter": "("}],
)
def test_an_invalid_rule_is_refused(item):
    with pytest.raises(RefusedError):
        rule_from(item)
