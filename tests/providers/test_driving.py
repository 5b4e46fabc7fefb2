"""The common part of the drivers: usage, sync and async clients, and stopping the vendor."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.sinks import Folded
from rehydrate.providers import driving
from rehydrate.providers.driving import DriverContext, add_usage, call_vendor, is_sync, stop_vendor
from rehydrate.providers.failures import ProviderError, StreamBroken
from rehydrate.providers.openai_responses import ResponsesStream
from rehydrate.providers.toolbox import Toolbox

USAGE = st.dictionaries(
    st.sampled_from(["input", "output"]),
    st.integers(0, 9) | st.dictionaries(st.just("cached"), st.integers(0, 9)),
)


@given(USAGE, USAGE)
def test_usage_is_summed_field_by_field(one, other):
    total = add_usage(one, other)
    for key in one.keys() | other.keys():
        mine, yours = one.get(key), other.get(key)
        if isinstance(mine, int) and isinstance(yours, int):
            assert total[key] == mine + yours
        elif isinstance(mine, dict) and isinstance(yours, dict):
            assert total[key] == add_usage(mine, yours)
        else:
            assert total[key] == (mine if mine is not None else yours)


def test_missing_usage_adds_nothing():
    assert add_usage(None, {"a": 1}) == add_usage({"a": 1}, None) == {"a": 1}
    assert add_usage({"a": 1, "tier": "x"}, {"a": 2, "tier": "y"}) == {"a": 3, "tier": "x"}


async def test_sync_methods_run_in_a_thread_and_async_ones_are_awaited():
    class SyncAPIClient:
        def ask(self):
            return threading.current_thread()

    class Resource:
        _client = SyncAPIClient()

        def ask(self):
            return threading.current_thread()

    class Async:
        async def ask(self):
            return threading.current_thread()

    here = threading.current_thread()
    assert await call_vendor(SyncAPIClient().ask) is not here
    assert await call_vendor(Resource().ask) is not here
    assert await call_vendor(Async().ask) is here


async def test_sync_and_async_clients_are_distinguished():
    async with openai.AsyncOpenAI(api_key="x") as client:
        assert not is_sync(client.responses.create)
        assert not is_sync(client.post)
    with openai.OpenAI(api_key="x") as client:
        assert is_sync(client.responses.create)
        assert is_sync(client.post)


async def test_exceptions_of_a_client_become_provider_errors():
    def ask():
        raise ConnectionResetError

    with pytest.raises(StreamBroken) as caught:
        await call_vendor(ask)
    assert isinstance(caught.value.__cause__, ConnectionResetError)


async def test_stopping_runs_every_step_even_if_one_fails(monkeypatch, caplog):
    monkeypatch.setattr("rehydrate.providers.driving.CANCEL_TIMEOUT_S", 0.02)
    done = []

    async def fails():
        raise ProviderError("secret detail")

    async def hangs():
        await asyncio.sleep(3600)

    async def works():
        done.append(True)

    await stop_vendor([fails, hangs, works])
    assert done == [True]
    assert [record.getMessage() for record in caplog.records] == [
        "failed to stop the vendor's response: ProviderError",
        "failed to stop the vendor's response: TimeoutError",
    ]


async def test_stopping_completes_even_while_being_cancelled():
    begun, done = asyncio.Event(), []

    async def slowly():
        begun.set()
        await asyncio.sleep(0.05)
        done.append(True)

    task = asyncio.create_task(stop_vendor([slowly]))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == [True]


def test_importing_the_package_does_not_import_a_vendor():
    room = Path(driving.__file__).parent
    names = [f"rehydrate.providers.{path.stem}" for path in room.glob("*.py")]
    code = f"import sys, {', '.join(names)}; print('openai' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout == "False\n"


async def test_without_final_parts_in_one_turn_the_published_parts_are_kept():
    sink = Folded()
    answer = DriverContext(sink, Toolbox({}))
    for events in (
        [{"type": "response.completed", "response": {"id": "r", "output": []}}],
        [{"type": "response.completed", "response": {"id": "s", "output": [{"type": "message"}]}}],
    ):
        end, calls = await answer.write_turn(ResponsesStream(events))
        assert calls == []
        answer.close_turn(end)
    outcome = answer.finish(None)
    assert (outcome.parts, sink.final, sink.status) == (None, None, "completed")
