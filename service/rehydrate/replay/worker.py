"""Worker: run queued replays in this process, each under a lease.

Replays are claimed by a query with ``SKIP LOCKED``. When a process dies, the leases of its replays
run out, and another process continues them from their stored progress. A process that closes releases its
replays at once.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from rehydrate.background import LeaseLost, PeriodicTask, TaskPool, log_failure
from rehydrate.context import Context
from rehydrate.core.message import MessageState
from rehydrate.core.replay.schedule import Replay, ReplayState
from rehydrate.errors import BadRequest, ChannelRefused, ChannelUnavailable, RehydrateError
from rehydrate.permits import TextErased
from rehydrate.replay.player import Outlet, Player, publish_with_retries, stop_event
from rehydrate.replay.repair import repair
from rehydrate.replay.replay_run import LEASE_S, ReplayRun
from rehydrate.replay.validation import planned

_log = logging.getLogger(__name__)

CLAIM_EVERY_S = 1.0
MAX_ATTEMPTS = 5
"""How often a replay is started without progress before it counts as failed."""

MAX_STOPS = 15
"""How often its stop is tried while Ably does not answer; the delays then add up to minutes."""

_NO_STOP = "the stop of a replay could not be published"

SLACK_S = 600.0
"""How much longer than twice its planned time a replay may run, in seconds."""


class ReplayOptions(NamedTuple):
    """How replays run.

    Attributes:
        at_once: how many run at a time, in all processes together.
        per_channel: how many of them on one channel.
        client_id: the clientId that they are published with.
    """

    at_once: int = 8
    per_channel: int = 1
    client_id: str | None = None


class ReplayWorker:
    """Claims queued replays and runs them, several at a time.

    Args:
        ctx: the adapters and limits.
        rules: how they run.
        noticed: called with the conversation of each replay that begins or ends, since its channel
            has new messages.
        ended: called with the final state of each replay.
    """

    def __init__(
        self,
        ctx: Context,
        *,
        rules: ReplayOptions,
        noticed: Callable[[str], None],
        ended: Callable[[ReplayState], None],
    ) -> None:
        self._ctx = ctx
        self._rules = rules
        self._noticed = noticed
        self._ended = ended
        self._name = uuid.uuid4().hex
        self._running = TaskPool()
        self._runs: dict[str, ReplayRun] = {}
        self.task = PeriodicTask("replays", self._claim_all, every_s=CLAIM_EVERY_S)

    def open(self) -> None:
        """Start claiming replays."""
        self.task.open()

    async def close(self) -> None:
        """Stop; running replays are released, and continue in another process, or later."""
        await self.task.close()
        await self._running.close()

    def wake(self) -> None:
        """Look at once for new replays, and for cancellations of running ones."""
        for run in self._runs.values():
            run.renew_now()
        self.task.wake()

    async def stop_stream(self, replay: Replay) -> None:
        """Publish the stop of *replay* without the store; what runs of it here ends.

        If it cannot be published, that is logged.
        """
        if replay.terms.mode != "stream":
            return
        run = self._runs.get(replay.id)
        if run is not None and run.player is not None:
            run.player.cancel()
            replay = run.progress()
        with self._ctx.publish_queue.channel(replay.channel) as outlet:
            event = stop_event(replay, "cancelled", self._rules.client_id)
            try:
                await publish_with_retries(outlet, event)
            except ChannelUnavailable as error:
                log_failure(_log, _NO_STOP, error)

    async def _claim_all(self) -> None:
        """Claim and start replays until none is left, or enough run."""
        while len(self._running) < self._rules.at_once and await self._start_one():
            pass

    async def _start_one(self) -> bool:
        """Claim one replay and start it; return False if none is queued."""
        holder = f"{self._name}-{uuid.uuid4().hex[:8]}"
        rules = self._rules
        replay = await self._ctx.store.claim_replay(
            holder, LEASE_S, at_once=rules.at_once, per_channel=rules.per_channel
        )
        if replay is None:
            return False
        run = ReplayRun(replay, holder, self._ctx.store)
        self._runs[replay.id] = run
        self._noticed(replay.conversation_id)
        self._running.start(self._run(run), name=f"replay {replay.id}")
        return True

    async def _run(self, run: ReplayRun) -> None:
        try:
            async with run.lease():
                state, error = await self._perform(run)
            if await run.end(state, error):
                self._ended(state)
        except asyncio.CancelledError:
            await run.release()
            raise
        except LeaseLost:
            _log.info("a replay was taken over by another process")
        except Exception as error:  # noqa: BLE001 - it is begun again, `MAX_ATTEMPTS` times
            log_failure(_log, "a replay was interrupted, will retry", error)
            await run.retry_later()
        finally:
            self._runs.pop(run.replay.id, None)
            self._noticed(run.replay.conversation_id)
            self.task.wake()

    async def _perform(self, run: ReplayRun) -> _Ended:
        """Run a replay to its end, and stop its stream; return its state, and why it failed."""
        replay = run.replay
        with self._ctx.publish_queue.channel(
            replay.channel, steady_per_s=replay.terms.max_rate
        ) as outlet:
            ended = await self._attempt(run, outlet)
            if ended.state != "done" and replay.terms.mode == "stream" and run.may_have_begun:
                await self._stop(run, outlet, ended.state)
        return ended

    async def _attempt(self, run: ReplayRun, outlet: Outlet) -> _Ended:
        """Run a replay; a fault that was not foreseen is raised `MAX_ATTEMPTS` times, then final."""
        replay = run.replay
        if replay.attempts > MAX_ATTEMPTS:
            return _failed("attempts", f"started {MAX_ATTEMPTS} times without progress")
        try:
            async with asyncio.timeout(self._left_s(replay)):
                if replay.terms.mode == "stream":
                    return await self._stream(run, outlet)
                if replay.cancel_asked:
                    return _Ended("cancelled")
                await repair(replay, store=self._ctx.store, outlet=outlet, permit=run.permit)
                run.mark_done()
                return _Ended("done")
        except LeaseLost:
            raise
        except TextErased as error:
            return _Ended("cancelled", _problem(error))
        except TimeoutError:
            return _failed("timeout", "it took more than twice as long as planned")
        except (BadRequest, ChannelUnavailable) as error:
            return _Ended("failed", _problem(error))
        except Exception as error:
            if replay.attempts < MAX_ATTEMPTS:
                raise
            log_failure(_log, "a replay has failed", error)
            why = f"failed {MAX_ATTEMPTS} times without progress: {type(error).__name__}"
            return _failed("internal", why)

    async def _stream(self, run: ReplayRun, outlet: Outlet) -> _Ended:
        replay = run.replay
        state = await self._state(replay)
        if state is None:
            return _Ended("cancelled", _ERASED)
        schedule, plan = await asyncio.to_thread(planned, state, replay.terms)
        player = Player(run.replay, schedule, outlet, self._rules.client_id, run.permit)
        run.player = player
        if replay.attempts > 1 or replay.done:
            await player.resume(self._ctx.channel, replay.channel, replay.started_ms or 0)
        if player.stopped_as is not None:
            return _Ended("cancelled" if player.stopped_as == "cancelled" else "failed")
        if plan["digest"] != replay.plan.get("digest"):
            return _failed("conflict", "the stored response has changed")
        if await player.play():
            return _Ended("done")
        return _Ended("cancelled", _ERASED if run.permit.erased else None)

    async def _stop(self, run: ReplayRun, outlet: Outlet, status: str) -> None:
        """Publish the stop of a stream that did not reach its own.

        Raises:
            ChannelUnavailable: Ably does not answer; the replay is begun again later.
        """
        try:
            if run.player is None:
                event = stop_event(run.replay, status, self._rules.client_id)
                await publish_with_retries(outlet, event)
            elif run.player.stopped_as is None:
                await run.player.stop(status)
        except ChannelUnavailable as error:
            if run.replay.attempts <= MAX_STOPS and not isinstance(error, ChannelRefused):
                raise
            log_failure(_log, _NO_STOP, error)

    def _left_s(self, replay: Replay) -> float:
        """Return for how long *replay* may still run, in seconds."""
        begun_ms = self._ctx.now_ms() if replay.started_ms is None else replay.started_ms
        since_s = (self._ctx.now_ms() - begun_ms) / 1000
        return max(2 * replay.seconds + SLACK_S - max(since_s, 0.0), 0.0)

    async def _state(self, replay: Replay) -> MessageState | None:
        found = await self._ctx.store.states(replay.conversation_id, [replay.response_id])
        return next((state for state in found if state.id == replay.response_id), None)


class _Ended(NamedTuple):
    """The final state of a replay, and the problem if there was one."""

    state: ReplayState
    problem: Any = None


_ERASED = {"code": TextErased.code, "detail": "the response was erased"}


def _failed(code: str, detail: str) -> _Ended:
    return _Ended("failed", {"code": code, "detail": detail})


def _problem(error: RehydrateError) -> dict[str, str]:
    return {"code": error.code, "detail": str(error)}
