"""A reader in plain Python, written from docs/protocol.md alone: sections 6 and 9.

It imports nothing of rehydrate. Where it differs from the service, the document is wrong or
incomplete.
"""

from __future__ import annotations

import copy
from datetime import datetime
from types import SimpleNamespace

from laws.protocol_codec import TYPES, decode, is_id

CONTENT = (*TYPES, "tool_call", "tool_args", "tool_result", "void")
MARGIN_MS = 5_000


class Reader:
    """Messages as dicts, as in the answer; `receive` returns the verdict of the drop rule."""

    def __init__(self, answer):
        self.messages = {m["id"]: copy.deepcopy(m) for m in answer["messages"]}
        self.replays, self.chains = set(), {}
        self.knows_all = answer.get("older") is None
        self.token_names = answer.get("token_names", ())
        self.agents, self.erased = answer.get("agents"), set(answer.get("erased_ids", ()))
        self.erased_to_ms = answer.get("erased_to") and ms(answer["erased_to"])
        stream = answer.get("erased_stream") or {"through": "", "open": False}
        self.erased_stream = stream["through"], stream["open"]
        for v in self.messages.values():
            v |= {"recent": {}, "start": ""}
            if not v["parts"] and v["text"]:
                v["parts"] = [{"type": "text", "text": v["text"]}]
        self.grown = {t["serial"]: v["id"] for v in self.messages.values() for t in reached(v)}

    def receive(self, m):  # section 9
        e = decode(m, self.token_names)
        if e is None or e.kind == "cancel" or self.excludes(e):
            return "DROP"
        if e.replay is not None:
            if e.kind == "start" and e.rid is not None:
                self.replays.add(e.rid)
            if e.rid not in self.replays:
                return "DROP"
        if e.version is not None:
            e = self.whole(e)
            if isinstance(e, str):
                return e
            e.rid = self.grown.get(e.serial) or e.rid
        v = self.find(e)
        if v == "DROP":
            return v
        result = rule(v, e)
        if result == "APPLY":
            self.apply(v, e)
        return result

    def excludes(self, e):  # section 9.1
        if e.rid is None and e.version is None and self.erased_to_ms is not None:
            return self.is_of_erased_stream(e) or not self.may_publish(e)
        erased = self.erased_to_ms is not None and (
            e.at_ms <= self.erased_to_ms or self.erased & {e.rid, e.prompt_id, e.replay}
        )
        if erased and e.rid not in (None, *self.messages):
            self.erased.add(e.rid)
        return erased or not self.may_publish(e)

    def may_publish(self, e):
        return not self.agents or e.kind == "prompt" or e.client in self.agents

    def is_of_erased_stream(self, e):
        covered, at = e.at_ms <= self.erased_to_ms, e.serial or inserted(e.at_ms, 0)
        if e.replay is not None:
            return covered
        begins = e.kind == "start" and not covered
        through, open_ = self.erased_stream
        if at <= through and not (open_ and e.kind == "stop"):
            return not begins
        if begins:
            self.erased_stream = through, False
        elif covered or open_:
            self.erased_stream = max(at, through), e.kind != "stop"
        return not begins and (covered or open_)

    def whole(self, e):  # section 9.3
        base = self.chains.get(e.serial)
        if base is None and e.delta:
            return "AGAIN" if self.grown.get(e.serial) or e.rid is not None else "DROP"
        if base is not None:
            if e.version <= base.version:
                return base
            e.lost = e.lost or (e.delta and base.lost)
            text = "" if e.lost else base.text + e.text if e.delta else e.text
            if e.rid is None or e.rid == e.serial:
                known = vars(base) | {
                    "version": e.version,
                    "status": e.status,
                    "id": e.id,
                    "lost": e.lost,
                }
                e = SimpleNamespace(**known)
            e.text, e.delta = text, False
        self.chains[e.serial] = e
        return e

    def find(self, e):  # section 9.4
        if e.rid is not None or e.version is not None:
            return "DROP" if e.rid is None else self.messages.get(e.rid)
        known = self.anonymous()
        for v in near(known, e):
            held = e.id is not None and e.id in (v["id"], *recent_ids(v))
            if held and (v["status"] == "in_progress" or not e.at_ms > ended_ms(v) + MARGIN_MS):
                return v
        if e.serial is None:
            last = known[-1] if known else None
            known_ms = last and (
                ended_ms(last) if ended(last) else digits_ms(last["position"]) or 0
            )
            if last and e.at_ms < known_ms - MARGIN_MS:
                return "DROP"
            newest_ms = next(reversed(last["recent"].values()), 0) if last else 0
            seen = "DROP" if e.at_ms < newest_ms - MARGIN_MS else None
            return goes_on(last, e) or seen
        before = [v for v in known if (v["position"] or "") <= e.serial]
        starts = e.kind == "start"
        lost = starts and any("start" not in v for v in known[len(before) :][:1])
        if lost or (known and not before and not (starts and self.knows_all)):
            return "DROP"
        last = before[-1] if before else None
        if last and last["through"]["serial"] and e.serial <= last["through"]["serial"]:
            return last
        return goes_on(last, e)

    def apply(self, v, e):  # section 9.6
        if v is None and (v := self.begin(e)) is None:
            return
        if e.seq is None and e.id in recent_ids(v):
            return
        v.setdefault("client_id", e.client)
        if e.gen > v["through"]["gen"]:
            empty(v, e.gen)
        if v["role"] == "user" or e.kind == "prompt" or (e.kind == "start" and "start" in v):
            return
        if v.get("provisional") and e.kind != "stop":
            v["status"] = "in_progress"
            del v["provisional"]
        change(v, e)
        if e.version is not None:
            self.grown[e.serial] = v["id"]
        t = v["through"]
        if e.serial and (t["serial"] is None or e.serial > t["serial"]):
            t["serial"] = e.serial
        if e.seq is not None and (t["seq"] is None or e.seq > t["seq"]):
            t["seq"] = e.seq
        if (e.seq is None or v.get("anonymous")) and e.version is None and e.id is not None:
            v["recent"][e.id] = e.at_ms
            while next(iter(v["recent"].values())) < e.at_ms - MARGIN_MS:
                del v["recent"][next(iter(v["recent"]))]

    def begin(self, e):
        id_ = next((id_ for id_ in self.names(e) if id_ not in self.messages), None)
        if id_ is None:
            return None
        v = {"id": id_, "role": "assistant", "status": "in_progress", "parts": [], "gaps": []}
        v |= {"repaired": None, "client_id": e.client, "recent": {}, "prompt_id": None}
        v["unreadable"] = int(e.kind == "prompt" and e.lost)
        v["through"] = {"gen": e.gen, "seq": None, "serial": None}
        if e.kind == "prompt":
            v |= {"role": "user", "status": "completed"}
            v["parts"] = [{"type": "text", "text": e.text}]
        if e.rid is None:
            v |= {"anonymous": True, "position": e.serial or self.place(e)}
        self.messages[id_] = v
        return v

    def names(self, e):
        own = [e.rid] if e.rid is not None else [e.id] if is_id(e.id) else []
        other = e.serial or (inserted(e.at_ms, 0) if own else None)
        return own if other is None or e.rid is not None else [*own, other]

    def place(self, e):
        place = inserted(e.at_ms, len(self.messages))
        newest = max(v["position"] or "" for v in ({"position": ""}, *self.anonymous()))
        return place if place > newest else f"{newest}+"

    def anonymous(self):
        known = [v for v in self.messages.values() if v.get("anonymous")]
        return sorted(known, key=lambda v: v["position"] or "")


