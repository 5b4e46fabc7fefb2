"""Wiring: the only place that names concrete rooms."""

from __future__ import annotations
