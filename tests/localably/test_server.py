from __future__ import annotations

import asyncio

import aiohttp
import pytest

from channel_server.clients import Clients
from localably import LocalAbly, LocalAblySettings


async def test_it_serves_within_its_block_and_releases_its_port():
    async with LocalAbly() as first:
        port = first.port
        assert first.url == f"http://127.0.0.1:{port}"
        with pytest.raises(OSError, match="address already in use"):
            await LocalAbly(port).start()
    async with LocalAbly(port) as second:
        assert second.port == port


async def test_it_leaves_no_task_behind():
    before = asyncio.all_tasks()
    async with LocalAbly() as server:
        clients = Clients(server)
        await clients.realtime()
        await clients.close()
    await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() - before if "localably" in repr(task.get_coro())]
    assert left == []


async def test_it_listens_on_the_loopback_interface_only(server):
    sockets = [site._server.sockets[0].getsockname() for site in server._runner.sites]
    assert sockets == [("127.0.0.1", server.port)]


async def test_rtn23_idle_connections_stay_up(js):
    async with LocalAbly(settings=LocalAblySettings(max_idle_interval_s=1.5)) as server:
        seen = await js("heartbeat", on=server)
    assert seen == {"dropped": 0, "same": True, "ping": "number"}


async def test_two_servers_run_in_one_process():
    async with LocalAbly() as one, LocalAbly() as two:
        assert one.port != two.port
        async with aiohttp.ClientSession() as session, session.get(f"{two.url}/time") as answer:
            assert answer.status == 200
