"""The chat's settings, from the environment; `.env.example` lists all of them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from rehydrate import Settings


class ChatSettings(BaseSettings):
    """Settings of the chat itself. rehydrate reads those of Postgres and Ably, OpenAI's client its own.

    Attributes:
        hosts: allowed Host headers, comma-separated.
        api: which of OpenAI's APIs answers.
        at_once: maximum number of running answers, per conversation and in total.
    """

    model_config = SettingsConfigDict(env_prefix="CHAT_", extra="ignore")

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    hosts: str = "127.0.0.1,localhost"
    api: Literal["responses", "assistants"] = "responses"
    model: str = "gpt-5-mini"
    assistant_id: str = "asst_scripted"
    at_once: tuple[int, int] = (6, 64)


def ably_options(settings: Settings) -> dict[str, object]:
    """Return the options, except for the token, with which the page's Ably SDK connects."""
    if settings.ably_endpoint is None:
        return {}
    options = {"endpoint": settings.ably_endpoint, "tls": settings.ably_tls}
    if settings.ably_port is not None:
        options["tlsPort" if settings.ably_tls else "port"] = settings.ably_port
    return options


def ably_origins(settings: Settings) -> str:
    """Return the origins of Ably, as sources of a Content-Security-Policy."""
    if settings.ably_endpoint is None:
        hosts = ("*.ably.net", "*.ably.io", "*.ably-realtime.com")
        return " ".join(f"https://{host} wss://{host}" for host in hosts)
    port = f":{settings.ably_port}" if settings.ably_port else ""
    kinds = ("https", "wss") if settings.ably_tls else ("http", "ws")
    return " ".join(f"{kind}://{settings.ably_endpoint}{port}" for kind in kinds)
