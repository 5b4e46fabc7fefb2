"""The result of a response, counted in characters."""

from __future__ import annotations

from typing import NamedTuple

from chaos.publisher import MEAN_TOKENS
from chaos.world import LEASE_S
from rehydrate.demo.texts import tokens_of

KILLED = "killed"
LIMIT_S = 2 * LEASE_S
"""The time after the last fault within which every reader has to see the end."""

_NOTICES_S, _NOTICES_BLIND_S = 15.0, 50.0
STOCK_BLIND_LIMIT_S = LIMIT_S - _NOTICES_S + _NOTICES_BLIND_S
"""The same for a stock client whose connection is half-open while its clock is set back.

ably-python measures silence by the wall clock (gap 19 in `tests/ably/test_sdk_gaps.py`). With a correct
clock it notices within 15 s here: 2 s of silence, 3 s of tolerance, and 10 s for the closing handshake.
Set back by minutes, it would wait for those minutes; then its WebSocket library notices, by a ping every
20 s that has to be answered within 20 s, and 10 s for the closing handshake.
"""

_NEVER_S = 3.0


class Ended(NamedTuple):
    """How one response ended, and how long after the last fault that was shown.

    ``after_s``: by all readers except the stock client; ``stock_s``: by that one as well, within
    ``stock_limit_s``. ``stalled_s``, ``stock_stalled_s``: the part of each in which the machine did not
    schedule this process; nearly 0 on an idle machine.
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
    """Return True if a response was never begun: no service has it, and its publisher failed."""
    answered = [answer for answer in answers if answer is not None]
    if not answered or playing.since(id_) < _NEVER_S or playing.outcomes[id_] == "completed":
        return False
    return all(m["id"] != id_ for answer in answered for m in answer["messages"])


def measured(playing, message, ours_s):
    """Compare *message* with the text that its publisher wrote.

    *ours_s*: the result of `taken_s` when all readers except the stock client showed it.
    """
    id_, text, status = message["id"], message["text"], message["status"]
    whole = "".join(tokens_of(id_, mean=MEAN_TOKENS))
    lives = playing.lives(id_)
    lost = doubled = 0
    if status == "completed" or (lives and playing.outcomes[id_] == "completed"):
        if text != whole or status != "completed":
            lost, doubled = max(0, len(whole) - len(text)) or 1, max(0, len(text) - len(whole))
    elif not (_within(text, whole) if message["gaps"] else whole.startswith(text)):
        doubled = 1
    elif status not in ("interrupted", "failed", "cancelled"):
        lost = len(whole) - len(text)  # the missing part is not declared
    limit_s = STOCK_BLIND_LIMIT_S if playing.world.blinded else LIMIT_S
    return Ended(id_, status, len(text), lost, doubled, *ours_s, *taken_s(playing, id_), limit_s)


def taken_s(playing, id_):
    """Return the time that the end of *id_* has taken so far, and the stalled part of it, in s."""
    after_s = playing.since(id_)
    return after_s, min(after_s, playing.stalled_s)


def _within(text, whole):
    """Return True if *text* is *whole* with parts left out."""
    rest = iter(whole)
    return all(character in rest for character in text)
