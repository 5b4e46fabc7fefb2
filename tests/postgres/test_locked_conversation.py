"""Reads in a locked conversation, rejected ids, and the merging of lost intervals."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.messages import finished, put, response
from rehydrate.core.timeline import Lookup
from rehydrate.core.window import LostInterval
from rehydrate.errors import BadParameter
from rehydrate.postgres import locked_conversation as module
from rehydrate.postgres import statements
from rehydrate.postgres.locked_conversation import (
    MAX_HOLES,
    checked_id,
    merge_intervals,
    select_messages,
)

holes = st.builds(
    lambda a, length: LostInterval(a, a + length), st.integers(0, 10_000), st.integers(0, 20)
)


@given(intervals=st.lists(holes, max_size=MAX_HOLES + 30))
def test_merged_intervals_cover_every_interval_and_are_disjoint_and_sorted(
    intervals: list[LostInterval],
) -> None:
    found: tuple[LostInterval, ...] = ()
    for hole in intervals:
        found = merge_intervals(found, hole)
    assert len(found) <= MAX_HOLES
    for hole in intervals:
        assert any(a <= hole.from_ms and hole.to_ms <= b for a, b in found)
    for before, after in pairwise(found):
        assert before.to_ms < after.from_ms


def test_few_intervals_are_merged_exactly() -> None:
    found: tuple[LostInterval, ...] = ()
    for hole in (LostInterval(5, 6), LostInterval(1, 2), LostInterval(6, 9), LostInterval(2, 2)):
        found = merge_intervals(found, hole)
    assert found == (LostInterval(1, 2), LostInterval(5, 9))


@pytest.mark.parametrize("text", ["a\0", "\ud83d"])
def test_text_that_postgres_rejects_is_not_a_valid_id(text: str) -> None:
    with pytest.raises(BadParameter):
        checked_id(text)


def test_ids_that_cannot_be_stored_are_left_out() -> None:
    assert select_messages("c", ["a", "b\0"]) == (statements.STATES, ("c", ["a"]))
    both = frozenset({"a", "\ud800"})
    asked = select_messages("c", Lookup(both, both, "p"))
    assert asked == (statements.RELATED, ("c", ["a"], ["a"], "p"))
    for place in (None, "p\0"):
        sql, arguments = select_messages("c", Lookup(frozenset(), both, place))
        assert (sql, arguments) == (statements.STATES_AT_SERIALS, ("c", [], ["a"]))
    assert select_messages("c", Lookup(both)) == (statements.STATES, ("c", ["a"]))


async def test_a_message_read_twice_in_a_block_is_the_same_object(store) -> None:
    await put(store, "c", response("m"), finished("n", "1"))
    async with store.locked("c", "ai:c") as locked:
        first = await locked.messages(["m"])
        again = await locked.messages(["m", "n"])
        assert again["m"] is first["m"]


async def test_a_thousand_messages_are_written_at_once(store) -> None:
    await put(store, "c", *(finished(f"m{n:04}", f"{n:04}") for n in range(1_000)))
    page = await store.load("c", limit=200, before=None)
    assert [row.id for row in page.finished] == [f"m{n:04}" for n in range(800, 1_000)]


async def test_ids_that_strangers_named_take_no_mark_from_an_open_response(
    store, monkeypatch
) -> None:
    monkeypatch.setattr(module, "MAX_MARKS", 3)
    await put(store, "c", response("open", "a"))
    async with store.locked("c", "ai:c") as locked:
        await locked.erase(1, [f"stranger{number}" for number in range(5)])
        tombstone = locked.conversation.tombstone
    assert len(tombstone.erased) == 3
    assert tombstone.erases("open")
