"""The service under measurement in a separate process, and its CPU time and memory."""

from __future__ import annotations

import json
import os
import re
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.request import urlopen

from ably import AblyRealtime
from bench.hydrate import token_for

from rehydrate.ably.channel_log import AblyChannel
from rehydrate.demo.services import embedded
from rehydrate.ports import Outgoing
from rehydrate.settings import load_settings


@asynccontextmanager
async def surroundings():
    """Yield settings of a running embedded Postgres and local channel server."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        base = load_settings(data_dir=Path(folder), service_keys="a-key-of-the-benchmark", port=0)
        async with embedded(base) as settings:
            yield settings


def environment_of(settings, **more):
    return {
        "REHYDRATE_DATABASE_URL": settings.required_database_url(),
        "ABLY_API_KEY": settings.required_ably_key(),
        "ABLY_ENDPOINT": settings.ably_endpoint,
        "ABLY_PORT": str(settings.ably_port),
        "ABLY_TLS": "false",
        "REHYDRATE_PORT": "0",
        **more,
    }


def ably_of(settings):
    return AblyChannel(
        settings.required_ably_key(),
        endpoint=settings.ably_endpoint,
        port=settings.ably_port,
        tls=False,
    )


def stock(settings):
    endpoint = f"{settings.ably_endpoint}:{settings.ably_port}"
    return AblyRealtime(token=token_for(settings, "*"), endpoint=endpoint, tls=False)


def attachments(settings, channel):
    with urlopen(f"http://127.0.0.1:{settings.ably_port}/localably/channels") as answer:
        found = json.load(answer)["channels"]
    return next((each["attachments"] for each in found if each["name"] == channel), 0)


async def say(ably, conversation, seq, text):
    """Publish a token of the response ``live``; return when it is acknowledged."""
    headers = {"headers": {"responseId": "live", "seq": seq}}
    await ably.publish(f"ai:{conversation}", [Outgoing("token", text, f"{seq}", headers)])


def cpu_s(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_kb(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1])


def per_cent(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
