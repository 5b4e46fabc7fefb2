"""The port to the prompts that agents work on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import (
        Collection,
    )


class PromptClaims(Protocol):
    """Which agent is about to answer which prompt. Every call may raise `StoreUnavailable`."""

    async def claim(
        self, conversation_id: str, holder: str, lease_s: float, passed: Collection[str]
    ) -> bytes | None:
        """Claim the first prompt that has no response and no claim, but none of *passed*.

        Returns it in its wire form; None if there is none.
        """
        ...

    async def renew_claim(
        self, conversation_id: str, prompt_id: str, holder: str, lease_s: float
    ) -> bool:
        """Keep a claim for *lease_s* seconds more; False if it is not *holder*'s any more."""
        ...

    async def release_claim(self, conversation_id: str, prompt_id: str, holder: str) -> None:
        """Give a claim back."""
        ...
