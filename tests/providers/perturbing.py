"""Perturb valid transcripts, and check what readers have of the answer.

One seed is one stream. The text of a transcript is made of words that occur once, so that a text that is
shown twice is found by counting.
"""

from __future__ import annotations

import copy
import random
import re
from collections import Counter
from typing import Any

HOWS = ("drop", "repeat", "reorder", "renumber", "rename", "cut")
WORD = re.compile(r"\w+")
_IDS = ("id", "item_id", "call_id")
_INDEXES = ("output_index", "content_index", "summary_index", "index")


def perturbed(events: list[Any], chance: random.Random) -> tuple[list[Any], list[str]]:
    """Return a copy of *events* with up to four perturbations, and their names."""
    events = copy.deepcopy(events)
    done = []
    for _ in range(chance.randint(1, 4)):
        how = chance.choice(HOWS)
        done.append(how)
        at = chance.randrange(len(events))
        if how == "drop" and len(events) > 1:
            del events[at]
        elif how == "repeat":
            events.insert(chance.randint(at, min(at + 3, len(events))), copy.deepcopy(events[at]))
        elif how == "reorder":
            events.insert(chance.randrange(len(events)), events.pop(at))
        elif how == "cut":
            del events[max(1, at) :]
        else:
            change = _renumbered if how == "renumber" else _renamed
            change(events, chance)
    return events, done


def _renumbered(events: list[Any], chance: random.Random) -> None:
    """Change the numbers or the indexes of one event, or of all."""
    key = chance.choice(("sequence_number", *_INDEXES))
    how = chance.choice(("zero", "shift", "none", "random"))
    some = events if chance.random() < 0.5 else [chance.choice(events)]
    for event in some:
        for fields in _dicts(event):
            if type(fields.get(key)) is not int:
                continue
            if how == "none":
                del fields[key]
            else:
                number = {"zero": 0, "shift": fields[key] + 2, "random": chance.randrange(9)}[how]
                fields[key] = number


def _renamed(events: list[Any], chance: random.Random) -> None:
    """Change the ids of one event, or of all: another, an empty one, none, or one for all."""
    key = chance.choice(_IDS)
    how = chance.choice(("other", "empty", "none", "constant"))
    some = events if chance.random() < 0.5 else [chance.choice(events)]
    for event in some:
        for fields in _dicts(event):
            if isinstance(fields.get(key), str) and "object" not in fields:
                if how == "none":
                    del fields[key]
                else:
                    other = f"id-{chance.randrange(99)}"
                    fields[key] = {"other": other, "empty": "", "constant": "same"}[how]


def _dicts(value: Any):
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from _dicts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _dicts(each)


def words(parts: list[dict[str, Any]]) -> Counter[str]:
    """Count the words of the texts in *parts*."""
    return Counter(WORD.findall(" ".join(part.get("text") or "" for part in parts)))


def delta_words(events: list[Any]) -> Counter[str]:
    """Count the words of deltas; an event that is repeated with its number counts once, if numbers differ."""
    found: Counter[str] = Counter()
    seen: list[Any] = []
    numbers = {event.get("sequence_number") for event in events}
    for event in events:
        if event.get("sequence_number") is not None and len(numbers) > 1:
            if event in seen:
                continue
            seen.append(event)
        if "delta" in str(event.get("type", event.get("event", ""))) or "choices" in event:
            texts = [str(each) for fields in _dicts(event) for each in fields.values()]
            found += Counter(WORD.findall(" ".join(texts)))
    return found
