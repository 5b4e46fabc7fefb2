"""Publish: a response's events on the channel and in the store, ended whatever happens."""

from __future__ import annotations
