from __future__ import annotations

import pytest

from rehydrate.hydrate import history_window as walking


@pytest.fixture(autouse=True)
def simulated_time(monkeypatch):
    """The clock stands while an act runs, so it would wait in vain for history to catch up."""
    monkeypatch.setattr(walking, "_RETRY_AFTER_S", ())
