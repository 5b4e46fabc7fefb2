"""What a plain reader shows of each message: text, status, and whether there are gaps."""

from __future__ import annotations


def of_messages(messages):
    """Return what a reader of *messages*, in their wire form, shows."""
    return {each["id"]: [each["text"], each["status"], bool(each["gaps"])] for each in messages}


class Shown:
    """What a reader shows that replaces its messages by a snapshot, and applies events."""

    def __init__(self):
        self.messages = {}

    def apply(self, kind, data):
        if kind == "snapshot":
            self.messages = of_messages(data["messages"])
            return
        message_id = data.get("message_id")
        if message_id is None:
            return
        message = self.messages.setdefault(message_id, ["", "in_progress", False])
        if kind == "token":
            message[0] += data["text"]
        elif kind == "repair":
            parts = data.get("parts", [])
            message[0] = "".join(part["text"] for part in parts if part["type"] == "text")
        elif kind == "stop":
            message[1] = data["status"]
