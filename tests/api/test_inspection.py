"""The inspection routes over a real database and channel server."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from api.conftest import calling, make_access, problem
from api.minting import ADMIN_KEY, KEY, READER, SERVICE_KEY, bearer, mint
from localably import LocalAbly
from rehydrate.api import inspection
from rehydrate.api.app import create_app
from rehydrate.errors import NotFound
from rehydrate.history import History
from rehydrate.record.import_messages import NewMessage
from rehydrate.settings import load_settings
from waiting import PATIENCE_S

PATHS = (
    "/v1/admin/conversations",
    "/v1/admin/conversations/c/messages/m/timeline",
    "/v1/admin/health",
)


@pytest.fixture(scope="module")
async def history(module_database):
    async with LocalAbly() as ably:
        settings = load_settings(
            database_url=module_database,
            ably_api_key=ably.key,
            ably_keys=KEY,
            ably_endpoint="127.0.0.1",
            ably_port=ably.port,
            ably_tls=False,
            service_keys=SERVICE_KEY,
            admin_keys=ADMIN_KEY,
        )
        async with History(settings) as opened:
            yield opened


@pytest.fixture
async def admin(history):
    transport = httpx.ASGITransport(history.app())
    async with httpx.AsyncClient(
        transport=transport, base_url="http://t", headers=bearer(ADMIN_KEY)
    ) as client:
        yield client


@pytest.mark.parametrize("path", PATHS)
async def test_only_admins_may_inspect(admin, path):
    for shown in ({}, bearer("nobody's")):
        admin.headers.pop("authorization", None)
        problem(await admin.get(path, headers=shown), 401, "unauthorized")
    for known in (SERVICE_KEY, mint(READER)):
        problem(await admin.get(path, headers=bearer(known)), 403, "forbidden")


async def test_conversations_are_found_by_the_prefix_of_their_ids(admin, history):
    for name in ("find/1", "find/2", "other"):
        await history.store_messages(name, [NewMessage("p", "user", text=f"about {name}")])
    page = (await admin.get("/v1/admin/conversations", params={"query": "find", "limit": 1})).json()
    assert [row["conversation_id"] for row in page["conversations"]] == ["find/1"]
    params = {"query": "find", "limit": 1, "before": page["older"]}
    page = (await admin.get("/v1/admin/conversations", params=params)).json()
    (row,) = page["conversations"]
    assert (row["conversation_id"], row["opens_with"], row["opens_role"]) == (
        "find/2",
        "about find/2",
        "user",
    )
    assert (row["streaming"], row["channel"], page["older"]) == (0, "ai:find/2", None)


async def test_a_streaming_response_is_found_and_has_a_timeline(admin, history):
    async with history.respond("live", "r/1") as response:
        response.write("so far")
        params = {"streaming": "true"}
        page = (await admin.get("/v1/admin/conversations", params=params)).json()
        assert [(r["conversation_id"], r["streaming"]) for r in page["conversations"]] == [
            ("live", 1)
        ]
        path = "/v1/admin/conversations/live/messages/r%2F1/timeline"
        body = (await admin.get(path)).json()
        assert (body["message_id"], body["status"], body["lease"]["expired"]) == (
            "r/1",
            "in_progress",
            False,
        )
    body = (await admin.get(path)).json()
    assert (body["status"], body["text_characters"]) == ("completed", 6)
    assert sum(sum(each["characters"]) for each in body["stretches"]) == 6
    assert body["lease"]["told_at"] is not None


async def test_health_reports_each_dependency(admin):
    body = (await admin.get("/v1/admin/health")).json()
    assert body["status"] == "ok"
    assert body["database"]["status"] == body["channel"]["status"] == "ok"
    assert body["recorder"]["status"] == "ok"


async def test_health_answers_even_if_every_dependency_fails(module_database):
    settings = load_settings(
        database_url="postgres://u:p@127.0.0.1:1/x",
        ably_api_key="a.b:c",
        ably_endpoint="127.0.0.1",
        ably_port=1,
        ably_tls=False,
        admin_keys=ADMIN_KEY,
    )
    async with History(settings) as history:
        transport = httpx.ASGITransport(history.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as client:
            answer = await client.get("/v1/admin/health", headers=bearer(ADMIN_KEY), timeout=30)
    body = answer.json()
    assert (answer.status_code, body["status"]) == (200, "failed")
    assert body["database"]["status"] == body["channel"]["status"] == "failed"
    assert body["recorder"]["status"] == "unknown"


@pytest.mark.parametrize(
    ("params", "parameter"),
    [
        ({"query": "a\nb"}, "query"),
        ({"query": "x" * 257}, "query"),
        ({"streaming": "yes"}, "streaming"),
        ({"limit": "0"}, "limit"),
        ({"before": "nonsense"}, "before"),
    ],
)
async def test_invalid_parameters_are_named(admin, params, parameter):
    answer = await admin.get("/v1/admin/conversations", params=params)
    problem(answer, 422, "bad_parameter", parameter)


async def test_an_admin_reads_what_readers_read_and_stores_what_backends_store(admin):
    path = "/v1/conversations/of-an-admin"
    body = {"messages": [{"id": "m", "role": "user", "text": "x"}]}
    assert (await admin.post(f"{path}/messages", json=body)).status_code == 201
    assert (await admin.get(path)).json()["messages"][0]["text"] == "x"
    assert (await admin.get(f"{path}/messages/m")).status_code == 200
    assert (await admin.head(f"{path}/stream")).status_code == 200
    assert (await admin.get("/v1/conversations")).status_code == 200


async def test_inspection_requests_beyond_the_limit_are_429(standin):
    gate, waiting = asyncio.Event(), asyncio.Semaphore(0)

    class Busy:
        async def health(self):
            waiting.release()
            await gate.wait()
            raise NotFound("for the test")

    async with (
        calling(
            create_app(standin, make_access(), inspector=Busy()), **bearer(ADMIN_KEY)
        ) as client,
        asyncio.timeout(PATIENCE_S),
        asyncio.TaskGroup() as group,
    ):
        for _ in range(inspection.AT_ONCE):
            group.create_task(client.get("/v1/admin/health"))
            await waiting.acquire()
        refused = await client.get("/v1/admin/health")
        gate.set()
    problem(refused, 429, "too_many")
    assert refused.headers["retry-after"] == "1"


async def test_an_unknown_message_is_not_found(admin):
    path = "/v1/admin/conversations/nobody/messages/m/timeline"
    problem(await admin.get(path), 404, "not_found")


async def test_the_document_requires_an_admin_key_for_them(admin):
    paths = (await admin.get("/openapi.json")).json()["paths"]
    for path in PATHS:
        template = path.replace("/c/", "/{conversation_id}/").replace("/m/", "/{message_id}/")
        assert paths[template]["get"]["security"] == [{"admin": []}]
