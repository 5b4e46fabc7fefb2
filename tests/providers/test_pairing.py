"""What a vendor sends whole is paired by id, content, index, beginning and order, in that way."""

from __future__ import annotations

import pytest

from rehydrate.providers.answer_items import Call, Final, FinalCall, FinalText, Item, Tally, Text
from rehydrate.providers.pairing import apart, equal, pair, rank_of_item, rank_of_text, repeats


def message(id_, at, text, *, done=False):
    item = Item(at or 0, "message", (id_,), at)
    tally = Tally()
    tally.add(text)
    tally.done = item.done = done
    item.texts["0"] = Text("text", f"{at}.0", "0", tally)
    return item


def whole(id_, at, text):
    return Final("message", id_, at, (FinalText("text", "0", text),))


def call(id_, at, name, args):
    item = Item(at or 0, "function_call", (id_,), at)
    item.call = Call(id_, id_, name, "function_call")
    item.call.tally.add(args)
    return item


@pytest.mark.parametrize(
    ("finals", "items", "expected"),
    [
        # by id, although order and index say otherwise
        ([("b", 0, "B"), ("a", 1, "A")], [("a", 0, "A"), ("b", 1, "B")], [1, 0]),
        # by content, where every id and index is another
        ([("x", 7, "B"), ("y", 8, "A")], [("a", 0, "A"), ("b", 1, "B")], [1, 0]),
        # by beginning rather than by index: what was streamed is not published again
        ([("x", 0, "B and more")], [("a", 0, ""), ("b", 1, "B and")], [1]),
        # by index
        ([("x", 1, "C"), ("y", 0, "D")], [("a", 0, "A"), ("b", 1, "B")], [1, 0]),
        # by order
        ([("", None, "C"), ("", None, "D")], [("", None, "A"), ("", None, "B")], [0, 1]),
        # an id that all have says nothing
        ([("x", 0, "B"), ("x", 1, "A")], [("x", 0, "A"), ("x", 1, "B")], [1, 0]),
        # equal texts stay two
        ([("x", 0, "A"), ("x", 0, "A")], [("x", 0, "A"), ("x", 0, "A")], [0, 1]),
    ],
)
def test_the_best_evidence_pairs(finals, items, expected):
    streamed = [message(*item) for item in items]
    paired = pair([whole(*final) for final in finals], streamed, rank_of_item)
    assert [streamed.index(paired[n]) for n in range(len(finals))] == expected


def test_calls_of_other_tools_are_other_calls():
    final = Final("function_call", "x", 0, (), FinalCall("x", "sum", "{}"))
    assert pair([final], [call("x", 0, "product", "")], rank_of_item) == {}
    assert rank_of_item(final, call("x", 0, "sum", "{}")) == 0
    assert rank_of_item(final, call("y", 1, "sum", "{}")) == 1
    assert rank_of_item(final, call("y", 1, "sum", "[]")) == 8


def test_texts_of_other_kinds_are_other_texts():
    assert rank_of_text(FinalText("refusal", "0", "A"), message("a", 0, "A").texts["0"]) is None


def test_an_item_is_repeated_by_its_place_or_its_id_with_the_same_content():
    done = message("a", 0, "A", done=True)
    assert repeats(whole("a", 0, "A"), done)
    assert repeats(whole("x", 0, "A"), done)
    assert repeats(whole("a", None, "A"), done)
    assert not repeats(whole("a", 1, "A"), done)
    assert not repeats(whole("a", 0, "B"), done)
    assert equal(whole("x", 5, "A"), done)
    assert not equal(whole("a", 0, "B"), done)


def test_unknown_indexes_do_not_tell_items_apart():
    assert apart(0, 1)
    assert not any(apart(*indexes) for indexes in ((0, 0), (None, 0), (0, None)))
