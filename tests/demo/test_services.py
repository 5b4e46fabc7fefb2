"""Missing services are started in the data folder, and shared between processes."""

from __future__ import annotations

import asyncio
import stat
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from rehydrate.demo.services import _channel, _stored_key, embedded
from rehydrate.errors import NotConfigured
from rehydrate.settings import load_settings


def test_concurrent_processes_generate_one_key_per_folder(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(_stored_key, [tmp_path / "key"] * 64))
    assert len(set(made)) == 1
    assert made[0].startswith("local.demo:")
    assert [each.name for each in tmp_path.iterdir()] == ["key"]
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert _stored_key(tmp_path / "key") == made[0]


def test_another_folder_has_another_key(tmp_path):
    assert _stored_key(tmp_path / "one") != _stored_key(tmp_path / "two")


async def test_configured_services_are_not_started(configured, tmp_path):
    given = load_settings(**configured, REHYDRATE_DATA_DIR=tmp_path / "data")
    async with embedded(given) as completed:
        assert completed == given
    assert list((tmp_path / "data").iterdir()) == []


async def test_a_second_process_shares_the_channel_server_of_the_first(tmp_path):
    settings = load_settings(REHYDRATE_DATA_DIR=tmp_path)
    first, second = {}, {}
    async with _channel(settings, first):
        async with _channel(settings, second):
            assert first == second
        time = f"http://127.0.0.1:{first['ably_port']}/time"
        async with httpx.AsyncClient() as http:
            assert (await http.get(time)).status_code == 200, "it outlives who did not start it"
    async with httpx.AsyncClient() as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(time)


async def test_concurrent_processes_start_one_channel_server(tmp_path):
    settings = load_settings(REHYDRATE_DATA_DIR=tmp_path)
    here, ports = asyncio.Barrier(3), []

    async def ask():
        found = {}
        async with _channel(settings, found):
            ports.append(found["ably_port"])
            await here.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(ask())
    assert len(ports) == 3
    assert len(set(ports)) == 1


async def test_a_folder_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").touch()
    settings = load_settings(REHYDRATE_DATA_DIR=tmp_path / "file" / "folder")
    with pytest.raises(NotConfigured, match="REHYDRATE_DATA_DIR"):
        async with embedded(settings):
            pass
