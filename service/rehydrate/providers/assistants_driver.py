"""The Assistants API driven to its end: run, run the tools, submit their outputs, go on.

Requests go through the client's own `post`, which the ``openai`` package documents for endpoints
that it does not know: its methods for this API are deprecated, and will be gone some day.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from rehydrate.providers.driving import (
    TURNS_MAX,
    DriverContext,
    DriverOutcome,
    called,
    driven,
    is_sync,
    stopped_upstream,
)
from rehydrate.providers.failures import ProviderError, StreamBroken, VendorIncomplete
from rehydrate.providers.openai_assistants import AssistantsStream
from rehydrate.providers.toolbox import TOOL_TIMEOUT_S, Tool, Toolbox, toolbox_of
from rehydrate.providers.vendor_stream import IDLE_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rehydrate.providers.driving import Noted
    from rehydrate.providers.vendor_events import Sink

_HEADERS = {"OpenAI-Beta": "assistants=v2"}


async def run_assistants(
    sink: Sink,
    client: Any,
    *,
    assistant_id: str,
    input: Any = None,  # noqa: A002 - as in `run_responses`
    thread_id: str | None = None,
    tools: Mapping[str, Callable[..., Any] | Tool] | Toolbox | None = None,
    describe_tools: bool = False,
    tool_timeout_s: float = TOOL_TIMEOUT_S,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
    turns_max: int = TURNS_MAX,
    noted: Noted | None = None,
    **request: Any,
) -> DriverOutcome:
    """Stream a run of the Assistants API into *sink*, tool loop included; end it there.

    Args:
        sink: the response that is being published.
        client: ``openai.AsyncOpenAI`` (or ``OpenAI``, whose calls then use threads).
        assistant_id: which assistant runs.
        input: the prompt: a text, or content blocks of the API; None: the thread as it is.
        thread_id: the thread to go on with; without it, a new one is made.
        tools: the functions that the assistant may call, by name.
        describe_tools: send these tools' descriptions, instead of those of the assistant.
        tool_timeout_s: how long one call of a tool may take, in seconds.
        idle_timeout_s: how long the stream may say nothing, in seconds.
        turns_max: how often outputs may be submitted.
        noted: is told the vendor's ids as soon as they are known.
        request: further fields of the run: ``model``, ``instructions``, ``metadata`` …

    A bad end is told to the sink and returned, not raised. What the sink raises, and cancellation,
    cancel the run and go on.

    Raises:
        BadParameter: a tool cannot be described.
    """
    toolbox = toolbox_of(tools, timeout_s=tool_timeout_s)
    if describe_tools:
        request["tools"] = toolbox.nested_specs()
    body = {**request, "assistant_id": assistant_id, "stream": True}
    run = _AssistantsRun(client, DriverContext(sink, toolbox, noted), thread_id, idle_timeout_s)
    return await driven(run, run.turns(input, body, turns_max))


class _AssistantsRun:
    def __init__(
        self,
        client: Any,
        conversation: DriverContext,
        thread_id: str | None,
        idle_timeout_s: float,
    ) -> None:
        self._client = client
        self._conversation = conversation
        self._thread_id = thread_id
        self._idle_timeout_s = idle_timeout_s
        self._stream: AssistantsStream | None = None

    async def turns(self, asked: Any, body: dict[str, Any], turns_max: int) -> None:
        """Run, submit what the run waits for, and again, until it is done."""
        source = await self._begin(asked, body)
        stream = AssistantsStream(
            source, thread_id=self._thread_id, idle_timeout_s=self._idle_timeout_s
        )
        self._stream = stream
        for _ in range(turns_max):
            end, _calls = await self._conversation.pour(stream)
            if stream.waiting is None:
                self._conversation.close_turn(end)
                if end.error is not None:
                    raise end.error
                return
            answers = await self._conversation.answer(list(stream.waiting.calls))
            outputs = [
                {"tool_call_id": answer.tool_call_id, "output": answer.output} for answer in answers
            ]
            path = f"{self._run_path(stream)}/submit_tool_outputs"
            stream.resume(await self._post(path, {"tool_outputs": outputs, "stream": True}))
        raise VendorIncomplete("too_many_turns", f"tools were called {turns_max} times")

    async def _begin(self, asked: Any, body: dict[str, Any]) -> Any:
        message = None if asked is None else {"role": "user", "content": asked}
        if self._thread_id is None:
            thread = {"messages": [] if message is None else [message]}
            return await self._post("/threads/runs", {**body, "thread": thread})
        thread_path = f"/threads/{quote(self._thread_id, safe='')}"
        if message is not None:
            await self._post(f"{thread_path}/messages", message)
        return await self._post(f"{thread_path}/runs", body)

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        from openai import AsyncStream, Stream  # noqa: PLC0415 - only whoever has a client has it

        post = self._client.post
        more: dict[str, Any] = {}
        if body.get("stream"):
            stream_cls = Stream[object] if is_sync(post) else AsyncStream[object]
            more = {"stream": True, "stream_cls": stream_cls}
        return await called(
            post, path, cast_to=object, body=body, options={"headers": _HEADERS}, **more
        )

    def _run_path(self, stream: AssistantsStream) -> str:
        thread_id, run_id = stream.thread_id or "", stream.run_id or ""
        return f"/threads/{quote(thread_id, safe='')}/runs/{quote(run_id, safe='')}"

    async def stop(self) -> None:
        """Close the stream, and cancel a run that is not over: it would block its thread."""
        stream = self._stream
        if stream is None:
            return
        steps: list[Callable[[], Any]] = [stream.aclose]
        over = stream.end is not None and not isinstance(stream.error, StreamBroken)
        if stream.run_id and stream.thread_id and (stream.waiting is not None or not over):
            steps.append(lambda: self._cancel(self._run_path(stream)))
        await stopped_upstream(steps)

    async def _cancel(self, path: str) -> None:
        """Cancel a run, and wait until it is over: until then its thread takes no message."""
        run = await self._post(f"{path}/cancel", {})
        while isinstance(run, dict) and run.get("status") == "cancelling":
            await asyncio.sleep(random.uniform(0.1, 0.3))  # noqa: S311 - jitter
            options = {"headers": _HEADERS}
            run = await called(self._client.get, path, cast_to=object, options=options)

    def cancelled(self) -> None:
        """Say that the response was cancelled."""
        self._conversation.cancelled()

    def finish(self, error: ProviderError | None) -> DriverOutcome:
        """Say how the response ends."""
        stream = self._stream
        thread_id = self._thread_id if stream is None else stream.thread_id
        run_id = None if stream is None else stream.run_id
        return self._conversation.finish(error, thread_id=thread_id, run_id=run_id)
