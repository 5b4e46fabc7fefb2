"""What operators see: the access log as JSON lines, and the metrics, in Prometheus' format.

`AccessLogMiddleware` is the outermost ASGI layer: it also assigns request ids, answers HEAD, and
removes tokens from the query.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_plus

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rehydrate.api.answers import HEAD, request_id
from rehydrate.limits import AnswerBytes, ConcurrencyLimit

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from rehydrate.background import PeriodicTask


_log = logging.getLogger("rehydrate.access")

_TOKEN = "rehydrate.access_token"  # noqa: S105 - the name of a place, not a token
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class AccessLogMiddleware:
    """ASGI middleware that logs and counts requests.

    It removes ``access_token`` from the query, so that neither the application nor the server's own
    access log sees the token.

    Args:
        app: the wrapped application.
        metrics: where requests are counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request, then log and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        _lift_token(scope)
        id_ = request_id(scope)
        status = 500
        began_s = time.perf_counter()

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if all(name != b"x-request-id" for name, _ in message["headers"]):
                    message["headers"] = [*message["headers"], (b"x-request-id", id_.encode())]
            await send(message)

        # GET handlers answer HEAD too; the server omits the body
        is_head = scope["method"] == "HEAD"
        inner = {**scope, "method": "GET" if is_head else scope["method"], HEAD: is_head}
        try:
            await self._app(inner, receive, send_on)
        finally:
            seconds = time.perf_counter() - began_s
            self._record(scope["method"], inner, status, seconds)

    def _record(self, method: str, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path_format", "unmatched")
        method = method if method in _METHODS else "other"
        self._metrics.request(route, method, status, seconds)
        if _log.isEnabledFor(logging.INFO):
            fields = {
                "method": method,
                "path": scope["path"],
                "status": status,
                "ms": round(seconds * 1000, 3),
                "request_id": request_id(scope),
            }
            _log.info("request", extra={"fields": fields})


def query_token(request: HTTPConnection) -> str | None:
    """Return the ``access_token`` of the query, for clients that cannot send headers."""
    token: str | None = request.scope.get(_TOKEN)
    return token


def is_head(request: HTTPConnection) -> bool:
    """Return True for HEAD requests."""
    return bool(request.scope.get(HEAD))


def _lift_token(scope: Scope) -> None:
    """Move ``access_token`` out of the query, in place: servers log the scope that they created."""
    query: bytes = scope.get("query_string", b"")
    if not query:
        return
    kept = []
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        if unquote_plus(name.decode("latin-1")) == "access_token":
            scope.setdefault(_TOKEN, unquote_plus(value.decode("latin-1")))
        else:
            kept.append(pair)
    if _TOKEN in scope:
        scope["query_string"] = b"&".join(kept)


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

        self._answer_bytes = Gauge(
            "rehydrate_answer_bytes",
            "Bytes of long answers in memory that clients have not accepted yet.",
            registry=self._registry,
        )

    def measure(
        self, hydrates: ConcurrencyLimit, streams: ConcurrencyLimit, sizes: AnswerBytes
    ) -> None:
        """Read the numbers of hydrate calls, open streams and bytes of answers at each scrape."""
        self._in_flight.set_function(lambda: hydrates.count)
        self._streams.set_function(lambda: streams.count)
        self._answer_bytes.set_function(lambda: sizes.total)

    def count_followed(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Add live messages of followed conversations; *counts* is called at each scrape."""
        text = "Live messages of followed conversations, by outcome."
        self._registry.register(_Counts("followed_messages", text, "outcome", counts))

    def count_dropped(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Add the counter of work dropped because no retry could succeed; *counts* runs at each scrape."""
        text = "Work that was dropped because it could never succeed, by kind."
        self._registry.register(_Counts("dropped", text, "kind", counts))

    def watch_tasks(self, tasks: Sequence[PeriodicTask]) -> None:
        """Add the state of background *tasks*, which is read at each scrape."""
        self._registry.register(_Tasks(tasks))

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


class _Counts(Collector):
    """A counter with one label, whose numbers are read at each scrape."""

    def __init__(
        self, name: str, text: str, label: str, counts: Callable[[], Mapping[str, int]]
    ) -> None:
        self._name, self._text, self._label = f"rehydrate_{name}", text, label
        self._counts = counts

    def collect(self) -> Iterator[CounterMetricFamily]:
        found = CounterMetricFamily(self._name, self._text, labels=[self._label])
        for value, count in sorted(self._counts().items()):
            found.add_metric([value], count)
        yield found


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON; ``extra={"fields": {…}}`` adds members."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send all logs of this process to standard error as JSON. Replaces the root handlers."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)


def uvicorn_options() -> dict[str, Any]:
    """Return uvicorn's options. Its access log is off: ours has the route's time and request id."""
    return {
        "access_log": False,
        "log_config": None,
        "server_header": False,
        "timeout_keep_alive": 75,
        "timeout_graceful_shutdown": 10,
    }


class _Tasks(Collector):
    """Background tasks: how late their turns are, and how often they were started again."""

    def __init__(self, tasks: Sequence[PeriodicTask]) -> None:
        self._tasks = tasks

    def collect(self) -> Iterator[Metric]:
        text = "Seconds for which a turn of a background task has been due without success."
        overdue = GaugeMetricFamily("rehydrate_task_overdue_seconds", text, labels=["task"])
        text = "How often a background task ended and was started again."
        restarts = CounterMetricFamily("rehydrate_task_restarts", text, labels=["task"])
        for task in self._tasks:
            overdue.add_metric([task.name], task.overdue_s)
            restarts.add_metric([task.name], task.restarts)
        yield overdue
        yield restarts
