"""What a soak will do, drawn from its seed: conversations, what is said in them, who joins, faults."""

from __future__ import annotations

import random
from typing import NamedTuple

SPAN_S = 8.0
"""Within how long the responses of a conversation begin, and most of its readers join."""

TOKENS = 45

WAYS = (
    "rest",
    "python-1",
    "python-2",
    "python-3",
    "follow",
    "sse",
    "js-1",
    "js-2",
    "js-3",
)

KINDS = {
    "persisted": ("ours", "ours", "ephemeral", "taken_over", "tokens", "nameless", "prompt"),
    "mutable": ("ours", "tokens", "appends", "appends", "transport", "transport", "prompt"),
    "ai": ("ours", "ours", "ephemeral", "taken_over"),
}
"""What may be said on the channels of each namespace. The last one forgets, when it is told to."""


class Speech(NamedTuple):
    """A response, or a prompt: when it begins, and how fast it goes, in seconds a token."""

    id: str
    kind: str
    at_s: float
    pace_s: float


class Join(NamedTuple):
    """A reader: in which way it joins, when, and for how long; None: to the end."""

    way: str
    at_s: float
    stay_s: float | None


class Plan(NamedTuple):
    """What happens in one conversation."""

    conversation_id: str
    namespace: str
    speeches: list[Speech]
    joins: list[Join]


class Fault(NamedTuple):
    """What befalls everybody, after a pause, and for how long."""

    name: str
    pause_s: float
    lasts_s: float
    draw: float
    """For what else it has to choose: 0 to 1."""


def conversation(seed, number, ways=WAYS):
    """The plan of the *number*-th conversation."""
    chance = random.Random(f"{seed}:{number}")
    namespace = chance.choices(list(KINDS), [3, 3, 2])[0]
    kinds = [chance.choice(KINDS[namespace]) for _ in range(chance.randint(2, 4))]
    while kinds.count("nameless") > 1:  # it is the conversation's one nameless stream
        kinds[kinds.index("nameless")] = "tokens"
    speeches = [
        Speech(
            f"{seed}-{number}-{index}",
            kind,
            chance.uniform(0, SPAN_S / 2),
            chance.uniform(0.08, 0.25),
        )
        for index, kind in enumerate(kinds)
    ]
    joins = [
        Join(
            chance.choice(ways),
            chance.uniform(0, SPAN_S * 1.5),
            None if chance.random() < 0.5 else chance.uniform(0.3, SPAN_S),
        )
        for _ in range(chance.randint(5, 9))
    ]
    return Plan(f"{namespace}:soak-{seed}-{number}", namespace, speeches, joins)


def faults(seed, names):
    """Faults, one after the other, without end."""
    chance = random.Random(f"{seed}:faults")
    while names:
        yield Fault(
            chance.choice(names), chance.uniform(0.3, 3), chance.uniform(0.5, 3), chance.random()
        )
