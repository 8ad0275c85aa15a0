"""Restated statements: the first figures stay, and every difference is an event.

Goal: what a day is restated to follows from the ledger, and all days together are the account.
Method: Hypothesis makes days of redemptions, payments and what was given back of them; the first
statement must be what the events by then said, the difference the events since, and the sum over
all days the merchant's balance by the postings.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from campaigns.accounting import postings_of
from campaigns.corrections.correction import CorrectionApproved
from campaigns.coupon import CouponRedeemed, CouponRefunded
from campaigns.packets.packet import PacketPaid, PacketRefunded
from campaigns.replaying.restating import Total, day_of, lines_of, restated
from ledger.events import Actor, Why
from ledger.history import Positioned
from ledger.postings import TrialBalance

NAMESPACE = UUID(int=9)
SHANGHAI = ZoneInfo("Asia/Shanghai")
BEGINS = datetime(2026, 4, 30, 16, tzinfo=UTC)  # midnight in Shanghai
MAY = [date(2026, 5, day) for day in range(1, 12)]


def event(kind: Any, stream: UUID, version: int, hours: int, /, **fields: Any) -> Any:
    """An event of the café's, so many hours into May."""
    return kind(
        originator_id=stream,
        originator_version=version,
        at=BEGINS + timedelta(hours=hours),
        by=Actor("merchant", fields["merchant"]),
        why=Why("r"),
        campaign=NAMESPACE,
        person="p",
        **({} if kind is CorrectionApproved else {"currency": "CNY"}),
        **fields,
    )


def redeemed(stream: UUID, version: int, hours: int, merchant: str = "cafe") -> Any:
    """A coupon of 5 yuan, used."""
    own = {"shop": None, "order": f"o{version}", "order_total_minor": 900, "discount_minor": 500}
    return event(CouponRedeemed, stream, version, hours, merchant=merchant, **own)


def refunded(stream: UUID, version: int, hours: int, merchant: str = "cafe") -> Any:
    """That redemption, taken back."""
    own = {"order": f"o{version - 1}", "amount_minor": 500, "reason": "cold"}
    return event(CouponRefunded, stream, version, hours, merchant=merchant, **own)


def numbered(events: list[Any]) -> list[Positioned]:
    """Events in order of time, at positions 1, 2, 3, …."""
    ordered = sorted(events, key=lambda one: one.at)
    return [Positioned(position, one) for position, one in enumerate(ordered, 1)]


def test_what_comes_back_later_corrects_the_day_of_the_order() -> None:
    """An order of 1 May is returned on 3 May: the first statement stays, the restated is less."""
    one, two = (uuid5(NAMESPACE, str(n)) for n in (1, 2))
    events = numbered(
        [redeemed(one, 2, 10), redeemed(two, 2, 23), refunded(one, 3, 60), redeemed(one, 4, 70)]
    )
    found = restated(lines_of("cafe", events), day_of(date(2026, 5, 1), SHANGHAI), 2)
    assert found.first == [Total("CNY", 1_000, 0)]
    assert found.restated == [Total("CNY", 1_000, 500)]
    [change] = found.changes
    assert (change.position, change.event, change.amount_minor) == (3, "coupon.refunded", -500)
    assert change.effective_at == BEGINS + timedelta(hours=10)
    assert change.recorded_at == BEGINS + timedelta(hours=60)
    third = restated(lines_of("cafe", events), day_of(date(2026, 5, 3), SHANGHAI), 4)
    assert third.restated == [Total("CNY", 500, 0)]


def test_a_day_is_as_long_as_its_zone_says() -> None:
    """Clocks that are changed make a day of 23 hours."""
    window = day_of(date(2026, 3, 29), ZoneInfo("Europe/Berlin"))
    start, end = (one.astimezone(UTC) for one in window)
    assert end - start == timedelta(hours=23)


Life = tuple[str, str, list[int], list[tuple[int, int]]]
LIVES = st.lists(
    st.tuples(
        st.sampled_from(["coupon", "packet"]),
        st.sampled_from(["cafe", "bar"]),
        st.lists(st.integers(0, 60), min_size=1, max_size=4),
        st.lists(st.tuples(st.integers(0, 250), st.integers(0, 240)), max_size=3),
    ),
    max_size=6,
)


def corrected(stream: UUID, version: int, hours: int, to_hours: int, **own: Any) -> Any:
    """What counts for another hour of May from now on."""
    effective_at = BEGINS + timedelta(hours=to_hours)
    own |= {"recorded_at": BEGINS, "counted_for": BEGINS, "effective_at": effective_at}
    own |= {
        "holding": stream,
        "holding_version": 2,
        "reason": "late",
        "proposed_by": "a",
        "order": "o",
    }
    made: Any = event(CorrectionApproved, uuid5(stream, "c"), version, hours, **own)
    return made


def events_of(lives: list[Life]) -> list[Positioned]:
    """Coupons used and taken back by turns; packets paid from, then given back in parts.

    Some of them are corrected in between, to whatever hour.
    """
    events: list[Any] = []
    for number, (kind, merchant, steps, corrections) in enumerate(lives):
        stream, hours = uuid5(NAMESPACE, str(number)), 0
        for nth, (when, to) in enumerate(corrections):
            own: dict[str, Any] = {"merchant": merchant}
            own |= {} if kind == "coupon" else {"payment": stream}
            events.append(corrected(stream, nth + 1, when, to, **own))
        for nth, later in enumerate(steps):
            hours += later
            if kind == "coupon":
                make = refunded if nth % 2 else redeemed
                events.append(make(stream, nth + 2, hours, merchant))
                continue
            own = {"merchant": merchant, "order": "o", "payment": stream}
            if nth == 0:
                own |= {"shop": None, "amount_minor": 700, "own_minor": 0, "total_minor": 700}
                events.append(event(PacketPaid, stream, 2, hours, **own))
            else:
                own |= {"refund": stream, "to_packet_minor": 100, "to_own_minor": 0}
                own |= {"reclaimed_minor": 50, "to": "sponsor", "sponsor": "s", "reason": "r"}
                events.append(event(PacketRefunded, stream, nth + 2, hours, **own))
    return numbered(events)


@given(lives=LIVES, known=st.integers(0, 36))
def test_all_days_together_are_the_account(lives: list[Life], known: int) -> None:
    """Restated = first + what was recorded since, and the days sum to the postings."""
    events = events_of(lives)
    trial = TrialBalance()
    for _, one in events:
        trial.post(postings_of(one))
    net = 0
    for day in MAY:
        window = day_of(day, SHANGHAI)
        found = restated(lines_of("cafe", events), window, known)
        sums = [sum(one.net_minor for one in totals) for totals in found[:2]]
        assert sums[1] - sums[0] == sum(line.amount_minor for line in found.changes)
        by_then = restated(lines_of("cafe", events[:known]), window, known)
        assert (by_then.restated, by_then.changes) == (found.first, [])
        net += sums[1]
    assert net == trial.balance("merchant:cafe", "CNY")
