"""Logs of well-formed channel messages in which single fields are replaced, for every reader."""

from __future__ import annotations

import copy
import json
import random
from types import SimpleNamespace
from typing import Any, NamedTuple

from rehydrate.core import wire
from rehydrate.core.client_view import View, received
from rehydrate.core.codecs import decode
from rehydrate.core.text.versioned_messages import AppendChains
from rehydrate.core.timeline import Timeline
from rehydrate.core.window import ErasedStream, Exclusions, Tombstone, erased_mark

BEGAN_MS = 1_767_225_600_000
ACTIONS = {"message.create": 0, "message.update": 1, "message.delete": 2, "message.append": 5}
SHOWN = ("id", "role", "status", "text", "parts", "error", "usage", "gaps", "exact", "unreadable")

NAMES = [
    "user-input", "start", "token", "refusal", "reasoning", "tool_call", "tool_args", "tool_result",
    "stop", "response-complete", "cancel", "response", "response-end", "message", "rehydrate.echo",
]  # fmt: skip
HEADERS = [
    "responseId", "seq", "gen", "part", "toolCallId", "promptId", "status", "error", "replayOf", "phase",
]  # fmt: skip
MEMBERS = [
    "text",
    "parts",
    "promptId",
    "name",
    "args",
    "result",
    "usage",
    "reason",
    "responseId",
    "error",
]
LABELS = [
    "r",
    "q",
    "p",
    "c",
    "x",
    "done",
    "failed",
    "completed",
    "in_progress",
    "odd",
    "",
    "1",
    "2",
]
ODD: list[Any] = [
    None, True, False, 0, 1, 2, 3, -1, 1.0, 1.5, 2**31, 2**53, 1e300, *LABELS, ".", "..", "\0", "\ud83d",
    "é" * 3, "x" * 257, "toString", "__proto__", "constructor", [], [1], ["r"], {}, {"text": "T"}, {"parts": "x"},
    {"parts": []}, {"parts": [{"type": "text", "text": "P"}]}, {"parts": [{"type": "text"}]},
    {"parts": [{"type": "tool_call", "tool_call_id": "c", "name": "f", "args": {"k": None}, "result": 0}]},
    {"parts": [{"type": "tool_call", "tool_call_id": "c", "status": "failed"}, {"type": "text", "text": "P", "part": 5}]},
    {"parts": [None]}, {"text": 5, "parts": None}, {"promptId": "p", "text": "hi"}, {"promptId": 5, "text": "hi"},
    {"name": "f", "args": {"k": [1, 2.5]}}, {"name": 5, "args": None}, {"name": None, "result": None}, {"result": {}},
    {"usage": {"n": 1}, "reason": "why"}, {"responseId": "r"}, {"headers": None}, {"headers": []}, {"headers": "x"},
    {"headers": {"responseId": "r"}}, {"ephemeral": True}, {"metadata": {"phase": "done"}},
    {"metadata": {"phase": "done", "status": "failed"}}, {"serial": "0"}, {"phase": "done"},
]  # fmt: skip


class Case(NamedTuple):
    """An answer, and the channel messages that a reader receives after it, as JSON has them."""

    answer: dict[str, Any]
    messages: list[dict[str, Any]]
    before: list[dict[str, Any]]


