"""`rehydrate replay`, from the point of view of its user."""

from __future__ import annotations

import asyncio
import io
import json
import signal

import pytest

from demo.command_line import Command, ran, settings_on
from rehydrate import History, NewMessage
from rehydrate.cli.progress import ProgressBar
from rehydrate.core.replay.schedule import Replay, ReplayTerms
from rehydrate.settings import load_settings
from tcp_proxy import TcpProxy
from waiting import until

TOKENS = ["むかし", "👩‍👩‍👧", "x", "y", "z"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def replay(done, state="running"):
    return Replay(
        "c",
        "x",
        "r",
        "ai:c",
        ReplayTerms(),
        state,
        40,
        8.0,
        "a",
        0,
        {},
        done=done,
        seconds_done=done / 5,
    )


def test_on_a_terminal_the_bar_is_redrawn_in_place():
    out = Terminal()
    bar = ProgressBar(out)
    for done in (0, 0, 20, 39):
        bar.show(replay(done))
    bar.show(replay(40, "done"))
    text = out.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    first, half, most, whole = text.strip().split("\r")
    assert first.startswith("[" + "-" * 30 + "] 0/40 chunks  0.0/8.0 s  running")
    assert half.startswith("[" + "#" * 15 + "-" * 15 + "] 20/40 chunks  4.0/8.0 s")
    assert "39/40" in most
    assert whole.startswith("[" + "#" * 30 + "] 40/40 chunks  8.0/8.0 s  done")


def test_without_a_terminal_it_prints_one_line_per_tenth():
    out = io.StringIO()
    bar = ProgressBar(out)
    for done in range(40):
        bar.show(replay(done))
    bar.show(replay(40, "done"))
    assert len(out.getvalue().splitlines()) == 11
    ProgressBar(None).show(replay(1))


def test_a_replay_without_chunks_is_shown():
    out = io.StringIO()
    ProgressBar(out).show(replay(0, "done")._replace(chunks=0))
    assert "0/0 chunks" in out.getvalue()


@pytest.fixture
async def configured(database, ably):
    given = settings_on(database, ably)
    async with History(load_settings(**given)) as history:
        async with history.respond("c", "r") as response:
            for token in TOKENS:
                response.write(token)
                response.text  # noqa: B018 - settles
        await history.store_messages("c", [NewMessage("s", "assistant", text="stored " * 40)])
    return given


async def test_it_replays_and_prints_the_result(configured):
    result = await ran("replay", "c", "r", "--speed", "0", **configured)
    assert result.code == 0, result.err
    assert result.out.startswith("done: published 5 of 5 chunks on ai:c as replay-")
    assert "[" + "#" * 30 + "] 5/5 chunks" in result.err
    result = await ran("-q", "replay", "c", "r", "--speed", "4", "--json", **configured)
    result_json = json.loads(result.out.splitlines()[-1])
    assert (result_json["state"], result_json["done"], result_json["speed"]) == (
        "done",
        result_json["chunks"],
        4,
    )
    assert result_json["asked_by"].startswith("command line: ")
    assert "chunks" not in result.err


async def test_a_dry_run_prints_the_schedule(configured):
    result = await ran("replay", "c", "r", "--speed", "0", "--dry-run", **configured)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert len(lines) == 8
    assert lines[1].split()[2:5] == ["1", "token", "3"]
    assert "5 chunks" in lines[-1]
    result = await ran("replay", "c", "r", "--dry-run", "--json", **configured)
    assert json.loads(result.out)["schedule"][0]["kind"] == "start"
    result = await ran("replay", "c", "r", "--dry-run", "--mode", "repair", **configured)
    assert result.out == "1 chunks in 0.0 s on ai:c\n"


async def test_differences_from_the_original_are_printed(configured):
    result = await ran("-q", "replay", "c", "s", "--speed", "0", "--max-rate", "50", **configured)
    assert "spread evenly" in result.out
    result = await ran("-q", "replay", "c", "r", "--speed", "1000", "--max-rate", "5", **configured)
    assert "shared a channel message" in result.out


async def test_ctrl_c_cancels_the_replay(configured, database):
    argv = ("replay", "c", "s", "--speed", "0", "--max-rate", "2")
    async with Command(*argv, **configured) as command:
        await command.prints("running")
        command.send(signal.SIGINT)
        result = await command.end()
    assert result.code == 130
    assert result.out.startswith("cancelled: ")
    assert "Traceback" not in result.err
    async with History(load_settings(**configured)) as history:
        (newest, *_), _ = await history.admin.replays()
        assert newest.state == "cancelled"
        entries, _ = await history.admin.audit()
    assert {"replay", "replay_cancel"} <= {entry.action for entry in entries}


class HeldProxy(TcpProxy):
    """Accepts connections, and forwards nothing before `let_go`."""

    def __init__(self, url):
        super().__init__(url)
        self.reached, self.let_go = asyncio.Event(), asyncio.Event()

    async def _join(self, reader, writer):
        self.reached.set()
        await self.let_go.wait()
        await super()._join(reader, writer)


async def published(configured, replay_of):
    """Return the channel messages of replays, by name."""
    async with History(load_settings(**configured)) as history:
        pages = history._channel.history("ai:c", forwards=True)
        messages = [message async for page in pages for message in page]
        (found, _) = await history.admin.replays()
    headers = [(m.name, (m.extras or {}).get("headers", {})) for m in messages]
    return found, [name for name, each in headers if each.get("replayOf") == replay_of]


async def has_ended(history, replay_id):
    return (await history.admin.find_replay(replay_id)).ended


async def test_ctrl_c_before_it_begins_does_not_begin_it(configured, database):
    async with HeldProxy(database) as held:
        given = configured | {"REHYDRATE_DATABASE_URL": held.url}
        async with Command("replay", "c", "s", "--speed", "0", **given) as command:
            await asyncio.wait_for(held.reached.wait(), 30)
            command.send(signal.SIGINT)
            await asyncio.sleep(0.5)  # without an answer of the store
            held.let_go.set()
            result = await command.end()
    assert result.code == 130
    assert "Traceback" not in result.err
    assert await published(configured, "s") == ([], [])


async def test_failed_looks_are_repeated_until_the_store_answers_again(configured, database):
    async with TcpProxy(database) as proxy:
        given = configured | {"REHYDRATE_DATABASE_URL": proxy.url}
        argv = ("replay", "c", "s", "--speed", "0", "--max-rate", "8")
        async with Command(*argv, **given) as command:
            await command.prints("running")
            await proxy.disconnect()
            await command.prints("store is unavailable")
            await proxy.connect()
            result = await command.end()
    assert result.code == 0, result.err
    assert result.out.startswith("done: ")
    (replay,), names = await published(configured, "s")
    assert (replay.state, names.count("stop")) == ("done", 1)


async def test_ctrl_c_without_a_store_still_stops_the_stream(configured, database):
    async with TcpProxy(database) as proxy:
        given = configured | {"REHYDRATE_DATABASE_URL": proxy.url}
        argv = ("replay", "c", "s", "--speed", "0", "--max-rate", "8")
        async with Command(*argv, **given) as command:
            await command.prints("running")
            await proxy.disconnect()
            command.send(signal.SIGINT)
            result = await command.end()
    assert result.code == 130
    assert "Traceback" not in result.err
    (replay,), names = await published(configured, "s")
    assert names.count("stop") == 1
    async with History(load_settings(**configured)) as history:  # as any process of the service
        await until(lambda: has_ended(history, replay.id))
        assert (await history.admin.find_replay(replay.id)).state == "cancelled"
    _, names = await published(configured, "s")
    assert (names.count("start"), names.count("stop")) == (1, 1)


@pytest.mark.parametrize(
    ("argv", "code", "expected"),
    [
        (("c", "nobody"), 2, "no response"),
        (("c", "r", "--speed", "nan"), 2, "speed"),
        (("c", "r", "--channel", "[x]y"), 2, "channel"),
        (("c", "r", "--channel", "elsewhere"), 1, "REHYDRATE_REPLAY_CHANNELS"),
    ],
)
async def test_an_invalid_request_is_reported_on_one_line(configured, argv, code, expected):
    result = await ran("-q", "replay", *argv, **configured)
    assert result.code == code
    (line,) = result.err.splitlines()
    assert line.startswith("rehydrate: ")
    assert expected in line
