"""Follow: one attachment, one reading and one state for all who follow a conversation."""

from __future__ import annotations
