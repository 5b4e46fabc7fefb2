"""Resync policy: when a followed conversation is read again, and what followers receive meanwhile.

Pure: `step` takes a state and an input and returns the next state and the effects for `Feed` to
run. It reads no clock, awaits nothing and sees neither the store nor the channel, so every sequence
of inputs can be tested as a plain list.

Why a followed conversation needs this at all. A follower holds text that was read (the store, then
channel history) and text that arrived live. The two agree only if nothing was missed in between,
and three things break that silently or half-silently:

* The attachment is lost, or is resumed without its messages (`Interrupted`, `Detached`). Any number
  of messages of any response may be missing, and text without seq shows no gap afterwards. So
  followers receive ``again`` at once, and everything is read again from the new attach.
* One message arrives whose predecessor did not (`Gap`): a publish was refused, a delivery was
  dropped, or a region overtook another. Only that response has to wait; the drop rule keeps the
  others exact, because their events carry a seq, a version or are complete in themselves. Text
  without seq cannot be placed while anything is missing, so it waits as well.
* The store changed without a channel message (`StoreChanged`): an import, a deletion, another
  process ending a response.

Live events that have to wait are not lost: `RecentMessages` has them, and `Merge` applies them to
whatever is read. A read is adopted only if that leaves nothing missing. Otherwise it is repeated,
because REST history lags behind live delivery by up to 2 s. The pauses double up to 10 s.

After 2.5 s history has had its time (`_HISTORY_TIMEOUT_S`). What still does not fit is then forced
in: it leaves a declared gap, which a later repair or token may fill. If history cannot be read at
all, followers continue from the old state, marked incomplete (`Continue`), and the reads go on.

The first read is different: it is adopted whatever it lacks, since a follower that shows the
stored part with ``complete: false`` is better off than one that shows nothing.

    phase      meaning                            live events                 a read is in flight
    starting   nothing was read yet               wait                        once attached
    live       complete                           are emitted                 no
    behind     something is missing               those that can be placed    yes, or its pause
    stopped    closed, or cannot be followed      are ignored                 no

`STEPS` is the table. Any input that is absent in a phase changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from rehydrate.core.event import Event

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 10.0
_HISTORY_TIMEOUT_S = 2.5
"""How long a live event that does not fit waits for history to show its predecessors: history lags
by up to 2 s, plus half a second for the read."""

Phase = Literal["starting", "live", "behind", "stopped"]


class State(NamedTuple):
    """What the policy remembers of one followed conversation.

    Attributes:
        phase: see the module.
        in_flight: a read, or the pause before it, is in flight.
        began_s: when the current series of reads began, in seconds.
        attempt: how many reads of the series were started.
        reread: what is being read may be out of date, so it has to be read once more.
        waiting: the messages whose events wait for missing ones; None: messages without an id.
        announced: followers have received ``again`` since the last snapshot.
        continued: followers continue from an old state that is marked incomplete.
        attaches: how many attaches in a row have ended.
    """

    phase: Phase = "starting"
    in_flight: bool = False
    began_s: float = 0.0
    attempt: int = 0
    reread: bool = False
    waiting: frozenset[str | None] = frozenset()
    announced: bool = False
    continued: bool = False
    attaches: int = 0


# -- inputs ---------------------------------------------------------------------------------------


class Opened(NamedTuple):
    """Following begins."""


class Attached(NamedTuple):
    """The channel is attached, not resumed; its rewound messages follow."""


class Interrupted(NamedTuple):
    """Messages of the attachment may have been missed."""


class Detached(NamedTuple):
    """The attachment has ended, or could not be made."""


class Gap(NamedTuple):
    """A live event did not fit: events of its message are missing."""

    message_id: str | None


class StoreChanged(NamedTuple):
    """The store may have changed without a channel message."""


class Timer(NamedTuple):
    """The pause of `Wait` is over."""


class SnapshotRead(NamedTuple):
    """The read has finished; its result is ready to be merged."""


class ReadFailed(NamedTuple):
    """The store did not answer."""

    error: Exception


class Merged(NamedTuple):
    """The received events were applied to the snapshot that was read.

    Attributes:
        forced: events that did not fit were forced in.
        missing: the messages of which events still do not fit.
        stale: another read may add what the snapshot lacks.
        meets: the snapshot reaches the oldest received message.
    """

    forced: bool
    missing: frozenset[str | None] = frozenset()
    stale: bool = False
    meets: bool = True


class LiveEvent(NamedTuple):
    """An event arrived live."""

    event: Event


class Stopped(NamedTuple):
    """The conversation is not followed any more."""


Input = (
    Opened
    | Attached
    | Interrupted
    | Detached
    | Gap
    | StoreChanged
    | Timer
    | SnapshotRead
    | ReadFailed
    | Merged
    | LiveEvent
    | Stopped
)

# -- effects --------------------------------------------------------------------------------------


class Attach(NamedTuple):
    """Attach the channel after a pause of at most *pause_s*."""

    pause_s: float


class Wait(NamedTuple):
    """Report `Timer` after a pause of at most *pause_s*.

    ``begins``: a series of reads begins; events received from now on are merged into its result.
    """

    pause_s: float
    begins: bool = False


class Read(NamedTuple):
    """Read the store and history; report `SnapshotRead` or `ReadFailed`.

    ``fresh``: the attach point may be used, since nothing is known to be missing after it.
    ``begins``: as of `Wait`.
    """

    fresh: bool
    begins: bool = False


class Cancel(NamedTuple):
    """Cancel the pause or the read in flight."""


class Merge(NamedTuple):
    """Apply the received events to what was read; *force* in those that do not fit."""

    force: bool


class Adopt(NamedTuple):
    """Make the merged snapshot the current state; every follower receives a new snapshot.

    ``complete``: nothing is missing.
    """

    complete: bool


class Continue(NamedTuple):
    """Go on from the old state, marked incomplete, with the received events forced in.

    ``lost``: unidentified messages were missed.
    """

    lost: bool


class Announce(NamedTuple):
    """Emit ``again``: messages may have been missed, and a new snapshot will follow."""


class Emit(NamedTuple):
    """Apply the live event by the drop rule, and emit the result."""

    event: Event


class Fail(NamedTuple):
    """End every follower with the error."""

    error: Exception


Effect = Attach | Wait | Read | Cancel | Merge | Adopt | Continue | Announce | Emit | Fail
Result = tuple[State, tuple[Effect, ...]]


def step(state: State, input_: Input, now_s: float) -> Result:
    """Return the next state and the effects to run, in order.

    Args:
        state: the current state.
        input_: what happened.
        now_s: a monotonic time, in seconds.
    """
    found = STEPS[state.phase].get(type(input_))
    return (state, ()) if found is None else found(state, input_, now_s)


def pause_s(attempt: int) -> float:
    """Return the longest pause before another attempt, in seconds: doubling, with a limit."""
    return min(FIRST_PAUSE_S * 2.0 ** min(attempt, 16), LONGEST_PAUSE_S)


# -- steps ----------------------------------------------------------------------------------------


def _open(state: State, _: Opened, __: float) -> Result:
    return state, (Attach(0.0),)


def _attached(state: State, _: Attached, now_s: float) -> Result:
    return _restart(state._replace(attaches=0), now_s)


def _interrupted(state: State, _: Interrupted, now_s: float) -> Result:
    """Announce it once, and read again: what is being read began before the interruption."""
    announce = () if state.phase == "starting" or state.announced else (Announce(),)
    restarted, effects = _restart(
        state._replace(announced=bool(announce) or state.announced), now_s
    )
    return restarted, (*announce, *effects)


def _detached(state: State, _: Detached, now_s: float) -> Result:
    """As interrupted; and attach again. Meanwhile the store and history are still read."""
    attaches = state.attaches + 1
    restarted, effects = _interrupted(state._replace(attaches=attaches), Interrupted(), now_s)
    return restarted, (*effects, Attach(pause_s(attaches)))


def _gap(state: State, gap: Gap, now_s: float) -> Result:
    return _begin(state._replace(waiting=state.waiting | {gap.message_id}), now_s)


def _store_changed(state: State, _: StoreChanged, now_s: float) -> Result:
    return _begin(state._replace(reread=True), now_s)


def _store_changed_early(state: State, _: StoreChanged, __: float) -> Result:
    """Before the attach there is nothing to repeat: the first read will see the change."""
    return state._replace(reread=state.reread or state.in_flight), ()


def _timer(state: State, _: Timer, __: float) -> Result:
    return _read(state)


def _snapshot_read(state: State, _: SnapshotRead, now_s: float) -> Result:
    return state, (Merge(force=now_s - state.began_s > _HISTORY_TIMEOUT_S),)


def _merged(state: State, merged: Merged, _: float) -> Result:
    """Adopt the first snapshot in any case, and later ones only if nothing is missing."""
    fits = (merged.meets or merged.forced) and not (merged.missing or merged.stale)
    complete = fits and not state.reread
    effects: tuple[Effect, ...] = ()
    if complete or state.phase == "starting":
        effects = (Adopt(complete),)
        state = state._replace(
            phase="behind",
            waiting=merged.missing,
            announced=False,
            continued=False,
        )
    elif merged.forced and not state.continued:
        effects = (Continue(lost=state.announced),)
        state = state._replace(waiting=frozenset(), continued=True)
    if complete:
        return state._replace(phase="live", in_flight=False), effects
    return state, (*effects, Wait(pause_s(state.attempt)))


def _read_failed(state: State, _: ReadFailed, __: float) -> Result:
    return state, (Wait(pause_s(state.attempt)),)


def _first_read_failed(_: State, failed: ReadFailed, __: float) -> Result:
    """Without a snapshot there is nothing to continue from: the followers receive the error."""
    return State("stopped"), (Fail(failed.error),)


def _emit(state: State, live: LiveEvent, _: float) -> Result:
    return state, (Emit(live.event),)


def _emit_if_placed(state: State, live: LiveEvent, _: float) -> Result:
    """Hold back what waits for its predecessors, and mere text without seq, which shows no gap."""
    event = live.event
    placed = event.seq is not None or event.version is not None or event.kind == "prompt"
    if placed and event.message_id not in state.waiting:
        return state, (Emit(event),)
    return state, ()


def _stop(state: State, _: Stopped, __: float) -> Result:
    return State("stopped"), ((Cancel(),) if state.in_flight else ())


def _begin(state: State, now_s: float) -> Result:
    """Begin a series of reads, unless one is in flight.

    The pause lets several gaps cause one read, and keeps processes out of step. Only the very first
    read has none.
    """
    if state.in_flight:
        return state, ()
    begun = state._replace(in_flight=True, began_s=now_s, attempt=0)
    if begun.phase == "starting":
        return _read(begun, begins=True)
    return begun._replace(phase="behind"), (Wait(pause_s(0), begins=True),)


def _restart(state: State, now_s: float) -> Result:
    """Begin a new series of reads in place of the one in flight."""
    cancel = (Cancel(),) if state.in_flight else ()
    begun, effects = _begin(state._replace(in_flight=False, reread=True), now_s)
    return begun, (*cancel, *effects)


def _read(state: State, *, begins: bool = False) -> Result:
    fresh = state.reread and not state.attempt
    return state._replace(attempt=state.attempt + 1, reread=False), (Read(fresh, begins),)


STEPS: dict[Phase, dict[type, Callable[..., Result]]] = {
    "starting": {
        Opened: _open,
        Attached: _attached,
        Interrupted: _interrupted,
        Detached: _detached,
        StoreChanged: _store_changed_early,
        SnapshotRead: _snapshot_read,
        Merged: _merged,
        ReadFailed: _first_read_failed,
        Stopped: _stop,
    },
    "live": {
        LiveEvent: _emit,
        Gap: _gap,
        Attached: _attached,
        Interrupted: _interrupted,
        Detached: _detached,
        StoreChanged: _store_changed,
        Stopped: _stop,
    },
    "behind": {
        LiveEvent: _emit_if_placed,
        Gap: _gap,
        Attached: _attached,
        Interrupted: _interrupted,
        Detached: _detached,
        StoreChanged: _store_changed,
        Timer: _timer,
        SnapshotRead: _snapshot_read,
        Merged: _merged,
        ReadFailed: _read_failed,
        Stopped: _stop,
    },
    "stopped": {},
}
