"""The doctor: what is configured, reachable and at head; what is wrong, and how to mend it."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from rehydrate.core.wire import timestamp_ms
from rehydrate.errors import NotConfigured, RehydrateError
from rehydrate.history import History, schema_revision
from rehydrate.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

TIMEOUT_S = 10.0
_STANDS_ON = {"schema": "database", "key": "Ably"}
_WIDTH = len("retention")
_LOOK_AT = 20
_LAG_MS = 5_000


class Finding(NamedTuple):
    """One thing that was looked at. ``good`` None: it cannot be told."""

    what: str
    good: bool | None
    detail: str


async def examine() -> int:
    """Print the findings, each as it is found; return 0 if nothing is wrong, 2 if a setting is."""
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
    looks: list[tuple[str, Callable[[], Awaitable[str | None]], str]] = [
        ("database", lambda: _database(url), "see to Postgres, and to REHYDRATE_DATABASE_URL"),
        ("schema", lambda: _schema(history), "see to the database"),
        ("Ably", history.channel_ready, f"see to the way to {endpoint}, ABLY_ENDPOINT, ABLY_PORT"),
        ("key", lambda: _key(history), "see to ABLY_API_KEY"),
    ]
    good: dict[str, bool | None] = {}
    for what, look, mend in looks:
        below = _STANDS_ON.get(what, what)
        if good.get(below, True):
            finding = await _look(what, look, mend)
        else:
            finding = Finding(what, good=None, detail=f"cannot be told without {below}")
        good[what] = finding.good
        yield finding
    if all(good.values()):
        yield await _retention(history, settings)


async def _look(what: str, look: Callable[[], Awaitable[str | None]], mend: str) -> Finding:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return Finding(what, good=True, detail=await look() or "answers")
    except TimeoutError:
        return Finding(what, good=False, detail=f"no answer within {TIMEOUT_S:.0f} s: {mend}")
    except RehydrateError as error:
        return Finding(what, good=False, detail=f"{error}: {mend}")


async def _database(url: str) -> None:
    await schema_revision(url)


async def _schema(history: History) -> str:
    await history.store_ready()
    return "at head"


async def _key(history: History) -> str:
    """What the key may do on our channels; rehydrate publishes, subscribes and reads history."""
    granted = await history.key_operations()
    missing = {"publish", "subscribe", "history"} - granted
    if missing:
        raise NotConfigured(f"ABLY_API_KEY lacks {', '.join(sorted(missing))} on our channels")
    return "may publish, subscribe and read history"


async def _retention(history: History, settings: Settings) -> Finding:
    """Whether the channel still shows a message that REHYDRATE_RETENTION says it keeps."""
    now_ms = time.time_ns() // 1_000_000
    rows, _ = await history.conversations(limit=_LOOK_AT)
    for row in rows:
        answer = await history.hydrate(row.id, limit=50)
        for body in map(json.loads, answer.wires):
            said_ms = timestamp_ms(body["started_at"]) or 0
            through = body["through"]  # of what was only handed over, neither is known
            on_channel = through["serial"] is not None or through["seq"] is not None
            if on_channel and _LAG_MS < now_ms - said_ms < settings.retention_ms - _LAG_MS:
                return await _still_there(history, row.channel, said_ms, now_ms)
    return Finding("retention", good=None, detail="no message is of an age that could tell")


async def _still_there(history: History, channel: str, said_ms: int, now_ms: int) -> Finding:
    age_s = (now_ms - said_ms) // 1000
    if await history.channel_shows(channel, said_ms):
        return Finding(
            "retention", good=True, detail=f"the channel shows what was said {age_s} s ago"
        )
    return Finding(
        "retention",
        good=False,
        detail=f"the channel has forgotten what was said {age_s} s ago: lower REHYDRATE_RETENTION, "
        "or persist messages in a channel rule",
    )


def _print(finding: Finding) -> None:
    mark = {True: "ok", False: "WRONG", None: "?"}[finding.good]
    sys.stdout.write(f"{finding.what.ljust(_WIDTH)}  {mark:5}  {finding.detail}\n")
    sys.stdout.flush()
