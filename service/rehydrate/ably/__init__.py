"""The Ably adapter: the `ChannelLog` port over Ably's stock Python SDK."""

from __future__ import annotations
