"""Unauthorized readers get no text; pages of other origins may call if a setting permits it."""

from __future__ import annotations

import httpx
import pytest
from ably.util.exceptions import AblyException

from journeys.readers import Plan, by_python
from journeys.stack import ORIGIN, SERVICE_KEY
from waiting import PATIENCE_S

SECRET = "nobody else may see this"


@pytest.fixture
async def stored(stack, conversation):
    """A conversation with a text."""
    async with httpx.AsyncClient(base_url=stack.service.url, timeout=PATIENCE_S) as http:
        answer = await http.post(
            f"/v1/conversations/{conversation}/messages",
            headers={"authorization": f"Bearer {SERVICE_KEY}"},
            json={"messages": [{"id": "m-1", "role": "assistant", "text": SECRET}]},
        )
        assert answer.status_code == 201
    return conversation


async def requested(target, token, **headers):
    headers = {"authorization": f"Bearer {token}", **headers}
    async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
        return await http.get(target.hydrate_url, headers=headers)


async def test_a_reader_of_the_conversation_gets_the_text(stack, stored):
    target = stack.target(stored)
    answer = await requested(target, target.token)
    assert answer.status_code == 200
    assert [m["text"] for m in answer.json()["messages"]] == [SECRET]


@pytest.mark.parametrize("operations", [(), ("publish",), ("presence",)])
async def test_a_token_that_may_not_read_is_forbidden_and_sees_no_text(stack, stored, operations):
    answer = await requested(stack.target(stored), stack.token(stored, operations))
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert SECRET not in answer.text


async def test_another_users_conversation_looks_the_same_whether_it_exists_or_not(stack, stored):
    token = stack.token("mine")
    there, nowhere = [await requested(stack.target(id_), token) for id_ in (stored, "nowhere")]
    for answer in (there, nowhere):
        assert answer.status_code == 403
    without = {"request_id": None}
    assert there.json() | without == nowhere.json() | without


@pytest.mark.parametrize("way", [1, 2, 3])
async def test_an_unauthorized_reader_is_refused_before_any_text(stack, stored, way):
    target = stack.target(stored, stack.token("mine"))
    with pytest.raises(ExceptionGroup) as caught:
        await by_python(target, {"m-1": SECRET}, [Plan(0, way)])
    (error,) = caught.value.exceptions
    if isinstance(error, httpx.HTTPStatusError):
        assert error.response.status_code == 403
    else:
        assert isinstance(error, AblyException)
        assert error.code == 40160


async def test_pages_of_the_configured_origin_may_call(stack, stored):
    target = stack.target(stored)
    answer = await requested(target, target.token, origin=ORIGIN)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
        preflight = await http.options(
            target.hydrate_url,
            headers={
                "origin": ORIGIN,
                "access-control-request-method": "GET",
                "access-control-request-headers": "authorization",
            },
        )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert "authorization" in preflight.headers["access-control-allow-headers"].lower()


async def test_pages_of_other_origins_get_no_readable_answer(stack, stored):
    target = stack.target(stored)
    for origin in ("https://evil.example", "null", ORIGIN + ".evil.example"):
        answer = await requested(target, target.token, origin=origin)
        assert "access-control-allow-origin" not in answer.headers
    errors = await requested(target, "nonsense", origin=ORIGIN)
    assert errors.status_code == 401
    assert errors.headers["access-control-allow-origin"] == ORIGIN
