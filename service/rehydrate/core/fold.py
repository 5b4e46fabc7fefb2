"""Fold: apply one event to one message.

`fold` is the only code that merges events into text. Hydrate, the recorder, followers, publishers
and replays all call it, each with the events of its own window of the channel. That is what makes
them agree: the stored state with later events folded in equals the fold of the whole log
(docs/exactness.md, "Why one fold"; the rules are docs/protocol.md section 6).

Why the result does not depend on the window, on order, or on repetition:

* **With seqs, folding is a set union.** Content is kept in runs of consecutive seqs. An event whose
  seq is contained already is `OLD`; any other is inserted at its place. So two windows may overlap,
  and a late event fills its gap instead of being appended (exactness section 4). Seqs that are
  missing stay visible as gaps: text is never joined over them silently.
* **Without seqs, the serial is the order.** An event at or before the last serial is `OLD`. This
  assumes that history shows one publisher's events in order (exactness M8 and M10). Where neither
  seq nor serial exists, ids are compared within the margin, and beyond it the message is marked
  inexact rather than guessed (S3).
* **Of a versioned message, the greatest version counts, whole.** A maximum is also independent of
  order. A delta is never folded: it may cover appends that the text has (section 9).

Three checks come before the table, because no content of such an event may count:

* the owner: the first event's clientId decides whose events a message accepts, so that no other
  client can change it;
* the gen: a lower one is a publisher that was replaced; a higher one empties a message that has not
  ended. Two publishers of one response would otherwise fill each other's seqs (section 6);
* the id: a publisher's retry has the same id and a new serial (S4). An event with a seq is
  identified by the seq: with the same id and another seq it is a different event.

Then `STEPS` says what is legal in which phase:

    phase    meaning                                content     stop     repair
    open     in progress (or ended only by an       appended,   ends it  replaces
             idle limit, which any event reopens)   inserted
    ended    terminal: text changes no more         fills gaps  dropped  replaces

An end is final because the publisher commits the whole text before it publishes the stop (section
7). Filling a gap and a repair are the two exceptions: both can only bring back text that belonged
to the response (sections 4 and 5). A repair has a seq so that it, too, has a place: it replaces
everything up to that seq, and later events stay.

Limits (`MAX_RUNS`, the size budget) bound the memory that a foreign publisher can use. An event
over a limit is refused or ends the response with an error; nothing is dropped without a trace.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from rehydrate.core.event import CONTENT, Event
from rehydrate.core.message import MessageState, Owner, Position
from rehydrate.core.positions import MARGIN_MS
from rehydrate.core.text import versioned_messages
from rehydrate.core.text.assembly import assemble
from rehydrate.core.text.content import MAX_SEQ, NO_SEQ, TOO_LARGE, Run, adds, collapsed_run, run_of

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
"""The largest number of gaps of one response; an event that would add one is refused."""

MAX_RECENT_IDS = 2_000
"""The largest number of ids that a message keeps for the margin."""


EDITABLE: frozenset[str] = CONTENT | {"prompt"}
"""Kinds whose channel messages may be edited: there is nothing to change in the others."""


class Outcome(Enum):
    """What the fold did with an event. The recorder counts outcomes."""

    FOLDED = "folded"
    OLD = "old"
    """Contained already, of an earlier gen, or too late for a message that has ended."""
    FOREIGN = "foreign"
    """Published by another client than the owner."""
    POINTER = "pointer"
    """A repair without content: the store has the text."""
    REFUSED = "refused"
    """Over a limit."""
    IGNORED = "ignored"
    """Not an event: no codec recognises the message, or it names no place."""
    UNREADABLE = "unreadable"
    """Folded, but its content could not be read. Counted in addition to `FOLDED`."""
    UNRECORDABLE = "unrecordable"
    """The store cannot hold what it would change; it changes nothing."""


def fold(state: MessageState, event: Event) -> Outcome:
    """Apply *event* to *state* and return the outcome.

    Only an event that is ``FOLDED`` changes the content. One of a higher gen empties the message
    first, whatever the outcome; a pointer is noted; a second start makes the message inexact.
    """
    if state.posted:
        if state.role != "user" and event.kind in _OPEN_STEPS:
            state.note_stream(event)
        return Outcome.OLD
    if state.owner is not None and state.owner.client_id != event.client_id:
        return Outcome.FOREIGN
    if event.gen != state.gen and (event.gen < state.gen or state.ended):
        return Outcome.OLD
    is_edit = event.edit is not None and event.gen == state.gen and state.reaches(event)
    if event.seq is None and event.id in state.recent and not is_edit:
        return Outcome.OLD
    step = (_ENDED_STEPS if state.ended else _OPEN_STEPS).get(event.kind)
    if step is None or (state.role == "user") != (event.kind == "prompt"):
        return Outcome.OLD
    if state.owner is None and state.ended:
        return Outcome.OLD  # a backend stored it whole; no publisher may add to it
    if event.seq is not None and not 0 <= event.seq <= MAX_SEQ:
        return Outcome.REFUSED
    if event.gen > state.gen:
        state.restart(event.gen)
    if state.owner is None:
        state.owner = Owner(event.client_id)
    if is_edit:
        return _edit(state, event)
    outcome = step(state, event)
    if outcome is Outcome.FOLDED:
        _remember(state, event)
    return outcome


def _edit(state: MessageState, event: Event) -> Outcome:
    """Apply a later edit of a channel message whose content is folded: the event gets new content.

    An ended message is changed too: its text must not depend on when the channel was read. If there
    are several edits, the greatest version counts, in whatever order they come; a repair is newer
    than all edits of the content that it replaces.
    """
    if event.kind not in EDITABLE or state.has_edit(event):
        return Outcome.OLD
    if event.kind == "prompt":
        if event.serial != state.serial:
            return Outcome.OLD  # of another channel message that named the same prompt
        _prompt(state, event)
        state.unreadable_seqs = ()
    elif not _replaced(state, event):
        state.inexact = True
    elif event.seq is not None:
        state.note_edited_seq(event.seq)
    state.note_edit(event.serial or "", event.edit or "")
    if event.unreadable:
        state.note_unreadable(event.seq)
    return Outcome.FOLDED


def _replaced(state: MessageState, event: Event) -> bool:
    """Replace the content of a folded event by that of *event*; return False if it is not found.

    Without a seq it is found by its time, which another event may share. Content that arrived as
    one text cannot be separated into events.
    """
    run, index = None, 0
    if event.seq is not None:
        at = state.run_index(event.seq)
        run = state.runs[at] if at < len(state.runs) else None
        index = 0 if run is None else event.seq - run.first
    elif state.tail is not None:
        times = [timing.at_ms for timing in state.tail.timings.entries]
        if times.count(event.timestamp_ms) == 1:
            run, index = state.tail, times.index(event.timestamp_ms)
    if run is None or run.collapsed or index < 0 or not state.reserve(adds(event)):
        return False
    edited = run.edited(index, event)
    if run is state.tail:
        state.tail = edited
    else:
        state.runs[state.runs.index(run)] = edited
    state.budget = None
    return True


def _remember(state: MessageState, event: Event) -> None:
    """Update what the state knows about its events: position, serial, seq, ids."""
    state.changed = True
    if event.unreadable and event.version is None:
        state.note_unreadable(event.seq)
    if event.edit is not None and event.serial is not None:
        state.note_edit(event.serial, event.edit)
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
    """Keep the id of *event* for the margin, and drop ids that are older.

    Text with neither seq nor serial is exact only as long as all its ids are kept.
    """
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
    """Return True if *event*, which has no seq, comes after the folded ones.

    By its serial; without one, by its time, if it is older than the ids that are kept.
    """
    if event.serial is None:
        return not state.has_forgotten(event.timestamp_ms)
    return state.serial is None or event.serial > state.serial


def _version(state: MessageState, event: Event) -> Outcome:
    """Apply a version of a channel message: the greatest one counts, whole."""
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
        state.headless = True  # earlier messages of the run may be missing
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


def _later_version_of_prompt(state: MessageState, event: Event) -> Outcome:
    return _version(state, event)


def _start(state: MessageState, event: Event) -> Outcome:
    """Apply a start, also one that arrives after other events."""
    unnumbered = event.seq is None and not state.versioned
    if unnumbered and not _after_through(state, event):
        return Outcome.OLD
    if state.start_id is not None:
        if state.start_id and event.id and event.id != state.start_id and not state.ended:
            state.inexact = state.changed = True  # two publishers without gens: their seqs collide
        return Outcome.OLD
    state.headless = state.headless and not state.versioned
    state.start_id = event.id or event.serial or ""
    state.prompt_id = state.prompt_id or event.prompt_id
    state.started_ms = event.timestamp_ms
    if event.seq is not None and not state.contains(event.seq):
        _insert(state, event)
    return Outcome.FOLDED


def _late_start(state: MessageState, event: Event) -> Outcome:
    """Apply the start of a message that has ended.

    Nothing else of the start is stored: the wire form of a message has no member for it.
    """
    if state.start_id is None:
        _start(state, event)
        state.changed = True
    return Outcome.OLD


def _content(state: MessageState, event: Event) -> Outcome:
    """Append or insert content of an open message."""
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
    if state.seq:
        state.inexact = True  # nothing shows its place among numbered content
    steps = 0 if state.tail is None else len(state.tail.segments)
    if state.tail is None:
        state.headless = state.start_id is None
        state.tail = run_of(event)
    else:
        state.tail.append(event)
    state.count_part_changes(len(state.tail.segments) - steps)
    return Outcome.FOLDED


def _overflow(state: MessageState, event: Event) -> Outcome:
    """End the response before *event*, for which there is no room.

    The status is ``incomplete`` and the error `TOO_LARGE`. A message that has ended refuses the
    event.
    """
    if state.ended:
        return Outcome.REFUSED
    if event.seq is not None:
        state.end = event.seq
    state.status, state.provisional, state.error = "incomplete", False, TOO_LARGE
    state.finished_ms = versioned_messages.published_ms(event)
    return Outcome.FOLDED


def _fill(state: MessageState, event: Event) -> Outcome:
    """Insert content of an ended message, if it fills a gap."""
    if event.version is not None:
        return _version(state, event)
    if event.seq is None or not any(a <= event.seq <= b for a, b in state.gaps()):
        return Outcome.OLD
    return _insert(state, event)


def _insert(state: MessageState, event: Event) -> Outcome:
    """Insert *event* at the place of its seq: extend a run, join two, or begin a new one."""
    seq, runs = event.seq or 0, state.runs
    at = state.run_index(seq)
    before = runs[at - 1] if at else None
    if not state.reserve(adds(event)):
        return _overflow(state, event)
    if event.kind in CONTENT and state.has_unnumbered_content:
        state.inexact = True  # nothing shows their order
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
    """End the message; the seq of a stop tells how many events there are."""
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
    """Replace all content up to the seq of the repair, or all of it where there are no seqs.

    A collapsed run that reaches further than the repair came later and is newer: it stays.
    """
    if event.seq is not None:
        if event.seq <= state.covered:
            return Outcome.OLD
    elif not _after_through(state, event):
        return Outcome.OLD
    if event.is_pointer:
        if event.seq is not None:
            state.note_pointer(event.seq)
        return Outcome.POINTER
    upto = event.seq if event.seq is not None else (NO_SEQ if state.seq is None else state.seq)
    if any(run.collapsed and run.last > upto for run in state.runs):
        if upto > NO_SEQ:
            state.repaired = upto
        return Outcome.FOLDED
    parts = event.value if event.value is not None else [{"type": "text", "text": event.text}]
    replacement = collapsed_run(min(0, upto), upto, parts, event.timestamp_ms)
    if not _changes_nothing(state, replacement):
        rest = [cut for run in state.runs if (cut := run.after(upto)) is not None]
        state.runs, state.budget = [replacement, *rest], None
    sealed = bool(state.versioned) or (event.seq is None and state.seq is None)
    state.seal()
    state.note_read(upto)
    if upto > NO_SEQ:
        state.repaired = upto
    state.sealed = sealed
    return Outcome.FOLDED


def _changes_nothing(state: MessageState, replacement: Run) -> bool:
    """Return True if the text already is *replacement*: then the runs keep their timings."""
    if state.seq is None or state.tail is not None or state.gaps() or not state.runs:
        return False
    if state.runs[-1].last > replacement.last:
        return False
    return assemble(state.runs) == assemble([replacement])


STEPS: dict[tuple[str, str], Callable[[MessageState, Event], Outcome]] = {
    ("open", "prompt"): _prompt,
    ("open", "start"): _start,
    **{("open", kind): _content for kind in CONTENT},
    ("open", "stop"): _stop,
    ("open", "repair"): _repair,
    ("ended", "prompt"): _later_version_of_prompt,
    ("ended", "start"): _late_start,
    **{("ended", kind): _fill for kind in CONTENT},
    ("ended", "repair"): _repair,
}

# The same table by phase: building its keys for each event would cost a fiftieth of the fold.
_OPEN_STEPS = {kind: step for (phase, kind), step in STEPS.items() if phase == "open"}
_ENDED_STEPS = {kind: step for (phase, kind), step in STEPS.items() if phase == "ended"}
