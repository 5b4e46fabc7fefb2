"""The chat's backend over HTTP: authorization, prompts, stops, shutdown."""

from __future__ import annotations

import asyncio
import json
import uuid

import httpx
import jwt
import pytest

from chat_backend.tools import get_time, get_weather
from providers.conftest import eventually
from scripted_openai.endpoint import Stall
from scripted_openai.model import answer_text, output_text
from scripted_openai.turns import ResponseTurn
from waiting import PATIENCE_S

both = pytest.mark.parametrize(
    "api",
    [
        pytest.param("responses", marks=pytest.mark.chat(api="responses")),
        pytest.param("assistants", marks=pytest.mark.chat(api="assistants")),
    ],
)


def prompt_of(text):
    return {"id": f"p-{uuid.uuid4()}", "text": text}


async def ask(http, conversation, text):
    asked = await http.post(f"/chat/{conversation}/prompts", json=prompt_of(text))
    assert asked.status_code == 202, asked.text
    return asked.json()["response_id"]


async def ended(http, conversation, response_id):
    """Wait for the end of the message; return it."""
    url = f"/history/v1/conversations/{conversation}/messages/{response_id}"
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer = await http.get(url)
            if answer.status_code == 200 and answer.json()["status"] != "in_progress":
                return answer.json()
            await asyncio.sleep(0.02)


@both
async def test_a_question_is_answered_with_both_tools(chat, api):
    question = "What is the weather and the time in Lisbon?"
    async with chat.visitor() as (http, of):
        response_id = await ask(http, of("main"), question)
        answer = await ended(http, of("main"), response_id)
        shown = (await http.get(f"/history/v1/conversations/{of('main')}")).json()
    assert answer["status"] == "completed", answer["error"]
    calls = [part for part in answer["parts"] if part["type"] == "tool_call"]
    assert [(call["name"], call["status"]) for call in calls] == [
        ("get_weather", "completed"),
        ("get_time", "completed"),
    ]
    assert calls[0]["result"] == await get_weather("Lisbon")
    assert calls[1]["result"].endswith((await get_time("Lisbon"))[-len(" in Lisbon") :])
    outputs = tuple(output_text(call["result"]) for call in calls)
    assert answer["text"] == answer_text(question, outputs)
    assert [message["role"] for message in shown["messages"]] == ["user", "assistant"]
    assert shown["messages"][0]["text"] == question


async def test_a_prompt_with_the_same_id_is_asked_once(chat):
    prompt = prompt_of("Why?")
    async with chat.visitor() as (http, of):
        for _ in range(2):
            asked = await http.post(f"/chat/{of('main')}/prompts", json=prompt)
            assert asked.status_code == 202
        await ended(http, of("main"), asked.json()["response_id"])
        other = {**prompt, "text": "How?"}
        refused = await http.post(f"/chat/{of('main')}/prompts", json=other)
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert len(chat.model.endpoint.asked) == 1


async def test_a_stopped_answer_keeps_its_text(chat):
    turn = ResponseTurn().message("One")
    chat.model.endpoint.answer = lambda asked: [*turn.events, Stall(60)]
    async with chat.visitor() as (http, of):
        response_id = await ask(http, of("main"), "Why?")
        async with http.stream(
            "GET", f"/history/v1/conversations/{of('main')}/stream"
        ) as following:
            async for line in following.aiter_lines():
                if '"One"' in line:
                    break
        stop = f"/chat/{of('main')}/responses/{response_id}/stop"
        assert (await http.post(stop)).status_code == 202
        answer = await ended(http, of("main"), response_id)
    assert (answer["status"], answer["text"]) == ("cancelled", "One")
    eventually(lambda: chat.model.endpoint.open_streams == 0)


@pytest.mark.chat(at_once=(2, 3))
async def test_the_number_of_running_answers_is_limited(chat):
    chat.model.endpoint.answer = lambda asked: [*ResponseTurn().message("One").events, Stall(60)]
    async with chat.visitor() as (http, of):
        for name in ("a", "a", "b"):
            await ask(http, of(name), "Why?")
        for name in ("a", "c"):
            refused = await http.post(f"/chat/{of(name)}/prompts", json=prompt_of("Why?"))
            assert refused.status_code == 429
            shown = await http.get(f"/history/v1/conversations/{of(name)}")
            asked = [m for m in shown.json()["messages"] if m["role"] == "user"]
            assert len(asked) == (2 if name == "a" else 0), "the refused prompt is nowhere"


