"""The application: rehydrate's router, three endpoints of the chat, and the page's files."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import jwt
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from openai import AsyncOpenAI
from pydantic import AfterValidator, BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chat_backend.answers import Answers
from chat_backend.sessions import begin_session, is_mine, owner_of, same_origin
from chat_backend.settings import ChatSettings, ably_options, ably_origins
from chat_backend.tools import TOOLS
from rehydrate import History, RehydrateError

PAGE = Path(__file__).parent / "page"
ABLY_JS = (
    Path(__file__).parents[2] / "tests" / "js" / "node_modules" / "ably" / "build" / "ably.min.js"
)
"""Stock ably-js, if npm has installed it; without it the page can follow over SSE only."""

_TOKEN_S = 3600
_INSTRUCTIONS = "You are a kind and brief assistant. Use the tools where they help."


def _valid_unicode(text: str) -> str:
    if not text.isascii():
        text.encode()  # raises ValueError: a JSON string may contain half of a surrogate pair
    return text


class Prompt(BaseModel):
    """A prompt from the page, which generates the id: a repeated request asks only once."""

    id: str = Field(pattern=r"^p-[0-9a-f-]{36}$")
    text: Annotated[str, AfterValidator(_valid_unicode)] = Field(min_length=1, max_length=8_000)


def create_app(settings: ChatSettings, history: History, client: AsyncOpenAI) -> FastAPI:
    """Return the chat application; *history* stores and streams, *client* calls the model."""
    app = FastAPI(title="chat", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(RehydrateError, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.include_router(history.router(authorize=is_mine), prefix="/history")
    app.include_router(
        _chat(settings, history, client)
    )  # second: at shutdown its lifespan ends first
    app.include_router(_page(history, settings))
    app.mount("/page", StaticFiles(directory=PAGE))
    app.add_middleware(SecurityHeaders, connect=ably_origins(history.settings))
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=settings.hosts.split(","))
    return app


async def _invalid(_request: Request, error: Exception) -> Response:
    """Respond without the input, unlike FastAPI, since the input may not be valid UTF-8."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - for the type checker
    found = [{"loc": each["loc"], "msg": each["msg"]} for each in error.errors()]
    return JSONResponse({"detail": found}, 422)


def answering(
    settings: ChatSettings, history: History, client: AsyncOpenAI
) -> Callable[[str, str, str, str], Awaitable[object]]:
    """Return the function that answers a prompt, with the Responses or the Assistants API."""

    async def answer(conversation_id: str, prompt_id: str, text: str, response_id: str) -> object:
        asked: dict[str, Any] = {"input": text, "tools": TOOLS}
        asked |= {"prompt_id": prompt_id, "response_id": response_id}
        if settings.api == "assistants":
            asked |= {"assistant_id": settings.assistant_id, "describe_tools": True}
            return await history.run_openai_assistant(conversation_id, client, **asked)
        asked |= {"model": settings.model, "instructions": _INSTRUCTIONS}
        return await history.run_openai(conversation_id, client, **asked)

    return answer


def _chat(settings: ChatSettings, history: History, client: AsyncOpenAI) -> APIRouter:
    max_each, max_total = settings.at_once
    answer = answering(settings, history, client)
    answers = Answers(answer, max_each=max_each, max_total=max_total)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with client:
            yield
            await answers.close()

    chat = APIRouter(prefix="/chat", lifespan=lifespan, dependencies=[Depends(same_origin)])

    @chat.post("/{conversation_id}/prompts", status_code=202)
    async def ask(conversation_id: Mine, prompt: Prompt) -> dict[str, str]:
        answers.check_room(conversation_id)
        await history.prompt(conversation_id, prompt.text, prompt_id=prompt.id)
        response_id = answers.start(conversation_id, prompt.id, prompt.text)
        return {"prompt_id": prompt.id, "response_id": response_id}

    @chat.post("/{conversation_id}/responses/{response_id}/stop", status_code=202)
    async def stop(conversation_id: Mine, response_id: str) -> None:
        await history.cancel(conversation_id, response_id)  # works from any process

    @chat.get("/{conversation_id}/ably-token")
    async def ably_token(conversation_id: Mine, response: Response) -> dict[str, Any]:
        response.headers["Cache-Control"] = "no-store"
        channel = await history.channel_of(conversation_id)
        return {"token": _reader_token(history, channel), "channel": channel}

    return chat


def _mine(request: Request, conversation_id: str) -> str:
    if not is_mine(request, conversation_id):
        raise HTTPException(403, "This conversation belongs to another user.")
    return conversation_id


Mine = Annotated[str, Depends(_mine)]
"""The conversation id of the path; refused unless the conversation is the caller's."""


def _reader_token(history: History, channel: str) -> str:
    """Return a token for the page that grants reading of this one channel for an hour."""
    name, _, secret = history.settings.required_ably_key().partition(":")
    now_s = int(time.time())
    capability = json.dumps({channel: ["subscribe", "history"]})
    claims = {"iat": now_s, "exp": now_s + _TOKEN_S, "x-ably-capability": capability}
    return jwt.encode(claims, secret, "HS256", headers={"kid": name})


def _page(history: History, settings: ChatSettings) -> APIRouter:
    page = APIRouter()

    @page.get("/")
    async def index(request: Request) -> Response:
        response = FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})
        begin_session(request, response)
        return response

    @page.get("/me")
    async def me(request: Request) -> dict[str, Any]:
        ably = ably_options(history.settings) if ABLY_JS.is_file() else None
        return {"owner": owner_of(request), "api": settings.api, "ably": ably}

    @page.get("/client.js")
    async def client_js() -> Response:
        text = files("rehydrate.api").joinpath("client.js").read_text()
        return Response(text, media_type="text/javascript")

    @page.get("/ably.js")
    async def ably_js() -> Response:
        if not ABLY_JS.is_file():
            raise HTTPException(404, "ably-js is not installed: npm ci in tests/js")
        return FileResponse(ABLY_JS, media_type="text/javascript")

    return page


async def _problem(_request: Request, error: Exception) -> Response:
    """Return a `RehydrateError` as problem+json."""
    status, code = getattr(error, "status", 500), getattr(error, "code", "internal")
    body = {"status": status, "code": code, "detail": str(error)}
    return JSONResponse(body, status, media_type="application/problem+json")


class SecurityHeaders:
    """Adds a content security policy: the page may load from here and connect to Ably only.

    Plain ASGI rather than BaseHTTPMiddleware, which would buffer streams.
    """

    def __init__(self, app: ASGIApp, connect: str) -> None:
        self._app = app
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
            f"connect-src 'self' {connect}; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        self._headers = [
            (b"content-security-policy", policy.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the request and add the headers to the response."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self._headers]
            await send(message)

        await self._app(scope, receive, send_with_headers)
