"""The replays that this process runs: taken one by one, kept by a lease, ended whatever happens.

A short loop on ``SKIP LOCKED``. A process that dies leaves a lease that runs out; whoever takes the
replay then goes on where it was. One that closes gives its replays back at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.core.replay.requests import Replay, ReplayState
from rehydrate.errors import BadRequest, ChannelUnavailable, RehydrateError, StoreUnavailable
from rehydrate.replay.player import Player
from rehydrate.replay.repair import repair
from rehydrate.replay.replay_run import LEASE_S, LeaseLost, ReplayRun
from rehydrate.replay.requests import planned

if TYPE_CHECKING:
    from collections.abc import Callable

    from rehydrate.context import Context
    from rehydrate.core.message import MessageState
    from rehydrate.replay.player import Outlet

_log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
MOST_ATTEMPTS = 5
"""How often a replay is begun without getting on before it has failed."""

CLOSE_TIMEOUT_S = 5.0


class ReplayOptions(NamedTuple):
    """How replays run. ``at_once``: in all processes; ``per_channel``: likewise, on one channel."""

    at_once: int = 8
    per_channel: int = 1
    client_id: str | None = None


class ReplayWorker:
    """Runs replays, some at once.

    Args:
        ctx: the adapters and limits.
        rules: how they run.
        noticed: told the conversation of each that begins or ends: its channel says more.
        ended: told the state of each that has ended.
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
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._runs: dict[str, ReplayRun] = {}

    def open(self) -> None:
        """Begin to look for replays."""
        self._task = self._task or asyncio.create_task(self._look(), name="replays")

    async def close(self) -> None:
        """Stop; what runs is given back, and goes on elsewhere or later."""
        task, self._task = self._task, None
        tasks = [*([task] if task else []), *self._running]
        for each in tasks:
            each.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT_S)

    def wake(self) -> None:
        """There is something to do: look now."""
        for run in self._runs.values():
            run.look()
        self._wake.set()

    async def _look(self) -> None:
        """Take what there is to take, now and then; not at once: a command may end again soon."""
        while True:
            try:
                async with asyncio.timeout(LOOK_EVERY_S * random.uniform(0.75, 1.25)):  # noqa: S311 - jitter
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                while len(self._running) < self._rules.at_once and await self._take():
                    pass
            except StoreUnavailable:
                _log.warning("looking for replays waits for the store")
            except Exception as error:  # noqa: BLE001 - one fault of ours ends no loop
                _log.error("looking for replays: %s", type(error).__name__)

    async def _take(self) -> bool:
        """Begin one replay, if there is one to begin."""
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
        task = asyncio.create_task(self._one(run), name=f"replay {replay.id}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return True

    async def _one(self, run: ReplayRun) -> None:
        try:
            async with run.kept():
                state, error = await self._perform(run)
            if await run.end(state, error):
                self._ended(state)
        except asyncio.CancelledError:
            await run.release()
            raise
        except LeaseLost:
            _log.info("a replay is somebody else's now, or erased")
        except Exception as error:  # noqa: BLE001 - one fault of ours ends no loop
            level = logging.WARNING if isinstance(error, RehydrateError) else logging.ERROR
            _log.log(level, "a replay will be tried again: %s", type(error).__name__)
        finally:
            self._runs.pop(run.replay.id, None)
            self._noticed(run.replay.conversation_id)
            self._wake.set()

    async def _perform(self, run: ReplayRun) -> tuple[ReplayState, Any]:
        """Run it to its end; the state in which it ended, and why if it failed."""
        replay = run.replay
        with self._ctx.publish_queue.tray(
            replay.channel, steady_per_s=replay.terms.max_rate
        ) as outlet:
            try:
                if replay.terms.mode == "stream":
                    return await self._stream(run, outlet)
                if replay.cancel_asked:
                    return "cancelled", None
                await repair(replay, store=self._ctx.store, outlet=outlet)
                run.told()
            except (BadRequest, ChannelUnavailable) as error:
                return "failed", _told(error)
        return "done", None

    async def _stream(self, run: ReplayRun, outlet: Outlet) -> tuple[ReplayState, Any]:
        replay = run.replay
        state = await self._state(replay)
        if state is None:
            return "failed", {"code": "gone", "detail": "the response is not stored any more"}
        schedule, plan = await asyncio.to_thread(planned, state, replay.terms)
        player = Player(replay, schedule, outlet, self._rules.client_id, run.keep)
        run.player = player
        if replay.attempts > 1 or replay.done:
            await player.find_place(self._ctx.channel, replay.channel, replay.started_ms or 0)
        problem: Any = None
        if plan["digest"] != replay.plan.get("digest"):
            problem = {"code": "conflict", "detail": "what is stored of the response has changed"}
        elif replay.attempts > MOST_ATTEMPTS:
            problem = {"code": "attempts", "detail": f"begun {MOST_ATTEMPTS} times in vain"}
        try:
            if problem is None:
                return ("done" if await player.play() else "cancelled"), None
        except ChannelUnavailable as error:
            problem = _told(error)
        try:
            await player.stop("failed")
        except ChannelUnavailable:
            _log.warning("the end of a failed replay could not be told")
        return "failed", problem

    async def _state(self, replay: Replay) -> MessageState | None:
        found = await self._ctx.store.states(replay.conversation_id, [replay.response_id])
        return next((state for state in found if state.id == replay.response_id), None)


def _told(error: RehydrateError) -> dict[str, str]:
    return {"code": error.code, "detail": str(error)}
