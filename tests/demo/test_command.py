"""``rehydrate demo``: it runs, it checks, and no process is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys

import httpx
import pytest

from demo.command_line import Command, all_gone, listening_ports, processes_on, ran, refuses
from rehydrate.demo.check import Join, Report
from rehydrate.demo.command import _table
from rehydrate.demo.texts import tokens_of
from waiting import PATIENCE_S

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


async def inspected(tour):
    """Open the inspector at the printed URL, with the printed key."""
    key, page = re.search(r"admin key (\S+):\n\n +(http://\S+/ui)#/c/demo\n", tour).groups()
    async with httpx.AsyncClient(
        headers={"authorization": f"Bearer {key}"}, timeout=PATIENCE_S
    ) as http:
        answer = await http.get(page.removesuffix("/ui") + "/v1/admin/health")
        return (await http.get(page)).raise_for_status().text, answer.raise_for_status().json()


async def shown(curl):
    """Return the answer to the ``curl`` command that the demo prints."""
    token, url = re.search(r"TOKEN=(\S+)\n.* (http://\S+)", curl).groups()
    async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
        answer = await http.get(url, headers={"authorization": f"Bearer {token}"})
    return answer.raise_for_status().json()


@needs_proc
@pytest.mark.slow
async def test_two_demos_share_a_folder_and_leave_no_process_at_sigterm(tmp_path):
    async with Command("demo", REHYDRATE_DATA_DIR=tmp_path) as first:
        url = await first.ready()
        await first.prints("A chat with")
        ports = listening_ports(processes_on(tmp_path))
        assert int(url.rpartition(":")[2]) in ports
        assert len(ports) == 5, "the database, the channel server, the service, a model, a chat"
        async with Command("demo", REHYDRATE_DATA_DIR=tmp_path) as second:
            await second.ready()
            lines = processes_on(tmp_path).values()
            assert sum("--quiet local-ably" in line for line in lines) == 1, "and its guard"
            assert sum(bool(re.search(r"postgres .*-D", line)) for line in lines) == 1
            assert sum("--quiet serve" in line for line in lines) == 2
            assert (await second.terminated()).code == 0
        page, health = await inspected(first.stderr_text)
        assert page.startswith("<!doctype html>")
        assert health["status"] in ("ok", "degraded")
        (response, *_) = (await shown(first.stderr_text))["messages"]
        assert response["text"], "the first lives on: it owns what they shared"
        result = await first.terminated()
    assert result.code == 0
    assert str(tmp_path) in result.err
    assert "Traceback" not in result.err
    assert "WARNING" not in result.err
    await all_gone(tmp_path)
    assert all(refuses(port) for port in ports)


@needs_proc
@pytest.mark.slow
async def test_a_killed_check_leaves_no_orphans(tmp_path):
    async with Command("demo", "--check", REHYDRATE_DATA_DIR=tmp_path) as demo:
        await demo.prints("joining 50 times")
        await asyncio.sleep(1)
        os.kill(demo.pid, signal.SIGKILL)
        await demo.end()
        await all_gone(tmp_path)


@pytest.mark.slow
async def test_the_check_joins_and_prints_a_json_object(tmp_path):
    result = await ran("demo", "--check", "--json", "--joins", "4", REHYDRATE_DATA_DIR=tmp_path)
    assert result.code == 0, result.out + result.err
    *table, last = result.out.splitlines()
    result_json = json.loads(last)
    assert {"joins", "characters", "lost", "doubled", "p50_ms", "p95_ms", "by_client"} <= set(
        result_json
    )
    assert (result_json["joins"], result_json["lost"], result_json["doubled"]) == (4, 0, 0)
    assert result_json["characters"] > 100
    assert result_json["interleaved"]["switches"] > 10
    assert {"rest", "ably-python"} <= set(result_json["by_client"])
    assert bool(result_json["skipped"]) == ("ably-js" not in result_json["by_client"])
    assert table[-1] == "every character is exact"
    assert "Traceback" not in result.err


@pytest.mark.parametrize("word", ["starting Postgres", "starting the service"])
async def test_a_demo_stopped_during_startup_ends_cleanly(tmp_path, word):
    async with Command("demo", REHYDRATE_DATA_DIR=tmp_path) as demo:
        await demo.prints(word)
        result = await demo.terminated()
    assert result.code == 0
    assert "Traceback" not in result.err
    if sys.platform == "linux":
        await all_gone(tmp_path)


async def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").touch()
    result = await ran("demo", REHYDRATE_DATA_DIR=tmp_path / "file" / "folder")
    assert result.code == 2
    assert "REHYDRATE_DATA_DIR" in result.err.splitlines()[-1]
    assert "Traceback" not in result.err


def test_the_table_reports_an_inexact_result():
    text = "".join(tokens_of("r"))
    good = Report([Join("rest", [("r", "completed", text, None)], [0.01])], 5, 3, [])
    bad = Report(
        [Join("rest", [("r", "completed", text[1:], None)], [0.01])], 5, 3, ["ably-js: no"]
    )
    assert _table(good).endswith("every character is exact\n")
    assert _table(bad).endswith("NOT EXACT\n")
    assert "skipped ably-js: no" in _table(bad)
