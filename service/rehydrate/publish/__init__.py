"""Publish: responses and prompts, on the channel and in the store."""

from __future__ import annotations
