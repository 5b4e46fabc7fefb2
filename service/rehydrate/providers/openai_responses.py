"""Read OpenAI's Responses API as typed events, as text, or directly into a response.

    stream = ResponsesStream(await client.responses.create(model=…, input=…, stream=True))
    async for event in stream: ...        # typed, the last one is `Ended`
    async for text in stream.text(): ...  # text deltas only
    await stream.into(response)           # everything, with its end

The table `RULES` has the translation of every vendor event; the table in the docs is made from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rehydrate.providers.interpreting import Events, RawEvent, Rule
from rehydrate.providers.responses_interpreter import ResponsesInterpreter
from rehydrate.providers.vendor_stream import IDLE_TIMEOUT_S, VendorStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Read = Callable[[Any, RawEvent], Events]


class ResponsesStream(VendorStream):
    """One stream of the Responses API.

    Args:
        source: the ``openai`` package's stream (sync or async), any iterable or async iterable of
            its events or of dicts, or server-sent events: bytes, chunks, or an HTTP response.
        starting_after: the vendor's number of the last event read before, if *source* resumes a
            background response; repeated events are dropped.
        prefix: the prefix of part keys.
        idle_timeout_s: how long the stream may be silent, in seconds.
    """

    _interpreter: ResponsesInterpreter

    def __init__(
        self,
        source: Any,
        *,
        starting_after: int | None = None,
        prefix: str = "",
        idle_timeout_s: float = IDLE_TIMEOUT_S,
    ) -> None:
        reading = ResponsesInterpreter(RULES, starting_after=starting_after, prefix=prefix)
        super().__init__(source, reading, idle_timeout_s=idle_timeout_s)

    @property
    def response_id(self) -> str | None:
        """The vendor's id of the response, once it is known."""
        return self._interpreter.response_id

    @staticmethod
    def _wrap(name: str, data: Any) -> Any:
        if not isinstance(data, dict) or "type" in data:
            return data
        if data.get("object") == "response":  # a server that does not stream answers with the whole
            return {"type": f"response.{data.get('status', 'completed')}", "response": data}
        return {**data, "type": "error" if data.get("error") else name}


def _delta(kind: str, at: str = "content_index") -> Read:
    return lambda reading, incoming: reading.delta(kind, at, incoming)


def _done(kind: str, field: str = "text", at: str = "content_index") -> Read:
    return lambda reading, incoming: reading.done(kind, at, field, incoming)


def _args_delta(kind: str) -> Rule:
    read: Read = lambda reading, incoming: reading.args_delta(kind, incoming)  # noqa: E731 - a method with an argument
    return Rule(read, "ToolArgsDelta", "`tool_args`")


def _args_done(kind: str, field: str) -> Read:
    return lambda reading, incoming: reading.args_done(kind, field, incoming)


_Reading = ResponsesInterpreter
_PROGRESS = Rule(_Reading.progress, "Progress")
_REASONING = "`reasoning`"
_ADDED_TEXT = "text that the deltas lacked"
_ADDED_ARGS = "arguments that the deltas lacked"
_PROGRESS_STEPS = {
    "audio": ("delta", "done", "transcript.delta", "transcript.done"),
    "compaction": ("compacting",),
    "content_part": ("added", "done"),
    "code_interpreter_call": ("in_progress", "interpreting", "completed"),
    "file_search_call": ("in_progress", "searching", "completed"),
    "image_generation_call": ("in_progress", "generating", "partial_image", "completed"),
    "mcp_call": ("in_progress", "completed", "failed"),
    "mcp_list_tools": ("in_progress", "completed", "failed"),
    "reasoning_summary_part": ("added", "done"),
    "shell_call_command": ("done",),
    "shell_call_output_content": ("delta", "done"),
    "steer": ("accepted", "pending", "failed"),
    "web_search_call": ("in_progress", "searching", "completed"),
}
"""Events that add nothing to the answer: the item contains the result once it is done."""


def _rules() -> Iterator[tuple[str, Rule]]:
    yield "response.created", Rule(_Reading.created, "Started")
    yield "response.queued", Rule(_Reading.created, "Progress, or Started")
    yield "response.in_progress", Rule(_Reading.created, "Progress, or Started")
    yield (
        "response.output_item.added",
        Rule(_Reading.item_added, "Started, or ToolCallStarted", "`tool_call`"),
    )
    yield (
        "response.output_item.done",
        Rule(
            _Reading.item_done,
            "ToolResult, and missing deltas",
            "`tool_result` of a vendor's tool; " + _ADDED_TEXT,
            whole=True,
        ),
    )
    yield from _rules_of_texts()
    yield from _rules_of_calls()
    for name, steps in _PROGRESS_STEPS.items():
        yield from ((f"response.{name}.{step}", _PROGRESS) for step in steps)
    for name, read, effect in (
        ("response.completed", _Reading.completed, "completed, with usage; its text is final"),
        ("response.incomplete", _Reading.incomplete, "incomplete, with usage and the reason"),
        ("response.failed", _Reading.failed, "failed, with the error"),
        ("response.cancelled", _Reading.cancelled, "cancelled"),
        ("error", _Reading.error, "failed, with the error"),
    ):
        yield name, Rule(read, "Ended", f"`stop` {effect}", whole=True)


def _rules_of_texts() -> Iterator[tuple[str, Rule]]:
    yield "response.output_text.delta", Rule(_delta("text"), "TextDelta", "`token`")
    yield "response.output_text.done", Rule(_done("text"), "PartDone", _ADDED_TEXT)
    yield "response.output_text.annotation.added", Rule(_Reading.annotation, "Annotation")
    yield "response.refusal.delta", Rule(_delta("refusal"), "RefusalDelta", "`refusal`")
    yield "response.refusal.done", Rule(_done("refusal", "refusal"), "PartDone", _ADDED_TEXT)
    yield "response.reasoning_text.delta", Rule(_delta("reasoning"), "ReasoningDelta", _REASONING)
    yield "response.reasoning_text.done", Rule(_done("reasoning"), "PartDone", _ADDED_TEXT)
    yield (
        "response.reasoning_summary_text.delta",
        Rule(_delta("reasoning", "summary_index"), "ReasoningDelta", _REASONING),
    )
    yield (
        "response.reasoning_summary_text.done",
        Rule(_done("reasoning", at="summary_index"), "PartDone", _ADDED_TEXT),
    )


def _rules_of_calls() -> Iterator[tuple[str, Rule]]:
    for name, kind, field in (
        ("function_call_arguments", "function_call", "arguments"),
        ("mcp_call_arguments", "mcp_call", "arguments"),
        ("custom_tool_call_input", "custom_tool_call", "input"),
        ("code_interpreter_call_code", "code_interpreter_call", "code"),
    ):
        yield f"response.{name}.delta", _args_delta(kind)
        yield f"response.{name}.done", Rule(_args_done(kind, field), "ToolCallDone", _ADDED_ARGS)
    yield (
        "response.shell_call_command.added",
        Rule(_Reading.command, "ToolArgsDelta", "`tool_args`: one command per line"),
    )
    yield "response.shell_call_command.delta", _args_delta("shell_call")


RULES: dict[str, Rule] = dict(_rules())
