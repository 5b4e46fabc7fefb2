"""The access log, request ids, HEAD, tokens in the query, metrics, and JSON lines."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request

from api.conftest import calling, make_access
from api.serving import served
from api.standin import StandIn
from rehydrate.api.app import create_app
from rehydrate.api.telemetry import (
    AccessLogMiddleware,
    JsonLines,
    Metrics,
    query_token,
    uvicorn_options,
)
from rehydrate.limits import AnswerBytes, ConcurrencyLimit
from waiting import PATIENCE_S

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
        httpx.Client(timeout=PATIENCE_S) as client,
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


def samples(metrics):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def test_requests_are_counted_by_route_method_and_status():
    metrics = Metrics()
    metrics.request("/v1/conversations/{conversation_id}", "GET", 200, 0.002)
    metrics.request("/v1/conversations/{conversation_id}", "GET", 200, 0.002)
    found = samples(metrics)
    labels = (
        ("method", "GET"),
        ("route", "/v1/conversations/{conversation_id}"),
        ("status", "200"),
    )
    assert found["rehydrate_http_requests_total", *labels] == 2
    assert found["rehydrate_http_request_seconds_count", labels[1]] == 2


def test_hydrates_are_counted_with_the_reasons_why_they_are_incomplete():
    metrics = Metrics()
    metrics.hydrated([], {})
    metrics.hydrated(["history_unavailable", "not_exact"], {"folded": 40, "old": 2})
    found = samples(metrics)
    assert found["rehydrate_hydrates_total", ("complete", "true")] == 1
    assert found["rehydrate_hydrates_total", ("complete", "false")] == 1
    assert found["rehydrate_hydrate_reasons_total", ("code", "not_exact")] == 1
    assert found["rehydrate_hydrate_events_total", ("outcome", "folded")] == 40


def test_use_cases_report_sources_and_outcomes():
    metrics = Metrics()
    metrics.observe("source", "channel", 3)
    metrics.observe("outcome", "folded", 40)
    metrics.observe("outcome", "folded")
    hydrates, streams, sizes = (
        ConcurrencyLimit(9, "hydrates"),
        ConcurrencyLimit(9, "s"),
        AnswerBytes(9),
    )
    hydrates.count, streams.count, sizes.total = 7, 5, 3
    metrics.measure(hydrates, streams, sizes)
    found = samples(metrics)
    assert found["rehydrate_messages_total", ("source", "channel")] == 3
    assert found["rehydrate_events_total", ("outcome", "folded")] == 41
    assert found["rehydrate_hydrates_in_flight",] == 7
    assert found["rehydrate_streams_open",] == 5
    assert found["rehydrate_answer_bytes",] == 3
    with pytest.raises(ValueError, match="no series"):
        metrics.observe("tokens", "secret")


class Late:
    """A background task that is late."""

    name, restarts, overdue_s = "sample", 2, 90.5


def test_background_tasks_are_shown_as_they_are_at_the_scrape():
    metrics, task = Metrics(), Late()
    metrics.watch_tasks([task])
    assert samples(metrics)["rehydrate_task_overdue_seconds", ("task", "sample")] == 90.5
    task.overdue_s = 0.0
    found = samples(metrics)
    assert found["rehydrate_task_overdue_seconds", ("task", "sample")] == 0
    assert found["rehydrate_task_restarts_total", ("task", "sample")] == 2


def test_two_instances_share_nothing():
    one, other = Metrics(), Metrics()
    one.hydrated([], {})
    assert ("rehydrate_hydrates_total", ("complete", "true")) not in samples(other)


def test_follower_counts_are_read_at_each_scrape():
    metrics, counts = Metrics(), {"apply": 3}
    metrics.count_followed(lambda: counts)
    counts["ignored"] = 1
    found = samples(metrics)
    assert found["rehydrate_followed_messages_total", ("outcome", "apply")] == 3
    assert found["rehydrate_followed_messages_total", ("outcome", "ignored")] == 1


def record(message, *args, **more):
    made = logging.LogRecord("rehydrate.x", logging.WARNING, "f", 1, message, args, None)
    vars(made).update(more)
    return made


def test_a_record_is_one_line_of_json():
    line = JsonLines().format(record("a %s\nb", "é", fields={"status": 200}))
    assert "\n" not in line
    parsed = json.loads(line)
    assert parsed.pop("time").endswith("+00:00")
    assert parsed == {
        "level": "warning", "logger": "rehydrate.x", "message": "a é\nb", "status": 200
    }  # fmt: skip


def test_the_traceback_is_part_of_the_line():
    with pytest.raises(ValueError, match="not a number") as error:
        int("not a number")
    line = JsonLines().format(record("failed", exc_info=error._excinfo))
    assert "ValueError: invalid literal" in json.loads(line)["exception"]
    assert "\n" not in line


def test_logs_go_to_standard_error_and_nothing_to_standard_output():
    program = (
        "import logging; from rehydrate.api.telemetry import log_to_stderr; log_to_stderr();"
        "logging.getLogger('x').info('hello'); logging.getLogger('x').debug('not this')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    assert json.loads(line)["message"] == "hello"


def test_uvicorns_access_log_is_off():
    assert uvicorn_options()["access_log"] is False
