"""Every call runs once and is answered once, however the events of a call disagree on what it is.

The vendor announces a call, completes its arguments, completes its item, and lists it at the end of
the answer. A gateway may give each of these another id, call id, index, order and number.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.scripted_client import answered, final_parts
from scripted_openai.turns import ResponseTurn

STAGES = ("added", "args", "done", "end")
IDS = st.sampled_from(["right", "other", "constant", "empty", "none"])
INDEXES = st.sampled_from(["right", "zero", "shifted", "none"])


@pytest.fixture(autouse=True, scope="module")
def quiet():
    """Do not log thousands of odd streams."""
    log = logging.getLogger("rehydrate.providers")
    log.setLevel(logging.ERROR)
    yield
    log.setLevel(logging.NOTSET)


@dataclass
class Case:
    """One answer with calls; each list has the choices of each stage."""

    numbers: list[int]
    ids: list[str]
    call_ids: list[str]
    indexes: list[str]
    stages: set[str]
    reasoning: bool
    reversed_end: bool
    numbering: str
    interleaved: bool
    events: list[dict] = field(default_factory=list)

    def add(self, type_, **fields):
        self.events.append({"type": type_, **fields})

    def named(self, choice, right, stage):
        at = STAGES.index(stage)
        return {
            "right": right,
            "other": f"{right}-{at}",
            "constant": "x",
            "empty": "",
            "none": None,
        }[choice]

    def item(self, n, stage, **more):
        at = STAGES.index(stage)
        return {
            "type": "function_call",
            "id": self.named(self.ids[at], f"fc_{n}", stage),
            "call_id": self.named(self.call_ids[at], f"call_{n}", stage),
            "name": "transfer",
            "arguments": self.args(n),
            **more,
        }

    def args(self, n):
        return json.dumps({"amount": self.numbers[n]})

    def place(self, n, stage):
        at = STAGES.index(stage)
        index = n + self.reasoning
        found = {"right": index, "zero": 0, "shifted": index + 3, "none": None}[self.indexes[at]]
        return {} if found is None else {"output_index": found}

    def built(self):
        self.add("response.created", response={"id": "resp_0"})
        thought = {"type": "reasoning", "id": "rs", "summary": [{"text": "Hm"}]}
        if self.reasoning:
            self.add("response.output_item.done", item=thought, output_index=0)
        calls = range(len(self.numbers))
        if self.interleaved:
            for stage in STAGES[:3]:
                for n in calls:
                    self.stage(n, stage)
        else:
            for n in calls:
                for stage in STAGES[:3]:
                    self.stage(n, stage)
        output = [self.item(n, "end") for n in calls] if "end" in self.stages else []
        output = output[::-1] if self.reversed_end else output
        self.add("response.completed", response={"id": "resp_0", "output": output})
        for at, event in enumerate(self.events):
            if self.numbering != "none":
                event["sequence_number"] = {"right": at, "zero": 0, "falling": 99 - at}[
                    self.numbering
                ]
        return self.events

    def stage(self, n, stage):
        if stage not in self.stages:
            return
        place = self.place(n, stage)
        if stage == "added":
            self.add("response.output_item.added", item=self.item(n, stage, arguments=""), **place)
        elif stage == "done":
            self.add("response.output_item.done", item=self.item(n, stage), **place)
        else:
            item_id = self.item(n, stage)["id"]
            at = {"item_id": item_id, **place}
            args = self.args(n)
            self.add("response.function_call_arguments.delta", delta=args[:5], **at)
            self.add("response.function_call_arguments.delta", delta=args[5:], **at)
            self.add("response.function_call_arguments.done", arguments=args, **at)


@st.composite
def cases(draw, *, end):
    count = draw(st.integers(1, 3))
    optional = draw(st.sets(st.sampled_from(["added", "args", "done"])))
    same = draw(st.booleans()) and end
    return Case(
        numbers=[7] * count if same else list(range(count)),
        ids=[draw(IDS) for _ in STAGES],
        call_ids=[draw(IDS) for _ in STAGES],
        indexes=[draw(INDEXES) for _ in STAGES],
        stages=optional | ({"end"} if end else {"done"}),
        reasoning=draw(st.booleans()),
        reversed_end=draw(st.booleans()),
        numbering=draw(st.sampled_from(["right", "none", "zero"] + ["falling"] * end)),
        interleaved=draw(st.booleans()),
    )


def check(case: Case, *, store: bool) -> None:
    ran = []

    def transfer(amount: int) -> str:
        ran.append(amount)
        return f"sent {amount}"

    turns = [case.built(), ResponseTurn("resp_1").message("Done.").completed()]
    sink, outcome, asked = answered(turns, tools={"transfer": transfer}, store=store)
    assert Counter(ran) == Counter(case.numbers)
    assert outcome.status == "completed"
    calls = [part for part in final_parts(sink) if part["type"] == "tool_call"]
    wanted = Counter((f'{{"amount": {n}}}', f"sent {n}", "completed") for n in case.numbers)
    assert Counter((part["args"], part["result"], part["status"]) for part in calls) == wanted
    assert len({part["tool_call_id"] for part in calls}) == len(calls)
    outputs = [item for item in asked[1]["input"] if item.get("type") == "function_call_output"]
    assert Counter(item["output"] for item in outputs) == Counter(f"sent {n}" for n in case.numbers)
    if not store:
        sent = [item for item in asked[1]["input"] if item.get("type") == "function_call"]
        by_id = {item["call_id"]: item["arguments"] for item in sent}
        assert len(by_id) == len(outputs)
        for item in outputs:
            amount = json.loads(by_id[item["call_id"]])["amount"]
            assert item["output"] == f"sent {amount}"


@settings(max_examples=300, deadline=None)
@given(cases(end=True), st.booleans())
def test_a_call_runs_once_if_the_end_lists_it(case, store):
    check(case, store=store)


@settings(max_examples=300, deadline=None)
@given(cases(end=False), st.booleans())
def test_a_call_runs_once_if_only_its_item_is_whole(case, store):
    check(case, store=store)


def turn_with(number, *calls):
    """A turn in which each call has the id that its tuple begins with."""
    return ResponseTurn(f"resp_{number}").calls(*calls).completed()


@pytest.mark.parametrize("ids", [("call_0", "call_0"), ("", ""), ("same", "same"), ("a", "b")])
@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("store", [True, False])
def test_calls_with_repeated_ids_keep_their_results(ids, parallel, store):
    cities = ("Rome", "Paris")
    calls = [(id_, "weather", {"city": city}) for id_, city in zip(ids, cities, strict=True)]
    turns = (
        [turn_with(0, *calls)] if parallel else [turn_with(n, call) for n, call in enumerate(calls)]
    )
    end = ResponseTurn("resp_9").message("Both are clear.").completed()
    ran = []

    def weather(city: str) -> str:
        ran.append(city)
        return f"clear in {city}"

    sink, outcome, asked = answered([*turns, end], tools={"weather": weather}, store=store)
    assert (outcome.status, sink.text, sorted(ran)) == (
        "completed",
        "Both are clear.",
        ["Paris", "Rome"],
    )
    found = [part for part in sink.parts if part["type"] == "tool_call"]
    assert [(part["args"], part["result"]) for part in found] == [
        (json.dumps({"city": city}), f"clear in {city}") for city in cities
    ]
    assert not sink.needs_repair
    outputs = [
        item["output"]
        for request in (asked[1:] if store else asked[-1:])
        for item in request["input"]
        if item.get("type") == "function_call_output"
    ]
    assert outputs == [f"clear in {city}" for city in cities]
