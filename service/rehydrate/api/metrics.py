"""Counters for Prometheus, in a registry of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """What the service counts. Labels are words of ours, never ids, tokens or paths."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = self._counter(
            "http_requests", "Requests that were answered.", "route", "method", "status"
        )
        self._request_seconds = self._histogram(
            "http_request_seconds", "How long answers took, in seconds, by route.", "route"
        )
        self._hydrates = self._counter(
            "hydrates", "Hydrated conversations, by whether the answer was complete.", "complete"
        )
        self._reasons = self._counter("hydrate_reasons", "Why answers were not complete.", "code")
        self._sources = self._counter(
            "messages", "Messages in answers, by where their text came from.", "source"
        )
        self._read = self._counter(
            "hydrate_events", "Channel events read for answers, by what became of them.", "outcome"
        )
        self._events = self._counter(
            "events", "Channel events recorded, by what became of them.", "outcome"
        )
        self._replays = self._counter(
            "replays", "Replays that this process ended, by state.", "state"
        )
        self._in_flight = Gauge(
            "rehydrate_hydrates_in_flight", "Hydrates under way.", registry=self._registry
        )
        self._streams = Gauge(
            "rehydrate_streams_open", "Streams that readers follow.", registry=self._registry
        )

    def count_followed(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Ask *counts*, whenever somebody looks, what became of the messages of followers."""
        self._registry.register(_Followed(counts))

    def _counter(self, name: str, says: str, *labels: str) -> Counter:
        return Counter(f"rehydrate_{name}", says, labels, registry=self._registry)

    def _histogram(self, name: str, says: str, *labels: str) -> Histogram:
        return Histogram(
            f"rehydrate_{name}", says, labels, buckets=_SECONDS, registry=self._registry
        )

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answered request; *route* is the route's template."""
        self._requests.labels(route, method, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def hydrated(self, reasons: Iterable[str], outcomes: Mapping[str, int]) -> None:
        """Count an answer, the codes of its *reasons*, and the *outcomes* of what it read."""
        complete = "true"
        for code in reasons:
            complete = "false"
            self._reasons.labels(code).inc()
        self._hydrates.labels(complete).inc()
        for outcome, events in outcomes.items():
            self._read.labels(outcome).inc(events)

    def streams(self, count: int) -> None:
        """Say how many streams are open."""
        self._streams.set(count)

    def in_flight(self, hydrates: int) -> None:
        """Say how many hydrates are under way."""
        self._in_flight.set(hydrates)

    def observe(self, series: str, label: str, amount: float = 1.0) -> None:
        """Take what the acts tell: the callback that they are given.

        *series*: ``source`` (messages in answers), ``outcome`` (events recorded) or ``replay``
        (states of those that ended).

        Raises:
            ValueError: there is no such series.
        """
        if series == "source":
            self._sources.labels(label).inc(amount)
        elif series == "outcome":
            self._events.labels(label).inc(amount)
        elif series == "replay":
            self._replays.labels(label).inc(amount)
        else:
            raise ValueError(f"no series {series!r}")

    def text(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)


class _Followed(Collector):
    """What became of live messages: counted where they are followed, and only read here."""

    def __init__(self, counts: Callable[[], Mapping[str, int]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[CounterMetricFamily]:
        says = "Live messages of followed conversations, by what became of them."
        found = CounterMetricFamily("rehydrate_followed_messages", says, labels=["outcome"])
        for outcome, count in sorted(self._counts().items()):
            found.add_metric([outcome], count)
        yield found
