"""What the chat is told by its environment; `.env.example` names everything."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from rehydrate import Settings


class ChatSettings(BaseSettings):
    """Of the chat alone; those of Postgres and Ably are rehydrate's, those of OpenAI its client's.

    ``hosts``: under which names the page is called, comma-separated; others are refused. ``api``: which
    of OpenAI's APIs answers. ``at_once``: how many answers may be under way, in one conversation
    and in all.
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
    """How the page's Ably SDK finds Ably, beside the token that it asks us for."""
    if settings.ably_endpoint is None:
        return {}
    options = {"endpoint": settings.ably_endpoint, "tls": settings.ably_tls}
    if settings.ably_port is not None:
        options["tlsPort" if settings.ably_tls else "port"] = settings.ably_port
    return options


def ably_origins(settings: Settings) -> str:
    """Where the page may connect to, as a Content-Security-Policy says it."""
    if settings.ably_endpoint is None:
        hosts = ("*.ably.net", "*.ably.io", "*.ably-realtime.com")
        return " ".join(f"https://{host} wss://{host}" for host in hosts)
    port = f":{settings.ably_port}" if settings.ably_port else ""
    kinds = ("https", "wss") if settings.ably_tls else ("http", "ws")
    return " ".join(f"{kind}://{settings.ably_endpoint}{port}" for kind in kinds)
