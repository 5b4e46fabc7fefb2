"""The contract of the store ports: a suite for a class with a fixture ``store``."""

from __future__ import annotations

from contracts.store_reading import Pages, Rows, Text
from contracts.store_writing import Leases, Together, Watermarks


class StoreContract(Rows, Pages, Text, Together, Leases, Watermarks):
    """The whole contract."""

    async def test_the_adapter_is_ready(self, store) -> None:
        await store.ready()
