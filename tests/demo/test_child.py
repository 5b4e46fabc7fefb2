"""A child process ends with its parent, however the parent ended."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from waiting import PATIENCE_S

ENDS = "import os, sys, time; from rehydrate.demo import child; "


async def started(script):
    """Start a process with a pipe as its standard input; wait until it reports that it runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert await process.stdout.readline() == b"runs\n"
    return process


async def ended(process):
    try:
        return await asyncio.wait_for(process.wait(), PATIENCE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await process.stdout.read()


def child_that(does, **constants):
    """Return the script of a child whose command is replaced by *does*."""
    changed = "".join(f"child.{name} = {value}; " for name, value in constants.items())
    return (
        f"{ENDS}{changed}import rehydrate.cli.main, threading\n"
        f"def main(argv):\n    {does}\n"
        "rehydrate.cli.main.main = main\n"
        "sys.exit(child.main())\n"
    )


RUNS = "print('runs', flush=True); "


async def test_a_child_is_terminated_when_its_parent_closes_the_pipe():
    process = await started(child_that(RUNS + "time.sleep(60)"))
    await asyncio.sleep(0.3)
    assert process.returncode is None
    process.stdin.write(b"a word does not end it")
    await process.stdin.drain()
    await asyncio.sleep(0.3)
    assert process.returncode is None
    process.stdin.close()
    assert await ended(process) == -signal.SIGTERM


async def test_a_child_that_ignores_sigterm_is_killed_after_its_parent_ended():
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    process = await started(child_that(deaf + RUNS + "time.sleep(60)", END_TIMEOUT_S=0.3))
    process.stdin.close()
    assert await ended(process) == -signal.SIGKILL


async def test_a_childs_exit_code_is_that_of_its_command():
    process = await started(child_that(RUNS + "return 3"))
    assert await ended(process) == 3
    process.stdin.close()


async def test_a_command_receives_the_childs_arguments():
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rehydrate.demo.child", "--help"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert b"usage: rehydrate" in out
