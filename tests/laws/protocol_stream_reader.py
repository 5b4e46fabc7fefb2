"""A reader of the stream in plain Python, written from docs/protocol.md alone: section 11."""

from __future__ import annotations

from types import SimpleNamespace

from laws.protocol_reader import Reader, add_text, empty, ended, repair, text


class StreamReader:
    """Messages as dicts, built from the events of the stream: section 11 of the document."""

    def __init__(self, snapshot):
        self.messages = Reader(snapshot).messages

    def receive(self, kind, data):  # section 11.2
        id_ = data["message_id"]
        v = self.messages.get(id_)
        if v is None:
            v = {"id": id_, "role": "user" if kind == "prompt" else "assistant", "parts": []}
            v |= {"status": "completed" if kind == "prompt" else "in_progress", "prompt_id": None}
            v |= {"through": {"gen": data["gen"]}, "unreadable": 0}
            self.messages[id_] = v
        if data["gen"] > v["through"]["gen"]:
            empty(v, data["gen"])
        known = 0 if kind in ("repair", "prompt") else v["unreadable"]
        v["unreadable"] = known + data.get("unreadable", 0)
        was_ended = ended(v)
        if v.pop("provisional", None) and kind != "stop":
            v["status"] = "in_progress"
        if kind == "stop":
            v["status"] = v["status"] if was_ended else data["status"]
        elif kind == "start":
            v["prompt_id"] = v["prompt_id"] or data.get("prompt_id")
        elif kind == "repair":
            v["parts"] = []
            for part in data.get("parts") or [{"type": "text", "text": data["text"]}]:
                repair(v["parts"], part)
        elif kind == "prompt":
            text(v["parts"], "text", None, data["text"])
        else:
            value = data.get("result" if kind == "tool_result" else "args")
            given = {"kind": kind, "call": data.get("tool_call_id"), "value": value}
            given |= {key: data.get(key) for key in ("text", "part", "name", "status")}
            add_text(v["parts"], SimpleNamespace(**given))
