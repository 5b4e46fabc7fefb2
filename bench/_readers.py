"""An SSE reader on a plain socket; and, as a process, one that prints the delay of each token."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
import time

from ably import AblyRealtime

_SENT = re.compile(rb'"text":"(\d+\.\d+)"')


def joined(url, path, token):
    """Return a socket that has received the whole snapshot, its size, and the time in ms."""
    host, port = url.removeprefix("http://").split(":")
    began = time.perf_counter()
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    )
    received = bytearray()
    while b"event: snapshot" not in received or not received.endswith(b"\n\n\r\n"):
        chunk = connection.recv(1 << 18)
        assert chunk, received[:500]
        received += chunk
    return connection, len(received), (time.perf_counter() - began) * 1000


def join_ms(url, path, token):
    connection, _, ms = joined(url, path, token)
    connection.close()
    return ms


async def read_by_sdk(job):
    client, late, ended = (
        AblyRealtime(token=job["token"], endpoint=job["endpoint"], tls=False),
        [],
        asyncio.Event(),
    )

    def came(message):
        if message.data == "end":
            ended.set()
        else:
            late.append((time.time() - float(message.data)) * 1000)

    await client.channels.get(job["channel"]).subscribe(came)
    print("ready", flush=True)
    await asyncio.wait_for(ended.wait(), 300)
    await client.close()
    return late


def read_by_sse(job, url):
    path = f"/v1/conversations/{job['channel'].removeprefix('ai:')}/stream"
    connection, *_ = joined(url, path, job["token"])
    connection.settimeout(300)
    print("ready", flush=True)
    late, tail = [], b""
    while b'"text":"end"' not in tail:
        data = tail + connection.recv(65_536)
        now_s, end = time.time(), 0
        for found in _SENT.finditer(data):
            late.append((now_s - float(found[1])) * 1000)
            end = found.end()
        tail = data[end:]
    return late


def main(how):
    job = json.loads(sys.stdin.readline())
    late = asyncio.run(read_by_sdk(job)) if how[0] == "sdk" else read_by_sse(job, how[1])
    print(json.dumps(late))


if __name__ == "__main__":
    main(sys.argv[1:])
