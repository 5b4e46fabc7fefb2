"""The page's view of events equals the service's own fold, from any snapshot on."""

from __future__ import annotations

import json
import random

import pytest

from core.builders import event, folded, start
from rehydrate.core import wire
from rehydrate.follow.event_buffer import payload_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CASES = 300
_SHOW = """
async (cases) => {
  const { View } = await import('/ui/of-a-test/view.js');
  return cases.map(({ first, events }) => {
    const view = new View();
    view.snapshot({ messages: first ? [first] : [], reasons: [], older: null, channel: 'c' });
    for (const [kind, data] of events) view.apply(kind, data);
    const { parts, status, gaps } = view.messages.get('r');
    return { parts, status, gaps };
  });
}
"""
_PARSE = """
async ([text, cuts]) => {
  const { Parser } = await import('/ui/of-a-test/events.js');
  const received = [];
  const parser = new Parser((event) => event.data !== null && received.push([event.kind, event.id, event.data]));
  let from = 0;
  for (const cut of [...cuts, text.length]) {
    parser.feed(text.slice(from, cut));
    from = cut;
  }
  return received;
}
"""


def as_received(events):
    """Return *events* as followers receive them."""
    return [("token" if e.kind == "void" else e.kind, payload_of(e, "r")) for e in events]


def random_events(source):
    """Return a complete response: texts of several parts, tool calls, maybe a repair and an end."""
    events, calls = [start(prompt_id="p")], 0
    for seq in range(1, source.randint(2, 14)):
        kind = source.choice(
            ["token"] * 4 + ["reasoning", "refusal", "tool_call", "repair", "void"]
        )
        if kind == "tool_call":
            calls += 1
            args = source.choice(["", {"q": 1}, '{"q"'])
            events.append(event(kind, seq, tool_call_id=f"t{calls}", name="f", value=args))
        elif kind == "repair":
            text = source.choice(["whole", "🌊 again"])
            value = source.choice([None, [{"type": "text", "text": text}]])
            events.append(event(kind, seq, text, value=value))
        elif calls and source.random() < 0.3:
            kind = source.choice(["tool_args", "tool_result"])
            value = {"a": [1]} if kind == "tool_result" else None
            text = None if value else "1}"
            events.append(event(kind, seq, text, tool_call_id=f"t{calls}", value=value))
        else:
            key = source.choice([None, None, "1", "2"])
            text = source.choice(["a", "語 ", "<b>"])
            content = {} if kind == "void" else {"text": text, "part": key}
            events.append(event(kind, seq, **content))
    if source.random() < 0.6:
        seq, status = len(events), source.choice(["completed", "failed", "cancelled"])
        events.append(event("stop", seq, status=status))
    return events


@pytest.fixture
async def page(visit):
    await visit.page.goto(visit.url + "/ui")
    return visit.page


async def test_a_snapshot_and_later_events_equal_the_fold_of_all_events(page):
    source, cases, wanted = random.Random(17), [], []
    for _ in range(CASES):
        events = random_events(source)
        at = source.randint(0, len(events))
        first = json.loads(wire.encode(folded(*events[:at]))) if at else None
        cases.append({"first": first, "events": as_received(events[at:])})
        whole = json.loads(wire.encode(folded(*events)))
        wanted.append({key: whole[key] for key in ("parts", "status", "gaps")})
    shown = await page.evaluate(_SHOW, json.loads(json.dumps(cases)))
    for case, got, want in zip(cases, shown, wanted, strict=True):
        assert got == want, case


async def test_events_are_parsed_from_chunks_of_any_size(page):
    text = (
        'retry: 1500\n\n:\n\nevent: token\nid: a-1\ndata: {"text": "語"}\n\n'
        "event: stop\r\nid: a-2\r\ndata: {}\r\n\r\ndata: one\ndata: two\n\n"
    )  # fmt: skip
    wanted = [
        ["token", "a-1", '{"text": "語"}'],
        ["stop", "a-2", "{}"],
        ["message", None, "one\ntwo"],
    ]
    source = random.Random(4)
    for _ in range(50):
        cuts = sorted(source.sample(range(len(text)), source.randint(0, 12)))
        assert await page.evaluate(_PARSE, [text, cuts]) == wanted
