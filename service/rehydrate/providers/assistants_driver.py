"""Run the tool loop of the Assistants API: run, call the tools, submit their outputs, continue.

Requests use the client's `post`, which the ``openai`` package documents for endpoints that it has
no method for: its methods for this API are deprecated and will be removed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from rehydrate.background import jittered
from rehydrate.providers.driving import (
    TURNS_MAX,
    DriverContext,
    DriverOutcome,
    call_vendor,
    drive,
    is_sync,
    stop_vendor,
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
    input: Any = None,  # noqa: A002 - the same name as in `run_responses`
    thread_id: str | None = None,
    tools: Mapping[str, Callable[..., Any] | Tool] | Toolbox | None = None,
    describe_tools: bool = False,
    tool_timeout_s: float = TOOL_TIMEOUT_S,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
    turns_max: int = TURNS_MAX,
    noted: Noted | None = None,
    **request: Any,
) -> DriverOutcome:
    """Stream a run of the Assistants API into *sink*, with all tool calls, and end the response.

    A failure ends the response and is returned, not raised. An exception of the sink, or
    cancellation, cancels the run at the vendor and propagates.

    Args:
        sink: the response that is being published.
        client: ``openai.AsyncOpenAI``, or ``OpenAI``, whose calls then use threads.
        assistant_id: the assistant to run.
        input: the prompt: a text, or content blocks of the API. None: add no message.
        thread_id: the thread to continue. None: create one.
        tools: the functions that the assistant may call, by name.
        describe_tools: send the descriptions of these tools instead of the assistant's own.
        tool_timeout_s: how long one call of a tool may take, in seconds.
        idle_timeout_s: how long the stream may be silent, in seconds.
        turns_max: how often outputs may be submitted.
        noted: called with each id of the vendor as soon as it is known.
        request: further fields of the run: ``model``, ``instructions``, ``metadata`` …

    Raises:
        BadParameter: a tool cannot be described.
    """
    toolbox = toolbox_of(tools, timeout_s=tool_timeout_s)
    if describe_tools:
        request["tools"] = toolbox.nested_specs()
    body = {**request, "assistant_id": assistant_id, "stream": True}
    run = _AssistantsRun(client, DriverContext(sink, toolbox, noted), thread_id, idle_timeout_s)
    return await drive(run, run.turns(input, body, turns_max))


class _AssistantsRun:
    def __init__(
        self,
        client: Any,
        context: DriverContext,
        thread_id: str | None,
        idle_timeout_s: float,
    ) -> None:
        self._client = client
        self._context = context
        self._thread_id = thread_id
        self._idle_timeout_s = idle_timeout_s
        self._stream: AssistantsStream | None = None

    async def turns(self, input_: Any, body: dict[str, Any], turns_max: int) -> None:
        """Start the run, and submit tool outputs until it needs no more."""
        source = await self._begin(input_, body)
        stream = AssistantsStream(
            source, thread_id=self._thread_id, idle_timeout_s=self._idle_timeout_s
        )
        self._stream = stream
        for _ in range(turns_max):
            end, _calls = await self._context.write_turn(stream)
            if stream.waiting is None:
                self._context.close_turn(end)
                if end.error is not None:
                    raise end.error
                return
            answers = await self._context.answer(list(stream.waiting.calls))
            outputs = [
                {"tool_call_id": answer.tool_call_id, "output": answer.output} for answer in answers
            ]
            path = f"{self._run_path(stream)}/submit_tool_outputs"
            stream.resume(await self._post(path, {"tool_outputs": outputs, "stream": True}))
        raise VendorIncomplete("too_many_turns", f"tools were called {turns_max} times")

    async def _begin(self, input_: Any, body: dict[str, Any]) -> Any:
        message = None if input_ is None else {"role": "user", "content": input_}
        if self._thread_id is None:
            thread = {"messages": [] if message is None else [message]}
            return await self._post("/threads/runs", {**body, "thread": thread})
        thread_path = f"/threads/{quote(self._thread_id, safe='')}"
        if message is not None:
            await self._post(f"{thread_path}/messages", message)
        return await self._post(f"{thread_path}/runs", body)

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        from openai import AsyncStream, Stream  # noqa: PLC0415 - an optional dependency; callers with a client have it

        post = self._client.post
        more: dict[str, Any] = {}
        if body.get("stream"):
            stream_cls = Stream[object] if is_sync(post) else AsyncStream[object]
            more = {"stream": True, "stream_cls": stream_cls}
        return await call_vendor(
            post, path, cast_to=object, body=body, options={"headers": _HEADERS}, **more
        )

    def _run_path(self, stream: AssistantsStream) -> str:
        thread_id, run_id = stream.thread_id or "", stream.run_id or ""
        return f"/threads/{quote(thread_id, safe='')}/runs/{quote(run_id, safe='')}"

    async def stop(self) -> None:
        """Close the stream, and cancel an unfinished run, which would block its thread."""
        stream = self._stream
        if stream is None:
            return
        steps: list[Callable[[], Any]] = [stream.aclose]
        over = stream.end is not None and not isinstance(stream.error, StreamBroken)
        if stream.run_id and stream.thread_id and (stream.waiting is not None or not over):
            steps.append(lambda: self._cancel(self._run_path(stream)))
        await stop_vendor(steps)

    async def _cancel(self, path: str) -> None:
        """Cancel a run and wait until it has ended, since its thread accepts no message before."""
        run = await self._post(f"{path}/cancel", {})
        while isinstance(run, dict) and run.get("status") == "cancelling":
            await asyncio.sleep(jittered(0.2, 0.5))
            options = {"headers": _HEADERS}
            run = await call_vendor(self._client.get, path, cast_to=object, options=options)

    def cancelled(self) -> None:
        """End the response as cancelled."""
        self._context.cancelled()

    def finish(self, error: ProviderError | None) -> DriverOutcome:
        """End the response and return the outcome."""
        stream = self._stream
        thread_id = self._thread_id if stream is None else stream.thread_id
        run_id = None if stream is None else stream.run_id
        return self._context.finish(error, thread_id=thread_id, run_id=run_id)
