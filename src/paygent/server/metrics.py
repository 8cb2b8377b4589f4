"""Metrics in the format of Prometheus: a registry of this application, without user ids."""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The counters of one server process.

    Labels have few values: methods, route templates, status codes.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "paygent_http_requests_total",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self.seconds = Histogram(
            "paygent_http_request_seconds",
            "Time from a request's head to its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.events = Counter(
            "paygent_events_total",
            "Events received, new and already known.",
            ("outcome",),
            registry=self._registry,
        )
        self.group_events = Histogram(
            "paygent_writer_group_events",
            "Events in one transaction of the writer.",
            buckets=_SIZES,
            registry=self._registry,
        )
        self.booking_seconds = Histogram(
            "paygent_writer_booking_seconds",
            "Time of one transaction of the writer.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.queued = Gauge(
            "paygent_writer_queued_requests",
            "Requests that wait for the writer.",
            registry=self._registry,
        )
        self.refused = Counter(
            "paygent_refused_total",
            "Requests refused before they reached the store, by reason.",
            ("reason",),
            registry=self._registry,
        )

    def text(self) -> bytes:
        """Return all metrics as a collector reads them."""
        return generate_latest(self._registry)
