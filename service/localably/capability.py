"""Capabilities: which operations a key or a token grants on which channels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

import orjson

from .errors import RefusedError

ALL_OPERATIONS: Final = "*"
_QUALIFIER: Final = re.compile(r"\A\[([^\]]*)\](.*)\Z", re.DOTALL)


class ServerCapability:
    """An immutable map from resources to operations."""

    __slots__ = ("_allowed", "resources")

    def __init__(self, resources: Mapping[str, Iterable[str]]) -> None:
        self.resources = {name: frozenset(operations) for name, operations in resources.items()}
        self._allowed: dict[tuple[str, str], bool] = {}

    @classmethod
    def parse(cls, text: str) -> ServerCapability:
        """Return the capability in its JSON text.

        Raises:
            RefusedError: 40000, the text is not a map from resources to lists of operations.
        """
        try:
            value = orjson.loads(text)
        except ValueError as error:
            raise RefusedError(40000, "the capability is not valid JSON") from error
        if not isinstance(value, dict):
            raise RefusedError(40000, "the capability has to be a map")
        resources = {name: _operations(name, operations) for name, operations in value.items()}
        return cls(resources)

    def __str__(self) -> str:
        """The canonical text: resources and operations in order."""
        value = {name: sorted(self.resources[name]) for name in sorted(self.resources)}
        return orjson.dumps(value).decode()

    def __bool__(self) -> bool:
        return bool(self.resources)

    def allows(self, channel: str, operation: str) -> bool:
        """Say whether *operation* is granted on *channel* (its name without qualifier)."""
        known = self._allowed.get((channel, operation))
        if known is None:
            known = any(
                (operation in operations or ALL_OPERATIONS in operations)
                and covers(resource, channel)
                for resource, operations in self.resources.items()
            )
            if len(self._allowed) > _MOST_REMEMBERED:
                self._allowed.clear()
            self._allowed[channel, operation] = known
        return known

    def meet(self, other: ServerCapability) -> ServerCapability:
        """Return what both grant (RSA: a token's capability within its key's)."""
        met: dict[str, frozenset[str]] = {}
        for mine, my_operations in self.resources.items():
            for theirs, their_operations in other.resources.items():
                resource = _narrower(mine, theirs)
                operations = _common(my_operations, their_operations)
                if resource is not None and operations:
                    met[resource] = met.get(resource, frozenset()) | operations
        return ServerCapability(met)


_MOST_REMEMBERED: Final = 10_000


def covers(resource: str, name: str) -> bool:
    """Say whether the pattern *resource* covers *name*, which may itself be a pattern."""
    pattern_kind, pattern = _split(resource)
    kind, plain = _split(name)
    if pattern_kind not in (kind, "*"):
        return False
    wanted = pattern.split(":")
    given = plain.split(":")
    for place, segment in enumerate(wanted):
        last = place == len(wanted) - 1
        if place >= len(given):
            return False
        if segment == "*" and last:
            return True
        if segment not in ("*", given[place]):
            return False
    return len(wanted) == len(given)


def _split(name: str) -> tuple[str, str]:
    """Return the qualifier without its params, and the rest; `` for none."""
    found = _QUALIFIER.match(name)
    if found is None:
        return "", name
    return found[1].partition("?")[0], found[2]


def _narrower(first: str, second: str) -> str | None:
    if covers(first, second):
        return second
    if covers(second, first):
        return first
    return None


def _common(first: frozenset[str], second: frozenset[str]) -> frozenset[str]:
    if ALL_OPERATIONS in first:
        return second
    if ALL_OPERATIONS in second:
        return first
    return first & second


def _operations(name: str, value: object) -> list[str]:
    operations = [value] if isinstance(value, str) else value
    if not isinstance(operations, list) or not operations:
        raise RefusedError(40000, f"the operations of {name!r} in the capability have to be a list")
    unknown = [item for item in operations if not isinstance(item, str) or item not in _OPERATIONS]
    if unknown or (ALL_OPERATIONS in operations and len(operations) > 1):
        raise RefusedError(40000, f"the operations of {name!r} in the capability are not valid")
    return operations


_OPERATIONS: Final = frozenset(
    {
        ALL_OPERATIONS,
        "subscribe",
        "publish",
        "presence",
        "presence-subscribe",
        "object-subscribe",
        "object-publish",
        "annotation-subscribe",
        "annotation-publish",
        "message-update-own",
        "message-update-any",
        "message-delete-own",
        "message-delete-any",
        "history",
        "stats",
        "push-subscribe",
        "push-admin",
        "channel-metadata",
        "privileged-headers",
    }
)
