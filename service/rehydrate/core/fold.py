"""The fold: what a message is, after the events that were seen of it.

One message is one `MessageState`; `fold` takes it one event further. Folding is a set union by seq
where there are seqs, so order, repetition and overlap do not matter; without seqs it follows the
serials. What is legal in which phase is the table `STEPS`:

    phase    meaning                                content     stop     repair
    open     in progress (or ended only by an       appended,   ends it  replaces
             idle limit, which any event reopens)   inserted
    ended    terminal: never other text (law 5)     fills gaps  dropped  replaces

Before the table: events of another publisher than the first one's, of a lower gen, and those with
an id that was seen, are dropped; a higher gen empties a message that has not ended.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from rehydrate.core.event import CONTENT, Event
from rehydrate.core.message import MessageState, Owner, Position
from rehydrate.core.positions import MARGIN_MS
from rehydrate.core.text import versioned_messages
from rehydrate.core.text.assembly import assemble
from rehydrate.core.text.content import NO_SEQ, Run, collapsed_run, run_of
from rehydrate.core.text.size_budget import MAX_SEQ, TOO_LARGE, adds

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "MAX_RECENT_IDS",
    "MAX_RUNS",
    "STEPS",
    "MessageState",
    "Outcome",
    "Owner",
    "Position",
    "fold",
]

MAX_RUNS = 1_000
"""How many gaps one response may have before further ones are refused: memory has a bound."""

MAX_RECENT_IDS = 2_000


class Outcome(Enum):
    """What became of an event; the recorder counts them."""

    FOLDED = "folded"
    OLD = "old"
    """Contained already, or of an earlier gen, or too late for a message that has ended."""
    FOREIGN = "foreign"
    """Of another publisher than the message's."""
    POINTER = "pointer"
    """A repair that says only: the store has the text."""
    REFUSED = "refused"
    """Over a limit."""
    IGNORED = "ignored"
    """No event at all: a message of no dialect, or one that says no place where it could belong."""


def fold(state: MessageState, event: Event) -> Outcome:
    """Take *state* one event further; say what became of the event."""
    if state.owner is not None and state.owner.client_id != event.client_id:
        return Outcome.FOREIGN
    if event.gen != state.gen and (event.gen < state.gen or state.ended):
        return Outcome.OLD
    if event.id is not None and event.id in state.recent:
        return Outcome.OLD
    step = STEPS.get(("ended" if state.ended else "open", event.kind))
    if step is None or (state.role == "user") != (event.kind == "prompt"):
        return Outcome.OLD
    if state.owner is None and state.ended:
        return Outcome.OLD  # nobody published it: who stored it has said all of it
    if event.seq is not None and not 0 <= event.seq <= MAX_SEQ:
        return Outcome.REFUSED
    if event.gen > state.gen:
        state.restart(event.gen)
    if state.owner is None:
        state.owner = Owner(event.client_id)
    outcome = step(state, event)
    if outcome is Outcome.FOLDED:
        _remember(state, event)
    return outcome


def _remember(state: MessageState, event: Event) -> None:
    state.changed = True
    if state.position is None:
        state.position = event.serial
    if state.started_ms is None:
        state.started_ms = event.timestamp_ms
    if state.provisional and event.kind != "stop":
        state.status, state.provisional, state.finished_ms = "in_progress", False, None
    if event.serial is not None and (state.serial is None or event.serial > state.serial):
        state.serial = event.serial
    if event.version is None or event.serial == state.serial:
        state.last_id = event.id
    if event.seq is not None:
        state.seq = event.seq if state.seq is None else max(state.seq, event.seq)
    if (event.seq is None or state.anonymous) and event.kind != "prompt" and not event.version:
        _remember_id(state, event)


def _remember_id(state: MessageState, event: Event) -> None:
    """Keep the id for the margin; text with neither seq nor serial is exact only within it."""
    recent = state.recent
    if event.id is not None:
        recent[event.id] = event.timestamp_ms
    elif event.serial is None and event.kind in CONTENT:
        state.inexact = True
    horizon_ms = event.timestamp_ms - MARGIN_MS
    while recent:
        oldest = next(iter(recent))
        if recent[oldest] >= horizon_ms and len(recent) <= MAX_RECENT_IDS:
            return
        del recent[oldest]
        if event.serial is None and event.seq is None:
            state.inexact = True


def _after_through(state: MessageState, event: Event) -> bool:
    """Whether an event without seq lies behind what is folded, as far as serials tell."""
    return event.serial is None or state.serial is None or event.serial > state.serial


def _version(state: MessageState, event: Event) -> Outcome:
    """A version of a channel message that may grow: the greatest counts, whole."""
    if state.sealed or event.version is None or event.version.is_delta:
        return Outcome.OLD
    if (
        len(state.versioned) >= versioned_messages.MAX_VERSIONED
        and event.serial not in state.versioned
    ):
        return Outcome.REFUSED
    if len(state.steps) >= versioned_messages.MAX_VERSIONED and event.version.step not in (
        None,
        *state.steps,
    ):
        return Outcome.REFUSED
    if not state.reserve(adds(event) - versioned_messages.length_of(state.versioned, event)):
        return _overflow(state, event)
    if not versioned_messages.fold_version(state.versioned, state.steps, event):
        return Outcome.OLD
    state.count_part_changes(1)
    if event.version.step is not None and state.start_id is None:
        state.headless = True  # it is one of several, and nobody knows whether of all
    if event.ends and not state.ended:
        state.status, state.provisional = event.status or "completed", False
        state.finished_ms = versioned_messages.published_ms(event)
    return Outcome.FOLDED


