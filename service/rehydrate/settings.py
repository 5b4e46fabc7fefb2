"""Settings: read from the environment and validated; every error names its variable."""

from __future__ import annotations

import difflib
import logging
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import platformdirs
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from rehydrate.core.codecs import RESERVED_NAMES
from rehydrate.errors import NotConfigured

_log = logging.getLogger(__name__)

_PREFIX = "REHYDRATE_"
_OTHERS = frozenset({"REHYDRATE_LOCAL_ABLY_KEY"})
"""Documented variables that are not settings of the service."""

_FILE = "_FILE"
"""Suffix of a variable that names a file with the value, as container platforms mount secrets."""

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_KEY = re.compile(r"[^.:\s]+\.[^.:\s]+:\S+")
_KEY_LENGTH = 16
_PLACE = "{conversation_id}"
_NOT_IN_CHANNELS = re.compile(r"[\x00-\x1f\x7f]|(^|:)\*(:|$)")

Listed = Annotated[tuple[str, ...], NoDecode]
"""Comma-separated in the environment."""

Secrets = Annotated[tuple[SecretStr, ...], NoDecode]


class Settings(BaseSettings):
    """The settings of a deployment. Its representation does not contain secrets.

    Keyword arguments have the names of the attributes, and take precedence over the environment,
    which is read by the documented variables alone: another program's ``PORT`` or ``DATABASE_URL``
    is not a setting.

    Attributes:
        database_url: Postgres, any libpq connection string.
        data_dir: folder of the embedded Postgres and channel server.
        host: address that the service listens on.
        port: port that the service listens on; 0 picks a free one.
        channel_template: the channel name of a new conversation.
        service_keys: secrets of backends.
        admin_keys: secrets of admins.
        retention_ms: how long Ably keeps channel history, in ms.
        ably_keys: keys that may sign readers' tokens.
        agent_client_ids: clientIds that may publish responses; empty: any.
        token_names: further names of channel messages that mean ``token``.
        cors_origins: origins whose pages may call the API.
        cors_headers: request headers that those pages may send, in addition to the usual ones.
        lease_s: seconds after which a publisher that has not renewed its lease counts as dead.
        follow_strategy: how a new follower reads the time before its attach, if both ways are
            possible: by the rewound messages, or by history.
        follow_grace_s: how long a conversation without followers stays attached, in seconds.
        idle_limit_ms: a foreign publisher's response without output for so long is treated as
            ended, and reopens if output resumes; 0: never.
        webhook_secret: the secret that unsigned webhooks must carry.
        publish_rate: publishes per second that Ably accepts, per channel and per connection; 0:
            unlimited.
        replay_channels: other channels that replays may use, in the syntax of capabilities.
        replays_at_once: how many replays run at once, over all processes.
        replays_per_channel: how many replays run at once on one channel.
        ably_api_key: ``appId.keyId:secret``.
        ably_endpoint: as the SDK's option.
        ably_port: as the SDK's option.
        ably_tls: as the SDK's option.
    """

    model_config = SettingsConfigDict(extra="ignore", frozen=True, populate_by_name=True)

    database_url: SecretStr | None = Field(None, validation_alias="REHYDRATE_DATABASE_URL")
    data_dir: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("rehydrate"),
        validation_alias="REHYDRATE_DATA_DIR",
    )
    host: str = Field("127.0.0.1", validation_alias="REHYDRATE_HOST")
    port: int = Field(8000, ge=0, le=65535, validation_alias="REHYDRATE_PORT")
    channel_template: str = Field("ai:" + _PLACE, validation_alias="REHYDRATE_CHANNEL_TEMPLATE")
    service_keys: Secrets = Field((), validation_alias="REHYDRATE_SERVICE_KEYS")
    admin_keys: Secrets = Field((), validation_alias="REHYDRATE_ADMIN_KEYS")
    retention_ms: int = Field(120_000, gt=0, validation_alias="REHYDRATE_RETENTION")
    ably_keys: Secrets = Field((), validation_alias="REHYDRATE_ABLY_KEYS")
    agent_client_ids: Listed = Field((), validation_alias="REHYDRATE_AGENT_CLIENT_IDS")
    token_names: Listed = Field((), validation_alias="REHYDRATE_TOKEN_NAMES")
    cors_origins: Listed = Field((), validation_alias="REHYDRATE_CORS_ORIGINS")
    cors_headers: Listed = Field((), validation_alias="REHYDRATE_CORS_HEADERS")
    lease_s: float = Field(15.0, gt=0, le=3600, validation_alias="REHYDRATE_LEASE_SECONDS")
    follow_strategy: Literal["rewind", "history"] = Field(
        "rewind", validation_alias="REHYDRATE_FOLLOW_STRATEGY"
    )
    follow_grace_s: float = Field(
        30.0, ge=0, le=3600, validation_alias="REHYDRATE_FOLLOW_GRACE_SECONDS"
    )
    idle_limit_ms: int = Field(600_000, ge=0, validation_alias="REHYDRATE_IDLE_LIMIT")
    webhook_secret: SecretStr | None = Field(None, validation_alias="REHYDRATE_WEBHOOK_SECRET")
    publish_rate: float = Field(50.0, ge=0, le=10_000, validation_alias="REHYDRATE_PUBLISH_RATE")
    replay_channels: Listed = Field((), validation_alias="REHYDRATE_REPLAY_CHANNELS")
    replays_at_once: int = Field(8, ge=1, le=1000, validation_alias="REHYDRATE_REPLAYS_AT_ONCE")
    replays_per_channel: int = Field(
        1, ge=1, le=100, validation_alias="REHYDRATE_REPLAYS_PER_CHANNEL"
    )
    ably_api_key: SecretStr | None = Field(None, validation_alias="ABLY_API_KEY")
    ably_endpoint: str | None = Field(None, validation_alias="ABLY_ENDPOINT")
    ably_port: int | None = Field(None, ge=1, le=65535, validation_alias="ABLY_PORT")
    ably_tls: bool = Field(True, validation_alias="ABLY_TLS")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_others: PydanticBaseSettingsSource,
        **_named: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the keyword arguments, then the documented variables.

        The library's own source of variables also reads one with the name of each field, since
        ``populate_by_name`` is set.
        """
        given = {name: os.environ[name] for name in _variables() if name in os.environ}
        given |= {name: _read_file(name) for name in _secrets() if name + _FILE in os.environ}
        return init_settings, InitSettingsSource(settings_cls, given)

    @field_validator(
        "database_url",
        "webhook_secret",
        "ably_api_key",
        "ably_endpoint",
        "ably_port",
        mode="before",
    )
    @classmethod
    def _empty_is_unset(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator(
        "service_keys",
        "admin_keys",
        "ably_keys",
        "agent_client_ids",
        "token_names",
        "cors_origins",
        "cors_headers",
        "replay_channels",
        mode="before",
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part for each in re.split(r"[,\n]", value) if (part := each.strip()))
        return value

    @field_validator("retention_ms", "idle_limit_ms", mode="before")
    @classmethod
    def _duration(cls, value: Any) -> Any:
        if isinstance(value, str) and value.strip() != "0":
            matched = re.fullmatch(r"(\d+)([smhd])", value.strip())
            if matched is None:
                raise ValueError("a duration must be a number with a unit: 2m, 24h, 30d")
            return int(matched[1]) * _UNITS_S[matched[2]] * 1000
        return value

    @field_validator("channel_template")
    @classmethod
    def _has_place(cls, value: str) -> str:
        if value.count(_PLACE) != 1:
            raise ValueError(f"the template must contain {_PLACE} exactly once")
        if _NOT_IN_CHANNELS.search(value) or value.startswith((":", "[")):
            raise ValueError(
                "no channel can have such a name: it must not begin with : or [, nor contain"
                " control characters or a segment that is *"
            )
        return value

    @field_validator("token_names")
    @classmethod
    def _are_unknown(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if known := sorted(RESERVED_NAMES.intersection(value)):
            raise ValueError(f"these names have a fixed meaning: {', '.join(known)}")
        return value

    @field_validator("service_keys", "admin_keys")
    @classmethod
    def _are_long(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(each.get_secret_value()) < _KEY_LENGTH for each in value):
            raise ValueError(f"a key must have at least {_KEY_LENGTH} characters")
        return value

    @model_validator(mode="after")
    def _keys_differ(self) -> Self:
        if {*self.service_keys} & {*self.admin_keys}:
            raise ValueError(
                "REHYDRATE_SERVICE_KEYS and REHYDRATE_ADMIN_KEYS share a key: use different ones"
            )
        return self

    @field_validator("ably_api_key")
    @classmethod
    def _is_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _KEY.fullmatch(value.get_secret_value()):
            raise ValueError("an Ably key has the form appId.keyId:secret")
        return value

    def channel_of(self, conversation_id: str) -> str:
        """Return the channel of a conversation that has no row yet."""
        return self.channel_template.replace(_PLACE, conversation_id)

    def conversation_on(self, channel: str) -> str | None:
        """Return the conversation that the template maps to *channel*; None if there is none."""
        before, _, after = self.channel_template.partition(_PLACE)
        if not (channel.startswith(before) and channel.endswith(after)):
            return None
        conversation_id = channel[len(before) : len(channel) - len(after)]
        named = conversation_id and self.channel_of(conversation_id) == channel
        return conversation_id if named else None

    def required_database_url(self) -> str:
        """Return the database URL.

        Raises:
            NotConfigured: it is not set.
        """
        if self.database_url is None:
            raise NotConfigured(
                "REHYDRATE_DATABASE_URL is not set: set a Postgres URL "
                "(or use `rehydrate demo` or `rehydrate serve --embedded`)"
            )
        return self.database_url.get_secret_value()

    def required_ably_key(self) -> str:
        """Return the Ably API key.

        Raises:
            NotConfigured: it is not set.
        """
        if self.ably_api_key is None:
            raise NotConfigured(
                "ABLY_API_KEY is not set: set appId.keyId:secret "
                "(or use `rehydrate demo` or `rehydrate serve --embedded`)"
            )
        return self.ably_api_key.get_secret_value()

    def reader_keys(self) -> list[str]:
        """Return the Ably keys that may sign readers' tokens."""
        if self.ably_keys:
            return revealed(self.ably_keys)
        return [self.ably_api_key.get_secret_value()] if self.ably_api_key else []


