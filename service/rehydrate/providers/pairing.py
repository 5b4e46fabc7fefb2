"""Pair the whole items and texts that a vendor sends with those that it has streamed."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from rehydrate.providers.answer_items import BEGINS, CONTRADICTS, EXACT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rehydrate.providers.answer_items import Final, FinalText, Item, Text

STREAMED = 4
"""The worst rank of an item whose content was streamed."""

_F = TypeVar("_F")
_S = TypeVar("_S")


def pair(
    finals: Sequence[_F], items: Sequence[_S], rank: Callable[[_F, _S], int | None]
) -> dict[int, _S]:
    """Pair each of *finals* with one of *items*, the best ranks first; return them by index."""
    paired: dict[int, _S] = {}
    for n, (final, item) in enumerate(zip(finals, items, strict=False)):
        if rank(final, item) == 0:
            paired[n] = item
    if len(paired) == len(finals):
        return paired
    free = [item for n, item in enumerate(items) if n not in paired]
    ranks = [
        (value, f, i)
        for f, final in enumerate(finals)
        if f not in paired
        for i, item in enumerate(free)
        if (value := rank(final, item)) is not None
    ]
    used: set[int] = set()
    for _, f, i in sorted(ranks):
        if f not in paired and i not in used:
            paired[f] = free[i]
            used.add(i)
    return paired


def _rank(*, named: bool, compared: int, placed: bool, streamed: bool) -> int:
    """Return how well a whole item fits a streamed one; 0 is best.

    Equal content counts more than an id, and a common prefix more than an index: publishing a text
    twice is worse than repairing one.
    """
    if compared == EXACT:
        return 0 if named else 1
    if compared == BEGINS and named:
        return 2
    if compared == BEGINS and (placed or streamed):
        return (3 if placed else 4) if streamed else 5
    return 6 if named else 7 if placed else 8


def rank_of_item(final: Final, item: Item) -> int | None:
    """Return how well a whole item fits a streamed one, or None if they are different items."""
    compared = compared_with(final, item)
    if compared is None:
        return None
    streamed = any(text.tally.length for text in item.texts.values())
    streamed = streamed or (item.call is not None and bool(item.call.tally.length))
    named = any(id_ in item.ids for id_ in final.ids)
    placed = final.at is not None and final.at == item.index
    return _rank(named=named, compared=compared, placed=placed, streamed=streamed)


def rank_of_next(final: Final, item: Item) -> int | None:
    """Return `rank_of_item` for an item that is sent whole while others are still streamed.

    If both its id and its index differ, it is a different item, unless its content was streamed.
    """
    rank = rank_of_item(final, item)
    other = bool(item.ids) and any(final.ids) and not any(id_ in item.ids for id_ in final.ids)
    if rank is None or (rank > STREAMED and other and apart(final.at, item.index)):
        return None
    return rank


def rank_of_text(final: FinalText, text: Text) -> int | None:
    """Return how well a whole text fits a streamed one, or None if they are different texts."""
    if final.kind != text.kind:
        return None
    placed = final.place == text.place
    compared = text.compared(final.text)
    return _rank(named=placed, compared=compared, placed=placed, streamed=bool(text.tally.length))


def compared_with(final: Final, item: Item) -> int | None:
    """Return whether *final* equals, continues or contradicts *item*; None: a different item."""
    if final.call is not None:
        call = item.call
        if call is None:
            return BEGINS
        if call.name and final.call.name and call.name != final.call.name:
            return None
        return call.compared(final.call.args)
    paired = pair(final.texts, list(item.texts.values()), rank_of_text)
    results = [text.compared(final.texts[n].text) for n, text in paired.items()]
    if len(paired) < sum(bool(text.tally.length) for text in item.texts.values()):
        return CONTRADICTS
    whole = results and len(results) == len(final.texts)
    return min(results) if whole else min([BEGINS, *results])


def equal(final: Final, item: Item) -> bool:
    """Return True if *final* has the content of *item*."""
    return final.kind == item.kind and compared_with(final, item) == EXACT


def repeats(final: Final, item: Item) -> bool:
    """Return True if *final* is an item that has been sent whole before."""
    named = any(id_ in item.ids for id_ in final.ids)
    placed = final.at is not None and final.at == item.index
    elsewhere = apart(final.at, item.index)
    return (placed or (named and not elsewhere)) and compared_with(final, item) in (EXACT, BEGINS)


def apart(index: int | None, other: int | None) -> bool:
    """Return True if two indexes are those of different items."""
    return index is not None and other is not None and index != other
