"""Small ports of the store: prompts that agents work on, and what is known of Ably keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection


class PromptClaims(Protocol):
    """The leases of agents on prompts. Every call may raise `StoreUnavailable`."""

    async def claim(
        self, conversation_id: str, holder: str, lease_s: float, passed: Collection[str]
    ) -> bytes | None:
        """Claim the first prompt outside *passed* that has no response and no claim.

        Returns it in its wire form; None: no prompt is free.
        """
        ...

    async def renew_claim(
        self, conversation_id: str, prompt_id: str, holder: str, lease_s: float
    ) -> bool:
        """Renew a claim for *lease_s* seconds; return False if *holder* has lost it."""
        ...

    async def release_claim(self, conversation_id: str, prompt_id: str, holder: str) -> None:
        """Release a claim, so that another agent may take the prompt."""
        ...


class KeptCapabilities(Protocol):
    """The last known capability of each key. Every call may raise `StoreUnavailable`."""

    async def kept_capability(self, key_name: str) -> bytes | None:
        """Return the JSON kept for the key ``appId.keyId``; None if there is none."""
        ...

    async def keep_capability(self, key_name: str, capability: bytes) -> None:
        """Keep *capability*, JSON, for the key ``appId.keyId``."""
        ...
