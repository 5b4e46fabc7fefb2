"""``rehydrate doctor``: check settings, database, schema, Ably and retention; suggest a fix for each."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import NamedTuple

from rehydrate.core.capability import Capability
from rehydrate.core.event import ChannelMessage
from rehydrate.core.wire import timestamp_ms
from rehydrate.database import schema_revision
from rehydrate.errors import NotConfigured, RehydrateError
from rehydrate.history import History
from rehydrate.settings import Settings, load_settings, unknown_variables

TIMEOUT_S = 10.0
"""Seconds that one check may take."""

_REQUIRES = {"schema": "database", "key": "Ably"}
"""A check is skipped if the one it requires has failed."""

_OPERATIONS = frozenset({"publish", "subscribe", "history"})

_WIDTH = len("retention")
_MAX_CONVERSATIONS = 20
_LAG_MS = 5_000


class Finding(NamedTuple):
    """The result of one check. ``good`` is None if the check could not be made."""

    what: str
    good: bool | None
    detail: str


async def examine() -> int:
    """Run all checks and print each finding when it is known.

    Returns:
        The exit code: 0 if no check failed, 1 if one did, 2 if a setting is missing or invalid.
    """
    if unknown := unknown_variables():
        _print(Finding("variables", good=None, detail=f"ignored, unknown: {', '.join(unknown)}"))
    try:
        settings = load_settings()
        history = History(settings)
        history.app()
    except NotConfigured as error:
        _print(Finding("settings", good=False, detail=str(error)))
        return 2
    _print(Finding("settings", good=True, detail="complete"))
    try:
        wrong = False
        async for finding in _findings(history, settings):
            _print(finding)
            wrong |= finding.good is False
    finally:
        await history.close()
    return 1 if wrong else 0


async def _findings(history: History, settings: Settings) -> AsyncIterator[Finding]:
    await history.open()
    url, endpoint = settings.required_database_url(), settings.ably_endpoint or "Ably"
    checks: list[tuple[str, Callable[[], Awaitable[str | None]], str]] = [
        ("database", lambda: _database(url), "check Postgres and REHYDRATE_DATABASE_URL"),
        ("schema", lambda: _schema(history), "check the database"),
        (
            "Ably",
            history.context.channel.ready,
            f"check network access to {endpoint} (ABLY_ENDPOINT, ABLY_PORT)",
        ),
        ("key", lambda: _key(history), "check ABLY_API_KEY"),
    ]
    good: dict[str, bool | None] = {}
    for what, check, fix in checks:
        required = _REQUIRES.get(what, what)
        if good.get(required, True):
            finding = await _run_check(what, check, fix)
        else:
            finding = Finding(what, good=None, detail=f"not checked: requires {required}")
        good[what] = finding.good
        yield finding
    if all(good.values()):
        yield await _retention(history, settings)


async def _run_check(what: str, check: Callable[[], Awaitable[str | None]], fix: str) -> Finding:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return Finding(what, good=True, detail=await check() or "reachable")
    except TimeoutError:
        return Finding(what, good=False, detail=f"no answer within {TIMEOUT_S:.0f} s: {fix}")
    except RehydrateError as error:
        return Finding(what, good=False, detail=f"{error}: {fix}")


async def _database(url: str) -> None:
    await schema_revision(url)


async def _schema(history: History) -> str:
    await history.context.store.ready()
    return "at head"


async def _key(history: History) -> str:
    """Check that the key grants the operations that rehydrate uses on its channels."""
    settings = history.settings
    claims = await history.authority.key_capability(settings.required_ably_key())
    missing = _OPERATIONS - Capability(claims).granted(settings.channel_of("a"), _OPERATIONS)
    if missing:
        names = ", ".join(sorted(missing))
        raise NotConfigured(f"ABLY_API_KEY lacks {names} on the conversation channels")
    return "grants publish, subscribe and history"


async def _retention(history: History, settings: Settings) -> Finding:
    """Check that channel history still has a message from within REHYDRATE_RETENTION."""
    now_ms = time.time_ns() // 1_000_000
    rows, _ = await history.conversations(limit=_MAX_CONVERSATIONS)
    for row in rows:
        answer = await history.hydrate(row.id, limit=50)
        for body in map(json.loads, answer.wires):
            started_ms = timestamp_ms(body["started_at"]) or 0
            through = body["through"]  # a message imported by a backend has neither position
            on_channel = through["serial"] is not None or through["seq"] is not None
            if on_channel and _LAG_MS < now_ms - started_ms < settings.retention_ms - _LAG_MS:
                return await _check_history(history, row.channel, started_ms, now_ms)
    return Finding("retention", good=None, detail="not checked: no recent message to look for")


async def _check_history(history: History, channel: str, started_ms: int, now_ms: int) -> Finding:
    age_s = (now_ms - started_ms) // 1000
    if await _shows(history, channel, started_ms):
        return Finding(
            "retention", good=True, detail=f"channel history has a message from {age_s} s ago"
        )
    return Finding(
        "retention",
        good=False,
        detail=f"channel history no longer has a message from {age_s} s ago: lower "
        "REHYDRATE_RETENTION, or persist messages with a channel rule",
    )


async def _shows(history: History, channel: str, at_ms: int) -> bool:
    """Return True if channel history has a message from the second around *at_ms*."""
    pages = history.context.channel.history(channel, since_ms=at_ms - 1000, forwards=True)
    async with aclosing(pages) as found:
        first: list[ChannelMessage] = await anext(found, [])
    return any(message.timestamp_ms <= at_ms + 1000 for message in first)


def _print(finding: Finding) -> None:
    mark = {True: "ok", False: "WRONG", None: "?"}[finding.good]
    sys.stdout.write(f"{finding.what.ljust(_WIDTH)}  {mark:5}  {finding.detail}\n")
    sys.stdout.flush()
