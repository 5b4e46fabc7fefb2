"""The database of a deployment: its schema, and the setting that names it."""

from __future__ import annotations

import pytest

from conftest import new_database
from rehydrate.database import migrate, named_setting, schema_revision
from rehydrate.errors import NotConfigured
from rehydrate.postgres.url import DatabaseUrlError


async def test_a_new_database_is_migrated_to_head(postgres):
    async with new_database(postgres.url) as url:
        assert await schema_revision(url) is None
        await migrate(url)
        assert await schema_revision(url) is not None
    with pytest.raises(NotConfigured, match="REHYDRATE_DATABASE_URL"):
        await migrate("http://x")


def test_a_url_that_cannot_be_parsed_names_the_setting():
    with pytest.raises(NotConfigured, match="REHYDRATE_DATABASE_URL: no host"), named_setting():
        raise DatabaseUrlError("no host")
