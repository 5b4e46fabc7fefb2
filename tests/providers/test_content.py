"""The content of an answer: which item an event changes, and what is published once."""

from __future__ import annotations

import pytest

from providers.sinks import Folded
from rehydrate.providers.answer_items import Final, FinalCall, FinalText
from rehydrate.providers.content import Content
from rehydrate.providers.interpreting import RawEvent

EVENT = RawEvent("event", None, {})


class Answer:
    """A content and the readers of what it publishes."""

    def __init__(self, **more):
        self.content = Content(**more)
        self.sink = Folded()

    def message(self, id_, at, *deltas):
        item = self.content.add("message", (id_,), at)
        for delta in deltas:
            self.write(self.content.delta(EVENT, self.content.text(item, "text", "0"), delta))
        return item

    def write(self, events):
        for event in events:
            event.write_to(self.sink)
        return [type(event).__name__ for event in events]

    def settle(self, *finals):
        return self.write(self.content.settle(EVENT, finals))


def whole(id_, at, *texts):
    return Final(
        "message", id_, at, [FinalText("text", str(n), text) for n, text in enumerate(texts)]
    )


def call(id_, name="sum", args="{}", at=None):
    return Final("function_call", f"item-{id_}", at, (), FinalCall(id_, name, args))


def texts(parts):
    return [part["text"] for part in parts]


@pytest.mark.parametrize(
    ("id_", "at", "expected"),
    [
        ("a", 0, "a"), ("b", 1, "b"), ("a", 1, "a"), ("a", None, "a"), ("", 1, "b"),
        ("x", 0, "a"), ("", None, "b"), ("x", 5, None),
    ],
)  # fmt: skip
def test_an_event_changes_the_item_that_its_id_and_index_name_best(id_, at, expected):
    answer = Answer()
    items = {name: answer.message(name, index) for index, name in enumerate("ab")}
    found = answer.content.find("message", id_, at)
    assert found is items.get(expected)


def test_an_unknown_id_and_index_mean_the_only_item_that_is_open():
    answer = Answer()
    item = answer.message("a", 0)
    assert answer.content.find("message", "x", 5) is None
    item.announced = True
    assert answer.content.find("message", "x", 5) is item
    item.done = True
    assert answer.content.find("message", "x", 5) is None
    assert answer.content.find("reasoning", "a", 0) is None


def test_only_what_a_whole_item_adds_is_published():
    answer = Answer()
    answer.message("a", 0, "One", " two")
    assert answer.write(answer.content.item_done(EVENT, whole("a", 0, "One two three"))) == [
        "TextDelta", "PartDone",
    ]  # fmt: skip
    assert answer.write(answer.content.item_done(EVENT, whole("a", 0, "One two three"))) == []
    assert answer.settle(whole("other", 5, "One two three")) == []
    assert answer.content.parts() == answer.sink.parts
    assert (answer.sink.text, answer.content.amended) == ("One two three", False)


def test_a_text_that_contradicts_its_deltas_is_not_published_again():
    answer = Answer()
    answer.message("a", 0, "One", " two")
    assert answer.settle(whole("a", 0, "One and two")) == ["PartDone"]
    assert (answer.sink.text, answer.content.amended) == ("One two", True)
    assert texts(answer.content.parts()) == ["One and two"]


def test_output_without_reasoning_repeats_nothing():
    answer = Answer()
    item = answer.content.add("reasoning", ("r",), 0)
    answer.write(answer.content.delta(EVENT, answer.content.text(item, "reasoning", "0"), "Hm"))
    answer.message("m", 1, "Yes")
    answer.settle(whole("m", 0, "Yes"))
    assert answer.content.parts() == answer.sink.parts
    assert not answer.content.amended


def test_output_in_another_order_replaces_what_readers_have():
    answer = Answer()
    for at, name in enumerate("ab"):
        answer.message(name, at, name.upper())
    answer.settle(whole("b", 0, "B"), whole("a", 1, "A"))
    assert answer.sink.text == "AB"
    assert texts(answer.content.parts()) == ["B", "A"]


def test_a_whole_item_that_the_output_lacks_is_kept_and_an_open_one_is_dropped():
    answer = Answer()
    for at, name in enumerate("ab"):
        answer.message(name, at, name.upper())
    answer.content.item_done(EVENT, whole("a", 0, "A"))
    answer.message("c", 2, "C")
    answer.settle(whole("c", 0, "C"))
    assert texts(answer.content.parts()) == ["A", "C"]


