"""Read the Chat Completions API as typed events, as text, or directly into a response.

    stream = ChatStream(await client.chat.completions.create(model=…, messages=…, stream=True))
    await stream.into(response)  # everything, with its end

The servers of vLLM, Ollama, llama.cpp, LM Studio, LiteLLM, Azure and OpenRouter have this API.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rehydrate.providers.chat_interpreter import CHUNK, ChatInterpreter
from rehydrate.providers.interpreting import Rule
from rehydrate.providers.vendor_stream import IDLE_TIMEOUT_S, VendorStream

if TYPE_CHECKING:
    from collections.abc import Mapping


class ChatStream(VendorStream):
    """One stream of the Chat Completions API.

    Args:
        source: the ``openai`` package's stream (sync or async), any iterable or async iterable of
            its chunks or of dicts, or server-sent events: bytes, chunks, or an HTTP response.
        prefix: the prefix of part keys.
        idle_timeout_s: how long the stream may be silent, in seconds.
    """

    _interpreter: ChatInterpreter

    def __init__(
        self, source: Any, *, prefix: str = "", idle_timeout_s: float = IDLE_TIMEOUT_S
    ) -> None:
        super().__init__(
            source, ChatInterpreter(RULES, prefix=prefix), idle_timeout_s=idle_timeout_s
        )

    @property
    def completion_id(self) -> str | None:
        """The vendor's id of the completion, once it is known."""
        return self._interpreter.completion_id

    def message(self, answers: Mapping[str, str]) -> dict[str, Any]:
        """Return the answer as a message of the next request; see `ChatInterpreter.message`."""
        return self._interpreter.message(answers)

    @staticmethod
    def _wrap(name: str, data: Any) -> Any:
        if isinstance(data, dict) and name == "error" and "choices" not in data:
            return data if data.get("error") else {"error": data}
        return data


RULES: dict[str, Rule] = {
    CHUNK: Rule(
        ChatInterpreter.chunk,
        "TextDelta, RefusalDelta, ReasoningDelta, ToolCallStarted, ToolArgsDelta",
        "`token`, `refusal`, `reasoning`, `tool_call`, `tool_args`",
    ),
    "error": Rule(ChatInterpreter.error, "Ended", "`stop` failed, with the error"),
}
