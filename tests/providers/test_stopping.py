"""Stopping the Responses driver by its task, its tools or its sink also stops the vendor."""

from __future__ import annotations

import asyncio

import pytest

from providers.conftest import eventually
from providers.sinks import Folded
from rehydrate.errors import Fenced
from rehydrate.providers.responses_driver import run_responses
from scripted_openai.endpoint import Stall
from scripted_openai.turns import ResponseTurn

ASK = {"model": "gpt-5", "input": "What is the weather?"}


def in_order(*turns):
    """A script: one turn after the other."""
    return lambda asked: turns[asked.number]


async def test_cancelling_the_task_closes_the_stream_and_ends_the_response(vendor):
    vendor.endpoint.answer = in_order([*ResponseTurn().message("One").events, Stall(60)])
    sink = Folded()
    async with vendor.client() as client:
        task = asyncio.create_task(run_responses(sink, client, **ASK))
        await sink.wait_for_text("One")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert sink.status == "cancelled"
    eventually(lambda: vendor.endpoint.open_streams == 0)
    assert vendor.endpoint.cancelled == []


async def test_cancelling_a_background_response_cancels_it_at_the_vendor(vendor):
    vendor.endpoint.answer = in_order([*ResponseTurn().message("One").events, Stall(60)])
    sink = Folded()
    async with vendor.client() as client:
        task = asyncio.create_task(run_responses(sink, client, background=True, **ASK))
        await sink.wait_for_text("One")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert vendor.endpoint.cancelled == ["resp_1"]


async def test_cancelling_while_tools_run_cancels_the_tools(vendor):
    started, ended = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    vendor.endpoint.answer = in_order(ResponseTurn().calls(("call_a", "hang", {})).completed())
    sink = Folded()
    async with vendor.client() as client:
        task = asyncio.create_task(run_responses(sink, client, tools={"hang": hang}, **ASK))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ended.is_set()
    assert sink.status == "cancelled"


async def test_a_sink_that_raises_stops_the_vendor(vendor):
    class Lost(Folded):
        def write(self, text, *, part=None):
            raise Fenced("taken over")

    vendor.endpoint.answer = in_order([*ResponseTurn().message("One two").events, Stall(60)])
    async with vendor.client() as client:
        with pytest.raises(Fenced):
            await run_responses(Lost(), client, **ASK)
    eventually(lambda: vendor.endpoint.open_streams == 0)
