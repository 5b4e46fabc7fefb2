from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rehydrate.api.metrics import Metrics


def samples(metrics):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def test_requests_are_counted_by_route_method_and_status():
    metrics = Metrics()
    metrics.request("/v1/conversations/{conversation_id}", "GET", 200, 0.002)
    metrics.request("/v1/conversations/{conversation_id}", "GET", 200, 0.002)
    found = samples(metrics)
    labels = (
        ("method", "GET"),
        ("route", "/v1/conversations/{conversation_id}"),
        ("status", "200"),
    )
    assert found["rehydrate_http_requests_total", *labels] == 2
    assert found["rehydrate_http_request_seconds_count", labels[1]] == 2


def test_hydrates_are_counted_with_the_reasons_why_they_are_incomplete():
    metrics = Metrics()
    metrics.hydrated([], {})
    metrics.hydrated(["history_unavailable", "not_exact"], {"folded": 40, "old": 2})
    found = samples(metrics)
    assert found["rehydrate_hydrates_total", ("complete", "true")] == 1
    assert found["rehydrate_hydrates_total", ("complete", "false")] == 1
    assert found["rehydrate_hydrate_reasons_total", ("code", "not_exact")] == 1
    assert found["rehydrate_hydrate_events_total", ("outcome", "folded")] == 40


def test_use_cases_report_sources_and_outcomes():
    metrics = Metrics()
    metrics.observe("source", "channel", 3)
    metrics.observe("outcome", "folded", 40)
    metrics.observe("outcome", "folded")
    metrics.in_flight(7)
    found = samples(metrics)
    assert found["rehydrate_messages_total", ("source", "channel")] == 3
    assert found["rehydrate_events_total", ("outcome", "folded")] == 41
    assert found["rehydrate_hydrates_in_flight",] == 7
    with pytest.raises(ValueError, match="no series"):
        metrics.observe("tokens", "secret")


def test_two_instances_share_nothing():
    one, other = Metrics(), Metrics()
    one.hydrated([], {})
    assert ("rehydrate_hydrates_total", ("complete", "true")) not in samples(other)


def test_follower_counts_are_read_at_each_scrape():
    metrics, counts = Metrics(), {"apply": 3}
    metrics.count_followed(lambda: counts)
    counts["ignored"] = 1
    found = samples(metrics)
    assert found["rehydrate_followed_messages_total", ("outcome", "apply")] == 3
    assert found["rehydrate_followed_messages_total", ("outcome", "ignored")] == 1
