"""Which files of the service one request runs, and where its calls climb to an outer layer."""

from __future__ import annotations

import asyncio
import re
import sys
import tomllib
from contextlib import contextmanager
from contextvars import ContextVar
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE, CO_GENERATOR
from pathlib import Path

import rehydrate

SOURCE = Path(rehydrate.__file__).parent
RESUMABLE = CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR

_walking = ContextVar("walking", default=False)


def layers():
    """Return the level of each package or module of the service; the core's is the greatest."""
    tools = tomllib.loads((SOURCE.parent.parent / "pyproject.toml").read_text())["tool"]
    (contract,) = (
        each
        for each in tools["importlinter"]["contracts"]
        if each.get("containers") == ["rehydrate"]
    )
    return {
        name: level
        for level, layer in enumerate(contract["layers"])
        for name in re.findall(r"\w+", layer)
    }


class Walk:
    """What ran, as paths below the package.

    Attributes:
        files: in the order in which they first ran.
        climbs: caller, line and callee of each call from an inner to an outer layer.
    """

    def __init__(self):
        self.files = {}
        self.climbs = {}
        self._seen = {}
        self._levels = layers()

    def on_event(self, frame, event, _):
        if event != "call" or not _walking.get():
            return
        name = self._name(frame)
        if name is None:
            return
        self.files.setdefault(name)
        if id(frame) in self._seen:
            return  # a coroutine or generator is resumed
        if frame.f_code.co_flags & RESUMABLE:
            self._seen[id(frame)] = frame  # kept, so that no other frame gets its id
        caller = frame.f_back
        while caller is not None and self._name(caller) is None:
            caller = caller.f_back
        if caller is not None:
            by = self._name(caller)
            if self._level(by) > self._level(name):
                self.climbs.setdefault(
                    (by, Path(name).parts[0]), f"{by} -> {name} {frame.f_code.co_name}"
                )

    def _name(self, frame):
        path = frame.f_code.co_filename
        return path[len(str(SOURCE)) + 1 :] if path.startswith(f"{SOURCE}/") else None

    def _level(self, name):
        return self._levels[Path(name).parts[0].removesuffix(".py")]


@contextmanager
def walked():
    """Yield the walk of what the block awaits, and of the tasks that it starts."""
    walk = Walk()
    token = _walking.set(True)
    before = sys.getprofile()
    sys.setprofile(walk.on_event)
    try:
        yield walk
    finally:
        sys.setprofile(before)
        _walking.reset(token)


async def walk_of(awaitable):
    """Return the walk of *awaitable*, and its result."""
    with walked() as walk:
        result = await asyncio.create_task(awaitable)
    return walk, result
