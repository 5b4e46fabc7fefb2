"""The router in another FastAPI application, whose own behaviour does not change."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import APIRouter, FastAPI, HTTPException
from fastapi.responses import JSONResponse, PlainTextResponse

from api.conftest import calling, problem
from rehydrate.api.conversations import Limits, router
from rehydrate.api.telemetry import Metrics
from rehydrate.errors import StoreUnavailable, Unauthorized

MESSAGES = {"messages": [{"id": "a", "role": "assistant", "text": "x"}]}


def host(standin, authorize, prefix="/history", **more):
    """Another application, with its own lifespan, handlers and route."""

    @asynccontextmanager
    async def lifespan(_app):
        standin.asked.append("host began")
        yield {"mine": True}
        standin.asked.append("host ended")

    app = FastAPI(lifespan=lifespan)

    @app.exception_handler(HTTPException)
    async def mine(_request, error):
        return PlainTextResponse(f"host says {error.status_code}", error.status_code)

    @app.exception_handler(Exception)
    async def any_of_mine(_request, _error):
        return JSONResponse({"host": "any"}, 500)

    @app.get("/own")
    async def own():
        raise HTTPException(418)

    app.include_router(router(standin, authorize=authorize, **more), prefix=prefix)
    return app


async def test_the_hosts_lifespan_opens_and_closes_the_service(standin):
    app = host(standin, lambda _request, _id: True)
    async with calling(app) as client:
        assert (standin.opened, standin.closed) == (1, 0)
        answer = await client.get("/history/v1/conversations/a%2Fb")
        assert answer.json()["conversation_id"] == "a/b"
        assert answer.headers["x-request-id"]
    assert (standin.opened, standin.closed) == (1, 1)
    assert standin.asked[0] == "host began"
    assert standin.asked[-1] == "host ended"


async def test_a_router_included_twice_or_deeper_opens_the_service_once(standin):
    ours = router(standin, authorize=lambda _request, _id: True)
    between = APIRouter(prefix="/between")
    between.include_router(ours, prefix="/deep")
    app = FastAPI()
    app.include_router(ours, prefix="/one")
    app.include_router(between)
    async with calling(app) as client:
        for path in ("/one", "/between/deep"):
            answer = await client.get(f"{path}/v1/conversations/a%2Fb")
            assert answer.json()["conversation_id"] == "a/b"
        assert standin.opened == 1
    assert standin.closed == 1


async def test_a_host_that_fails_to_start_closes_the_service(standin):
    app = host(standin, lambda _request, _id: True)

    @asynccontextmanager
    async def failing(_app):
        raise RuntimeError("the host is broken")
        yield

    app.include_router(APIRouter(lifespan=failing))
    with pytest.raises(RuntimeError, match="broken"):
        async with app.router.lifespan_context(app):
            pass
    assert (standin.opened, standin.closed) == (1, 1)


@pytest.mark.parametrize("verdict", [False, None, 0, ""])
async def test_a_falsy_value_refuses_the_request(standin, verdict):
    async def later(_request, _id):
        await asyncio.sleep(0)
        return verdict

    for authorize in (lambda _request, _id: verdict, later):
        async with calling(host(standin, authorize)) as client:
            answer = await client.get("/history/v1/conversations/c")
            problem(answer, 403, "forbidden")
    assert not [each for each in standin.asked if isinstance(each, tuple)]


async def test_the_host_decides_by_its_own_session_for_each_conversation(standin):
    async def by_cookie(request, conversation_id):
        if "user" not in request.cookies:
            raise HTTPException(401, "sign in", {"WWW-Authenticate": "Cookie"})
        if conversation_id == "teapot":
            raise HTTPException(418)
        if conversation_id == "ours":
            raise Unauthorized("show a token")
        assert request.path_params["tenant"] == "t1"
        return conversation_id == f"{request.cookies['user']}/1"

    app = host(standin, by_cookie, prefix="/of/{tenant}")
    async with calling(app) as client:
        path = "/of/t1/v1/conversations"
        answer = await client.get(f"{path}/ann%2F1")
        assert problem(answer, 401, "unauthorized") == "sign in"
        assert answer.headers["www-authenticate"] == "Cookie"
        client.cookies.set("user", "ann")
        assert (await client.get(f"{path}/ann%2F1")).status_code == 200
        problem(await client.get(f"{path}/bob%2F1"), 403, "forbidden")
        problem(await client.get(f"{path}/teapot"), 418, "refused")
        problem(await client.get(f"{path}/ours"), 401, "unauthorized")


async def test_an_error_in_the_hosts_check_refuses_the_request(standin):
    def broken(_request, _id):
        raise KeyError("session")

    async with calling(host(standin, broken)) as client:
        problem(await client.get("/history/v1/conversations/c"), 500, "internal")


async def test_errors_are_problems_and_the_hosts_handlers_stay_in_effect(standin):
    async with calling(host(standin, lambda _request, _id: True)) as client:
        path = "/history/v1/conversations/c"
        problem(await client.get(f"{path}?limit=0"), 422, "bad_parameter", "limit")
        answer = await client.get("/history/v1/conversations/a%2A")
        problem(answer, 422, "bad_parameter", "conversation_id")
        wrong_method = await client.post(path)
        problem(wrong_method, 405, "method_not_allowed")
        assert wrong_method.headers["allow"] == "GET"
        standin.fault = StoreUnavailable("away")
        problem(await client.get(path), 503, "store_unavailable")
        standin.fault = RuntimeError("ours")
        problem(await client.get(path), 500, "internal")
        assert (await client.get("/own")).text == "host says 418"
        assert (await client.get("/history/none")).json() == {"detail": "Not Found"}


async def test_readers_may_not_store_unless_the_host_permits_it(standin):
    async with calling(host(standin, lambda _request, _id: True)) as client:
        answer = await client.post("/history/v1/conversations/c/messages", json=MESSAGES)
        assert answer.status_code == 404
        assert (await client.get("/history/v1/conversations")).status_code == 404
    app = host(
        standin,
        lambda _request, _id: True,
        authorize_backend=lambda request: request.headers.get("x-backend") == "yes",
    )
    async with calling(app) as client:
        path = "/history/v1/conversations/c/messages"
        problem(await client.post(path, json=MESSAGES), 403, "forbidden")
        client.headers["x-backend"] = "yes"
        assert (await client.post(path, json=MESSAGES)).status_code == 201
        assert (await client.get("/history/v1/conversations")).status_code == 200


async def test_answers_are_counted_in_the_hosts_metrics(standin):
    metrics = Metrics()
    standin.reasons = ["not_exact"]
    app = host(standin, lambda _request, _id: True, metrics=metrics, limits=Limits(hydrates=1))
    async with calling(app) as client:
        await client.get("/history/v1/conversations/c")
    assert b'rehydrate_hydrate_reasons_total{code="not_exact"} 1.0' in metrics.text()


async def test_the_hosts_openapi_document_includes_the_routes(standin):
    app = host(standin, lambda _request, _id: True)
    document = app.openapi()
    operation = document["paths"]["/history/v1/conversations/{conversation_id}"]["get"]
    assert {each["name"] for each in operation["parameters"]} == {
        "conversation_id", "until", "limit", "before", "format", "text"
    }  # fmt: skip
    assert "application/problem+json" in operation["responses"]["503"]["content"]


async def test_an_app_below_another_path_works_too(standin):
    """Behind a proxy that keeps the prefix, which root_path contains."""
    app = host(standin, lambda _request, _id: True)
    transport = httpx.ASGITransport(app, root_path="/api")
    async with httpx.AsyncClient(transport=transport, base_url="http://t/api") as client:
        answer = await client.get("/history/v1/conversations/a%2Fb")
    assert answer.json()["conversation_id"] == "a/b"
