"""The plan of a soak, drawn from its seed: conversations with their messages and readers, and faults."""

from __future__ import annotations

import random
from typing import NamedTuple

SPAN_S = 8.0
"""The time within which the responses of a conversation begin, and most of its readers join."""

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

ERASED_SHARE = 0.3

KINDS = {
    "persisted": (
        *("ours", "ours", "ephemeral", "taken_over", "tokens", "nameless", "prompt"),
        *("unreadable", "unreadable", "unkept"),
    ),
    "mutable": (
        *("ours", "tokens", "appends", "appends", "transport", "transport", "prompt", "unreadable"),
    ),
    "ai": ("ours", "ours", "ephemeral", "taken_over"),
}
"""The kinds of messages on the channels of each namespace. Channels of the last one may lose history."""


class PlannedMessage(NamedTuple):
    """A response or a prompt: when it begins, and its pace in seconds per token."""

    id: str
    kind: str
    at_s: float
    pace_s: float


class Join(NamedTuple):
    """A reader: how it joins, when, and for how long; ``stay_s`` None: to the end."""

    way: str
    at_s: float
    stay_s: float | None


class Plan(NamedTuple):
    """The messages and readers of one conversation; *is_erased*: it is erased in the end."""

    conversation_id: str
    namespace: str
    messages: list[PlannedMessage]
    joins: list[Join]
    is_erased: bool = False


class Fault(NamedTuple):
    """A fault: the pause before it, and how long it lasts."""

    name: str
    pause_s: float
    lasts_s: float
    draw: float
    """A random number, 0 to 1, for the fault's other choices."""


def conversation(seed, number, ways=WAYS):
    """Return the plan of the *number*-th conversation."""
    chance = random.Random(f"{seed}:{number}")
    namespace = chance.choices(list(KINDS), [3, 3, 2])[0]
    kinds = [chance.choice(KINDS[namespace]) for _ in range(chance.randint(2, 4))]
    while kinds.count("nameless") > 1:  # a conversation can have only one stream without an id
        kinds[kinds.index("nameless")] = "tokens"
    messages = [
        PlannedMessage(
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
    is_erased = chance.random() < ERASED_SHARE
    return Plan(f"{namespace}:soak-{seed}-{number}", namespace, messages, joins, is_erased)


def faults(seed, names):
    """Yield faults without end: rounds of all of *names*, each in a random order."""
    chance = random.Random(f"{seed}:faults")
    while names:
        for name in chance.sample(names, len(names)):
            yield Fault(name, chance.uniform(0.3, 3), chance.uniform(0.5, 3), chance.random())
