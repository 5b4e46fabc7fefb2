"""The examples in the demo: started and ended, and absent without the repository."""

from __future__ import annotations

from contextlib import AsyncExitStack

import httpx
import pytest

from demo.command_line import ran
from rehydrate.demo import examples
from rehydrate.demo.examples import run_example, started_chat
from rehydrate.errors import NotConfigured
from waiting import PATIENCE_S


@pytest.fixture(autouse=True)
def without_a_key(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "CHAT_PORT", "CHAT_API"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("lacking", ["examples", "openai"])
async def test_without_a_chat_the_demo_prints_why(monkeypatch, tmp_path, lacking):
    if lacking == "examples":
        monkeypatch.setattr(examples, "EXAMPLES", tmp_path / "examples")
    else:
        monkeypatch.setattr(examples, "find_spec", lambda name: None)
    async with AsyncExitStack() as stack:
        chat = await started_chat(stack, {})
    assert chat.children == []
    assert ("repository" if lacking == "examples" else "rehydrate[openai]") in chat.tour


@pytest.mark.slow
async def test_a_chat_and_a_scripted_model_are_started_and_the_variables_printed(configured):
    async with AsyncExitStack() as stack:
        chat = await started_chat(stack, configured)
        assert len(chat.children) == 2
        url = chat.children[-1].url
        assert f"A chat with a scripted model is on {url}" in chat.tour
        assert f"export OPENAI_BASE_URL={chat.children[0].url}/v1" in chat.tour
        assert "export OPENAI_API_KEY=scripted" in chat.tour
        assert f"export ABLY_API_KEY={configured['ABLY_API_KEY']}" in chat.tour
        async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
            assert "<title>Chat" in (await http.get(url)).text
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


@pytest.mark.slow
async def test_with_configured_keys_no_model_is_started_and_no_key_is_printed(
    configured, monkeypatch
):
    for name in ("ABLY_API_KEY", "REHYDRATE_DATABASE_URL"):
        monkeypatch.setenv(name, configured[name])
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    async with AsyncExitStack() as stack:
        chat = await started_chat(stack, configured)
    assert len(chat.children) == 1
    for secret in ("sk-secret", configured["ABLY_API_KEY"], configured["REHYDRATE_DATABASE_URL"]):
        assert secret not in chat.tour


def test_an_unknown_example_is_reported():
    with pytest.raises(NotConfigured, match="nobody"):
        run_example("nobody", [])


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, "OPENAI_API_KEY"),
        ({"OPENAI_API_KEY": "x"}, "REHYDRATE_DATABASE_URL"),
        ({"OPENAI_API_KEY": "x", "CHAT_PORT": "-1"}, "port"),
        (
            {
                "OPENAI_API_KEY": "x",
                "CHAT_API": "assistants",
                "REHYDRATE_DATABASE_URL": "postgres://u@h/d",
                "ABLY_API_KEY": "a.b:c",
            },
            "closed that API",
        ),
    ],
)
async def test_a_chat_without_settings_reports_the_missing_one(settings, complaint):
    result = await ran("example", "chat_backend", **settings)
    assert result.code == 2
    assert complaint in result.err
    assert "Traceback" not in result.err
