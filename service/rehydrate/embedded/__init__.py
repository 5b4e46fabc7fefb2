"""Postgres and the channel server for a machine that has neither."""

from __future__ import annotations
