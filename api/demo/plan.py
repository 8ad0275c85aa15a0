"""The plan: every request of the year, in the order of time.

A plan is a list of moments. The requests of one moment share an instant and may be sent at once;
moments are played one after the other, so that time never runs backwards in the book. Nothing here
is random and nothing looks at a clock: the same tables give the same plan, byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time, timedelta
from itertools import chain, groupby
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from api.demo.year import as_date, end_of, instant

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pandas as pd

    from api.demo.year import Year

Kind = Literal["draft", "propose", "approve", "open", "claim", "redeem", "close"]

CURRENCY: Final = "USD"
OFFICE_HOURS: Final[tuple[tuple[Kind, time], ...]] = (
    ("draft", time(9)),
    ("propose", time(10)),
    ("approve", time(11)),
    ("open", time(12)),
)
"""When the operators prepare a mailing's campaigns, on the day before it starts."""


class Offer(NamedTuple):
    """A coupon of a mailing: what becomes a campaign of Tidebook."""

    mailing: int
    upc: int
    kind: str
    face_cents: int
    quota: int
    opens: datetime
    ends: datetime

    @property
    def name(self) -> str:
        """The campaign's name."""
        return f"Mailing {self.mailing} ({self.kind}), coupon {self.upc}"

    @property
    def sponsor(self) -> str:
        """The account that funds the mailing's campaigns."""
        return f"mailing-{self.mailing}"

    @property
    def budget_cents(self) -> int:
        """Enough for every coupon of the quota."""
        return self.quota * self.face_cents


class Order(NamedTuple):
    """What a coupon was redeemed for."""

    redemption: int
    store: int
    basket: int
    total_cents: int


class Step(NamedTuple):
    """One request. `household` is set for claims and redemptions, `order` for redemptions."""

    kind: Kind
    offer: Offer
    household: int | None = None
    order: Order | None = None

    @property
    def key(self) -> str:
        """The idempotency key: made of the data alone, so that a second run repeats it."""
        parts: list[object] = [self.kind, self.offer.mailing, self.offer.upc]
        if self.household is not None:
            parts.append(self.household)
        if self.order is not None:
            parts.append(self.order.redemption)
        return ":".join(str(part) for part in parts)


@dataclass(frozen=True)
class Moment:
    """Requests of one kind that share an instant."""

    at: datetime
    kind: Kind
    steps: tuple[Step, ...]


_TURN: Final[dict[Kind, int]] = {
    "close": 0,
    "draft": 1,
    "propose": 2,
    "approve": 3,
    "open": 4,
    "claim": 5,
    "redeem": 6,
}
"""Who comes first at the same instant."""


def plan(
    year: Year, faces: pd.DataFrame, holdings: pd.DataFrame, orders: pd.DataFrame
) -> list[Moment]:
    """Return the moments of the year in the order of time."""
    offers = offers_of(year, faces, holdings)
    moments = chain(
        chain.from_iterable(
            _life(list(group))
            for _, group in groupby(offers.values(), key=lambda offer: offer.mailing)
        ),
        _claims(offers, holdings),
        _redemptions(offers, orders),
    )
    return sorted(moments, key=lambda moment: (moment.at, _TURN[moment.kind]))


def offers_of(
    year: Year, faces: pd.DataFrame, holdings: pd.DataFrame
) -> dict[tuple[int, int], Offer]:
    """The offers that anybody holds, by mailing and UPC, in that order."""
    held = holdings.groupby(["mailing", "upc"], as_index=False).agg(quota=("household", "count"))
    table = held.merge(faces, on=["mailing", "upc"]).merge(year.mailings, on="mailing")
    assert len(table) == len(held), "every held coupon has a face value and a mailing"
    return {
        (row.mailing, row.upc): Offer(
            mailing=int(row.mailing),
            upc=int(row.upc),
            kind=str(row.kind),
            face_cents=int(row.face_cents),
            quota=int(row.quota),
            opens=instant(as_date(row.first_day)),
            ends=end_of(as_date(row.last_day)),
        )
        for row in table.sort_values(["mailing", "upc"]).itertuples()
    }


def count_steps(moments: Iterable[Moment]) -> dict[Kind, int]:
    """How many requests of each kind a plan has."""
    counts: dict[Kind, int] = {}
    for moment in moments:
        counts[moment.kind] = counts.get(moment.kind, 0) + len(moment.steps)
    return counts


def _life(offers: list[Offer]) -> Iterator[Moment]:
    """A mailing's campaigns are prepared on the day before and closed at its end."""
    first = offers[0]
    day_before = (first.opens - timedelta(hours=12)).date()
    for kind, hour in OFFICE_HOURS:
        yield Moment(instant(day_before, hour), kind, tuple(Step(kind, one) for one in offers))
    yield Moment(first.ends, "close", tuple(Step("close", one) for one in offers))


def _claims(offers: dict[tuple[int, int], Offer], holdings: pd.DataFrame) -> Iterator[Moment]:
    """Every coupon of a mailing is claimed at its first instant: the source knows no other."""
    for _, rows in holdings.groupby("mailing"):
        steps = tuple(
            Step("claim", offers[row.mailing, row.upc], int(row.household))
            for row in rows.itertuples()
        )
        yield Moment(steps[0].offer.opens, "claim", steps)


def _redemptions(offers: dict[tuple[int, int], Offer], orders: pd.DataFrame) -> Iterator[Moment]:
    """What is redeemed at the same second is redeemed at once, whatever the basket."""
    for at, rows in orders.groupby("at"):
        steps = tuple(
            Step(
                "redeem",
                offers[row.mailing, row.upc],
                int(row.household),
                Order(int(row.redemption), int(row.store), int(row.basket), int(row.total_cents)),
            )
            for row in rows.itertuples()
        )
        yield Moment(at.to_pydatetime(), "redeem", steps)