def revealed(secrets: tuple[SecretStr, ...]) -> list[str]:
    """Return the plain values of *secrets*."""
    return [secret.get_secret_value() for secret in secrets]


def _variables() -> list[str]:
    """Return the documented variables of the settings."""
    return [str(field.validation_alias) for field in Settings.model_fields.values()]


def _secrets() -> list[str]:
    """Return the variables whose value may be a secret; each may be given as the name of a file."""
    fields = Settings.model_fields.values()
    return [str(each.validation_alias) for each in fields if "SecretStr" in str(each.annotation)]


def _read_file(name: str) -> str:
    """Return the content of the file that ``<name>_FILE`` names.

    Raises:
        NotConfigured: the variable *name* is set too, or the file cannot be read.
    """
    path = os.environ[name + _FILE]
    if os.environ.get(name):
        raise NotConfigured(f"{name} and {name}{_FILE} are both set: unset one of them")
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise NotConfigured(f"{name}{_FILE}: cannot read {path!r} ({reason})") from None


def described(settings: Settings) -> dict[str, str]:
    """Return each setting by its variable, as text without secrets, and whether it is a default."""
    shown = {}
    for attribute, field in Settings.model_fields.items():
        name, value = str(field.validation_alias), getattr(settings, attribute)
        if name in _secrets():
            count = len(value) if isinstance(value, tuple) else 1
            text = "" if not value else f"(hidden, {count} of them)" if count > 1 else "(hidden)"
        elif isinstance(value, tuple):
            text = ",".join(value)
        else:
            text = "" if value is None else str(value)
        shown[name] = text + ("" if attribute in settings.model_fields_set else "  (default)")
    return shown


def unknown_variables() -> list[str]:
    """Describe each variable of the environment that has our prefix and is not a setting.

    Only names are described: the value of a misspelt variable may be a secret.
    """
    known = _OTHERS.union(_variables(), [name + _FILE for name in _secrets()])
    ends = [name.removeprefix(_PREFIX) for name in known if name.startswith(_PREFIX)]
    described = []
    for name in sorted(os.environ.keys() - known):
        if name.upper().startswith(_PREFIX):
            close = difflib.get_close_matches(name[len(_PREFIX) :].upper(), ends, 1)
            described.append(f"{name} (is {_PREFIX}{close[0]} meant?)" if close else name)
    return described


def load_settings(**values: Any) -> Settings:
    """Read the settings from the environment; *values* take precedence.

    Variables with our prefix that are not settings are logged.

    Raises:
        NotConfigured: a setting is invalid; names its variable.
    """
    if unknown := unknown_variables():
        _log.warning("ignored unknown variables: %s", ", ".join(unknown))
    try:
        return Settings(**values)
    except ValidationError as error:
        faults = (
            ": ".join((*map(str, each["loc"]), each["msg"]))
            for each in error.errors(include_input=False, include_url=False)
        )
        raise NotConfigured("; ".join(faults)) from None
