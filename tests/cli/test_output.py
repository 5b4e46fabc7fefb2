"""Output of the commands at terminals, pipes and files that a user may give them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import pty
import secrets
import signal
import subprocess
import sys
import termios
import time

import pytest

from demo.command_line import environment, settings_on
from participants import publisher_to
from postgres.embedded_owners import wait_until
from rehydrate import History, NewMessage
from rehydrate.cli.output import NotWritten, PrintableOutput, printable
from rehydrate.settings import load_settings
from waiting import PATIENCE_S

pytestmark = pytest.mark.filterwarnings("ignore:The 'warn' method:DeprecationWarning:ably")

REHYDRATE = (sys.executable, "-m", "rehydrate", "--quiet")
PIPE_BYTES = 60_000
HOSTILE = "\x1b]0;owned\x07a\x1b[2J\x9b31mb\rc\x7f\x00\n\td é 👨‍👩‍👧‍👦 مرحبا"
SHOWN = "\\u001b]0;owned\\u0007a\\u001b[2J\\u009b31mb\\u000dc\\u007f\\u0000\n\td é 👨‍👩‍👧‍👦 مرحبا"


@pytest.fixture
def configured(module_database, ably):
    return settings_on(module_database, ably)


@pytest.fixture
async def conversation(configured):
    """A conversation with a text of another publisher."""
    conversation_id = f"t-{secrets.token_hex(4)}"
    async with History(load_settings(**configured)) as history:
        message = NewMessage("r-1", "assistant", text=HOSTILE)
        await history.store_messages(conversation_id, [message])
    return conversation_id


def controls(text):
    return [c for c in text if (c < " " or "\x7f" <= c < "\xa0") and c not in "\n\t"]


async def at_a_terminal(configured, *argv, until=None):
    """Run a command whose standard streams are a terminal, to its end or to *until*."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *REHYDRATE, *argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(**configured)
    )
    os.close(theirs)
    shown = bytearray()

    def read():
        with contextlib.suppress(OSError):  # the terminal of a process that has ended
            while block := os.read(ours, 4096):
                shown.extend(block)
                if until is not None and until.encode() in shown:
                    process.send_signal(signal.SIGINT)

    try:
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.to_thread(read)
            code = await process.wait()
    finally:
        os.close(ours)
        if process.returncode is None:
            process.kill()
            await process.wait()
    return code, shown.decode().replace("\r\n", "\n")  # the terminal's own


