"""The database of a deployment: migrated, and run where there is none."""

from __future__ import annotations

import pytest

from rehydrate.database import embedded_postgres, migrate, named_setting, schema_revision
from rehydrate.errors import NotConfigured, StoreUnavailable
from rehydrate.postgres.url import DatabaseUrlError


async def test_an_embedded_database_is_migrated_to_head(tmp_path):
    async with embedded_postgres(tmp_path) as url:
        assert await schema_revision(url) is None
        await migrate(url)
        assert await schema_revision(url) is not None
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="REHYDRATE_DATA_DIR"):
        async with embedded_postgres(tmp_path / "file" / "folder"):
            pass
    with pytest.raises(NotConfigured, match="REHYDRATE_DATABASE_URL"):
        await migrate("http://x")


def test_a_url_that_cannot_be_parsed_names_the_setting():
    with pytest.raises(NotConfigured, match="REHYDRATE_DATABASE_URL: no host"), named_setting():
        raise DatabaseUrlError("no host")
