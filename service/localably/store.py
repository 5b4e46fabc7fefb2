"""Persisted channels in one SQLite file, so that they outlive a restart and a kill -9.

Writes are gathered and committed once per turn of the event loop, before anything of that turn is
acknowledged. One process at a time owns the file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgpack  # type: ignore[import-untyped]  # it ships no types

from .channel import Channel
from .messages import Message, size_bytes

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS version (
    app_id TEXT NOT NULL,
    channel TEXT NOT NULL,
    serial TEXT NOT NULL,
    version TEXT NOT NULL,
    appended INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (app_id, channel, serial, version)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS presence (
    app_id TEXT NOT NULL,
    channel TEXT NOT NULL,
    serial TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (app_id, channel, serial)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS published (
    app_id TEXT NOT NULL,
    channel TEXT NOT NULL,
    id TEXT NOT NULL,
    serial TEXT NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (app_id, channel, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS floor (
    app_id TEXT NOT NULL,
    channel TEXT NOT NULL,
    serial TEXT NOT NULL,
    PRIMARY KEY (app_id, channel)
) WITHOUT ROWID;
"""
_CONTENTS: Final = ("version", "presence", "published")
_TABLES: Final = (*_CONTENTS, "floor")
_IDEMPOTENCY_MS: Final = 120_000
_FILE: Final = "channels.sqlite3"


class ChannelStore:
    """The persisted channels in one folder.

    Args:
        folder: made if it is not there.

    Raises:
        OSError: the folder cannot be used, or another process has it.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(folder / _FILE, isolation_level=None, timeout=1)
            # a killed process loses nothing that was committed; only a power cut might
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(_SCHEMA)
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise OSError(f"the data folder {folder} cannot be used: {error}") from error

    def keep(self, channel: Channel, message: Message) -> None:
        """Write a new message, or a newer version of one; durable after `commit`."""
        if not channel.persisted:
            return
        self._begin()
        key = (channel.app_id, channel.name, message.serial)
        if message.appended:
            # of a row of appends only the last is a version
            self._db.execute(
                "DELETE FROM version WHERE app_id = ? AND channel = ? AND serial = ?"
                " AND appended = 1 AND version ="
                " (SELECT max(version) FROM version WHERE app_id = ? AND channel = ? AND serial = ?)",
                key + key,
            )
        body = msgpack.packb(message.fields)
        self._db.execute(
            "INSERT OR REPLACE INTO version VALUES (?, ?, ?, ?, ?, ?)",
            (*key, message.version_serial, message.appended, body),
        )

    def keep_presence(self, channel: Channel, message: Message) -> None:
        """Write a presence message; durable after `commit`."""
        if channel.persisted:
            self._begin()
            self._db.execute(
                "INSERT OR REPLACE INTO presence VALUES (?, ?, ?, ?)",
                (channel.app_id, channel.name, message.serial, msgpack.packb(message.fields)),
            )

    def name(self, channel: Channel, own_id: str, serial: str, now_ms: int) -> None:
        """Write the id that a publisher gave to what has *serial*; durable after `commit`."""
        if channel.persisted:
            self._begin()
            self._db.execute(
                "INSERT OR REPLACE INTO published VALUES (?, ?, ?, ?, ?)",
                (channel.app_id, channel.name, own_id, serial, now_ms),
            )

    def load(self, channel: Channel, now_ms: int) -> None:
        """Load the stored messages of a channel, and the ids of publishers, into its logs."""
        key = (channel.app_id, channel.name)
        rows = self._db.execute(
            "SELECT appended, body FROM version WHERE app_id = ? AND channel = ?"
            " ORDER BY serial, version",
            key,
        )
        found = [Message(msgpack.unpackb(body), appended=bool(flag)) for flag, body in rows]
        floor = self._db.execute(
            "SELECT serial FROM floor WHERE app_id = ? AND channel = ?", key
        ).fetchone()
        sized = [(message, size_bytes(message.fields)) for message in found]
        channel.log.restore(sized, floor[0] if floor else None, now_ms)
        present = self._db.execute(
            "SELECT body FROM presence WHERE app_id = ? AND channel = ? ORDER BY serial", key
        )
        for (body,) in present:
            fields = msgpack.unpackb(body)
            channel.presence_log.add(Message(fields, bare=True), size_bytes(fields))
        channel.presence_log.prune(now_ms)
        named = self._db.execute(
            "SELECT id, serial, at_ms FROM published WHERE app_id = ? AND channel = ?"
            " ORDER BY at_ms",
            key,
        )
        for own_id, serial, at_ms in named:
            channel.log.remember(own_id, serial, at_ms)

    def drop(self, app_id: str, name: str | None = None, floor: str | None = None) -> None:
        """Forget a channel, or all channels of an app; they are complete from *floor* on."""
        self._begin()
        if name is None and floor is not None:
            # channels that are not loaded have to know where what they keep begins
            self._db.execute(
                "INSERT OR REPLACE INTO floor"
                " SELECT DISTINCT app_id, channel, ? FROM version WHERE app_id = ?",
                (floor, app_id),
            )
        for table in _CONTENTS if name is None and floor else _TABLES:
            self._db.execute(
                f"DELETE FROM {table} WHERE app_id = ? AND channel = coalesce(?, channel)",  # noqa: S608 - a constant
                (app_id, name),
            )
        if name is not None and floor is not None:
            self._db.execute("INSERT INTO floor VALUES (?, ?, ?)", (app_id, name, floor))

    def purge(self, retention_ms: Callable[[str, str], int], now_ms: int) -> None:
        """Delete messages older than their channel's retention (by app and name, in ms)."""
        channels = self._db.execute(
            "SELECT app_id, channel FROM version UNION SELECT app_id, channel FROM presence"
        ).fetchall()
        self._begin()
        for app_id, name in channels:
            oldest = f"{max(0, now_ms - retention_ms(app_id, name)):014d}"
            for table in ("version", "presence"):
                self._db.execute(
                    f"DELETE FROM {table} WHERE app_id = ? AND channel = ? AND serial < ?",  # noqa: S608 - a constant
                    (app_id, name, oldest),
                )
        self._db.execute("DELETE FROM published WHERE at_ms < ?", (now_ms - _IDEMPOTENCY_MS,))
        self.commit()

    def commit(self) -> None:
        """Make all writes durable."""
        if self._db.in_transaction:
            self._db.execute("COMMIT")

    def close(self) -> None:
        """Commit, and let go of the file."""
        self.commit()
        self._db.close()

    def _begin(self) -> None:
        if not self._db.in_transaction:
            self._db.execute("BEGIN")
