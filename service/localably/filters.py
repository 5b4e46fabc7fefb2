"""Filtered subscriptions: `[filter=…]name` delivers the messages that a JMESPath expression selects."""

from __future__ import annotations

import base64
import binascii
from importlib import import_module
from typing import Any, Final

from .errors import RefusedError
from .messages import Delivery, Message

_LONGEST: Final = 2048


class MessageFilter:
    """An expression over the name and the headers of messages.

    Args:
        encoded: the expression as base64, as it is in a channel's name.

    Raises:
        RefusedError: 40000, it is not base64 or not JMESPath.
    """

    __slots__ = ("_expression",)

    def __init__(self, encoded: str) -> None:
        if len(encoded) > _LONGEST:
            raise RefusedError(40000, f"a filter must have at most {_LONGEST} characters")
        # loaded when first needed: without filters, localably runs without the package
        jmespath: Any = import_module("jmespath")
        try:
            text = base64.b64decode(encoded, validate=True).decode()
            self._expression = jmespath.compile(text)
        except (binascii.Error, ValueError, RecursionError) as error:  # JMESPathError: ValueError
            raise RefusedError(
                40000, "the filter is not a base64-encoded JMESPath expression"
            ) from error

    def selected(self, delivery: Delivery) -> Delivery | None:
        """Return *delivery* with the messages that pass; None if there are none."""
        messages = [message for message in delivery.messages if self._passes(message)]
        if len(messages) == len(delivery.messages):
            return delivery
        return Delivery(delivery.head, messages, delivery.key) if messages else None

    def _passes(self, message: Message) -> bool:
        extras = message.fields.get("extras", {})
        value = {"name": message.fields.get("name"), "headers": extras.get("headers")}
        try:
            result = self._expression.search(value)
        except (
            ValueError,
            RecursionError,
        ):  # a value of another type; an expression that is too deep
            return False
        # in JMESPath the number 0 is true
        return bool(result) or (result == 0 and result is not False)