def _prompt(state: MessageState, event: Event) -> Outcome:
    if event.version is not None:
        return _version(state, event._replace(status=event.status or "completed"))
    text = event.text or ""
    state.runs = [collapsed_run(0, 0, [{"type": "text", "text": text}], event.timestamp_ms)]
    state.status = event.status or "completed"
    state.finished_ms = event.timestamp_ms
    return Outcome.FOLDED


def _more_of_prompt(state: MessageState, event: Event) -> Outcome:
    return _version(state, event)


def _start(state: MessageState, event: Event) -> Outcome:
    if state.start_id is not None:
        if state.start_id and event.id and event.id != state.start_id and not state.ended:
            state.inexact = state.changed = True  # two publishers that do not know of gens
        return Outcome.OLD
    if event.seq is None and not state.versioned and not _after_through(state, event):
        return Outcome.OLD
    state.headless = state.headless and not state.versioned
    state.start_id = event.id or event.serial or ""
    state.prompt_id = state.prompt_id or event.prompt_id
    state.started_ms = event.timestamp_ms
    if event.seq is not None and not state.contains(event.seq):
        _insert(state, event)
    return Outcome.FOLDED


def _content(state: MessageState, event: Event) -> Outcome:
    if event.version is not None:
        return _version(state, event)
    if event.seq is not None:
        if state.contains(event.seq):
            return Outcome.OLD
        return _insert(state, event)
    if state.sealed or not _after_through(state, event):
        return Outcome.OLD
    if not state.reserve(adds(event)):
        return _overflow(state, event)
    steps = 0 if state.tail is None else len(state.tail.segments)
    if state.tail is None:
        state.headless = state.start_id is None
        state.tail = run_of(event)
    else:
        state.tail.append(event)
    state.count_part_changes(len(state.tail.segments) - steps)
    return Outcome.FOLDED


def _overflow(state: MessageState, event: Event) -> Outcome:
    """There is no room for *event*: the response ends before it, and says so."""
    if state.ended:
        return Outcome.REFUSED
    if event.seq is not None:
        state.end = event.seq
    state.status, state.provisional, state.error = "incomplete", False, TOO_LARGE
    state.finished_ms = versioned_messages.published_ms(event)
    return Outcome.FOLDED


def _fill(state: MessageState, event: Event) -> Outcome:
    if event.version is not None:
        return _version(state, event)
    if event.seq is None or not any(a <= event.seq <= b for a, b in state.gaps()):
        return Outcome.OLD
    return _insert(state, event)


def _insert(state: MessageState, event: Event) -> Outcome:
    seq, runs = event.seq or 0, state.runs
    at = state.run_index(seq)
    before = runs[at - 1] if at else None
    if not state.reserve(adds(event)):
        return _overflow(state, event)
    if before is not None and before.last == seq - 1 and not before.collapsed:
        steps = len(before.segments)
        before.append(event)
        state.count_part_changes(len(before.segments) - steps)
        behind = runs[at] if at < len(runs) else None
        if behind is not None and behind.first == seq + 1 and not behind.collapsed:
            before.join(behind)
            del runs[at]
        return Outcome.FOLDED
    if len(runs) >= MAX_RUNS:
        return Outcome.REFUSED
    run = run_of(event)
    state.count_part_changes(1)
    if at < len(runs) and runs[at].first == seq + 1 and not runs[at].collapsed:
        run.join(runs[at])
        runs[at] = run
    else:
        runs.insert(at, run)
    return Outcome.FOLDED


def _stop(state: MessageState, event: Event) -> Outcome:
    if event.seq is None and not _after_through(state, event):
        return Outcome.OLD
    state.end = event.seq
    state.status = event.status or "completed"
    state.provisional = False
    state.finished_ms = event.timestamp_ms
    state.error = event.error
    if event.value is not None:
        state.usage = event.value
    return Outcome.FOLDED


def _repair(state: MessageState, event: Event) -> Outcome:
    if event.seq is not None:
        if event.seq <= state.covered:
            return Outcome.OLD
    elif not _after_through(state, event):
        return Outcome.OLD
    if event.is_pointer:
        state.pointer = max(state.pointer, event.seq if event.seq is not None else -1)
        return Outcome.POINTER
    upto = event.seq if event.seq is not None else (-1 if state.seq is None else state.seq)
    if any(run.collapsed and run.last > upto for run in state.runs):
        if upto > NO_SEQ:
            state.repaired = upto  # what is there was said later than this, as a whole
        return Outcome.FOLDED
    parts = event.value if event.value is not None else [{"type": "text", "text": event.text}]
    said = collapsed_run(min(0, upto), upto, parts, event.timestamp_ms)
    if not _changes_nothing(state, said):
        rest = [cut for run in state.runs if (cut := run.after(upto)) is not None]
        state.runs, state.budget = [said, *rest], None
    sealed = bool(state.versioned) or (event.seq is None and state.seq is None)
    state.seal()
    if upto > NO_SEQ:
        state.repaired = upto
    state.sealed = sealed
    return Outcome.FOLDED


def _changes_nothing(state: MessageState, said: Run) -> bool:
    """Whether a repair changes nothing: the text keeps its pieces, and their times."""
    if state.seq is None or state.tail is not None or state.gaps() or not state.runs:
        return False
    if state.runs[-1].last > said.last:
        return False
    return assemble(state.runs) == assemble([said])


STEPS: dict[tuple[str, str], Callable[[MessageState, Event], Outcome]] = {
    ("open", "prompt"): _prompt,
    ("open", "start"): _start,
    **{("open", kind): _content for kind in CONTENT},
    ("open", "stop"): _stop,
    ("open", "repair"): _repair,
    ("ended", "prompt"): _more_of_prompt,
    ("ended", "start"): _start,
    **{("ended", kind): _fill for kind in CONTENT},
    ("ended", "repair"): _repair,
}
