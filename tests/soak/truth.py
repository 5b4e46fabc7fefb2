"""The published texts of a conversation, and a check of what a reader shows of it."""

from __future__ import annotations

from collections import Counter, deque
from typing import NamedTuple

FRESH_S = 3.0
"""The age that text in an answer may lack: 2 s, and 1 s for clocks and requests in flight."""


OURS = ("ours", "ephemeral", "taken_over")


class Verdict(NamedTuple):
    """The result for one message that a reader shows: characters too few and too many."""

    lost: int = 0
    doubled: int = 0
    admitted: bool = False
    """It is not whole, and is marked as such."""

    @property
    def wrong(self):
        return bool(self.lost or self.doubled)


class Stream:
    """A response or a prompt, and the texts that it has one after the other; the last one is final.

    ``may_break``: its publisher may die, so that it may end interrupted, with a prefix of a text.
    ``is_live_for_all``: clients that have only the default codec and appends receive it live.
    ``may_lack``: parts of it are kept nowhere, so that it may end with gaps, if it says so.
    ``unreadable``: how many of its channel messages cannot be read.
    """

    def __init__(self, id_, kind, *texts, unreadable=0):
        self.id = id_
        self.kind = kind
        self.texts = texts
        self.may_break = kind == "taken_over"
        self.is_live_for_all = kind != "transport"
        self.may_lack = kind == "unkept"
        self.unreadable = unreadable
        self.final = None
        self._seen = deque([(0.0, 0)])

    def ended(self, status, text):
        """Set what every reader has to show in the end."""
        self.final = (status, text)

    def note_shown(self, length, at_s):
        """Record that a reader showed *length* characters at *at_s*."""
        if length > self._seen[-1][1]:
            self._seen.append((at_s, length))

    def shown_until(self, at_s):
        """Return how many characters any reader had shown until *at_s*."""
        return max((length for moment, length in self._seen if moment <= at_s), default=0)

    def judge(self, message, *, excused=False):
        """Check *message*; *excused*: its answer was marked as incomplete."""
        text, status = message["text"], message["status"]
        if status == "completed":
            good = text in self.texts
        elif status == "in_progress" or self.kind in OURS:  # its publisher may have seemed dead
            good = any(true.startswith(text) for true in self.texts)
        else:
            good = False
        ended = status == "completed" and text == self.texts[-1]
        counted = excused or message.get("unreadable", 0) == self.unreadable
        if good and ended and not counted:
            return Verdict(lost=1)  # silently
        if good:
            return Verdict(admitted=ended and self.unreadable > 0)
        admits = excused or bool(message.get("gaps")) or message.get("exact") is False
        if admits and any(_within(text, true) for true in self.texts):
            return Verdict(admitted=True)
        return self._missing(text, status)

    def _missing(self, text, status):
        same = max(_common(text, true) for true in self.texts)
        lost = 0 if status == "in_progress" else len(self.texts[-1]) - same
        return Verdict(max(lost, 0), max(len(text) - same, not lost))


class Tally:
    """Counts and findings over all conversations."""

    def __init__(self):
        self.joins = Counter()
        self.faults = Counter()
        self.effects = Counter()
        self.ends = Counter()
        self.reloads = Counter()
        self.conversations = self.responses = self.characters = 0
        self.lost = self.doubled = self.unended = self.gaps = 0
        self.unreadable = self.erased = self.strange = self.tails = 0
        self.findings = []

    def report(self, what, *, lost=0, doubled=0, unended=0):
        """Add a finding."""
        self.lost, self.doubled, self.unended = (
            self.lost + lost,
            self.doubled + doubled,
            self.unended + unended,
        )
        self.findings.append(what)

    def inject(self, fault, effects):
        """Count a fault that is over, and its effects: one without any proves nothing."""
        self.faults[fault] += 1
        self.effects[fault] += effects
        if not effects:
            self.report(f"the fault never fired: {fault}")

    @property
    def clean(self):
        """True if text was read without a finding."""
        return bool(self.characters and self.joins) and not self.findings

    def as_json(self):
        return {
            "conversations": self.conversations,
            "responses": self.responses,
            "joins": self.joins.total(),
            "characters": self.characters,
            "lost": self.lost,
            "doubled": self.doubled,
            "unended": self.unended,
            "gaps_reported": self.gaps,
            "unreadable": self.unreadable,
            "erased": self.erased,
            "tails_of_erased": self.tails,
            "of_strangers": self.strange,
            "by_way": dict(sorted(self.joins.items())),
            "ends": dict(sorted(self.ends.items())),
            "faults": dict(sorted(self.faults.items())),
            "effects": dict(sorted(self.effects.items())),
            "reloads": dict(sorted(self.reloads.items())),
        }


def _common(a, b):
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def _within(text, whole):
    """Return True if *text* is *whole* with parts left out."""
    rest = iter(whole)
    return all(character in rest for character in text)
