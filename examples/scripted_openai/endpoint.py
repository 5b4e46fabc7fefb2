"""An OpenAI-compatible endpoint that streams scripted answers as server-sent events.

It implements `/v1/responses` (create, retrieve with `starting_after`, cancel) and the Assistants API
(threads, messages, runs, tool outputs, cancel). A function is called for every stream and returns
its frames: the vendor's events as dicts (for Assistants as `{"event", "data"}`), and `CUT`, `Stall`
or `Raw` for faults. It is plain Starlette, so any ASGI server runs it. It checks no key and never
frees memory: use it for development and tests, on loopback.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

CUT = object()
"""A frame: break the connection in the middle of the body."""


class Stall(NamedTuple):
    """A frame: send nothing for this time."""

    seconds: float


class Raw(NamedTuple):
    """A frame: send these bytes unchanged."""

    body: bytes


@dataclass(frozen=True)
class StreamRequest:
    """A client's request for a stream: `kind` is `response`, `run` or `outputs`."""

    kind: str
    body: dict[str, Any]
    number: int
    thread_id: str = ""
    run_id: str = ""
    thread_is_new: bool = False
    earlier_prompt: str = ""
    """The prompt of the previous response that this one continues, or of the run."""

    @property
    def tool_names(self) -> set[str]:
        """Names of the functions that the model may call."""
        tools = self.body.get("tools") or []
        return {(tool.get("function") or tool).get("name", "") for tool in tools}

    @property
    def prompt(self) -> str:
        """The last text of the user, from either form of the body."""
        for holder in (self.body, self.body.get("thread") or {}):
            for key in ("input", "messages"):
                if found := _last_text(holder.get(key)):
                    return found
        return ""


Frames = Sequence[Any]


