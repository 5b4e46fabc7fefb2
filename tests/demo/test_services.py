"""Missing services are started in the data folder, and shared between processes."""

from __future__ import annotations

import asyncio
import os
import signal

import httpx
import pytest

from embedded.channel_owners import channel_servers
from postgres.embedded_owners import guard_of, is_running, run_when_back, wait_until
from rehydrate.demo.services import NotRunning, embedded
from rehydrate.embedded.postgres import EmbeddedPostgres
from rehydrate.errors import NotConfigured
from rehydrate.settings import load_settings


async def test_configured_services_are_not_started(configured, tmp_path):
    given = load_settings(**configured, REHYDRATE_DATA_DIR=tmp_path / "data")
    async with embedded(given) as completed:
        assert completed == given
    assert list((tmp_path / "data").iterdir()) == []


async def test_services_that_end_are_started_again_for_as_long_as_they_are_used(tmp_path):
    """The guards restart their servers; here the guards are killed as well."""
    async with embedded(load_settings(REHYDRATE_DATA_DIR=tmp_path)) as completed:
        channel = f"http://127.0.0.1:{completed.ably_port}/time"
        servers = [EmbeddedPostgres(tmp_path / "postgres").pid]
        servers += channel_servers(tmp_path / "localably")
        for pid in servers:
            os.kill(guard_of(pid), signal.SIGKILL)
        for pid in servers:
            await asyncio.to_thread(wait_until, lambda pid=pid: not is_running(pid))
        await asyncio.to_thread(wait_until, lambda: answers(channel))
        await run_when_back(completed.required_database_url(), "select 1")


def answers(url):
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


async def test_a_folder_that_cannot_be_created_is_named(tmp_path):
    (tmp_path / "file").touch()
    settings = load_settings(REHYDRATE_DATA_DIR=tmp_path / "file" / "folder")
    with pytest.raises(NotConfigured, match="REHYDRATE_DATA_DIR"):
        async with embedded(settings):
            pass


async def test_a_service_that_cannot_start_is_named_with_its_folder(tmp_path):
    (tmp_path / "postgres").touch()
    settings = load_settings(REHYDRATE_DATA_DIR=tmp_path)
    with pytest.raises(NotRunning, match=f"PostgreSQL cannot use {tmp_path}"):
        async with embedded(settings):
            pass
