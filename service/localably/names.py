"""Channel names: qualifiers such as `[?rewind=1]name`, and what a name may be."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl

from .errors import RefusedError

_QUALIFIED: Final = re.compile(r"\A\[([^\]?]*)(?:\?([^\]]*))?\](.*)\Z", re.DOTALL)
_KNOWN_QUALIFIERS: Final = ("", "meta")
_FILTER: Final = "filter="
_LONGEST: Final = 2048


@dataclass(frozen=True, slots=True)
class ChannelName:
    """A channel's name as a client wrote it, taken apart.

    Attributes:
        wire: as written; frames to that client carry it.
        base: the channel's own name.
        params: params of the qualifier.
        filter: the filter of a filtered subscription, as base64; None without one.
    """

    wire: str
    base: str
    params: dict[str, str] = field(default_factory=dict)
    filter: str | None = None

    @property
    def namespace(self) -> str:
        """The first segment, which finds the channel's rules."""
        return self.base.partition(":")[0]

    @property
    def resource(self) -> str:
        """The name that is checked against capabilities."""
        return self.base if self.filter is None else f"[filter]{self.base}"


def parse(name: str) -> ChannelName:
    """Return the parts of the name of a channel that is used without a filter.

    Raises:
        RefusedError: 40010, it is not a valid name; 40000, it has a filter.
    """
    parsed = parse_filtered(name)
    if parsed.filter is not None:
        raise RefusedError(40000, "a channel with a filter can only be subscribed to")
    return parsed


def parse_filtered(name: str) -> ChannelName:
    """Return the parts of a channel's name, which may have a filter.

    Raises:
        RefusedError: 40010, it is not a valid name.
    """
    base, params, chosen = name, {}, None
    if name.startswith("["):
        found = _QUALIFIED.match(name)
        if found is not None and found[1].startswith(_FILTER):
            chosen = found[1].removeprefix(_FILTER)
        elif found is None or found[1] not in _KNOWN_QUALIFIERS:
            raise RefusedError(40010, "the channel name has an invalid qualifier")
        params = dict(parse_qsl(found[2] or "", keep_blank_values=True))
        base = f"[{found[1]}]{found[3]}" if found[1] == "meta" else found[3]
    plain = base.removeprefix("[meta]")
    if not plain or plain.startswith(":") or len(plain) > _LONGEST:
        raise RefusedError(40010, "the channel name is empty, too long or begins with a colon")
    if "*" in plain.split(":") or any(character < " " for character in plain):
        raise RefusedError(40010, "the channel name has a wildcard or a control character")
    return ChannelName(name, base, params, chosen)
