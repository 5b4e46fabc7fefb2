"""``rehydrate replay``: show the progress of a replay in the terminal until it ends or is cancelled."""

from __future__ import annotations

import asyncio
import getpass
import json
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from rehydrate.core.replay.schedule import Replay, ReplayTerms, Requester, listed
from rehydrate.history import History

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rehydrate.replay.requests import CheckedRequest

POLL_INTERVAL_S = 0.2
CANCEL_TIMEOUT_S = 15.0
"""Seconds to wait for a cancelled replay to end; longer than the lease of a process that died."""

_WIDTH = 30
_INTERRUPTED = 130
_MAX_LISTED = 1_000
_TENTHS = 10


class ProgressBar:
    """Progress of a replay: redrawn in place on a terminal, otherwise one line per tenth.

    Args:
        out: the stream to write to; None disables the output.
    """

    def __init__(self, out: TextIO | None) -> None:
        self._out = out
        self._shown = ""
        self._tenth = -1

    def show(self, replay: Replay) -> None:
        """Show the current progress of *replay*."""
        if self._out is None:
            return
        fraction = replay.done / replay.chunks if replay.chunks else float(replay.ended)
        full = round(fraction * _WIDTH)
        line = (
            f"[{'#' * full}{'-' * (_WIDTH - full)}] {replay.done}/{replay.chunks} chunks  "
            f"{replay.seconds_done:.1f}/{replay.seconds:.1f} s  {replay.state}"
        )
        if not self._out.isatty():
            tenth = int(fraction * _TENTHS)
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
    """Replay a response and show its progress; SIGINT and SIGTERM cancel it.

    Args:
        conversation_id: the conversation of the response.
        response_id: the response to publish again.
        terms: mode, speed, channel, first seq and rate.
        dry_run: print the schedule and publish nothing.
        as_json: print the result as JSON.
        quiet: show no progress.

    Returns:
        The exit code: 0 done, 1 failed, 130 cancelled by a signal.

    Raises:
        RehydrateError: as `History.replay` does.
    """
    asker = Requester(f"command line: {_user()}")
    with _cancelled_by_signal() as cancelled:
        async with History() as history:
            if dry_run:
                asked = await history.admin.replay_dry_run(
                    conversation_id, response_id, terms, asker=asker
                )
                _print_schedule(asked, as_json=as_json)
                return 0
            queued = await history.replay(
                conversation_id, response_id, **terms._asdict(), asker=asker
            )
            ended = await _watch(history, queued, cancelled, asker, None if quiet else sys.stderr)
    _print_result(ended, as_json=as_json)
    if ended.state == "done":
        return 0
    return _INTERRUPTED if cancelled.is_set() else 1


async def _watch(
    history: History,
    queued: Replay,
    cancelled: asyncio.Event,
    asker: Requester,
    out: TextIO | None,
) -> Replay:
    """Show the progress until the replay has ended; cancel it when *cancelled* is set."""
    bar, now, cancelling = ProgressBar(out), queued, False
    loop = asyncio.get_running_loop()
    deadline_s = float("inf")
    bar.show(now)
    while not now.ended and loop.time() < deadline_s:
        if cancelled.is_set() and not cancelling:
            cancelling, deadline_s = True, loop.time() + CANCEL_TIMEOUT_S
            now = await history.admin.cancel_replay(queued.id, asker=asker)
        else:
            await _pause(cancelled, cancelling=cancelling)
            now = await history.admin.find_replay(queued.id)
        bar.show(now)
    return now


async def _pause(cancelled: asyncio.Event, *, cancelling: bool) -> None:
    """Wait for the poll interval, or until *cancelled* is set for the first time."""
    try:
        async with asyncio.timeout(POLL_INTERVAL_S):
            await (asyncio.Event() if cancelling else cancelled).wait()
    except TimeoutError:
        pass


@contextmanager
def _cancelled_by_signal() -> Iterator[asyncio.Event]:
    """Yield an event that SIGINT and SIGTERM set."""
    cancelled = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, cancelled.set)
    try:
        yield cancelled
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _print_result(ended: Replay, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(ended.body()) + "\n")
        return
    why = f": {ended.error.get('detail')}" if ended.error else ""
    sys.stdout.write(
        f"{ended.state}{why}: published {ended.done} of {ended.chunks} chunks on {ended.channel} "
        f"as {ended.id if ended.terms.mode == 'stream' else ended.response_id}\n"
    )
    if ended.plan.get("even"):
        sys.stdout.write("the original timing is not recorded: chunks were spread evenly\n")
    if ended.plan.get("joined"):
        sys.stdout.write(
            f"{ended.plan['joined']} chunks shared a channel message to stay within the rate\n"
        )
    if ended.plan.get("gaps"):
        sys.stdout.write(f"the stored response has gaps: {ended.plan['gaps']}\n")


def _print_schedule(asked: CheckedRequest, *, as_json: bool) -> None:
    schedule = asked.schedule
    steps = listed(schedule, _MAX_LISTED) if schedule else []
    chunks, seconds = (schedule.chunks, schedule.seconds) if schedule else (1, 0.0)
    if as_json:
        totals = {"channel": asked.channel, "chunks": chunks, "seconds": round(seconds, 3)}
        sys.stdout.write(json.dumps({**totals, "schedule": steps}) + "\n")
        return
    for step in steps:
        joined = f"  ({step['joined']} chunks)" if step["joined"] > 1 else ""
        sys.stdout.write(
            f"{step['at_s']:9.3f} s  {step['seq']:5} {step['kind']:<11} "
            f"{step['characters']:6} characters{joined}\n"
        )
    sys.stdout.write(f"{chunks} chunks in {seconds:.1f} s on {asked.channel}\n")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the user id may have no name, in a container for example
        return "?"
