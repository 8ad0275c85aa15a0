"""The fairness report of a campaign: who could have a coupon depending on when they came.

Made from counts by the second of arrival (`api.traffic`), so it names nobody and is for everybody
to see who may see the campaign's figures. It tells what happened; it decides nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec

from api.traffic import GRANTED, LATENCY_MS
from campaigns.campaign import POOL
from ledger.books import PublicId
from projections import campaign_figures as figures

SPANS_MAX: Final = 1_000
"""Spans that a report tells one by one; a rush is over by then."""

_COUNTS: Final = """
SELECT at, span_s, code, calls, latency FROM traffic WHERE campaign = %s ORDER BY at, span_s, code
"""
_EDGE: Final = """
SELECT first_call, last_granted, first_sold_out FROM traffic_edge WHERE campaign = %s
"""


class Counted(NamedTuple):
    """Calls that came in one span and were answered alike."""

    at: datetime
    span_s: int
    code: str
    calls: int
    latency: Sequence[int]


class Edges(NamedTuple):
    """The first call, the last one that got a coupon, the first one that found none left."""

    first_call: datetime
    last_granted: datetime | None
    first_sold_out: datetime | None


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds that so many of the calls did not exceed; null: more than the largest bound."""

    p50_ms: int | None
    p90_ms: int | None
    p99_ms: int | None


class Span(msgspec.Struct, frozen=True):
    """The calls that came within one span, and their chance."""

    at: datetime
    span_s: int
    calls: int
    granted: int
    refused: dict[str, int]
    chance: float
    """The part of those who came then that got what they came for, 0 to 1."""
    latency: Latency


class Order(msgspec.Struct, frozen=True):
    """How strictly the order of arrival was kept while the stock ran out."""

    last_granted: datetime | None
    """When the last call came that got a coupon."""
    first_sold_out: datetime | None
    """When the first call came that found none left."""
    overtaking_ms: float
    """By how much the one came after the other: nobody was overtaken by more than this."""


class FairnessReport(msgspec.Struct, frozen=True):
    """Arrivals, chances, refusals and latency of the calls for one campaign's coupons."""

    campaign: str
    pool: str
    opened_for_claims: datetime
    calls: int
    granted: int
    refused: dict[str, int]
    early: int
    """Calls that came before claims were taken."""
    first_second_calls: int
    first_second_granted: int
    first_second_share: float
    """The part of all that was granted that went to calls of the first second, 0 to 1."""
    order: Order
    latency: Latency
    latency_granted: Latency
    spans: list[Span]
    spans_left_out: int


def counted(cursor: Any, campaign: UUID) -> tuple[list[Counted], Edges | None]:
    """Return what was counted of a campaign, in order of arrival."""
    cursor.execute(_COUNTS, (campaign.hex,))
    counts = [Counted._make(row) for row in cursor.fetchall()]
    cursor.execute(_EDGE, (campaign.hex,))
    row = cursor.fetchone()
    return counts, Edges._make(row) if row is not None else None


def report_on(cursor: Any, campaign: PublicId) -> FairnessReport | None:
    """Return the report on a campaign; None when the campaign figures do not have it."""
    row = figures.campaign(cursor, campaign.book, campaign.uuid)
    if row is None:
        return None
    claim_from = datetime.fromisoformat(row.terms["claim_from"])
    return report(str(campaign), POOL, claim_from, *counted(cursor, campaign.uuid))


def report(
    campaign: str, pool: str, claim_from: datetime, counts: Sequence[Counted], edges: Edges | None
) -> FairnessReport:
    """Return the report on counts in order of arrival."""
    first_second = [
        each
        for each in counts
        if each.span_s == 1 and claim_from <= each.at < claim_from + timedelta(seconds=1)
    ]
    granted = _calls(counts, GRANTED)
    first_granted = _calls(first_second, GRANTED)
    spans = _spans(counts)
    return FairnessReport(
        campaign=campaign,
        pool=pool,
        opened_for_claims=claim_from,
        calls=_calls(counts),
        granted=granted,
        refused=_refused(counts),
        early=_calls(each for each in counts if each.at < claim_from),
        first_second_calls=_calls(first_second),
        first_second_granted=first_granted,
        first_second_share=_part(first_granted, granted),
        order=_order(edges),
        latency=_latency(counts),
        latency_granted=_latency(each for each in counts if each.code in GRANTED),
        spans=spans[:SPANS_MAX],
        spans_left_out=max(0, len(spans) - SPANS_MAX),
    )


def _spans(counts: Sequence[Counted]) -> list[Span]:
    spans: dict[tuple[datetime, int], list[Counted]] = {}
    for each in counts:
        spans.setdefault((each.at, each.span_s), []).append(each)
    return [
        Span(
            at=at,
            span_s=span_s,
            calls=_calls(within),
            granted=_calls(within, GRANTED),
            refused=_refused(within),
            chance=_part(_calls(within, GRANTED), _calls(within)),
            latency=_latency(within),
        )
        for (at, span_s), within in spans.items()
    ]


def _order(edges: Edges | None) -> Order:
    if edges is None:
        return Order(None, None, 0.0)
    _, granted, sold_out = edges
    late_s = 0.0
    if granted is not None and sold_out is not None:
        late_s = max(0.0, (granted - sold_out).total_seconds())
    return Order(granted, sold_out, round(late_s * 1_000, 3))


def _calls(counts: Iterable[Counted], codes: frozenset[str] | None = None) -> int:
    return sum(each.calls for each in counts if codes is None or each.code in codes)


def _refused(counts: Iterable[Counted]) -> dict[str, int]:
    """Return the refusals by their code, the most frequent first."""
    by_code: Counter[str] = Counter()
    for each in counts:
        if each.code not in GRANTED:
            by_code[each.code] += each.calls
    return dict(sorted(by_code.items(), key=lambda item: (-item[1], item[0])))


def _part(some: int, of: int) -> float:
    return round(some / of, 6) if of else 0.0


def _latency(counts: Iterable[Counted]) -> Latency:
    classes = [0] * (len(LATENCY_MS) + 1)
    for each in counts:
        for i, calls in enumerate(each.latency):
            classes[i] += calls
    return Latency(*(_bound(classes, share) for share in (0.50, 0.90, 0.99)))


def _bound(classes: Sequence[int], share: float) -> int | None:
    """Return the bound below which at least this share of the calls was answered."""
    wanted, seen = share * sum(classes), 0
    for bound, calls in zip(LATENCY_MS, classes, strict=False):
        seen += calls
        if seen >= wanted:
            return bound
    return None
