"""What goes on beside the calls: recording, sweeping, and ending what nobody ends."""

from __future__ import annotations
