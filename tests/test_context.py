"""Context is a value: use cases cannot change it, and a copy may differ in one field."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from laws.memory import MemoryChannel, MemoryStore, memory_context


def test_a_use_case_cannot_change_the_context_it_is_handed():
    ctx = memory_context(MemoryStore(), MemoryChannel([]), lambda: 1)
    with pytest.raises(FrozenInstanceError):
        ctx.retention_ms = 5


def test_a_copy_with_another_clock_leaves_the_original_alone():
    ctx = memory_context(MemoryStore(), MemoryChannel([]), lambda: 1)
    later = replace(ctx, now_ms=lambda: 2)
    assert (ctx.now_ms(), later.now_ms()) == (1, 2)
    assert later.store is ctx.store