def ended(v):
    return v["status"] != "in_progress" and not v.get("provisional")


def inserted(at_ms, number):
    return f"{at_ms:014d}-{number:06d}@inserted"


def near(known, e):
    at_ms = e.at_ms if e.serial is None else digits_ms(e.serial)
    low = e.serial if at_ms is None else inserted(max(0, at_ms - 2 * MARGIN_MS), 0)
    return known[max(0, len([v for v in known if (v["position"] or "") <= low]) - 1) :]


def goes_on(last, e):
    over = last is None or ended(last) or e.kind == "start"
    other = not over and (last["through"]["seq"] is None) != (e.seq is None)
    return None if over or (other and e.kind in CONTENT and last["parts"]) else last


def digits_ms(place):
    digits = (place or "")[:14]
    return int(digits) if len(digits) == 14 and digits.isdigit() else None


def ended_ms(v):
    at = v.get("finished_at")
    return v.get("ended_ms", float("nan") if at is None else ms(at))


def ms(time):
    return round(datetime.fromisoformat(time).timestamp() * 1000)


def recent_ids(v):
    return [*v.get("recent_ids", ()), *v["recent"]]


def reached(v):
    return [p[key] for p in v["parts"] for key in ("through", "result_through") if key in p]


def empty(v, gen):  # section 6.3
    v |= {"status": "in_progress", "parts": [], "gaps": [], "repaired": None, "recent": {}}
    v["unreadable"] = 0
    v["through"] = {"gen": gen, "seq": None, "serial": None}
    for member in ("provisional", "recent_ids", "sealed", "start", "versions"):
        v.pop(member, None)