@dataclass
class ScriptedEndpoint:
    """Streams the frames that *answer* returns, about one per `pace_s`.

    Attributes:
        answer: returns the frames of a stream.
        pace_s: mean pause after a frame, in seconds.
        asked: all requests for streams, oldest first.
        open_streams: number of streams being read.
        cancelled: ids of the responses and runs that clients have cancelled.
        threads: the prompts of each thread.
        active: the active run of each thread; a thread accepts no messages until it has ended.
        looks: number of times that a client must retrieve a cancelled run until it has ended.
    """

    answer: Callable[[StreamRequest], Frames]
    pace_s: float = 0.0
    asked: list[StreamRequest] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    open_streams: int = 0
    threads: dict[str, list[Any]] = field(default_factory=dict)
    active: dict[str, str] = field(default_factory=dict)
    looks: int = 0
    _played: dict[str, Frames] = field(default_factory=dict)
    _prompts: dict[str, str] = field(default_factory=dict)
    _runs: dict[str, str] = field(default_factory=dict)
    _looks_left: dict[str, int] = field(default_factory=dict)

    def forget(self) -> None:
        """Delete the stored responses, as the vendor does after a month."""
        self._played.clear()

    @property
    def app(self) -> Starlette:
        """The ASGI application."""
        run = "/v1/threads/{thread_id}/runs"
        posts = {
            "/v1/responses": self._create_response,
            "/v1/responses/{response_id}/cancel": self._cancel_response,
            "/v1/threads": self._create_thread,
            "/v1/threads/runs": self._create_thread_and_run,
            "/v1/threads/{thread_id}/messages": self._create_message,
            run: self._create_run,
            run + "/{run_id}/submit_tool_outputs": self._submit,
            run + "/{run_id}/cancel": self._cancel_run,
        }
        routes = [Route(path, handler, methods=["POST"]) for path, handler in posts.items()]
        routes.append(Route("/v1/responses/{response_id}", self._retrieve_response))
        routes.append(Route(run + "/{run_id}", self._retrieve_run))
        return Starlette(routes=routes)

    async def _create_response(self, request: Request) -> Response:
        body = await request.json()
        before = body.get("previous_response_id")
        if before is not None and before not in self._played:
            message = f"Previous response with id '{before}' not found."
            return _refused(400, message, "previous_response_not_found", "previous_response_id")
        frames = self._ask("response", body, earlier_prompt=self._prompts.get(before or "", ""))
        asked = self.asked[-1]
        for frame in frames:
            if isinstance(frame, dict) and isinstance(frame.get("response"), dict):
                response_id = frame["response"].get("id", "")
                self._played[response_id] = frames
                self._prompts[response_id] = asked.prompt or asked.earlier_prompt
        return self._stream(frames)

    async def _retrieve_response(self, request: Request) -> Response:
        response_id = request.path_params["response_id"]
        if response_id not in self._played:
            return _refused(404, f"Response with id '{response_id}' not found.", None, None)
        after = int(request.query_params.get("starting_after", -1))
        events = [frame for frame in self._played[response_id] if isinstance(frame, dict)]
        return self._stream([event for event in events if event["sequence_number"] > after])

    async def _cancel_response(self, request: Request) -> Response:
        self.cancelled.append(request.path_params["response_id"])
        return JSONResponse({"id": self.cancelled[-1], "object": "response", "status": "cancelled"})

    async def _create_thread(self, request: Request) -> Response:
        body = json.loads(await request.body() or b"{}")
        thread_id = self._new_thread(body)
        return JSONResponse({"id": thread_id, "object": "thread", "created_at": 1, "metadata": {}})

    async def _create_thread_and_run(self, request: Request) -> Response:
        body = await request.json()
        return self._run(body, self._new_thread(body.get("thread") or {}), thread_is_new=True)

    async def _create_message(self, request: Request) -> Response:
        thread_id, body = request.path_params["thread_id"], await request.json()
        if (refusal := self._refusal(thread_id)) is not None:
            return refusal
        self.threads[thread_id].append(body["content"])
        return JSONResponse({"id": "msg_user", "object": "thread.message", "role": "user"})

    async def _create_run(self, request: Request) -> Response:
        thread_id, body = request.path_params["thread_id"], await request.json()
        if (refusal := self._refusal(thread_id)) is not None:
            return refusal
        body.setdefault(
            "messages", [{"content": prompt} for prompt in self.threads[thread_id][-1:]]
        )
        return self._run(body, thread_id, thread_is_new=False)

    async def _submit(self, request: Request) -> Response:
        thread_id, run_id = request.path_params["thread_id"], request.path_params["run_id"]
        if self._runs.get(run_id) != thread_id:
            return _no_thread(thread_id)
        body, prompt = await request.json(), self._prompts.get(run_id, "")
        frames = self._ask("outputs", body, thread_id, run_id, earlier_prompt=prompt)
        return self._stream(frames, done=True)

    async def _cancel_run(self, request: Request) -> Response:
        self.cancelled.append(request.path_params["run_id"])
        self._looks_left[self.cancelled[-1]] = self.looks
        return self._cancelling(request)

    async def _retrieve_run(self, request: Request) -> Response:
        self._looks_left[request.path_params["run_id"]] -= 1
        return self._cancelling(request)

    def _cancelling(self, request: Request) -> Response:
        thread_id, run_id = request.path_params["thread_id"], request.path_params["run_id"]
        over = self._looks_left[run_id] <= 0
        if over:
            self.active.pop(thread_id, None)
        status = "cancelled" if over else "cancelling"
        return JSONResponse({"id": run_id, "object": "thread.run", "status": status})

    def _refusal(self, thread_id: str) -> Response | None:
        """Return the API's error if the thread accepts no messages now, else None."""
        if thread_id not in self.threads:
            return _no_thread(thread_id)
        if (run_id := self.active.get(thread_id)) is None:
            return None
        message = f"Can't add messages to {thread_id} while a run {run_id} is active."
        return _refused(400, message, None, None)

    def _new_thread(self, body: dict[str, Any]) -> str:
        thread_id = f"thread_{len(self.threads) + 1}"
        self.threads[thread_id] = [each["content"] for each in body.get("messages") or ()]
        return thread_id

    def _run(self, body: dict[str, Any], thread_id: str, *, thread_is_new: bool) -> Response:
        run_id = f"run_{len(self._runs) + 1}"
        self._runs[run_id] = thread_id
        self.active[thread_id] = run_id
        frames = self._ask("run", body, thread_id, run_id, thread_is_new=thread_is_new)
        self._prompts[run_id] = self.asked[-1].prompt
        return self._stream(frames, done=True)

    def _ask(
        self,
        kind: str,
        body: dict[str, Any],
        thread_id: str = "",
        run_id: str = "",
        **more: Any,
    ) -> Frames:
        self.asked.append(StreamRequest(kind, body, len(self.asked), thread_id, run_id, **more))
        return self.answer(self.asked[-1])

    def _stream(self, frames: Frames, *, done: bool = False) -> Response:
        return StreamingResponse(self._play(frames, done), media_type="text/event-stream")

    async def _play(self, frames: Iterable[Any], done: bool) -> AsyncIterator[bytes]:
        self.open_streams += 1
        try:
            for frame in frames:
                if frame is CUT:
                    raise ConnectionAbortedError("cut, as scripted")
                if isinstance(frame, Stall):
                    await asyncio.sleep(frame.seconds)
                    continue
                self._note_end(frame)
                yield frame.body if isinstance(frame, Raw) else sse(frame)
                pause_s = random.expovariate(1 / self.pace_s) if self.pace_s else 0
                await asyncio.sleep(pause_s)
            if done:
                yield b"event: done\ndata: [DONE]\n\n"
        finally:
            self.open_streams -= 1

    def _note_end(self, frame: Any) -> None:
        if isinstance(frame, dict) and frame.get("event", "") in _RUN_IS_OVER:
            self.active.pop(frame["data"].get("thread_id", ""), None)


_RUN_IS_OVER = {
    f"thread.run.{end}" for end in ("completed", "incomplete", "failed", "cancelled", "expired")
}


def sse(event: dict[str, Any]) -> bytes:
    """Return the bytes of an event: of the Responses API, or `{"event", "data"}`."""
    name = event.get("event") or event["type"]
    data = event["data"] if "event" in event else event
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def _last_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return next((text for item in reversed(value) if (text := _last_text(item))), "")
    if isinstance(value, dict):
        return _last_text(value.get("content") or value.get("text"))
    return ""


def _no_thread(thread_id: str) -> Response:
    return _refused(404, f"No thread found with id '{thread_id}'.", None, None)


def _refused(status: int, message: str, code: str | None, parameter: str | None) -> Response:
    error = {"message": message, "type": "invalid_request_error", "param": parameter, "code": code}
    return JSONResponse({"error": error}, status)
