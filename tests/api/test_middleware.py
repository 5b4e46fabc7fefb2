from __future__ import annotations

import logging

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request

from api.conftest import calling, make_access
from api.serving import served
from api.standin import StandIn
from rehydrate.api.app import create_app
from rehydrate.api.metrics import Metrics
from rehydrate.api.middleware import AccessLogMiddleware, query_token

SECRET = "token-that-nobody-may-see"


def edged(metrics=None):
    app = FastAPI()

    @app.get("/seen/{name}")
    async def seen(request: Request, name: str) -> dict[str, str | None]:
        return {"query": str(request.url.query), "token": query_token(request)}

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("it broke")

    app.add_middleware(AccessLogMiddleware, metrics=metrics or Metrics())
    return app


@pytest.mark.parametrize(
    ("query", "left", "token"),
    [
        ("", "", None),
        ("a=1&b=2", "a=1&b=2", None),
        ("access_token=x", "", "x"),
        ("a=1&access_token=x.y-z&b=%20", "a=1&b=%20", "x.y-z"),
        ("access%5Ftoken=a%2Bb", "", "a+b"),
        ("access_token=one&access_token=two", "", "one"),
        ("access_token", "", ""),
        ("xaccess_token=1&Access_Token=2", "xaccess_token=1&Access_Token=2", None),
    ],
)
async def test_a_token_is_removed_from_the_query(query, left, token):
    async with calling(edged()) as client:
        answer = await client.get(f"/seen/x?{query}")
    assert answer.json() == {"query": left, "token": token}


def test_no_server_log_shows_it_even_with_the_access_log_on(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("uvicorn.access"), "propagate", True)
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.INFO, "uvicorn.access")  # whatever other servers made of it
    with (
        served(create_app(StandIn(), make_access()), access_log=True) as url,
        httpx.Client() as client,
    ):
        logging.getLogger("httpx").setLevel(logging.WARNING)  # the caller's own log
        try:
            client.get(f"{url}/v1/conversations/c?limit=1&access_token={SECRET}")
            client.get(f"{url}/nowhere?access_token={SECRET}")
        finally:
            logging.getLogger("httpx").setLevel(logging.NOTSET)
    of_server = {each.getMessage() for each in caplog.records if each.name == "uvicorn.access"}
    assert len(of_server) == 2
    assert any("/v1/conversations/c?limit=1" in message for message in of_server)
    assert SECRET not in caplog.text
    assert not any(SECRET in str(vars(each)) for each in caplog.records)


async def test_each_request_is_one_line_without_its_query(caplog):
    caplog.set_level(logging.INFO, "rehydrate.access")
    async with calling(edged()) as client:
        await client.get("/seen/a%20b?secret=1", headers={"X-Request-Id": "r-1"})
    (line,) = [each for each in caplog.records if each.name == "rehydrate.access"]
    fields = line.fields
    assert fields.pop("ms") >= 0
    assert fields == {"method": "GET", "path": "/seen/a b", "status": 200, "request_id": "r-1"}


async def test_requests_are_counted_by_path_template():
    metrics = Metrics()
    async with calling(edged(metrics)) as client:
        for path in ("/seen/one", "/seen/two", "/nowhere/three"):
            await client.get(path)
        await client.head("/seen/one")
        await client.request("BREW", "/seen/one")
    text = metrics.text().decode()
    requests = 'rehydrate_http_requests_total{method="%s",route="%s",status="%d"} %.1f'
    assert requests % ("GET", "/seen/{name}", 200, 2) in text
    assert requests % ("GET", "unmatched", 404, 1) in text
    assert requests % ("HEAD", "/seen/{name}", 200, 1) in text
    assert requests % ("other", "/seen/{name}", 405, 1) in text
    assert "three" not in text
    assert "BREW" not in text


async def test_a_request_that_raises_is_counted_and_logged_as_500(caplog):
    caplog.set_level(logging.INFO, "rehydrate.access")
    metrics = Metrics()
    async with calling(edged(metrics)) as client:
        with pytest.raises(RuntimeError, match="it broke"):
            await client.get("/broken")
    assert 'route="/broken",status="500"} 1.0' in metrics.text().decode()
    assert caplog.records[-1].fields["status"] == 500


async def test_every_response_has_its_request_id():
    async with calling(edged()) as client:
        for path in ("/seen/x", "/nowhere"):
            answer = await client.get(path, headers={"X-Request-Id": "mine"})
            assert answer.headers.get_list("x-request-id") == ["mine"]
            assert (await client.get(path)).headers["x-request-id"] not in ("", "mine")