def test_an_item_that_is_sent_whole_twice_under_two_names_counts_once():
    answer = Answer()
    answer.content.item_done(EVENT, whole("a", 0, "A"))
    answer.content.item_done(EVENT, whole("b", 1, "A"))
    answer.settle(whole("c", 2, "A"))
    assert texts(answer.content.parts()) == ["A"]


def test_a_call_keeps_the_id_of_its_part_and_takes_the_newest_id_of_the_vendor():
    answer = Answer()
    item = answer.content.add("function_call", ("item-1",), 0)
    answer.write(answer.content.call_started(EVENT, item, "", "sum"))
    answer.write(answer.content.args_delta(EVENT, item.call, "{"))
    answer.write(answer.content.item_done(EVENT, call("new", args="{}", at=0)))
    (done,) = answer.content.calls(EVENT, frozenset({"function_call"}))
    assert (done.tool_call_id, done.vendor_id, done.args) == ("item-1", "new", "{}")
    assert answer.content.parts() == answer.sink.parts


@pytest.mark.parametrize("id_", ["", "call_0"])
def test_calls_with_the_same_id_are_told_apart(id_):
    answer = Answer(prefix="1:")
    for at in range(2):
        answer.write(answer.content.item_done(EVENT, call(id_, args=f"[{at}]", at=at)))
    calls = answer.content.calls(EVENT, frozenset({"function_call"}))
    assert len({each.tool_call_id for each in calls}) == len(calls) == 2
    assert all(each.tool_call_id.startswith("1:") for each in calls)
    assert answer.content.parts() == answer.sink.parts


def test_only_complete_calls_are_returned():
    answer = Answer()
    item = answer.content.add("function_call", ("a",), 0)
    answer.content.call_started(EVENT, item, "a", "sum")
    kinds = frozenset({"function_call"})
    assert answer.content.unfinished(kinds)
    assert answer.content.calls(EVENT, kinds) == []
    answer.content.args_delta(EVENT, item.call, "{}")
    assert len(answer.content.calls(EVENT, kinds)) == 1
    answer.content.item_done(EVENT, call("b", args="[1]", at=1))
    assert [each.args for each in answer.content.calls(EVENT, kinds)] == ["[1]"]


def test_a_repeated_answer_adds_only_what_follows():
    answer = Answer()
    item = answer.message("a", 0, "One ", "two ")
    answer.content.repeat()
    for delta in ("One", " two", " three"):
        text = answer.content.text(item, "text", "0")
        answer.write(answer.content.delta(EVENT, text, delta))
    assert answer.sink.text == "One two three"


def test_texts_without_a_place_continue_the_open_one():
    answer = Answer()
    item = answer.message("a", 0, "One")
    text = answer.content.text(item, "text", None)
    assert text is item.texts["0"]
    answer.content.text_done(EVENT, text, "One")
    assert answer.content.text(item, "text", None).place == "1"
    assert answer.content.text(item, "refusal", "1").place == "2"


def test_annotations_are_published_once():
    answer = Answer()
    item = answer.message("a", 0, "One")
    note = {"type": "url_citation", "url": "https://example.org"}
    text = answer.content.text(item, "text", "0")
    assert len(answer.content.annotate(EVENT, text, [note])) == 1
    final = Final("message", "a", 0, [FinalText("text", "0", "One", [note, {"type": "other"}])])
    events = answer.content.item_done(EVENT, final)
    assert [event.annotation for event in events if hasattr(event, "annotation")] == [
        {"type": "other"}
    ]


def test_ids_of_a_later_turn_are_those_of_other_items():
    answer = Answer()
    answer.write(answer.content.item_done(EVENT, call("call_0")))
    answer.content.begin_turn("1:")
    answer.write(answer.content.item_done(EVENT, call("call_0")))
    assert [part["tool_call_id"] for part in answer.content.parts()] == ["call_0", "1:call_0"]
    assert [item.call.id for item in answer.content.all_calls()] == ["1:call_0", "call_0"]
    answer.content.add_image("image-0", {"url": "u"})
    assert answer.content.parts()[-1]["result"] == {"url": "u"}
    assert answer.content.has("image-0")
    assert not answer.content.has("call_0~2")


def test_an_announcement_is_repeated_or_new():
    answer = Answer()
    item = answer.content.add("function_call", ("item-a", "a"), 0)
    answer.content.call_started(EVENT, item, "a", "sum")
    assert answer.content.announced(call("a", at=0)) is item
    assert answer.content.announced(call("b", at=0)) is None
    assert answer.content.announced(call("a", at=1)) is None
    assert answer.content.announced(whole("a", 0)) is None
