"""The state of one message: its content so far, and up to where its events are folded.

`MessageState` is changed in two ways only: by `fold`, event by event, and by the methods below,
each of which keeps the invariants between the attributes. Code outside ``core`` assigns none of
them; a test refuses it. The invariants:

* ``runs`` are in order of seq and do not touch: two runs are apart exactly where a seq is missing;
* ``repaired`` covers all seqs up to it, so no run begins below it except the repair's own;
* ``sealed`` means that nothing without a seq is added, so there is neither a ``tail`` nor a
  versioned message;
* ``provisional`` is True only with a terminal status, and then the message counts as open;
* ``position`` is set once.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.core.event import TERMINAL, Status
from rehydrate.core.positions import MARGIN_MS
from rehydrate.core.text import versioned_messages
from rehydrate.core.text.assembly import assemble
from rehydrate.core.text.content import NO_SEQ, SizeBudget, collapsed_run, measured

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rehydrate.core.event import Event
    from rehydrate.core.text.content import Run


MAX_EDITS = 1_000
"""The maximum number of edited channel messages whose versions are kept. Beyond it: inexact."""

MAX_UNREADABLE_RANGES = 1_000
"""Beyond it events are only counted, as if they had no seq."""

NO_TIME_MS = 2**53
"""The time of an id that an answer contains without one: it never leaves the margin."""


class Position(NamedTuple):
    """Up to where a message is folded; in the wire form: ``through``."""

    gen: int = 1
    seq: int | None = None
    serial: str | None = None
    id: str | None = None


class Owner(NamedTuple):
    """The publisher whose events a message accepts: the clientId of its first event, or None."""

    client_id: str | None


class MessageState:
    """One message, as far as its events were seen.

    Attributes:
        id: its id within the conversation.
        role: ``user`` for a prompt, ``assistant`` for a response.
        gen: the generation of its publisher.
        status: ``in_progress`` or a terminal status.
        position: its place among the messages: a serial, or a time of insertion; None: not yet set.
        owner: the publisher whose events it accepts; None until the first event.
        end: the seq of its stop, which says how many events there are.
        repaired: the seq up to which a repair has replaced the content.
        seq: the highest seq that was seen. ``serial``, ``last_id``: of the last event folded.
        start_id: the id of its start; None: no start was seen; empty: it has begun, id unknown.
        runs: content with seqs, in order of seq, with gaps between them.
        tail: content without seq; None: there is none.
        versioned: channel messages that grow, by serial. ``steps``: the latest attempt at each
            step.
        recent: ids of events without seq, kept for the margin, with their times in ms.
        anonymous: its events name no message.
        headless: it holds content without seq whose start was not seen.
        inexact: an event was seen that nothing can put in order, or one may be missing.
        sealed: nothing without a seq may be added: a repair or an import was the whole.
        posted: a backend stored the complete message; no event of the channel changes its content.
        pointer: the highest seq of a repair whose content only the store has; -1: none.
        edits: the version of each channel message that was edited after its create, by serial.
        unreadable_seqs: the seqs of events whose content could not be read, as the first and last of
            each range; events without a seq are numbered downwards from -1.
        provisional: it was ended by the idle limit alone.
        changed: the state differs from the stored row.
        ephemeral: its tokens are not in channel history; the store receives them a little later.
        budget: how much it holds; None: to be measured when the next event is folded.
        prompt_id, metadata, usage, error: see the glossary.
        started_ms, finished_ms: in ms since 1970; None: not yet.
    """

    __slots__ = (
        "anonymous",
        "budget",
        "changed",
        "edits",
        "end",
        "ephemeral",
        "error",
        "finished_ms",
        "gen",
        "headless",
        "id",
        "inexact",
        "last_id",
        "metadata",
        "owner",
        "pointer",
        "position",
        "posted",
        "prompt_id",
        "provisional",
        "recent",
        "repaired",
        "role",
        "runs",
        "sealed",
        "seq",
        "serial",
        "start_id",
        "started_ms",
        "status",
        "steps",
        "tail",
        "unreadable_seqs",
        "usage",
        "versioned",
    )  # fmt: skip

    def __init__(self, message_id: str, role: str = "assistant", *, gen: int = 1) -> None:
        self.id = message_id
        self.role = role
        self.gen = gen
        self.status: Status = "in_progress"
        self.position: str | None = None
        self.prompt_id: str | None = None
        self.owner: Owner | None = None
        self.anonymous = self.ephemeral = False
        self.started_ms: int | None = None
        self.finished_ms: int | None = None
        self.metadata: Any = None
        self.changed = False
        self._empty(gen)

    def _empty(self, gen: int) -> None:
        self.gen = gen
        self.status = "in_progress"
        self.budget: SizeBudget | None = None
        self.runs: list[Run] = []
        self.tail: Run | None = None
        self.versioned: dict[str, versioned_messages.VersionedMessage] = {}
        self.steps: dict[str, str] = {}
        self.end: int | None = None
        self.seq: int | None = None
        self.serial: str | None = None
        self.last_id: str | None = None
        self.start_id: str | None = None
        self.repaired: int | None = None
        self.recent: dict[str, int] = {}
        self.headless = self.inexact = self.sealed = self.provisional = self.posted = False
        self.pointer = -1
        self.unreadable_seqs: Sequence[Sequence[int]] = ()
        self.edits: Mapping[str, str] = {}
        self.usage: Any = None
        self.error: Any = None
        self.finished_ms = None

    def restart(self, gen: int) -> None:
        """Empty this message for the publisher of *gen*, which took it over."""
        self._empty(gen)
        self.started_ms = None
        self.changed = True

    def claim(
        self,
        client_id: str | None,
        *,
        at_ms: int,
        prompt_id: str | None = None,
        metadata: Any = None,
        ephemeral: bool = False,
    ) -> None:
        """Make *client_id* the owner, before its publisher sends the first event.

        Args:
            client_id: the clientId that its events will carry.
            at_ms: the time of the claim, in ms since 1970.
            prompt_id: the prompt it answers; None keeps the known one.
            metadata: None keeps the known metadata.
            ephemeral: its tokens will be published as ephemeral messages.
        """
        self.owner = Owner(client_id)
        self.prompt_id = prompt_id or self.prompt_id
        self.ephemeral = ephemeral
        self.started_ms = at_ms
        self.annotate(metadata)
        self.changed = True

    def annotate(self, metadata: Any) -> None:
        """Replace the metadata; None keeps it."""
        if metadata is not None:
            self.metadata = metadata
            self.changed = True

    def place(self, position: str | None) -> None:
        """Set the position, unless the message has one: a position never changes."""
        if self.position is None:
            self.position = position

    def import_finished(
        self,
        parts: list[dict[str, Any]],
        status: Status,
        *,
        finished_ms: int,
        started_ms: int | None = None,
        prompt_id: str | None = None,
        usage: Any = None,
        metadata: Any = None,
    ) -> None:
        """Replace the content by *parts*, which are the whole message, and end it.

        Events up to the highest seq count as repaired, so that they are not folded again, and the
        stop gets the next seq.

        Args:
            parts: the whole content.
            status: a terminal status.
            finished_ms: when it ended, in ms since 1970.
            started_ms: None keeps the known time; without one it is *finished_ms*.
            prompt_id: None keeps the known one.
            usage: None keeps the known usage.
            metadata: None keeps the known metadata.
        """
        last = 0 if self.seq is None else self.seq
        self.runs, self.tail = [collapsed_run(0, last, parts, finished_ms)], None
        if self.seq is not None:
            self.repaired, self.end = self.seq, self.seq + 1
        if self.versioned:
            self.seal()
        self.headless = self.inexact = self.provisional = False
        self.unreadable_seqs = ()
        self.status, self.finished_ms = status, finished_ms
        if started_ms is not None:
            self.started_ms = started_ms
        elif self.started_ms is None:
            self.started_ms = finished_ms
        self.prompt_id = self.prompt_id if prompt_id is None else prompt_id
        self.usage = self.usage if usage is None else usage
        self.annotate(metadata)
        self.posted = self.changed = True

    def note_stream(self, event: Event) -> None:
        """Record *event*, of the channel, for this message, which a backend has posted.

        The content stays. Live readers show the stream until the posted text and its end are published
        after the last seq, with the first gen and clientId. A version has no seq, so it seals the content.
        """
        if self.owner is None:
            self.owner, self.changed = Owner(event.client_id), True
        gen, seq = event.gen, event.seq
        if self.owner.client_id != event.client_id or gen < self.gen:
            return
        if event.version is not None and not self.sealed:
            self.seal()
            self.changed = True
        last = -1 if self.seq is None or gen > self.gen else self.seq
        if gen > self.gen or (seq is not None and seq > last):
            self.gen, self.seq = gen, seq
            self.repaired, self.end = seq, None if seq is None else seq + 1
            self.runs[0].last = seq or 0
            self.changed = True

    def interrupt(self, at_ms: int) -> None:
        """End the message provisionally: the idle limit passed. A later event reopens it."""
        self.hold_ended("interrupted", at_ms)
        self.changed = True

    def hold_ended(self, status: Status, at_ms: int) -> None:
        """Show *status* provisionally as of *at_ms*; later events are still folded."""
        self.status, self.provisional, self.finished_ms = status, True, at_ms

    def mark_inexact(self) -> None:
        """Record that the text may lack something that no seq can reveal."""
        self.inexact = self.changed = True

    def note_pointer(self, seq: int) -> None:
        """Record that a repair up to *seq* was published whose content only the store has.

        It is stored, so that the text stays inexact until that content is there.
        """
        self.pointer = max(self.pointer, seq)
        self.changed = True

    def note_unreadable(self, seq: int | None) -> None:
        """Count an event whose content could not be read; a repair may replace it by its *seq*."""
        known = self.unreadable_seqs
        if seq is not None and any(first <= seq <= last for first, last in known):
            return
        if seq is None or len(known) >= MAX_UNREADABLE_RANGES:
            seq = min(known[0][0], 0) - 1 if known else -1
        at = bisect_left(known, seq, key=lambda each: each[0])
        before, after = list(known[:at]), list(known[at:])
        first = before.pop()[0] if before and before[-1][1] == seq - 1 else seq
        last = after.pop(0)[1] if after and after[0][0] == seq + 1 else seq
        self.unreadable_seqs = (*before, (first, last), *after)

    def note_edited_seq(self, seq: int) -> None:
        """Record that the content of *seq* was replaced, whether or not it could be read."""
        around = []
        for first, last in self.unreadable_seqs:
            pieces = ((first, min(last, seq - 1)), (max(first, seq + 1), last))
            around += [piece for piece in pieces if piece[0] <= piece[1]]
        self.unreadable_seqs = tuple(around)

    def note_edit(self, serial: str, version: str) -> None:
        """Record that the content of the channel message *serial* is that of *version*."""
        if len(self.edits) >= MAX_EDITS and serial not in self.edits:
            self.inexact = True
        else:
            self.edits = {**self.edits, serial: version}
        self.changed = True

    def has_edit(self, event: Event) -> bool:
        """Return True if *event* is an edit that is known, or that a repair has replaced."""
        if event.edit is None or event.serial is None or self.sealed:
            return True
        replaced = event.seq is not None and event.seq <= self.covered
        return replaced or event.edit <= self.edits.get(event.serial, "")

    def reaches(self, event: Event) -> bool:
        """Return True if the content of the channel message of *event* was folded, edited or not."""
        if event.seq is not None:
            return self.contains(event.seq)
        return self.serial is not None and event.serial is not None and event.serial <= self.serial

    def note_read(self, seq: int) -> None:
        """Record that all content up to *seq* is known now: a repair has replaced it."""
        rest = [(max(first, seq + 1), last) for first, last in self.unreadable_seqs if last > seq]
        self.unreadable_seqs = tuple(rest)

    def mark_changed(self) -> None:
        """Have the store write this message the next time."""
        self.changed = True

    def mark_stored(self) -> None:
        """Record that the stored row equals this state."""
        self.changed = False

    def restore(self, attributes: Mapping[str, Any]) -> None:
        """Set *attributes* as a store kept them."""
        for name, value in attributes.items():
            setattr(self, name, value)

    def restore_runs(self, runs: list[Run], tail: Run | None, versioned: Mapping[int, Run]) -> None:
        """Set the content as a store kept it.

        Args:
            runs: content with seqs.
            tail: content without.
            versioned: the runs of versioned messages, by their numbers (``VersionedHeader.first``).
        """
        self.runs, self.tail = runs, tail
        for message in self.versioned.values():
            message.run = versioned.get(message.header.first, message.run)

    @property
    def ended(self) -> bool:
        """True if the status is terminal, and not by the idle limit alone."""
        return self.status in TERMINAL and not self.provisional

    @property
    def exact(self) -> bool:
        """False if the text cannot be shown to be everything up to ``through``."""
        unknown = self.inexact or self.headless or self.pointer > self.covered
        return not (unknown or self.unreadable or self.may_lack_all)

    @property
    def may_lack_all(self) -> bool:
        """True if a stop without seq ended it and no content was read: that may be ephemeral."""
        if self.end is not None or not self.ended or self.tail is not None or self.versioned:
            return False
        return not any(run.segments or run.collapsed for run in self.runs)

    @property
    def unreadable(self) -> int:
        """How many of its channel messages had content that could not be read."""
        count = sum(last - first + 1 for first, last in self.unreadable_seqs)
        return count + sum(each.header.unreadable for each in self.visible_versioned())

    @property
    def has_unnumbered_content(self) -> bool:
        """True if it has content without seqs; the wire form implies this by the ids of the margin."""
        if self.tail is not None or not self.runs:
            return self.tail is not None
        first = self.runs[0]
        is_read = first.collapsed and bool(first.segments) and not self.sealed
        return is_read and (self.seq is None or (self.seq == 0 and bool(self.recent)))

    @property
    def through(self) -> Position:
        """Up to where the message is folded."""
        return Position(self.gen, self.seq, self.serial, self.last_id)

    @property
    def covered(self) -> int:
        """The seq up to which a repair has replaced the content; -1: none has."""
        return -1 if self.repaired is None else self.repaired

    def contains(self, seq: int) -> bool:
        """Return True if the content of *seq* is in the text."""
        if seq <= self.covered:
            return True
        at = self.run_index(seq)
        return at < len(self.runs) and self.runs[at].first <= seq

    def has_forgotten(self, at_ms: int) -> bool:
        """Return True if the id of an event of the time *at_ms*, in ms since 1970, is not kept any more."""
        newest_ms = next(reversed(self.recent.values()), None)
        return newest_ms is not None and at_ms < newest_ms - MARGIN_MS and newest_ms < NO_TIME_MS

    def keep_id(self, id_: str, at_ms: int) -> None:
        """Keep the id of an event that changed nothing at *at_ms*, as long as that of any other.

        Without a serial only its id shows, when it is read again, that it is not new.
        """
        if self.recent.get(id_, -1) < at_ms and not self.has_forgotten(at_ms):
            self.recent.pop(id_, None)
            self.recent[id_] = at_ms
            self.changed = True

    def run_index(self, seq: int) -> int:
        """Return the index of the first run that ends at or after *seq*: its place."""
        runs = self.runs
        if not runs or runs[-1].last < seq:  # nearly always: events come in order
            return len(runs)
        return bisect_left(runs, seq, key=lambda run: run.last)

    def gaps(self) -> list[tuple[int, int]]:
        """Return the seqs that are missing, as the first and last of each gap.

        Seq 0 is never a gap: a start has no text, and need not be sent. The seq of a stop is too low
        if its sender knew of fewer events than have arrived; then the events that arrived decide.
        """
        last = -1 if self.seq is None else self.seq
        top = last + 1 if self.end is None or self.end < last else self.end
        gaps, expected = [], max(1, self.covered + 1)
        for run in self.runs:
            if run.first > expected and expected < top:
                gaps.append((expected, min(run.first, top) - 1))
            expected = max(expected, run.last + 1)
        if expected < top:
            gaps.append((expected, top - 1))
        return gaps

    def parts(self) -> list[dict[str, Any]]:
        """Return the parts as a reader sees them."""
        runs = [*self.runs, self.tail] if self.tail is not None else self.runs
        parts = assemble(runs, self.visible_versioned(), self.gaps())
        if self.status in TERMINAL:
            for part in parts:
                if part.get("status") == "in_progress":
                    part["status"] = "incomplete"
        return parts

    def visible_versioned(self) -> list[versioned_messages.VersionedMessage]:
        """Return the versioned messages that count, in the order of their creation."""
        return versioned_messages.visible(self.versioned, self.steps) if self.versioned else []

    def all_runs(self) -> list[Run]:
        """Return the runs with seqs, then the one without, then those of versioned messages."""
        tail = [] if self.tail is None else [self.tail]
        return [*self.runs, *tail, *(message.run for message in self.versioned.values())]

    def reserve(self, characters: int) -> bool:
        """Count one more event of *characters*; return False if there is no room for it.

        The count may be too high, since repairs remove content. So it is measured again before an
        event is refused.
        """
        if self.budget is not None and self.budget.reserve(characters):
            return True
        self.budget = measured(self.all_runs())
        return self.budget.reserve(characters)

    def count_part_changes(self, steps: int) -> None:
        """Count *steps* changes from one part to another."""
        if steps and self.budget is not None:
            self.budget.steps += steps

    def seal(self) -> None:
        """Add nothing without a seq any more: the content is whole."""
        self.tail, self.versioned, self.steps, self.budget = None, {}, {}, None
        self.note_read(NO_SEQ)
        self.headless = self.inexact = False
        self.sealed = True
