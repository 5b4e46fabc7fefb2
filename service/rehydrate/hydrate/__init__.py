"""Hydrate: stored messages and channel history, joined into one answer."""

from __future__ import annotations
