"""The routes in the service's own app; test_embedding has them in another application."""

from __future__ import annotations

import asyncio

import pytest

from api.conftest import calling, make_access, problem
from api.minting import READER, bearer, mint
from api.standin import StandIn
from rehydrate.api.app import create_app
from rehydrate.core.positions import Cursor, encode_cursor
from rehydrate.errors import ChannelRefused, StoreUnavailable
from waiting import PATIENCE_S


def posting(*ids, **fields):
    made = [{"id": id_, "role": "assistant", "text": f"text of {id_}", **fields} for id_ in ids]
    return {"messages": made}


class TestReading:
    async def test_the_parameters_reach_the_service(self, reader, standin):
        before = Cursor("p", "m")
        params = {"until": "0-1@s", "limit": 7, "before": encode_cursor(before)}
        assert (await reader.get("/v1/conversations/c", params=params)).status_code == 200
        assert standin.asked == [("c", "0-1@s", 7, before)]

    async def test_the_body_is_exactly_the_services_bytes(self, reader, standin):
        body = standin.add("c", "m", "日本語 🙂 \0")
        answer = await reader.get("/v1/conversations/c")
        assert body in answer.content
        assert answer.json()["messages"][0]["text"] == "日本語 🙂 \0"

    async def test_a_conversation_that_does_not_exist_is_empty(self, reader):
        answer = await reader.get("/v1/conversations/new")
        assert (answer.status_code, answer.json()["messages"]) == (200, [])

    async def test_an_answer_with_open_responses_is_not_cached(self, reader, standin):
        standin.add("c", "m", "x", status="in_progress")
        for path in ("/v1/conversations/c", "/v1/conversations/c/messages/m"):
            answer = await reader.get(path)
            assert answer.headers["cache-control"] == "no-store"
            assert "etag" not in answer.headers

    async def test_a_page_of_finished_messages_is_revalidated_by_its_etag(self, reader, standin):
        for n in range(6):
            standin.add("c", f"m{n}", f"text {n}")
        newest = await reader.get("/v1/conversations/c", params={"limit": 3})
        params = {"limit": 3, "before": newest.json()["older"]}
        page = await reader.get("/v1/conversations/c", params=params)
        assert [each["id"] for each in page.json()["messages"]] == ["m0", "m1", "m2"]
        kept = {"If-None-Match": page.headers["etag"]}
        again = await reader.get("/v1/conversations/c", params=params, headers=kept)
        assert (again.status_code, again.content) == (304, b"")
        standin.add("c", "m1", "repaired")
        changed = await reader.get("/v1/conversations/c", params=params, headers=kept)
        assert changed.status_code == 200
        assert changed.headers["etag"] != page.headers["etag"]

    async def test_a_finished_message_is_revalidated_by_its_etag(self, reader, standin):
        body = standin.add("c", "m", "done")
        first = await reader.get("/v1/conversations/c/messages/m")
        assert first.content == body
        again = await reader.get(
            "/v1/conversations/c/messages/m", headers={"If-None-Match": first.headers["etag"]}
        )
        assert again.status_code == 304

    async def test_a_message_that_does_not_exist_is_not_found(self, reader):
        problem(await reader.get("/v1/conversations/c/messages/none"), 404, "not_found")

    @pytest.mark.parametrize(
        ("params", "parameter"),
        [({"limit": 0}, "limit"), ({"limit": 201}, "limit"), ({"limit": "x"}, "limit"),
         ({"until": "x" * 257}, "until"), ({"until": "a\n"}, "until"), ({"before": "x"}, "before")],
    )  # fmt: skip
    async def test_a_bad_parameter_is_named(self, reader, standin, params, parameter):
        answer = await reader.get("/v1/conversations/c", params=params)
        problem(answer, 422, "bad_parameter", parameter)
        assert not standin.asked

    async def test_an_unavailable_store_is_a_503_with_retry_after(self, reader, standin):
        standin.add("c", "m", "x")
        await reader.get("/v1/conversations/c")
        standin.fault = StoreUnavailable("Postgres does not answer")
        answer = await reader.get("/v1/conversations/c")
        problem(answer, 503, "store_unavailable")
        assert int(answer.headers["retry-after"]) >= 1

    async def test_an_error_code_from_ably_is_a_bad_gateway(self, reader, standin):
        standin.fault = ChannelRefused(40160, "no")
        problem(await reader.get("/v1/conversations/c"), 502, "channel_unavailable")

    async def test_an_unexpected_error_does_not_disclose_its_text(self, reader, standin):
        standin.fault = RuntimeError("a secret of the house")
        detail = problem(await reader.get("/v1/conversations/c"), 500, "internal")
        assert "secret" not in detail

    async def test_a_hydrate_beyond_the_limit_is_a_429(self, backend, standin):
        standin.gate = asyncio.Event()
        under_way = [asyncio.create_task(backend.get("/v1/conversations/c")) for _ in range(2)]
        for _ in under_way:
            await asyncio.wait_for(standin.arrived.acquire(), PATIENCE_S)
        answer = await backend.get("/v1/conversations/c")
        problem(answer, 429, "too_many")
        assert answer.headers["retry-after"] == "1"
        standin.gate.set()
        assert [each.status_code for each in await asyncio.gather(*under_way)] == [200, 200]
        assert (await backend.get("/v1/conversations/c")).status_code == 200


