"""Reconciliation: two sets of figures of the same year, compared row by row, to the cent.

Pure: what the ledger says and what the tables say come in as `Books`, and every row comes out,
with both numbers. Nothing is rounded, nothing is tolerated, and a figure that one side lacks is a
difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

Unit = Literal["count", "cents"]


@dataclass(frozen=True)
class Figures:
    """How a coupon of a mailing, or all of them, ended."""

    issued: int = 0
    redeemed: int = 0
    expired: int = 0
    held: int = 0
    funded_cents: int = 0
    redeemed_cents: int = 0
    returned_cents: int = 0
    """Back with the sponsor: expired or never claimed."""

    left_cents: int = 0
    """Still in the pot or with holders."""

    refused: Mapping[str, int] = field(default_factory=dict)
    """Redemptions that were refused, by the code of the reason."""


@dataclass(frozen=True)
class StoreFigures:
    """What a store redeemed, and so has to get."""

    redeemed: int
    redeemed_cents: int


OfferId = tuple[int, int]
"""Mailing and UPC."""


@dataclass(frozen=True)
class Books:
    """The figures of a year by coupon of a mailing, and by store."""

    offers: Mapping[OfferId, Figures]
    stores: Mapping[int, StoreFigures]


class Row(NamedTuple):
    """One figure as the tables and as the ledger have it. None: that side has no such figure."""

    subject: str
    measure: str
    unit: Unit
    tables: int | None
    ledger: int | None

    @property
    def matches(self) -> bool:
        """Whether both sides say exactly the same."""
        return self.tables is not None and self.tables == self.ledger


_MEASURES: Final[tuple[tuple[str, str, Unit], ...]] = (
    ("issued", "issued", "count"),
    ("redeemed", "redeemed", "count"),
    ("expired", "expired", "count"),
    ("held", "held", "count"),
    ("funded_cents", "money funded", "cents"),
    ("redeemed_cents", "money redeemed", "cents"),
    ("returned_cents", "money returned", "cents"),
    ("left_cents", "money left", "cents"),
)
_STORE_MEASURES: Final = (_MEASURES[1], _MEASURES[5])


def reconcile(tables: Books, ledger: Books) -> list[Row]:
    """Return every row: coupons, stores, mailings, totals, and where all the money is."""
    offers = list(_offer_rows(tables.offers, ledger.offers))
    stores = list(_store_rows(tables.stores, ledger.stores))
    return [
        *offers,
        *stores,
        *_sums(offers, lambda row: row.subject.partition(",")[0]),
        *_sums(offers, lambda _: "all mailings"),
        *_sums(stores, lambda _: "all stores"),
        *_conservation(tables, ledger),
    ]


def differences(rows: Iterable[Row]) -> list[Row]:
    """The rows on which the two sides disagree."""
    return [row for row in rows if not row.matches]


def offer_subject(offer: OfferId) -> str:
    """How the rows of an offer are called."""
    return f"mailing {offer[0]}, coupon {offer[1]}"


def _offer_rows(
    tables: Mapping[OfferId, Figures], ledger: Mapping[OfferId, Figures]
) -> Iterator[Row]:
    for offer in sorted(tables.keys() | ledger.keys()):
        ours, theirs = tables.get(offer), ledger.get(offer)
        subject = offer_subject(offer)
        yield from _rows(subject, _MEASURES, ours, theirs)
        for reason in sorted(_reasons(ours) | _reasons(theirs)):
            yield Row(
                subject,
                f"refused: {reason}",
                "count",
                None if ours is None else ours.refused.get(reason, 0),
                None if theirs is None else theirs.refused.get(reason, 0),
            )


def _store_rows(
    tables: Mapping[int, StoreFigures], ledger: Mapping[int, StoreFigures]
) -> Iterator[Row]:
    for store in sorted(tables.keys() | ledger.keys()):
        yield from _rows(f"store {store}", _STORE_MEASURES, tables.get(store), ledger.get(store))


def _rows(
    subject: str,
    measures: Iterable[tuple[str, str, Unit]],
    ours: Figures | StoreFigures | None,
    theirs: Figures | StoreFigures | None,
) -> Iterator[Row]:
    for name, measure, unit in measures:
        yield Row(subject, measure, unit, _figure(ours, name), _figure(theirs, name))


def _sums(rows: Iterable[Row], subject_of: Callable[[Row], str]) -> Iterator[Row]:
    """What the rows of each subject add up to; a figure that is missing adds nothing."""
    sums: dict[tuple[str, str, Unit], tuple[int, int]] = {}
    for row in rows:
        key = (subject_of(row), row.measure, row.unit)
        ours, theirs = sums.get(key, (0, 0))
        sums[key] = (ours + (row.tables or 0), theirs + (row.ledger or 0))
    for (subject, measure, unit), (ours, theirs) in sums.items():
        yield Row(subject, measure, unit, ours, theirs)


def _conservation(tables: Books, ledger: Books) -> Iterator[Row]:
    """Every cent funded is with a store, left or returned: on each side by itself."""
    for side, books in (("tables", tables), ("ledger", ledger)):
        offers, stores = books.offers.values(), books.stores.values()
        yield Row(
            "all money",
            f"funded and found by the {side}",
            "cents",
            sum(one.funded_cents for one in offers),
            sum(one.returned_cents + one.left_cents for one in offers)
            + sum(one.redeemed_cents for one in stores),
        )


def _figure(figures: Figures | StoreFigures | None, name: str) -> int | None:
    return None if figures is None else int(getattr(figures, name))


def _reasons(figures: Figures | None) -> set[str]:
    return set() if figures is None else set(figures.refused)