def rule(v, e):  # section 9.5
    return next(result for fits, result in table(v, e) if fits)


def table(v, e):  # row by row
    pointer = e.kind == "repair" and e.value is None
    begins = not pointer and (e.seq is None or e.kind == "repair" or e.seq <= 1)
    new = "APPLY" if begins else "AGAIN"
    yield v is None, new
    over, t = ended(v), v["through"]
    last = -1 if t["seq"] is None else t["seq"]
    repaired = -1 if v["repaired"] is None else v["repaired"]
    yield over and "client_id" not in v, "DROP"
    yield "client_id" in v and v["client_id"] != e.client, "DROP"
    yield e.gen < t["gen"], "DROP"
    yield e.gen > t["gen"], "DROP" if over else new
    yield e.seq is None and e.id in recent_ids(v), "DROP"
    yield e.version is not None and (v.get("sealed") or has_version(v, e)), "DROP"
    yield e.version is not None, "APPLY"
    seen = e.seq is None and e.serial and t["serial"] and e.serial <= t["serial"]
    newest_ms = next(reversed(v["recent"].values()), 0)
    forgotten = e.seq is None and e.serial is None and e.at_ms < newest_ms - MARGIN_MS
    if e.kind == "repair":
        yield seen or forgotten, "DROP"
        yield e.seq is not None and e.seq <= repaired, "DROP"
        yield e.seq is not None and e.seq < last, "AGAIN"
        yield True, "AGAIN" if pointer or over or v["gaps"] else "APPLY"
    yield e.seq is not None and any(a <= e.seq <= b for a, b in v["gaps"]), "AGAIN"
    yield over, "DROP"
    yield e.kind == "stop" and v["gaps"], "AGAIN"
    yield seen or forgotten, "DROP"
    yield e.seq is None and e.kind in CONTENT and v.get("sealed"), "DROP"
    yield e.seq is None, "APPLY"
    yield e.seq <= last, "AGAIN" if e.kind == "stop" else "DROP"
    yield e.seq <= max(last, 0) + 1, "APPLY"
    yield True, "AGAIN"


def has_version(v, e):
    known = [t["version"] for t in reached(v) if t["serial"] == e.serial]
    return max(*known, v.get("versions", {}).get(e.serial, ""), "") >= e.version


