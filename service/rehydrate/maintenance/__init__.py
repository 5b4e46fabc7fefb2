"""Maintenance: the background tasks that record, sweep, poll and verify conversations."""

from __future__ import annotations
