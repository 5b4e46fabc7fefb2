from __future__ import annotations

import asyncio
import re
import shutil
import time

import pytest

from conftest import new_database
from generated_table import one_line
from holes.environment import open_environment
from holes.readers import node_running
from holes.stage import Stage, staged
from holes.table import TABLE, cell
from journeys.readers import MODULES
from localably import LocalAbly
from rehydrate.core.positions import MARGIN_MS

OLD_S = MARGIN_MS / 1000 + 0.5
FORGOTTEN_S = 60.0  # half of the channel's retention


@pytest.fixture(scope="module")
async def channels():
    """The channel server of all rows."""
    async with LocalAbly() as server:
        yield server


@pytest.fixture(scope="module")
async def node():
    """Readers with stock ably-js; None where it is not installed: then only ably-python reads."""
    if not shutil.which("node") or not (MODULES / "node_modules/ably/package.json").exists():
        yield None
        return
    async with node_running() as running:
        yield running


@pytest.fixture(scope="module")
async def holes_database(postgres, template):
    async with new_database(postgres.url, template) as url:
        yield url


@pytest.fixture(scope="module")
async def environment(channels, holes_database, node):
    async with open_environment(channels, holes_database, node) as opened:
        yield opened


@pytest.fixture(scope="module")
async def growing_environment(channels, holes_database, node):
    """A service whose channels persist messages, to which appends are possible."""
    template = "mutable:{conversation_id}"
    async with open_environment(
        channels, holes_database, node, channel_template=template
    ) as opened:
        yield opened


@pytest.fixture(scope="module")
async def old_stages(environment):
    made = []
    yield made
    await _closed(made)


async def _closed(stages):
    while stages:
        await stages.pop().close()


@pytest.fixture
async def old_stage(environment, old_stages):
    """A conversation whose answers contain a serial to rewind to: its two prompts are seconds old.

    Two are created at a time, so that the second test that needs one does not wait.
    """
    if not old_stages or time.monotonic() - old_stages[-1].created_s > FORGOTTEN_S:
        await _closed(old_stages)
        old_stages[:] = [Stage(environment), Stage(environment)]
        for each in old_stages:
            for id_, text in (("p", "Well?"), ("q", "And?")):
                await each.publish("user-input", {"promptId": id_, "text": text}, id_=id_)
            each.created_s = time.monotonic()
    made = old_stages.pop()
    await asyncio.sleep(max(0, made.created_s + OLD_S - time.monotonic()))
    yield made
    await made.close()


@pytest.fixture
async def stage(environment):
    async with staged(environment) as made:
        yield made


@pytest.fixture
async def growing(growing_environment):
    """A conversation on a channel that persists messages, to which appends are possible."""
    async with staged(growing_environment) as made:
        yield made


@pytest.fixture(scope="session")
def table():
    yield TABLE
    if TABLE.writing:
        TABLE.write()


class TableRow:
    """The row of a test `test_h01_…`, whose docstring describes the hole."""

    def __init__(self, table, request):
        number = re.match(r"test_([hs])(\w+?)_", request.node.name)
        self._number = number[1].upper() + number[2]
        self._hole = one_line(request.node.obj.__doc__)
        self._table = table

    def shows(self, name, recipe, ours):
        """Record what readers of *recipe*, called *name*, and of *ours* show: messages or a text."""
        cells = [each if isinstance(each, str) else cell(each) for each in (recipe, ours)]
        self._table.add(self._number, [self._hole, name, *cells])


@pytest.fixture
def row(request, table):
    return TableRow(table, request)
