"""An app over a stand-in service: called in process, or through a real server."""

from __future__ import annotations

from contextlib import asynccontextmanager

import httpx
import pytest

from api.minting import ADMIN_KEY, KEY, READER, SERVICE_KEY, bearer, mint
from api.serving import served
from api.standin import StandIn
from rehydrate.api.app import create_app
from rehydrate.api.auth.access import Access
from rehydrate.api.conversations import Limits
from waiting import PATIENCE_S

ORIGIN = "https://chat.example"


async def whole_capability(_key):
    return {"*": ["*"]}


def make_access(**more):
    given = {
        "ably_keys": [KEY],
        "service_keys": [SERVICE_KEY],
        "admin_keys": [ADMIN_KEY],
        "key_capability": whole_capability,
    }
    return Access(**{**given, **more})


@asynccontextmanager
async def calling(app, **headers):
    """Yield a client that calls *app* in process, within the app's lifespan."""
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://t", headers=headers) as client,
    ):
        yield client


@pytest.fixture
def standin():
    return StandIn()


@pytest.fixture
async def reader(standin):
    """A client with a reader's token for all conversations."""
    app = create_app(standin, make_access())
    async with calling(app, **bearer(mint(READER))) as client:
        yield client


@pytest.fixture
async def backend(standin):
    """A client with a service key, of an app with low limits."""
    app = create_app(standin, make_access(), limits=Limits(body_bytes=20_000, hydrates=2))
    async with calling(app, **bearer(SERVICE_KEY)) as client:
        yield client


@pytest.fixture(scope="session")
def over_the_network():
    """The URL of a real server, and its stand-in service."""
    behind = StandIn()
    app = create_app(
        behind, make_access(), cors_origins=[ORIGIN], limits=Limits(body_bytes=300_000)
    )
    with served(app) as url:
        yield url, behind


@pytest.fixture
async def real(over_the_network):
    """A client of the real server, with a service key, and its stand-in service."""
    url, behind = over_the_network
    behind.fault, behind.gate = None, None
    async with httpx.AsyncClient(
        base_url=url, headers=bearer(SERVICE_KEY), timeout=PATIENCE_S
    ) as client:
        yield client, behind


def problem(answer, status, code, parameter=None):
    """Assert that *answer* is exactly that problem; return its detail."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    wanted = {"type", "title", "status", "detail", "code", "request_id"}
    assert set(body) == wanted | ({"parameter"} if parameter is not None else set())
    assert (body["status"], body["code"]) == (status, code)
    assert body["type"] == f"urn:rehydrate:problem:{code}"
    assert body.get("parameter") == parameter
    assert body["request_id"] == answer.headers["x-request-id"]
    return body["detail"]
