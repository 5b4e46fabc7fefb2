from __future__ import annotations

import asyncio
import logging

import pytest
from prometheus_client.parser import text_string_to_metric_families

from api.conftest import ORIGIN, calling, make_access, problem
from api.minting import ADMIN_KEY, READER, SERVICE_KEY, bearer, mint
from rehydrate.api.app import create_app
from rehydrate.api.auth.access import Access
from rehydrate.api.telemetry import Metrics
from rehydrate.errors import NotConfigured, StoreUnavailable


def test_an_app_without_any_key_is_refused(standin):
    with pytest.raises(NotConfigured, match="REHYDRATE_SERVICE_KEYS"):
        create_app(standin, Access())


async def test_its_lifespan_opens_and_closes_the_service(standin):
    asked = []

    async def capability(key):
        asked.append(key)
        return {"*": ["*"]}

    async with calling(create_app(standin, make_access(key_capability=capability))):
        assert (standin.opened, standin.closed) == (1, 0)
        await asyncio.sleep(0)  # the fetch continues during the requests
        assert asked
    assert (standin.opened, standin.closed) == (1, 1)


async def test_healthz_checks_the_process_and_readyz_its_dependencies(standin):
    async with calling(create_app(standin, make_access())) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        ready = await client.get("/readyz")
        assert ready.json() == {"status": "ok", "checks": {"store": "ok", "channel": "ok"}}
        assert ready.headers["cache-control"] == "no-store"
        standin.fault = StoreUnavailable("Postgres does not answer")
        problem(await client.get("/readyz"), 503, "store_unavailable")
        assert (await client.get("/healthz")).status_code == 200


async def test_metrics_include_all_counters_and_no_token(standin):
    metrics = Metrics()
    app = create_app(standin, make_access(), metrics=metrics)
    token = mint(READER)
    async with calling(app, **bearer(token)) as client:
        standin.reasons = ["history_unavailable"]
        await client.get("/v1/conversations/a-name-of-a-conversation")
        metrics.observe("outcome", "folded", 2)
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert {
        "rehydrate_http_requests",
        "rehydrate_hydrates",
        "rehydrate_events",
    } <= names
    assert 'route="/v1/conversations/{conversation_id}",status="200"} 1.0' in answer.text
    for secret in (token, "a-name-of-a-conversation", "secret"):
        assert secret not in answer.text


async def test_unknown_paths_and_wrong_methods_are_problems(standin):
    async with calling(create_app(standin, make_access())) as client:
        for path in ("/", "/nowhere", "/v1", "/docs", "/healthz/"):
            problem(await client.get(path), 404, "not_found")
        for method, path in (("POST", "/healthz"), ("DELETE", "/v1/conversations/c/messages/m")):
            answer = await client.request(method, path)
            problem(answer, 405, "method_not_allowed")
            assert answer.headers["allow"] == "GET, HEAD"
        for path, allowed in (
            ("/v1/conversations", "GET, HEAD"),
            ("/v1/conversations/c", "DELETE, GET, HEAD"),
            ("/v1/conversations/a%2Fb", "DELETE, GET, HEAD"),
            ("/v1/conversations/c/messages", "POST"),
        ):
            answer = await client.put(path)
            problem(answer, 405, "method_not_allowed")
            assert answer.headers["allow"] == allowed


async def test_the_request_id_is_returned_and_part_of_the_problem(standin):
    async with calling(create_app(standin, make_access())) as client:
        answer = await client.get("/v1/conversations/c", headers={"X-Request-Id": "mine-1"})
        problem(answer, 401, "unauthorized")
        assert answer.json()["request_id"] == "mine-1"
        good = {**bearer(SERVICE_KEY), "X-Request-Id": "mine-2"}
        answer = await client.get("/v1/conversations/c", headers=good)
        assert answer.headers.get_list("x-request-id") == ["mine-2"]


async def test_no_log_contains_a_token_or_text(standin, caplog):
    caplog.set_level(logging.DEBUG)
    token = mint(READER)
    async with calling(create_app(standin, make_access()), **bearer(token)) as client:
        standin.add("c", "m", "text of a message")
        await client.get("/v1/conversations/c")
        await client.post("/v1/conversations/c/messages", json={"text": "text of a message"})
        for key in (SERVICE_KEY, ADMIN_KEY, "nobodys-key"):
            body = {"messages": [{"id": "m", "role": "x", "text": "text of a message"}]}
            await client.post("/v1/conversations/c/messages", json=body, headers=bearer(key))
    for secret in (token, SERVICE_KEY, ADMIN_KEY, "nobodys-key", "text of a message"):
        assert secret not in caplog.text


class TestOtherOrigins:
    async def test_a_page_of_a_configured_origin_may_call_the_api(self, real):
        client, _ = real
        answer = await client.get("/v1/conversations/c", headers={"Origin": ORIGIN})
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert {"Authorization", "Origin"} <= {
            each.strip() for each in answer.headers["vary"].split(",")
        }
        shown = answer.headers["access-control-expose-headers"]
        assert {"ETag", "Retry-After", "X-Request-Id"} <= {
            each.strip() for each in shown.split(",")
        }
        assert "access-control-allow-credentials" not in answer.headers

    async def test_its_preflight_needs_no_token(self, real):
        client, _ = real
        client.headers.pop("authorization")
        asked = {
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization,if-none-match,traceparent",
        }
        answer = await client.options("/v1/conversations/c", headers=asked)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert "authorization" in answer.headers["access-control-allow-headers"].lower()
        assert int(answer.headers["access-control-max-age"]) > 0

    async def test_it_can_read_errors_too(self, real):
        client, behind = real
        headers = {"Origin": ORIGIN}
        behind.fault = RuntimeError("ours")
        broken = await client.get("/v1/conversations/c", headers=headers)
        client.headers.pop("authorization")
        for answer, status in (
            (broken, 500),
            (await client.get("/v1/conversations/c", headers=headers), 401),
            (await client.get("/nowhere", headers=headers), 404),
        ):
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == ORIGIN

    @pytest.mark.parametrize("origin", ["https://evil.example", "null", f"{ORIGIN}.evil.example"])
    async def test_a_page_of_another_origin_may_not(self, real, origin):
        client, _ = real
        answer = await client.get("/v1/conversations/c", headers={"Origin": origin})
        assert "access-control-allow-origin" not in answer.headers
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        assert (await client.options("/v1/conversations/c", headers=asked)).status_code == 400

    async def test_without_configured_origins_no_other_origin_may(self, standin):
        async with calling(create_app(standin, make_access()), Origin=ORIGIN) as client:
            answer = await client.get("/healthz")
            assert "access-control-allow-origin" not in answer.headers


async def test_no_answer_is_sniffed_or_transformed(reader, standin):
    standin.add("c", "m", "text")
    for path, status in (("/v1/conversations/c", 200), ("/v1/nothing", 404), ("/healthz", 200)):
        answer = await reader.get(path)
        assert (answer.status_code, answer.headers["x-content-type-options"]) == (status, "nosniff")


async def test_further_request_headers_may_be_allowed(standin):
    app = create_app(standin, make_access(), cors_origins=[ORIGIN], cors_headers=["X-Tenant"])
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET"}
    async with calling(app) as client:
        for header, status in (("x-tenant", 200), ("traceparent", 200), ("x-other", 400)):
            answer = await client.options(
                "/v1/conversations/c", headers={**asked, "Access-Control-Request-Headers": header}
            )
            assert answer.status_code == status, header
