"""A check that injected faults happened: a test whose fault never fires proves nothing."""

from __future__ import annotations

from contextlib import contextmanager

UNCOUNTED = ("freeze", "enforce_limits")
"""States rather than events: the channel server does not count them."""


@contextmanager
def every_fault_fires(faults):
    """Assert, after the block, that every fault that was switched on in it fired."""
    switched_on = []
    plain_set = faults.set

    def recording_set(name, /, **parameters):
        fault = plain_set(name, **parameters)
        switched_on.append(fault)
        return fault

    faults.set = recording_set
    try:
        yield
    finally:
        faults.set = plain_set
    silent = [f.name for f in switched_on if not f.fired and f.name not in UNCOUNTED]
    assert not silent, f"never fired: {', '.join(silent)}"
