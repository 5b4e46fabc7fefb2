"""Corrupt transcripts, at random or at one place after the other."""

from __future__ import annotations

import copy
import itertools

from hypothesis import strategies as st

from providers.sinks import Folded
from providers.transcribed import transcript
from rehydrate.core.event import TERMINAL
from rehydrate.providers.vendor_events import Ended

JUNK = (None, [], {}, [[]], [{}], 5, -1, "", "message", True, {"type": []})
HOWS = ("drop", "repeat", "move", "spoil", "spoil")


def places(value, at=()):
    """Yield every place in *value* as the keys that lead to it."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield (*at, key)
            yield from places(value[key], (*at, key))


def put(events, place, junk):
    """Return *events* with *junk* at *place*."""
    spoiled = copy.deepcopy(events)
    holder = spoiled
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = junk
    return spoiled


def spoiled_everywhere(name):
    """Yield one corrupted copy of a transcript for every place in it."""
    events = transcript(name)["events"]
    for place, junk in zip(places(events), itertools.cycle(JUNK), strict=False):
        yield put(events, place, junk)


@st.composite
def spoiled(draw, names):
    """Draw a transcript with lost, repeated, moved and corrupted events."""
    events = copy.deepcopy(transcript(draw(st.sampled_from(names)))["events"])
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(events) - 1))
        how = draw(st.sampled_from(HOWS))
        if how == "drop" and len(events) > 1:
            del events[at]
        elif how == "repeat":
            events.insert(at, copy.deepcopy(events[at]))
        elif how == "move":
            events.insert(draw(st.integers(0, len(events) - 1)), events.pop(at))
        else:
            place = draw(st.sampled_from(list(places(events))))
            events = put(events, place, draw(st.sampled_from(JUNK)))
    return events


def check_ends_once(stream) -> None:
    """Check that the answer ends once, with an error unless it completed."""
    sink = Folded()
    seen = list(stream)
    for event in seen:
        event.write_to(sink)
    assert [isinstance(event, Ended) for event in seen].count(True) == 1
    assert sink.status in TERMINAL
    assert (sink.error is None) == (sink.status == "completed")
