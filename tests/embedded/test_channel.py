"""The embedded channel server: its key, and odd files in its folder."""

from __future__ import annotations

import shutil
import stat

import pytest
from ably import AblyRest

from embedded.channel_owners import channel_servers
from rehydrate.embedded.channel import EmbeddedChannel
from rehydrate.embedded.folder import EmbeddedError


async def history_of(server):
    async with AblyRest(
        server.key, endpoint="127.0.0.1", port=server.port, tls=False, use_token_auth=True
    ) as ably:
        page = await ably.channels.get("persisted:a").history()
        return [message.data for message in page.items]


async def test_messages_survive_a_stop_and_the_key_is_private(tmp_path):
    with EmbeddedChannel(tmp_path) as server:
        key = server.key
        async with AblyRest(
            key, endpoint="127.0.0.1", port=server.port, tls=False, use_token_auth=True
        ) as ably:
            await ably.channels.get("persisted:a").publish("m", "kept")
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    with EmbeddedChannel(tmp_path) as server:
        assert server.key == key
        assert await history_of(server) == ["kept"]


@pytest.mark.parametrize("name", ["key", "port", "log", "log.1", "owner.lock", "server.lock"])
@pytest.mark.parametrize("content", [b"", b"\xff", b"ready http://127.0.0.1:99999\n", b"1"])
async def test_a_file_with_odd_content_counts_as_absent(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with EmbeddedChannel(tmp_path) as server:
        assert await history_of(server) == []


async def test_a_copy_of_a_running_servers_folder_is_a_server_of_its_own(tmp_path):
    with EmbeddedChannel(tmp_path / "a") as original:
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        with EmbeddedChannel(tmp_path / "b") as copied:
            assert copied.owned
            assert copied.port != original.port
            assert len(channel_servers(tmp_path / "a")) == 1
            assert len(channel_servers(tmp_path / "b")) == 1
            assert await history_of(copied) == []


def test_a_server_that_was_not_started_has_neither_url_nor_key(tmp_path):
    server = EmbeddedChannel(tmp_path)
    assert not server.answers()
    with pytest.raises(EmbeddedError, match="start it"):
        _ = server.url
    with pytest.raises(EmbeddedError, match="no key"):
        _ = server.key