async def test_another_visitor_has_no_access(chat):
    async with chat.visitor() as (http, of), chat.visitor() as (stranger, _):
        response_id = await ask(http, of("main"), "Why?")
        calls = [
            ("GET", f"/history/v1/conversations/{of('main')}"),
            ("GET", f"/history/v1/conversations/{of('main')}/stream"),
            ("GET", f"/chat/{of('main')}/ably-token"),
            ("POST", f"/chat/{of('main')}/prompts"),
            ("POST", f"/chat/{of('main')}/responses/{response_id}/stop"),
        ]
        async with httpx.AsyncClient(base_url=chat.url, timeout=PATIENCE_S) as nobody:
            for method, url in calls:
                body = prompt_of("Hm") if url.endswith("prompts") else None
                for caller, status in ((stranger, 403), (nobody, 401)):
                    answer = await caller.request(method, url, json=body)
                    assert answer.status_code == status, (url, answer.text)
        assert (await ended(http, of("main"), response_id))["status"] == "completed"


async def test_the_page_gets_a_strict_cookie_and_a_token_for_one_channel(chat):
    async with httpx.AsyncClient(base_url=chat.url, timeout=PATIENCE_S) as http:
        page = await http.get("/")
        cookie = page.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert "set-cookie" not in (await http.get("/")).headers
        me = (await http.get("/me")).json()
        assert http.cookies["chat_session"] not in str(me)
        granted = await http.get(f"/chat/{me['owner']}-main/ably-token")
        assert granted.headers["cache-control"] == "no-store"
        token = granted.json()
        policy = page.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    key = chat.settings.required_ably_key()
    name, _, secret = key.partition(":")
    claims = jwt.decode(token["token"], secret, ["HS256"])
    assert jwt.get_unverified_header(token["token"])["kid"] == name
    channel = f"ai:{me['owner']}-main"
    assert claims["x-ably-capability"] == f'{{"{channel}": ["subscribe", "history"]}}'
    assert token["channel"] == channel
    assert claims["exp"] - claims["iat"] <= 3600


async def test_the_files_of_the_page_exist_and_contain_no_key(chat):
    async with chat.visitor() as (http, _):
        for name in ("/", "/page/chat.js", "/page/transport.js", "/page/style.css"):
            answer = await http.get(name)
            assert answer.status_code == 200
            assert chat.settings.required_ably_key().partition(":")[2] not in answer.text
            assert "https://" not in answer.text
        assert "@rehydrate/client" in (await http.get("/client.js")).text


async def test_without_ably_js_the_page_is_informed(chat, monkeypatch, tmp_path):
    monkeypatch.setattr("chat_backend.app.ABLY_JS", tmp_path / "ably.min.js")
    async with chat.visitor() as (http, _):
        assert (await http.get("/me")).json()["ably"] is None
        assert (await http.get("/ably.js")).status_code == 404


async def test_other_hosts_and_invalid_requests_are_refused(chat):
    async with chat.visitor() as (http, of):
        assert (await http.get("/", headers={"host": "evil.example"})).status_code == 400
        for wrong in (
            {},
            {"id": "p-1", "text": "x"},
            {"id": f"p-{uuid.uuid4()}", "text": ""},
            {"id": f"p-{uuid.uuid4()}", "text": "x" * 8001},
        ):
            answer = await http.post(f"/chat/{of('main')}/prompts", json=wrong)
            assert answer.status_code == 422
        url = f"/chat/{of('main')}/prompts"
        assert (await http.post(url, data=prompt_of("x"))).status_code == 422
        text = {"content": json.dumps(prompt_of("x")), "headers": {"content-type": "text/plain"}}
        assert (await http.post(url, **text)).status_code == 422
        for half in (
            {**prompt_of("x"), "text": "a\ud800"},
            {**prompt_of("x"), "id": "\ud800"},
            {"\ud800": "\ud800"},
        ):
            body = {"content": json.dumps(half), "headers": {"content-type": "application/json"}}
            answer = await http.post(url, **body)
            assert answer.status_code == 422, answer.text
        elsewhere = {"json": prompt_of("x"), "headers": {"sec-fetch-site": "same-site"}}
        assert (await http.post(url, **elsewhere)).status_code == 403
    assert chat.model.endpoint.asked == []


async def test_answers_are_cancelled_at_shutdown(module_database, server, chat):
    chat.model.endpoint.answer = lambda asked: [*ResponseTurn().message("One").events, Stall(60)]
    from api.serving import served_beside  # noqa: PLC0415 - a second application, of this test
    from chat_backend.app import create_app  # noqa: PLC0415 - as above
    from chat_backend.settings import ChatSettings  # noqa: PLC0415 - as above
    from rehydrate import History  # noqa: PLC0415 - as above

    app = create_app(ChatSettings(), History(chat.settings), chat.model.client())
    async with chat.visitor() as (http, of):
        async with (
            served_beside(app) as url,
            httpx.AsyncClient(base_url=url, cookies=http.cookies, timeout=PATIENCE_S) as other,
        ):
            response_id = await ask(other, of("main"), "Why?")
            eventually(lambda: chat.model.endpoint.open_streams == 1)
        answer = await ended(http, of("main"), response_id)
    assert answer["status"] == "cancelled"
    eventually(lambda: chat.model.endpoint.open_streams == 0)
