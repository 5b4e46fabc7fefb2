"""The store contract for the Postgres adapter."""

from __future__ import annotations

from contracts.store import StoreContract


class TestPostgres(StoreContract):
    """`PostgresStore` over the embedded server; each test has a database of its own."""
