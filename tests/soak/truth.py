"""What is true of a conversation, and what is wrong with what a reader shows of it."""

from __future__ import annotations

from collections import Counter, deque
from typing import NamedTuple

FRESH_S = 3.0
"""An answer reaches at least 2 s back; the rest is for clocks and requests under way."""


OURS = ("ours", "ephemeral", "taken_over")


class Verdict(NamedTuple):
    """Of one message that a reader shows: characters too few and too many."""

    lost: int = 0
    doubled: int = 0
    admitted: bool = False
    """It is not whole, and says so."""

    @property
    def wrong(self):
        return bool(self.lost or self.doubled)


class Stream:
    """A response, or a prompt: the texts that it has, one after the other, the last one for good.

    ``may_break``: its publisher may die, so that it may end interrupted with a beginning of one.
    ``told_live``: a client that knows the default dialect and appends alone is told of it live.
    """

    def __init__(self, id_, kind, *texts):
        self.id = id_
        self.kind = kind
        self.texts = texts
        self.may_break = kind == "taken_over"
        self.told_live = kind != "transport"
        self.final = None
        self._seen = deque([(0.0, 0)])

    def ended(self, status, text):
        """Everybody has to show this in the end."""
        self.final = (status, text)

    def seen(self, length, at_s):
        """Somebody has shown so many characters at a moment."""
        if length > self._seen[-1][1]:
            self._seen.append((at_s, length))

    def known_at(self, at_s):
        """How many characters somebody had shown by then."""
        return max((length for moment, length in self._seen if moment <= at_s), default=0)

    def judge(self, message, *, excused=False):
        """What is wrong with *message*; *excused*: the answer it came with says it may be less."""
        text, status = message["text"], message["status"]
        if status == "completed":
            good = text in self.texts
        elif status == "in_progress" or self.kind in OURS:  # it may have been taken for dead
            good = any(true.startswith(text) for true in self.texts)
        else:
            good = False
        if good:
            return Verdict()
        admits = excused or bool(message.get("gaps")) or message.get("exact") is False
        if admits and any(_within(text, true) for true in self.texts):
            return Verdict(admitted=True)
        return self._missing(text, status)

    def _missing(self, text, status):
        same = max(_common(text, true) for true in self.texts)
        lost = 0 if status == "in_progress" else len(self.texts[-1]) - same
        return Verdict(max(lost, 0), max(len(text) - same, not lost))


class Tally:
    """What was counted, over all conversations."""

    def __init__(self):
        self.joins = Counter()
        self.faults = Counter()
        self.ends = Counter()
        self.reloads = Counter()
        self.conversations = self.responses = self.characters = 0
        self.lost = self.doubled = self.unended = self.gaps = 0
        self.findings = []

    def find(self, what, *, lost=0, doubled=0, unended=0):
        """Something is wrong."""
        self.lost, self.doubled, self.unended = (
            self.lost + lost,
            self.doubled + doubled,
            self.unended + unended,
        )
        self.findings.append(what)

    @property
    def clean(self):
        """Whether something was seen, and nothing was wrong."""
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
            "by_way": dict(sorted(self.joins.items())),
            "ends": dict(sorted(self.ends.items())),
            "faults": dict(sorted(self.faults.items())),
            "reloads": dict(sorted(self.reloads.items())),
        }


def _common(a, b):
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


def _within(text, whole):
    """Whether *text* is *whole* with pieces left out."""
    rest = iter(whole)
    return all(character in rest for character in text)
