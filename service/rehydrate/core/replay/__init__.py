"""Replays: from a stored response back to timed events (pure)."""

from __future__ import annotations