class TestReadersProof:
    async def test_unauthorized_requests_do_not_reach_the_service(self, standin):
        standin.add("theirs", "m", "x")
        mine = bearer(mint({"ai:mine": ["history"]}))
        async with calling(create_app(standin, make_access())) as client:
            for tail in ("", "/messages/m", "/messages/none"):
                problem(await client.get(f"/v1/conversations/theirs{tail}"), 401, "unauthorized")
                answers_seen = []
                for name in ("theirs", "nobodys"):
                    answer = await client.get(f"/v1/conversations/{name}{tail}", headers=mine)
                    problem(answer, 403, "forbidden")
                    body = answer.json()
                    del body["request_id"]
                    answers_seen.append((body, sorted(answer.headers)))
                assert answers_seen[0] == answers_seen[1]
            assert not standin.asked
            assert (await client.get("/v1/conversations/mine", headers=mine)).status_code == 200

    async def test_the_stored_channel_decides_about_access(self):
        renamed = StandIn({"c": "old:c"})
        async with calling(create_app(renamed, make_access())) as client:
            for channel, status in (("ai:c", 403), ("old:c", 200)):
                headers = bearer(mint({channel: ["history"]}))
                answer = await client.get("/v1/conversations/c", headers=headers)
                assert answer.status_code == status

    async def test_an_unavailable_store_is_disclosed_to_readers_only(self, standin):
        async with calling(create_app(standin, make_access())) as client:
            standin.fault = StoreUnavailable("away")
            answer = await client.get("/v1/conversations/c", headers=bearer(mint(READER)))
            problem(answer, 503, "store_unavailable")
            standin.fault = StoreUnavailable("away")
            problem(await client.get("/v1/conversations/c"), 401, "unauthorized")


