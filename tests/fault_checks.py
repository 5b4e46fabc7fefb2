"""A check that every injected fault had an effect: a test whose fault never fires proves nothing.

`tests/conftest.py` applies it to every test, so it covers each fault that is switched on in this
process, by `Faults.set`, by `Faults.on` or by an HTTP request to a server of this process. Faults of
channel servers in other processes are switched on by `remote_fault`, which applies the same rule.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import pytest

from localably.faults import Fault, Faults
from waiting import PATIENCE_S

FIRES_WITHIN_S = 60.0
"""How long to wait for the first effect of a fault that needs traffic of other processes."""


@contextmanager
def every_fault_fires() -> Iterator[None]:
    """Assert, unless the block raises, that every fault that was switched on in it fired.

    A fault with ``count=0`` cannot fire: it only counts its opportunities, and is not checked.
    """
    switched_on: list[Fault] = []
    plain_set = Faults.set

    def recording_set(self: Faults, name: str, /, **parameters: Any) -> Fault:
        fault = plain_set(self, name, **parameters)
        switched_on.append(fault)
        return fault

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Faults, "set", recording_set)
        yield
    silent = [f.name for f in switched_on if not f.fired and f.get("count") != 0]
    assert not silent, f"never fired: {', '.join(silent)}"


@asynccontextmanager
async def remote_fault(
    server_url: str, name: str, **parameters: Any
) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """Keep a fault of a channel server in another process on for the block; assert that it fired.

    Yields a function that returns how often it has fired so far.
    """
    url = f"{server_url}/localably/faults"
    async with httpx.AsyncClient(timeout=PATIENCE_S) as http:
        switched = await http.put(f"{url}/{name}", json=parameters)
        assert switched.status_code == 200, switched.text

        async def fired() -> int:
            count: int = (await http.get(url)).json()[name]["fired"]
            return count

        try:
            yield fired
        finally:
            counts = (await http.delete(f"{url}/{name}")).json()[name]
        assert counts["fired"], f"never fired: {name}"


async def until_fired(effects: Callable[[], Awaitable[int]]) -> int:
    """Return the number of *effects* as soon as it is not 0; 0 after `FIRES_WITHIN_S`."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + FIRES_WITHIN_S
    while not (count := await effects()) and loop.time() < deadline_s:  # noqa: ASYNC110 - of another process
        await asyncio.sleep(0.1)
    return count
