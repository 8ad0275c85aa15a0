"""Reconciliation: two sets of figures of the same year, compared row by row, to the cent.

Pure: what the ledger says and what the tables say come in as `Books`, and every row comes out,
with both numbers. Nothing is rounded, nothing is tolerated, and a figure that one side lacks is a
difference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Unit = Literal["count", "cents"]

TOTAL: Final = "all"


@dataclass(frozen=True)
class MailingFigures:
    """How a mailing ended. `returned` went back to the sponsor: expired or never claimed."""

    issued: int
    redeemed: int
    expired: int
    held: int
    funded_cents: int
    redeemed_cents: int
    returned_cents: int
    held_cents: int
    refused: dict[str, int] = field(default_factory=dict)
    """Redemptions that were refused, by the code of the reason."""


@dataclass(frozen=True)
class StoreFigures:
    """What a store redeemed, and so has to get."""

    redeemed: int
    redeemed_cents: int


@dataclass(frozen=True)
class Books:
    """The figures of a year by mailing and by store."""

    mailings: dict[int, MailingFigures]
    stores: dict[int, StoreFigures]


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


_MEASURES: Final[tuple[tuple[str, Unit], ...]] = (
    ("issued", "count"),
    ("redeemed", "count"),
    ("expired", "count"),
    ("held", "count"),
    ("funded_cents", "cents"),
    ("redeemed_cents", "cents"),
    ("returned_cents", "cents"),
    ("held_cents", "cents"),
)


def reconcile(tables: Books, ledger: Books) -> list[Row]:
    """Return every row: mailings, then stores, then totals over both."""
    rows = [
        *_mailing_rows(tables.mailings, ledger.mailings),
        *_store_rows(tables.stores, ledger.stores),
    ]
    return [*rows, *_totals(rows), *_conservation(tables, ledger)]


def differences(rows: Iterable[Row]) -> list[Row]:
    """The rows on which the two sides disagree."""
    return [row for row in rows if not row.matches]


def _mailing_rows(
    tables: dict[int, MailingFigures], ledger: dict[int, MailingFigures]
) -> Iterator[Row]:
    for mailing in sorted(tables.keys() | ledger.keys()):
        ours, theirs = tables.get(mailing), ledger.get(mailing)
        subject = f"mailing {mailing}"
        for name, unit in _MEASURES:
            yield Row(subject, _label(name), unit, _figure(ours, name), _figure(theirs, name))
        for reason in sorted(_reasons(ours) | _reasons(theirs)):
            yield Row(
                subject,
                f"refused: {reason}",
                "count",
                None if ours is None else ours.refused.get(reason, 0),
                None if theirs is None else theirs.refused.get(reason, 0),
            )


def _store_rows(tables: dict[int, StoreFigures], ledger: dict[int, StoreFigures]) -> Iterator[Row]:
    for store in sorted(tables.keys() | ledger.keys()):
        ours, theirs = tables.get(store), ledger.get(store)
        for name, unit in (("redeemed", "count"), ("redeemed_cents", "cents")):
            yield Row(
                f"store {store}",
                _label(name),
                "cents" if unit == "cents" else "count",
                _figure(ours, name),
                _figure(theirs, name),
            )


def _totals(rows: list[Row]) -> Iterator[Row]:
    """Sums over the mailings, and over the stores, of what each side said."""
    for subject in ("mailing", "store"):
        own = [row for row in rows if row.subject.startswith(f"{subject} ")]
        for measure, unit in dict.fromkeys((row.measure, row.unit) for row in own):
            same = [row for row in own if row.measure == measure]
            yield Row(
                f"{TOTAL} {subject}s",
                measure,
                unit,
                sum(row.tables or 0 for row in same),
                sum(row.ledger or 0 for row in same),
            )


def _conservation(tables: Books, ledger: Books) -> Iterator[Row]:
    """Every cent funded is with a store, with a holder or back: on each side by itself."""
    for name, books in (("tables", tables), ("ledger", ledger)):
        funded = sum(one.funded_cents for one in books.mailings.values())
        found = sum(one.returned_cents + one.held_cents for one in books.mailings.values()) + sum(
            one.redeemed_cents for one in books.stores.values()
        )
        yield Row(f"{TOTAL} money", f"funded = found ({name})", "cents", funded, found)


def _figure(figures: object | None, name: str) -> int | None:
    return None if figures is None else int(getattr(figures, name))


def _reasons(figures: MailingFigures | None) -> set[str]:
    return set() if figures is None else set(figures.refused)


def _label(name: str) -> str:
    return name.removesuffix("_cents") + (" money" if name.endswith("_cents") else "")
