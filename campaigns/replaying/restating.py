"""Restated statements: a merchant's day as it was known then, and as it is known now.

Each line has two times. It counts for the instant at which the merchant took the coupon or payment
(effective); it was known from the instant at which the ledger recorded it. What is given back later
corrects the day of the order and not the day of the return. Nothing is ever rewritten: the first
statement stays what it was, and every difference is an event. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from campaigns.coupon import CouponRedeemed, CouponRefunded
from campaigns.packets.packet import PacketPaid, PacketRefunded
from ledger.history import Positioned


class Line(msgspec.Struct, frozen=True):
    """One event that moved money to or from a merchant; what is given back is negative."""

    position: int
    recorded_at: datetime
    effective_at: datetime
    event: str
    order: str
    amount_minor: int
    currency: str


class Total(msgspec.Struct, frozen=True):
    """What a day comes to, in one currency."""

    currency: str
    taken_minor: int
    given_back_minor: int

    @property
    def net_minor(self) -> int:
        """What the merchant is owed for the day."""
        return self.taken_minor - self.given_back_minor


class Statement(NamedTuple):
    """A day: as it was first stated, as it is restated, and the events between the two."""

    first: list[Total]
    restated: list[Total]
    changes: list[Line]


class Window(NamedTuple):
    """A half-open span of effective time."""

    start: datetime
    end: datetime

    def __contains__(self, instant: object) -> bool:
        return isinstance(instant, datetime) and self.start <= instant < self.end


def day_of(day: date, zone: ZoneInfo) -> Window:
    """Return a calendar day of a zone; where clocks are changed it is not 24 hours long."""
    start = datetime.combine(day, time(), zone)
    return Window(start, datetime.combine(day + timedelta(days=1), time(), zone))


def lines_of(merchant: str, events: Iterable[Positioned]) -> Iterator[Line]:
    """Yield a merchant's lines from a book's events in order, from its first one on."""
    taken: dict[UUID, datetime] = {}
    for position, event in events:
        match event:
            case CouponRedeemed(merchant=name) if name == merchant:
                of, minor = event.originator_id, event.discount_minor
                taken[of] = event.at
            case PacketPaid(merchant=name) if name == merchant:
                of, minor = event.payment, event.amount_minor
                taken[of] = event.at
            case CouponRefunded(merchant=name) if name == merchant:
                of, minor = event.originator_id, -event.amount_minor
            case PacketRefunded(merchant=name) if name == merchant:
                of, minor = event.payment, -(event.to_packet_minor + event.reclaimed_minor)
            case _:
                continue
        effective = taken.get(of, event.at)
        yield Line(position, event.at, effective, event.TOPIC, event.order, minor, event.currency)


def restated(lines: Iterable[Line], window: Window, known_at: int) -> Statement:
    """Return a day's statement as it was known at a position, and as all lines tell it."""
    first: list[Line] = []
    changes: list[Line] = []
    for line in lines:
        if line.effective_at in window:
            (first if line.position <= known_at else changes).append(line)
    return Statement(_totals(first), _totals(first + changes), changes)


def _totals(lines: list[Line]) -> list[Total]:
    totals = []
    for currency in sorted({line.currency for line in lines}):
        amounts = [line.amount_minor for line in lines if line.currency == currency]
        taken = sum(minor for minor in amounts if minor > 0)
        totals.append(Total(currency, taken, taken - sum(amounts)))
    return totals
