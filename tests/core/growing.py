"""Versioned channel messages for tests."""

from __future__ import annotations

from core.builders import BEGAN_MS, serial
from rehydrate.core.event import APPEND, CREATE, UPDATE, ChannelMessage


def at(second):
    return serial(BEGAN_MS + round(second * 1000))


def message(
    action, created_s, text, *, version_s=None, name="response", rid="r", done=False, client_id=None
):
    """A channel message created at *created_s*, as of the version of *version_s*."""
    version_s = created_s if version_s is None else version_s
    return ChannelMessage(
        name,
        text,
        f"m{version_s}",
        at(created_s),
        BEGAN_MS + round(created_s * 1000),
        client_id,
        {"headers": {"responseId": rid}} if rid else None,
        action,
        at(version_s),
        {"phase": "done"} if done else None,
    )


def create(created_s, text="", **more):
    return message(CREATE, created_s, text, **more)


def full(created_s, version_s, text, **more):
    return message(UPDATE, created_s, text, version_s=version_s, **more)


def append(created_s, version_s, text, **more):
    return message(APPEND, created_s, text, version_s=version_s, **more)
