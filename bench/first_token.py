"""First token: from a model's socket to a follower's, through the example chat.

    python -m bench first_token [--rounds 200]

The chat, the channel server and Postgres are separate processes; the model and the followers are in
this one, so that one clock times both ends. The floor is the same token with the stock SDK alone,
published and received here through the same channel server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
import uuid
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from ably import AblyRealtime

from rehydrate.demo.processes import Child
from rehydrate.demo.services import embedded
from rehydrate.settings import load_settings

GOAL_P50_MS = 10.0
PAUSE_S = 0.03
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


class Model:
    """A model on a socket: the text of its first token is the time of writing it."""

    def __init__(self) -> None:
        self._count = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle one request with one streamed response."""
        await reader.readuntil(b"\r\n\r\n")
        self._count += 1
        response = {"id": f"resp_{self._count}", "object": "response", "output": [], "tools": []}
        item = {"id": "msg_0", "type": "message", "role": "assistant", "content": []}
        at = {"item_id": "msg_0", "output_index": 0, "content_index": 0}
        numbers = iter(range(10))

        def say(type_: str, **fields: object) -> None:
            event = {"type": type_, "sequence_number": next(numbers), **fields}
            writer.write(f"event: {type_}\ndata: {json.dumps(event)}\n\n".encode())

        writer.write(HEAD)
        say("response.created", response=response)
        say("response.output_item.added", output_index=0, item=item)
        await writer.drain()
        await asyncio.sleep(PAUSE_S)  # the first token comes by itself, as a model's does
        text = f"{time.perf_counter():.6f}"
        say("response.output_text.delta", **at, delta=text)
        await asyncio.sleep(PAUSE_S)
        done = {**item, "content": [{"type": "output_text", "text": text, "annotations": []}]}
        say("response.completed", response={**response, "status": "completed", "output": [done]})
        await writer.drain()
        writer.close()


@asynccontextmanager
async def modelled():
    """Run a model; yield its base URL."""
    server = await asyncio.start_server(Model().answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


async def follow_by_sse(url: str, path: str, cookie: str, late_ms: list[float]) -> None:
    """Record the delay of every token over server-sent events."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {cookie}\r\n\r\n".encode())
    token = False
    while line := await reader.readline():
        if line.startswith(b"event: "):
            token = line == b"event: token\n"
        elif token and line.startswith(b"data: "):
            text = json.loads(line[6:])["text"]
            late_ms.append((time.perf_counter() - float(text)) * 1000)


async def followed_by_stock(settings, token, channel, late_ms):
    """A subscribed stock client that records the delay of every token."""
    endpoint = f"{settings.ably_endpoint}:{settings.ably_port}"
    client = AblyRealtime(token=token, endpoint=endpoint, tls=False)
    await client.channels.get(channel).subscribe(
        "token", lambda m: late_ms.append((time.perf_counter() - float(m.data)) * 1000)
    )
    return client


async def floor_ms(settings, rounds):
    """The same token with the stock SDK alone."""
    late_ms: list[float] = []
    endpoint = f"{settings.ably_endpoint}:{settings.ably_port}"
    options = {"key": settings.required_ably_key(), "endpoint": endpoint, "tls": False}
    publisher, subscriber = AblyRealtime(**options), AblyRealtime(**options)
    await subscriber.channels.get("floor").subscribe(
        lambda m: late_ms.append((time.perf_counter() - float(m.data)) * 1000)
    )
    channel = publisher.channels.get("floor")
    await channel.attach()
    for _ in range(rounds):
        await channel.publish("token", f"{time.perf_counter():.6f}")
        await asyncio.sleep(0.01)
    await publisher.close()
    await subscriber.close()
    return late_ms


async def until(holds, seconds: float = 30.0) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - other tasks append to it
            await asyncio.sleep(0.002)


async def measure(settings, rounds: int) -> dict[str, list[float]]:
    """Return the delays of first tokens in ms, by transport."""
    by_sse: list[float] = []
    by_stock: list[float] = []
    async with modelled() as model:
        environment = {
            "REHYDRATE_DATABASE_URL": settings.required_database_url(),
            "ABLY_API_KEY": settings.required_ably_key(),
            "ABLY_ENDPOINT": "127.0.0.1",
            "ABLY_PORT": str(settings.ably_port),
            "ABLY_TLS": "false",
            "OPENAI_API_KEY": "of-nobody",
            "OPENAI_BASE_URL": model,
            "CHAT_PORT": "0",
        }
        argv = ("--quiet", "example", "chat_backend")
        async with (
            Child(*argv, environment=environment) as chat,
            httpx.AsyncClient(base_url=chat.url, timeout=30) as http,
        ):
            await http.get("/")
            conversation = (await http.get("/me")).json()["owner"] + "-main"
            granted = (await http.get(f"/chat/{conversation}/ably-token")).json()
            stock = await followed_by_stock(
                settings, granted["token"], granted["channel"], by_stock
            )
            path = f"/history/v1/conversations/{conversation}/stream"
            cookie = f"chat_session={http.cookies['chat_session']}"
            sse = asyncio.create_task(follow_by_sse(chat.url, path, cookie, by_sse))
            for number in range(1, rounds + 1):
                prompt = {"id": f"p-{uuid.uuid4()}", "text": "?"}
                asked = await http.post(f"/chat/{conversation}/prompts", json=prompt)
                asked.raise_for_status()
                await until(lambda n=number: min(len(by_sse), len(by_stock)) >= n)
                await asyncio.sleep(2 * PAUSE_S)
            sse.cancel()
            await stock.close()
    return {"sse": by_sse, "ably": by_stock, "floor": await floor_ms(settings, rounds)}


async def run(rounds: int) -> int:
    """Measure and print; return whether the target was met."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        async with embedded(load_settings(data_dir=Path(folder))) as settings:
            late = await measure(settings, rounds)
    figures = {
        name: {
            "n": len(times),
            "p50_ms": round(statistics.median(times), 2),
            "p95_ms": round(sorted(times)[int(len(times) * 0.95)], 2),
        }
        for name, times in late.items()
    }
    for name, each in figures.items():
        sys.stdout.write(f"{name:6} {each}\n")
    p50s = {name: each["p50_ms"] for name, each in figures.items()}
    ratios = {f"{name}_of_floor": round(p50s[name] / p50s["floor"], 2) for name in ("sse", "ably")}
    sys.stdout.write(json.dumps(figures | ratios | {"goal_p50_ms": GOAL_P50_MS}) + "\n")
    return 0 if max(p50s["sse"], p50s["ably"]) <= GOAL_P50_MS else 1


def main(argv: list[str]) -> int:
    """Return 0 if the target was met."""
    parser = argparse.ArgumentParser(prog="bench first_token")
    parser.add_argument("--rounds", type=int, default=200)
    return asyncio.run(run(parser.parse_args(argv).rounds))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
