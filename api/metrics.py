"""Metrics: counters for Prometheus.

Labels are route templates, methods, statuses and codes: values from a fixed list. An id, a
person or an address is never a label.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

REGISTRY: Final = CollectorRegistry()

REQUESTS: Final = Counter(
    "tidebook_http_requests",
    "Requests answered, by route template and status.",
    ("method", "route", "status"),
    registry=REGISTRY,
)
SECONDS: Final = Histogram(
    "tidebook_http_request_seconds",
    "Time from the first byte of a request to its answer.",
    ("method", "route"),
    buckets=BUCKETS_S,
    registry=REGISTRY,
)
REFUSALS: Final = Counter(
    "tidebook_refusals",
    "Requests answered with a problem, by its code.",
    ("code",),
    registry=REGISTRY,
)
REPLAYS: Final = Counter(
    "tidebook_replays", "Writes answered from their idempotency key.", registry=REGISTRY
)
RATE_DEGRADED: Final = Gauge(
    "tidebook_rate_limits_degraded",
    "Server processes that count rate limits on their own, without Valkey.",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)


def observe(method: str, route: str, status: int, seconds: float, code: str | None) -> None:
    """Count one answered request."""
    _requests(method, route, status).inc()
    _seconds(method, route).observe(seconds)
    if code is not None:
        _refusals(code).inc()


@lru_cache(maxsize=1_024)
def _requests(method: str, route: str, status: int) -> Counter:
    return REQUESTS.labels(method, route, str(status))


@lru_cache(maxsize=256)
def _seconds(method: str, route: str) -> Histogram:
    return SECONDS.labels(method, route)


@lru_cache(maxsize=256)
def _refusals(code: str) -> Counter:
    return REFUSALS.labels(code)


def exposition(shared: Path | None) -> tuple[bytes, str]:
    """Return the text for Prometheus and its content type, of all processes that share a folder."""
    registry = REGISTRY
    if shared is not None:
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(shared))  # type: ignore[no-untyped-call]
    return generate_latest(registry), CONTENT_TYPE_LATEST
