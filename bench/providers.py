"""Providers: the cost of mapping on top of the openai package's decoding; memory over a long stream.

Both sides read the same bytes of server-sent events with the stock client, over an in-memory
transport. Nothing waits, so CPU time is compared, which a busy machine distorts least. Passes are
short and take turns; the result is the median of their ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator

import httpx2
import openai

from rehydrate.providers.openai_responses import ResponsesStream

ASK = {"model": "gpt-5", "input": "?", "stream": True}
CHUNK_BYTES = 16_384
GOAL_RATIO = 1.15
GOAL_GROWTH_BYTES = 2_000_000


class Nowhere:
    """A response that discards everything: only the mapping is measured."""

    def write(self, text: str, *, part: str | None = None) -> None:
        """Discard text."""

    refuse = reason = write

    def tool_call(self, tool_call_id: str, name: str, args: object = "") -> None:
        """Discard a call."""

    def tool_args(self, tool_call_id: str, text: str) -> None:
        """Discard arguments."""

    def tool_result(self, tool_call_id: str, result: object, **how: object) -> None:
        """Discard a result."""

    def finish(self, status: str = "completed", **how: object) -> None:
        """Discard the end."""


def events(deltas: int, *, final: bool = True) -> Iterator[dict]:
    """A response of one message of so many deltas; *final*: with its whole text at the end."""
    at = {"item_id": "msg_0", "output_index": 0, "content_index": 0}
    item = {"id": "msg_0", "type": "message", "role": "assistant", "status": "in_progress"}
    number = iter(range(deltas + 10))
    response = {"id": "resp_1", "object": "response", "output": [], "tools": []}
    yield {"type": "response.created", "sequence_number": next(number), "response": response}
    yield {
        "type": "response.output_item.added",
        "sequence_number": next(number),
        "output_index": 0,
        "item": {**item, "content": []},
    }
    for _ in range(deltas):
        yield {
            "type": "response.output_text.delta",
            "sequence_number": next(number),
            **at,
            "delta": " word",
            "logprobs": [],
            "obfuscation": "aGVsbG8gd29",
        }
    content = [{"type": "output_text", "text": " word" * deltas, "annotations": []}]
    output = [{**item, "status": "completed", "content": content}] if final else []
    done = {**response, "status": "completed", "output": output}
    yield {"type": "response.completed", "sequence_number": next(number), "response": done}


def wire(deltas: int) -> bytes:
    """Return the same as server-sent events."""
    return b"".join(
        f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
        for event in events(deltas)
    )


class FromMemory(httpx2.AsyncBaseTransport):
    """Answers every request with the same body."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Yield the body in chunks."""
        headers = {"content-type": "text/event-stream"}
        return httpx2.Response(200, headers=headers, stream=Chunks(self.body))


class Chunks(httpx2.AsyncByteStream):
    """A body in chunks of a socket's size."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for at in range(0, len(self.body), CHUNK_BYTES):
            yield self.body[at : at + CHUNK_BYTES]


async def decoded(client: openai.AsyncOpenAI) -> float:
    """Return the seconds of the package's own decoding."""
    source = await client.responses.create(**ASK)
    began = time.process_time()
    async for event in source:
        assert event
    return time.process_time() - began


async def mapped(client: openai.AsyncOpenAI) -> float:
    """Return the seconds of the same with mapping and writing."""
    source = await client.responses.create(**ASK)
    began = time.process_time()
    end = await ResponsesStream(source).into(Nowhere())
    assert end.status == "completed", end.error
    return time.process_time() - began


async def read_raw(body: bytes) -> float:
    """Return the seconds for the same bytes without the package."""
    began = time.process_time()
    end = await ResponsesStream([body]).into(Nowhere())
    assert end.status == "completed", end.error
    return time.process_time() - began


async def compare(deltas: int, passes: int) -> dict[str, float]:
    """Return the medians over *passes*."""
    body = wire(deltas)
    alone, with_us, raw = [], [], []
    http = httpx2.AsyncClient(transport=FromMemory(body))
    async with openai.AsyncOpenAI(
        api_key="x", base_url="http://memory/v1", http_client=http
    ) as client:
        await decoded(client), await mapped(client)
        for turn in range(passes):
            gc.collect()
            sides = (decoded, alone), (mapped, with_us)
            for side, times in sides if turn % 2 else sides[::-1]:
                times.append(await side(client))
            raw.append(await read_raw(body))
    ratios = [ours / theirs for ours, theirs in zip(with_us, alone, strict=True)]
    return {
        "deltas": deltas,
        "decoded_us_per_event": round(statistics.median(alone) / deltas * 1e6, 2),
        "mapped_us_per_event": round(statistics.median(with_us) / deltas * 1e6, 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_goal": GOAL_RATIO,
        "raw_us_per_event": round(statistics.median(raw) / deltas * 1e6, 2),
    }


async def grow(deltas: int) -> dict[str, int]:
    """Return the growth of a stream's memory from an early to a late point."""

    async def source() -> AsyncIterator[dict]:
        for number, event in enumerate(events(deltas, final=False)):
            if number in (deltas // 100, deltas - 1):
                gc.collect()
                held_bytes.append(tracemalloc.get_traced_memory()[0])
            yield event

    held_bytes: list[int] = []
    tracemalloc.start()
    end = await ResponsesStream(source()).into(Nowhere())
    tracemalloc.stop()
    assert end.status == "completed", end.error
    return {
        "long_stream_deltas": deltas,
        "held_early_bytes": held_bytes[0],
        "held_late_bytes": held_bytes[1],
        "growth_goal_bytes": GOAL_GROWTH_BYTES,
    }


def main(argv: list[str]) -> int:
    """Return 0 if both targets were met."""
    parser = argparse.ArgumentParser(prog="bench providers")
    parser.add_argument("--deltas", type=int, default=2_000, help="events of each compared stream")
    parser.add_argument("--passes", type=int, default=61)
    parser.add_argument("--long", type=int, default=1_000_000, help="events of the long stream")
    asked = parser.parse_args(argv)
    cost = asyncio.run(compare(asked.deltas, asked.passes))
    for name, value in cost.items():
        print(f"{name:24} {value}")
    memory = asyncio.run(grow(asked.long))
    for name, value in memory.items():
        print(f"{name:24} {value}")
    print(json.dumps(cost | memory))
    growth_bytes = memory["held_late_bytes"] - memory["held_early_bytes"]
    return 0 if cost["ratio"] <= GOAL_RATIO and growth_bytes <= GOAL_GROWTH_BYTES else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
