"""Restated statements: a merchant's day as it was known then, and as it is known now.

Each line has two times. It counts for the instant at which the merchant took the coupon or payment
(effective); it was known from the instant at which the ledger recorded it. What is given back later
corrects the day of the order and not the day of the return, and two operators can say that a till
reported late. Nothing is ever rewritten: the first
statement stays what it was, and every difference is an event. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Literal, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from campaigns.corrections.correction import CorrectionApproved
from campaigns.coupon import CouponRedeemed, CouponRefunded
from campaigns.packets.packet import PacketPaid, PacketRefunded
from ledger.history import Positioned

Side = Literal["taken", "given_back"]


class Line(msgspec.Struct, frozen=True):
    """What an event changed of a day: what was taken is positive, what was given back negative.

    A correction takes both from one instant, with the opposite sign, and brings them to another.
    """

    position: int
    recorded_at: datetime
    effective_at: datetime
    event: str
    order: str
    amount_minor: int
    currency: str
    side: Side


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


@dataclass(slots=True)
class _Taking:
    """A redemption or payment: the instant it counts for, and what was taken and given back."""

    effective_at: datetime
    currency: str
    taken_minor: int
    given_back_minor: int = 0


def lines_of(merchant: str, events: Iterable[Positioned]) -> Iterator[Line]:
    """Yield a merchant's lines from a book's events in order, from its first one on."""
    takings: dict[UUID, _Taking] = {}
    for position, event in events:
        match event:
            case CouponRedeemed(merchant=name) if name == merchant:
                of, minor = event.originator_id, event.discount_minor
                takings[of] = _Taking(event.at, event.currency, minor)
            case PacketPaid(merchant=name) if name == merchant:
                of, minor = event.payment, event.amount_minor
                takings[of] = _Taking(event.at, event.currency, minor)
            case CouponRefunded(merchant=name) if name == merchant:
                of, minor = event.originator_id, -event.amount_minor
            case PacketRefunded(merchant=name) if name == merchant:
                of, minor = event.payment, -(event.to_packet_minor + event.reclaimed_minor)
            case CorrectionApproved(merchant=name) if name == merchant:
                of = event.payment if isinstance(event.payment, UUID) else event.holding
                if of in takings:
                    yield from _moved(position, event, takings[of])
                continue
            case _:
                continue
        taking = takings.get(of)
        if taking is not None and minor < 0:
            taking.given_back_minor -= minor
        yield Line(
            position,
            event.at,
            event.at if taking is None else taking.effective_at,
            event.TOPIC,
            event.order,
            minor,
            event.currency,
            "taken" if minor > 0 else "given_back",
        )


def _moved(position: int, event: CorrectionApproved, taking: _Taking) -> Iterator[Line]:
    """Take what a redemption or payment came to from one instant to another."""
    sides: tuple[tuple[Side, int], ...] = (
        ("taken", taking.taken_minor),
        ("given_back", -taking.given_back_minor),
    )
    for sign, instant in ((-1, taking.effective_at), (1, event.effective_at)):
        for side, minor in sides:
            if minor:
                yield Line(
                    position,
                    event.at,
                    instant,
                    event.TOPIC,
                    event.order,
                    sign * minor,
                    taking.currency,
                    side,
                )
    taking.effective_at = event.effective_at


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
        sums = {"taken": 0, "given_back": 0}
        for line in lines:
            if line.currency == currency:
                sums[line.side] += line.amount_minor
        totals.append(Total(currency, sums["taken"], -sums["given_back"]))
    return totals
