from __future__ import annotations

import pytest

from rehydrate.hydrate import history_window as walking


@pytest.fixture(autouse=True)
def simulated_time(monkeypatch):
    """Do not wait for history to catch up: the simulated clock does not advance while an act runs."""
    monkeypatch.setattr(walking, "_RETRY_AFTER_S", ())
