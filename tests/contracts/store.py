"""What every store promises: a suite for a class that has a fixture ``store``."""

from __future__ import annotations

from contracts.store_reading import Pages, Rows, Text
from contracts.store_writing import Leases, Together, Watermarks


class StoreContract(Rows, Pages, Text, Together, Leases, Watermarks):
    """All of it, and that the store is ready."""

    async def test_it_is_ready(self, store) -> None:
        await store.ready()
