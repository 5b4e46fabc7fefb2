"""The example chat on a real socket, with a real database, channel server and scripted model."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import NamedTuple

import httpx
import pytest

from api.serving import served_beside
from chat_backend.app import create_app
from chat_backend.settings import ChatSettings
from localably import LocalAbly
from participants import settings_for
from providers.conftest import scripted
from rehydrate import History
from scripted_openai.model import answer
from waiting import PATIENCE_S


class Chat(NamedTuple):
    """A running chat: its URL, its model, its history's settings."""

    url: str
    model: object
    settings: object

    @asynccontextmanager
    async def visitor(self):
        """A visitor who has loaded the page, and a function that returns ids of the visitor's conversations."""
        async with httpx.AsyncClient(base_url=self.url, timeout=PATIENCE_S) as http:
            assert (await http.get("/")).status_code == 200
            owner = (await http.get("/me")).json()["owner"]
            yield http, lambda name: f"{owner}-{name}"


@pytest.fixture(scope="module")
async def server():
    async with LocalAbly() as running:
        yield running


@pytest.fixture
async def chat(request, module_database, server):
    """The test's marker ``chat(name=…)`` has settings of the chat."""
    marker = request.node.get_closest_marker("chat")
    settings = settings_for(module_database, server)
    with scripted() as model:
        model.endpoint.answer = answer
        chat_settings = ChatSettings(**(marker.kwargs if marker else {}))
        app = create_app(chat_settings, History(settings), model.client())
        async with served_beside(app) as url:
            yield Chat(url, model, settings)
