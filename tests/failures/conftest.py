from __future__ import annotations

import pytest

from chaos.world import running
from failures.table import TABLE, FailureRow


@pytest.fixture(scope="module")
async def world():
    """Two services, two publishers, Postgres and the channel server, each in its own process."""
    async with running(keeps_channels=True, no_mounts="the disk of a test is shared") as made:
        yield made


@pytest.fixture
def row(request):
    return FailureRow(request)


@pytest.fixture(scope="session", autouse=True)
def written_table():
    yield
    if TABLE.writing:
        TABLE.write()
