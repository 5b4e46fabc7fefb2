"""Channel messages and events for tests, with consecutive serials and times."""

from __future__ import annotations

from rehydrate.core.codecs import decode_all
from rehydrate.core.event import ChannelMessage, Event
from rehydrate.core.fold import MessageState, fold
from rehydrate.core.text.content import run_of
from rehydrate.core.timeline import Timeline

BEGAN_MS = 1_767_225_600_000


def serial(at_ms, index=0):
    return f"{at_ms:014d}-000@s:{index:03d}"


def published(
    name, data=None, *, at_s=0, id_=None, client_id=None, action=0, serials=True, **headers
):
    """Return a channel message with *headers*; without any, its extras are null."""
    at_ms = BEGAN_MS + round(at_s * 1000)
    return ChannelMessage(
        name,
        data,
        f"m{at_s}" if id_ is None else id_,
        serial(at_ms) if serials else None,
        at_ms,
        client_id,
        {"headers": headers} if headers else None,
        action,
    )


def event(
    kind, seq=None, text=None, *, at_s=None, id_=None, serials=True, message_id="r", **fields
):
    """Return an event of response ``r``, by default *seq* seconds after the start."""
    at_s = (seq or 0) if at_s is None else at_s
    at_ms = BEGAN_MS + round(at_s * 1000)
    return Event(
        kind,
        message_id,
        seq=seq,
        serial=serial(at_ms) if serials else None,
        id=f"{kind}{at_s}" if id_ is None else id_,
        timestamp_ms=at_ms,
        text=text,
        **fields,
    )


def token(seq, text, **fields):
    return event("token", seq, text, **fields)


def start(**fields):
    return event("start", 0, **fields)


def stop(seq, **fields):
    return event("stop", seq, status="completed", **fields)


def folded(*events, state=None):
    """Return the state after *events*."""
    state = MessageState("r") if state is None else state
    for each in events:
        fold(state, each)
    return state


def timeline_of(*messages, **how):
    """Return the timeline after channel messages."""
    timeline = Timeline(**how)
    timeline.fold(decode_all(messages))
    return timeline


def text_of(state):
    return "".join(part["text"] for part in state.parts() if part["type"] in ("text", "refusal"))


def run_with(*events):
    run = run_of(events[0])
    for each in events[1:]:
        run.append(each)
    return run


def text(text_, **more):
    return {"type": "text", "text": text_, **more}


def call(call_id, name=None, args="", result=None, status="in_progress"):
    return {
        "type": "tool_call",
        "tool_call_id": call_id,
        "name": name,
        "args": args,
        "result": result,
        "status": status,
    }


PARTS = [
    {"type": "reasoning", "text": "hm", "part": "x"},
    text("a"),
    call("c", "f", {"x": 1}, "r", "completed"),
    call("d", None, "{}", None, "completed"),
    call("e", "g", "{"),
    call("h", "g", "{}", {"error": "no"}, "failed"),
    call("i", "g", "{}", None, "failed"),
    text("b", part="x"),
    {"type": "refusal", "text": "no"},
]
