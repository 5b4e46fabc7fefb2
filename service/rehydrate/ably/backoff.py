"""Exponential backoff with jitter, so that clients that fail together do not retry together."""

from __future__ import annotations

import random


class Backoff:
    """Delays that double from *first_s* up to *cap_s*, each reduced at random by up to half."""

    def __init__(self, first_s: float, cap_s: float) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._whole_s = first_s

    def next_s(self) -> float:
        """Return the next delay, in seconds."""
        whole_s, self._whole_s = self._whole_s, min(self._whole_s * 2, self._cap_s)
        return random.uniform(whole_s / 2, whole_s)  # noqa: S311 - spreads load, guards nothing

    def reset(self) -> None:
        """Start again from *first_s*, after a success."""
        self._whole_s = self._first_s