async def with_shell(configured, script, *argv):
    """Run a command as ``"$@"`` of a shell script; return its exit code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", script, "sh", *REHYDRATE, *argv),
        env=environment(**configured),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(PATIENCE_S):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


def test_control_characters_are_escaped_except_line_feed_and_tab():
    assert printable(HOSTILE) == SHOWN
    every = "".join(map(chr, range(0x3000)))
    assert controls(printable(every)) == []
    assert len(controls(every)) == 63


async def test_a_terminal_receives_no_control_sequence_of_a_stored_text(configured, conversation):
    code, shown = await at_a_terminal(configured, "hydrate", conversation)
    assert (code, shown) == (0, f"assistant r-1\n{SHOWN}\n\n")


async def test_json_for_a_terminal_is_escaped_and_unchanged_in_meaning(configured, conversation):
    code, shown = await at_a_terminal(configured, "hydrate", conversation, "--json")
    assert code == 0
    assert controls(shown) == []
    assert json.loads(shown)["messages"][0]["text"] == HOSTILE


@pytest.mark.parametrize("options", [(), ("--json",)])
async def test_a_terminal_receives_no_control_sequence_of_live_events(
    configured, conversation, ably, options
):
    async with publisher_to(ably, f"ai:{conversation}") as publisher:
        await publisher.stream("r\x1b[2J", "Once\x1b[2J", stop=False)
        await publisher.publish_message(
            "tool_call", {"name": "\x9b2J"}, rid="r\x1b[2J", toolCallId="\x1b[2J"
        )
        await publisher.publish_message("user-input", {"promptId": "p", "text": "\x1b[2J"})
        code, shown = await at_a_terminal(
            configured, "follow", conversation, *options, until="\\u001b[2J"
        )
    assert code == 0
    assert controls(shown) == []
    assert "\\u009b31m" in shown


async def test_an_error_about_a_hostile_id_is_escaped(configured):
    code, shown = await at_a_terminal(configured, "hydrate", "a\x1b[2J")
    assert code == 2
    assert controls(shown) == []


@pytest.mark.parametrize("closing", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
async def test_closed_standard_streams_are_like_the_null_device(configured, conversation, closing):
    ended = await with_shell(configured, f'exec "$@" {closing}', "hydrate", conversation)
    assert ended == (0, "" if ">&-" in closing.split() else f"assistant r-1\n{SHOWN}\n\n", "")


async def test_a_server_runs_without_standard_streams(configured):
    script = '"$@" <&- >&- 2>&- & sleep 0.1; kill -0 $! && kill $! && wait $!'
    ended = await with_shell(configured, script, "local-ably", "--port", "0")
    assert ended[0] in {0, 128 + signal.SIGTERM}, "not aborted"


async def test_a_full_disk_is_one_line(configured, conversation):
    code, _, err = await with_shell(configured, '"$@" > /dev/full', "hydrate", conversation)
    assert code == 1
    assert err == "rehydrate: cannot write to standard output (No space left on device)\n"
    code, out, err = await with_shell(configured, '"$@" 2> /dev/full', "hydrate", "[x")
    assert (code, out, err) == (2, "", "")


@pytest.mark.parametrize("argv", [("hydrate",), ("hydrate", "--json"), ("follow",)])
async def test_a_closed_pipe_is_a_quiet_end(configured, conversation, argv):
    code, _, err = await with_shell(
        configured, '{ "$@"; echo $? >&2; } | true', argv[0], conversation, *argv[1:]
    )
    assert code == 0
    assert err in ({"0\n", "1\n"} if argv[0] == "hydrate" else {"0\n"})


async def test_a_full_pipe_that_does_not_block_loses_nothing(configured):
    """A program that shares the pipe may have made it non-blocking."""
    conversation_id, text = f"t-{secrets.token_hex(4)}", "x" * 500_000
    async with History(load_settings(**configured)) as history:
        message = NewMessage("r-1", "assistant", text=text)
        await history.store_messages(conversation_id, [message])
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    process = await asyncio.create_subprocess_exec(
        *REHYDRATE,
        *("hydrate", conversation_id),
        stdout=writing,
        stderr=subprocess.PIPE,
        env=environment(**configured),
    )
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        received = await asyncio.to_thread(pipe.read)
    _, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert received.decode() == f"assistant r-1\n{text}\n\n"


INTERRUPTED = """
import signal, sys
from rehydrate.cli.output import open_standard_streams, printable_output
interrupted = []
signal.signal(signal.SIGALRM, lambda *_: interrupted.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
open_standard_streams()
with printable_output():
    sys.stdout.write("x" * 500_000)
signal.setitimer(signal.ITIMER_REAL, 0)
assert interrupted
"""


@pytest.mark.parametrize("options", [(), ("-u",)], ids=str)
def test_a_write_that_signals_interrupt_loses_nothing(options):
    """A write to a full pipe then ends with what the reader had read; ``-u`` removes the buffer."""
    reading, writing = os.pipe()
    command = [sys.executable, *options, "-c", INTERRUPTED]
    with subprocess.Popen(command, stdout=writing) as process, os.fdopen(reading, "rb") as pipe:
        os.close(writing)
        wait_until(lambda: unread(reading) >= PIPE_BYTES)
        time.sleep(0.1)  # some signals
        assert len(pipe.read()) == 500_000
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_follow_ends_while_its_reader_does_not_read(configured, ably, number):
    conversation_id = f"t-{secrets.token_hex(4)}"
    async with publisher_to(ably, f"ai:{conversation_id}") as publisher:
        for seq in range(1, 6):
            await publisher.publish_message("token", "x" * 50_000, rid="r", seq=seq)
        reading, writing = os.pipe()
        process = await asyncio.create_subprocess_exec(
            *(*REHYDRATE, "follow", conversation_id),
            stdout=writing,
            stderr=subprocess.PIPE,
            env=environment(**configured),
        )
        os.close(writing)
        try:
            await asyncio.to_thread(wait_until, lambda: unread(reading) >= PIPE_BYTES)
            process.send_signal(number)
            async with asyncio.timeout(PATIENCE_S):
                _, err = await process.communicate()
        finally:
            os.close(reading)
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert (process.returncode, err) == (0, b"")


def unread(pipe):
    """Return the number of bytes in *pipe*."""
    counted = fcntl.ioctl(pipe, termios.FIONREAD, bytes(4))
    return int.from_bytes(counted, sys.byteorder)


def test_a_failed_write_is_named_or_is_the_readers_end():
    class Failing:
        def __init__(self, number):
            self.number = number

        def write(self, _):
            raise OSError(self.number, os.strerror(self.number))

        def fileno(self):
            raise OSError

    for number, is_fault in ((errno.EPIPE, False), (errno.ENOSPC, True)):
        out = PrintableOutput(Failing(number))
        with pytest.raises(NotWritten) as caught:
            out.write("x")
        assert caught.value.is_fault is is_fault
        assert not out.writing
