"""One hydrate request: how many files a reader has to open, and how often they turn back."""

from __future__ import annotations

import json
import time

import httpx
import jwt
import pytest

from demo.command_line import settings_on
from localably import LocalAbly
from rehydrate import History, NewMessage
from rehydrate.settings import load_settings
from waiting import until
from walk import walk_of

FILES_MAX = 26


def token(settings):
    name, _, secret = settings.required_ably_key().partition(":")
    capability = json.dumps({"*": ["subscribe", "history"]})
    claims = {"iat": int(time.time()), "exp": int(time.time()) + 3600}
    claims["x-ably-capability"] = capability
    return jwt.encode(claims, secret, "HS256", headers={"kid": name})


@pytest.mark.slow
async def test_a_warm_hydrate_touches_few_files_and_turns_back_for_its_ports_alone(database):
    async with (
        LocalAbly() as ably,
        History(load_settings(**settings_on(database, ably))) as history,
    ):
        await history.store_messages("c", [NewMessage("m", "assistant", text="finished")])
        async with history.respond("c", "r") as response:
            response.write("in progress")
            transport = httpx.ASGITransport(history.app())
            headers = {"Authorization": f"Bearer {token(history.settings)}"}
            async with httpx.AsyncClient(
                transport=transport, base_url="http://t", headers=headers
            ) as client:

                async def shown():
                    return "in progress" in (await client.get("/v1/conversations/c")).text

                await until(shown)
                walk, answer = await walk_of(client.get("/v1/conversations/c"))
    assert answer.json()["complete"]
    assert [each["status"] for each in answer.json()["messages"]] == ["completed", "in_progress"]
    assert {"api/conversations.py", "hydrate/hydrate.py", "core/fold.py"} <= walk.files.keys()
    assert len(walk.files) <= FILES_MAX, list(walk.files)
    assert [callee for _, callee in walk.climbs] == ["postgres", "ably"], walk.climbs
