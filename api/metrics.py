"""Metrics: counters for Prometheus.

Labels are route templates, methods, statuses and codes: values from a fixed list. An id, a
person or an address is never a label.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from api.gatekeeper import Gatekeeper
from api.wallets.journal import Standing
from campaigns.gate import Gate
from campaigns.wallets.instructions import OPEN
from ledger.commit import GroupCommit
from projections.lag import Lag

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
QUEUED: Final = Gauge(
    "tidebook_writer_queued",
    "Requests that wait for a book's writers.",
    ("book",),
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
BATCHES: Final = Gauge(
    "tidebook_writer_batches",
    "Transactions of a book's writers since the server's start.",
    ("book",),
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
DECIDED: Final = Gauge(
    "tidebook_writer_decided",
    "Requests decided by a book's writers since the server's start.",
    ("book",),
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
RATE_DEGRADED: Final = Gauge(
    "tidebook_rate_limits_degraded",
    "Server processes that count rate limits on their own, without Valkey.",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
GATE_CALLS: Final = Gauge(
    "tidebook_gate_calls",
    "Calls to the gate since the server's start; each carries a batch of claims.",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
GATE_EPOCHS: Final = Gauge(
    "tidebook_gate_epochs",
    "Pools built from the store since the server's start, because the gate did not know them.",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
GATE_SWEEPS: Final = Gauge(
    "tidebook_gate_sweeps",
    "Pools of the gate compared with the store since the server's start.",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
GATE_CORRECTED: Final = Gauge(
    "tidebook_gate_corrected_tokens",
    "Tokens that these comparisons gave or took.",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
GATE_LOST: Final = Gauge(
    "tidebook_gate_lost_requests",
    "Requests admitted since the server's start whose outcome nobody told the gate.",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
LAG_SECONDS: Final = Gauge(
    "tidebook_projection_lag_seconds",
    "Age of the first event that a projection does not show yet; 0 when it shows all.",
    ("projection", "book"),
    registry=REGISTRY,
    multiprocess_mode="mostrecent",
)
LAG_EVENTS: Final = Gauge(
    "tidebook_projection_lag_events",
    "Events of a book that a projection does not show yet.",
    ("projection", "book"),
    registry=REGISTRY,
    multiprocess_mode="mostrecent",
)

GATE_WORDS: Final = Gauge(
    "tidebook_gate_words",
    "What the gate has said to claims since the server's start, by verdict.",
    ("verdict",),
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
GATE_AWAY: Final = Gauge(
    "tidebook_gate_away",
    "Server processes that cannot ask the gate, so that their claims take the slow lane.",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)
WALLET_OPEN: Final = Gauge(
    "tidebook_wallet_instructions_open",
    "Instructions to the wallet operator that are not settled, by their state.",
    ("book", "state"),
    registry=REGISTRY,
    multiprocess_mode="mostrecent",
)
WALLET_OLDEST: Final = Gauge(
    "tidebook_wallet_instructions_oldest_seconds",
    "Age of the oldest instruction that is not settled; 0 when all are.",
    ("book",),
    registry=REGISTRY,
    multiprocess_mode="mostrecent",
)
WALLET_REFUSED: Final = Gauge(
    "tidebook_wallet_instructions_refused",
    "Instructions that the operator refused although the wallet is open: somebody must look.",
    ("book",),
    registry=REGISTRY,
    multiprocess_mode="mostrecent",
)

SLOW_LANE: Final = Gauge(
    "tidebook_slow_lane",
    "Claims that are with the store although the gate could not speak for them.",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)


class Tally:
    """What was counted of one kind of call since it was last handed on.

    The library's own counters cost a lock and a system call each when processes share them.
    """

    __slots__ = ("calls", "in_bucket", "seconds")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.calls = 0
        self.seconds = 0.0
        self.in_bucket = [0] * (len(BUCKETS_S) + 1)

    def note(self, seconds: float) -> None:
        """Count one answered request. Called in the event loop, for every request."""
        self.calls += 1
        self.seconds += seconds
        self.in_bucket[bisect_left(BUCKETS_S, seconds)] += 1


_tallies: dict[tuple[str, str, int, str | None], Tally] = {}


def tally(method: str, route: str, status: int, code: str | None) -> Tally:
    """Return the tally of a kind of call; it stays the same one, so that callers may keep it."""
    kind = (method, route, status, code)
    found = _tallies.get(kind)
    if found is None:
        found = _tallies[kind] = Tally()
    return found


def hand_on() -> None:
    """Add what was counted to the library's counters. Called in the event loop, once a second."""
    for (method, route, status, code), counted in list(_tallies.items()):
        if not counted.calls:
            continue
        REQUESTS.labels(method, route, str(status)).inc(counted.calls)
        if code is not None:
            REFUSALS.labels(code).inc(counted.calls)
        # The library has no call for many observations at once.
        histogram: Any = SECONDS.labels(method, route)
        histogram._sum.inc(counted.seconds)  # noqa: SLF001
        for bucket, calls in zip(histogram._buckets, counted.in_bucket, strict=True):  # noqa: SLF001
            if calls:
                bucket.inc(calls)
        counted.clear()


def writer_state(book: str, writer: GroupCommit) -> None:
    """Note what a writer of this process has done and has to do."""
    QUEUED.labels(book).set(writer.queued)
    BATCHES.labels(book).set(writer.committed_batches)
    DECIDED.labels(book).set(writer.committed_requests)


def projection_lags(lags: Iterable[Lag]) -> None:
    """Note how far the projections are behind, as the store says now."""
    for lag in lags:
        LAG_SECONDS.labels(lag.projection, lag.book).set(lag.seconds)
        LAG_EVENTS.labels(lag.projection, lag.book).set(lag.events)


def journal_standings(standings: Iterable[Standing]) -> None:
    """Note how the journals of instructions stand, as the store says now."""
    for one in standings:
        for state in sorted(OPEN):
            WALLET_OPEN.labels(one.book, state).set(one.open.get(state, 0))
        WALLET_OLDEST.labels(one.book).set(one.oldest_s)
        WALLET_REFUSED.labels(one.book).set(one.refused)


def gatekeeper_state(gatekeeper: Gatekeeper) -> None:
    """Note what it took to keep the gate of this process up."""
    GATE_CALLS.set(gatekeeper.gate.tally.calls)
    GATE_LOST.set(gatekeeper.gate.tally.lost)
    GATE_EPOCHS.set(gatekeeper.sums.loads)
    GATE_SWEEPS.set(gatekeeper.sums.sweeps)
    GATE_CORRECTED.set(gatekeeper.sums.corrected)


def gate_state(gate: Gate) -> None:
    """Note what this process has heard from the gate."""
    GATE_AWAY.set(gate.away)
    for verdict, count in gate.tally.words.items():
        GATE_WORDS.labels(verdict.value).set(count)


def exposition(shared: Path | None) -> tuple[bytes, str]:
    """Return the text for Prometheus and its content type, of all processes that share a folder."""
    hand_on()
    registry = REGISTRY
    if shared is not None:
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(shared))  # type: ignore[no-untyped-call]
    return generate_latest(registry), CONTENT_TYPE_LATEST
