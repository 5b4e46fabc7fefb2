"""``rehydrate demo``: run all services on embedded defaults until stopped, or run the check."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import jwt

from rehydrate.demo.check import Report, Target, check
from rehydrate.demo.examples import started_chat
from rehydrate.demo.processes import Child
from rehydrate.demo.services import embedded
from rehydrate.settings import Settings, load_settings, revealed

WARM_UP_S = 2.0
_TOKEN_S = 24 * 3600


async def run_demo(options: dict[str, Any] | None) -> int:
    """Run the demo until it is stopped, or the check.

    Args:
        options: keyword arguments of the check; None: run the demo.

    Returns:
        The exit code.
    """
    running = asyncio.ensure_future(_show() if options is None else _check(**options))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, running.cancel)
    try:
        return await running
    except asyncio.CancelledError:
        _progress("stopped")
        return 0 if options is None else 130


@asynccontextmanager
async def _running(
    conversation_id: str,
) -> AsyncIterator[tuple[Target, Settings, list[Child], str | None]]:
    """Run the services and the agent while the block runs.

    Yields:
        The conversation to join, the completed settings, the processes, and the admin key if it
        was generated here.
    """
    settings = load_settings()
    _progress("starting Postgres and a local channel server, unless configured …")
    async with embedded(settings) as completed:
        environment = _environment(completed)
        made_key = None if completed.admin_keys else environment["REHYDRATE_ADMIN_KEYS"]
        _progress("starting the service …")
        async with Child("--quiet", "serve", environment=environment) as service:
            target = _target(completed, service.url, conversation_id)
            argv = ("--quiet", "agent", conversation_id)
            async with Child(*argv, environment=environment) as agent:
                yield target, completed, [service, agent], made_key


async def _show() -> int:
    async with (
        _running("demo") as (target, settings, children, made_key),
        AsyncExitStack() as stack,
    ):
        _progress(_tour(target, settings, made_key))
        sys.stdout.write(f"ready {target.url}\n")
        sys.stdout.flush()
        chat = await started_chat(stack, _environment(settings))
        _progress(chat.tour)
        await _one_ends([*children, *chat.children])
    return 1


async def _one_ends(children: Sequence[Child]) -> None:
    """Wait until one of *children* ends; none of them should."""
    waiting = {asyncio.create_task(child.wait()): child for child in children}
    try:
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for each in done:
            _progress(f"rehydrate {waiting[each].name} ended with exit code {each.result()}")
    finally:
        for task in waiting:
            task.cancel()


async def _check(*, joins: int, as_json: bool) -> int:
    async with _running(f"check-{uuid.uuid4().hex[:8]}") as (target, *_):
        await asyncio.sleep(WARM_UP_S)
        report = await check(target, joins, _progress)
    sys.stdout.write(_table(report))
    if as_json:
        sys.stdout.write(json.dumps(report.as_json()) + "\n")
    return 0 if report.good else 1


def _environment(settings: Settings) -> dict[str, str]:
    """Return the environment of the demo's processes; arguments would show secrets in `ps`."""
    made = {
        "REHYDRATE_DATABASE_URL": settings.required_database_url(),
        "ABLY_API_KEY": settings.required_ably_key(),
        "ABLY_ENDPOINT": settings.ably_endpoint,
        "ABLY_PORT": str(settings.ably_port) if settings.ably_port else None,
        "ABLY_TLS": str(settings.ably_tls).lower(),
        "REHYDRATE_PORT": "0",
        "REHYDRATE_SERVICE_KEYS": ",".join(revealed(settings.service_keys))
        or secrets.token_urlsafe(24),
        "REHYDRATE_ADMIN_KEYS": ",".join(revealed(settings.admin_keys))
        or secrets.token_urlsafe(24),
    }
    return {key: value for key, value in made.items() if value is not None}


def _target(settings: Settings, url: str, conversation_id: str) -> Target:
    name, _, secret = settings.required_ably_key().partition(":")
    channel = settings.channel_of(conversation_id)
    now_s = int(time.time())
    claims = {
        "iat": now_s,
        "exp": now_s + _TOKEN_S,
        "x-ably-capability": json.dumps({channel: ["subscribe", "history"]}),
    }
    return Target(
        url,
        conversation_id,
        channel,
        jwt.encode(claims, secret, "HS256", headers={"kid": name}),
        settings.ably_endpoint,
        settings.ably_port,
        settings.ably_tls,
    )


def _tour(target: Target, settings: Settings, made_key: str | None) -> str:
    return f"""
Three responses are streaming on the channel {target.channel!r}. Hydrate the conversation a few
times: finished responses stay as they are, streaming ones grow.

  TOKEN={target.token}
  curl -sH "Authorization: Bearer $TOKEN" {target.url}/v1/conversations/{target.conversation_id}

Or open it in a browser, with the admin key {made_key or "from REHYDRATE_ADMIN_KEYS"}:

  {target.url}/ui#/c/{target.conversation_id}

The data is stored in {settings.data_dir}. Ctrl-C stops everything.
"""


def _table(report: Report) -> str:
    result = report.as_json()
    rows = [("client", "joins", "characters", "lost", "doubled", "p50 ms", "p95 ms")]
    keys = ("joins", "characters", "lost", "doubled", "p50_ms", "p95_ms")
    for name, sums in (*result["by_client"].items(), ("all", result)):
        rows.append((name, *(f"{sums[key]:,}" for key in keys)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    lines.append(
        f"the tokens of {report.responses} responses were interleaved: {report.switches} switches"
    )
    lines += [f"skipped {each}" for each in report.skipped]
    if result["unended"]:
        lines.append(f"{result['unended']} readers did not see all their responses end")
    lines.append("every character is exact" if report.good else "NOT EXACT")
    return "\n".join(lines) + "\n"


def _progress(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
