"""Prometheus metrics, in a registry of their own."""

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
    """The metrics of the service. Label values are fixed words, never ids, tokens or paths."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = self._counter(
            "http_requests",
            "HTTP requests by route, method and status.",
            "route",
            "method",
            "status",
        )
        self._request_seconds = self._histogram(
            "http_request_seconds", "Duration of HTTP requests in seconds, by route.", "route"
        )
        self._hydrates = self._counter(
            "hydrates", "Hydrate calls, by whether the answer was complete.", "complete"
        )
        self._reasons = self._counter(
            "hydrate_reasons", "Reasons why answers were incomplete.", "code"
        )
        self._sources = self._counter(
            "messages", "Messages in answers, by the source of their text.", "source"
        )
        self._read = self._counter(
            "hydrate_events", "Channel events read for answers, by outcome.", "outcome"
        )
        self._events = self._counter("events", "Channel events recorded, by outcome.", "outcome")
        self._replays = self._counter(
            "replays", "Replays that ended in this process, by state.", "state"
        )
        self._in_flight = Gauge(
            "rehydrate_hydrates_in_flight", "Hydrate calls in progress.", registry=self._registry
        )
        self._streams = Gauge(
            "rehydrate_streams_open", "Open SSE streams.", registry=self._registry
        )

    def count_followed(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Add live messages of followed conversations; *counts* is called at each scrape."""
        self._registry.register(_Followed(counts))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"rehydrate_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(
            f"rehydrate_{name}", text, labels, buckets=_SECONDS, registry=self._registry
        )

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request; *route* is the route's path template."""
        self._requests.labels(route, method, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def hydrated(self, reasons: Iterable[str], outcomes: Mapping[str, int]) -> None:
        """Count an answer: the codes of its *reasons*, and its channel events by outcome."""
        complete = "true"
        for code in reasons:
            complete = "false"
            self._reasons.labels(code).inc()
        self._hydrates.labels(complete).inc()
        for outcome, events in outcomes.items():
            self._read.labels(outcome).inc(events)

    def streams(self, count: int) -> None:
        """Set the number of open streams."""
        self._streams.set(count)

    def in_flight(self, hydrates: int) -> None:
        """Set the number of hydrate calls in progress."""
        self._in_flight.set(hydrates)

    def observe(self, series: str, label: str, amount: float = 1.0) -> None:
        """Add *amount* to a counter; the callback that the use cases are given.

        Args:
            series: ``source`` (messages in answers), ``outcome`` (events recorded) or ``replay``
                (replays that ended).
            label: the value of the series' label.
            amount: the number to add.

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
        """Return all metrics in Prometheus text format."""
        return generate_latest(self._registry)


class _Followed(Collector):
    """Live messages by outcome: counted by the followers, read at each scrape."""

    def __init__(self, counts: Callable[[], Mapping[str, int]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[CounterMetricFamily]:
        text = "Live messages of followed conversations, by outcome."
        found = CounterMetricFamily("rehydrate_followed_messages", text, labels=["outcome"])
        for outcome, count in sorted(self._counts().items()):
            found.add_metric([outcome], count)
        yield found
