"""Switches for the faults that a real channel service has from time to time.

The parameters common to all faults choose when one fires: `nth` (a number or a list, counted from 1),
`every` (each n-th time), `share` (0 to 1, drawn with `seed`), `after` (not the first n times), `count`
(at most n times), `channel` (a name, or a prefix followed by `*`). Without any of them it fires every
time. `freeze` and `enforce_limits` are states: they last while they are on, whatever those parameters.

Every fault counts its opportunities (`asked`) and its effects (`fired`), also after it is switched off,
until it is switched on again: a test can assert that a fault had an effect.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from .errors import RefusedError

KNOWN: Final = {
    "refuse_publish": "answer publishes with `code` (42911; 42913, 40009 …)",
    "refuse_attach": "answer ATTACH with `code` (40160)",
    "refuse_resume": "resume no connection: a new one with `code` (80008)",
    "refuse_continuity": "continue no channel: attached without RESUMED, with `code` (90003)",
    "delay_backlog": "send the backlog of an attach, and what follows it, `ms` (1000) after ATTACHED",
    "drop_deliveries": "drop a delivery to an attachment; `code` 80020 reports it, `silent` does not",
    "lose_acks": "publish, but do not acknowledge",
    "delay_history": "history shows only messages older than `ms` (1000)",
    "refuse_until_attach": "history up to an attach point is refused with `code` (90008)",
    "fail_history": "history answers `status` (500; 503, 429), with `retry_after_s` if given",
    "stall_requests": "REST requests are answered after `seconds` (30)",
    "freeze": "write nothing to the connections, and read nothing from them",
    "omit_serials": "messages carry no serial and no version",
    "full_updates": "deliver an append as a full update, also to those who have had the message",
    "omit_version_serials": "acknowledge an update, delete or append with a null version serial",
    "drop_append_extras": "an append without extras removes those of its message",
    "enforce_limits": "keep to the documented rates: 42911, 42913, 80020",
    "drop_webhooks": "do not deliver an event to a webhook",
    "repeat_webhooks": "deliver an event to a webhook `times` (2) times",
    "delay_webhooks": "deliver to a webhook after `ms` (1000)",
    "reorder_webhooks": "deliver the events of a batch in reverse",
}
_PARAMETERS: Final = {
    "nth": (int, list),
    "every": int,
    "share": (int, float),
    "seed": int,
    "after": int,
    "count": int,
    "channel": str,
    "code": int,
    "status": int,
    "ms": (int, float),
    "seconds": (int, float),
    "retry_after_s": (int, float),
    "times": int,
    "silent": bool,
}


class Fault:
    """A fault with its parameters.

    Attributes:
        asked: opportunities to fire so far.
        fired: effects so far. Of `freeze`: writes that were held back, and readers that were stopped.
            Of `enforce_limits`: publishes, deliveries and attachments above a limit.
    """

    def __init__(self, name: str, parameters: dict[str, Any]) -> None:
        self.name = name
        self.parameters = parameters
        self.asked = 0
        self.fired = 0
        self._random = random.Random(parameters.get("seed", 0))  # noqa: S311 - reproducible

    def fires(self, channel: str | None) -> bool:
        """Count an opportunity; return True if the fault happens this time."""
        if not self._concerns(channel):
            return False
        self.asked += 1
        if not self._is_due():
            return False
        self.fired += 1
        return True

    def get(self, parameter: str, default: Any = None) -> Any:
        """Return a parameter, or *default*."""
        return self.parameters.get(parameter, default)

    def _concerns(self, channel: str | None) -> bool:
        wanted = self.parameters.get("channel")
        if wanted is None or channel is None:
            return True
        if wanted.endswith("*"):
            return channel.startswith(wanted[:-1])
        return bool(channel == wanted)

    def _is_due(self) -> bool:
        parameters = self.parameters
        number = self.asked - parameters.get("after", 0)
        if number <= 0 or self.fired >= parameters.get("count", self.fired + 1):
            return False
        if "nth" in parameters:
            nth = parameters["nth"]
            return number in nth if isinstance(nth, list) else number == nth
        if "every" in parameters:
            return bool(number % parameters["every"] == 0)
        if "share" in parameters:
            return bool(self._random.random() < parameters["share"])
        return True


class Faults:
    """The faults of one server, by name."""

    def __init__(self) -> None:
        self._on: dict[str, Fault] = {}
        self._latest: dict[str, Fault] = {}

    def set(self, name: str, /, **parameters: Any) -> Fault:
        """Enable a fault, or replace its parameters.

        Raises:
            RefusedError: 40000, the fault does not exist, or a parameter is invalid.
        """
        if name not in KNOWN:
            raise RefusedError(40000, f"unknown fault {name!r}; known are {', '.join(KNOWN)}")
        for parameter, value in parameters.items():
            kind: Any = _PARAMETERS.get(parameter)
            if kind is None or not isinstance(value, kind):
                raise RefusedError(40000, f"invalid fault parameter: {parameter!r}")
        if parameters.get("every", 1) < 1:
            raise RefusedError(40000, "every must be at least 1")
        fault = Fault(name, parameters)
        self._on[name] = self._latest[name] = fault
        return fault

    def clear(self, name: str | None = None) -> None:
        """Switch one fault off, or all of them; their counts stay in `listing`."""
        if name is None:
            self._on.clear()
        else:
            self._on.pop(name, None)

    @contextmanager
    def on(self, name: str, /, **parameters: Any) -> Iterator[Fault]:
        """Keep a fault on for the duration of the block."""
        fault = self.set(name, **parameters)
        try:
            yield fault
        finally:
            self.clear(name)

    def now(self, name: str, channel: str | None = None) -> Fault | None:
        """Return the fault if it happens this time."""
        if not self._on:
            return None
        fault = self._on.get(name)
        return fault if fault is not None and fault.fires(channel) else None

    def is_on(self, name: str) -> bool:
        """Return True if a fault is switched on; counts nothing."""
        return name in self._on

    def count(self, name: str) -> None:
        """Count an effect of a fault that is a state; does nothing while it is off."""
        fault = self._on.get(name)
        if fault is not None:
            fault.asked += 1
            fault.fired += 1

    def refuse(self, name: str, code: int, channel: str | None = None) -> None:
        """Raise the error of the fault, if it happens this time.

        Raises:
            RefusedError: with the fault's `code`, or *code*.
        """
        fault = self.now(name, channel)
        if fault is not None:
            raise error_of(fault, code)

    def listing(self) -> dict[str, Any]:
        """Return every fault: whether it is on, its description and, once it was on, its counts."""
        return {name: self._entry(name, does) for name, does in KNOWN.items()}

    def _entry(self, name: str, does: str) -> dict[str, Any]:
        fault = self._latest.get(name)
        if fault is None:
            return {"on": False, "does": does}
        counts = {"asked": fault.asked, "fired": fault.fired}
        return {"on": name in self._on, "does": does, "parameters": fault.parameters, **counts}


def error_of(fault: Fault, code: int) -> RefusedError:
    """Return the error of a fault."""
    chosen = fault.get("code", code)
    return RefusedError(chosen, f"{fault.name} is switched on", _STATUS.get(chosen))


_STATUS: Final = {90003: 404, 90004: 404, 90005: 404}
