"""kill -9 of the service in the middle of three streams; all other processes continue."""

from __future__ import annotations

import asyncio
import os
import signal

import httpx
import pytest

from journeys.readers import Plan, by_python
from journeys.stack import stacked
from rehydrate.demo.check import check
from rehydrate.demo.processes import Child
from rehydrate.demo.texts import tokens_of
from waiting import PATIENCE_S

pytestmark = pytest.mark.slow


@pytest.fixture
async def alone(database):
    """A stack for this module alone."""
    async with stacked(database) as running:
        yield running


async def responses(target):
    async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
        headers = {"authorization": f"Bearer {target.token}"}
        answer = (await http.get(target.hydrate_url, headers=headers)).raise_for_status().json()
    assert answer["complete"], answer["reasons"]
    return [m for m in answer["messages"] if m["role"] == "assistant"]


async def three_streams(target):
    """Wait until three responses stream; return their ids."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            await asyncio.sleep(0.5)
            found = {m["id"] for m in await responses(target) if m["status"] == "in_progress"}
            if len(found) == 3:
                return found


async def test_responses_that_stream_while_the_service_is_killed_are_exact_at_the_next(
    alone, conversation
):
    target = alone.target(conversation)
    async with Child("--quiet", "agent", conversation, environment=alone.environment):
        open_before = await three_streams(target)
        texts = {id_: "".join(tokens_of(id_)) for id_ in open_before}
        staying = asyncio.create_task(by_python(target, texts, [Plan(0, way) for way in (1, 2, 3)]))
        await asyncio.sleep(1)

        os.kill(alone.service.pid, signal.SIGKILL)
        assert await alone.service.wait() == -signal.SIGKILL
        with pytest.raises(httpx.ConnectError):
            await responses(target)
        await asyncio.sleep(1)

        async with Child("--quiet", "serve", environment=alone.environment) as again:
            target = target._replace(url=again.url)
            said = []
            report = await check(target, 12, said.append)
            assert report.good, report.as_json()
            assert report.responses >= 3
            for reader in await staying:
                assert not reader.untrue
                assert {id_: reader.last[id_] for id_ in texts} == {
                    id_: ("completed", text) for id_, text in texts.items()
                }
            finished = {m["id"]: m for m in await responses(target)}
            for id_, text in texts.items():
                assert (finished[id_]["status"], finished[id_]["text"]) == ("completed", text)
