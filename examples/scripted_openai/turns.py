"""Builds streams of the vendor's documented events, for the scripted endpoint."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any


def words(text: str) -> list[str]:
    """Cut *text* into words, as a model's tokens might be."""
    return re.findall(r"\s*\S+\s*$|\s*\S+", text)


def as_text(args: Any) -> str:
    """Return tool arguments as the text that a model streams."""
    return args if isinstance(args, str) else json.dumps(args)


class ResponseTurn:
    """Builder for the events of one response of the Responses API, numbered from 0."""

    def __init__(self, response_id: str = "resp_1", *, queued: bool = False) -> None:
        self.id = response_id
        self.events: list[dict[str, Any]] = []
        self.output: list[dict[str, Any]] = []
        self.add("response.created", response=self.response("queued" if queued else "in_progress"))
        if queued:
            self.add("response.queued", response=self.response("queued"))
        self.add("response.in_progress", response=self.response("in_progress"))

    def response(self, status: str, **more: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "response",
            "created_at": 1763700000,
            "status": status,
            "model": "gpt-5",
            "output": list(self.output) if status in ("completed", "incomplete") else [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "error": None,
            "incomplete_details": None,
            "usage": None,
            **more,
        }

    def add(self, type_: str, **fields: Any) -> ResponseTurn:
        self.events.append({"type": type_, "sequence_number": len(self.events), **fields})
        return self

    def item(self, item: dict[str, Any], **begun: Any) -> tuple[int, str]:
        """Start an item whose final form is *item*; *begun* overrides fields of its first event."""
        index = len(self.output)
        self.output.append(item)
        self.add("response.output_item.added", output_index=index, item={**item, **begun})
        return index, item["id"]

    def item_done(self, index: int) -> ResponseTurn:
        return self.add("response.output_item.done", output_index=index, item=self.output[index])

    def message(self, text: str, *, pieces: Iterable[str] | None = None) -> ResponseTurn:
        content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
        item: dict[str, Any] = {"id": f"msg_{len(self.output)}", "type": "message"}
        item["role"] = "assistant"
        item |= {"status": "completed", "content": content}
        index, item_id = self.item(item, status="in_progress", content=[])
        at = {"item_id": item_id, "output_index": index, "content_index": 0}
        self.add("response.content_part.added", **at, part={**content[0], "text": ""})
        for piece in words(text) if pieces is None else pieces:
            self.add("response.output_text.delta", **at, delta=piece, logprobs=[])
        self.add("response.output_text.done", **at, text=text, logprobs=[])
        self.add("response.content_part.done", **at, part=content[0])
        return self.item_done(index)

    def refusal(self, text: str) -> ResponseTurn:
        content = [{"type": "refusal", "refusal": text}]
        item: dict[str, Any] = {"id": f"msg_{len(self.output)}", "type": "message"}
        item["role"] = "assistant"
        item |= {"status": "completed", "content": content}
        index, item_id = self.item(item, status="in_progress", content=[])
        at = {"item_id": item_id, "output_index": index, "content_index": 0}
        self.add("response.content_part.added", **at, part={"type": "refusal", "refusal": ""})
        for piece in words(text):
            self.add("response.refusal.delta", **at, delta=piece)
        self.add("response.refusal.done", **at, refusal=text)
        self.add("response.content_part.done", **at, part=content[0])
        return self.item_done(index)

    def reasoning(self, summary: str, text: str = "") -> ResponseTurn:
        item: dict[str, Any] = {"id": f"rs_{len(self.output)}", "type": "reasoning"}
        item["summary"] = [{"type": "summary_text", "text": summary}] if summary else []
        item["content"] = [{"type": "reasoning_text", "text": text}] if text else []
        index, item_id = self.item(item, summary=[], content=[])
        at = {"item_id": item_id, "output_index": index}
        if summary:
            part = {"type": "summary_text", "text": ""}
            self.add("response.reasoning_summary_part.added", **at, summary_index=0, part=part)
            name = "response.reasoning_summary_text"
            for piece in words(summary):
                self.add(f"{name}.delta", **at, summary_index=0, delta=piece)
            self.add(f"{name}.done", **at, summary_index=0, text=summary)
            part = {"type": "summary_text", "text": summary}
            self.add("response.reasoning_summary_part.done", **at, summary_index=0, part=part)
        if text:
            for piece in words(text):
                self.add("response.reasoning_text.delta", **at, content_index=0, delta=piece)
            self.add("response.reasoning_text.done", **at, content_index=0, text=text)
        return self.item_done(index)

    def calls(self, *calls: tuple[str, str, Any]) -> ResponseTurn:
        """Add function calls (id, name, arguments) with interleaved argument deltas."""
        places = []
        for call_id, name, given in calls:
            args = as_text(given)
            item = {"id": f"fc_{len(self.output)}", "type": "function_call", "call_id": call_id}
            item |= {"name": name, "arguments": args, "status": "completed"}
            places.append((*self.item(item, arguments="", status="in_progress"), args))
        name = "response.function_call_arguments"
        cut = [[args[:3], args[3:]] for *_, args in places]
        for step in (0, 1):
            for (index, item_id, _), pieces in zip(places, cut, strict=True):
                at = {"item_id": item_id, "output_index": index}
                self.add(f"{name}.delta", **at, delta=pieces[step])
        for index, item_id, args in places:
            self.add(f"{name}.done", item_id=item_id, output_index=index, arguments=args)
            self.item_done(index)
        return self

    def completed(self, tokens: int = 3) -> list[dict[str, Any]]:
        usage: dict[str, Any] = {
            "input_tokens": 1,
            "output_tokens": tokens,
            "total_tokens": tokens + 1,
        }
        usage["output_tokens_details"] = {"reasoning_tokens": 0}
        self.add("response.completed", response=self.response("completed", usage=usage))
        return self.events

    def incomplete(self, reason: str) -> list[dict[str, Any]]:
        details = {"reason": reason}
        response = self.response("incomplete", incomplete_details=details)
        self.add("response.incomplete", response=response)
        return self.events

    def failed(self, code: str, message: str) -> list[dict[str, Any]]:
        error = {"code": code, "message": message}
        self.add("response.failed", response=self.response("failed", error=error))
        return self.events


class RunTurn:
    """Builder for the events of one stream of a run of the Assistants API."""

    def __init__(self, thread_id: str, run_id: str, *, new_thread: bool = False) -> None:
        self.thread_id = thread_id
        self.run_id = run_id
        self.events: list[dict[str, Any]] = []
        if new_thread:
            thread = {"id": thread_id, "object": "thread", "created_at": 1, "metadata": {}}
            self.add("thread.created", thread)

    def add(self, event: str, data: dict[str, Any]) -> RunTurn:
        self.events.append({"event": event, "data": data})
        return self

    def run(self, state: str, **more: Any) -> RunTurn:
        status = "queued" if state == "created" else state
        ids = {"id": self.run_id, "object": "thread.run", "created_at": 1, "status": status}
        ids |= {"assistant_id": "asst_1", "thread_id": self.thread_id, "model": "gpt-4o"}
        fixed = {"instructions": "", "tools": [], "parallel_tool_calls": True, "usage": None}
        return self.add(f"thread.run.{state}", ids | fixed | more)

    def step(self, state: str, step_id: str, details: dict[str, Any], **more: Any) -> RunTurn:
        status = "in_progress" if state == "created" else state
        ids = {"id": step_id, "object": "thread.run.step", "created_at": 1, "status": status}
        ids |= {"run_id": self.run_id, "thread_id": self.thread_id, "assistant_id": "asst_1"}
        return self.add(
            f"thread.run.step.{state}",
            ids | {"type": details["type"], "step_details": details} | more,
        )

    def step_delta(self, step_id: str, *calls: dict[str, Any]) -> RunTurn:
        details = {"type": "tool_calls", "tool_calls": list(calls)}
        data = {
            "id": step_id,
            "object": "thread.run.step.delta",
            "delta": {"step_details": details},
        }
        return self.add("thread.run.step.delta", data)

    def message_event(
        self, state: str, message_id: str, content: list[Any], **more: Any
    ) -> RunTurn:
        status = "in_progress" if state == "created" else state
        data = {"id": message_id, "object": "thread.message", "created_at": 1, "status": status}
        data |= {"run_id": self.run_id, "thread_id": self.thread_id, "role": "assistant"}
        return self.add(f"thread.message.{state}", data | {"content": content} | more)

    def message_delta(self, message_id: str, *blocks: dict[str, Any]) -> RunTurn:
        data = {"id": message_id, "object": "thread.message.delta"}
        return self.add("thread.message.delta", data | {"delta": {"content": list(blocks)}})

    def message(self, text: str, message_id: str = "msg_1") -> RunTurn:
        self.message_event("created", message_id, []).message_event("in_progress", message_id, [])
        for piece in words(text):
            block = {"index": 0, "type": "text", "text": {"value": piece, "annotations": []}}
            self.message_delta(message_id, block)
        content = [{"type": "text", "text": {"value": text, "annotations": []}}]
        return self.message_event("completed", message_id, content)

    def calls(self, step_id: str, *calls: tuple[str, str, Any]) -> list[dict[str, Any]]:
        """Add function calls (id, name, arguments); the run then waits for their outputs."""
        whole = []
        self.step("created", step_id, {"type": "tool_calls", "tool_calls": []})
        for index, (call_id, name, given) in enumerate(calls):
            args = as_text(given)
            function = {"name": name, "arguments": "", "output": None}
            begun = {"index": index, "id": call_id, "type": "function", "function": function}
            self.step_delta(step_id, begun)
            for piece in (args[:4], args[4:]):
                more = {"index": index, "type": "function", "function": {"arguments": piece}}
                self.step_delta(step_id, more)
            function = {"name": name, "arguments": args}
            whole.append({"id": call_id, "type": "function", "function": function})
        asked = {"type": "submit_tool_outputs", "submit_tool_outputs": {"tool_calls": whole}}
        self.run("requires_action", required_action=asked)
        return self.events

    def answered(self, step_id: str, *calls: tuple[str, str, Any, str]) -> RunTurn:
        """Complete the step whose outputs (id, name, arguments, output) were submitted."""
        whole = []
        for call_id, name, given, output in calls:
            args = as_text(given)
            function = {"name": name, "arguments": args, "output": output}
            whole.append({"id": call_id, "type": "function", "function": function})
        return self.step("completed", step_id, {"type": "tool_calls", "tool_calls": whole})

    def completed(self, tokens: int = 3) -> list[dict[str, Any]]:
        usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}
        self.run("completed", usage=usage)
        return self.events