class TestStoring:
    async def test_storing_is_idempotent_and_different_content_is_a_conflict(self, backend):
        path = "/v1/conversations/c/messages"
        first = await backend.post(path, json=posting("a", "b"))
        assert (first.status_code, first.json()) == (201, {"stored": ["a", "b"], "unchanged": []})
        again = await backend.post(path, json=posting("b", "c"))
        assert (again.status_code, again.json()) == (201, {"stored": ["c"], "unchanged": ["b"]})
        problem(await backend.post(path, json=posting("d", "a", text="no")), 409, "conflict")
        problem(await backend.get(f"{path}/d"), 404, "not_found")
        assert (await backend.get(f"{path}/a")).json()["text"] == "text of a"

    async def test_a_reader_may_not_store(self, reader, standin):
        answer = await reader.post("/v1/conversations/c/messages", json=posting("a"))
        problem(answer, 403, "forbidden")
        reader.headers.pop("authorization")
        answer = await reader.post("/v1/conversations/c/messages", json=posting("a"))
        problem(answer, 401, "unauthorized")
        assert not standin.asked

    async def test_an_unauthorized_request_is_refused_before_its_body_is_read(self, reader):
        async def endless():
            raise AssertionError("the body was read")
            yield b""

        reader.headers.pop("authorization")
        answer = await reader.post("/v1/conversations/c/messages", content=endless())
        problem(answer, 401, "unauthorized")

    async def test_a_bad_body_stores_nothing(self, backend, standin):
        path = "/v1/conversations/c/messages"
        as_json = {"Content-Type": "application/json"}
        for content, headers, status, code, parameter in [
            (b"{", as_json, 422, "bad_parameter", "body"),
            (b"{}", as_json, 422, "bad_parameter", "messages"),
            (b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type", None),
            (b" " * 20_001, as_json, 413, "too_large", None),
        ]:
            answer = await backend.post(path, content=content, headers=headers)
            problem(answer, status, code, parameter)
        wrong = posting("a", "b")
        wrong["messages"][1]["role"] = "nobody"
        answer = await backend.post(path, json=wrong)
        problem(answer, 422, "bad_parameter", "messages[1].role")
        assert not standin.asked


class TestOverTheNetwork:
    async def test_a_large_answer_arrives_completely(self, real):
        client, behind = real
        for n in range(50):
            behind.add("large", f"m{n:02}", "日本語" * 3000)
        answer = await client.get("/v1/conversations/large")
        texts = [each["text"] for each in answer.json()["messages"]]
        assert texts == ["日本語" * 3000] * 50

    @pytest.mark.parametrize("size", [300_001, 10_000_000])
    async def test_a_body_over_the_limit_is_refused_however_it_is_sent(self, real, size):
        client, behind = real
        before = len(behind.asked)

        async def chunks():
            for _ in range(size // 10_000 + 1):
                yield b" " * 10_000

        path = "/v1/conversations/c/messages"
        headers = {"Content-Type": "application/json"}
        for content in (b" " * size, chunks()):
            answer = await client.post(path, content=content, headers=headers)
            problem(answer, 413, "too_large")
        assert len(behind.asked) == before
        assert (await client.get("/v1/conversations/c")).status_code == 200

    async def test_a_body_up_to_the_limit_is_stored(self, real):
        client, _ = real
        body = posting("huge", text="x" * 290_000)
        answer = await client.post("/v1/conversations/up-to-it/messages", json=body)
        assert answer.status_code == 201

    async def test_a_matching_etag_returns_304_without_a_body(self, real):
        client, behind = real
        behind.add("c", "m", "x" * 100_000)
        first = await client.get("/v1/conversations/c/messages/m")
        kept = {"If-None-Match": first.headers["etag"]}
        again = await client.get("/v1/conversations/c/messages/m", headers=kept)
        assert (again.status_code, again.content) == (304, b"")
        assert "content-length" not in again.headers

    async def test_head_returns_the_headers_of_get(self, real):
        client, behind = real
        behind.add("c", "m", "x")
        for path in ("/healthz", "/v1/conversations/c/messages/m"):
            head, whole = await client.head(path), await client.get(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == whole.headers["content-length"]


class TestListing:
    async def test_pages_go_backwards_by_cursor(self, backend, standin):
        for n in range(5):
            standin.add(f"c{n}", "m", "x")
        seen, params = [], {"limit": 2}
        while True:
            answer = (await backend.get("/v1/conversations", params=params)).json()
            seen += [row["conversation_id"] for row in answer["conversations"]]
            if answer["older"] is None:
                break
            params["before"] = answer["older"]
        assert seen == ["c4", "c3", "c2", "c1", "c0"]
        assert answer["conversations"][0] == {
            "conversation_id": "c0",
            "channel": "ai:c0",
            "created_at": "2026-01-01T00:00:00.000Z",
            "metadata": None,
        }

    async def test_only_backends_may_list(self, reader):
        problem(await reader.get("/v1/conversations"), 403, "forbidden")

    async def test_a_bad_page_is_named(self, backend):
        for params, parameter in (({"limit": 1000}, "limit"), ({"before": "?"}, "before")):
            answer = await backend.get("/v1/conversations", params=params)
            problem(answer, 422, "bad_parameter", parameter)


async def test_the_text_is_sent_once_if_that_is_requested(standin, reader):
    standin.add("c", "m", "hello")
    path = "/v1/conversations/c"
    for text, has in (("once", False), ("always", True)):
        for message in (
            (await reader.get(path, params={"text": text})).json()["messages"][0],
            (await reader.get(f"{path}/messages/m", params={"text": text})).json(),
        ):
            assert ("text" in message) is has
            assert message["parts"] == [{"type": "text", "text": "hello"}]
    for wrong in (path, f"{path}/messages/m"):
        problem(await reader.get(wrong, params={"text": "twice"}), 422, "bad_parameter", "text")
