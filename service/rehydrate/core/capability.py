"""Ably capabilities: which operations a key or a token grants on which channels.

A capability maps resources to operations. A resource is matched by segments, separated by ``:``.
``*`` matches one whole segment, or at the end one or more; ``foo*`` is literal. Queues and
metachannels are kinds of their own, marked by a qualifier (``[queue]``, ``[meta]``), which a bare
``*`` does not match; ``[*]*`` matches everything.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

READING: frozenset[str] = frozenset({"history", "subscribe"})
"""Either of them lets its bearer read a conversation."""

_ANY = "*"
_NOTHING: frozenset[str] = frozenset()


class _Pattern(NamedTuple):
    kind: str
    segments: tuple[str, ...]
    operations: frozenset[str]

    def covers(self, kind: str, segments: tuple[str, ...]) -> bool:
        if self.kind not in (_ANY, kind):
            return False
        if self.segments[-1] == _ANY:  # at the end it matches one segment or more
            if len(segments) < len(self.segments):
                return False
            segments = segments[: len(self.segments)]
        return len(segments) == len(self.segments) and all(
            wanted in (_ANY, given) for wanted, given in zip(self.segments, segments, strict=True)
        )


class Capability:
    """What a key or a token grants.

    Args:
        resources: operations by resource, as Ably writes them.
    """

    def __init__(self, resources: Mapping[str, Collection[str]]) -> None:
        self._exact: dict[str, frozenset[str]] = {}
        self._patterns: list[_Pattern] = []
        for resource, operations in resources.items():
            kind, segments = _split(resource)
            if _ANY in segments or kind == _ANY:
                self._patterns.append(_Pattern(kind, segments, frozenset(operations)))
            else:
                plain = _plain(kind, segments)
                self._exact[plain] = self._exact.get(plain, _NOTHING) | frozenset(operations)

    @classmethod
    def parse(cls, text: str) -> Capability:
        """Return the capability in *text*, the JSON that a token carries.

        Raises:
            ValueError: it is not a JSON map from resources to lists of operations.
        """
        try:
            return cls.of(json.loads(text))
        except RecursionError as error:
            raise ValueError("a capability is a map of lists") from error

    @classmethod
    def of(cls, value: Any) -> Capability:
        """Return the capability that *value*, parsed JSON, describes.

        Raises:
            ValueError: it is not a map from resources to lists of operations.
        """
        if not isinstance(value, dict) or not all(
            isinstance(operations, list) and all(isinstance(each, str) for each in operations)
            for operations in value.values()
        ):
            raise ValueError("a capability is a map from resources to lists of operations")
        return cls(value)

    def granted(self, channel: str, operations: frozenset[str] = READING) -> frozenset[str]:
        """Return those of *operations* that are granted on *channel*."""
        kind, segments = _split(channel)
        granted = _among(operations, self._exact.get(_plain(kind, segments), _NOTHING))
        for pattern in self._patterns:
            if pattern.covers(kind, segments):
                granted |= _among(operations, pattern.operations)
        return granted


def _among(asked: frozenset[str], operations: frozenset[str]) -> frozenset[str]:
    return asked if _ANY in operations else asked & operations


def _split(name: str) -> tuple[str, tuple[str, ...]]:
    """Return the kind of a resource (empty: a channel) and its segments.

    The part of a qualifier behind ``?`` is channel params and does not belong to the name.
    """
    kind = ""
    if name.startswith("[") and "]" in name:
        qualifier, _, name = name[1:].partition("]")
        kind = qualifier.partition("?")[0]
    return kind, tuple(name.split(":"))


def _plain(kind: str, segments: tuple[str, ...]) -> str:
    return f"[{kind}]{':'.join(segments)}"
