"""Run the tool loop of the Assistants API: run, call the tools, submit their outputs, continue.

Requests use the client's `post`, which the ``openai`` package documents for endpoints that it has
no method for: its methods for this API are deprecated and will be removed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from rehydrate.background import jittered
from rehydrate.providers.openai_assistants import AssistantsStream
from rehydrate.providers.tool_loop import TURNS_MAX, DriverOutcome, run_tool_loop
from rehydrate.providers.toolbox import TOOL_TIMEOUT_S, Tool, Toolbox, toolbox_of
from rehydrate.providers.vendor_calls import call_vendor, is_async
from rehydrate.providers.vendor_stream import IDLE_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rehydrate.providers.tool_loop import Noted
    from rehydrate.providers.toolbox import Answer
    from rehydrate.providers.vendor_events import Ended, Sink
    from rehydrate.providers.vendor_stream import VendorStream

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
    api = _AssistantsApi(client, input, body, thread_id, idle_timeout_s)
    return await run_tool_loop(sink, api, toolbox, noted=noted, turns_max=turns_max)


class _AssistantsApi:
    """The requests of one run; see `VendorApi`."""

    continues = True

    def __init__(
        self,
        client: Any,
        input_: Any,
        body: dict[str, Any],
        thread_id: str | None,
        idle_timeout_s: float,
    ) -> None:
        self._client = client
        self._input = input_
        self._body = body
        self._thread_id = thread_id
        self._idle_timeout_s = idle_timeout_s
        self._stream: AssistantsStream | None = None
        self._outputs: list[dict[str, Any]] = []

    async def request(self, turn: int) -> VendorStream:  # noqa: ARG002 - the run counts its turns
        """See `VendorApi`."""
        stream = self._stream
        if stream is not None:
            path = f"{self._run_path(stream)}/submit_tool_outputs"
            body = {"tool_outputs": self._outputs, "stream": True}
            stream.resume(await self._post(path, body))
            return stream
        source = await self._begin(self._input, self._body)
        self._stream = AssistantsStream(
            source, thread_id=self._thread_id, idle_timeout_s=self._idle_timeout_s
        )
        return self._stream

    async def reopen(self, stream: VendorStream) -> Any:  # noqa: ARG002 - as in `VendorApi`
        """See `VendorApi`: the API cannot continue a stream."""
        return None

    def answered(self, end: Ended, answers: Sequence[Answer]) -> None:  # noqa: ARG002 - as in `VendorApi`
        """See `VendorApi`."""
        self._outputs = [
            {"tool_call_id": answer.vendor_id, "output": answer.output} for answer in answers
        ]

    async def cancel(self) -> None:
        """See `VendorApi`: an unfinished run would block its thread, which accepts no message."""
        stream = self._stream
        if stream is None or not stream.run_id or not stream.thread_id:
            return
        path = self._run_path(stream)
        run = await self._post(f"{path}/cancel", {})
        while isinstance(run, dict) and run.get("status") == "cancelling":
            await asyncio.sleep(jittered(0.2, 0.5))
            options = {"headers": _HEADERS}
            run = await call_vendor(self._client.get, path, cast_to=object, options=options)

    def ids(self) -> dict[str, Any]:
        """See `VendorApi`."""
        stream = self._stream
        thread_id = self._thread_id if stream is None else stream.thread_id
        return {"thread_id": thread_id, "run_id": None if stream is None else stream.run_id}

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
            stream_cls = AsyncStream[object] if is_async(post) else Stream[object]
            more = {"stream": True, "stream_cls": stream_cls}
        return await call_vendor(
            post, path, cast_to=object, body=body, options={"headers": _HEADERS}, **more
        )

    def _run_path(self, stream: AssistantsStream) -> str:
        thread_id, run_id = stream.thread_id or "", stream.run_id or ""
        return f"/threads/{quote(thread_id, safe='')}/runs/{quote(run_id, safe='')}"
