"""Webhooks: authentication, the channels they name, and recording by real rules."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from contextlib import AsyncExitStack

import httpx
import pytest

from api.conftest import calling, make_access, problem
from api.minting import KEY, OTHER_KEY, SERVICE_KEY, bearer
from api.serving import served_beside
from api.standin import StandIn
from localably import LocalAbly
from localably.webhooks import Webhook, WebhookRule
from participants import settings_for
from rehydrate.api import webhooks as events
from rehydrate.api.app import create_app
from rehydrate.api.webhooks import WebhookSenders, channels_of
from rehydrate.errors import BadParameter, Busy
from rehydrate.history import History
from waiting import PATIENCE_S

SECRET = "a secret of the rule"
PATH = "/v1/ably/events"


@pytest.fixture
def service():
    return StandIn()


@pytest.fixture
async def client(service):
    app = create_app(service, make_access(), announcers=WebhookSenders([KEY, OTHER_KEY], SECRET))
    async with calling(app) as client:
        yield client


def batch(*channels, source="channel.message"):
    items = [{"source": source, "data": {"channelId": each, "messages": []}} for each in channels]
    return json.dumps({"items": items}).encode()


def signed(body, key=KEY):
    name, _, secret = key.partition(":")
    digest = hmac.digest(secret.encode(), body, hashlib.sha256)
    return {"X-Ably-Key": name, "X-Ably-Signature": base64.b64encode(digest).decode()}


class TestProofs:
    @pytest.mark.parametrize("key", [KEY, OTHER_KEY])
    async def test_a_batch_signed_with_any_configured_key_is_accepted(self, client, service, key):
        body = batch("ai:a", "ai:b", "ai:a")
        answer = await client.post(PATH, content=body, headers=signed(body, key))
        assert (answer.status_code, answer.content) == (204, b"")
        assert service.woken == [["ai:a", "ai:b"]]

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"X-Ably-Key": KEY.partition(":")[0]},
            {"X-Ably-Signature": "AAAA"},
            {"X-Ably-Key": "no.body", "X-Ably-Signature": "AAAA"},
            {"X-Ably-Key": KEY.partition(":")[0], "X-Ably-Signature": "AAAA"},
            {"X-Ably-Key": KEY.partition(":")[0], "X-Ably-Signature": "\xe9"},
            signed(b"another body"),
            {"X-Rehydrate-Secret": "wrong"},
            {"X-Rehydrate-Secret": ""},
            {"X-Rehydrate-Secret": SECRET, **signed(b"another body")},
            bearer(SERVICE_KEY),
        ],
    )
    async def test_other_requests_are_401_without_any_work(self, client, service, headers):
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        answer = await client.post(PATH, content=batch("ai:a"), headers=raw)
        problem(answer, 401, "unauthorized")
        assert not service.woken

    async def test_an_enveloped_webhook_needs_the_rules_secret(self, client, service):
        shown = {"X-Rehydrate-Secret": SECRET}
        envelope = {"source": "channel.message", "channel": "ai:c", "messages": []}
        assert (await client.post(PATH, json=envelope, headers=shown)).status_code == 204
        bare = {**shown, "X-Ably-Envelope-Channel": "ai:d"}
        assert (await client.post(PATH, content=b"\xff", headers=bare)).status_code == 204
        assert service.woken == [["ai:c"], ["ai:d"]]

    async def test_without_a_configured_secret_none_is_accepted(self, service):
        app = create_app(service, make_access(), announcers=WebhookSenders([KEY]))
        async with calling(app) as client:
            answer = await client.post(PATH, headers={"X-Rehydrate-Secret": ""})
            problem(answer, 401, "unauthorized")


class TestBounds:
    async def test_a_body_that_is_too_large_is_not_read(self, client, monkeypatch):
        monkeypatch.setattr(events, "LIMIT_BYTES", 10)
        body = batch("ai:a")
        problem(await client.post(PATH, content=body, headers=signed(body)), 413, "too_large")

    async def test_a_full_recording_queue_is_a_429_with_retry_after(self, client, service):
        service.fault = Busy("too much waits")
        body = batch("ai:a")
        answer = await client.post(PATH, content=body, headers=signed(body))
        problem(answer, 429, "too_many")
        assert int(answer.headers["retry-after"]) > 0

    @pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b"\xff"])
    async def test_a_body_that_is_not_an_event_is_refused(self, client, body):
        answer = await client.post(PATH, content=body, headers=signed(body))
        problem(answer, 422, "bad_parameter", "body")


def test_only_channels_with_published_messages_are_returned_without_duplicates():
    odd = {
        "items": [1, {}, {"source": "channel.message"}, {"source": "channel.message", "data": {}}]
    }
    assert list(channels_of({}, json.dumps(odd).encode())) == []
    assert list(channels_of({}, batch("a", "b", "a"))) == ["a", "b"]
    assert list(channels_of({}, batch("a", source="channel.presence"))) == []
    assert list(channels_of({}, batch("[meta]a", ""))) == []
    with pytest.raises(BadParameter):
        channels_of({}, b"null")


def test_the_time_of_the_oldest_edited_message_is_returned_with_its_channel():
    def item(channel, *messages):
        return {"source": "channel.message", "data": {"channelId": channel, "messages": messages}}

    body = {
        "items": [
            item("a", {"action": 1, "timestamp": 9}, {"action": "message.delete", "timestamp": 7}),
            item("a", {"action": 2, "timestamp": 8}, {"action": 5, "timestamp": 1}, 5, {}),
            item("b", {"action": 0, "timestamp": 3}, {"action": 1, "timestamp": "x"}),
            {"source": "channel.message", "data": {"channelId": "c", "messages": 5}},
        ]
    }
    assert channels_of({}, json.dumps(body).encode()) == {"a": 7, "b": None, "c": None}


@pytest.mark.parametrize("batched", [True, False])
async def test_a_rule_triggers_recording_and_a_backend_erases(database, batched):
    async with LocalAbly() as ably:
        settings = settings_for(
            database,
            ably,
            service_keys=SERVICE_KEY,
            webhook_secret=SECRET,
        )
        async with (
            served_beside(History(settings).app()) as url,
            httpx.AsyncClient(
                base_url=url, headers=bearer(SERVICE_KEY), timeout=PATIENCE_S
            ) as backend,
            History(settings) as elsewhere,
            AsyncExitStack() as stack,
        ):
            rule = WebhookRule(
                f"{url}{PATH}",
                batched=batched,
                signing_key=ably.key if batched else "",
                headers={} if batched else {"X-Rehydrate-Secret": SECRET},
            )
            webhook = Webhook(rule, ably.faults)
            ably.hub.listeners.append(webhook.listen)
            posting = asyncio.create_task(webhook.run())
            stack.callback(posting.cancel)
            async with elsewhere.respond("ruled", "r1") as response:
                response.write("heard of")
            path = "/v1/conversations/ruled"
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    row = (await elsewhere._store.load("ruled", limit=1, before=None)).conversation
                    if row is not None and row.watermark is not None:
                        break
                    await asyncio.sleep(0.05)
            assert [m["text"] for m in (await backend.get(path)).json()["messages"]] == ["heard of"]
            for _ in range(2):
                assert (await backend.delete(path)).status_code == 204
            assert (await backend.get(path)).json()["messages"] == []
            problem(await backend.delete(path, headers=bearer("nobody")), 401, "unauthorized")
