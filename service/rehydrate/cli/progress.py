"""``rehydrate replay``: show the progress of a replay in the terminal until it ends or is cancelled."""

from __future__ import annotations

import asyncio
import getpass
import json
import signal
import sys
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, TextIO, TypeVar

from rehydrate.background import Backoff
from rehydrate.core.replay.schedule import Replay, ReplayTerms, Requester, listed
from rehydrate.errors import Unavailable
from rehydrate.history import History
from rehydrate.replay.admin import CheckedRequest

POLL_INTERVAL_S = 0.2
MAX_RETRY_S = 2.0
CANCEL_TIMEOUT_S = 15.0
"""Seconds to wait for a cancelled replay to end; longer than the lease of a process that died."""

OUTAGE_TIMEOUT_S = 300.0
"""Seconds for which the store may fail to answer before the stream is stopped."""

_WIDTH = 30
_INTERRUPTED = 130
_MAX_LISTED = 1_000
_TENTHS = 10
_UNANSWERED = {"code": "store_unavailable", "detail": "the store did not answer"}

T = TypeVar("T")


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
        async with AsyncExitStack() as stack:
            history = await _unless(cancelled, stack.enter_async_context(History()))
            if history is None:
                return _not_begun()
            if dry_run:
                asked = await history.admin.replay_dry_run(
                    conversation_id, response_id, terms, asker=asker
                )
                _print_schedule(asked, as_json=as_json)
                return 0
            asking = history.replay(conversation_id, response_id, **terms._asdict(), asker=asker)
            queued = await _unless(cancelled, asking)
            if queued is None:
                await _cancel_unseen(history, asker, conversation_id, response_id)
                return _not_begun()
            watch = _Watch(history, queued, cancelled, asker, None if quiet else sys.stderr)
            ended = await watch.run()
    _print_result(ended, as_json=as_json)
    if ended.state == "done":
        return 0
    return _INTERRUPTED if cancelled.is_set() else 1


async def _unless(cancelled: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """Return the result of *work*; None if *cancelled* is set first, which cancels the work."""
    working, signalled = asyncio.ensure_future(work), asyncio.ensure_future(cancelled.wait())
    try:
        await asyncio.wait({working, signalled}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
    finally:
        for task in (working, signalled):
            task.cancel()
        await asyncio.gather(working, signalled, return_exceptions=True)
    return None


def _not_begun() -> int:
    sys.stderr.write("rehydrate: cancelled before the replay began\n")
    return _INTERRUPTED


async def _cancel_unseen(
    history: History, asker: Requester, conversation_id: str, response_id: str
) -> None:
    """Cancel a replay that was queued just as its request was cancelled: its commit may win."""
    found, _ = await history.admin.replays(limit=10)
    ours = (asker.actor, conversation_id, response_id)
    for each in found:
        if (each.asked_by, each.conversation_id, each.response_id) == ours and not each.ended:
            await history.admin.cancel_replay(each.id, asker=asker)
            return  # the newest


class _Watch:
    """Shows a replay until it has ended, and cancels it when *cancelled* is set.

    Where the store does not answer, it is asked again. If it does not answer in time, the stream is
    stopped without it: there may be no other process to continue it.
    """

    def __init__(
        self,
        history: History,
        queued: Replay,
        cancelled: asyncio.Event,
        asker: Requester,
        out: TextIO | None,
    ) -> None:
        self._admin = history.admin
        self._now = queued
        self._cancelled = cancelled
        self._asker = asker
        self._out = out
        self._bar = ProgressBar(out)
        self._cancel_sent = False
        self._backoff = Backoff(POLL_INTERVAL_S, MAX_RETRY_S)

    async def run(self) -> Replay:
        """Return the replay when it has ended, or when its stream was stopped without the store.

        Raises:
            Unavailable: the store did not answer for `OUTAGE_TIMEOUT_S`.
        """
        loop = asyncio.get_running_loop()
        self._bar.show(self._now)
        answered_s, cancel_by_s = loop.time(), float("inf")
        while not self._now.ended:
            if self._cancelled.is_set():
                cancel_by_s = min(cancel_by_s, loop.time() + CANCEL_TIMEOUT_S)
            try:
                await self._look()
            except Unavailable as error:
                if loop.time() > min(cancel_by_s, answered_s + OUTAGE_TIMEOUT_S):
                    await self._admin.stop_stream(self._now)
                    if not self._cancelled.is_set():
                        raise
                    return self._now._replace(state="cancelled", error=_UNANSWERED)
                self._report(error)
                await asyncio.sleep(self._backoff.next_s())
            else:
                answered_s = loop.time()
                self._backoff.reset()
                if loop.time() > cancel_by_s:
                    await self._admin.stop_stream(self._now)
                    break
        return self._now

    async def _look(self) -> None:
        """Find the current state after a pause; request the cancellation if that is due."""
        if self._cancelled.is_set() and not self._cancel_sent:
            self._now = await self._admin.cancel_replay(self._now.id, asker=self._asker)
            self._cancel_sent = True
        else:
            await _pause(self._cancelled, cancelling=self._cancel_sent)
            self._now = await self._admin.find_replay(self._now.id)
        self._bar.show(self._now)

    def _report(self, error: Unavailable) -> None:
        if self._out is not None:
            self._out.write(f"{error.title}, retrying\n")
            self._out.flush()


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
