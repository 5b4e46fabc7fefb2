"""The content of a message: text, parts, gaps and their size limits."""

from __future__ import annotations
