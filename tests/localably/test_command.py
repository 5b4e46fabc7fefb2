"""The server as a separate process."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from types import SimpleNamespace

import aiohttp
import pytest

from channel_server.command_line import KEY, running
from channel_server.node import run_scenario
from localably.command import main
from waiting import PATIENCE_S


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_it_prints_its_address_and_ends_cleanly(number):
    async with running("--key", KEY) as (process, url):
        async with aiohttp.ClientSession() as session, session.get(f"{url}/time") as answer:
            assert answer.status == 200
        process.send_signal(number)
        async with asyncio.timeout(PATIENCE_S):
            out, err = await process.communicate()
        assert (process.returncode, out) == (0, b"")
        assert b"secret" not in err
        assert KEY.encode() not in err


async def test_a_taken_port_is_an_error_and_exit_code_2():
    async with running("--key", KEY) as (_, url):
        port = url.rpartition(":")[2]
        other = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "localably", "--port", port,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, err = await asyncio.wait_for(other.communicate(), PATIENCE_S)
        assert other.returncode == 2
        assert b"in use" in err


@pytest.mark.parametrize(
    "arguments",
    [["--key", "nonsense"], ["--config", "/no/such/file"], ["--data-dir", "/dev/null/x"]],
)
def test_an_invalid_option_is_reported_with_exit_code_2(arguments, capsys):
    assert main(["--port", "0", *arguments]) == 2
    assert capsys.readouterr().err.startswith("localably: ")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_it_runs_without_standard_streams(closed):
    """uvloop aborts the process if one of its own descriptors has the number of one."""
    script = f'"$@" {closed} & sleep 2; kill $! && wait $!'
    argv = ("/bin/sh", "-c", script, "sh", sys.executable, "-m", "localably", "--port", "0")
    ended = subprocess.run(argv, timeout=30, check=False, stdout=subprocess.DEVNULL)
    assert ended.returncode in {0, 128 + signal.SIGTERM}, "not aborted"


@pytest.mark.parametrize(("to", "code", "lines"), [("| true", 0, 0), ("> /dev/full", 2, 1)])
def test_an_output_that_accepts_nothing_is_no_traceback(to, code, lines):
    script = f'"$@" {to}'
    argv = ("/bin/sh", "-c", script, "sh", sys.executable, "-m", "localably")
    ended = subprocess.run(
        [*argv, "--port", "0", "--key", KEY], timeout=30, check=False, capture_output=True
    )
    assert (ended.returncode, len(ended.stderr.splitlines())) == (code, lines)


def test_help_describes_the_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "--data-dir" in capsys.readouterr().out


async def test_as_a_process_it_serves_stock_ably_js_too(node_modules):
    async with running("--key", KEY) as (_, url):
        there = SimpleNamespace(port=int(url.rpartition(":")[2]), key=KEY)
        for binary in (True, False):
            seen = await run_scenario(node_modules, there, "resume", binary=binary, given={})
            assert seen["data"] == ["before", "meanwhile 1", "meanwhile 2", "after"]
