"""Law 1 (folding parts equals folding the whole) and law 5 (a terminal response never changes)."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from laws.memory import MemoryStore
from laws.rolling import changed_ms, rolled
from laws.test_joining import FEATURES
from laws.worlds import worlds
from rehydrate.core import wire
from rehydrate.core.codecs import decode_all
from rehydrate.core.positions import MARGIN_MS
from rehydrate.core.text.versioned_messages import AppendChains
from rehydrate.core.timeline import Timeline

LAWFUL = [name for name in FEATURES if "short retention" not in name]
BROADLY = settings(
    max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def seen(timeline):
    """Return what a reader can see of *state*."""
    return [wire.message(state) for state in timeline.ordered]


async def folded_in_parts(log, cuts, overlaps):
    """Fold *log* through a store, in windows between *cuts* that overlap backwards."""
    store = MemoryStore()
    edges = [0, *sorted(cuts), len(log)]
    for (begin, end), overlap_ms in zip(pairwise(edges), overlaps, strict=False):
        if begin == end:
            continue
        since_ms = changed_ms(log[begin].message) - overlap_ms
        new = {id(each) for each in log[begin:end]} | {each.message.id for each in log[begin:end]}
        shown = [
            each.message
            for each in rolled(log[:end])
            if changed_ms(each.message) >= since_ms or id(each) in new or each.message.id in new
        ]
        events = list(decode_all(shown))
        async with store.locked("c", "ai:c") as held:
            timeline = Timeline()
            asked = timeline.lookup(events, include_known=True)
            timeline.learn(asked, (await held.messages(asked)).values())
            timeline.fold(events)
            await held.put([s for s in timeline.messages.values() if s.changed])
    return Timeline(store.rows.values())


@pytest.mark.parametrize("name", LAWFUL)
def test_folding_windows_that_overlap_equals_folding_the_whole(name):
    @BROADLY
    @given(st.data())
    def search(data):
        world, _ = data.draw(worlds(**FEATURES[name]))
        whole = Timeline()
        whole.fold(decode_all(each.message for each in rolled(world.log)))
        cuts = data.draw(st.lists(st.integers(0, len(world.log)), max_size=4))
        overlaps = data.draw(st.lists(st.integers(0, MARGIN_MS), min_size=5, max_size=5))
        parts = asyncio.run(folded_in_parts(world.log, cuts, overlaps))
        assert visible(parts) == visible(whole)

    search()


def visible(timeline):
    """Return what must be equal: everything except the bookkeeping of the margin."""
    bookkeeping = ("recent_ids", "position")
    return [{k: v for k, v in m.items() if k not in bookkeeping} for m in seen(timeline)]


@pytest.mark.parametrize("name", LAWFUL)
def test_a_terminal_response_changes_only_by_filled_gaps_and_repairs(name):
    @BROADLY
    @given(st.data())
    def search(data):
        world, _ = data.draw(worlds(**FEATURES[name]))
        timeline, chains, ended = Timeline(), AppendChains(), {}
        for event in map(chains.whole, decode_all(each.message for each in world.log)):
            before = timeline.find(event)
            gaps = before.gaps() if before else []
            timeline.apply(event)
            for state in timeline.messages.values():
                was = ended.get(state.id)
                now = wire.message(state)
                if was is not None:
                    assert now["status"] == was["status"]
                    filled = event.seq is not None and any(a <= event.seq <= b for a, b in gaps)
                    if event.version is not None:  # the end overtakes it, and so does its publisher
                        assert now["text"].startswith(was["text"])
                    elif not (filled or event.kind == "repair"):
                        assert now["text"] == was["text"]
                if state.ended:
                    ended[state.id] = now

    search()


@pytest.mark.parametrize("name", ["plain", "late token", "refused, repair before stop"])
def test_with_seqs_the_order_of_arrival_does_not_matter(name):
    @BROADLY
    @given(st.data())
    def search(data):
        world, _ = data.draw(worlds(**FEATURES[name]))
        events = list(decode_all(each.message for each in world.log))
        whole, shuffled = Timeline(), Timeline()
        whole.fold(events)
        body = [event for event in events if event.kind != "stop"]
        stops = [event for event in events if event.kind == "stop"]
        shuffled.fold([*data.draw(st.permutations(body)), *stops])
        assert {s.id: wire.message(s)["text"] for s in whole.messages.values()} == {
            s.id: wire.message(s)["text"] for s in shuffled.messages.values()
        }

    search()
