"""Channel messages as events, in plain Python, written from docs/protocol.md alone: sections 3 and 4.

It imports nothing of rehydrate. Where it differs from the service, the document is wrong or
incomplete.
"""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

TERMINAL = ("completed", "incomplete", "failed", "cancelled", "interrupted")
TYPES = {"token": "text", "refusal": "refusal", "reasoning": "reasoning"}
KINDS = ("start", *TYPES, "tool_call", "tool_args", "tool_result", "stop", "cancel")
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
IGNORED = ("debug", "error", "heartbeat", "log", "metadata", "ping", "progress", "rehydrate.echo",
           "status", "title", "trace", "typing", "usage")  # fmt: skip
JSON = (str, int, float, list, dict)


def is_id(value):  # section 1.3
    return isinstance(value, str) and 1 <= len(value) <= 256 and not CONTROL.search(value)


def is_json(value):  # section 3.4
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, TypeError):
        return False
    return True


def number(value, least):  # section 3.2; raises ValueError
    if value is None:
        return None
    if isinstance(value, str) and re.fullmatch("[0-9]{1,10}", value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is int and least <= value <= 2_000_000:
        return value
    raise ValueError(value)


def name_of(value):
    return value if isinstance(value, str) else None


def label(value):
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(int(value) if value == value // 1 else value)
    return value if isinstance(value, str) else None


def text_in(data):  # section 3.1
    if data is None:
        return ""
    if isinstance(data, bytes):
        try:
            return data.decode()
        except ValueError:
            return None
    text = data.get("text") if isinstance(data, dict) else data
    return text if isinstance(text, str) else None


def prompt_in(data):  # sections 3.3 and 3.4
    text = text_in(data)
    parts = data.get("parts") if isinstance(data, dict) else data
    if not isinstance(parts, list) or (text is None and not parts):
        fields = data if isinstance(data, dict) else {}
        return text or "", text is None or fields.get("parts") is not None
    read = [text_in(part) if is_text(part) else None for part in parts]
    return "".join(filter(None, read)) if text is None else text, None in read


def is_text(part):
    if isinstance(part, dict):
        return part.get("type") in (None, "text", "input_text")
    return isinstance(part, str)


def decode(m, token_names=()):  # sections 3 and 4
    headers = (m.extras or {}).get("headers") or {}
    e = SimpleNamespace(
        kind=None, rid=headers.get("responseId"), seq=None, gen=1, serial=m.serial, id=m.id,
        client=m.client_id, at_ms=m.timestamp_ms, text=None, part=None, call=None, name=None,
        value=None, status=None, error=None, usage=None, prompt_id=label(headers.get("promptId")),
        replay=name_of(headers.get("replayOf")), version=None, delta=False, lost=0,
    )  # fmt: skip
    grows = m.serial is not None and (m.name == "response" or (m.name is None and m.action == 5))
    if grows or m.name == "response-end":
        return decode_version(m, e, headers)
    known = m.name in (*KINDS, "user-input", "response-complete", *token_names)
    if m.action != 0 or not (known or is_lost(m, headers)):
        return None
    try:
        e.seq, e.gen = number(headers.get("seq"), 0), number(headers.get("gen"), 1) or 1
    except ValueError:
        return None
    if e.rid is not None and not is_id(e.rid):
        return None
    e.kind = {"user-input": "prompt", "response-complete": "repair"}.get(m.name, m.name)
    if m.name in token_names:
        e.kind = "token"
    if not known:
        e.kind, e.lost = "void", m.name not in IGNORED
    return fill(m, e, headers, known)


def is_lost(m, headers):  # section 3.7
    if headers.get("responseId") is None or "ai" in m.extras:
        return False
    may_be = text_in(m.data) or not (m.data is None or isinstance(m.data, JSON))
    return headers.get("seq") is not None or (may_be and m.name not in IGNORED)


def fill(m, e, headers, known):
    data = m.data if isinstance(m.data, dict) else {}
    if e.kind == "prompt":
        e.text, e.lost = prompt_in(m.data)
        given = data.get("promptId")
        e.rid, e.seq, e.gen = m.id if given in (None, "") else given, None, 1
        return e if m.data is not None and is_id(e.rid) else None
    e.call = label(headers.get("toolCallId"))
    if e.kind in TYPES:
        e.text, e.part = text_in(m.data), label(headers.get("part"))
    if e.kind == "tool_args":
        e.text = text_in(m.data)
    if e.kind in (*TYPES, "tool_args") and e.text is None:
        e.kind = "void"
    if e.kind in ("tool_args", "tool_result") and not e.call:
        e.kind = "void"
    if e.kind == "tool_call":
        e.call = e.call or m.id or f"call-{e.seq}"
        e.name, e.value = label(data.get("name")), data.get("args")
        e.value = "" if e.value is None else e.value
        e.lost = m.data is not None and not isinstance(m.data, dict)
    if e.kind == "tool_result":
        text = m.data if m.data is None else text_in(m.data)
        e.value = data.get("result") if isinstance(m.data, dict) else text or m.data
        e.name, e.status = label(data.get("name")), headers.get("status")
    if e.kind in ("tool_call", "tool_result") and not is_json(e.value):
        e.kind = "void"
    e.lost = e.lost or (e.kind == "void" and known)
    if e.kind == "stop":
        e.status, e.error = ended_as(label(headers.get("status"))), headers.get("error")
    if e.kind == "repair":
        e.value = valid_parts(data.get("parts"))
        text = data.get("text") if isinstance(m.data, dict) else m.data and text_in(m.data)
        if e.value is None and isinstance(text, str):
            e.value = [{"type": "text", "text": text}]
    return e


def valid_parts(parts):  # section 3.3
    if not isinstance(parts, list) or not parts:
        return None
    for part in parts:
        if not isinstance(part, dict) or not is_json(part):
            return None
        textual = part.get("type") in TYPES.values() and isinstance(part.get("text"), str)
        called = part.get("type") == "tool_call" and isinstance(part.get("tool_call_id"), str)
        if not textual and not called:
            return None
    return parts


def ended_as(status):
    return status if status in TERMINAL else "failed" if status == "in_progress" else "completed"


def decode_version(m, e, headers):  # section 4.1
    data = m.data if isinstance(m.data, dict) else {}
    if m.name == "response-end":
        named = headers.get("responseId"), data.get("responseId")
        e.kind, e.rid = "stop", next(filter(is_id, named), None)
        e.status = ended_as(headers.get("status"))
        return e if m.action == 0 and e.rid is not None else None
    if m.serial is None:
        return None
    text = "" if m.action == 2 else text_in(m.data)
    e.kind, e.text, e.lost = "token", text or "", text is None
    e.rid = e.rid if is_id(e.rid) else m.serial if m.name == "response" else None
    e.version, e.delta, e.replay = m.version_serial or m.serial, m.action == 5, None
    for metadata in (m.version_metadata, headers):
        if isinstance(metadata, dict) and metadata.get("phase") == "done":
            e.status = ended_as(metadata.get("status"))
            break
    return e
