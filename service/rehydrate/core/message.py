"""What is known of one message: its text so far, and up to where that is folded."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.core.event import TERMINAL, Status
from rehydrate.core.positions import MARGIN_MS
from rehydrate.core.text import versioned_messages
from rehydrate.core.text.assembly import assemble
from rehydrate.core.text.content import collapsed_run
from rehydrate.core.text.size_budget import SizeBudget, measured

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rehydrate.core.text.content import Run


class Position(NamedTuple):
    """Up to where a message is folded."""

    gen: int = 1
    seq: int | None = None
    serial: str | None = None
    id: str | None = None


class Owner(NamedTuple):
    """Whose events a message takes: the clientId (None too is one) of its first event."""

    client_id: str | None


class MessageState:
    """One message, as far as its events were seen.

    Mutable. `fold` changes it event by event; all other changes are the methods below. Code outside
    ``core`` assigns no attribute of it, so the invariants between them hold everywhere.

    Attributes:
        position: its place among the messages, for good; None until something tells.
        end: the seq of its stop, which says how many events there are.
        repaired: the seq up to which a repair has replaced the text.
        runs: content with seqs, in order of seq, holes between them; ``tail``: content without.
        versioned: channel messages that grow, by serial; ``steps``: the latest attempt at each step.
        recent: ids of events without seq, for the margin, with their times in ms.
        headless: it holds text without seq whose start nobody saw.
        inexact: something was seen that no seq can put in order.
        sealed: all there is without seq was said as a whole, by a repair or by who stored it.
        pointer: the highest seq of a repair whose text only the store has.
        provisional: ended by the idle limit alone.
        changed: something was folded since the state was read from where it is kept.
        ephemeral: its publisher's tokens are not in history; the store has them, a little later.
        budget: how much it holds, once that is of interest; None: to be measured.
    """

    __slots__ = (
        "anonymous",
        "budget",
        "changed",
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
        self.headless = self.inexact = self.sealed = self.provisional = False
        self.pointer = -1
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
        """Replace the content by *parts*, which are the whole message, and end it with *status*.

        What was published so far counts as repaired, so that its events are not folded again, and
        the stop gets the next seq. None keeps what is known.
        """
        last = 0 if self.seq is None else self.seq
        self.runs, self.tail = [collapsed_run(0, last, parts, finished_ms)], None
        if self.seq is not None:
            self.repaired, self.end = self.seq, self.seq + 1
        if self.versioned:
            self.seal()
        self.headless = self.inexact = self.provisional = False
        self.status, self.finished_ms = status, finished_ms
        if started_ms is not None:
            self.started_ms = started_ms
        elif self.started_ms is None:
            self.started_ms = finished_ms
        self.prompt_id = self.prompt_id if prompt_id is None else prompt_id
        self.usage = self.usage if usage is None else usage
        self.annotate(metadata)
        self.changed = True

    def interrupt(self, at_ms: int) -> None:
        """End it provisionally: the idle limit passed, and a later event reopens it."""
        self.hold_ended("interrupted", at_ms)
        self.changed = True

    def hold_ended(self, status: Status, at_ms: int) -> None:
        """Show *status* provisionally, as of *at_ms*; later events are still folded."""
        self.status, self.provisional, self.finished_ms = status, True, at_ms

    def mark_inexact(self) -> None:
        """Record that the text may lack a piece which no seq can reveal."""
        self.inexact = self.changed = True

    def mark_changed(self) -> None:
        """Have the store write this message at the next opportunity."""
        self.changed = True

    def mark_stored(self) -> None:
        """Record that the store has written this message as it is."""
        self.changed = False

    def restore(self, attributes: Mapping[str, Any]) -> None:
        """Set the attributes that a store kept."""
        for name, value in attributes.items():
            setattr(self, name, value)

    def restore_runs(self, runs: list[Run], tail: Run | None, versioned: Mapping[int, Run]) -> None:
        """Set the content that a store kept; *versioned*: runs of versioned messages, by number."""
        self.runs, self.tail = runs, tail
        for message in self.versioned.values():
            message.run = versioned.get(message.header.first, message.run)

    @property
    def ended(self) -> bool:
        """Whether it is terminal, and not only by the idle limit."""
        return self.status in TERMINAL and not self.provisional

    @property
    def exact(self) -> bool:
        """False where it cannot be shown that the text is all there is up to ``through``."""
        return not (self.inexact or self.headless or self.pointer > self.covered)

    @property
    def through(self) -> Position:
        """Up to where it is folded."""
        return Position(self.gen, self.seq, self.serial, self.last_id)

    @property
    def covered(self) -> int:
        """The seq up to which a repair has replaced the text; -1 for none."""
        return -1 if self.repaired is None else self.repaired

    def contains(self, seq: int) -> bool:
        """Whether the content of *seq* is in the text."""
        if seq <= self.covered:
            return True
        at = self.run_index(seq)
        return at < len(self.runs) and self.runs[at].first <= seq

    def run_index(self, seq: int) -> int:
        """Return the index of the first run that ends at or after *seq*: the place of *seq*."""
        runs = self.runs
        if not runs or runs[-1].last < seq:  # nearly always: events come in order
            return len(runs)
        return bisect_left(runs, seq, key=lambda run: run.last)

    def gaps(self) -> list[tuple[int, int]]:
        """The seqs that are missing, as first and last of each hole.

        A start says nothing that a text would lack, so seq 0 is never a gap: publishers that
        number their tokens from 1 and send no start are whole. A stop counts too few if its sender
        knew less than was seen; then what was seen counts.
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
        """The parts as a reader sees them."""
        runs = [*self.runs, self.tail] if self.tail is not None else self.runs
        parts = assemble(runs, self.visible_versioned(), self.gaps())
        if self.status in TERMINAL:
            for part in parts:
                if part.get("status") == "in_progress":
                    part["status"] = "incomplete"
        return parts

    def visible_versioned(self) -> list[versioned_messages.VersionedMessage]:
        """The channel messages that count, in the order of their creation."""
        return versioned_messages.visible(self.versioned, self.steps)

    def all_runs(self) -> list[Run]:
        """All runs: after those with seqs the one without, then those of versioned_messages."""
        tail = [] if self.tail is None else [self.tail]
        return [*self.runs, *tail, *(message.run for message in self.versioned.values())]

    def reserve(self, characters: int) -> bool:
        """Whether one more event, of so many *characters*, may be folded; it is counted then."""
        if self.budget is not None and self.budget.reserve(characters):
            return True
        self.budget = measured(self.all_runs())  # what was counted may be too much
        return self.budget.reserve(characters)

    def count_part_changes(self, steps: int) -> None:
        """Count so many changes from one part to another."""
        if steps and self.budget is not None:
            self.budget.steps += steps

    def seal(self) -> None:
        """Let nothing without a seq be added: what there is, was said as a whole."""
        self.tail, self.versioned, self.steps, self.budget = None, {}, {}, None
        self.headless = self.inexact = False
        self.sealed = True


def read_again_from(
    states: Iterable[MessageState], read_at_ms: int
) -> versioned_messages.VersionedHeader | None:
    """The oldest of the channel messages in *states* that may still grow.

    Those of an open response, and of one that ended within the margin before *read_at_ms*: what
    was published before its end may show later.
    """
    growing = [
        message.header
        for state in states
        if state.status not in TERMINAL or (state.finished_ms or 0) > read_at_ms - MARGIN_MS
        for message in state.versioned.values()
        if not message.header.is_last
    ]
    return min(growing, default=None)
