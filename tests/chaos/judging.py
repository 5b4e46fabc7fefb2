"""What became of a response, counted in characters."""

from __future__ import annotations

from typing import NamedTuple

from chaos.publisher import MEAN_TOKENS
from chaos.world import LEASE_S
from rehydrate.demo.texts import tokens_of

KILLED = "killed"
LIMIT_S = 2 * LEASE_S
"""How long after the last fault everybody has to have seen the end."""

_NOTICES_S, _NOTICES_BLIND_S = 15.0, 50.0
STOCK_BLIND_LIMIT_S = LIMIT_S - _NOTICES_S + _NOTICES_BLIND_S
"""The same of a stock client whose connection is half-open while its clock is set back.

ably-python measures silence by the wall clock (gap 19 in `tests/channel/test_sdk_gaps.py`). Else it
notices within 15 s here: 2 s of silence, 3 s of patience, and 10 s of saying goodbye. Set back by
minutes it would wait for those minutes; what then notices is its WebSocket library, by a ping every
20 s that has 20 s to be answered, and 10 s of saying goodbye.
"""

_NEVER_S = 3.0


class Ended(NamedTuple):
    """How one response ended, and how long after the last fault it was seen.

    ``after_s``: by all readers but the stock client; ``stock_s``: by that one as well, which may
    take ``stock_limit_s``. ``stalled_s``, ``stock_stalled_s``: how much of each the machine had no
    turn for us; on one that has, nearly nothing.
    """

    id: str
    status: str
    characters: int
    lost: int
    doubled: int
    after_s: float
    stalled_s: float
    stock_s: float
    stock_stalled_s: float
    stock_limit_s: float

    @property
    def late(self):
        return (
            self.after_s - self.stalled_s > LIMIT_S
            or self.stock_s - self.stock_stalled_s > self.stock_limit_s
        )


def never_begun(playing, answers, id_):
    """Whether a response was never begun: nobody knows of it, and its publisher knows that."""
    said = [answer for answer in answers if answer is not None]
    if not said or playing.since(id_) < _NEVER_S or playing.outcomes[id_] == "completed":
        return False
    return all(m["id"] != id_ for answer in said for m in answer["messages"])


def measured(playing, message, ours_s):
    """Compare *message* with what its publisher had to say.

    *ours_s*: what `taken_s` was when all but the stock client showed it.
    """
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
    limit_s = STOCK_BLIND_LIMIT_S if playing.world.blinded else LIMIT_S
    return Ended(id_, status, len(text), lost, doubled, *ours_s, *taken_s(playing, id_), limit_s)


def taken_s(playing, id_):
    """How long seeing the end of *id_* has taken up to now, and how much of it had no turn, in s."""
    after_s = playing.since(id_)
    return after_s, min(after_s, playing.stalled_s)


def _within(text, whole):
    """Whether *text* is *whole* with pieces left out."""
    rest = iter(whole)
    return all(character in rest for character in text)
