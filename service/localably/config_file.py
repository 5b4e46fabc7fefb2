"""The config file of the command line: apps, namespaces, webhooks and settings, in TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from .config import (
    EVERYTHING,
    STANDARD_NAMESPACES,
    App,
    LocalAblySettings,
    key_from,
    namespace_from,
)
from .errors import RefusedError


def apps_from(items: Sequence[Mapping[str, Any]]) -> list[App]:
    """Return the apps in a config file: each with `keys` and `namespaces`.

    Raises:
        RefusedError: 40101 or 40000, a key or a namespace is not well formed.
    """
    apps: dict[str, App] = {}
    for item in items:
        namespaces = [namespace_from(one) for one in item.get("namespaces", [])]
        for one in item.get("keys", []):
            entry = {"value": one} if isinstance(one, str) else one
            key = key_from("", {"capability": EVERYTHING, **entry})
            app = apps.setdefault(key.app_id, App(key.app_id))
            app.keys[key.name] = key
            app.namespaces.update({n.id: n for n in (*STANDARD_NAMESPACES, *namespaces)})
    return list(apps.values())


def settings_from(item: Mapping[str, Any]) -> LocalAblySettings:
    """Return the settings in a config file.

    Raises:
        RefusedError: 40000, the setting does not exist, or its value has the wrong type.
    """
    known = {one.name: one.default for one in fields(LocalAblySettings)}
    for name, value in item.items():
        if name not in known:
            raise RefusedError(40000, f"there is no setting {name!r}; there are {', '.join(known)}")
        kind: Any = (int, float) if isinstance(known[name], float) else type(known[name])
        if not isinstance(value, kind) or float(value) < 0:
            raise RefusedError(40000, f"the setting {name!r} has the wrong type")
    return LocalAblySettings(**item)


def read_config(path: Path) -> dict[str, Any]:
    """Return the content of a config file (TOML): `settings`, `apps`, `webhooks`.

    Raises:
        OSError: it cannot be read.
        RefusedError: 40000, it is not well formed.
    """
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RefusedError(40000, f"{path} is not valid TOML: {error}") from error
    unknown = set(value) - {"settings", "apps", "webhooks"}
    if unknown:
        raise RefusedError(40000, f"{path} may have settings, apps and webhooks only")
    return value
