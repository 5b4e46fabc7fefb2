"""Persisted channels survive a restart and a kill -9; others do not."""

from __future__ import annotations

import base64

import aiohttp
import pytest

from channel_server.clients import Clients, arrives, into
from channel_server.command_line import KEY, running
from localably import LocalAbly
from localably.store import ChannelStore

AUTH = {"Authorization": f"Basic {base64.b64encode(KEY.encode()).decode()}"}


async def call(url, method, path, body=None, **params):
    async with (
        aiohttp.ClientSession(url, headers=AUTH) as session,
        session.request(method, path, json=body, params=params) as answer,
    ):
        assert answer.status < 300, await answer.text()
        return await answer.json()


async def published(url, channel, *texts):
    return [
        (await call(url, "POST", f"/channels/{channel}/messages", {"data": text}))["serials"][0]
        for text in texts
    ]


async def history(url, channel):
    return [m["data"] for m in await call(url, "GET", f"/channels/{channel}/messages")]


async def test_all_acknowledged_messages_survive_kill_9(tmp_path):
    async with running("--key", KEY, "--data-dir", str(tmp_path)) as (process, url):
        [serial, *_] = await published(url, "mutable:a", "x", "y")
        for text in "bcd":
            path = f"/channels/mutable:a/messages/{serial}"
            await call(url, "PATCH", path, {"action": 5, "data": text})
        await call(
            url, "PATCH", f"/channels/mutable:a/messages/{serial}", {"action": 1, "data": "new"}
        )
        await published(url, "persisted:a", *"0123456789")
        await published(url, "plain", "gone")
        process.kill()
        await process.wait()
    async with running("--key", KEY, "--data-dir", str(tmp_path)) as (_, url):
        assert await history(url, "persisted:a") == list("9876543210")
        assert await history(url, "mutable:a") == ["y", "new"]
        path = f"/channels/mutable:a/messages/{serial}/versions"
        versions = await call(url, "GET", path)
        assert [(v["action"], v["data"]) for v in versions] == [(0, "x"), (1, "xbcd"), (1, "new")]
        assert await history(url, "plain") == []
        [later] = await published(url, "persisted:a", "later")
        assert later > serial


async def presence_history(server, channel):
    clients = Clients(server)
    rest = await clients.rest()
    found = [m.data for m in (await rest.channels.get(channel).presence.history()).items]
    await clients.close()
    return found


async def test_the_history_of_presence_survives_a_restart_and_can_be_expired(tmp_path):
    async with LocalAbly(keys=[KEY], data_dir=tmp_path) as server:
        clients = Clients(server)
        client = await clients.realtime(client_id="ann")
        await client.channels.get("persisted:a").presence.enter("hi")
        await client.channels.get("plain").presence.enter("hi")
        await clients.close()
    async with LocalAbly(keys=[KEY], data_dir=tmp_path) as server:
        assert await presence_history(server, "persisted:a") == ["hi", "hi"]  # enter, leave
        assert await presence_history(server, "plain") == []
        server.expire("persisted:a")
        assert await presence_history(server, "persisted:a") == []
    async with LocalAbly(keys=[KEY], data_dir=tmp_path) as server:
        assert await presence_history(server, "persisted:a") == []


async def test_a_client_continues_only_persisted_channels_after_a_restart(tmp_path):
    async with LocalAbly(data_dir=tmp_path) as server:
        clients = Clients(server)
        try:
            client = await clients.realtime(disconnected_retry_timeout=100)
            changes, got = [], []
            for name in ("persisted:a", "plain"):
                channel = client.channels.get(name)
                await channel.subscribe(into(got))
                channel.on("attached", into(changes))
            rest = await clients.rest()
            await rest.channels.get("persisted:a").publish("n", "1")
            await rest.channels.get("plain").publish("n", "2")
            await arrives(got, 2)
            server.restart()
            await arrives(changes, 2)
            assert [c.resumed for c in changes] == [True, False]
        finally:
            await clients.close()


async def test_idempotency_survives_a_restart(tmp_path):
    body = {"id": "mine:0", "data": "x"}
    async with LocalAbly(data_dir=tmp_path, keys=[KEY]) as server:
        first = await call(server.url, "POST", "/channels/persisted:a/messages", body)
        server.restart()
        again = await call(server.url, "POST", "/channels/persisted:a/messages", body)
        assert first["serials"] == again["serials"]
        assert await history(server.url, "persisted:a") == ["x"]


async def test_an_append_that_is_sent_again_after_kill_9_is_applied_once(tmp_path):
    def append(number):
        return {"action": 5, "id": f"append-{number}:0", "data": f" {number}"}

    async with running("--key", KEY, "--data-dir", str(tmp_path)) as (process, url):
        [serial] = await published(url, "mutable:a", "tok")
        path = f"/channels/mutable:a/messages/{serial}"
        first = [await call(url, "PATCH", path, append(number)) for number in (1, 2)]
        process.kill()
        await process.wait()
    async with running("--key", KEY, "--data-dir", str(tmp_path)) as (_, url):
        again = [await call(url, "PATCH", path, append(number)) for number in (1, 2)]
        assert again == first
        await call(url, "PATCH", path, append(3))
        assert await history(url, "mutable:a") == ["tok 1 2 3"]


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_batch_that_begins_with_an_ephemeral_message_is_stored_once(tmp_path, restarted):
    batch = [
        {"id": "mine:0", "data": "gone", "extras": {"ephemeral": True}},
        {"id": "mine:1", "data": "kept"},
    ]
    async with LocalAbly(data_dir=tmp_path, keys=[KEY]) as server:
        first = await call(server.url, "POST", "/channels/persisted:a/messages", batch)
        if restarted:
            server.restart()
        again = await call(server.url, "POST", "/channels/persisted:a/messages", batch)
        assert first["serials"] == again["serials"]
        assert await history(server.url, "persisted:a") == ["kept"]


async def test_a_channel_that_was_not_loaded_when_all_expired_is_not_resumed(tmp_path):
    async with LocalAbly(data_dir=tmp_path, keys=[KEY]) as server:
        [serial, _] = await published(server.url, "persisted:a", "x", "y")
        position = serial.partition(":")[0]
        channel = server.hub.channel(server.hub.apps["app"], "persisted:a")
        assert server.hub.continue_from(channel, position).error is None
        server.restart()
        server.expire()
        channel = server.hub.channel(server.hub.apps["app"], "persisted:a")
        assert server.hub.continue_from(channel, position).error.code == 90003


async def test_two_servers_do_not_share_a_folder(tmp_path):
    async with LocalAbly(data_dir=tmp_path):
        with pytest.raises(OSError, match="cannot be used"):
            ChannelStore(tmp_path)
    ChannelStore(tmp_path).close()


async def test_expired_and_purged_messages_do_not_come_back(tmp_path):
    async with LocalAbly(data_dir=tmp_path, keys=[KEY]) as server:
        await published(server.url, "persisted:a", "x")
        await published(server.url, "persisted:b", "y")
        assert server.expire("persisted:a") == 1
        server.restart()
        assert await history(server.url, "persisted:a") == []
        assert await history(server.url, "persisted:b") == ["y"]
    store = ChannelStore(tmp_path)
    store.purge(lambda *_: 0, 4_000_000_000_000)
    assert store._db.execute("SELECT count(*) FROM version").fetchone() == (0,)
    store.close()
