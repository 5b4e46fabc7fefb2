"""Store the vendor's ids with each response, so that the next one can continue from it.

They are in the response's ``metadata["openai"]``: ``response_ids`` (oldest first), ``thread_id``,
``run_id``. Readers can see them, but they are useless without the vendor's key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from rehydrate.providers.tool_loop import DriverOutcome
from rehydrate.providers.vendor_events import Sink

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rehydrate.core.event import Status

_KEY = "openai"
_UNKNOWN_RESPONSE = "previous_response_not_found"
_UNKNOWN_THREAD = "No thread found"


class ResponseSink(Sink, Protocol):
    """A response that is being published, whose metadata can be set."""

    def annotate(self, metadata: Any) -> None:
        """Replace the metadata."""


class VendorIds:
    """Collects the ids of one answer in the metadata of the response that is being published.

    Args:
        response: the response.
        metadata: its other metadata.
    """

    def __init__(self, response: ResponseSink, metadata: Mapping[str, Any]) -> None:
        self._response = response
        self._metadata = metadata
        self._response_ids: list[str] = []
        self._others: dict[str, str] = {}

    def __call__(self, what: str, id_: str) -> None:
        """Add an id; this is a `rehydrate.providers.tool_loop.Noted` callback."""
        if what == "response":
            self._response_ids.append(id_)
        else:
            self._others[f"{what}_id"] = id_
        responses = {"response_ids": list(self._response_ids)} if self._response_ids else {}
        self._response.annotate({**self._metadata, _KEY: responses | self._others})

    def outcome(self, status: Status) -> DriverOutcome:
        """Return an outcome with the ids so far."""
        return DriverOutcome(
            status,
            response_ids=tuple(self._response_ids),
            thread_id=self._others.get("thread_id"),
            run_id=self._others.get("run_id"),
        )


def previous_response_id(messages: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the vendor's response from which the next one continues.

    It is that of the newest completed answer, since one that did not complete may wait for tool
    outputs that will never be submitted. None if there is none, or if the vendor has since
    reported that it does not have it any more.

    Args:
        messages: the conversation's messages, newest first.
    """
    for message in messages:
        if _error(message).startswith(_UNKNOWN_RESPONSE):
            return None
        ids = _ids(message).get("response_ids")
        if message.get("status") == "completed" and isinstance(ids, list) and ids:
            return str(ids[-1])
    return None


def thread_id(messages: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the vendor's thread in which the next run continues.

    None if there is none, or if the vendor has since reported that it does not have it any more.

    Args:
        messages: the conversation's messages, newest first.
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
