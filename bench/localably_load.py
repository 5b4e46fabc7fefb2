"""The load of `bench/localably.py`, in a separate process: readers that only count frames.

Stock SDKs would measure themselves. These readers attach with a hand-made frame, and then look only at
the header of each frame; where a delay is measured, one reader parses the messages.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import statistics
import time
from urllib.parse import quote

import uvloop

OPCODE_BINARY, OPCODE_TEXT = 2, 1
STAMP = re.compile(rb"t=(\d+)")


class Peer(asyncio.Protocol):
    """A WebSocket client that counts messages, and can record their delays."""

    def __init__(self, delays=None):
        self.delays = delays
        self.frames = 0
        self.acks = 0
        self.opened = asyncio.get_running_loop().create_future()
        self.changed = asyncio.Event()
        self.transport = None
        self._buffer = b""
        self._upgraded = False

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, exc):
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("refused"))

    def data_received(self, data):
        data = self._buffer + data if self._buffer else data
        if not self._upgraded:
            head, found, data = data.partition(b"\r\n\r\n")
            if not found:
                self._buffer = head
                return
            self._upgraded = True
            self.opened.set_result(None)
        at, size = 0, len(data)
        now = time.perf_counter_ns()
        while size - at >= 2:
            length, start = data[at + 1], at + 2
            if length == 126:
                if size - at < 4:
                    break
                length, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif length == 127:
                if size - at < 10:
                    break
                length, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if size - start < length:
                break
            self._take(data, start, start + length, now)
            at = start + length
        self._buffer = data[at:]
        self.changed.set()

    def _take(self, data, start, end, now):
        self.frames += 1
        if self.delays is not None:
            stamp = STAMP.search(data, start, end)
            if stamp:
                self.delays.append(now - int(stamp[1]))

    def send(self, message, opcode=OPCODE_TEXT):
        payload = json.dumps(message).encode()
        self.transport.write(masked(payload, opcode))

    async def until(self, frames, within_s=60):
        async with asyncio.timeout(within_s):
            while self.frames < frames:
                self.changed.clear()
                await self.changed.wait()


def masked(payload, opcode):
    """Return a client's frame, masked with zeros, which the standard permits in tests."""
    length = len(payload)
    head = bytes((0x80 | opcode,))
    if length < 126:
        head += bytes((0x80 | length,))
    elif length < 1 << 16:
        head += bytes((0x80 | 126,)) + length.to_bytes(2, "big")
    else:
        head += bytes((0x80 | 127,)) + length.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


async def peer(port, key, *, form="json", delays=None, channel="bench"):
    loop = asyncio.get_running_loop()
    _, made = await loop.create_connection(lambda: Peer(delays), "127.0.0.1", port)
    nonce = base64.b64encode(os.urandom(16)).decode()
    query = f"key={quote(key)}&format={form}"
    request = (
        f"GET /?{query} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {nonce}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    made.transport.write(request.encode())
    await made.opened
    if channel is not None:
        made.send({"action": 10, "channel": channel})
        await made.until(2)
    return made


def publish_frame(serial, text, channel="bench", count=1):
    messages = [{"name": "token", "data": text}] * count
    return masked(
        json.dumps(
            {"action": 15, "channel": channel, "msgSerial": serial, "messages": messages}
        ).encode(),
        OPCODE_TEXT,
    )


async def fan_out(port, key, readers=50, publishes=4000, form="msgpack"):
    """Return deliveries a second: one publisher at full speed, many readers."""
    peers = await asyncio.gather(*[peer(port, key, form=form) for _ in range(readers)])
    writer = await peer(port, key, channel=None)
    began = time.perf_counter()
    for number in range(publishes):
        writer.transport.write(publish_frame(number, f"token number {number} of the answer"))
        if number - writer.frames > 400:
            await writer.until(number - 200)
    await asyncio.gather(*[one.until(2 + publishes) for one in peers])
    took_s = time.perf_counter() - began
    close(writer, *peers)
    return readers * publishes / took_s


async def delay(port, key, readers=50, rate=100, seconds=4):
    """Return p50 and p99 of publish to delivery in milliseconds, at *rate* publishes a second."""
    delays = []
    peers = await asyncio.gather(*[peer(port, key, delays=delays) for _ in range(readers)])
    writer = await peer(port, key, channel=None)
    loop = asyncio.get_running_loop()
    start = loop.time()
    for number in range(rate * seconds):
        await asyncio.sleep(max(0, start + number / rate - loop.time()))
        writer.transport.write(publish_frame(number, f"t={time.perf_counter_ns()} "))
    await asyncio.gather(*[one.until(2 + rate * seconds) for one in peers])
    close(writer, *peers)
    cuts = statistics.quantiles(delays, n=100)
    return {"p50_ms": cuts[49] / 1e6, "p99_ms": cuts[98] / 1e6, "deliveries": len(delays)}


async def idle(port, key, connections=1000):
    """Attach that many connections until standard input ends."""
    peers = []
    for first in range(0, connections, 100):
        count = min(100, connections - first)
        peers += await asyncio.gather(*[peer(port, key) for _ in range(count)])
    print(json.dumps({"attached": len(peers)}), flush=True)
    await asyncio.to_thread(input)
    close(*peers)


async def flood(port, key, messages=1_000_000, batch=20):
    """Publish that many messages; return messages per second. The server's memory is measured elsewhere."""
    writer = await peer(port, key, channel=None)
    frame_count = messages // batch
    began = time.perf_counter()
    for number in range(frame_count):
        writer.transport.write(publish_frame(number, "x" * 60, "flood", batch))
        if number - writer.frames > 200:
            await writer.until(number - 100)
    await writer.until(1 + frame_count, within_s=300)
    took_s = time.perf_counter() - began
    close(writer)
    return messages / took_s


def close(*peers):
    for one in peers:
        one.transport.abort()


def run(kind, port, key, **given):
    """Run one load and return its measurement."""
    return uvloop.run(
        {"fan_out": fan_out, "delay": delay, "idle": idle, "flood": flood}[kind](port, key, **given)
    )


if __name__ == "__main__":
    import sys

    result = run(sys.argv[1], int(sys.argv[2]), sys.argv[3], **json.loads(sys.argv[4]))
    if result is not None:
        print(json.dumps(result))
