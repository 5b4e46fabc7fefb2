"""Read OpenAI's Assistants API (v2) as typed events, as text, or directly into a response.

    stream = AssistantsStream(await client.beta.threads.runs.create(…, stream=True))
    async for event in stream: ...        # typed, the last one is `Ended`
    async for text in stream.text(): ...  # text deltas only
    await stream.into(response)           # everything, with its end

A run that waits for tool outputs ends its stream with `ActionRequired`, then `Ended`
(``incomplete``, ``requires_action``). Pass the stream that submitting the outputs opens to
`resume`.

The vendor closed this API in August 2026; compatible servers remain. This module does not depend
on the ``openai`` package's classes for these events.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rehydrate.providers.assistants_interpreter import AssistantsInterpreter
from rehydrate.providers.interpreting import Rule
from rehydrate.providers.vendor_stream import IDLE_TIMEOUT_S, VendorStream

if TYPE_CHECKING:
    from rehydrate.providers.vendor_events import ActionRequired


class AssistantsStream(VendorStream):
    """The stream of a run of the Assistants API, or several streams one after the other.

    Args:
        source: the ``openai`` package's stream or event handler (sync or async), any iterable or
            async iterable of its events or of ``{"event", "data"}``, or server-sent events: bytes,
            chunks, or an HTTP response.
        thread_id: the thread that the run must belong to. None: any.
        prefix: the prefix of part keys.
        idle_timeout_s: how long the stream may be silent, in seconds.
    """

    _interpreter: AssistantsInterpreter

    def __init__(
        self,
        source: Any,
        *,
        thread_id: str | None = None,
        prefix: str = "",
        idle_timeout_s: float = IDLE_TIMEOUT_S,
    ) -> None:
        reading = AssistantsInterpreter(RULES, thread_id=thread_id, prefix=prefix)
        super().__init__(source, reading, idle_timeout_s=idle_timeout_s)

    @property
    def thread_id(self) -> str | None:
        """The vendor's id of the thread, once it is known."""
        return self._interpreter.thread_id

    @property
    def run_id(self) -> str | None:
        """The vendor's id of the run, once it is known."""
        return self._interpreter.run_id

    @property
    def waiting(self) -> ActionRequired | None:
        """The tool calls whose outputs the run waits for, or None."""
        return self._interpreter.waiting

    @staticmethod
    def _wrap(name: str, data: Any) -> Any:
        return {"event": name, "data": data}


_Reading = AssistantsInterpreter
_STEP_FAILED = Rule(_Reading.step_failed, "ToolResult, or Progress", "`tool_result` with the error")
_MESSAGE_DONE = Rule(
    _Reading.message_done, "PartDone, and missing deltas", "text that the deltas lacked"
)

RULES: dict[str, Rule] = {
    "thread.created": Rule(_Reading.thread, "Started"),
    "thread.run.created": Rule(_Reading.run, "Started"),
    "thread.run.queued": Rule(_Reading.run, "Progress, or Started"),
    "thread.run.in_progress": Rule(_Reading.run, "Progress, or Started"),
    "thread.run.cancelling": Rule(_Reading.run, "Progress, or Started"),
    "thread.run.requires_action": Rule(
        _Reading.requires_action,
        "ToolCallDone for each call, then ActionRequired",
        "arguments that the deltas lacked; the driver's `tool_result`s follow",
    ),
    "thread.run.completed": Rule(_Reading.completed, "Ended", "`stop` completed, with usage"),
    "thread.run.incomplete": Rule(_Reading.incomplete, "Ended", "`stop` incomplete, the reason"),
    "thread.run.failed": Rule(_Reading.failed, "Ended", "`stop` failed, with the error"),
    "thread.run.cancelled": Rule(_Reading.cancelled, "Ended", "`stop` cancelled"),
    "thread.run.expired": Rule(_Reading.expired, "Ended", "`stop` incomplete, `expired`"),
    "thread.run.step.created": Rule(_Reading.step, "Started"),
    "thread.run.step.in_progress": Rule(_Reading.progress, "Progress"),
    "thread.run.step.delta": Rule(
        _Reading.step_delta, "ToolCallStarted, ToolArgsDelta", "`tool_call`, `tool_args`"
    ),
    "thread.run.step.completed": Rule(
        _Reading.step_completed,
        "ToolResult, and missing deltas",
        "`tool_result` of a vendor's tool",
    ),
    "thread.run.step.failed": _STEP_FAILED,
    "thread.run.step.cancelled": _STEP_FAILED,
    "thread.run.step.expired": _STEP_FAILED,
    "thread.message.created": Rule(_Reading.message, "Started"),
    "thread.message.in_progress": Rule(_Reading.message, "Progress, or Started"),
    "thread.message.delta": Rule(
        _Reading.message_delta,
        "TextDelta, RefusalDelta, Image, Annotation",
        "`token`, `refusal`; an image as a completed call of `image`",
    ),
    "thread.message.completed": _MESSAGE_DONE,
    "thread.message.incomplete": _MESSAGE_DONE,
    "error": Rule(_Reading.error, "Ended", "`stop` failed, with the error"),
}
