"""Record: write channel history, imports and erasures to the store, and verify them."""

from __future__ import annotations
