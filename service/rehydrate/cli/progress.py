"""A replay in the terminal: a bar that shows how far it is, until it has ended or is cancelled."""

from __future__ import annotations

import asyncio
import getpass
import json
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from rehydrate.core.replay.requests import Asker, Replay, ReplayTerms
from rehydrate.core.replay.schedule import listed
from rehydrate.history import History

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rehydrate.replay.requests import Asked

LOOK_EVERY_S = 0.2
CANCEL_WITHIN_S = 15.0
"""How long a cancelled replay is waited for: longer than a dead process's lease."""

_WIDTH = 30
_INTERRUPTED = 130
_MOST_LISTED = 1_000
_TENTHS = 10


class Bar:
    """Shows how far a replay is: in place on a terminal, else a line every tenth of it.

    Args:
        out: where to; None: nowhere.
    """

    def __init__(self, out: TextIO | None) -> None:
        self._out = out
        self._shown = ""
        self._tenth = -1

    def show(self, replay: Replay) -> None:
        """Show *replay* as it stands."""
        if self._out is None:
            return
        share = replay.done / replay.chunks if replay.chunks else float(replay.ended)
        full = round(share * _WIDTH)
        line = (
            f"[{'#' * full}{'-' * (_WIDTH - full)}] {replay.done}/{replay.chunks} chunks  "
            f"{replay.seconds_done:.1f}/{replay.seconds:.1f} s  {replay.state}"
        )
        if not self._out.isatty():
            tenth = int(share * _TENTHS)
            if tenth > self._tenth or replay.ended:
                self._tenth = tenth
                self._out.write(f"{line}\n")
        elif line != self._shown:
            self._out.write(f"\r{line:<{len(self._shown)}}" + ("\n" if replay.ended else ""))
        self._shown = line
        self._out.flush()


async def replay(
    conversation_id: str,
    response_id: str,
    terms: ReplayTerms,
    *,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Replay a response, and show how far it is; SIGINT and SIGTERM cancel it; the exit code.

    Raises:
        RehydrateError: as `History.replay` does.
    """
    asker = Asker(f"command line: {_user()}")
    with _signalled() as cancelled:
        async with History() as history:
            if dry_run:
                asked = await history.replay_dry_run(
                    conversation_id, response_id, terms, asker=asker
                )
                _tell_schedule(asked, as_json=as_json)
                return 0
            begun = await history.replay(
                conversation_id, response_id, **terms._asdict(), asker=asker
            )
            ended = await _watch(history, begun, cancelled, asker, None if quiet else sys.stderr)
    _tell(ended, as_json=as_json)
    if ended.state == "done":
        return 0
    return _INTERRUPTED if cancelled.is_set() else 1


async def _watch(
    history: History,
    begun: Replay,
    cancelled: asyncio.Event,
    asker: Asker,
    out: TextIO | None,
) -> Replay:
    """Show how far it is until it has ended; once *cancelled*, end it."""
    bar, now, asked = Bar(out), begun, False
    loop = asyncio.get_running_loop()
    deadline_s = float("inf")
    bar.show(now)
    while not now.ended and loop.time() < deadline_s:
        if cancelled.is_set() and not asked:
            asked, deadline_s = True, loop.time() + CANCEL_WITHIN_S
            now = await history.cancel_replay(begun.id, asker=asker)
        else:
            await _pause(cancelled, asked=asked)
            now = await history.find_replay(begun.id)
        bar.show(now)
    return now


async def _pause(cancelled: asyncio.Event, *, asked: bool) -> None:
    try:
        async with asyncio.timeout(LOOK_EVERY_S):
            await (asyncio.Event() if asked else cancelled).wait()
    except TimeoutError:
        pass


@contextmanager
def _signalled() -> Iterator[asyncio.Event]:
    """An event that is set when the process is told to end."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, told.set)
    try:
        yield told
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _tell(ended: Replay, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(ended.body()) + "\n")
        return
    why = f": {ended.error.get('detail')}" if ended.error else ""
    sys.stdout.write(
        f"{ended.state}{why}, {ended.done} of {ended.chunks} chunks on {ended.channel} "
        f"as {ended.id if ended.terms.mode == 'stream' else ended.response_id}\n"
    )
    if ended.plan.get("even"):
        sys.stdout.write("its own pace is not recorded: it was spread evenly\n")
    if ended.plan.get("joined"):
        sys.stdout.write(
            f"{ended.plan['joined']} of its chunks were joined: the rate allows less\n"
        )
    if ended.plan.get("gaps"):
        sys.stdout.write(f"what is stored of it has gaps: {ended.plan['gaps']}\n")


def _tell_schedule(asked: Asked, *, as_json: bool) -> None:
    schedule = asked.schedule
    steps = listed(schedule, _MOST_LISTED) if schedule else []
    chunks, seconds = (schedule.chunks, schedule.seconds) if schedule else (1, 0.0)
    if as_json:
        told = {"channel": asked.channel, "chunks": chunks, "seconds": round(seconds, 3)}
        sys.stdout.write(json.dumps({**told, "schedule": steps}) + "\n")
        return
    for step in steps:
        joined = f"  ({step['joined']} joined)" if step["joined"] > 1 else ""
        sys.stdout.write(
            f"{step['at_s']:9.3f} s  {step['seq']:5} {step['kind']:<11} "
            f"{step['characters']:6} characters{joined}\n"
        )
    sys.stdout.write(f"{chunks} chunks in {seconds:.1f} s on {asked.channel}\n")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # there need be no name for whoever runs it
        return "?"
