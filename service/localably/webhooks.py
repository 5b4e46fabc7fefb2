"""Webhook rules: messages of a channel are posted to a URL, as Ably's integrations do."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import logging
import random
import re
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import orjson

from .channel import Channel
from .errors import RefusedError
from .frames import for_json
from .messages import Message

if TYPE_CHECKING:
    from .faults import Faults

_LOG: Final = logging.getLogger("localably.webhooks")
_SITE: Final = "localably"
_MOST_WAITING: Final = 10_000
_BATCH: Final = 100
_FIRST_DELAY_S: Final = 1.0
_GROWTH: Final = 2**0.5
_LONGEST_DELAY_S: Final = 60.0
_DISCARD_AFTER_S: Final = 300.0
_TIMEOUT_S: Final = 20.0
_SERVER_ERROR: Final = 500


@dataclass(frozen=True, slots=True)
class WebhookRule:
    """Where the messages of some channels go.

    Attributes:
        url: receives a POST.
        app_id: the app the rule applies to; empty: every app.
        channel_filter: a regular expression that the channel's name has to match from its start.
        batched: many events in one request, signed; else one request for each.
        enveloped: with what Ably knows about the message; else its data alone. Batches always are.
        signing_key: the key (`appId.keyId:secret`) that signs batches.
        headers: are added to every request.
        rule_id: appears in the envelope.
    """

    url: str
    app_id: str = ""
    channel_filter: str = ""
    batched: bool = False
    enveloped: bool = True
    signing_key: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    rule_id: str = "rule"


@dataclass(frozen=True, slots=True)
class _Event:
    app_id: str
    channel: str
    fields: dict[str, Any]
    at_s: float


class Webhook:
    """Delivers the events of one rule, in order, from a bounded queue.

    Args:
        rule: the rule to apply.
        faults: switches that drop, repeat, delay or reorder deliveries.
    """

    def __init__(self, rule: WebhookRule, faults: Faults) -> None:
        self._rule = rule
        self._faults = faults
        self._filter = re.compile(rule.channel_filter)
        self._waiting: deque[_Event] = deque()
        self._arrived = asyncio.Event()
        self._sequence = 0
        self.delivered = 0
        self.discarded = 0

    def listen(self, channel: Channel, message: Message) -> None:
        """Queue an event for each message that the rule is for."""
        rule = self._rule
        if rule.app_id not in ("", channel.app_id) or not self._filter.match(channel.name):
            return
        if self._faults.now("drop_webhooks", channel.name) is not None:
            return
        repeated = self._faults.now("repeat_webhooks", channel.name)
        event = _Event(channel.app_id, channel.name, for_json(message.fields), time.monotonic())
        for _ in range(1 if repeated is None else repeated.get("times", 2)):
            if len(self._waiting) >= _MOST_WAITING:
                self.discarded += 1
                return
            self._waiting.append(event)
        self._arrived.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                await self._arrived.wait()
                delayed = self._faults.now("delay_webhooks")
                if delayed is not None:
                    await asyncio.sleep(delayed.get("ms", 1000) / 1000)
                events = self._take()
                if events:
                    await self._deliver(session, events)

    def _take(self) -> list[_Event]:
        size = min(len(self._waiting), _BATCH if self._rule.batched else 1)
        events = [self._waiting.popleft() for _ in range(size)]
        if not self._waiting:
            self._arrived.clear()
        if self._faults.now("reorder_webhooks") is not None:
            events.reverse()
        return events

    async def _deliver(self, session: aiohttp.ClientSession, events: list[_Event]) -> None:
        """Post, and retry with growing pauses; give up after five minutes."""
        body, headers = self._request(events)
        delay_s = _FIRST_DELAY_S
        while True:
            if await self._post(session, body, headers):
                self.delivered += len(events)
                return
            if time.monotonic() - events[0].at_s > _DISCARD_AFTER_S:
                self.discarded += len(events)
                _LOG.warning("gave up %d events of rule %s", len(events), self._rule.rule_id)
                return
            jitter = random.uniform(0.9, 1.1)  # noqa: S311 - spreads retries
            await asyncio.sleep(delay_s * jitter)
            delay_s = min(delay_s * _GROWTH, _LONGEST_DELAY_S)

    async def _post(
        self, session: aiohttp.ClientSession, body: bytes, headers: dict[str, str]
    ) -> bool:
        """Post once; false means that it is worth another try."""
        try:
            async with session.post(self._rule.url, data=body, headers=headers) as response:
                if response.status < _SERVER_ERROR:
                    return True
                _LOG.info("rule %s was answered %d", self._rule.rule_id, response.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            _LOG.info("rule %s: %s", self._rule.rule_id, type(error).__name__)
        return False

    def _request(self, events: list[_Event]) -> tuple[bytes, dict[str, str]]:
        rule = self._rule
        headers = {"Content-Type": "application/json", **rule.headers}
        if rule.batched:
            body = orjson.dumps({"items": [self._item(event) for event in events]})
            if rule.signing_key:
                name, _, secret = rule.signing_key.partition(":")
                digest = hmac.digest(secret.encode(), body, hashlib.sha256)
                headers |= {
                    "X-Ably-Key": name,
                    "X-Ably-Signature": base64.b64encode(digest).decode(),
                }
            return body, headers
        event = events[0]
        if rule.enveloped:
            return orjson.dumps(self._envelope(event)), headers
        return _bare_body(event), headers | self._bare_headers(event)

    def _envelope(self, event: _Event) -> dict[str, Any]:
        return {
            "source": "channel.message",
            "appId": event.app_id,
            "channel": event.channel,
            "site": _SITE,
            "ruleId": self._rule.rule_id,
            "messages": [event.fields],
        }

    def _item(self, event: _Event) -> dict[str, Any]:
        self._sequence += 1
        data = {"channelId": event.channel, "site": _SITE, "messages": [event.fields]}
        return {
            "webhookId": self._rule.rule_id,
            "source": "channel.message",
            "serial": f"{self._rule.rule_id}:{self._sequence}",
            "timestamp": event.fields["timestamp"],
            "name": "channel.message",
            "data": data,
        }

    def _bare_headers(self, event: _Event) -> dict[str, str]:
        fields = event.fields
        details = {
            "X-Ably-Envelope-Source": "channel.message",
            "X-Ably-Envelope-AppId": event.app_id,
            "X-Ably-Envelope-Channel": event.channel,
            "X-Ably-Envelope-Site": _SITE,
            "X-Ably-Envelope-Rule-Id": self._rule.rule_id,
            "X-Ably-Message-Id": fields["id"],
            "X-Ably-Message-Timestamp": str(fields["timestamp"]),
            "X-Ably-Message-Name": fields.get("name", ""),
            "X-Ably-Message-Client-Id": fields.get("clientId", ""),
            "X-Ably-Message-Connection-Id": fields.get("connectionId", ""),
        }
        return {name: value for name, value in details.items() if value and value.isprintable()}


def _bare_body(event: _Event) -> bytes:
    data = event.fields.get("data")
    if event.fields.get("encoding") == "base64" and isinstance(data, str):
        with contextlib.suppress(
            ValueError
        ):  # a publisher may name an encoding that it did not use
            return base64.b64decode(data, validate=True)
    return str(data if data is not None else "").encode()


def rule_from(item: Mapping[str, Any]) -> WebhookRule:
    """Return the rule in one entry of a config file.

    Raises:
        RefusedError: 40000, a value is missing or wrong.
    """
    known = set(WebhookRule.__dataclass_fields__)
    unknown = set(item) - known
    if unknown or not isinstance(item.get("url"), str):
        raise RefusedError(40000, f"a webhook needs a url, and may have {', '.join(sorted(known))}")
    try:
        rule = WebhookRule(**item)
        re.compile(rule.channel_filter)
    except (TypeError, re.error) as error:
        raise RefusedError(40000, f"the webhook for {item['url']} is not right") from error
    return rule
