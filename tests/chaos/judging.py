"""What became of a response, counted in characters."""

from __future__ import annotations

from typing import NamedTuple

from chaos.publisher import MEAN_TOKENS
from chaos.world import LEASE_S
from rehydrate.demo.texts import tokens_of

KILLED = "killed"
LIMIT_S = 2 * LEASE_S
"""How long after the last fault everybody has to have seen the end."""

_NEVER_S = 3.0


class Ended(NamedTuple):
    """How one response ended, and how long after the last fault all had seen it.

    ``stalled_s``: how much of that the machine had no turn for us; on one that has, nearly nothing.
    """

    id: str
    status: str
    characters: int
    lost: int
    doubled: int
    after_s: float
    stalled_s: float

    @property
    def late(self):
        return self.after_s - self.stalled_s > LIMIT_S


def never_begun(playing, answers, id_):
    """Whether a response was never begun: nobody knows of it, and its publisher knows that."""
    said = [answer for answer in answers if answer is not None]
    if not said or playing.since(id_) < _NEVER_S or playing.outcomes[id_] == "completed":
        return False
    return all(m["id"] != id_ for answer in said for m in answer["messages"])


def measured(playing, message):
    """Compare *message* with what its publisher had to say."""
    id_, text, status = message["id"], message["text"], message["status"]
    whole = "".join(tokens_of(id_, mean=MEAN_TOKENS))
    lives = playing.publisher_of[id_].name not in playing.world.dead
    lost = doubled = 0
    if status == "completed" or (lives and playing.outcomes[id_] == "completed"):
        if text != whole or status != "completed":
            lost, doubled = max(0, len(whole) - len(text)) or 1, max(0, len(text) - len(whole))
    elif not (_within(text, whole) if message["gaps"] else whole.startswith(text)):
        doubled = 1
    elif status not in ("interrupted", "failed", "cancelled"):
        lost = len(whole) - len(text)  # it does not say that something is missing
    after_s = playing.since(id_)
    stalled_s = min(after_s, playing.stalled_s)
    return Ended(id_, status, len(text), lost, doubled, after_s, stalled_s)


def _within(text, whole):
    """Whether *text* is *whole* with pieces left out."""
    rest = iter(whole)
    return all(character in rest for character in text)