def change(v, e):  # section 6
    if e.version is not None:
        return grow(v, e)
    if e.kind == "start":
        v["start"] = e.id
        v["prompt_id"] = v["prompt_id"] or e.prompt_id
    elif e.kind == "stop":
        v |= {"status": e.status, "ended_ms": e.at_ms}
        v.pop("provisional", None)
    elif e.kind == "repair":
        seals = bool(reached(v) or v.get("versions")) or (
            e.seq is None and v["through"]["seq"] is None
        )
        v["repaired"] = v["through"]["seq"] if e.seq is None else e.seq
        v |= {"parts": [], "unreadable": 0}
        for part in e.value:
            repair(v["parts"], part)
        if seals:
            v["sealed"] = True
    else:
        v["unreadable"] += e.lost
        add_text(v["parts"], e)
    return None


def add_text(parts, e):  # section 6.4
    if e.kind in TYPES:
        return text(parts, TYPES[e.kind], e.part, e.text)
    if e.kind == "void" or (e.kind == "tool_args" and not e.text):
        return None
    part = call(parts, e.call)
    if e.kind == "tool_args":
        part["args"] += e.text if isinstance(part["args"], str) else ""
        return None
    part["name"] = part["name"] if e.name is None else e.name
    if e.kind == "tool_call":
        part |= {"args": e.value, "status": "in_progress"}
    else:
        part |= {"result": e.value, "status": "failed" if e.status == "failed" else "completed"}
    return None


def text(parts, type_, name, more):
    if not more:
        return
    part = parts[-1] if name is None and parts else None
    if name is not None:
        part = next((p for p in parts if (p["type"], p.get("part")) == (type_, name)), None)
    if part is None or part["type"] != type_ or part.get("part") != name:
        part = {"type": type_, "text": "", **({} if name is None else {"part": name})}
        parts.append(part)
    part["text"] += more


def call(parts, id_):
    for part in parts:
        if part.get("tool_call_id") == id_:
            return part
    parts.append({"type": "tool_call", "tool_call_id": id_, "name": None, "args": ""})
    parts[-1] |= {"result": None, "status": "in_progress"}
    return parts[-1]


def repair(parts, part):  # section 6.6
    if part["type"] != "tool_call":
        name = part.get("part")
        text(parts, part["type"], name if isinstance(name, str) else None, part["text"])
        return
    made = call(parts, part["tool_call_id"])
    name, status = part.get("name"), part.get("status")
    made["name"] = name if isinstance(name, str) else made["name"]
    settled = status if status in ("completed", "failed") else "in_progress"
    made |= {"args": part.get("args", ""), "status": settled}
    if part.get("result") is not None:
        status = "failed" if settled == "failed" else "completed"
        made |= {"result": part["result"], "status": status}


def grow(v, e):  # section 6.9
    v.setdefault("versions", {})[e.serial] = e.version
    was = [p for p in v["parts"] if p.get("through", {}).get("serial") == e.serial]
    v["unreadable"] += e.lost - sum(p["through"].get("unreadable", False) for p in was)
    parts = [p for p in v["parts"] if p not in was]
    if e.text or e.lost:
        through = {"serial": e.serial, "version": e.version, "unreadable": bool(e.lost)}
        parts.append({"type": "text", "part": e.serial, "text": e.text, "through": through})
    parts.sort(key=lambda p: p.get("through", {}).get("serial", ""))
    v["parts"] = parts
    if e.status is not None and not ended(v):
        v["status"] = e.status


def shown(v):  # sections 6.4 and 6.5
    parts = copy.deepcopy(v["parts"])
    for part in parts:
        if part.get("status") in ("in_progress", "incomplete"):
            part["status"] = "in_progress" if v["status"] == "in_progress" else "incomplete"
    spoken = "".join(p["text"] for p in parts if p["type"] in ("text", "refusal"))
    counted = {"unreadable": v["unreadable"]}
    return {"id": v["id"], "status": v["status"], "text": spoken, "parts": parts, **counted}
