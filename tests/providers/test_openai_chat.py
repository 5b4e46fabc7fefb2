"""The chat stream, with the package's client and its types."""

from __future__ import annotations

from openai.types.chat import ChatCompletionChunk

from providers.sinks import Folded
from providers.test_chat_interpreter import TEXTS, chunk
from rehydrate.providers.openai_chat import RULES, ChatStream


async def test_chunks_of_the_package_are_read():
    sink = Folded()
    chunks = [ChatCompletionChunk.model_construct(**each) for each in TEXTS["vllm"]]
    stream = ChatStream(chunks)
    await stream.into(sink)
    assert (sink.text, stream.completion_id) == ("Blue sky.", "chatcmpl-1")
    assert RULES.keys() == {"chat.completion.chunk", "error"}


def test_the_message_of_the_next_request_has_the_text_and_the_answered_calls():
    call = {"index": 0, "id": "a", "function": {"name": "sum", "arguments": "{broken"}}
    stream = ChatStream(
        [chunk({"content": "One moment."}), chunk({"tool_calls": [call]}, "tool_calls")]
    )
    list(stream)
    assert stream.message({"a": "call-1"}) == {
        "role": "assistant",
        "content": "One moment.",
        "tool_calls": [
            {"id": "call-1", "type": "function", "function": {"name": "sum", "arguments": "{}"}}
        ],
    }
