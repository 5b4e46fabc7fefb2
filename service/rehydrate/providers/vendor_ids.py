"""The vendor's ids of what it was asked: kept with our responses, so that later ones go on.

They are the response's ``metadata["openai"]``: ``response_ids`` (oldest first), ``thread_id``,
``run_id``. Readers see them; without the vendor's key they are of no use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from rehydrate.providers.driving import DriverOutcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rehydrate.core.event import Status

_KEY = "openai"
_UNKNOWN_RESPONSE = "previous_response_not_found"
_UNKNOWN_THREAD = "No thread found"


class Annotated(Protocol):
    """A response that keeps metadata."""

    def annotate(self, metadata: Any) -> None:
        """Keep it, instead of what was kept."""


class VendorIds:
    """Notes the ids of one answer, with the response that is being published.

    Args:
        response: whose metadata they become a part of.
        metadata: the rest of it.
    """

    def __init__(self, response: Annotated, metadata: Mapping[str, Any]) -> None:
        self._response = response
        self._metadata = metadata
        self._response_ids: list[str] = []
        self._others: dict[str, str] = {}

    def __call__(self, what: str, id_: str) -> None:
        """See `rehydrate.providers.driving.Noted`."""
        if what == "response":
            self._response_ids.append(id_)
        else:
            self._others[f"{what}_id"] = id_
        responses = {"response_ids": list(self._response_ids)} if self._response_ids else {}
        self._response.annotate({**self._metadata, _KEY: responses | self._others})

    def outcome(self, status: Status) -> DriverOutcome:
        """An outcome with the ids that are known."""
        return DriverOutcome(
            status,
            response_ids=tuple(self._response_ids),
            thread_id=self._others.get("thread_id"),
            run_id=self._others.get("run_id"),
        )


def previous_response_id(messages: Iterable[Mapping[str, Any]]) -> str | None:
    """The vendor's response that the next one goes on with; *messages* come newest first.

    That of the newest answer that was completed: one that was not may wait for outputs that nobody
    will submit. None, if the vendor has said meanwhile that it does not know it any more.
    """
    for message in messages:
        if _error(message).startswith(_UNKNOWN_RESPONSE):
            return None
        ids = _ids(message).get("response_ids")
        if message.get("status") == "completed" and isinstance(ids, list) and ids:
            return str(ids[-1])
    return None


def thread_id(messages: Iterable[Mapping[str, Any]]) -> str | None:
    """The vendor's thread that the next run goes on with; *messages* come newest first.

    None, if the vendor has said meanwhile that it does not know it any more.
    """
    for message in messages:
        if _UNKNOWN_THREAD in _error(message):
            return None
        if isinstance(known := _ids(message).get("thread_id"), str):
            return known
    return None


def _ids(message: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = message.get("metadata")
    ids = metadata.get(_KEY) if isinstance(metadata, dict) else None
    return ids if isinstance(ids, dict) else {}


def _error(message: Mapping[str, Any]) -> str:
    error = message.get("error")
    return error if isinstance(error, str) else ""
