"""What a held conversation refuses, and how holes become fewer."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.messages import finished, put, response
from rehydrate.core.window import LostInterval
from rehydrate.errors import BadParameter
from rehydrate.postgres import statements
from rehydrate.postgres.locked_conversation import MAX_HOLES, checked_id, united, whole_messages

holes = st.builds(
    lambda a, length: LostInterval(a, a + length), st.integers(0, 10_000), st.integers(0, 20)
)


@given(several=st.lists(holes, max_size=MAX_HOLES + 30))
def test_united_holes_hide_nothing_stay_apart_and_in_order(several: list[LostInterval]) -> None:
    found: tuple[LostInterval, ...] = ()
    for hole in several:
        found = united(found, hole)
    assert len(found) <= MAX_HOLES
    for hole in several:
        assert any(a <= hole.from_ms and hole.to_ms <= b for a, b in found)
    for before, after in pairwise(found):
        assert before.to_ms < after.from_ms


def test_few_holes_say_exactly_what_was_said() -> None:
    found: tuple[LostInterval, ...] = ()
    for hole in (LostInterval(5, 6), LostInterval(1, 2), LostInterval(6, 9), LostInterval(2, 2)):
        found = united(found, hole)
    assert found == (LostInterval(1, 2), LostInterval(5, 9))


@pytest.mark.parametrize("text", ["a\0", "\ud83d"])
def test_what_text_cannot_hold_is_no_id(text: str) -> None:
    with pytest.raises(BadParameter):
        checked_id(text)


def test_what_cannot_be_stored_is_not_asked_for() -> None:
    sql, conversation, ids = whole_messages("c", ["a", "b\0", None])
    assert (sql, conversation, ids) == (statements.STATES_AND_ANONYMOUS, "c", ["a"])
    assert whole_messages("c", ["a"])[0] == statements.STATES


async def test_a_message_is_read_once_in_a_block(store) -> None:
    await put(store, "c", response("m"), finished("n", "1"))
    async with store.locked("c", "ai:c") as held:
        first = await held.messages(["m"])
        again = await held.messages(["m", "n"])
        assert again["m"] is first["m"]


async def test_a_thousand_messages_are_put_together(store) -> None:
    await put(store, "c", *(finished(f"m{n:04}", f"{n:04}") for n in range(1_000)))
    page = await store.load("c", limit=200, before=None)
    assert [row.id for row in page.finished] == [f"m{n:04}" for n in range(800, 1_000)]
