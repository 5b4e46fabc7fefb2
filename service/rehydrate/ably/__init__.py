"""The room of the channel: Ably, through its stock SDK."""

from __future__ import annotations
