"""TLS with a self-signed certificate: stock SDKs connect with a key, as in production."""

from __future__ import annotations

import asyncio
import os
import stat
import sys

import pytest

from localably import LocalAbly
from localably.tls import CERTIFICATE, server_context

# ably-python with a key and TLS, in a process whose trust store is SSL_CERT_FILE
PROGRAM = """
import asyncio, sys
from ably import AblyRealtime, AblyRest
key, port = sys.argv[1], int(sys.argv[2])
async def main():
    client = AblyRealtime(key, endpoint=f"127.0.0.1:{port}")
    channel = client.channels.get("room")
    got = asyncio.Queue()
    await channel.subscribe(got.put_nowait)
    rest = AblyRest(key, endpoint="127.0.0.1", tls_port=port)
    await rest.channels.get("room").publish("n", "over TLS")
    print((await asyncio.wait_for(got.get(), 20)).data)
    await rest.close()
    await client.close()
asyncio.run(main())
"""


async def run(*arguments, **environment):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


async def test_ably_python_connects_with_a_key_over_tls(tmp_path):
    async with LocalAbly(tls_dir=tmp_path) as server:
        assert server.url == f"https://127.0.0.1:{server.port}"
        trusted = str(tmp_path / CERTIFICATE)
        code, out, err = await run(server.key, str(server.port), SSL_CERT_FILE=trusted)
        assert (code, out) == (0, "over TLS\n"), err


def test_the_certificate_is_created_once_and_its_key_is_private(tmp_path):
    server_context(tmp_path / "tls")
    first = (tmp_path / "tls" / CERTIFICATE).read_bytes()
    server_context(tmp_path / "tls")
    assert (tmp_path / "tls" / CERTIFICATE).read_bytes() == first
    [key] = [p for p in (tmp_path / "tls").iterdir() if p.name != CERTIFICATE]
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_broken_certificate_and_a_missing_command_are_errors(tmp_path, monkeypatch):
    server_context(tmp_path)
    (tmp_path / CERTIFICATE).write_text("x")
    with pytest.raises(OSError, match="cannot be used"):
        server_context(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OSError, match="needs the openssl command"):
        server_context(tmp_path / "other")
