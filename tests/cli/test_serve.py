"""`rehydrate serve` prints when it is ready, and shuts down cleanly."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket

import httpx
import pytest

from demo.command_line import Command, ran, refuses
from embedded.channel_owners import channel_servers
from postgres.embedded_owners import guard_of, wait_until
from rehydrate.cli.serve import _listen
from rehydrate.embedded.postgres import EmbeddedPostgres
from rehydrate.errors import NotConfigured
from waiting import PATIENCE_S


async def test_it_serves_once_ready_is_printed_and_exits_with_0_at_sigterm(configured):
    async with Command("serve", **configured) as service:
        url = await service.ready()
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as http:
            assert (await http.get("/healthz")).status_code == 200
            assert (await http.get("/readyz")).status_code == 200
        result = await service.terminated()
    assert result.code == 0
    assert result.out == "", "one line, and it was read"
    assert "Traceback" not in result.err
    assert refuses(int(url.rpartition(":")[2]))


async def test_its_log_is_json_lines_without_secrets(configured):
    async with Command("serve", **configured) as service:
        url = await service.ready()
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as http:
            token = configured["REHYDRATE_SERVICE_KEYS"]
            await http.get("/v1/conversations/c", headers={"authorization": f"Bearer {token}"})
        result = await service.terminated()
    lines = [json.loads(line) for line in result.err.splitlines()]
    assert any("/v1/conversations" in json.dumps(line) for line in lines)
    for name in ("REHYDRATE_DATABASE_URL", "REHYDRATE_SERVICE_KEYS", "ABLY_API_KEY"):
        assert configured[name] not in result.err


async def fired(fault):
    """Wait until the fault has fired."""
    for _ in range(1000):
        if fault.fired:
            return
        await asyncio.sleep(0.01)
    pytest.fail("no request was stalled")


async def test_a_request_in_progress_is_answered_before_shutdown(configured, ably):
    async with Command("serve", **configured) as service:
        url = await service.ready()
        headers = {"authorization": f"Bearer {configured['REHYDRATE_SERVICE_KEYS']}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE_S) as http:
            body = {"messages": [{"id": "p", "role": "user", "text": "hello"}]}
            await http.post("/v1/conversations/c/messages", json=body)
            with ably.faults.on("stall_requests", seconds=1) as stalled:
                asking = asyncio.create_task(http.get("/v1/conversations/c"))
                await fired(stalled)
                service.send(signal.SIGTERM)
                answer = await asking
        assert answer.json()["messages"][0]["text"] == "hello"
        assert (await service.end()).code == 0


async def test_an_embedded_service_starts_the_missing_services_and_logs_their_folder(tmp_path):
    settings = {"REHYDRATE_DATA_DIR": tmp_path, "REHYDRATE_PORT": "0"}
    async with Command("serve", "--embedded", **settings) as service:
        url = await service.ready()
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as http:
            ready = await http.get("/readyz")
        result = await service.terminated()
    assert ready.status_code == 200
    assert result.code == 0
    assert str(tmp_path) in result.err
    key = (tmp_path / "localably" / "key").read_text()
    assert key not in result.err


async def test_an_embedded_service_is_not_ready_while_a_service_of_its_own_is_down(tmp_path):
    settings = {"REHYDRATE_DATA_DIR": tmp_path, "REHYDRATE_PORT": "0"}
    async with Command("serve", "--embedded", **settings) as service:
        url = await service.ready()
        servers = [EmbeddedPostgres(tmp_path / "postgres").pid]
        servers += channel_servers(tmp_path / "localably")
        assert len(servers) == 2
        for pid in servers:
            guard = guard_of(pid)
            os.kill(guard, signal.SIGSTOP)  # so that it cannot restart its server
            os.kill(pid, signal.SIGKILL)
            assert await asyncio.to_thread(readiness, url) == 503
            os.kill(guard, signal.SIGCONT)
            await asyncio.to_thread(wait_until, lambda: readiness(url) == 200, 60)
        assert (await service.terminated()).code == 0


def readiness(url):
    return httpx.get(f"{url}/readyz", timeout=30).status_code


async def test_all_addresses_of_a_host_name_use_one_port():
    sockets = await _listen("localhost", 0)
    try:
        assert len({each.getsockname()[1] for each in sockets}) == 1
    finally:
        for each in sockets:
            each.close()


async def test_an_address_that_the_machine_lacks_is_left_out(monkeypatch):
    """`localhost` also resolves to ``::1`` where IPv6 is switched off."""
    resolve = asyncio.get_running_loop().getaddrinfo

    async def with_a_foreign_address(host, port, **how):
        foreign = await resolve("192.0.2.1", port, **how)
        return [*foreign, *await resolve("127.0.0.1", port, **how), *foreign]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", with_a_foreign_address)
    (only,) = await _listen("localhost", 0)
    with only:
        assert only.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("port", ["-1", "65536", "99999"])
async def test_a_port_out_of_range_is_one_line_and_exit_code_2(port):
    result = await ran("serve", "--port", port)
    assert (result.code, result.out) == (2, "")
    (line,) = result.err.splitlines()
    assert "port: Input should be" in line


async def test_an_address_that_cannot_be_bound_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(NotConfigured, match=rf"REHYDRATE_PORT.*127\.0\.0\.1:{port}"):
            await _listen("127.0.0.1", port)
    with pytest.raises(NotConfigured, match=r"REHYDRATE_HOST.*192\.0\.2\.1"):
        await _listen("192.0.2.1", 0)
