"""The OpenAPI document is consistent, and matches the answers that other tests see."""

from __future__ import annotations

import pytest

from api.conftest import make_access
from api.standin import StandIn
from rehydrate.api.app import create_app
from rehydrate.api.schemas import ConversationOut, ConversationsOut, MessageOut, StoredOut

PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def document():
    return create_app(StandIn(), make_access()).openapi()


def operations(document):
    return [
        (f"{method} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def inside(value):
    if isinstance(value, dict):
        yield value
    for each in value.values() if isinstance(value, dict) else value:
        if isinstance(each, dict | list):
            yield from inside(each)


def test_every_route_is_in_it(document):
    assert {name for name, _ in operations(document)} == {
        "get /v1/conversations/{conversation_id}",
        "get /v1/conversations/{conversation_id}/stream",
        "get /v1/conversations/{conversation_id}/messages/{message_id}",
        "post /v1/conversations/{conversation_id}/messages",
        "delete /v1/conversations/{conversation_id}",
        "get /v1/conversations",
        "get /healthz",
        "get /readyz",
        "get /metrics",
    }


async def test_it_is_served(reader, document):
    assert (await reader.get("/openapi.json")).json() == document


def test_every_reference_resolves(document):
    references = [each["$ref"] for each in inside(document) if "$ref" in each]
    assert references
    for reference in references:
        found = document
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]


def test_every_problem_has_an_example_of_its_schema(document):
    seen = set()
    for name, operation in operations(document):
        for status, answer in operation["responses"].items():
            if int(status) < 400:
                continue
            content = answer["content"][PROBLEM]
            assert set(answer["content"]) == {PROBLEM}, name
            assert content["example"]["status"] == int(status)
            assert set(content["schema"]["required"]) <= set(content["example"])
            assert set(content["example"]) <= set(content["schema"]["properties"])
            seen.add(content["example"]["code"])
    assert {
        "bad_parameter", "unauthorized", "forbidden", "not_found", "conflict", "too_large",
        "too_many", "store_unavailable", "channel_unavailable",
    } <= seen  # fmt: skip


def test_it_declares_who_may_call_each_route(document):
    schemes = document["components"]["securitySchemes"]
    assert {each["scheme"] for each in schemes.values()} == {"bearer"}
    for name, operation in operations(document):
        named = {scheme for each in operation.get("security", []) for scheme in each}
        assert named <= set(schemes)
        assert ("reader" in named) == ("{conversation_id}" in name and name.startswith("get"))
        assert bool(named) == ("/v1/" in name)


def test_each_parameter_of_a_path_is_described_once(document):
    for name, operation in operations(document):
        described = [each["name"] for each in operation.get("parameters", [])]
        assert len(described) == len(set(described))
        assert set(described) >= {part.strip("{}") for part in name.split("/") if "{" in part}


async def test_answers_match_the_documented_schema(backend, standin, document):
    standin.reasons = ["history_unavailable"]
    path = "/v1/conversations/c/messages"
    example = document["paths"]["/v1/conversations/{conversation_id}/messages"]["post"][
        "requestBody"
    ]["content"]["application/json"]["example"]
    stored = await backend.post(path, json=example)
    assert stored.status_code == 201
    StoredOut.model_validate_json(stored.content, strict=True)
    for answer, model in (
        (await backend.get("/v1/conversations/c"), ConversationOut),
        (await backend.get(f"{path}/resp_1"), MessageOut),
        (await backend.get("/v1/conversations"), ConversationsOut),
    ):
        parsed = model.model_validate_json(answer.content, strict=True)
        assert set(answer.json()) == set(parsed.model_dump(exclude_unset=True))


def test_the_body_to_store_is_described_completely(document):
    operation = document["paths"]["/v1/conversations/{conversation_id}/messages"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    messages = schema["properties"]["messages"]
    assert (messages["minItems"], messages["maxItems"]) == (1, 1000)
    described = str(schema)
    for word in ("tool_call_id", "interrupted", "prompt_id", "reasoning", "date-time"):
        assert word in described
    assert "$ref" not in described
