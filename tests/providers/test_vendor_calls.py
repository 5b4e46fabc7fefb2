"""Calls of sync and async clients, what they raise, and stopping the vendor."""

from __future__ import annotations

import asyncio
import functools
import threading

import openai
import pytest

from rehydrate.providers.failures import ProviderError, StreamBroken
from rehydrate.providers.vendor_calls import call_vendor, is_async, stop_vendor


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

    @functools.wraps(Resource.ask)
    def traced(*args):
        return Resource().ask()

    here = threading.current_thread()
    assert await call_vendor(SyncAPIClient().ask) is not here
    assert await call_vendor(Resource().ask) is not here
    assert await call_vendor(traced) is not here
    assert await call_vendor(Async().ask) is here


def traced(method):
    """Return *method* as a tracing library wraps it."""

    @functools.wraps(method)
    def call(*args, **keywords):
        return method(*args, **keywords)

    return call


@pytest.mark.parametrize(
    "wrap", [lambda method: method, traced, lambda method: traced(traced(method))]
)
async def test_sync_and_async_clients_are_distinguished(wrap):
    async with openai.AsyncOpenAI(api_key="x") as client:
        assert is_async(wrap(client.responses.create))
        assert is_async(wrap(client.post))
    with openai.OpenAI(api_key="x") as client:
        assert not is_async(wrap(client.responses.create))
        assert not is_async(wrap(client.post))


async def test_a_client_that_ends_the_process_is_contained():
    def leaves():
        raise SystemExit(2)

    with pytest.raises(ProviderError, match="source_failed: SystemExit"):
        await call_vendor(leaves)


async def test_exceptions_of_a_client_become_provider_errors():
    def ask():
        raise ConnectionResetError

    with pytest.raises(StreamBroken) as caught:
        await call_vendor(ask)
    assert isinstance(caught.value.__cause__, ConnectionResetError)


async def test_stopping_runs_every_step_even_if_one_fails(monkeypatch, caplog):
    monkeypatch.setattr("rehydrate.providers.vendor_calls.CANCEL_TIMEOUT_S", 0.02)
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