class _Script:
    """Writes well-formed messages, a second apart."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.messages: list[dict[str, Any]] = []
        self.serials = rng.random() < 0.8
        self.count = 0

    def say(self, name, data=None, **headers):
        at_ms = BEGAN_MS + 1000 * self.count
        serial = f"{at_ms:014d}-000@s:000" if self.serials else None
        message = {"name": name, "data": data, "id": f"m{self.count}", "serial": serial}
        message |= {"timestamp": at_ms, "clientId": "bot", "action": "message.create"}
        message |= {"extras": {"headers": headers} if headers else None}
        message |= {"version": {"serial": serial} if serial else None}
        self.messages.append(message)
        self.count += 1
        return message

    def grow(self, first, data, action="message.append", **metadata):
        message = self.say("response", data)
        at = message["serial"]
        kept = {key: first[key] for key in ("serial", "timestamp", "extras")}
        message |= kept | {"action": action, "version": {"serial": at, "metadata": metadata}}

    def prompt(self):
        self.say("user-input", self.rng.choice(["hi", {"promptId": "p", "text": "hi"}]))

    def response(self, rid, gen=None, *, numbered):
        named = ({} if rid is None else {"responseId": rid}) | ({"gen": gen} if gen else {})
        steps = [
            ("start", None, {"promptId": "p"}),
            ("token", "a", {}),
            ("token", "b", {"part": "x"}),
        ]
        steps += [
            ("reasoning", "why", {}),
            ("tool_call", {"name": "f", "args": {"k": 1}}, {"toolCallId": "c"}),
        ]
        steps += [
            ("tool_args", "{", {"toolCallId": "d"}),
            ("tool_result", {"result": 1}, {"toolCallId": "c"}),
        ]
        steps += [("token", "z", {}), ("response-complete", {"text": "R"}, {})]
        begin, *rest = steps
        kept = [begin, *(step for step in rest if self.rng.random() < 0.5)]
        kept.append(("stop", {"usage": {"n": 1}}, {"status": "completed"}))
        seq = 0
        for name, data, headers in kept:
            # the seq of a repair is that of the last event that it replaces
            at = seq - 1 if name == "response-complete" else seq
            self.say(name, data, **named, **headers, **({"seq": at} if numbered else {}))
            seq += name != "response-complete"

    def appended(self):
        self.serials = True
        first = self.say("response", "A", responseId="g")
        for _ in range(self.rng.randint(0, 2)):
            self.grow(first, "+")
        if self.rng.random() < 0.5:
            self.grow(first, "whole", "message.update")
        if self.rng.random() < 0.5:
            self.grow(first, "!", phase="done", status=self.rng.choice(["completed", "failed"]))
        else:
            self.say("response-end", {"usage": {"n": 1}}, responseId="g", status="completed")

    def replay(self):
        for seq, (name, data) in enumerate([("start", None), ("token", "a"), ("stop", None)]):
            self.say(name, data, responseId="y", seq=seq, replayOf="r")


def drawn(seed: int) -> Case:
    """Return the case of *seed*: the same in every run."""
    rng = random.Random(seed)
    script = _Script(rng)
    numbered = rng.random() < 0.6
    for step in rng.sample(
        ["prompt", "named", "anonymous", "appended", "replay", "taken"], rng.randint(1, 3)
    ):
        if step == "named":
            script.response("r", numbered=numbered)
        elif step == "anonymous":
            script.response(None, numbered=numbered)
        elif step == "taken":
            script.response("r", 2, numbered=numbered)
        else:
            getattr(script, step)()
    messages = script.messages
    at = rng.choice([0, 0, rng.randrange(len(messages))])
    before, after = messages[:at], copy.deepcopy(messages[max(0, at - rng.randint(0, 2)) :])
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        _mutate(rng, after)
    return Case(_answer(rng, before), after, before)


def _mutate(rng, messages):
    at = rng.randrange(len(messages))
    message = messages[at]
    kind = rng.random()
    if kind < 0.08:
        messages.insert(rng.randrange(len(messages) + 1), copy.deepcopy(message))
    elif kind < 0.14 and len(messages) > 1:
        del messages[at]
    elif kind < 0.2:
        other = rng.randrange(len(messages))
        messages[at], messages[other] = messages[other], messages[at]
    else:
        _replace(rng, message)


def _replace(rng, message):
    place = rng.choice(["field", "header", "header", "header", "data", "data", "member", "version"])
    value = copy.deepcopy(rng.choice(ODD))
    if place == "field":
        field = rng.choice([*message])
        names = {"name": [*NAMES, None], "action": [*ACTIONS, None, "odd"]}
        message[field] = (
            rng.choice(names[field]) if field in names and rng.random() < 0.8 else value
        )
    elif place == "header":
        if not isinstance(message["extras"], dict) or not isinstance(
            message["extras"].get("headers"), dict
        ):
            message["extras"] = {"headers": {}}
        _set(rng, message["extras"]["headers"], rng.choice(HEADERS), value)
    elif place == "data":
        message["data"] = value
    elif place == "member":
        if not isinstance(message["data"], dict):
            message["data"] = {}
        _set(rng, message["data"], rng.choice(MEMBERS), value)
    else:
        if not isinstance(message["version"], dict):
            message["version"] = {}
        _set(rng, message["version"], rng.choice(["serial", "metadata"]), value)


def _set(rng, target, key, value):
    if rng.random() < 0.15:
        target.pop(key, None)
    else:
        target[key] = value


def _answer(rng, before):
    timeline = Timeline()
    timeline.fold(filter(None, (decode(as_received(each)) for each in before)))
    exclusions = Exclusions(
        rng.choice([(), (), ("bot",), ("other",)]),
        rng.choice([None, None, BEGAN_MS + 1500]),
        rng.choice([(), ("r",)]),
        rng.choice(
            [None, None, ErasedStream(f"{BEGAN_MS + 2000:014d}-000@s:000", rng.random() < 0.5)]
        ),
    )
    return _answered(timeline, exclusions)


def _answered(timeline, exclusions):
    body = wire.answer(
        conversation_id="c",
        channel="ai:c",
        until=None,
        rewind_from=None,
        reasons=[],
        older=None,
        exclusions=exclusions,
        messages=[wire.encode(state) for state in timeline.ordered],
    )
    return json.loads(body)


def as_delivered(message):
    """Return *message* as ably-python delivers it."""
    version = message["version"]
    fields = {key: message[key] for key in ("name", "data", "id", "serial", "timestamp", "extras")}
    return SimpleNamespace(
        **fields,
        client_id=message["clientId"],
        action=ACTIONS.get(message["action"], message["action"])
        if isinstance(message["action"], str)
        else message["action"],
        version=SimpleNamespace(serial=version.get("serial"), metadata=version.get("metadata"))
        if isinstance(version, dict)
        else version,
    )


def as_received(message):
    return received(as_delivered(message))


def in_python(case: Case) -> dict[str, Any]:
    """Return what `View` shows: the index of the message that asks for a hydrate (-1), and the messages."""
    view = View(case.answer)
    at = next(
        (index for index, each in enumerate(case.messages) if not view.apply(as_delivered(each))),
        -1,
    )
    return {"at": at, "messages": shown(view.messages)}


def is_shown_otherwise_by_rest(case: Case) -> bool:
    """Return True if a message belongs to a replay, which REST never shows, or edits another one.

    A reader does not know the place of an edited text: it keeps the old one as inexact.
    """
    events = filter(None, (decode(as_received(each)) for each in case.messages))
    return any(event.replay_of is not None or event.edit is not None for event in events)


def in_service(case: Case) -> list[dict[str, Any]]:
    """Return the messages as REST shows them after all events."""
    excluded = wire.exclusions_of(case.answer)
    marks = frozenset(map(erased_mark, excluded.erased_ids))
    stone = excluded.erased_to_ms and Tombstone(
        None, excluded.erased_to_ms, marks, excluded.erased_stream
    )
    timeline = Timeline(
        map(wire.state_of, case.answer["messages"]),
        agents=frozenset(excluded.agents),
        tombstone=stone or None,
    )
    chains = AppendChains()
    events = filter(None, (decode(as_received(each)) for each in case.messages))
    for event in events:
        whole = event if timeline.rejection(event) else chains.whole(event)
        if whole is not None:
            timeline.apply(whole)
    return shown(_answered(timeline, excluded)["messages"])


def shown(messages):
    """Return the members that every reader shows, by id, as JSON has them."""
    kept = [{key: m.get(key) for key in SHOWN} for m in sorted(messages, key=lambda m: m["id"])]
    return json.loads(json.dumps(kept))
