"""Waiting longer after every failure, up to a cap, and never in step with others."""

from __future__ import annotations

import random


class Backoff:
    """Delays that double from *first_s* up to *cap_s*, each cut by up to a half at random."""

    def __init__(self, first_s: float, cap_s: float) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._whole_s = first_s

    def next_s(self) -> float:
        """How long to wait now, in seconds."""
        whole_s, self._whole_s = self._whole_s, min(self._whole_s * 2, self._cap_s)
        return random.uniform(whole_s / 2, whole_s)  # noqa: S311 - spreads load, guards nothing

    def reset(self) -> None:
        """Begin again: it worked."""
        self._whole_s = self._first_s
