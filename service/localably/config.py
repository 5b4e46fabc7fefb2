"""What a server is configured with: apps, keys, namespaces, limits and times."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from .capability import ServerCapability
from .errors import RefusedError

EVERYTHING: Final = '{"[*]*":["*"]}'
ORDINARY: Final = '{"*":["*"]}'
LONGEST_REVOCABLE_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Key:
    """An API key.

    Attributes:
        app_id: the app it belongs to.
        key_id: its public half within the app.
        secret: its private half.
        capability: the operations it grants.
        revocable_tokens: whether its tokens can be revoked; these are valid for at most an hour.
    """

    app_id: str
    key_id: str
    secret: str = field(repr=False)
    capability: ServerCapability = field(default_factory=lambda: ServerCapability.parse(EVERYTHING))
    revocable_tokens: bool = False

    @property
    def name(self) -> str:
        """`appId.keyId`, which is not a secret."""
        return f"{self.app_id}.{self.key_id}"

    @property
    def value(self) -> str:
        """`appId.keyId:secret`, as SDKs take it."""
        return f"{self.name}:{self.secret}"

    @classmethod
    def parse(cls, value: str, capability: str = EVERYTHING) -> Key:
        """Return the key written `appId.keyId:secret`.

        Raises:
            RefusedError: 40101, it is not written so.
        """
        name, colon, secret = value.partition(":")
        app_id, dot, key_id = name.partition(".")
        if not (colon and dot and app_id and key_id and secret):
            raise RefusedError(40101, "a key is written appId.keyId:secret")
        return cls(app_id, key_id, secret, ServerCapability.parse(capability))

    @classmethod
    def make(cls, app_id: str | None = None, capability: str = EVERYTHING) -> Key:
        """Return a new key, of a new app unless one is named."""
        return cls(
            app_id or secrets.token_hex(3),
            secrets.token_hex(3),
            secrets.token_urlsafe(32),
            ServerCapability.parse(capability),
        )


@dataclass(frozen=True, slots=True)
class Namespace:
    """Rules of the channels named `id`, or with names that start with `id:`.

    Attributes:
        id: the first segment of the channels' names.
        persisted: keep history for `persisted_retention_s`, across restarts with a data folder.
        mutable: the rule "Message annotations, updates, deletes, and appends"; also persists.
        retention_s: keep history for so many seconds instead.
    """

    id: str
    persisted: bool = False
    mutable: bool = False
    retention_s: float | None = None


@dataclass(slots=True)
class App:
    """An app with its keys by name and its namespaces by id."""

    app_id: str
    keys: dict[str, Key] = field(default_factory=dict)
    namespaces: dict[str, Namespace] = field(default_factory=dict)
    made_by_request: bool = False


@dataclass(frozen=True, slots=True)
class LocalAblySettings:
    """Times, sizes and limits; the defaults are Ably's documented ones.

    Attributes:
        retention_s: how long a channel without persistence keeps history.
        persisted_retention_s: the same with persistence.
        connection_state_ttl_s: how long a lost connection can be resumed.
        max_idle_interval_s: the server is never silent for longer.
        max_message_bytes: the most that one publish may have (TM6).
        max_frame_bytes: the most that one frame may have, in and out.
        rewind_limit: the most messages that an attach rewinds.
        page_limit: the most messages that a page of history has.
        enforce_limits: whether the rates below are enforced.
        channel_rate_per_s: publishes a second on one channel.
        connection_rate_per_s: publishes a second from one connection, and deliveries to it.
        channels_per_connection: the most attachments of one connection.
        slow_reader_bytes: a connection with more unread bytes than this is cut.
        channel_memory_bytes: the most that one channel keeps; the oldest goes first.
        token_warning_s: how long before a token expires its client is asked for a new one.
    """

    retention_s: float = 120.0
    persisted_retention_s: float = 86_400.0
    connection_state_ttl_s: float = 120.0
    max_idle_interval_s: float = 15.0
    max_message_bytes: int = 65_536
    max_frame_bytes: int = 524_288
    rewind_limit: int = 100
    page_limit: int = 1000
    enforce_limits: bool = False
    channel_rate_per_s: int = 50
    connection_rate_per_s: int = 50
    channels_per_connection: int = 20_000
    slow_reader_bytes: int = 8_388_608
    channel_memory_bytes: int = 134_217_728
    token_warning_s: float = 30.0

    def retention_ms(self, namespace: Namespace | None) -> int:
        """Return how long channels of *namespace* keep history, in milliseconds."""
        if namespace is None:
            return int(self.retention_s * 1000)
        if namespace.retention_s is not None:
            return int(namespace.retention_s * 1000)
        lasting = namespace.persisted or namespace.mutable
        return int((self.persisted_retention_s if lasting else self.retention_s) * 1000)


STANDARD_NAMESPACES: Final = (
    Namespace("persisted", persisted=True),
    Namespace("mutable", persisted=True, mutable=True),
)


def apps_of(
    keys: Sequence[str | Key], namespaces: Sequence[Namespace] = STANDARD_NAMESPACES
) -> dict[str, App]:
    """Return the apps that *keys* belong to, each with *namespaces*; a key is made if none is given.

    Raises:
        RefusedError: 40101, a key is not written `appId.keyId:secret`.
    """
    apps: dict[str, App] = {}
    for item in keys or (Key.make(),):
        key = item if isinstance(item, Key) else Key.parse(item)
        app = apps.setdefault(key.app_id, App(key.app_id))
        app.keys[key.name] = key
        app.namespaces.update({namespace.id: namespace for namespace in namespaces})
    return apps


def namespace_from(item: Mapping[str, Any]) -> Namespace:
    """Return the namespace in one entry of a config file, or of `POST /apps`.

    Raises:
        RefusedError: 40000, it has no id, or a value has the wrong type.
    """
    name, retention_s = item.get("id"), item.get("retention_s")
    if not isinstance(name, str) or not name:
        raise RefusedError(40000, "a namespace needs an id")
    if retention_s is not None and (not isinstance(retention_s, (int, float)) or retention_s <= 0):
        raise RefusedError(40000, f"retention_s of namespace {name!r} has to be a positive number")
    return Namespace(
        name,
        persisted=bool(item.get("persisted")),
        mutable=bool(item.get("mutableMessages") or item.get("mutable")),
        retention_s=retention_s,
    )


def key_from(app_id: str, item: Mapping[str, Any]) -> Key:
    """Return the key in one entry of a config file, or of `POST /apps`; a value is made if absent.

    Raises:
        RefusedError: 40101 or 40000, the key or its capability is not well formed.
    """
    capability = item.get("capability") or ORDINARY
    if not isinstance(capability, str):
        raise RefusedError(40000, "the capability of a key is written as JSON text")
    value = item.get("value") or item.get("key")
    key = Key.parse(value, capability) if isinstance(value, str) else Key.make(app_id, capability)
    return replace(key, revocable_tokens=bool(item.get("revocableTokens")))
